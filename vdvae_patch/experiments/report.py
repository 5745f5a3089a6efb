"""What an experiment found, as Markdown, CSV, JSON and a figure (PNG and SVG), with where each number comes from."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.whole import json_text, replaced, write_whole
from vdvae_patch.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import device as Device

PUBLISHED = Path("docs/results")
"""Where `--publish` puts reports, below the folder that the command is run in."""

Cell = str | int | float | None
_PATHS = ("--data-root", "--out", "--upstream")


@dataclass(frozen=True)
class Table:
    """A table of a report; `name` is its file's, after the report's own.

    A `None` cell is a number that there is not: not published, or not finite.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table {self.name}: a row of {len(row)} cells under {len(self.header)} columns")


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from. `seconds` is the time that all pieces of the computation took."""

    command: str
    commit: str
    machine: str
    torch: str
    seeds: tuple[int, ...]
    seconds: float

    @classmethod
    def here(
        cls,
        device: Device,
        seeds: Sequence[int],
        seconds: float,
        commits: Iterable[str] = (),
        places: Iterable[Sequence[str]] = (),
    ) -> Origin:
        """Of the running command, its paths left out.

        Args:
            commits: those that the numbers were computed at; this one unless there are some.
            places: where they were computed, each a machine with its threads, and torch's version, see `computed_on`;
                here unless there are some.
        """
        from vdvae_patch.experiments.session import computed_on
        from vdvae_patch.train.provenance import code_commit, command

        # a part that was trained in pieces may have several
        commit = ", ".join(sorted({one for text in commits for one in text.split(", ")})) or code_commit()
        where = list(places) or [computed_on(device)]
        machines, torches = (sorted({one[index] for one in where}) for index in (0, 1))
        return cls(
            without_paths(command()), commit, " and ".join(machines), ", ".join(torches), tuple(seeds),
            round(seconds, 1),
        )  # fmt: skip

    @classmethod
    def of(cls, device: Device, seeds: Sequence[int], results: Sequence[Mapping[str, Any]]) -> Origin:
        """Of finished ensembles: the sum of their seconds, and every commit and place that computed one of them."""
        from vdvae_patch.experiments.session import computed_on

        seconds = sum(result["seconds"] for result in results)
        # those of earlier versions do not say where; that it was here is all that can be said of them
        places = [one for result in results for one in result.get("places", [computed_on(device)])]
        return cls.here(device, seeds, seconds, (result["commit"] for result in results), places)

    def lines(self) -> list[str]:
        """As a Markdown list."""
        seeds = "none" if not self.seeds else ", ".join(map(str, self.seeds))
        minutes = f"{self.seconds:.1f} s" if self.seconds < 120 else f"{self.seconds / 60:.1f} min"
        return [
            f"- command: `{self.command}`",
            f"- commit: {self.commit}",
            f"- machine: {self.machine}; torch {self.torch}",
            f"- seeds: {seeds}",
            f"- duration: {minutes}",
        ]


@dataclass(frozen=True)
class Report:
    """One experiment.

    Attributes:
        name: the files' name.
        introduction: what was done, in a paragraph or two of Markdown.
        notes: what the numbers say, and what was tried where they are not the paper's; a paragraph each.
    """

    name: str
    title: str
    introduction: str
    tables: tuple[Table, ...]
    origin: Origin
    notes: tuple[str, ...] = field(default=())

    def markdown(self, *, figure: bool, of_tables: Collection[str] = ()) -> str:
        """The whole report; with a figure, a link to its PNG, and below the captions of tables one to theirs."""
        parts = [f"# {self.title}", self.introduction]
        if figure:
            parts.append(f"![{self.title}]({self.name}.png)")
        for table in self.tables:
            parts.append(f"## {table.caption}")
            if table.name in of_tables:
                parts.append(f"![{table.caption}]({self.name}-{table.name}.png)")
            parts.append(_markdown_table(table))
        if self.notes:
            parts += ["## Notes", *self.notes]
        return "\n\n".join([*parts, "## Where this comes from", "\n".join(self.origin.lines())]) + "\n"

    def write(
        self, folder: Path, figure: Figure | None = None, of_tables: Mapping[str, Figure] | None = None
    ) -> list[Path]:
        """Write `NAME.md`, `NAME.json`, `NAME-TABLE.csv` and, with a figure, `NAME.png` and `NAME.svg`.

        `of_tables` are figures by the name of the table that they belong to, `NAME-TABLE.png`, and no SVG: there may be
        many points in them.
        """
        more = of_tables or {}
        if unknown := more.keys() - {table.name for table in self.tables}:
            raise ValueError(f"figures of tables that there are not: {', '.join(sorted(unknown))}")
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{self.name}.md", folder / f"{self.name}.json"]
        write_whole(written[0], self.markdown(figure=figure is not None, of_tables=more))
        json.dumps(asdict(self), allow_nan=False)  # a number that there is not is None in a table
        write_whole(written[1], json_text(asdict(self), checksum=True))
        for table in self.tables:
            written.append(folder / f"{self.name}-{table.name}.csv")
            with replaced(written[-1]) as partial, partial.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])
        if figure is not None:
            written += _save_figure(figure, folder / self.name)
        for name, its in more.items():
            written += _save_figure(its, folder / f"{self.name}-{name}", (".png",))
        return written


def publish(
    report: Report,
    folder: Path,
    figure: Figure | None,
    *,
    to_docs: bool,
    of_tables: Mapping[str, Figure] | None = None,
    docs: Path = PUBLISHED,
) -> None:
    """Write the report to its folder, and to `docs` too if asked; show its main table and say where it lies.

    Raises:
        RunError: it was to be published, and a number in it was computed by code that no commit has.
    """
    print("\n".join([report.title, "", _markdown_table(report.tables[0]), "", *report.notes, ""]))
    report.write(folder, figure, of_tables)
    print(f"written to {folder / report.name}.md")
    if to_docs:
        if changed := [commit for commit in report.origin.commit.split(", ") if not _is_committed(commit)]:
            raise RunError(
                f"{report.name} is not published: it was computed by code with changes that are not committed, or of "
                f"which no commit is known ({', '.join(changed)}). Commit them, run from the checkout, and do these "
                f"runs again; {folder / report.name}.md has the report"
            )
        report.write(docs, figure, of_tables)
        print(f"published as {docs / report.name}.md")


def _is_committed(commit: str) -> bool:
    """Of what `code_commit` gives, whether the code can be had again."""
    return not commit.endswith("+") and commit not in ("installed", "unknown")


def without_paths(command: str) -> str:
    """The command with `PATH` for the folders it names, which mean something on one machine only."""
    words = shlex.split(command)
    for index, word in enumerate(words):
        option, equals, _ = word.partition("=")
        if option in _PATHS and equals:
            words[index] = f"{option}=PATH"
        elif index and words[index - 1] in _PATHS:
            words[index] = "PATH"
    return shlex.join(words)


def note_of_seeds(count: int) -> str:
    """What a report says whose tables are of all seeds and whose figures are of the first."""
    if count == 1:
        return "One seed: how much of a difference is the seed's is not known."
    return f"The figures are of seed 0; the tables are of all {count} seeds."


def number(value: float, digits: int = 3) -> str:
    """A number for a table: `digits` behind the point, or scientific where that would show nothing or too much."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def _markdown_table(table: Table) -> str:
    rows = [["" if cell is None else _shown(cell) for cell in row] for row in table.rows]
    return markdown(table.header, rows, numbers=False).rstrip("\n")


def _shown(cell: str | int | float) -> str:
    return number(cell) if isinstance(cell, float) else str(cell)


def _save_figure(figure: Figure, path: Path, suffixes: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """As PNG and SVG, without dates and random names: the same numbers give the same files."""
    import matplotlib

    undated: dict[str, dict[str, str | None]] = {".png": {"Software": None}, ".svg": {"Date": None}}
    written = [path.with_name(path.name + suffix) for suffix in suffixes]
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        for file in written:
            with replaced(file) as partial:
                figure.savefig(partial, dpi=150, bbox_inches="tight", metadata=undated[file.suffix])
    return written
