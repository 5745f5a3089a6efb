"""The page of a measurement: beside the goals, by contender, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdvae_patch import tables
from vdvae_patch.benchmark import PLAIN
from vdvae_patch.gpu_bench.bounds import Peaks, Work
from vdvae_patch.gpu_bench.cells import Arithmetic, Cell
from vdvae_patch.gpu_bench.results import Result, Results


@dataclass(frozen=True)
class Goal:
    """What is wanted of a step: images a second, or times those of the genuine loop, which is measured in TF32.

    PyTorch takes TF32 for convolutions unless it is told otherwise, so that is how VDVAE's own script runs.
    """

    arithmetic: Arithmetic
    batch: int
    times_plain: float | None = None
    images_per_second: float | None = None

    def __str__(self) -> str:
        wanted = (
            f"{self.times_plain:g} times the genuine loop"
            if self.times_plain is not None
            else f"{self.images_per_second:,.0f} images/s on one H200"
        )
        return f"{wanted}, {self.arithmetic}, batch {self.batch}"


GOALS = (
    Goal("tf32", 16, times_plain=4), Goal("bf16", 16, times_plain=7),
    Goal("tf32", 64, images_per_second=800), Goal("bf16", 64, images_per_second=1500),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A contender in a cell."""

    cell: Cell
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The contender's."""
        return str(self.values["contender"])

    @property
    def speed(self) -> float:
        """Images a second."""
        return float(self.values["images_per_second"])


def rows_of(results: Results, cells: Sequence[Cell]) -> list[Row]:
    """All contenders that were measured, in the order of the plan."""
    found = ((cell, results.read(cell)) for cell in cells if cell.kind == "steps")
    return [
        Row(cell, values)
        for cell, result in found
        if result is not None and result.state == "done"
        for values in result.values["rows"]
    ]


