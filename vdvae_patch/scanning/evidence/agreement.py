"""The convention that all readings of one raw value agree on, or whether they do not.

A host reads a raw value in several lines: it draws with `log_sigma.exp()`, and its KL has `2 * log_sigma`. Each line
says which σ it takes the raw value for. If the curves σ(v) are the same, this is the convention. If they are not, as
with a sampler that forgets a factor of ½, the host draws from one Normal and computes the density of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from vdvae_patch import conventions
from vdvae_patch.composition import Composition, Step, Target, named
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Role
from vdvae_patch.scanning.arithmetic.chain import bounded_steps
from vdvae_patch.scanning.arithmetic.expression import Expression
from vdvae_patch.scanning.evidence.measuring import measured
from vdvae_patch.scanning.evidence.reading import Reading

AGREE = 1e-5
"""Relative difference of two curves that are the same. In the small models of tests/hosts, readings that agree differ
by rounding alone, 4e-16, and readings that do not, by 0.7 or more. In between there is room for small constants, such
as 1e-8, that a host adds to a variance in one of its lines."""


def convention_of(readings: list[Reading], role: Role = "posterior", nearly: bool = False) -> tuple[Convention, bool]:
    """The convention of some readings of one raw value, and whether all agree on it.

    If they do not, or by a factor, it is that of the sampler, whose samples a decoder knows, and of the first density,
    KL or `Normal` where nothing is drawn. Of a likelihood it is that of the density, which is what is trained.
    Readings that differ by a factor agree: see `factor_of`.

    Args:
        nearly: whether a floor that one of them alone has, and that is nothing at usual raw values, is passed over.
    """
    readings = told_by_chains(readings)
    whole = next((r for r in readings if r.steps is None), None)
    if whole is not None:
        return _measured(whole), True
    known = [(r, steps) for r in readings if (steps := r.steps) is not None]
    if not known:
        return conventions.Sigma(), True
    shown = [(r, steps) for r, steps in known if r.evidence != "noise"]
    chosen = (shown or known)[0][1]
    agree = all(agrees(steps, chosen, r.evidence == "noise" and bool(shown), nearly) for r, steps in known)
    kept = ("noise",) if role != "likelihood" else ()
    drawn = next((steps for r, steps in known if r.evidence in kept), chosen)
    return named(chosen if agree and _is_multiple(chosen, drawn, 1.0) else drawn), agree


def factor_of(readings: Sequence[Reading], role: Role) -> float:
    """What the density or the KL has of the σ that is drawn with, where that is a factor: √2 of a KL that counts σ²
    twice, 1 / T of a draw with a temperature T; else 1. Of a likelihood it is 1, since what is trained is its σ."""
    drawn = next((r.steps for r in readings if r.evidence == "noise" and r.steps is not None), None)
    shown = next((r.steps for r in readings if r.evidence != "noise" and r.steps is not None), None)
    if drawn is None or shown is None or role == "likelihood" or not agrees(drawn, shown, up_to_factor=True):
        return 1.0
    return 1.0 if _is_multiple(shown, drawn, 1.0) else _ratio(shown, drawn)


def _is_multiple(shown: Sequence[Step], drawn: Sequence[Step], factor: float) -> bool:
    return math.isclose(_ratio(shown, drawn), factor, rel_tol=AGREE)


def _ratio(shown: Sequence[Step], drawn: Sequence[Step]) -> float:
    """Of two curves that are multiples, at a raw value where both are positive numbers in most hosts."""
    at = torch.tensor(0.25, dtype=torch.float64)
    ratio = float((Composition(shown).sigma(at) / Composition(drawn).sigma(at)).abs())
    return ratio if math.isfinite(ratio) and ratio > 0 else 1.0


def told_by_chains(readings: list[Reading]) -> list[Reading]:
    """The readings without those of expressions that are no chain, and give the same curve as one that is.

    A host may keep a log variance from zero, `torch.where(v.abs() < 1e-5, v + 1e-5 * v.abs(), v)`.
    """
    chains = [steps for r in readings if (steps := r.steps) is not None]
    if len(chains) in (0, len(readings)):
        return readings
    grid = torch.linspace(-8, 8, 65, dtype=torch.float64)
    curves = [Composition(steps).sigma(grid) for steps in chains]
    same = [r for r in readings if r.steps is None and any(_same(c, _curve(r, grid), False) for c in curves)]
    return [r for r in readings if not any(r is other for other in same)]


def conventions_of(readings: list[Reading], role: Role = "posterior") -> list[Convention]:
    """The conventions of readings that disagree: the one that is kept, and those of the rest."""
    found = [convention_of(readings, role)[0]]
    for reading in readings:
        if reading.steps is not None and (own := named(reading.steps)) not in found:
            found.append(own)
    return found


def agrees(steps: Sequence[Step], chosen: Sequence[Step], up_to_factor: bool = False, nearly: bool = False) -> bool:
    """Whether steps from a raw value to σ give the same curve as others, on both sides of each clamp in them, too; and
    at each σ that a scale may ask for.

    A floor that one of them alone has, as `(var + 1e-7).sqrt()` in the draw beside `var.log()` in the KL, is nothing
    where the host is now, and all of σ where a scale goes further down.

    Args:
        up_to_factor: whether one may be a multiple of the other, a sampler's temperature.
        nearly: whether such a floor is passed over.
    """
    ends = [*_ends(steps), *_ends(chosen)]
    grid = torch.tensor([*torch.linspace(-3, 3, 25).tolist(), *ends], dtype=torch.float64)
    one, other = Composition(chosen), Composition(steps)
    if not _same(one.sigma(grid), other.sigma(grid), up_to_factor):
        return False
    return nearly or (_follows(one, other, up_to_factor) and _follows(other, one, up_to_factor))


_LOG_SIGMAS = torch.tensor([-15.0, -12.0, -8.0, -4.0], dtype=torch.float64)
FAR_AGREE, LEAST_SIGMA = 1e-4, 1e-7
"""Relative and absolute differences of a patched model's σ to the promised one that are none, see `verify`."""


