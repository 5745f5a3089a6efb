"""Of what a loss's KL is: of codes, of weights that all rows share, of a posterior whose place in it is exchanged.

A factor on −log σ says how often a KL counts only if it is a posterior's, and stands first, and only if there is one
posterior for each row of the data, in one KL. The KL of weights is that of all rows at once, divided by their number; a
batch has some of them. Where the factor says nothing, these are the words for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.bound.kl_factors import LogSigmaFactor
from vdvae_patch.scanning.evidence.reading import Reading, Readings
from vdvae_patch.scanning.evidence.sleep import is_of_what_it_sees
from vdvae_patch.scanning.evidence.uses import drawn_weights, inputs_of, is_decoded
from vdvae_patch.scanning.heads.roles import role_of
from vdvae_patch.trace import short

DIFFER = 0.02
"""Spread of factors, relative to their median, from which it is said that they differ."""


def role_of_factor(
    graph: Graph, readings: Readings, factor: LogSigmaFactor, rows: int
) -> Literal["posterior", "prior", "likelihood", "weights"]:
    """Of which law the σ is that a factor belongs to; a posterior's where that is not known.

    Args:
        rows: of the batch: a parameter of as many rows may be the posterior of each.
    """
    of_factor = (r for r in readings.found if r.node is factor.reading.node and r.term is factor.reading.term)
    first = next((r for r in of_factor if not r.parts and r.used < 0), None)
    if first is None:
        return "posterior"
    own = [r for r in readings.found if r.raw.key == first.raw.key and not r.parts and r.used < 0]
    drawn = [r.node for r in own if r.evidence == "noise"]
    raw = first.raw.node
    if raw.kind == "parameter" and drawn and (raw.shape[:1] != (rows,) or any(drawn_weights(graph, n) for n in drawn)):
        return "weights"
    role, sure = role_of(graph, readings, own)
    return role if sure else "posterior"


def second_in_a_kl(graph: Graph, readings: Readings, factor: LogSigmaFactor) -> Reading | None:
    """The reading by which a posterior stands second in a KL, KL(p ‖ q), and first in none; None if it does not. A
    density of what was drawn, or dreamt, is no KL."""
    own = [r for r in readings.found if r.raw.key == factor.reading.raw.key and not r.parts and r.used < 0]
    terms = [r.term for r in own if r.term is not None and r.evidence == "p"]
    if not terms or any(r.evidence == "q" for r in own) or role_of(graph, readings, own) != ("posterior", True):
        return None
    if any(m.node.id in readings.samples for t in terms for m in t.means):
        return None
    return None if any(is_of_what_it_sees(graph, t) for t in terms) else next(r for r in own if r.term is terms[0])


def of_a_part(graph: Graph, readings: Readings, factors: Sequence[LogSigmaFactor]) -> Reading | None:
    """The reading by which a part of what is merged into one code has a KL of its own, beside the code's; None if there
    is none. Its factors are those of both KLs where the merged σ is computed of it: they differ between elements.

        logvar = v + w - torch.log(v.exp() + w.exp())    # of q(z | x, c), merged of q(z | x) and p(z | c)
        loss = error + 0.5 * kl(mean, logvar, *p) + 0.5 * kl(m, v, *p)
    """
    merged = {factor.reading.node.id for factor in factors if len(factor.factors)}
    for factor in factors:
        found, key = factor.factors, factor.reading.raw.key
        if factor.reading.evidence != "q" or factor.reading.used >= 0:
            continue
        # a fit that fails is that of two KLs, too
        mixed = not len(found) or float(found.max() - found.min()) > DIFFER * float(found.median().abs())
        own = [r for r in readings.found if r.raw.key == key and r.evidence == "noise"]
        alone = {r.node.id for r in own if r.used < 0}
        # decoded alone, too, it has a bound of its own: beside the one of all modalities, that of each
        if mixed and any(r.used in merged for r in own) and not _is_decoded(graph, readings, alone, factor):
            return factor.reading
    return None


def _is_decoded(graph: Graph, readings: Readings, own: set[int], factor: LogSigmaFactor) -> bool:
    return is_decoded(graph, readings, own, inputs_of(readings, factor.reading.raw))


def of_reading(reading: Reading) -> str:
    """` at file:line` of a reading's KL; empty where no line of the host's has it."""
    frame = None if reading.term is None else reading.term.total.host_frame()
    return "" if frame is None else f" at {short(frame.code.co_filename)}:{frame.line}"


def why_no_kl(readings: Readings, *, unknown: bool = False) -> str:
    """What is said where no factor on a posterior's log σ was found: that there is no KL, only if nothing looked like
    one.

    Args:
        unknown: whether some log σ has a part in the loss that no KL and no density has.
    """
    first = next((r for r in readings.found if r.evidence == "q" and r.term is not None), None)
    if first is not None:
        if unknown:
            part = "has another part than a KL's, as where a KL is"
        else:
            part = "has no part, since the KL is left out, or"
        where = of_reading(first)
        return f"a KL{where} has a posterior's log σ, which in the loss {part} taken both ways, so that it cancels"
    if unknown:
        return "no KL is known: how log σ has a part in the loss is not that of a Normal's KL"
    if readings.near_misses:
        return (
            "no KL is known: no log σ of a head has a part in the loss; whether that of a scale has which was seen and "
            "taken for no head is not known"
        )
    return "no KL: no log σ of a posterior has a part in the loss"


def not_followed(graph: Graph, readings: Readings) -> Node | None:
    """The last operation by which a posterior's σ comes to the loss in another way than by what is drawn, where no
    arithmetic leads there; None if it does not."""
    if graph.loss is None:
        return None
    drawn = {r.node.id for r in readings.found if r.evidence == "noise"} | readings.samples
    for reading in readings.found:
        if reading.evidence != "noise" or reading.parts:
            continue
        # the layer's output has the mean beside it
        own = [n for n in (reading.chain.nodes[0].inputs if reading.chain.nodes else []) if n.params]
        begin = own[0] if len(own) == 1 else reading.node
        todo, seen, opaque = [begin], {begin.id}, None
        while todo:
            for user in graph.consumers.get(todo.pop().id, ()):
                if user.id in seen or user.id in readings.samples:
                    continue
                seen.add(user.id)
                opaque = user if user.kind == "opaque" else opaque
                todo.append(user)
        if graph.loss.id in seen and opaque is not None and opaque.id not in drawn:
            return opaque
    return None
