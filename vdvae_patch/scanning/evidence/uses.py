"""What becomes of a value that was drawn, which tells a latent code from an action.

A latent code is decoded, and what a network makes of it is compared with the data that it was inferred from:

    z = mean + sigma * torch.randn_like(mean)
    loss = F.mse_loss(self.decoder(z), x)

An action is judged. Its density, or its entropy, keeps a policy from narrowing down, and there is no prior:

    action = Normal(mean, sigma).rsample()
    loss = 0.2 * Normal(mean, sigma).log_prob(action).sum(-1) - self.critic(torch.cat([state, action], -1))
"""

from __future__ import annotations

from collections.abc import Iterator

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import shifted_noise
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import Probe
from vdvae_patch.scanning.evidence.of_data import is_data
from vdvae_patch.scanning.evidence.reading import Readings


def is_decoded(graph: Graph, readings: Readings, own: set[int], sources: frozenset[int], bare: bool = False) -> bool:
    """Whether what a network makes of a draw is compared with data.

    Args:
        own: the scales that the draw's noise is multiplied by.
        sources: the inputs whose data count.
        bare: whether the draw itself is looked at, and what arithmetic makes of it.
    """
    todo = [(product, bare) for product in products_of(graph, readings, own)]
    seen: set[tuple[int, bool]] = set()
    while todo:
        node, decoded = todo.pop()
        if (node.id, decoded) in seen:
            continue
        seen.add((node.id, decoded))
        for user in graph.consumers.get(node.id, ()):
            layer = user.kind == "opaque" and any(n.params for n in user.inputs if n is not node)
            if decoded and not layer and user.op not in _PUTTING_BESIDE:
                others = (n for n in user.inputs if n is not node)
                compared = any(is_data(n) and inputs_of(readings, Spot(n)) & sources for n in others)
                if compared and not is_read(graph, user):
                    return True
            todo.append((user, decoded or layer))
    return False


def reached_by_arithmetic(graph: Graph, node: Node) -> Iterator[tuple[Node, Node]]:
    """What arithmetic makes of a value, no layer in between: each operation, and the operand through which it is
    reached."""
    todo, seen = [node], {node.id}
    while todo:
        current = todo.pop()
        for user in graph.consumers.get(current.id, ()):
            # a module's output may be called opaque though a sum makes it, see `layers.py`
            if user.kind in ("elementwise", "shape") or user.op in ops.SUMS:
                yield user, current
                if user.id not in seen:
                    seen.add(user.id)
                    todo.append(user)


def is_compared(graph: Graph, node: Node) -> bool:
    """Whether a value is compared with data as it is: its difference to them is taken."""
    return any(
        user.op in ops.DIFFERENCES - {"add"} and any(is_data(n) for n in user.inputs if n is not operand)
        for user, operand in reached_by_arithmetic(graph, node)
    )


_PUTTING_BESIDE = ops.JOINING | {"add"}
"""A critic is given a state beside an action, and a step is added to a state: neither compares."""


def is_read(graph: Graph, node: Node) -> bool:
    """Whether a layer goes on from a value, as from a state that an action moves; a loss is read by none."""
    todo, seen = [node], {node.id}
    while todo:
        current = todo.pop()
        for user in graph.consumers.get(current.id, ()):
            if user.kind == "opaque" and any(n.params for n in user.inputs if n is not current):
                return True
            if user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False


def has_prior(graph: Graph, readings: Readings, own: set[int]) -> bool:
    """Whether a draw itself is squared, mean and noise, as in the density of a standard Normal; its distance to data,
    as a cost of actions has it, is no such density."""
    products = products_of(graph, readings, own)
    stops = frozenset(product.id for product in products)
    for node in _computed_of(graph, products):
        squares = node.op in ops.POWERS or (node.op == "mul" and len({n.id for n in node.inputs}) == 1)
        if node.kind != "elementwise" or not squares:
            continue
        expression = Expression(Spot(node), stops)
        probe = Probe(expression)
        drawn = [key for key, leaf in expression.leaves.items() if leaf.node.id in stops]
        if any(is_data(leaf.node) and probe.curvature(key) is not None for key, leaf in expression.leaves.items()):
            continue
        means = [key for key, leaf in expression.leaves.items() if leaf.node.id not in stops and leaf.node.params]
        squared = [expression.leaves[key].node for key in drawn if probe.curvature(key) is not None]
        has_mean = any(probe.curvature(key) is not None for key in means)
        # torch.normal(mean, std) gives mean and noise at once; with a mean beside it, it is its own density
        if any(has_mean != (node.op in ops.SCALING_NOISE) for node in squared):
            return True
    return False


