"""Noise that another library draws, as NumPy does: for PyTorch it is a tensor of numbers, as a constant is.

    noise = torch.tensor(np.random.normal(0, 1, mean.shape), dtype=torch.float32)
    x_hat = self.decoder(noise * torch.exp(log_var / 2) + mean)

The numbers are taken for a draw by what is done with them: a scale of one size with them multiplies them, the product
is added to what a network emits, and a network goes on from the sum. One draw may serve the whole batch, and then has
the size of the last dimensions. They must be new in this call, of both signs, and no two the same; a table of positions
is added and not scaled, and a mask has two values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic.graph import Graph, Node


def may_be_drawn(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor may be independent draws from a Normal: of both signs, and no two the same."""
    if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.layout != torch.strided or tensor.is_meta:
        return False
    values = tensor.detach().flatten()[:_ENOUGH]
    return bool((values < 0).any() and (values > 0).any()) and bool((values.sort().values.diff() > 0).all())


_ENOUGH = 256
"""How many numbers are looked at. Of 256 draws in float32, two are the same with a probability of 0.1 %."""


def settle_foreign_draws(graph: Graph, draws: int) -> None:
    """Make noise of the constants that a host uses as such, and let it reach what they reach.

    Args:
        draws: how many draws the graph has so far, which numbers the next one.
    """
    for node in graph.nodes:
        if (
            node.drawn
            and node.kind == "constant"
            and any(_is_sample(graph, user, node) for user in _users(graph, node))
        ):
            node.kind, node.noise = "noise", 1 << draws
            draws += 1
            _spread(graph, node)


def _users(graph: Graph, node: Node) -> list[Node]:
    return [user for user in graph.consumers.get(node.id, ()) if user.op == "mul"]


def _is_sample(graph: Graph, product: Node, noise: Node) -> bool:
    """Whether a product is a scale times the noise, and what it is added to is read by a network."""
    scale = next((n for n in product.inputs if n is not noise), None)
    if scale is None or not scale.params or scale.shape[-len(noise.shape) :] != noise.shape:
        return False
    sums = [user for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    means = [n for user in sums for n in user.inputs if n is not product]
    return any(n.params for n in means) and any(_is_read(graph, user) for user in sums)


def _is_read(graph: Graph, node: Node) -> bool:
    """Whether a layer is given a value, as it is or moved around, or put beside another one."""
    todo, seen = [node], {node.id}
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.kind == "opaque" and any(n.params for n in user.inputs if n.kind != "elementwise"):
                return True
            if user.kind == "shape" and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False


def _spread(graph: Graph, node: Node) -> None:
    todo = [node]
    while todo:
        current = todo.pop()
        for user in graph.consumers.get(current.id, ()):
            if user.kind not in _ANSWERS and node.noise & ~user.noise:
                user.noise |= node.noise
                todo.append(user)


_ANSWERS = frozenset({"noise", "parameter", "buffer", "input"})
