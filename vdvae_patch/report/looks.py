"""The heads over time: from `heads.jsonl`, and from what was seen of them in each skipped update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.report.columns import Floats, number
from vdvae_patch.report.thinning import Ints
from vdvae_patch.skips import telling

QUANTITIES = {
    "log_sigma_min": "least log σ",
    "log_sigma_max": "greatest log σ",
    "kl": "KL (nats an image)",
    "grad_norm": "gradient norm of its last layer",
    "margin": "margin to what is not finite",
}
"""What may be known of a head, by the name of its field."""

RUNS_AWAY = 10.0
"""A log σ that no model needs: σ is beyond 22,000, or below its inverse."""

_LEAST = ("log_sigma_min", "margin")


@dataclass(frozen=True)
class HeadName:
    """Which head. `role` is posterior, prior or likelihood."""

    path: str
    role: str
    channels: str = ""

    @property
    def text(self) -> str:
        """`decoder.0[8:16]`, or that it is the model itself."""
        return f"{self.path or '(the model itself)'}{f'[{self.channels}]' if self.channels else ''}"


@dataclass(frozen=True)
class Looks:
    """What was seen of the heads, a column a look.

    Attributes:
        heads: in the model's order.
        step: of each look, ascending.
        skipped: whether the look is of a skipped update.
        values: by the names of `QUANTITIES`, those that are known of any head: `[looks, heads]`. NaN may mean that the
            value is NaN, see `seen`.
        seen: by the same names, whether a value was written at all.
        of: how many looks the columns stand for; more than there are columns where neighbours share one.
    """

    heads: tuple[HeadName, ...]
    step: Ints
    skipped: NDArray[np.bool_]
    values: dict[str, Floats]
    seen: dict[str, NDArray[np.bool_]]
    of: int


class Collector:
    """Takes looks as they are read, and keeps at most `limit` of each kind: of neighbours the least or the greatest."""

    def __init__(self, limit: int = 2000) -> None:
        self.limit = limit
        self._order: dict[HeadName, int] = {}
        self._kept: dict[bool, list[tuple[int, dict[HeadName, dict[str, float]]]]] = {False: [], True: []}
        self._stride = {False: 1, True: 1}
        self._count = {False: 0, True: 0}

    def add(self, step: int, heads: Any, *, skipped: bool) -> None:
        """One look: `heads` as a record of the log has them."""
        if not isinstance(heads, list) or not heads:
            return
        position = self._count[skipped]
        self._count[skipped] += 1
        found = {name_of(head): _values(head) for head in heads if isinstance(head, Mapping)}
        for name in found:
            self._order.setdefault(name, len(self._order))
        kept = self._kept[skipped]
        if position % self._stride[skipped]:
            _merge(kept[-1][1], found)
            return
        kept.append((step, found))
        if len(kept) > self.limit:
            for (_, known), (_, later) in zip(kept[::2], kept[1::2], strict=False):
                _merge(known, later)
            del kept[1::2]
            self._stride[skipped] *= 2

    def looks(self) -> Looks | None:
        """All of them; None if there was none."""
        every = [(step, flag, found) for flag in (False, True) for step, found in self._kept[flag]]
        if not every:
            return None
        every.sort(key=lambda look: (look[0], look[1]))
        heads = tuple(self._order)
        place = {name: column for column, name in enumerate(heads)}
        shape = len(every), len(heads)
        values = {name: np.full(shape, np.nan) for name in QUANTITIES}
        seen = {name: np.zeros(shape, np.bool_) for name in QUANTITIES}
        for row, (_, _, found) in enumerate(every):
            for name, known in found.items():
                for quantity, value in known.items():
                    values[quantity][row, place[name]] = value
                    seen[quantity][row, place[name]] = True
        known_at_all = [q for q in QUANTITIES if np.isfinite(values[q]).any()]
        return Looks(
            heads,
            np.array([look[0] for look in every], np.int64),
            np.array([look[1] for look in every], np.bool_),
            {q: values[q] for q in known_at_all},
            {q: seen[q] for q in known_at_all},
            sum(self._count.values()),
        )


def _merge(known: dict[HeadName, dict[str, float]], later: Mapping[HeadName, Mapping[str, float]]) -> None:
    """Take a later look into an earlier one: the least or the greatest, by what is asked; NaN if one of them is."""
    for name, values in later.items():
        own = known.setdefault(name, {})
        for quantity, value in values.items():
            before = own.get(quantity, value)
            outer = min if quantity in _LEAST else max
            own[quantity] = math.nan if math.isnan(before) or math.isnan(value) else outer(before, value)


def thinned(looks: Looks, limit: int) -> Looks:
    """At most `limit` columns: of neighbours the least or the greatest, by what is asked; NaN if one of them is."""
    n = len(looks.step)
    if n <= limit:
        return looks
    starts = np.unique(np.linspace(0, n, limit, endpoint=False).astype(np.int64))
    # the two looks of a step that was skipped and watched share a column, which is named by its steps
    starts = starts[(starts == 0) | (looks.step[starts] != looks.step[starts - 1])]
    values, seen = {}, {}
    for name, table in looks.values.items():
        there = looks.seen[name]
        least = name in _LEAST
        neutral = np.inf if least else -np.inf
        gather = np.minimum if least else np.maximum
        found = gather.reduceat(np.where(there & ~np.isnan(table), table, neutral), starts, axis=0)
        bad = np.logical_or.reduceat(there & np.isnan(table), starts, axis=0)
        seen[name] = np.logical_or.reduceat(there, starts, axis=0)
        values[name] = np.where(bad | ~seen[name], np.nan, found)
    return Looks(
        looks.heads, looks.step[starts], np.logical_or.reduceat(looks.skipped, starts), values, seen, looks.of,
    )  # fmt: skip


def name_of(head: Mapping[str, Any]) -> HeadName:
    """The name in a record."""
    return HeadName(str(head.get("path", "")), str(head.get("role", "")), str(head.get("channels") or ""))


def stands_out(heads: Iterable[Mapping[str, Any]]) -> tuple[HeadName, str] | None:
    """The first head in the model's order whose log σ is not finite or beyond ±`RUNS_AWAY`; else the most extreme one.

    With it what was seen of it. The heads behind one that runs away follow it, and so the first is named. A rule of
    thumb: it points at where to look, and `replay` says what it was.
    """
    best: tuple[float, HeadName, str] | None = None
    for head in heads:
        if not isinstance(head, Mapping):
            continue
        low, high = number(head.get("log_sigma_min")), number(head.get("log_sigma_max"))
        said = f"log σ from {telling.number(low)} to {telling.number(high)}"
        written = "log_sigma_min" in head or "log_sigma_max" in head
        if written and not (abs(low) <= RUNS_AWAY and abs(high) <= RUNS_AWAY):
            return name_of(head), said
        if written and (best is None or max(abs(low), abs(high)) > best[0]):
            best = max(abs(low), abs(high)), name_of(head), said
    return None if best is None else (best[1], best[2])


def _values(head: Mapping[str, Any]) -> dict[str, float]:
    found = {name: number(head[name]) for name in QUANTITIES if name in head}
    # without a gradient there is no norm; log σ and KL are written as NaN where a head was not reached, too
    if np.isnan(found.get("grad_norm", 0.0)):
        del found["grad_norm"]
    return found
