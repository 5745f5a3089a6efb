"""A density of a value of which the scale is computed belongs to a flow.

A flow writes the density of its input with a scale that it computes of that very input:

    half, z = x.chunk(2, 1)
    log_sigma = self.net(z)
    log_p = -0.5 * (z * log_sigma.exp()) ** 2 + log_sigma

A prior p(h | z) with z drawn from q(z | h) depends on h, too, but through fresh noise: given z it does not. And a scale
that the host gives to a `Normal` is none of a flow, whatever it is computed of: an autoregressive likelihood is that.
"""

from __future__ import annotations

import functools
import operator

from vdvae_patch.scanning.expression import Expression
from vdvae_patch.scanning.gaussian import GaussianTerm
from vdvae_patch.scanning.graph import Graph
from vdvae_patch.scanning.reading import Readings
from vdvae_patch.scanning.rules.stages import terms


@terms.rule()
def flow(graph: Graph, term: GaussianTerm, readings: Readings) -> str | None:
    """Refuse a raw value that is computed of the mean, with no fresh noise in between."""
    given = any(r.evidence == "Normal" and r.raw.key == term.raw.key for r in readings.found)
    if not given and _is_computed_of_its_mean(term):
        return "its density is of a value that it is computed from, as a flow's is"
    return None


def _is_computed_of_its_mean(term: GaussianTerm) -> bool:
    raws = [leaf.node for leaf in Expression(term.node).leaves.values()]
    noise = functools.reduce(operator.or_, (node.noise for node in raws), term.raw.node.noise)
    means = {m.node.id for m in term.means if not noise & ~m.node.noise and (m.node.noise or m.node.kind == "input")}
    if term.side != "p" or not means:
        return False
    todo, seen = [term.raw.node, *raws], set[int]()
    while todo:
        node = todo.pop()
        if node.id in means and node not in (term.raw.node, *raws):
            return True
        if node.id not in seen:
            seen.add(node.id)
            todo.extend(node.inputs)
    return False
