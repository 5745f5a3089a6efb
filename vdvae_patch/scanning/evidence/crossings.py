"""Where a density of two correlated values may stand: what is computed of two differences together.

To try every expression of a model for such a density would take long. In each of them stands a product of two
differences, (x − m)(y − n), or a difference of one and a multiple of another, (y − n) − c (x − m), and few other losses
have either; so those nodes are marked in one pass.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph, Node, in_order


def crossed_differences(graph: Graph) -> tuple[set[int], frozenset[int]]:
    """What is computed of two differences together, (x − m)(y − n) or (y − n) − c (x − m), and these differences."""
    factors: dict[int, frozenset[int]] = {}
    crossed, differences = set[int](), frozenset[int]()
    for node in in_order(graph):
        if not node.params or node.kind not in ("elementwise", "shape"):
            continue
        own = [factors.get(n.id, _NO_FACTORS) for n in node.inputs if n.params]
        apart = len(own) > 1 and all(own) and not own[0] & own[1]
        joins = apart and (node.op in ops.MULTIPLYING or node.op in ops.SUMMING)
        if node.op in ops.SUMMING and sum(isinstance(a, Node) for a in node.args) > 1:
            factors[node.id] = frozenset({node.id})
        elif node.op in ops.SELECTING | ops.NARROWING and any(own):
            factors[node.id] = frozenset({node.id})  # of one difference of two coordinates each is one
        elif node.kind == "shape" or node.op in ops.MULTIPLYING or node.op == "neg":
            factors[node.id] = frozenset().union(*own) if len(own) < 2 or apart or not all(own) else _NO_FACTORS
        if joins:
            differences |= own[0] | own[1]
        if joins or any(n.id in crossed for n in node.inputs):
            crossed.add(node.id)
    return crossed, differences


_NO_FACTORS = frozenset[int]()


def is_density(node: Node) -> bool:
    """Whether a node may be a density that no logarithm was taken of: a multiple of an exponential."""
    return node.op in ops.MULTIPLYING and any(_is_exponential(n) for n in node.inputs if n.params)


def _is_exponential(node: Node, depth: int = 2) -> bool:
    if node.op in ops.EXPONENTIAL:
        return True
    inner = node.inputs if depth > 0 and node.kind in ("elementwise", "shape") else []
    return any(_is_exponential(n, depth - 1) for n in inner)
