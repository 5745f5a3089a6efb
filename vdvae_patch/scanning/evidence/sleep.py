"""Densities by which a posterior learns without a KL, as in wake-sleep and in bounds whose samples are weighed.

Its law may be computed twice, once to draw and once for the density of what was drawn, so that the raw value of the
density is another tensor than the one of the draw:

    with torch.no_grad():
        z = self.q(x).sample((k,))
    log_w = self.p(z).log_prob(x) + self.prior.log_prob(z) - self.q(x).log_prob(z)
    loss = -(log_w.detach().softmax(0) * log_w).sum(0).mean()

And in the sleep phase it learns to find again what a dream was made of. No data are in it, and its density is of the
very draw that it is computed of, behind what was dreamt:

    z = torch.randn(n, 4)
    dream = self.p(z).sample()
    loss = -self.q(dream).log_prob(z).mean()

A prior p(h | z) may be computed of h as well, by way of its posterior, but h is of data then.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic.expression import Spot, SpotKey, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.reading import Reading, Readings
from vdvae_patch.scanning.evidence.uses import products_of


def draws_of_same_law(graph: Graph, readings: Readings, found: list[Reading]) -> set[int]:
    """The scales of the draws that a raw value's densities are of, where the same module emits them from the same."""
    terms = [r.term for r in found if r.evidence == "p" and r.term is not None]
    judged = {mean.node.id: mean.node for term in terms for mean in term.means if mean.node.id in readings.samples}
    scales = {n.id for node in judged.values() for n in node.inputs}
    raw = found[0].raw
    own: set[int] = set()
    for other in readings.found:
        scale = other.node.id if other.used < 0 else other.used
        if other.evidence != "noise" or scale not in scales or other.raw.cuts != raw.cuts:
            continue
        if emission_of(graph, other.raw) == emission_of(graph, raw) and _seen(readings, other.raw) == _seen(
            readings, raw
        ):
            own.add(scale)
    return own


def _seen(readings: Readings, spot: Spot) -> frozenset[SpotKey]:
    """What a value is computed of: inputs, fresh noise, and what was drawn before."""
    found, todo, seen = set[SpotKey](), [spot.node], set[int]()
    while todo:
        node = todo.pop()
        if node.id in seen or not (node.data or node.noise):
            continue
        seen.add(node.id)
        begin = settle(Spot(node))
        if begin.node.kind in ("input", "noise") or begin.node.id in readings.samples:
            found.add(begin.key)
        else:
            todo.extend(node.inputs)
    return frozenset(found)


def is_of_what_it_sees(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a density is of noise, or of what was drawn without data, and its scale is computed of that."""
    raw = term.raw.node
    drawn = [mean.node for mean in term.means if mean.node.noise and not mean.node.data and not raw.data]
    behind = graph.draws_behind(raw)  # also where the dream is of bits
    return any(node.noise & behind == node.noise for node in drawn)


def is_dreamt(graph: Graph, readings: Readings, raw: Spot, own: set[int]) -> bool:
    """Whether draws without data are what a posterior is given to find again what they were made of: no density is of
    them, so that they are observations and no codes."""
    if raw.node.data or not raw.node.noise:
        return False
    products = products_of(graph, readings, own)
    drawn = 0
    for node in products:
        drawn |= node.noise
    terms = [r.term for r in readings.found if r.evidence == "p" and r.term is not None]
    ids = {node.id for node in products}
    if not drawn or any(mean.node.id in ids for term in terms for mean in term.means):
        return False
    return any(is_of_what_it_sees(graph, term) and graph.draws_behind(term.raw.node) & drawn for term in terms)
