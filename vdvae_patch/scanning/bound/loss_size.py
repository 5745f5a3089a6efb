"""How large a loss is: by the magnitudes of what it adds up, so that one near zero, or a negative one, has a size, too.

A log likelihood of continuous data has any sign, and may cancel against a KL. Beside what is added up, 0.1 of a loss
that is 0.2 = 300.2 − 300 is little.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.bound.replay import Tail


def size_of(tail: Tail) -> float:
    """Σ |wₖ tₖ| of a loss L = Σ wₖ tₖ, in its own units: tₖ are the sums and means, the innermost ones, that it is a
    linear combination of, as of `recon.sum() + beta * kl.mean()`; at least |L|."""
    terms = _terms(tail)
    weights = tail.adjoints(terms)
    parts = [float((weights[node.id] * tail.base[node.id]).sum()) for node in terms if node.id in weights]
    return max(abs(float(tail.base[tail.end.id].sum())), sum(map(abs, parts)))


def _terms(tail: Tail) -> list[Node]:
    reducing: dict[int, bool] = {}  # whether a reduction lies in or behind a node, on a way that is linear
    for node in tail.order:
        behind = any(reducing[n.id] for n in _summands(node) if n.id in reducing)
        reducing[node.id] = node.kind == "reduction" or behind
    todo, seen, found = [tail.end], {tail.end.id}, list[Node]()
    while todo:
        node = todo.pop()
        further = [n for n in _summands(node) if n.id in reducing]
        if not any(reducing[n.id] for n in further):
            found.append(node)
            continue
        for n in further:
            if n.id not in seen:
                seen.add(n.id)
                todo.append(n)
    return [node for node in found if tail.base[node.id].is_floating_point()]


def _summands(node: Node) -> list[Node]:
    """What a node is a sum of constant multiples of; nothing, where it is none."""
    variable = [n for n in node.inputs if n.params]
    scaled = len(variable) == 1 and (node.op == "mul" or (node.op in ops.FACTORS and node.inputs[0] is variable[0]))
    if node.op in ops.TOTALLED or node.kind == "shape" or node.kind == "reduction":
        return list(node.inputs)
    return variable if scaled else []
