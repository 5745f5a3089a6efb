"""A KL, or a density, that takes the log of σ and a small number, and σ itself for the rest:

    0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma + 1e-5)

It is nearly that of σ, and of σ + 1e-5 as nearly: where σ is small, it is neither's. What multiplies noise is σ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain, descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.reading import Reading
from vdvae_patch.scanning.places.calls import CannotPlaceError, outer_first


def without_floor(term: GaussianTerm, stops: frozenset[int]) -> GaussianTerm:
    """The term with σ, or what it is computed of, where it was matched at that and a number but reads it beside."""
    floored = settle(term.node)
    learned = [n for n in floored.node.args if isinstance(n, Node) and n.params]
    if floored.node.op != "add" or floored.node.id in stops or len(learned) != 1 or floored.key == term.raw.key:
        return term
    steps = descend(floored, stops | {learned[0].id}).steps
    before = settle(Spot(learned[0], Expression.cuts_for(floored, learned[0])))
    if len(steps) != 1 or steps[0].constants[0] <= 0 or before.node.kind != "elementwise" or before.node.id in stops:
        return term
    beside = Expression(Spot(term.total), stops | {floored.node.id}, through_sums=True)
    through = Expression(Spot(term.total), stops | {before.node.id}, through_sums=True)
    if term.raw.key not in beside.leaves or term.raw.key in through.leaves:
        return term
    return replace(term, node=before)


def floored_logs(reading: Reading) -> list[Reading]:
    """The logs in a reading's term that are taken of its σ, or of a power of it, behind a floor: readings of their own,
    which have no term."""
    if reading.term is None or reading.steps is None or reading.parts or not reading.chain.nodes:
        return []
    found: list[Reading] = []
    for spot in Expression(Spot(reading.term.total), through_sums=True).order:
        if spot.node.op != "log":
            continue
        chain = descend(spot)
        suffix = _from_log(reading, chain)
        if suffix is not None and _has_more(reading, chain):
            found.append(replace(reading, chain=chain, suffix=suffix, node=spot.node, term=None, cuts=spot.cuts))
    return found


def _from_log(reading: Reading, chain: Chain) -> tuple[Step, ...] | None:
    """The steps from such a log to σ; None where it is none."""
    count = len(reading.chain.nodes)
    if chain.end != "raw" or chain.begin.key != reading.raw.key or chain.nodes[:count] != reading.chain.nodes:
        return None
    behind = [step for own in chain.by_node[count:] for step in own]
    floors = [step for step in behind if step.name in ops.FLOORS]
    powers = [step.constants[0] for step in behind if step.name == "pow"]
    if not floors or len(floors) + len(powers) + 1 != len(behind) or behind[-1].name != "log" or 0 in powers:
        return None
    if any(step.constants[0] <= 0 or not math.isinf(step.constants[-1]) for step in floors if step.name == "clamp"):
        return None
    return (Step("mul", (1 / math.prod(powers),)), Step("exp"), *reading.suffix)


def _has_more(reading: Reading, chain: Chain) -> bool:
    """Whether the term reads the raw value beside the log, too, by no way through its floor."""
    floors = (i for i, steps in enumerate(chain.by_node) if any(step.name in ops.FLOORS for step in steps))
    first = next(i for i in floors if i >= len(reading.chain.nodes))
    assert reading.term is not None
    beside = Expression(Spot(reading.term.total), frozenset({chain.nodes[first].id}), through_sums=True)
    return reading.raw.key in beside.leaves


def require_one_function(logs: Sequence[Reading]) -> None:
    """Refuse a log that is not taken in the function whose own lines compute its σ: the raw value is not at hand there.

    Raises:
        CannotPlaceError: there is one.
    """
    for log in logs:
        frames = [outer_first(node) for node in log.chain.nodes]
        own_lines = all(node.frames[0].host for node in log.chain.nodes)
        if not own_lines or len({(*((f.code, f.lasti) for f in own[:-1]), own[-1].code) for own in frames}) > 1:
            raise CannotPlaceError("the log of its σ is taken in another function, behind a floor")
