"""`vdvae-patch guard -- python their_train.py ARGS`: a training script with a guard, without a line of code."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vdvae_patch.cli import ScriptError
from vdvae_patch.errors import InvalidValueError, VdvaePatchError

if TYPE_CHECKING:
    from vdvae_patch.guarding.everything import Everything

ABOUT = "run a training script of yours with a guard: bad updates are kept out and explained"


def run(argv: Sequence[str]) -> int:
    """Run the script in this process; its own exit status, and what it raises is shown as Python shows it."""
    options, command = _split(argv)
    script, arguments = _script(command)
    from vdvae_patch.guarding.everything import Everything

    everything = Everything(
        out=options.out, policy=options.policy, clip=options.clip, threshold=options.threshold, variant=options.variant
    )
    status, of_script = 0, None
    before = sys.argv, sys.path[:]
    try:
        sys.argv = [script, *arguments]
        with everything:
            if script == "-m":
                sys.argv = arguments
                sys.path.insert(0, os.getcwd())
                runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
            else:
                sys.path.insert(0, str(Path(script).resolve().parent))
                runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except VdvaePatchError:
        raise
    except BaseException as error:
        of_script = error.with_traceback(_of_script(error.__traceback__))
    finally:
        sys.argv, sys.path[:] = before
        _tell(everything)
    if of_script is not None:
        raise ScriptError(of_script)
    return status


def _of_script(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the script's first line on; all of it if no line of the script ran."""
    found = trace
    while found is not None and found.tb_frame.f_globals.get("__name__") != "__main__":
        found = found.tb_next
    return found or trace


def _tell(everything: Everything) -> None:
    print(f"\nvdvae_patch guard:\n{everything.report()}", file=sys.stderr)


def _split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="vdvae-patch guard",
        usage="vdvae-patch guard [options] -- python SCRIPT [arguments]",
        description="Run a training script with a guard: an update that is not finite is kept out, and explained.",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write skips.jsonl and recorded skips")
    parser.add_argument(
        "--policy", choices=["skip", "raise", "heal"], default="skip", help="after a skip (default skip)"
    )
    parser.add_argument("--clip", help='bring the gradient norm down to this; "auto" for near the usual one')
    parser.add_argument("--threshold", type=float, help="skip updates whose norm is not below it, too")
    parser.add_argument("--variant", help="patch the model with it when its first step has been seen")
    own = list(argv)
    command: list[str] = []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    options, rest = parser.parse_known_args(own)
    if rest and not command and not rest[0].startswith("-"):
        raise InvalidValueError(f"the script stands behind --: vdvae-patch guard [options] -- {' '.join(rest)}")
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.clip is not None and options.clip != "auto":
        try:
            options.clip = float(options.clip)
        except ValueError:
            raise InvalidValueError(f'--clip must be a number or "auto", not {options.clip!r}') from None
    return options, command


def _script(command: list[str]) -> tuple[str, list[str]]:
    """The script, or `-m` with a module, and its arguments; the interpreter in front is this one."""
    if command and Path(command[0]).name.startswith("python"):
        command = command[1:]
    if not command or (command[0] == "-m" and len(command) < 2):
        raise InvalidValueError("which script? vdvae-patch guard -- python train.py ARGUMENTS")
    if command[0] != "-m" and not Path(command[0]).exists():
        raise InvalidValueError(f"{command[0]} is not there; the command behind -- is: python SCRIPT ARGUMENTS")
    return command[0], command[1:]
