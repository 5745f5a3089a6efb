"""Tell an action from a code where neither a density nor a KL is taken of it.

A policy that learns through a critic, or through a world that moves on, draws and is judged:

    action = Normal(mean, sigma).rsample()                      # mean, sigma of the state
    loss = -self.critic(torch.cat([state, action], -1)).mean()

So does an encoder whose codes are decoded: what a network makes of a code is compared with data that it was inferred
from. An action is compared with nothing. It stands beside the state that it was computed of, or where other passes put
an action of the data, as the critic's own loss and the world's own observations do; there a reward may follow:

    value = self.critic(torch.cat([state, taken], -1))

A code is never observed. Where a layer is given fresh noise in the place of it, as a critic of pairs (x, z) is, there
is a prior, and it is a code.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import NamedTuple

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import Emission, emission_of
from vdvae_patch.scanning.evidence.of_data import is_data
from vdvae_patch.scanning.evidence.reading import Reading, Readings
from vdvae_patch.scanning.evidence.uses import inputs_of, is_decoded, products_of


class Place(NamedTuple):
    """Where a layer reads a value.

    Attributes:
        layer: the operation that has the layer's weights.
        join: what puts the value beside others; None where the layer reads it alone.
        position: which of the joined it is.
    """

    layer: Node
    join: Node | None
    position: int


def is_action(graph: Graph, readings: Readings, raw: Spot, own: set[int]) -> bool:
    """Whether what is drawn with some scales acts, in a call that gives a loss: see the top of this file.

    Args:
        own: the scales that the draw's noise is multiplied by.
    """
    sources = inputs_of(readings, raw)
    places = list(_places(graph, products_of(graph, readings, own)))
    if not places or is_decoded(graph, readings, own, sources):
        return False
    others = [node for place in places for node in _others_at(graph, place)]
    if any(settle(Spot(n)).node.kind == "noise" for n in others):
        return False
    if any(map(is_data, others)):
        return True
    every = frozenset(node.id for node in graph.nodes if node.kind == "input")
    beside = any(_is_beside_its_state(readings, place, raw) for place in places)
    return beside and not is_decoded(graph, readings, own, every)  # also of a future that the scale does not see


def is_moved_state(graph: Graph, readings: Readings, raw: Spot, own: set[int]) -> bool:
    """Whether what is drawn is a state of a world that an action moves, which is compared with nothing.

    State and action go round: the one is computed of the other. But the actions begin: each draw of the state has an
    action behind it, and the first action has no such draw.
    """
    if not raw.node.noise or is_decoded(graph, readings, own, inputs_of(readings, raw)):
        return False
    emission = emission_of(graph, raw)
    laws: dict[Emission, list[Reading]] = {}
    for reading in readings.found:
        if reading.evidence == "noise" and not reading.parts:
            laws.setdefault(emission_of(graph, reading.raw), []).append(reading)
    states = laws.pop(emission, [])
    moved = functools.reduce(operator.or_, (_drawn(graph, readings, r) for r in states), 0)
    for actions in laws.values():
        acted = functools.reduce(operator.or_, (_drawn(graph, readings, r) for r in actions), 0)
        begin = next((r for r in actions if not r.raw.node.noise & moved), None)
        round_and_round = begin is not None and all(r.raw.node.noise & acted for r in states)
        if begin is None or not round_and_round or not begin.raw.node.data:
            continue
        if is_action(graph, readings, begin.raw, {_scale(begin)}):
            return True
    return False


def moves_by_itself(graph: Graph, readings: Readings, raw: Spot, own: set[int]) -> bool:
    """Whether one layer's σ moves a state on and on, and neither it nor the mean sees more of the data than the draws
    tell: the dynamics that a code is left to, as of a stochastic differential equation without a density of the path.

        z = z + self.drift(z) * dt + self.diffusion(z) * math.sqrt(dt) * torch.randn_like(z)

    Of a path that is inferred, the drift sees the data.
    """
    drawn = products_of(graph, readings, own)
    sums = [user for product in drawn for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    means = [Spot(n) for node in sums for n in node.inputs if n.id not in readings.samples]
    if not sums or any(inputs_of(readings, spot, through_means=False) for spot in (raw, *means)):
        return False
    emission = emission_of(graph, raw)
    alike = (r for r in readings.found if r.evidence == "noise" and not r.parts)
    draws = [r.raw.node.noise for r in alike if emission_of(graph, r.raw) == emission]
    return any(one != two and one & two == one for one in draws for two in draws)


def _scale(reading: Reading) -> int:
    return reading.node.id if reading.used < 0 else reading.used


def _drawn(graph: Graph, readings: Readings, reading: Reading) -> int:
    """The bits of the noise that a reading's σ multiplies."""
    bits = 0
    for product in products_of(graph, readings, {_scale(reading)}):
        bits |= product.noise & ~reading.raw.node.noise
    return bits


def _places(graph: Graph, drawn: list[Node]) -> Iterator[Place]:
    """Where layers read what was drawn, or what arithmetic makes of it."""
    todo: list[tuple[Node, Node | None, int]] = [(node, None, 0) for node in drawn]
    seen: set[int] = {node.id for node in drawn}
    while todo:
        node, join, position = todo.pop()
        for user in graph.consumers.get(node.id, ()):
            if user.kind == "opaque" and any(n.params and not (n.data or n.noise) for n in user.inputs):
                yield Place(user, join, position)
            elif user.id not in seen and user.kind in ("elementwise", "shape"):
                seen.add(user.id)
                if user.op in ops.JOINING and join is None:
                    todo.append((user, user, [n.id for n in user.inputs].index(node.id)))
                else:
                    todo.append((user, join, position))


def _others_at(graph: Graph, place: Place) -> Iterator[Node]:
    """What other passes of the same layer have in the place."""
    weights = {settle(Spot(n)).node.id: n for n in place.layer.inputs if n.params and not (n.data or n.noise)}
    for node in _users(graph, next(settle(Spot(n)).node for n in weights.values())):
        if node.op != place.layer.op or node is place.layer:
            continue
        if not weights.keys() <= {settle(Spot(n)).node.id for n in node.inputs}:
            continue
        for given in node.inputs:
            if given.params and not (given.data or given.noise):
                continue
            if place.join is None:
                yield given
            else:
                join = _join_behind(given)
                if join is not None and len(join.inputs) == len(place.join.inputs):
                    yield join.inputs[place.position]


def _users(graph: Graph, weight: Node) -> Iterator[Node]:
    """The layers that read a weight, as it is or with its dimensions moved."""
    todo, seen = [weight], {weight.id}
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.id not in seen:
                seen.add(user.id)
                if user.kind == "shape":
                    todo.append(user)
                else:
                    yield user


def _join_behind(node: Node) -> Node | None:
    while node.kind == "shape" and node.op not in ops.JOINING and node.inputs:
        node = node.inputs[0]
    return node if node.op in ops.JOINING else None


def _is_beside_its_state(readings: Readings, place: Place, raw: Spot) -> bool:
    """Whether a draw is put beside something of which its own scale was computed."""
    if place.join is None:
        return False
    return any(
        _is_behind(settle(Spot(n)).node, raw.node)
        for position, n in enumerate(place.join.inputs)
        if position != place.position and (n.data or n.noise)
    )


def _is_behind(early: Node, late: Node) -> bool:
    todo, seen = [late], set[int]()
    while todo:
        node = todo.pop()
        if node is early:
            return True
        if node.id > early.id and node.id not in seen:
            seen.add(node.id)
            todo.extend(node.inputs)
    return False
