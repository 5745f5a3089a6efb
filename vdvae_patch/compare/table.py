"""The comparison as the paper's Table 4: in a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vdvae_patch.compare import alike
from vdvae_patch.compare.results import Row, RunResult, Spread, by_mass
from vdvae_patch.errors import visible

HEADINGS = (
    "posterior / prior",
    "high gradients",
    "NaN",
    "test nats/dim",
    "test bits/dim",
    "seeds",
)
CONVENTION = (
    "Mean ± sample standard deviation (n − 1 in the denominator) over the seeds. High gradients: updates that a "
    "run skipped because the norm of the gradient was not finite, or not below --skip-threshold. NaN: updates that it "
    "skipped because the loss was not finite. Test nats/dim and bits/dim: NELBO of the averaged weights (EMA) on the "
    "test images, in nats and in bits per dimension, lower is better; (2/3) is a mean over the 2 of 3 runs in which it "
    "is finite."
)

_COMPARES = (
    "what a density gives is not comparable with a probability: `by mass` is the same NELBO with the mass that each "
    "pixel's bin has, in bits per dimension, and that alone compares all rows."
)
BY_MASS = f" Variants with a decoder have another likelihood, and {_COMPARES}"
BY_MASS_OF_HOSTS = f" Some of these likelihoods are densities and others of discrete values, and {_COMPARES}"

CURVES_BY_LIKELIHOOD = (
    " Likelihoods differ: only curves of one likelihood compare, and not a density with a probability."
)


def headings(rows: Sequence[Row]) -> tuple[str, ...]:
    """`HEADINGS`, and where likelihoods differ the column that compares them."""
    return (*HEADINGS[:-1], "bits/dim by mass", HEADINGS[-1]) if by_mass(rows) else HEADINGS


def convention(rows: Sequence[Row]) -> str:
    """What the columns are."""
    return CONVENTION + (BY_MASS if by_mass(rows) else "")


def cells(row: Row, with_mass: bool = False) -> tuple[str, ...]:
    """A row's texts, in the order of `headings`."""
    return (
        row.variant,
        _counts(row.high_gradient),
        _counts(row.nan),
        _nelbo(row.nats),
        _nelbo(row.bits),
        *([_nelbo(row.mass_bits)] if with_mass else []),
        str(row.seeds) if len(row.counted) == row.seeds else f"{len(row.counted)}/{row.seeds}",
    )


def notes(rows: Sequence[Row], results: Sequence[RunResult]) -> list[str]:
    """What the means leave out, a line a run."""
    lines = [f"{result.label}: {remark}" for result in results for remark in remarks(result)]
    for row in rows:
        if missing := row.seeds - len(row.runs):
            lines.append(f"{row.variant}: {missing} of {row.seeds} runs did no step")
    lines += alike.remarks([(result.label, result.seen) for result in results])
    return lines


def remarks(result: RunResult) -> list[str]:
    """What is unusual about a run."""
    lines = []
    if result.outcome == "stopped":
        lines.append(f"stopped at step {result.steps}: no longer learns; it has no test NELBO")
    if result.outcome == "unfinished":
        lines.append(f"not finished ({result.steps} steps so far); it is left out of the means")
    if result.loss_scale:
        lines.append(
            f"{result.loss_scale:,} more skipped for fp16's loss scale, which is in neither column: the scaled "
            "gradient overflowed, and the scale was halved"
        )
    if result.nelbo is not None and not math.isfinite(result.nelbo):
        lines.append(
            f"test NELBO is {result.nelbo}; over the batches where it is finite ({result.bad_batches} left out) it is "
            f"{number(result.filtered)} nats/dim"
        )
    if result.outcome == "refused":
        lines.append("REFUSED, none of its numbers is shown: remove its folder to do it again")
    elif result.problems and result.summary:
        lines.append("its counts are those of summary.json, which agrees with its checksum")
    lines.extend(
        result.problems if result.outcome == "refused" else map("its files disagree: {}".format, result.problems)
    )
    if result.unchecked:
        lines.append(f"no checksum vouches for {', '.join(result.unchecked)}: of a version that wrote none, or changed")
    return lines


def terminal_table(rows: Sequence[Row]) -> Table:
    """For rich."""
    table = Table(title="Skipped updates and test NELBO", box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings(rows)):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in cells(row, by_mass(rows))))
    return table


def as_csv(rows: Sequence[Row]) -> str:
    """Unrounded; what does not exist is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [
        "high_gradient", "nan", "test_nelbo_nats_per_dim", "test_nelbo_bits_per_dim",
        *(["test_mass_nelbo_nats_per_dim", "test_mass_nelbo_bits_per_dim"] if by_mass(rows) else []),
    ]  # fmt: skip
    numbers = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    writer.writerow(["variant", *numbers, "finite_test_nelbos", "runs_counted", "seeds"])
    for row in rows:
        spreads = [
            row.high_gradient,
            row.nan,
            row.nats,
            row.bits,
            *([row.mass, row.mass_bits] if by_mass(rows) else []),
        ]
        values = [value for spread in spreads for value in (spread.mean, spread.std)]
        writer.writerow([row.variant, *values, row.nats.count, len(row.counted), row.seeds])
    return out.getvalue()


def as_record(row: Row) -> dict[str, Any]:
    """A row for JSON."""
    return {
        "variant": row.variant,
        "high_gradient": asdict(row.high_gradient),
        "nan": asdict(row.nan),
        "test_nelbo_nats_per_dim": asdict(row.nats),
        "test_nelbo_bits_per_dim": asdict(row.bits),
        "test_mass_nelbo_nats_per_dim": asdict(row.mass),
        "test_mass_nelbo_bits_per_dim": asdict(row.mass_bits),
        "runs_counted": len(row.counted),
        "seeds": row.seeds,
    }


def number(value: float | None, digits: int = 3) -> str:
    """`3.912`, `2.1e+18`, `inf`, or `-` for a value that does not exist."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"


def _counts(spread: Spread) -> str:
    if spread.mean is None:
        return "-"
    digits = count_digits(spread)
    return count(spread.mean, digits) + ("" if spread.std is None else f" ± {count(spread.std, digits)}")


def count(value: float, digits: int = 0) -> str:
    """A count, or a mean of some, in full: `23185`, and not `2.3e+04`; from 1e15 on, which nobody counts, in short."""
    return f"{value:.{digits}f}" if abs(value) < 1e15 else f"{value:.2g}"


def count_digits(spread: Spread) -> int:
    """Digits behind the point of a mean count: enough that neither what happened nor its spread is shown as zero."""
    mean, std = spread.mean or 0.0, spread.std or 0.0
    if mean.is_integer() and not std:
        return 0
    digits = 0 if mean >= 10 else 1
    while digits < 6 and any(value and not round(value, digits) for value in (mean, std)):
        digits += 1
    return digits


def _nelbo(spread: Spread) -> str:
    text = "-" if spread.mean is None else _plus_minus(spread, 3)
    return text if spread.count == spread.total else f"{text} ({spread.count}/{spread.total})"


def _plus_minus(spread: Spread, digits: int) -> str:
    return number(spread.mean, digits) + ("" if spread.std is None else f" ± {number(spread.std, digits)}")
