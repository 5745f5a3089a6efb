"""Modules whose output is a layer's, though they compute it by arithmetic of their own."""

from __future__ import annotations

from vdvae_patch.scanning.graph import Graph, Node


def join_layers(graph: Graph) -> None:
    """What a module returns after it has added, or multiplied by, a parameter of its own is a layer's output, as a
    bias is within PyTorch's layers: a bias behind a graph convolution, a gain behind a convolution. And the sum of what
    two of its layers compute, as of a residual block."""
    for number, paths in graph.returned.items():
        node = graph.nodes[number]
        while node.kind == "shape" and node.inputs:
            node = node.inputs[0]
        owners = [path for path in paths if path]
        operands = [n for n in node.inputs if n.params]
        if node.kind != "elementwise" or node.op not in ("add", "mul") or len(operands) != 2 or not owners:
            continue
        if node.op == "add" and any(all(_comes_from(n, f"{path}.") for n in operands) for path in owners):
            node.kind = "opaque"
            continue
        weights = [n for n in operands if any(_is_made_of(n, path) for path in owners)]
        layer = next((n for n in operands if n not in weights), None)
        if layer is None or len(weights) != 1:
            continue
        while layer.kind == "shape" and layer.inputs:
            layer = layer.inputs[0]
        if layer.kind == "opaque":
            node.kind = "opaque"


def _comes_from(node: Node, prefix: str) -> bool:
    """Whether a layer below a module computes a value: of two such a residual block returns the sum."""
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    path = next((frame.path for frame in node.frames if frame.path is not None), None)
    return node.kind == "opaque" and path is not None and path.startswith(prefix)


def _is_made_of(weight: Node, path: str) -> bool:
    """Whether a value is computed of parameters of a module itself, and of nothing else."""
    if weight.kind == "parameter":
        return weight.op.rpartition(".")[0] == path
    learned = [n for n in weight.inputs if n.params]
    return weight.kind in ("elementwise", "shape") and all(_is_made_of(n, path) for n in learned)
