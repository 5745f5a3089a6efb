"""`reproduce table1`: where each form of the log ratio dies, found by search.

σ₂ = 1 and p an integer that steps down from 0; the last p is looked for at which a term, or its gradient, is finite.
The naive term is log σ₂ − log σ₁ with σ₁ = exp(p) and log σ₁ = log(exp(p)) evaluated as written (eq. 7). PyTorch's is
`torch.distributions.kl_divergence`, which takes the log of a ratio of squares. Then the same for every scale.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vdvae_patch import normal, scales
from vdvae_patch.experiments.options import Table1
from vdvae_patch.experiments.published import published
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number, publish
from vdvae_patch.scales import SCALES, Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Direction = Literal["smallest", "largest"]
Term = Callable[[Scale, Tensor], Tensor]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EVERY = "every p"

# Arguments for the scales that have no default ones.
_ARGUMENTS = {"bounded": "bounded(0.1, 1)", "downbounded": "downbounded(0.1)"}


def naive_log_ratio(scale: Scale, p: Tensor) -> Tensor:
    """log σ₂ − log σ₁, the scale's own log σ."""
    return -scale.log_sigma(p)


def torch_kl(scale: Scale, p: Tensor) -> Tensor:
    """PyTorch's KL(N(0, σ(p)) ‖ N(0, 1)), which forms ½ log(σ₁² / σ₂²)."""
    zero, one = torch.zeros_like(p), torch.ones_like(p)
    # validation would refuse the sigma of 0 that is to be shown
    first, second = Normal(zero, scale.sigma(p), validate_args=False), Normal(zero, one, validate_args=False)
    result: Tensor = kl_divergence(first, second)
    return result


def stable_kl(scale: Scale, p: Tensor) -> Tensor:
    """This package's KL(N(0, σ(p)) ‖ N(0, 1)), from log σ(p)."""
    zero = torch.zeros_like(p)
    return normal.kl_divergence(zero, scale.log_sigma(p), zero, zero)


@dataclass(frozen=True)
class Published:
    """One of the eight numbers of table 1, as a pair of p and σ."""

    dtype: torch.dtype
    form: str
    p: int
    sigma: str


PUBLISHED = tuple(
    Published(getattr(torch, row["type"]), row["form"], row["p"], row["sigma"]) for row in published()["table1"]
)
FORMS: dict[str, Term] = {"log ratio": naive_log_ratio, "PyTorch": torch_kl, "stable KL": stable_kl}


def last_finite(
    term: Term, scale: Scale, dtype: torch.dtype, *, gradient: bool = False, direction: Direction = "smallest"
) -> float | None:
    """The last integer p, stepping away from 0, at which the term or its gradient is finite.

    None if it is finite for every p of the dtype: for the integers up to 1,000 and at each power of two from there to
    the largest number. Beyond 1,000 it is the last such power.
    """
    sign = -1.0 if direction == "smallest" else 1.0
    limit = torch.finfo(dtype).max
    steps = [float(n) for n in range(1001)]
    powers = [2.0**k for k in range(10, math.frexp(limit)[1])] + [limit]
    candidates = torch.tensor([n for n in steps + powers if n <= limit], dtype=torch.float64) * sign
    finite = torch.isfinite(_evaluate(term, scale, candidates.to(dtype), gradient))
    if bool(finite.all()):
        return None
    first_bad = int((~finite).nonzero()[0])
    return candidates[first_bad - 1].item() if first_bad else math.nan


def _evaluate(term: Term, scale: Scale, p: Tensor, gradient: bool) -> Tensor:
    if not gradient:
        with torch.no_grad():
            return term(scale, p)
    leaf = p.clone().requires_grad_()
    value = term(scale, leaf)
    if not value.requires_grad:  # a constant scale: no gradient reaches p
        return torch.zeros_like(p)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return slope


def run(options: Table1) -> int:
    """Search, compare with the published numbers and report; 1 if one of the eight is not equal."""
    start = time.perf_counter()
    first, equal = _published_table()
    tables = (first, *(_scale_table(direction) for direction in ("smallest", "largest")))
    report = Report(
        "table1",
        "Table 1: the smallest raw parameter of the naive forms",
        _INTRODUCTION,
        tables,
        Origin.here(torch.device("cpu"), (), time.perf_counter() - start),
        (f"{equal} of 8 published numbers are equal.",),
    )
    publish(report, options.folder("table1"), draw(), to_docs=options.publish)
    return 0 if equal == 8 else 1


