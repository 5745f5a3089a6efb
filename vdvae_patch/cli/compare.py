"""`vdvae-patch compare`: train variants over seeds, side by side, and report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vdvae_patch.cli.arguments import check_flags, chosen_entry, flags_of, parse, parse_train, train_flags
from vdvae_patch.compare.options import CompareOptions, separate
from vdvae_patch.errors import InvalidValueError, visible
from vdvae_patch.hosts.trainable import trainable

ABOUT = "train variants over seeds, side by side, and report"

if TYPE_CHECKING:
    from rich.console import Console

    from vdvae_patch.compare.run import Report
    from vdvae_patch.compare.schedule import Ended

DESCRIPTION = """Train variants over seeds, side by side, and report.

Same seed, same initial weights, same batches for all variants; whatever is finished is not done again. Every other
flag is one of `vdvae-patch train`, which lists them with --help, and is the same for all runs."""

# flags of train that a comparison sets itself, and what to use for them
_CHOSEN_HERE = {
    "--variant": "--variants",
    "--seed": "--seeds",
    "--resume": "the same command again",
    "--no-resume": "another --out",
    "--dry-run": "vdvae-patch train --dry-run",
}


def run(argv: list[str]) -> int:
    """0 if every run has ended; 1 if one failed or cannot be trusted; 75 if a signal asked to stop before the end."""
    return compare(argv)


def compare(argv: Sequence[str], prog: str = "vdvae-patch compare", description: str = DESCRIPTION) -> int:
    """Do and show the comparison that a command line asks for.

    Raises:
        UnknownNameError, InvalidValueError: a flag, variant, seed, preset or value that cannot be used.
        RunError: the folder holds another comparison, or nothing could be run.
    """
    own = flags_of(CompareOptions)
    mine, flags = separate(argv, [flag for flag in own if flag != "--help"])
    if "--help" in flags or "-h" in flags:
        chosen = parse(CompareOptions, mine, prog=prog)  # what the help calls the defaults: those of `demo` are its own
        parse(CompareOptions, ["--help"], prog=prog, description=description, default=chosen)
    _check(flags, own)
    options = parse(CompareOptions, mine, prog=prog, description=description)
    base = parse_train(flags)

    from rich.console import Console

    from vdvae_patch.compare.plan import plan
    from vdvae_patch.compare.run import do_runs, write_report
    from vdvae_patch.train.interrupts import EXIT_RESUME, stop_requests

    comparison = plan(options, flags, base)
    # in a file or a pipe, lines are as long as they need to be
    console = Console(width=None if sys.stdout.isatty() else 200)
    with stop_requests() as stop:
        ended = do_runs(comparison, console, stop, options.executor)
    if stop:
        console.print(f"stopped by {stop.signal}; the same command goes on")
        return EXIT_RESUME
    failed = [end for end in ended if end.how == "failed"]
    made = write_report(comparison)
    _show(console, made, failed)
    refused = any(run.outcome == "refused" for row in made.rows for run in row.runs)
    return 1 if failed or refused else 0


def _check(flags: Sequence[str], own: Sequence[str]) -> None:
    """Refuse what `train` would, and what a comparison decides for itself, before anything is imported or begun."""
    for argument in flags:
        flag = argument.split("=", 1)[0].replace("_", "-")
        if flag in _CHOSEN_HERE:
            raise InvalidValueError(f"{flag} is not for a whole comparison; use {_CHOSEN_HERE[flag]}")
    entry = trainable(chosen_entry(flags))
    check_flags(flags, [*own, *(flag for flag in train_flags(entry.architecture) if flag not in _CHOSEN_HERE)])


def _show(console: Console, report: Report, failed: Sequence[Ended]) -> None:
    from vdvae_patch.compare.table import convention, terminal_table

    console.print(terminal_table(report.rows))
    for line in (convention(report.rows), *(f"note: {note}" for note in report.notes)):
        console.print(visible(line), style="dim", highlight=False, markup=False)
    console.print()
    for sentence in report.sentences:
        console.print(visible(f"• {sentence}"), highlight=False, markup=False)
    console.print()
    for end in failed:
        text = f"{end.run.label} failed: {end.message}"
        console.print(visible(text), style="red", highlight=False, markup=False, soft_wrap=True)
    for name, path in (("curves", report.curves), ("images", report.gallery), ("report", report.report)):
        if path is not None:
            console.print(visible(f"{name}: {path}"), highlight=False, markup=False, soft_wrap=True)
    look = shlex.join(["python", "-m", "vdvae_patch", "report", str(report.report.parent), "--open"])
    console.print(visible(f"look at it: {look}"), highlight=False, markup=False, soft_wrap=True)
