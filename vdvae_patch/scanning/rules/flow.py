"""A density of a value of which the scale is computed belongs to a flow.

A flow writes the density of its input with a scale that it computes of that very input:

    half, z = x.chunk(2, 1)
    log_sigma = self.net(z)
    log_p = -0.5 * (z * log_sigma.exp()) ** 2 + log_sigma

A prior p(h | z) with z drawn from q(z | h) depends on h, too, but through fresh noise: given z it does not. And a scale
that the host gives to a `Normal` is none of a flow, whatever it is computed of: an autoregressive likelihood is that.
Nor is that of an autoencoder without noise, `decoder(encoder(x))`, whose density compares x with a mean: what a flow
scales x by is computed of a part of x, or through weights of which a part is masked. Nor is a scale that is computed of
another part of a value than the one whose density it is in, as the prior of what a flow splits off:

    first, second = self.net(x + noise).chunk(2, 1)
    mean, log_sigma = self.prior(first).chunk(2, 1)
    log_p = -0.5 * ((second - mean) / log_sigma.exp()) ** 2 - log_sigma

Nor is the density of data that nothing trained transforms, where a network predicts them from another part of them: of
the next step of a sequence, or of a horizon that follows a past. A flow puts the residual `(x - mean) / sigma` beside
what it was computed from and goes on with it; a likelihood does nothing with it but square it.

    mean, log_sigma = self.net(x[:, :-1]).chunk(2, -1)
    log_p = -0.5 * ((x[:, 1:] - mean) / log_sigma.exp()) ** 2 - log_sigma
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey, operands, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.scanning.rules.stages import terms


@terms.rule()
def flow(graph: Graph, term: GaussianTerm, readings: Readings) -> str | None:
    """Refuse a raw value that is computed of the mean, with no fresh noise in between."""
    given = any(r.evidence == "Normal" and r.raw.key == term.raw.key for r in readings.found)
    excused = given or not _is_computed_of_its_mean(graph, term)
    if not excused and not _is_autoencoder(graph, term) and not _predicts_data(graph, term):
        return "its density is of a value that it is computed from, as a flow's is"
    return None


def _is_computed_of_its_mean(graph: Graph, term: GaussianTerm) -> bool:
    if term.side != "p":
        return False
    raws = [leaf.node for leaf in Expression(term.node).leaves.values()]
    noise = functools.reduce(operator.or_, (node.noise for node in raws), term.raw.node.noise)
    drawn = [m for m in term.means if not noise & ~m.node.noise and (m.node.noise or m.node.kind == "input")]
    means = {m.node.id for m in drawn}
    if not means:
        return False
    # a deep model has hundreds of levels before it: the way back ends where no mean can lie behind
    draws = {graph.draws_behind(m.node) for m in drawn}
    todo, seen = [term.raw.node, *raws], set[int]()
    while todo:
        node = todo.pop()
        if node.id in means and node not in (term.raw.node, *raws):
            return True
        behind = graph.draws_behind(node)
        if node.id not in seen and any(not of_mean & ~behind for of_mean in draws):
            seen.add(node.id)
            todo.extend(n for n in node.inputs if not _is_another_part(n, drawn))
    return False


def _is_another_part(node: Node, means: Sequence[Spot]) -> bool:
    """Whether a node holds none of the elements of the trained network's output whose density it is."""
    spot = settle(Spot(node))
    own = [m for m in means if m.node is spot.node and m.node.params]
    return bool(own) and all(_are_apart(spot, mean) for mean in own)


def _are_apart(one: Spot, other: Spot) -> bool:
    places = {cut.dim: set(cut.places) for cut in one.cuts if cut.dim != UNKNOWN}
    return any(cut.dim in places and not places[cut.dim] & set(cut.places) for cut in other.cuts)