_INTRODUCTION = (
    "σ₂ = 1, σ₁ = exp(p), both means 0. p steps down from 0 by whole numbers; shown is the last p at which the term is "
    "finite, and exp(p). `log ratio` is log σ₂ − log σ₁ with log σ₁ = log(exp(p)) evaluated as written (eq. 7); "
    "`PyTorch` is `torch.distributions.kl_divergence`; `stable KL` is this package's, given p as log σ₁."
)


def _published_table() -> tuple[Table, int]:
    rows: list[tuple[Cell, ...]] = []
    equal = 0
    for dtype in DTYPES:
        for form, term in FORMS.items():
            naive = form != "stable KL"
            p = last_finite(term, scales.get("naiveexp" if naive else "exp"), dtype)
            grad = last_finite(term, scales.get("naiveexp" if naive else "exp"), dtype, gradient=True)
            paper = next((e for e in PUBLISHED if (e.dtype, e.form) == (dtype, form)), None)
            sigma = "" if p is None else f"{math.exp(p):.2e}"
            matches = ""
            if paper is not None:
                same = (p == paper.p, sigma == paper.sigma)
                equal += sum(same)
                matches = "equal" if all(same) else f"{number((p or 0) - paper.p, 0)} in p"
            cells = (paper.p if paper else None, sigma, paper.sigma if paper else None, matches)
            rows.append((str(dtype).removeprefix("torch."), form, _shown(p), *cells, _shown(grad)))
    header = ("precision", "form", "min p", "paper", "min σ", "paper σ", "difference", "min p with a finite gradient")
    return Table("published", "The published eight, and the same for bfloat16, the stable KL and the gradient", header,
                 tuple(rows)), equal  # fmt: skip


def _scale_table(direction: Direction) -> Table:
    rows = []
    for name in SCALES.names():
        scale = _instance(name)
        if scale is None:
            continue
        for dtype in DTYPES:
            cells = [
                _shown(last_finite(term, scale, dtype, gradient=gradient, direction=direction))
                for term in FORMS.values()
                for gradient in (False, True)
            ]
            rows.append((str(scale), str(dtype).removeprefix("torch."), *cells))
    columns = [f"{form}{suffix}" for form in FORMS for suffix in ("", ", gradient")]
    caption = f"Every scale: the {direction} p at which term and gradient are finite"
    return Table(f"scales-{direction}", caption, ("scale", "precision", *columns), tuple(rows))


def _instance(name: str) -> Scale | None:
    """The scale with its defaults or ours; None for one of a user's package that needs arguments."""
    if name in _ARGUMENTS:
        return scales.get(_ARGUMENTS[name])
    parameters = inspect.signature(SCALES.get_class(name)).parameters.values()
    return scales.get(name) if all(p.default is not p.empty for p in parameters) else None


def _shown(p: float | None) -> str:
    if p is None:
        return EVERY
    return str(int(p)) if abs(p) < 1e6 else f"{p:.1e}"


def draw() -> Figure:
    """The three forms over p in both precisions; each ends where it stops being finite."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    panels = figure.subplots(1, 2)
    styles = {"log ratio": ("-", "#2166ac", 5.0), "PyTorch": ("--", "#b2182b", 2.5), "stable KL": (":", "#1a9850", 1.5)}
    for axis, (dtype, low) in zip(panels, ((torch.float32, -120), (torch.float16, -24)), strict=True):
        p = torch.arange(0, low - 1, -1, dtype=torch.float64)
        for form, term in FORMS.items():
            style, color, width = styles[form]
            value = term(scales.get("exp" if form == "stable KL" else "naiveexp"), p.to(dtype)).double()
            alive = torch.isfinite(value)
            last = int(alive.nonzero()[-1])
            axis.plot(p[alive], value[alive], style, color=color, lw=width, label=form)
            if not bool(alive.all()):
                axis.plot(p[last], value[last], "x", color=color, ms=11, mew=3)
                axis.annotate(f"{int(p[last])}", (float(p[last]), float(value[last])), (6, 8),
                              textcoords="offset points", color=color)  # fmt: skip
        axis.set(title=str(dtype).removeprefix("torch."), xlabel="raw parameter p", ylabel="nats")
        axis.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    return figure
