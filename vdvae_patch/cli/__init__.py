"""The command line: `vdvae-patch COMMAND ...`, which is also `python -m vdvae_patch COMMAND ...`.

Each command is a module of this package with `run(argv) -> exit status`, imported when it is called: torch takes
seconds to import, and `--help` has half of one. Expected errors are one line; `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import sys

from vdvae_patch.errors import UnknownNameError, VdvaePatchError

COMMANDS = {
    "scan": "find the Normal heads of any model, and what is unsafe in it",
    "train": "train a host as one variant",
    "compare": "train variants over seeds, side by side, and report",
    "demo": "the comparison in a few minutes, on built-in images",
    "replay": "do a skipped update again: which head, which operation",
    "launch": "the published runs as commands, and what they would cost",
    "reproduce": "the paper's tables and figures, and the stress test of remedies",
    "bench": "step time and memory, patched against vanilla",
    "upstream": "list, fetch and verify the genuine code bases",
}

USAGE = """usage: vdvae-patch COMMAND [options]

Re-parameterize the Normal distributions of a VAE from outside, so that it stops giving NaN.

commands:
{commands}

options (anywhere):
  --debug        show the traceback of an error
  --version      show the version

`vdvae-patch COMMAND --help` lists a command's options."""


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its status: 0, 2 for an error that has a message, 75 for "resume me"."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        status = dispatch(arguments)
    except VdvaePatchError as error:
        if debug:
            raise
        print(f"vdvae-patch: error: {error}", file=sys.stderr)
        status = error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("vdvae-patch: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        status = 141
    except OSError as error:  # a disk that is full, a folder that may not be written
        if debug:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"vdvae-patch: error: {error.strerror or error}{where}", file=sys.stderr)
        status = 2
    sys.exit(status)


def dispatch(arguments: list[str]) -> int:
    """Call the command's module; raises `UnknownNameError` for a command that does not exist."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {name.ljust(width)}  {about}" for name, about in COMMANDS.items())
        print(USAGE.format(commands="\n".join(lines)))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        import vdvae_patch

        print(f"vdvae-patch {vdvae_patch.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise UnknownNameError("command", arguments[0], COMMANDS)
    module = importlib.import_module(f"vdvae_patch.cli.{arguments[0]}")
    status: int = module.run(arguments[1:])
    return status
