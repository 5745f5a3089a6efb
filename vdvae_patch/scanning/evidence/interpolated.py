"""A log σ that the host computes of one raw value, and of numbers that differ from element to element.

    share = (v + 1) / 2
    log_variance = share * self.log_beta[t] + (1 - share) * self.log_posterior_variance[t]

Between which two numbers a diffusion's learned variance lies depends on the step of each example, so that no curve σ(v)
is the convention of all of them. But what the host computes is a log variance. It stands for the raw value: a scale is
applied to the host's own log σ, as it is elsewhere, and what the network's output means stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from vdvae_patch.composition import Step, is_limited, named
from vdvae_patch.patching.fit import line
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, SpotKey, is_variable, operands
from vdvae_patch.scanning.evidence.reading import Reading


def of_own_log_sigma(reading: Reading) -> Reading:
    """The reading with the host's own log σ as its raw value, if it is computed of numbers that differ from element to
    element; else the reading as it is."""
    parts = parts_of(reading.chain, reading.suffix)
    if not parts:
        return reading
    return replace(reading, raw=reading.chain.begin, chain=replace(reading.chain, end="sum"), parts=parts)


def parts_of(chain: Chain, suffix: tuple[Step, ...]) -> tuple[Chain, ...]:
    """The chain, without a step, of the raw value that such a log σ is computed of; empty if it is no such."""
    if chain.end != "several" or chain.begin.node.kind != "elementwise":
        return ()
    rest = named((*chain.steps, *suffix))
    if is_limited(rest) or line(rest, 0.0, straight=True) is None:
        return ()
    expression = Expression(chain.begin)
    leaves = list(expression.leaves.values())
    if len(leaves) != 1 or not leaves[0].node.params or leaves[0].node.kind == "parameter":
        return ()
    differing = any(
        not is_variable(spot.node) and not spot.node.even
        for computed in expression.order
        for spot in operands(expression, computed)
    )
    return (Chain(leaves[0], "raw", (), ()),) if differing else ()


def is_interpolated(reading: Reading) -> bool:
    """Whether a reading is of such a log σ."""
    return len(reading.parts) == 1 and not reading.parts[0].nodes


def leaves_of(reading: Reading) -> set[SpotKey]:
    """The raw value, and what such a log σ is computed of."""
    return {reading.raw.key, *(part.begin.key for part in reading.parts if is_interpolated(reading))}


def given_to_scale(expression: Expression, done: Mapping[SpotKey, Tensor]) -> Tensor | None:
    """What a patched model's scale is given, among the values of an expression; None if no scale is in it."""
    from vdvae_patch.scanning.evidence.bystanders import is_scale

    for spot in expression.order:
        if is_scale(spot.node):
            for operand in operands(expression, spot):
                if operand.node.params and not is_scale(operand.node):
                    return done.get(operand.key)
    return None
