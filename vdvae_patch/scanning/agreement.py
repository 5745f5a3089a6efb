"""The convention that all readings of one raw value agree on, or whether they do not.

A host reads a raw value in several lines: it draws with `log_sigma.exp()`, and its KL has `2 * log_sigma`. Each line
says which σ it takes the raw value for. If the curves σ(v) are the same, this is the convention. If they are not, as
with a sampler that forgets a factor of ½, the host draws from one Normal and computes the density of another.
"""

from __future__ import annotations

import torch

from vdvae_patch import conventions
from vdvae_patch.composition import Composition, Measured, named
from vdvae_patch.conventions import Convention
from vdvae_patch.scanning.chain import bounded_steps
from vdvae_patch.scanning.expression import Expression
from vdvae_patch.scanning.reading import Reading

AGREE = 1e-5
"""Relative difference of two curves that are the same. In the small models of tests/hosts, readings that agree differ
by rounding alone, 4e-16, and readings that do not, by 0.7 or more. In between there is room for small constants, such
as 1e-8, that a host adds to a variance in one of its lines."""


def convention_of(readings: list[Reading]) -> tuple[Convention, bool]:
    """The convention of some readings of one raw value, and whether all agree on it.

    If they do not, it is that of the first density, KL or `Normal`, and of the sampler where there is none.
    """
    whole = next((r for r in readings if r.steps is None), None)
    if whole is not None:
        return _measured(whole), True
    known = [(r, steps) for r in readings if (steps := r.steps) is not None]
    if not known:
        return conventions.Sigma(), True
    shown = [(r, steps) for r, steps in known if r.evidence != "noise"]
    chosen = (shown or known)[0][1]
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)
    reference = Composition(chosen).sigma(grid)
    agree = all(
        _same(reference, Composition(steps).sigma(grid), up_to_factor=r.evidence == "noise" and bool(shown))
        for r, steps in known
    )
    return named(chosen), agree


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
    grid = torch.linspace(-8, 8, 65, dtype=torch.float64)
    others = {
        key: torch.full_like(grid, spot.node.value if spot.node.kind == "parameter" else 0.0)
        for key, spot in expression.leaves.items()
    }
    sigma = expression.value(others | {reading.raw.key: grid})
    for step in reading.suffix:
        sigma = step.forward(sigma)
    return Measured(tuple(zip(grid.tolist(), sigma.expand_as(grid).tolist(), strict=True)))


def _same(reference: torch.Tensor, curve: torch.Tensor, up_to_factor: bool) -> bool:
    ratio = curve / reference
    if up_to_factor:  # a sampler's temperature
        ratio = ratio / ratio[len(ratio) // 2]
    return torch.allclose(torch.nan_to_num(ratio, 1.0), torch.ones_like(ratio), rtol=AGREE)
