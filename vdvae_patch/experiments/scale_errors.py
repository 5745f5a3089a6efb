"""`reproduce scale-errors`: how many eps every scale, its inverse, its derivatives and the KL are off, in each type."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import fields

import mpmath
import torch
from mpmath import mp, mpf
from torch import Tensor

from vdvae_patch import normal, scales
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.options import ScaleErrors
from vdvae_patch.experiments.report import Origin, Report, Table, publish
from vdvae_patch.experiments.scale_measure import DTYPES, Errors, largest_error, measure

NOISE = 1 / math.sqrt(12)

SPECS = (
    "exp",
    "explin",
    "upbounded",
    "upbounded(256)",
    f"downbounded({NOISE!r})",
    f"bounded({NOISE / 256!r}, 1)",
    f"bounded({NOISE!r}, 256)",
    "bounded(0.3, 0.9)",
    "constant(0.5)",
    f"softplus({math.log(2)!r})",
    "softplus",
    "softplus(20)",
    "softclamp",
    "softclamp(100, 1)",
    "clamp",
    "explin(gain=0.3, shift=-6)",
)
"""With the paper's bounds for pixels in [0, 1] and in 0..255, the defaults of code bases, and what is hard."""

COLUMNS = ("σ", "log σ", "inverse", "σ′", "(log σ)′", "σ″", "(log σ)″")


def run(options: ScaleErrors) -> int:
    """Measure and report; the status is 0.

    Raises:
        InvalidValueError: fewer than three raw parameters.
    """
    if options.count < 3:
        raise InvalidValueError(f"--count {options.count}: give 3 or more raw parameters")
    start = time.perf_counter()
    torch.set_num_threads(1)
    tables = (scale_table(options.count), kl_table())
    origin = Origin.here(torch.device("cpu"), (), time.perf_counter() - start)
    report = Report("scale-errors", "What the scales are off by", _INTRODUCTION, tables, origin)
    publish(report, options.folder("scale-errors"), None, to_docs=options.publish)
    return 0


_INTRODUCTION = (
    "Against mpmath, which computes each formula in 60 digits and more: the largest error over the raw parameters of a "
    "type (a third evenly from −30 to 30, a third evenly in the logarithm of their size over all that the type holds, "
    "a third over the range in which an exponential is a normal number). The unit is eps of the type times the true "
    "number: for log σ and the inverse, which stand in exponents, times max(1, |true|); for a second derivative times "
    "the larger of itself and the first. Rounding alone is 0.5. Below the smallest normal number that one takes the "
    "place of the true one, and what rounds to infinity has to be infinite. The inverse is taken of the σ that the "
    "type holds. `eps` is 2.2e-16 in float64, 1.2e-7 in float32, 7.8e-3 in bfloat16, 9.8e-4 in float16."
)


def scale_table(count: int, specs: tuple[str, ...] = SPECS, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Table:
    """A row a scale and type."""
    rows = []
    for spec in specs:
        scale = scales.get(spec)
        for dtype in dtypes:
            errors = measure(scale, dtype, count)
            rows.append((shown_spec(spec), _name(dtype), *(_shown(getattr(errors, f.name)) for f in fields(Errors))))
    header = ("scale", "type", *COLUMNS)
    return Table("scales", f"The largest error of {count} raw parameters, in eps", header, tuple(rows))


def kl_table(dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)) -> Table:
    """KL(N(0, e^d) ‖ N(0, 1)) = ½ expm1(2 d) − d and its derivatives by d, with automatic ones beside it."""
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "kl_divergence": lambda d: normal.kl_divergence(
            torch.zeros_like(d), d, torch.zeros_like(d), torch.zeros_like(d)
        ),
        "½ expm1(2 d) − d, automatic": lambda d: 0.5 * torch.expm1(2 * d) - d,
    }
    rows = []
    for form, function in forms.items():
        for dtype in dtypes:
            sizes = torch.logspace(-30, math.log10(30), 400, dtype=torch.float64)
            leaf = torch.cat([sizes, -sizes]).to(dtype).requires_grad_()
            value = function(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
            (curve,) = torch.autograd.grad(slope.sum(), leaf)
            with mp.workdps(90):
                d = [mpf(number) for number in leaf.tolist()]
                exact = [
                    [mpmath.expm1(2 * x) / 2 - x for x in d],
                    [mpmath.expm1(2 * x) for x in d],
                    [2 * mpmath.exp(2 * x) for x in d],
                ]
            # a divergence is compared with the larger of itself and d, the difference that it is made of
            found = [
                largest_error(value.detach(), exact[0], d),
                largest_error(slope.detach(), exact[1]),
                largest_error(curve, exact[2]),
            ]
            rows.append((form, _name(dtype), *map(_shown, found)))
    caption = "KL of two Normals with one mean, log sigmas that differ by d, |d| from 1e-30 to 30, in eps"
    return Table("kl", caption, ("form", "type", "KL", "KL′", "KL″"), tuple(rows))


def shown_spec(spec: str) -> str:
    """With four digits for a number that has more."""
    return str(scales.get(spec)) if len(spec) < 30 and "." not in spec else _SHORT.get(spec, spec)


_SHORT = {
    f"downbounded({NOISE!r})": "downbounded(1/√12)",
    f"bounded({NOISE / 256!r}, 1)": "bounded(1/(256 √12), 1)",
    f"bounded({NOISE!r}, 256)": "bounded(1/√12, 256)",
    f"softplus({math.log(2)!r})": "softplus(log 2)",
}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(error: float) -> str:
    if math.isnan(error):
        return "NaN"
    return f"{error:.2f}" if error < 10 else f"{error:.0f}" if error < 1e4 else f"{error:.1e}"