def products_of(graph: Graph, readings: Readings, own: set[int]) -> list[Node]:
    """The nodes σ ε of some σ."""
    users = (user for scale in own for user in graph.consumers.get(scale, ()) if user.id in readings.samples)
    return sorted(dict.fromkeys(users), key=lambda node: node.id)


def drawn_weights(graph: Graph, scale: Node) -> list[Node]:
    """The draws with a scale around a parameter that are weights: a layer applies them to data, or adds them.

    weight = self.mean + F.softplus(self.rho) * torch.randn_like(self.mean)
    out = F.linear(x, weight)

    Of weights whose mean is told in units of σ, `(self.ratio + noise) * self.rho.abs()`, the product is the draw.
    """
    drawn = [product for product, _ in of_ratios(graph, scale)]
    for product in graph.consumers.get(scale.id, ()):
        if product.op == "addcmul" and product.noise:
            drawn += [product] if _are_parameters(product.inputs[:1]) else []
        elif product.kind == "elementwise" and product.noise and not product.data:
            sums = (n for n in graph.consumers.get(product.id, ()) if n.op == "add")
            drawn += [n for n in sums if _are_parameters([i for i in n.inputs if i is not product])]
    return [node for node in drawn if _is_applied(graph, node)]


def of_ratios(graph: Graph, scale: Node) -> Iterator[tuple[Node, Node]]:
    """The products of a scale with a sum of noise and a mean that is told in units of it, and that mean."""
    for product in graph.consumers.get(scale.id, ()):
        summed = next((n for n in product.inputs if n is not scale), None)
        if product.op == "mul" and summed is not None and shifted_noise(summed) is not None:
            yield product, next(n for n in summed.inputs if n.params)


def are_squared(graph: Graph, nodes: list[Node]) -> bool:
    """Whether arithmetic squares some values, as the density of a standard Normal does."""
    return any(
        node.op in ops.POWERS or (node.op == "mul" and len({n.id for n in node.inputs}) == 1)
        for node in _computed_of(graph, nodes)
    )


def _are_parameters(nodes: list[Node]) -> bool:
    return bool(nodes) and all(n.params and not n.data and not n.noise for n in nodes)


def _is_applied(graph: Graph, drawn: Node) -> bool:
    """Whether a value, or its elements elsewhere, is multiplied by data, or added to it."""
    todo, seen = [drawn], set[int]()
    while todo:
        node = todo.pop()
        for user in graph.consumers.get(node.id, ()):
            others = [n for n in user.inputs if n is not node]
            if (user.kind == "opaque" or user.op == "add") and any(n.data for n in others):
                return True
            if user.kind == "shape" and user.op not in ops.JOINING and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False


def inputs_of(readings: Readings, spot: Spot, through_means: bool = True) -> frozenset[int]:
    """The inputs that a value is computed of with no draw in between.

    Args:
        through_means: whether what a draw's mean is computed of counts, as of a code that stands for its data.
    """
    return frozenset(spot.node.id for spot in _input_spots(readings, spot, through_means))


def sees_less(readings: Readings, one: Spot, other: Spot) -> bool:
    """Whether a value is computed of less of the data than another one: of fewer inputs, or of a part of one."""
    own, others = list(_input_spots(readings, one)), list(_input_spots(readings, other))
    fewer, more = {s.node.id for s in own}, {s.node.id for s in others}
    if fewer != more:
        return fewer < more
    whole = {s.node.id for s in others if not s.cuts}
    return any(s.node.id in whole for s in own) and all(s.cuts for s in own if s.node.id in whole)


def _input_spots(readings: Readings, spot: Spot, through_means: bool = True) -> Iterator[Spot]:
    todo, seen = [spot.node], set[int]()
    while todo:
        node = todo.pop()
        if node.id in seen or not node.data or node.id in readings.samples:
            continue
        seen.add(node.id)
        if not through_means and node.op == "add" and any(n.id in readings.samples for n in node.inputs):
            continue
        begin = settle(Spot(node))
        if begin.node.kind == "input":
            yield begin
        else:
            todo.extend(node.inputs)


def _computed_of(graph: Graph, nodes: list[Node]) -> Iterator[Node]:
    """What is computed of some nodes by arithmetic, without a layer in between."""
    todo, seen = list(nodes), set[int]()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        yield node
        todo.extend(user for user in graph.consumers.get(node.id, ()) if user.kind in ("elementwise", "shape"))
