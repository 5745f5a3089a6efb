"""What the charts are drawn from: packed columns of numbers, within a budget whatever the logs' length."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.compare.palette import VANILLA, looks
from vdvae_patch.report import thinning
from vdvae_patch.report.looks import QUANTITIES, Looks, thinned
from vdvae_patch.report.runs import RunData
from vdvae_patch.report.runsets import RunSet
from vdvae_patch.report.skipped import CAUSES, Skip, cause_text

_BRIGHT = {
    VANILLA: "#74aef3", "#d62728": "#ff7a72", "#f28e2b": "#ffb566", "#8c1d40": "#e57ba0", "#e377a2": "#f5a9c8",
    "#7f3b08": "#d8a06a", "#c9a227": "#e9cd62",
}  # fmt: skip
"""The same colours on a dark ground."""

_BLUES = (VANILLA, "#4b9cd3", "#0b3d75", "#7aa6c2")
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Budget:
    """How much a page may hold, all its runs together.

    Attributes:
        points: of curves; `of_run` is the most of one.
        marks: of skipped updates.
        cells: of heat maps; `columns` is the most of one.
    """

    points: int = 60_000
    of_run: int = 1500
    marks: int = 8_000
    cells: int = 300_000
    columns: int = 240

    def times(self, factor: float) -> Budget:
        """A smaller one."""
        return Budget(*(max(20, int(value * factor)) for value in vars(self).values()))


@dataclass(frozen=True)
class Color:
    """Of a label, on a light and on a dark ground, and how its lines are dashed."""

    light: str
    dark: str
    dash: str


def colors(labels: Sequence[str]) -> dict[str, Color]:
    """Vanilla in blue, every other in a red of its own; those that are vanilla but for a setting in other blues."""
    names = list(dict.fromkeys(labels))
    blue = [name for name in names if name.split(" · ")[0] == "vanilla"]
    red = [name for name in names if name not in blue]
    found = {}
    for index, name in enumerate(blue):
        shade = _BLUES[index % len(_BLUES)]
        found[name] = Color(shade, _BRIGHT.get(shade, shade), _DASHES[index // len(_BLUES) % 4])
    styles = looks(red)
    for index, name in enumerate(red):
        shade = styles[name].color
        found[name] = Color(shade, _BRIGHT.get(shade, shade), _DASHES[index // 6 % 4])
    return found


def of_runs(runs: RunSet, budget: Budget, all_runs: int, all_skips: int) -> dict[str, Any]:
    """The charts of runs side by side, seeds as text: a browser's numbers end at 2^53.

    `all_runs` and `all_skips` are of the whole page, which shares the budget.
    """
    names = list(dict.fromkeys(runs.labels))
    looks_of = colors(runs.labels)
    return {
        "labels": [{"name": name, **vars(looks_of[name])} for name in names],
        "quantities": QUANTITIES,
        "causes": CAUSES,
        "runs": [
            {
                "name": runs.name(i), "label": names.index(runs.labels[i]), "index": i,
                "seed": None if run.seed is None else str(run.seed),
            }
            | _of_run(run, budget, all_runs, all_skips)
            for i, run in enumerate(runs.runs)
        ],
    }  # fmt: skip


def of_guard(skips: Sequence[Skip], looks: Looks | None, budget: Budget) -> dict[str, Any]:
    """The charts of a guard: its skips by their steps, and the heads in each."""
    causes = list(dict.fromkeys(skip.cause for skip in skips))
    return {
        "causes": CAUSES,
        "quantities": QUANTITIES,
        "skips": {
            "step": packed(np.array([s.step for s in skips], np.int64)),
            "norm": packed(thinning.rounded(np.array([s.norm for s in skips], np.float64), 16)),
            "loss": packed(thinning.rounded(np.array([s.loss for s in skips], np.float64), 16)),
            "cause": [cause_text(cause) for cause in causes],
            "code": packed(np.array([causes.index(s.cause) for s in skips], np.int64)),
            "said": [_said(skip) for skip in skips[: budget.marks]],
        },
        "looks": _looks(looks, budget, 1),
    }


def packed(values: NDArray[Any]) -> dict[str, str]:
    """`{"t": "i4", "b": base64}`: little-endian int32 or float32; float64 where an integer is beyond 32 bits."""
    kind = "f4" if values.dtype.kind == "f" else "i4"
    if kind == "i4" and len(values) and max(abs(int(values.min())), abs(int(values.max()))) > np.iinfo(np.int32).max:
        kind = "f8"
    return {"t": kind, "b": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode("ascii")}


def _of_run(run: RunData, budget: Budget, all_runs: int, all_skips: int) -> dict[str, Any]:
    log = run.log
    curve = thinning.points(log, max(20, min(budget.of_run, budget.points // max(1, all_runs))))
    mine = int(log.skipped.sum())
    share = mine if all_skips <= budget.marks else max(20, budget.marks * mine // all_skips)
    told = {skip.step: skip for skip in run.skips}
    recorded = [skip.step for skip in run.skips if skip.recorded]
    marks = thinning.marks(log, curve, share, recorded)
    at = marks.index
    said = [told.get(int(step)) for step in marks.first]
    ranks, heads = _indexed([s.ranks if s else "" for s in said]), _indexed([s.head if s else "" for s in said])
    steps, counts, hours = thinning.cumulated(log, budget.of_run)
    all_steps = log.step[log.skipped]
    return {
        "folder": run.folder.name,
        "perEpoch": run.per_epoch,
        "width": round(curve.width, 1),
        "step": packed(curve.step),
        "hours": packed(thinning.rounded(curve.hours, 16)),
        "nelbo": packed(thinning.rounded(curve.nelbo, 16)),
        "distortion": packed(thinning.rounded(curve.distortion, 14)),
        "rate": packed(thinning.rounded(curve.rate, 14)),
        "norm": packed(thinning.rounded(curve.grad_norm, 14)),
        "lr": packed(thinning.rounded(curve.lr, 14)),
        "last": [run.steps, run.seconds / 3600],
        "state": run.state,
        "evaluations": {
            "step": packed(np.array([e.step for e in run.evaluations], np.int64)),
            "nelbo": packed(thinning.rounded(np.array([e.nelbo for e in run.evaluations], np.float64), 16)),
        },
        "marks": {
            "first": packed(marks.first),
            "last": packed(marks.last),
            "count": packed(marks.count),
            "cause": packed(marks.cause),
            "causes": list(log.causes),
            "at": packed(thinning.rounded(marks.at, 14)),
            "hours": packed(thinning.rounded(log.seconds[at] / 3600, 14)),
            "norm": packed(thinning.rounded(log.grad_norm[at], 14)),
            "nelbo": packed(thinning.rounded(log.nelbo[at], 14)),
            "rank": packed(np.array(ranks[0], np.int64)),
            "ranks": ranks[1],
            "head": packed(np.array(heads[0], np.int64)),
            "heads": heads[1],
            "recorded": packed(np.array([s.recorded if s else 0 for s in said], np.int64)),
        },
        "replays": {str(s.recorded): s.replay for s in run.skips if s.recorded},
        "cumulated": {"step": packed(steps), "count": packed(counts), "hours": packed(thinning.rounded(hours, 14))},
        # every skipped update: differences of steps, which compress to little
        "all": {"step": packed(np.diff(all_steps, prepend=0)), "cause": packed(log.cause[log.skipped])},
        "looks": _looks(run.looks, budget, all_runs),
    }  # fmt: skip


def _looks(looks: Looks | None, budget: Budget, all_runs: int) -> dict[str, Any] | None:
    if looks is None:
        return None
    a_column = max(1, len(looks.heads) * len(looks.values))
    small = thinned(looks, max(10, min(budget.columns, budget.cells // (max(1, all_runs) * a_column))))
    return {
        "heads": [head.text for head in small.heads],
        "roles": [head.role for head in small.heads],
        "step": packed(small.step),
        "shared": small.of > len(small.step),
        "skipped": packed(small.skipped.astype(np.int64)),
        "values": {name: packed(thinning.rounded(_within(table.ravel()), 14)) for name, table in small.values.items()},
        "seen": {name: packed(table.ravel().astype(np.int64)) for name, table in small.seen.items()},
    }


def _within(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Finite values stay so in float32."""
    return np.where(np.isfinite(values), np.clip(values, -3e38, 3e38), values)


def _indexed(texts: Sequence[str]) -> tuple[list[int], list[str]]:
    order = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return [order[text] for text in texts], list(order)


def _said(skip: Skip) -> str:
    head = f"head {skip.head}" if skip.head else ""
    return "; ".join(part for part in (skip.ranks, head, *skip.said[:2]) if part)
