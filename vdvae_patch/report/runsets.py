"""Runs side by side: what they are called, how they differ, and the table with its means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vdvae_patch.compare import alike, tested
from vdvae_patch.compare.reading import reading
from vdvae_patch.compare.results import Curves, RunResult, Spread, spread, summarise
from vdvae_patch.compare.table import count, count_digits
from vdvae_patch.compare.table import number as shown
from vdvae_patch.compare.tested import Evaluated
from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.report.columns import number
from vdvae_patch.report.labels import all_keys, differing, labels, text, told
from vdvae_patch.report.runs import RunData
from vdvae_patch.train.folder import read_json, trained_otherwise


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, what it says of one run, and how many digits are shown behind the point."""

    name: str
    unit: str
    of: Callable[[RunData], float | None]
    digits: int


@dataclass(frozen=True)
class Cell:
    """`text`, and behind it `spread` (a standard deviation) and `note`; `key` is sorted by, None comes last."""

    text: str
    key: float | None
    spread: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One label with its means, and its runs by their positions in `RunSet.runs`.

    Attributes:
        counted: how many of the runs have ended and are in the means.
        seeds: how many there are to be.
    """

    label: str
    cells: tuple[Cell, ...]
    runs: tuple[int, ...]
    run_cells: tuple[tuple[Cell, ...], ...]
    counted: int
    seeds: int


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all runs, with its value in each."""

    setting: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class RunSet:
    """Runs that are shown together: a comparison, or whatever runs a folder holds.

    Attributes:
        labels: of each run, without its seed.
        sentences: what the table says in words, of a comparison.
        notes: what of the runs is not in the means, and where they were not computed alike.
        differences: between the runs, variant and seed aside.
        shared: the settings that all have in common.
    """

    folder: Path
    is_comparison: bool
    runs: tuple[RunData, ...]
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]
    shared: Mapping[str, str]

    def name(self, index: int) -> str:
        """`upbounded seed 0`."""
        seed = self.runs[index].seed
        return self.labels[index] if seed is None else f"{self.labels[index]} seed {seed}"


def run_set(folder: Path, runs: Sequence[RunData], *, is_comparison: bool) -> RunSet:
    """Put runs side by side: in the order of the comparison, else vanilla first, then by name; then by seed."""
    asked = _asked(folder) if is_comparison else {}
    runs, copies = _each_once(runs)
    ordered = _with_images(sorted(runs, key=lambda run: (_place(run.variant, [*asked]), *_order(run))))
    differ = differing(ordered)
    named = labels(ordered, differ)
    columns = _columns(ordered)
    seeds = len({run.seed for run in ordered}) if is_comparison else 0
    rows = []
    for label in dict.fromkeys(named):
        mine = tuple(index for index, own in enumerate(named) if own == label)
        total = max(len(mine), asked.get(label, 0), seeds if [*asked] == [] else 0)
        counted = [ordered[index] for index in mine if _counts(ordered[index])]
        rows.append(
            Row(
                label,
                tuple(_mean(column, counted, total) for column in columns),
                mine,
                tuple(tuple(_one(column, ordered[index]) for column in columns) for index in mine),
                len(counted),
                total,
            )
        )
    known = [run for run in ordered if run.settings]
    shared_keys = [key for key in all_keys(ordered) if key not in differ]
    names = [
        label if run.seed is None else f"{label} seed {run.seed}" for label, run in zip(named, ordered, strict=True)
    ]
    mixed = is_comparison and any(label != run.variant for label, run in zip(named, ordered, strict=True))
    notes = [
        *copies,
        *_missing(asked, ordered),
        *_left_out(names, ordered),
        *([_MIXED] if mixed else []),
        *alike.remarks([(n, r.seen) for n, r in zip(names, ordered, strict=True)]),
        *(line.removesuffix(".") for line in tested.remarks(_tested(names, ordered))),
        *_validated(names, ordered),
    ]
    return RunSet(
        folder, is_comparison, tuple(ordered), named, columns, tuple(rows),
        tuple(_sentences(ordered, asked)) if is_comparison and len(rows) > 1 and not mixed else (), tuple(notes),
        tuple(
            Difference(key, tuple(text(told(run, key)) for run in ordered))
            for key in differ
            if key not in ("out", "seed", "variant")
        ),
        {key: text(told(known[0], key)) for key in shared_keys} if known else {},
    )  # fmt: skip


_MIXED = (
    "the runs of this comparison differ in more than variant and seed, so that nothing is said of it in words; what "
    "differs is in the rows' names, and `compare` does not take such a folder"
)


