"""`vdvae-patch report PATH`: one page of what runs, comparisons, reproductions and guards wrote."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vdvae_patch.cli.arguments import check_flags, flags_of, parse
from vdvae_patch.errors import visible

ABOUT = "one page to look at: a run, a comparison, a reproduction, a guard's folder"


@dataclass(frozen=True)
class ReportCommand:
    """What to show.

    Attributes:
        path: a run, a comparison, a reproduction, a guard's folder, or a folder of them.
        out: the page; report.html in that folder unless given.
        open: open the page in the browser.
        watch: write it again whenever something changes, until interrupted; the page then loads itself again.
    """

    path: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    open: bool = False
    watch: bool = False


def run(argv: list[str]) -> int:
    """Make one page, an HTML file that needs no network, of what lies in a folder."""
    check_flags(argv, flags_of(ReportCommand))
    command = parse(ReportCommand, argv, description=run.__doc__ or "", prog="vdvae-patch report")

    from vdvae_patch.report.write import watch, write

    shown: list[Path] = []

    def told(page: Path) -> None:
        print(visible(f"report: {page}") + f" ({page.stat().st_size / 1e6:.1f} MB)", flush=True)
        if command.open and not shown:
            webbrowser.open(page.absolute().as_uri())
        shown.append(page)

    if not command.watch:
        told(write(command.path, command.out))
        return 0
    try:
        watch(command.path, command.out, told=told)
    except KeyboardInterrupt:
        print(visible(f"no longer watched; the page is {shown[-1]}") if shown else "no longer watched")
    return 0
