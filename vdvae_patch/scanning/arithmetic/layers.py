"""Modules whose output is a layer's, though they compute it by arithmetic of their own.

The way back from a σ ends at a node that is `opaque`, such as a matrix product. A module that adds a bias of its own
behind the product would end it too early, at the product, which the module does not return:

    def forward(self, x, adjacency):
        return adjacency @ self.lin(x) + self.bias

So that addition is made opaque, too: it is this module's raw output. So are the gates of PyTorch's recurrent layers and
the sum of a value and of what a layer computes of it, as a residual block returns it, whether the value is another
layer's or data:

    hidden = hidden + self.attention(hidden)
    return hidden + self.out(F.relu(hidden))

Without this the second addend would be named for the sum, and where the first one is data, one of its elements would be
taken for a constant of the host's.
"""

from __future__ import annotations

from torch import nn

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Frame, Graph, Node


def join_layers(graph: Graph) -> None:
    """Make opaque what a module returns, if it is a layer's output in all but the form.

    That is so if the module has added, or multiplied by, a parameter of its own: a bias behind a graph convolution, a
    gain behind a convolution. So it is if a gate lets what it computes through in part: silu(self.a(x)) *
    sigmoid(self.b(x)). And if it is the sum of what two of its layers compute, as a residual block's is, or of
    something and what a layer computes of it. A sum of data and what a layer computes of them is a raw value wherever
    it is formed. A module that returns several values is a layer by itself where its own lines have product and bias:

        return {"out": x @ self.weight + self.bias, "penalty": (self.weight**2).sum()}
    """
    for node in graph.nodes:
        passed = _passed_by(node)
        recurrent = node.kind == "elementwise" and node.frames and is_recurrent(node.frames[0])
        if recurrent or (passed is not None and not passed.params):
            node.kind = "opaque"
    for number, paths in graph.returned.items():
        node = _moved_from(graph.nodes[number])
        owners = [path for path in paths if path]
        operands = [n for n in node.inputs if n.params]
        if node.kind != "elementwise" or len(operands) != 2 or not owners:
            continue
        if node.op == "add":
            is_layer = _is_residual(operands, owners) or _is_weighted(operands, owners) or _passed_by(node) is not None
        else:
            is_layer = node.op == "mul" and (_is_weighted(operands, owners) or _is_gated(operands))
        if is_layer:
            node.kind = "opaque"
    for number, paths in graph.returned_beside.items():
        node = _moved_from(graph.nodes[number])
        operands = [n for n in node.inputs if n.params]
        weighted = node.op in ops.WEIGHING and len(operands) == 2 and _is_weighted(operands, paths)
        if node.kind == "elementwise" and weighted and all(_is_own(n, paths) for n in operands):
            node.kind = "opaque"


def _is_own(node: Node, owners: list[str]) -> bool:
    """Whether a module's own lines compute a value, and no layer of it does; or whether it is a parameter."""
    node = _moved_from(node)
    path = next((frame.path for frame in node.frames if frame.path is not None), None)
    return path in owners or node.kind == "parameter"


def is_recurrent(frame: Frame) -> bool:
    """Whether a frame is of a recurrent layer of PyTorch's: its gates are arithmetic, and none of the host's."""
    return not frame.host and frame.code.co_filename == _RECURRENT


_RECURRENT = nn.GRU.forward.__code__.co_filename


def _is_residual(operands: list[Node], owners: list[str]) -> bool:
    """Whether all operands are computed by layers of one module: `self.model(x) + self.shortcut(x)`."""
    return any(all(_comes_from(n, f"{path}.") for n in operands) for path in owners)


def _passed_by(node: Node) -> Node | None:
    """Of a sum h + f(h), in which a layer computes f of h, the h that goes past the layer."""
    if node.op != "add" or node.kind != "elementwise" or len(node.inputs) != 2:
        return None
    for passed, added in (node.inputs, node.inputs[::-1]):
        layer = _moved_from(added)
        is_sum = passed.data and passed.shape == added.shape == node.shape
        if is_sum and layer.kind == "opaque" and layer.params and _is_computed_of(layer, passed):
            return passed
    return None


def _is_computed_of(node: Node, source: Node) -> bool:
    """Whether a way of operations leads from one node to another, later one."""
    todo, seen = [node], set[int]()
    while todo:
        for operand in todo.pop().inputs:
            if operand is source:
                return True
            if operand.id > source.id and operand.id not in seen:
                seen.add(operand.id)
                todo.append(operand)
    return False


def _comes_from(node: Node, prefix: str) -> bool:
    """Whether a layer below a module computes a value."""
    node = _moved_from(node)
    path = next((frame.path for frame in node.frames if frame.path is not None), None)
    return node.kind == "opaque" and path is not None and path.startswith(prefix)


def _is_weighted(operands: list[Node], owners: list[str]) -> bool:
    """Whether one operand is a parameter of the module's own, and the other one a layer's output."""
    weights = [n for n in operands if any(_is_made_of(n, path) for path in owners)]
    layer = next((n for n in operands if n not in weights), None)
    return layer is not None and len(weights) == 1 and _moved_from(layer).kind == "opaque"


def _is_gated(operands: list[Node]) -> bool:
    """Whether one operand is a gate between 0 and 1, and the other one no scale, as in `silu(a(x)) * sigmoid(b(x))`. Of
    two that are positive the product may be one of scales."""
    made = [_moved_from(n) for n in operands]
    gates = [n for n in made if n.op in ops.GATES]
    return len(gates) == 1 and all(n in gates or n.op not in ops.POSITIVE for n in made)


def _is_made_of(weight: Node, path: str) -> bool:
    """Whether a value is computed of parameters of a module itself, and of nothing else: `torch.exp(3 * self.gain)`."""
    todo, seen = [weight], set[int]()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if node.kind == "parameter":
            if node.name.rpartition(".")[0] != path:
                return False
        elif node.kind in ("elementwise", "shape"):
            todo.extend(n for n in node.inputs if n.params)
        else:
            return False
    return True


def _moved_from(node: Node) -> Node:
    """Back through operations that only move elements, along their first operands."""
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    return node