def _each_once(runs: Sequence[RunData]) -> tuple[list[RunData], list[str]]:
    """Without the copies of a run, and what is said of these: counted twice, it would make a spread too small.

    Of a run and its copies the one that has ended is taken, else that with the most steps. A copy that was trained
    otherwise from some step on is none: both are kept, and are no two draws.
    """
    together: dict[tuple[str, ...], list[RunData]] = {}
    for run in runs:
        identity = run.seen.get("id")
        known = isinstance(identity, str) and identity and run.settings
        own = str(identity) if known else str(run.folder.resolve())
        together.setdefault((own, *trained_otherwise(run.seen)), []).append(run)
    kept, said = [], []
    branches: dict[str, list[str]] = {}
    for (own, *_), same in together.items():
        branches.setdefault(own, []).append(same[0].folder.name)
    said += [
        f"{' and '.join(sorted(names))} are one run at the beginning, and were trained otherwise from some step on"
        for names in branches.values()
        if len(names) > 1
    ]
    for same in together.values():
        first, *rest = sorted(same, key=lambda run: (not _counts(run), -run.steps, run.folder.is_symlink(), run.folder))
        kept.append(first)
        said += [
            f"{copy.folder.name} ({copy.steps:,} steps) is a copy of the run in {first.folder.name} ({first.steps:,} "
            "steps), and is left out"
            for copy in rest
        ]
    return kept, said


def _counts(run: RunData) -> bool:
    """Whether it is in the means."""
    return run.state in ("finished", "stopped") and not run.untrusted


def _left_out(names: Sequence[str], runs: Sequence[RunData]) -> list[str]:
    said = [
        f"{name} is left out of the means: {run.untrusted}"
        for name, run in zip(names, runs, strict=True)
        if run.untrusted and run.state in ("finished", "stopped")
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    return said + [f"there are {names.count(name)} runs of {name}, which are no two draws of a seed" for name in twice]


def _tested(names: Sequence[str], runs: Sequence[RunData]) -> list[Evaluated]:
    return [
        Evaluated.by(name, run.summary, run.seen, run.settings.get("ema_rate"))
        for name, run in zip(names, runs, strict=True)
        if run.summary and not run.untrusted
    ]


def _validated(names: Sequence[str], runs: Sequence[RunData]) -> list[str]:
    """That the first validations of a run have a σ that had not come far; of several runs, of the one where longest."""
    late = [
        (one.step, name, one.sigma_of_first_batch)
        for name, run in zip(names, runs, strict=True)
        for one in [one for one in run.evaluations if one.sigma_of_first_batch > 0][-1:]
    ]
    if not late:
        return []
    step, name, share = max(late)
    others = "" if len(late) == 1 else f"; of {len(late) - 1} more runs the first ones have, too"
    return [
        f"{name}: the NELBO of the validation images up to step {step:,} has a σ of decoder optimal, a running mean of "
        f"the training error, that was the first batch's to {share:.0%} or more, and may be far above these weights' "
        f"own{others}"
    ]


def bits(run: RunData) -> float | None:
    """Test NELBO, bits per dimension."""
    nats = _summary("test_nelbo_nats_per_dim")(run)
    return None if nats is None else nats / math.log(2)


def mass_bits(run: RunData) -> float | None:
    """Test NELBO by the mass of each pixel's bin, bits per dimension: that of a discrete likelihood is such."""
    by_mass = _summary("test_mass_nelbo_bits_per_dim")(run)
    return bits(run) if by_mass is None and run.summary.get("likelihood") == "discrete" else by_mass


def _asked(folder: Path) -> dict[str, int]:
    """The variants in the order of a comparison's table, and of how many seeds; empty where it has not written one."""
    try:
        rows = read_json(folder / "comparison.json").get("rows")
    except (VdvaePatchError, AttributeError):
        return {}
    told = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(row.get("variant")): seeds if isinstance(seeds := row.get("seeds"), int) else 0 for row in told}


def _missing(asked: Mapping[str, int], runs: Sequence[RunData]) -> list[str]:
    """Which runs a comparison had when it wrote its table, and lie here no more."""
    gone = {
        variant: seeds - len({run.seed for run in runs if run.variant == variant}) for variant, seeds in asked.items()
    }
    return [
        f"{variant}: of the {asked[variant]} runs in comparison.json {count} {'is' if count == 1 else 'are'} not in "
        "this folder"
        for variant, count in gone.items()
        if count > 0
    ]


def _place(variant: str, asked: Sequence[str]) -> int:
    return asked.index(variant) if variant in asked else len(asked)


def _order(run: RunData) -> tuple[bool, str, int, str]:
    return run.variant != "vanilla", run.variant, -1 if run.seed is None else run.seed, str(run.folder)