def _is_autoencoder(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a network of all of an input emits the raw value, and another value that is compared with the input."""
    inputs = [m.node for m in term.means if m.node.kind == "input" and not m.cuts]
    return any(m.node.params for m in term.means) and any(_sees_all(graph, term.raw.node, node) for node in inputs)


def _predicts_data(graph: Graph, term: GaussianTerm) -> bool:
    """Whether the density is of data, whose residual is only squared, and a network predicts them from other data."""
    data = [m for m in term.means if m.node.kind == "input"]
    if not data or not _is_compared(term, {m.key for m in data}) or _residual_goes_on(graph, term):
        return False
    return all(_comes_by_plain_weights(term.raw, m) for m in data)


def _is_compared(term: GaussianTerm, data: set[SpotKey]) -> bool:
    """Whether data are compared with a mean before the residual is scaled: a flow may scale first, `x * s + m`."""
    expression = Expression(Spot(term.total), through_sums=True)
    predicted = {m.key for m in term.means} - data
    for spot in expression.order:
        if spot.node.op in ops.SUMMING and term.raw.key not in expression.depends[spot.key]:
            sides = [expression.depends.get(o.key, frozenset()) for o in operands(expression, spot)]
            if any(side & data for side in sides) and any(side & predicted and not side & data for side in sides):
                return True
    return False


def _comes_by_plain_weights(raw: Spot, data: Spot) -> bool:
    """Whether neither masked weights nor the transform of another layer of a flow lie between data and a raw value."""
    todo, seen = [raw.node], {raw.node.id}
    while todo:
        node = todo.pop()
        if settle(Spot(node)).node is data.node:
            continue
        if (node.kind == "opaque" and _has_masked_weights(node)) or _transforms(node, data.node):
            return False
        for source in node.inputs:
            if source.data and source.id not in seen:
                seen.add(source.id)
                todo.append(source)
    return True


def _transforms(node: Node, source: Node) -> bool:
    """Whether data are multiplied by a mask, or by what a network emits, as a layer of a flow does."""
    if node.op not in ops.MULTIPLYING or not node.data:
        return False
    if not node.params:
        return node.op == "mul" and _leaves_out(node)
    return any(leaf.node is source for n in node.inputs for leaf in Expression(Spot(n)).leaves.values())


def _residual_goes_on(graph: Graph, term: GaussianTerm) -> bool:
    """Whether the residual that is squared, of a mean and the raw value, is also joined to something or given to a
    layer."""
    expression = Expression(Spot(term.total), through_sums=True)
    means = {m.key for m in term.means}
    todo = [
        node
        for spot in expression.order
        if spot.node.op in ops.POWERS or (spot.node.op == "mul" and len({n.id for n in spot.node.inputs}) == 1)
        for node in spot.node.inputs[:1]
    ]
    seen: set[int] = set()
    while todo:
        spot = settle(Spot(todo.pop()))
        known = expression.depends.get(spot.key, frozenset())
        if spot.node.id in seen or term.raw.key not in known or not known & means:
            continue
        seen.add(spot.node.id)
        if _is_joined_or_read(graph, spot.node):
            return True
        todo.extend(spot.node.inputs)
    return False


def _is_joined_or_read(graph: Graph, node: Node) -> bool:
    todo, seen = [node], set[int]()
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.op in ops.JOINING | ops.WRITING or (
                user.kind == "opaque" and any(n.params and not n.data for n in user.inputs)
            ):
                return True
            if user.kind == "shape" and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False


def _sees_all(graph: Graph, raw: Node, source: Node) -> bool:
    """Whether a way leads from an input to a raw value through which every element can come."""
    todo, seen = [(source, False)], set[tuple[int, bool]]()
    while todo:
        node, inside = todo.pop()
        if node is raw and inside:
            return True
        for user in graph.consumers.get(node.id, ()):
            through = user.kind == "opaque" and not _has_masked_weights(user)
            if user.kind == "opaque" and not through:
                continue
            if not inside and _leaves_out(user):
                continue
            following = user, inside or through
            if (user.id, following[1]) not in seen:
                seen.add((user.id, following[1]))
                todo.append(following)
    return False


def _leaves_out(node: Node) -> bool:
    """Whether an operation on data keeps a part, or multiplies by a mask."""
    masks = [n for n in node.inputs if not (n.data or n.params or n.noise) and math.prod(n.shape) > 1]
    parts = ops.NARROWING | ops.SELECTING | ops.SHUFFLING
    return node.op in parts or (node.op in ops.MULTIPLYING and bool(masks))


def _has_masked_weights(node: Node) -> bool:
    """Whether a layer's weights are a product: of a parameter and a mask."""
    weights = [settle(Spot(n)).node for n in node.inputs if n.params and not n.data and not n.noise]
    return any(n.kind == "elementwise" and n.op in ops.MULTIPLYING for n in weights)
