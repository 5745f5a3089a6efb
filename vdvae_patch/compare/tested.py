"""What keeps a test NELBO, or the heads in the logs, from being those of the trained model on all test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdvae_patch.hosts.preset import averages_lag, initial_share


@dataclass(frozen=True)
class Evaluated:
    """A run with a test NELBO.

    Attributes:
        name: `upbounded seed 0`.
        updates: how many were applied, which alone move the averaged weights.
        ema_rate: their decay; None where it is not known.
        initial: how much of them is what they began with; None where nobody counted it.
        images: of how many test images the NELBO is, the first ones; None where it is not known.
        of: how many there are.
        sigma: that the σ of its decoder is a running mean that has not come far; else empty.
        of_host: where what its host says does not agree with itself: of the bound, and of the heads; else empty.
    """

    name: str
    updates: int
    ema_rate: float | None
    images: int | None
    of: int | None
    initial: float | None = None
    of_host: tuple[str, str] = ("", "")
    sigma: str = ""

    @classmethod
    def by(cls, name: str, summary: Mapping[str, Any], seen: Mapping[str, Any], ema_rate: Any) -> Evaluated:
        """From a `summary.json`, and `[run]` of a `config.toml`."""
        counts = [summary.get(key) for key in ("high_gradient_count", "nan_count", "loss_scale_count")]
        steps, skipped = summary.get("steps"), sum(count for count in counts if isinstance(count, int))
        images = _mapping(summary.get("test")).get("images")
        of = _mapping(seen.get("data")).get("test_count")
        disagrees = _mapping(summary.get("entry_disagrees"))
        return cls(
            name,
            max(0, steps - skipped) if isinstance(steps, int) else 0,
            ema_rate if isinstance(ema_rate, int | float) and 0 <= ema_rate <= 1 and isinstance(steps, int) else None,
            images if isinstance(images, int) else None,
            of if isinstance(of, int) else None,
            initial if isinstance(initial := summary.get("initial_share"), float) and 0 <= initial <= 1 else None,
            (_text(disagrees.get("bound")), _text(disagrees.get("heads"))),
            _text(summary.get("sigma_lags")),
        )

    @property
    def some(self) -> str:
        """`the first 4 of 17 test images`; empty if it is all of them, or not known."""
        if self.images is None or self.of is None or self.images >= self.of:
            return ""
        return f"the first {self.images:,} of {self.of:,} test images"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def remarks(runs: Sequence[Evaluated]) -> list[str]:
    """A sentence each on test images that were left out, and on averages, of weights or σ, that have not come far."""
    lines = []
    by_share: dict[str, list[str]] = {}
    for run in runs:
        by_share.setdefault(run.some, []).append(run.name)
    for some, names in by_share.items():
        if some:
            which = "The test NELBO" if len(by_share) == 1 else f"The test NELBO of {', '.join(names)}"
            lines.append(f"{which} is of {some}.")
    for kind in (0, 1):
        if told := [(run.name, run.of_host[kind]) for run in runs if run.of_host[kind]]:
            others = "" if len(told) == 1 else f"; and the like of {len(told) - 1} more runs"
            lines.append(f"{told[0][0]}: {told[0][1]}{others}.")
    if told := [(run.name, run.sigma) for run in runs if run.sigma]:
        name, lag = told[0]
        others = "" if len(told) == 1 else f"; of {len(told) - 1} more runs it lags, too"
        lines.append(f"{name}: {lag}{others}.")
    late = [
        (-(initial_share(run.ema_rate, run.updates) if run.initial is None else run.initial), run.name, lag)
        for run in runs
        if run.ema_rate is not None and (lag := averages_lag(run.ema_rate, run.updates, run.initial))
    ]
    if late:
        _, name, lag = min(late)
        alike = len(late) == len(runs) and len({lag for _, _, lag in late}) == 1
        who = "" if alike else f"{name}: "
        others = "" if alike or len(late) == 1 else f"; of {len(late) - 1} more runs they lag, too"
        lines.append(f"{who}{lag if who else lag[0].upper() + lag[1:]}{others}.")
    return lines
