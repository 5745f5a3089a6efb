"""The command line: `vdvae-patch COMMAND ...`, which is also `python -m vdvae_patch COMMAND ...`.

Each command is a module of this package with a line `ABOUT = "..."` and `run(argv) -> exit status`. The list of them is
read from the files; a module is imported when it is called: torch takes seconds to import, and `--help` has half of
one. Expected errors are one line; `--debug` shows the traceback.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import io
import select
import sys
from pathlib import Path

from vdvae_patch.errors import InvalidValueError, UnknownNameError, VdvaePatchError, visible

USAGE = """usage: vdvae-patch COMMAND [options]

Re-parameterize the Normal distributions of a VAE from outside, so that it stops giving NaN.

commands:
{commands}

options (anywhere):
  --debug        show the traceback of an error
  --version      show the version

`vdvae-patch COMMAND --help` lists a command's options.

first steps:
  vdvae-patch doctor                                       is this machine ready?
  vdvae-patch scan your_module:YourVAE --input 16x3x32x32  what is unsafe in a model of yours?
  vdvae-patch guard -- python your_train.py                keep a run of yours going, and learn what breaks it
  vdvae-patch demo                                         vanilla beside patched, in five minutes"""


# What the commands import and the library does not, as Python names it.
_IMPORTED = (
    "tyro",
    "rich",
    "tomli_w",
    "imageio",
    "PIL",
    "git",
    "mpi4py",
    "pooch",
    "filelock",
    "matplotlib",
    "safetensors",
)


@functools.cache
def commands() -> dict[str, str]:
    """What each command does, by its name."""
    about = {path.stem: _about(path) for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}
    return {name: text for name, text in about.items() if text}


def _about(path: Path) -> str:
    """The text of a module's `ABOUT`, without importing it; empty for what is no command."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["ABOUT"]:
            return str(ast.literal_eval(node.value))
    return ""


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its status: 0, 2 for an error that has a message, 75 for "resume me".

    Raises:
        KeyboardInterrupt: it was interrupted; Python then ends by SIGINT, which a shell shows as 130.
        BaseException: a guarded script's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments  # behind it stands somebody's script
    debug = "--debug" in own
    arguments = [a for a in own if a != "--debug"] + arguments[len(own) :]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal or a pipe that has no σ gets \\u03c3
    uncaught: BaseException | None = None
    status = 0
    try:
        status = dispatch(arguments)
    except ScriptError as ended:
        uncaught = ended.error
    except VdvaePatchError as error:
        if debug:
            raise
        print(f"vdvae-patch: error: {error}", file=sys.stderr)
        status = error.exit_code
    except ModuleNotFoundError as error:
        if debug or (error.name or "").partition(".")[0] not in _IMPORTED:
            raise
        print(
            f"vdvae-patch: error: this command needs {error.name}, which is not installed: pip install vdvae-patch "
            "installs all that the commands need; patch, scan, stabilize and guard work in Python with torch and numpy",
            file=sys.stderr,
        )
        status = 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("vdvae-patch: interrupted", file=sys.stderr)
        sys.excepthook = lambda *error: None  # that is all there is to say
        uncaught = KeyboardInterrupt()  # a process that ends by the signal ends a shell's loop around it, too
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        print(
            visible(
                f"vdvae-patch: error: not enough memory ({said or 'of this machine'}); a smaller batch or model needs "
                "less, --accumulate computes a batch in parts, and --debug shows where it ran out"
            ),
            file=sys.stderr,
        )
        status = 2
    except OSError as error:  # a disk that is full, a folder that may not be written
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)
        if debug:
            raise
        where = f" {error.filename}" if error.filename else " (--debug shows where)"
        print(visible(f"vdvae-patch: error: {error.strerror or error}{where}"), file=sys.stderr)
        status = 2
    if uncaught is not None:
        raise uncaught
    sys.exit(status)


class ScriptError(BaseException):
    """What a script of somebody else's raised, and Python shall show and end by as if it had run the script itself: an
    interrupted process ends by the signal, so that a loop around it ends, too."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _nobody_reads() -> bool:
    """Whether our own output is a pipe that was closed, as by `| head`; another pipe's end is an error like any."""
    for stream in (sys.stdout, sys.stderr):
        try:
            waiting = select.poll()
            waiting.register(stream.fileno(), select.POLLERR)
            if any(event & select.POLLERR for _, event in waiting.poll(0)):
                return True
        except (OSError, ValueError):
            continue
    return False


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it says that something did not fit: torch has a class of its own for a GPU, and none for a CPU."""
    words = ("allocate memory", "out of memory", "Storage size calculation overflowed", "Stride calculation overflowed")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _refuse_functions(name: str) -> None:
    """Say of what is called in Python, and not here, how it is called."""
    import vdvae_patch

    functions = [known for known in vdvae_patch.__all__ if known.islower() and known not in commands()]
    for known in difflib.get_close_matches(name, functions, n=1, cutoff=0.85):
        raise InvalidValueError(
            f"{known} is a function of Python, and no command: vdvae_patch.{known}(...) in your own code, with your "
            "model; here scan ... --patch VARIANT shows what a patch does, and guard -- python SCRIPT keeps a run going"
        )


def dispatch(arguments: list[str]) -> int:
    """Call the command's module; raises `UnknownNameError` for a command that does not exist."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, commands()))
        lines = (f"  {name.ljust(width)}  {about}" for name, about in commands().items())
        print(USAGE.format(commands="\n".join(lines)))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        import vdvae_patch

        print(f"vdvae-patch {vdvae_patch.__version__}")
        return 0
    if arguments[0] not in commands():
        _refuse_functions(arguments[0])
        raise UnknownNameError("command", arguments[0], commands())
    module = importlib.import_module(f"vdvae_patch.cli.{arguments[0]}")
    status: int = module.run(_at_home(arguments[1:]))
    return status


def _at_home(arguments: list[str]) -> list[str]:
    """With `~/` as the home folder, which a shell leaves alone in quotes and behind `--flag=`; not behind a `--`, where
    the command of somebody else begins."""
    own = arguments.index("--") if "--" in arguments else len(arguments)
    return [_expanded(word) for word in arguments[:own]] + arguments[own:]


def _expanded(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    is_home = value == "~" or value.startswith("~/")
    return f"{flag}{equals}{Path(value).expanduser()}" if is_home else word
