"""The diagonal of a Cholesky factor that a `MultivariateNormal` was given: each element is a σ.

    L = torch.tril(self.below(x).view(-1, n, n), -1) + torch.diag_embed(F.softplus(self.raw(x)))
    law = MultivariateNormal(self.mean(x), scale_tril=L)

With L lower triangular and x = m + L ε, the density is a product of one-dimensional Normals,

    N(x; m, L Lᵀ) = ∏ᵢ N(xᵢ; mᵢ + Σⱼ₍ⱼ﹤ᵢ₎ Lᵢⱼ εⱼ, Lᵢᵢ²),

so that Lᵢᵢ is the standard deviation of xᵢ where all before it are known: a scale like any other, whatever stands below
the diagonal. It is taken where the factor is seen to be a diagonal and strictly lower matrices, added up.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import scaled_noise
from vdvae_patch.scanning.arithmetic.cuts import argument
from vdvae_patch.scanning.arithmetic.graph import Graph, Node, NormalSeen


def settle_factors(graph: Graph) -> None:
    """Note the diagonals of such factors as scales of Normals; their distributions are no others any more."""
    left = []
    for other in graph.others:
        diagonal = _diagonal(other.scale) if other.argument == "scale_tril" and other.loc is not None else None
        if diagonal is None or other.loc is None:
            left.append(other)
            continue
        graph.factors[other.scale.id] = diagonal
        graph.normals.append(NormalSeen(other.loc, diagonal))
    graph.others = left


def _diagonal(factor: Node) -> Node | None:
    """What a factor has on its diagonal; None where that is not one value's, or cannot be told."""
    todo, found = [factor], list[Node]()
    while todo and len(todo) < _MOST_PARTS:
        node = todo.pop()
        while node.op in ops.COPYING and node.inputs:
            node = node.inputs[0]
        if node.op == "add" and node.kind == "elementwise" and node.kwargs.get("alpha", 1) == 1 and _are_matrices(node):
            todo += node.inputs
        elif node.op == "diag_embed" and node.args[1:] in ((), (0,), (0, -2, -1)):
            found.append(node.inputs[0])
        elif not (node.op == "tril" and argument(node, 1, "diagonal", 0) < 0):
            return None
    return found[0] if len(found) == 1 and _is_apart(found[0]) else None


def _is_apart(diagonal: Node) -> bool:
    """Whether what stands on the diagonal is a value of its own, and not taken out of a matrix that a network emits,
    where its channels are no range."""
    todo = [diagonal]
    while todo:
        node = todo.pop()
        if node.op == "diagonal":
            return False
        if node.kind in ("shape", "elementwise"):
            todo += [n for n in node.inputs if n.params]
    return True


def drawn_by_factor(graph: Graph, node: Node) -> Node | None:
    """Of a product L ε with fresh noise, the diagonal of L; None for any other."""
    if not graph.factors or node.op not in ops.COMBINING or not any(scaled_noise(n) is not None for n in node.inputs):
        return None
    for operand in node.inputs:
        while operand.id not in graph.factors and operand.kind == "shape" and len(operand.inputs) == 1:
            operand = operand.inputs[0]
        if operand.id in graph.factors:
            return graph.factors[operand.id]
    return None


def _are_matrices(node: Node) -> bool:
    """Whether a sum is of two matrices, of which none is repeated."""
    return len(node.inputs) == 2 and all(n.shape[-2:] == node.shape[-2:] for n in node.inputs)


_MOST_PARTS = 8