def _with_images(runs: Sequence[RunData]) -> list[RunData]:
    """With what they were told on the way and, where that is not the same in all, the images and batches they saw."""
    saw = [_seen(run) for run in runs]
    of = {
        "images": [one.images for one in saw],
        "all images": [one.whole_images for one in saw],
        "global_batch": [one.saw.get("global_batch") for one in saw],
        "weights of SHA-256": [one.saw.get("weights_sha256") for one in saw],
    }
    if len({run.settings.get("batch_size") for run in runs}) > 1:
        del of["global_batch"]
    # part by part: what a run's version did not write is no difference
    parts = {"images": [one.prints for one in saw], "all images": [one.whole_prints for one in saw]}
    told = {
        name: values
        for name, values in of.items()
        if any(len({*part} - {None}) > 1 for part in zip(*parts.get(name, [(value,) for value in values]), strict=True))
    }
    more = [
        {**_resumed(run), **{name: values[index] for name, values in told.items()}} for index, run in enumerate(runs)
    ]
    return [
        replace(run, settings={**run.settings, **beside}) if run.settings else run
        for run, beside in zip(runs, more, strict=True)
    ]


def _resumed(run: RunData) -> dict[str, str]:
    lines = trained_otherwise(run.seen)
    return {"on the way": "; ".join(lines)} if lines else {}


def _seen(run: RunData) -> alike.Seen:
    return alike.Seen.of(run.seen, run.settings)


def _columns(runs: Sequence[RunData]) -> tuple[Column, ...]:
    columns = [
        Column("steps", "", lambda run: float(run.steps), 0),
        Column("high gradients", "skipped updates", lambda run: float(run.high_gradient), 0),
        Column("NaN", "skipped updates", lambda run: float(run.nan), 0),
        Column("test NELBO", "nats/dim", _summary("test_nelbo_nats_per_dim"), 3),
        Column("test NELBO", "bits/dim", bits, 3),
    ]
    if any("test_mass_nelbo_bits_per_dim" in run.summary for run in runs):
        columns.append(Column("by mass", "bits/dim", mass_bits, 3))
    columns.append(Column("images/s", "", _summary("images_per_second"), 1))
    columns.append(Column("time in steps", "minutes", lambda run: run.seconds / 60, 1))
    return tuple(columns)


def _summary(key: str) -> Callable[[RunData], float | None]:
    def of(run: RunData) -> float | None:
        return number(run.summary[key]) if key in run.summary else None

    return of


def _one(column: Column, run: RunData) -> Cell:
    value = column.of(run)
    if value is None:
        return Cell("–", None)
    return Cell(_in(column, value, 0), value if math.isfinite(value) else None)


def _in(column: Column, value: float, digits: int) -> str:
    """A value; counts, whose column has no digits, in full and with as many behind the point as their mean needs."""
    is_count = not column.digits and math.isfinite(value)
    return count(value, digits) if is_count else shown(value, column.digits)


def _mean(column: Column, counted: Sequence[RunData], total: int) -> Cell:
    found: Spread = spread([column.of(run) for run in counted], total)
    if found.mean is None:
        return Cell("–", None)
    digits = count_digits(found)
    note = "" if found.count == total else f"{found.count}/{total}"
    # all runs of one length: "480 ± 0" would say nothing
    told = found.std is not None and not (column.name == "steps" and not found.std)
    std = _in(column, found.std, digits) if told and found.std is not None else ""
    return Cell(_in(column, found.mean, digits), found.mean, std, note)


def _sentences(runs: Sequence[RunData], asked: Mapping[str, int]) -> list[str]:
    """The words of `compare`, computed from the same numbers."""
    others = alike.others([_seen(run) for run in runs])
    results = [
        _result(run, refused=bool(run.untrusted or other))
        for run, other in zip(runs, others, strict=True)
        if run.seed is not None and len(run.log)
    ]
    variants = list(dict.fromkeys(result.variant for result in results))
    most = max(Counter(result.variant for result in results).values(), default=0)
    seeds = max([most, *asked.values()] if asked else [most, len({result.seed for result in results})])
    try:
        return reading(summarise(variants, seeds, results)) if results else []
    except VdvaePatchError:  # a variant with a scale of somebody's package that is not installed here
        return []


def _result(run: RunData, *, refused: bool) -> RunResult:
    test = run.summary.get("test")
    test = test if isinstance(test, dict) else {}
    nelbo = _summary("test_nelbo_nats_per_dim")(run)
    bad = test.get("bad_batches", 0)
    return RunResult(
        variant=run.variant,
        seed=run.seed or 0,
        folder=run.folder,
        outcome="refused" if refused else run.state if run.state in ("finished", "stopped") else "unfinished",
        steps=run.steps,
        high_gradient=run.high_gradient,
        nan=run.nan,
        nelbo=nelbo,
        filtered=number(test["filtered_elbo"]) if "filtered_elbo" in test else None,
        bad_batches=bad if isinstance(bad, int) else 0,
        summary=dict(run.summary),
        seen=dict(run.seen),
        curves=Curves(run.log.step, np.nan_to_num(run.log.epoch).astype(np.int64), run.log.nelbo, run.log.skipped),
        problems=(),
        loss_scale=run.log.count("loss_scale"),
    )
