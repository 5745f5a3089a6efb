"""What runs side by side are called: the variant, and the settings that tell it from the others of that name.

A label decides which runs are one mean, so that two runs with any other setting of weight never have the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.report.runs import RunData
from vdvae_patch.train.config import TrainConfig

# Who a run is, where it lies, and how often it is looked at: nothing of this makes another training.
_NO_DIFFERENCE = frozenset(
    {
        "allow_modified_upstream", "allow_other_variant", "checkpoint_every", "data_root", "dry_run", "evaluate_every",
        "nproc", "out", "record_every", "record_skips", "resume", "samples_every", "seed", "tensorboard", "variant",
        "watch_every",
    }
)  # fmt: skip
_DEFAULTS = {
    field.name: field.default
    for of in (TrainConfig, Optimization)
    for field in fields(of)
    if field.default is not MISSING and field.default is not None
}
"""What a run was told that a version without the setting began: `compare` takes it so, too."""
_NAMED = 3
"""The most settings that a label names, unless more are needed to tell it from another."""


def all_keys(runs: Sequence[RunData]) -> list[str]:
    """The settings that any of the runs has, in the order of the first."""
    return list(dict.fromkeys(key for run in runs for key in run.settings))


def differing(runs: Sequence[RunData]) -> list[str]:
    """The settings that are not the same in all runs, of those whose configuration can be read."""
    known = [run for run in runs if run.settings]
    return [key for key in all_keys(known) if len({text(told(run, key)) for run in known}) > 1]


def labels(runs: Sequence[RunData], differ: Sequence[str]) -> tuple[str, ...]:
    """`upbounded · lr=0.001, wd=0.1, …`, the same for two runs only if nothing of weight differs between them."""
    keys = [key for key in differ if key not in _NO_DIFFERENCE]
    short = [_label(run, keys, keys[:_NAMED]) for run in runs]
    found = []
    for run, label in zip(runs, short, strict=True):
        alike = [other for other, own in zip(runs, short, strict=True) if own == label]
        needed = [key for key in keys if key in keys[:_NAMED] or key in differing(alike)]
        found.append(_label(run, keys, needed))
    return tuple(found)


def told(run: RunData, key: str) -> Any:
    """A setting, of a version without it the default; None where its configuration cannot be read."""
    return run.settings.get(key, _DEFAULTS.get(key)) if run.settings else None


def text(value: Any) -> str:
    """A setting, for a person; two that are not equal have other texts."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value or value != value else repr(value)


def _label(run: RunData, keys: Sequence[str], named: Sequence[str]) -> str:
    if not keys or not run.settings:
        return run.variant
    said = ", ".join(f"{key}={text(told(run, key))}" for key in named)
    return f"{run.variant} · {said}{', …' if len(keys) > len(named) else ''}"