def page(title: str, results: Results, cells: Sequence[Cell], left: Sequence[Cell]) -> str:
    """Markdown."""
    rows = rows_of(results, cells)
    parts = [title, *_bounds_note(results, cells), _goals(rows), _steps(rows, results, cells)]
    parts += [_others(results, cells), *_not_measured(results, cells, left)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def line(cell: Cell, result: Result) -> str:
    """One cell, for a terminal."""
    if result.state == "failed":
        return f"{cell.name}: failed ({result.error})"
    values = result.values
    if cell.kind == "steps":
        speeds = ", ".join(f"{row['contender']} {row['images_per_second']:.4g}" for row in values["rows"])
        return f"{cell.name}: images/s: {speeds}"
    return f"{cell.name}: {'; '.join(_said(cell, values))}"


def _goals(rows: Sequence[Row]) -> str:
    header = ("goal", "contender", "reached", "how")
    lines = [found for goal in GOALS for found in _reached(goal, rows)]
    return "" if not lines else f"Beside the goals, each contender at its fastest:\n\n{tables.markdown(header, lines)}"


def _reached(goal: Goal, rows: Sequence[Row]) -> Iterator[tuple[str, str, str, str]]:
    here = [row for row in rows if row.cell.batch == goal.batch]
    plain = max((row.speed for row in here if row.name == PLAIN and row.cell.arithmetic == "tf32"), default=None)
    ours = [row for row in here if row.name != PLAIN and row.cell.arithmetic == goal.arithmetic]
    for name in dict.fromkeys(row.name for row in ours):
        best = max((row for row in ours if row.name == name), key=lambda row: row.speed)
        if goal.times_plain is None:
            yield str(goal), name, f"{best.speed:,.0f} images/s", best.cell.way
        elif plain is not None:
            yield str(goal), name, f"{best.speed / plain:.2f} times", best.cell.way


def _steps(rows: Sequence[Row], results: Results, cells: Sequence[Cell]) -> str:
    header = (
        "contender", "way", "arithmetic", "batch", "ms a step", "images/s", "time over the first", "operator calls",
        "launches", "kernels", "share of the bound by operations", "share of the bound by bytes", "peak MB a step",
        "first step, s",
    )  # fmt: skip
    known = _work(results, cells)
    lines = []
    for row in rows:
        v = row.values
        shares = ("", "")
        if known is not None:
            counted, peaks = known
            bounds = counted.bounds(row.cell.arithmetic, row.cell.batch, peaks)
            shares = tuple(f"{bound / v['seconds']:.0%}" for bound in bounds)  # type: ignore[assignment]
        ratio = f"{v['ratio']:.3f} ({v['ratio_low']:.3f} to {v['ratio_high']:.3f})"
        lines.append((
            row.name, row.cell.way, row.cell.arithmetic, str(row.cell.batch), f"{1e3 * v['seconds']:.2f}",
            f"{row.speed:,.1f}", ratio, _count(v["operators"]),
            _count(v["launches"]), _count(v["kernels"]), *shares,
            f"{v['peak_bytes'] / 1e6:,.0f}", f"{v['first_step_seconds']:.1f}",
        ))  # fmt: skip
    return tables.markdown(header, lines) if lines else ""


def _count(number: int | None) -> str:
    return "no GPU" if number is None else f"{number:,}"


def _work(results: Results, cells: Sequence[Cell]) -> tuple[Work, Peaks] | None:
    found = next((results.read(cell) for cell in cells if cell.kind == "work"), None)
    if found is None or found.state != "done":
        return None
    return Work(**found.values["work"]), Peaks(**found.values["peaks"])


def _bounds_note(results: Results, cells: Sequence[Cell]) -> list[str]:
    known = _work(results, cells)
    if known is None:
        return []
    counted, peaks = known
    batch = next((cell.batch for cell in cells if cell.kind == "steps"), 1)
    moved = counted.bytes_moved("ieee", batch)
    return [
        f"A step takes {counted.operations / 1e9:,.4g} GFLOP an image, forward and backward, and moves at least "
        f"{moved / 1e9:,.3g} GB at batch {batch} in float32 (weights, gradients, moments, average; what the backward "
        f"pass needs, written and read). The device does {peaks.ieee / 1e12:.3g} TFLOP/s in float32, "
        f"{peaks.tf32 / 1e12:.3g} in TF32, {peaks.bf16 / 1e12:.3g} in bf16, and moves "
        f"{peaks.bandwidth / 1e12:.3g} TB/s ({peaks.source})."
    ]


def _others(results: Results, cells: Sequence[Cell]) -> str:
    lines = []
    for cell in cells:
        found = results.read(cell)
        if cell.kind in ("evaluation", "resume", "replay", "seeds") and found is not None and found.state == "done":
            lines.append(f"- {cell.name}: {'; '.join(_said(cell, found.values))}")
    return "\n".join(lines)


def _said(cell: Cell, values: Mapping[str, Any]) -> list[str]:
    if cell.kind == "evaluation":
        return [
            f"{values['images_per_second']:,.1f} images/s of {values['images']:,}", f"NELBO {values['nelbo']:.6f}",
            f"images on the {values['placement']}",
        ]  # fmt: skip
    if cell.kind == "resume":
        exact = (
            "bit for bit the run that was not stopped" if values["exact"] else "another run than the undisturbed one"
        )
        where = values["logs_part_at_step"]
        return [
            f"{values['steps']} steps, resumed after {values['resumed_after']}: {exact}",
            *([] if where is None else [f"the logs part at step {where}"]),
            f"weights at most {values['largest_difference_of_weights']:.3g} apart",
        ]
    if cell.kind == "replay":
        return [
            f"{values['exact_ones']} of {values['recorded']} skipped updates done again bit for bit",
            f"norms at most {values['largest_relative_difference_of_norms']:.3g} apart",
        ]
    if cell.kind == "seeds":
        return [
            f"{values['images_per_second_of_two']:,.1f} images/s of two seeds side by side",
            f"{values['gain']:.2f} times one alone",
        ]
    return [f"{values['work']['operations'] / 1e9:,.4g} GFLOP an image"]


def _not_measured(results: Results, cells: Sequence[Cell], left: Sequence[Cell]) -> Iterator[str]:
    failed = [(cell, found) for cell in cells if (found := results.read(cell)) is not None and found.state == "failed"]
    if failed:
        yield "Failed:\n\n" + "\n".join(f"- {cell.name}: {tables.literal(found.error)}" for cell, found in failed)
    if left:
        names = ", ".join(cell.name for cell in left)
        yield f"Left out for want of time; the same command goes on with them: {names}."
