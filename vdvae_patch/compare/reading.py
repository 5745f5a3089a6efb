"""The table in plain words, computed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vdvae_patch.compare.results import Row, Spread, by_mass
from vdvae_patch.compare.table import number
from vdvae_patch.train.config import TrainConfig


def reading(rows: Sequence[Row]) -> list[str]:
    """Sentences about which variants skipped updates, how often, and how good the models became."""
    rows = [row for row in rows if row.counted]
    if not rows:
        return ["No run has ended yet."]
    ordered = sorted(rows, key=lambda row: row.variant != "vanilla")
    return [*map(_skips, ordered), *_nelbos(ordered), *_caution(ordered)]


def unusual(config: TrainConfig[Any], preset_lr: float) -> list[str]:
    """What about the settings keeps the numbers from being those of ordinary training."""
    lines = []
    lr = config.optimization.lr
    if lr > preset_lr:
        lines.append(
            f"The learning rate is {lr:g}, {lr / preset_lr:.3g} times the preset's {preset_lr:g}: raised, it makes "
            "happen in minutes what takes days."
        )
    elif lr < preset_lr:
        lines.append(f"The learning rate is {lr:g}, below the preset's {preset_lr:g}.")
    if config.limit_images is not None:
        lines.append(
            f"Each run sees {_times(config.limit_images, 'training image')} alone: its test NELBO says how well it "
            "does on images unlike them, not how good a variant is."
        )
    return lines


def too_short(config: TrainConfig[Any]) -> list[str]:
    """Before the runs: that their averaged weights cannot come far, whatever is skipped."""
    lag = "" if config.steps is None else config.optimization.averages_lag(config.steps)
    return [f"{lag[0].upper()}{lag[1:]}."] if lag else []


def _skips(row: Row) -> str:
    runs = row.counted
    hit = [run for run in runs if run.high_gradient + run.nan]
    steps = sum(run.steps for run in runs)
    if not hit:
        lost = sum(run.loss_scale for run in runs)
        but = "" if not lost else f" for NaN or a high gradient, and {_times(lost, 'update')} for fp16's loss scale,"
        return f"{row.variant} skipped no update{but} in {_times(len(runs), 'run')} ({steps:,} steps)."
    nan, high = sum(run.nan for run in runs), sum(run.high_gradient for run in runs)
    sentence = (
        f"{row.variant} skipped updates in {len(hit)} of {_times(len(runs), 'run')}: {nan:,} for NaN and {high:,} for "
        f"a high gradient, {_share(nan + high, steps)} of its steps"
    )
    stopped = [run for run in runs if run.outcome == "stopped"]
    at_end = [run for run in runs if run not in stopped and run.curves.skipped[-_tail(run.steps) :].all()]
    if stopped:
        sentence += f"; {_times(len(stopped), 'run')} ended early, since no update could be applied any more"
    if at_end:
        sentence += (
            f"; {_times(len(at_end), 'run')} applied no update in the last {_times(_tail(at_end[0].steps), 'step')}"
        )
    return f"{sentence}."


def _share(count: int, of: int) -> str:
    """`4.6%`; neither 0.0% of what happened nor 100.0% of what was not all."""
    percent = 100 * count / of
    if count and percent < 0.05:
        return "less than 0.1%"
    return "more than 99.9%" if count < of and percent >= 99.95 else f"{percent:.1f}%"


def _tail(steps: int) -> int:
    return max(1, steps // 20)


def _nelbos(rows: Sequence[Row]) -> list[str]:
    mass = by_mass(rows)
    nats = {row.variant: row.mass if mass else row.nats for row in rows}
    measured = [row for row in rows if nats[row.variant].mean is not None]
    lines = []
    if len(measured) > 1:
        whole = [row for row in measured if nats[row.variant].count == row.seeds]
        best = min(whole or measured, key=lambda row: nats[row.variant].mean or 0.0)
        least = nats[best.variant].mean or 0.0
        lower = any((nats[row.variant].mean or 0.0) < least - 5e-4 for row in measured)  # as it is shown
        have_ended = all(len(row.counted) == row.seeds for row in measured)
        whole_ones = (
            "test NELBO is finite in every run" if have_ended else "runs have all ended with a finite test NELBO"
        )
        of_whom = f"of those whose {whole_ones}, " if lower else ""
        by = " by the mass of each pixel's bin" if mass else ""
        equal = [row.variant for row in whole or measured if number(nats[row.variant].mean) == number(least)]
        if len(equal) > 1:
            lines.append(
                f"{of_whom}{' and '.join(equal)} have the lowest mean test NELBO{by}, {number(least)} nats per "
                f"dimension, and do not differ in the digits that are shown{_others(measured, equal, nats)}."
            )
        else:
            lines.append(
                f"{of_whom}{best.variant} has the lowest mean test NELBO{by}, {number(least)} nats per dimension"
                f"{_others(measured, equal, nats)}{_apart(best, measured, nats)}."
            )
    for row in rows:
        if row.nats.count < len(row.counted):
            missing = _times(len(row.counted) - row.nats.count, "run")
            lines.append(f"{row.variant} has no finite test NELBO in {missing}.")
    return lines


def _others(measured: Sequence[Row], best: Sequence[str], nats: Mapping[str, Spread]) -> str:
    """` (vanilla 4.300, ...)`."""
    others = [_beside(row, nats[row.variant]) for row in measured if row.variant not in best]
    return f" ({', '.join(others)})" if others else ""


def _beside(row: Row, nats: Spread) -> str:
    which = "where it is finite" if nats.count < len(row.counted) else "that have ended"
    finite = "" if nats.count == row.seeds else f" in the {nats.count} of {row.seeds} runs {which}"
    return f"{row.variant} {number(nats.mean)}{finite}"


def _apart(best: Row, rows: Sequence[Row], nats: Mapping[str, Spread]) -> str:
    """Which means are no further from the best than one of the two standard deviations."""
    own = nats[best.variant]
    if own.std is None or own.mean is None:
        return ""
    near = [
        row.variant
        for row in rows
        if row is not best
        and (mean := nats[row.variant].mean) is not None
        and abs(mean - own.mean) <= max(own.std, nats[row.variant].std or 0.0)
    ]
    return f"; within one standard deviation of it, its own or theirs: {', '.join(near)}" if near else ""


def _caution(rows: Sequence[Row]) -> list[str]:
    seeds = max(len(row.counted) for row in rows)
    differ = [row.variant for row in rows if len({bool(run.high_gradient + run.nan) for run in row.counted}) > 1]
    lines = []
    if differ:
        lines.append(f"Whether updates are skipped depends on the seed for {', '.join(differ)}.")
    show = "shows" if seeds == 1 else "show"
    lines.append(f"{_times(seeds, 'seed')} {show} what can happen, not how often: a rate needs more of them.")
    return lines


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