def _follows(one: Composition, other: Composition, up_to_factor: bool) -> bool:
    """Whether a curve has the σ of another one down to where a patched model is looked at again, or to its floor."""
    wanted = _LOG_SIGMAS.exp()
    undone = one.undo(Target(wanted, _LOG_SIGMAS))
    there = torch.isclose(one.sigma(undone), wanted, rtol=FAR_AGREE)
    sigma = other.sigma(undone[there])
    if up_to_factor and len(sigma):
        sigma = sigma * (wanted[there][-1] / sigma[-1])
    return torch.allclose(sigma, wanted[there], rtol=FAR_AGREE, atol=LEAST_SIGMA)


_PAST = 1.0
"""How far past a clamp's end two curves are compared: one that goes on has moved by a factor of e^½ or so there."""
_FARTHEST = 15.0
"""Raw values that are looked at: a clamp that first acts beyond is a guard against overflow, and changes no σ."""


def _ends(steps: Sequence[Step]) -> list[float]:
    """Raw values just past the ends of the clamps on the way to σ, as far as raw values go."""
    grid = torch.linspace(-_FARTHEST, _FARTHEST, 601, dtype=torch.float64)
    found: list[float] = []
    value = grid
    for step in steps:
        after = step.forward(value)
        if step.name == "clamp":
            free = after == value
            found += (grid[1:][free[:-1] & ~free[1:]] + _PAST).tolist()
            found += (grid[:-1][~free[:-1] & free[1:]] - _PAST).tolist()
        value = after
    return [v for v in found if abs(v) <= _FARTHEST]


def _measured(reading: Reading) -> Convention:
    """The convention of an expression that is no chain.

    Where only parameters take part beside the raw value, such as learned bounds, it is the chain that they make as they
    are now. Where the raw value is read more than once, as in `v + torch.sqrt(v * v + 4)`, it is known by points.
    """
    expression = Expression(reading.spot)
    if reading.raw.key not in expression.leaves:
        return conventions.Sigma()
    steps = bounded_steps(reading.spot, reading.raw)
    if steps is not None:
        return named((*steps, *reading.suffix))
    return measured(partial(_curve, reading))


def _curve(reading: Reading, grid: torch.Tensor) -> torch.Tensor:
    """σ over raw values, where other values that take part are zero, and parameters as they are."""
    expression = Expression(reading.spot)
    others = {
        key: torch.full_like(grid, spot.node.value if spot.node.kind == "parameter" else 0.0)
        for key, spot in expression.leaves.items()
    }
    sigma = expression.value(others | {reading.raw.key: grid})
    for step in reading.suffix:
        sigma = step.forward(sigma)
    return sigma.expand_as(grid)


def _same(reference: torch.Tensor, curve: torch.Tensor, up_to_factor: bool) -> bool:
    ratio = (curve / reference).abs()  # σ ε and −σ ε are of one law
    if up_to_factor:  # a sampler's temperature
        ratio = ratio / ratio[len(ratio) // 2]
    return torch.allclose(torch.nan_to_num(ratio, 1.0), torch.ones_like(ratio), rtol=AGREE)
