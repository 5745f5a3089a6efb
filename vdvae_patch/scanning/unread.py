"""Near misses that no rule gives: what looks like a Normal with a learned scale and is read as none.

Of a Normal with correlations, by PyTorch's class or written out; of a distribution of another kind; of a density that
is almost a Normal's; and where nothing at all was found, of the noise that was drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.chain import descend, scaled_noise
from vdvae_patch.scanning.emission import emission_of
from vdvae_patch.scanning.expression import Expression, Spot, SpotKey, settle
from vdvae_patch.scanning.gaussian import LEAST_CORRELATION, MOST_LEAVES, Probe
from vdvae_patch.scanning.graph import Frame, Graph, Node, ancestors
from vdvae_patch.scanning.interpolated import leaves_of
from vdvae_patch.scanning.reading import NearMiss, Readings, where
from vdvae_patch.trace import shown


def unread(graph: Graph, readings: Readings, unmatched: Mapping[SpotKey, Node]) -> Iterator[NearMiss]:
    """The near misses of a graph.

    Args:
        unmatched: raw values that change a density as a scale does, with where that is complete; see `gaussian_terms`.
    """
    found = [*_others(graph), *_almost(graph, readings, unmatched)]
    yield from dict.fromkeys(found)
    if not found and not readings.found and not readings.near_misses:
        for node in graph.nodes:
            if node.kind == "noise":
                yield NearMiss.at(node, _unscaled(graph, node))


def _unscaled(graph: Graph, noise: Node) -> str:
    """What is to be said of noise that no network's output is multiplied by: its scale may have left PyTorch."""
    for product in graph.consumers.get(noise.id, ()):
        scale = next((n for n in product.inputs if n is not noise), None) if product.op == "mul" else None
        if scale is not None and settle(Spot(scale)).node.kind == "constant" and not scale.even:
            return (
                f"{_UNSCALED}; it is multiplied by numbers that no operation of PyTorch computes, as NumPy does: "
                f"through these no gradient comes. {_BY_TORCH}"
            )
    if graph.read_out:
        at = ", ".join(dict.fromkeys(shown(where(node)) for node in graph.read_out[:_SHOWN]))
        return (
            f"{_UNSCALED}; if σ is the number of .item() or float() at {at}, no gradient comes through it. {_BY_TORCH}"
        )
    return _UNSCALED


_UNSCALED = "fresh Normal noise is drawn, and no value that a network computes scales it"
_BY_TORCH = "Compute σ of the network's output by torch's functions"
_SHOWN = 3


def _others(graph: Graph) -> Iterator[NearMiss]:
    named, told = set[str](), list[Node]()
    for other in graph.others:
        reason = "its scale is that of no Normal, and no head"
        if "Normal" in other.name:
            reason = _with_advice(graph, _CORRELATED, other.scale, other.argument)
        named.add(_line(other.frames))
        yield NearMiss(_line(other.frames), reason, other.name)
    for node in graph.nodes:
        if node.params and node.kind == "opaque" and node.op in ops.COMBINING and _mixes_noise(graph, node):
            if where(node) in named:
                continue  # PyTorch's own draw
            matrix = next(n for n in node.inputs if n.params and not n.noise)
            told.append(matrix)
            reason = f"fresh Normal noise meets a matrix that a network computes: {_CORRELATED}"
            yield NearMiss.at(node, _with_advice(graph, reason, matrix, "scale_tril"))
    before = ancestors(told)
    for node in graph.nodes:
        if node.op in _FACTORING and node.index == 0 and node.kind == "opaque" and where(node) not in named:
            matrix = node.inputs[0]
            if matrix.params and matrix.data and node.id not in before:  # the factor of a draw is told of with the draw
                named.add(where(node))
                yield NearMiss.at(node, _with_advice(graph, f"of a matrix: {_CORRELATED}", matrix, "covariance_matrix"))


_FACTORING = frozenset({"linalg_cholesky_ex", "_linalg_slogdet", "_linalg_det"})
"""What a density takes of a covariance; those of diagonals are written down as arithmetic, see `diagonals.py`."""
_POWERS = {"cov_diag": " ** 2", "covariance_matrix": " ** 2", "precision_matrix": " ** -2"}


def _with_advice(graph: Graph, reason: str, scale: Node, argument: str) -> str:
    """The reason, where the scale's diagonal is computed, and what to write in its place.

    A matrix with a bounded diagonal has a bounded inverse, whatever is below the diagonal; so has a diagonal that a
    product of rank k is added to.
    """
    if argument == "cov_factor":
        return f"{reason}; what cov_diag adds bounds it from below"
    diagonal = scale if argument == "cov_diag" else _diagonal_of(scale)
    place = "the diagonal"
    if diagonal is not None:
        chain = descend(Spot(diagonal))
        if chain.end == "raw" and chain.nodes:
            path = emission_of(graph, chain.begin).path
            place = f"the diagonal, which is computed of {path} at {shown(where(chain.nodes[-1]))},"
    written = 'vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v)'
    if diagonal is None and argument in ("covariance_matrix", "precision_matrix"):
        return f"{reason}; in the place of it give a scale_tril with {written} as its diagonal"
    return f"{reason}; in the place of {place} write {written}{_POWERS.get(argument, '')}"


def _diagonal_of(matrix: Node) -> Node | None:
    """What a matrix, or one that is added to it, is given as its diagonal."""
    todo, seen = [matrix], set[int]()
    while todo and len(seen) < _NEAR:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if node.op == "diag_embed" and node.inputs:
            return node.inputs[0]
        if node.kind in ("shape", "elementwise"):
            todo += [n for n in node.inputs if n.params]
    return None


_NEAR = 30


def _almost(graph: Graph, readings: Readings, unmatched: Mapping[SpotKey, Node]) -> Iterator[NearMiss]:
    known = {key for reading in readings.found for key in leaves_of(reading)}
    stops = frozenset(readings.samples | readings.merged)
    for key, total in unmatched.items():
        if key not in known:
            yield NearMiss.at(total, _CROSSED if _is_crossed(total, stops) else _ALMOST)
    for node in graph.nodes:  # a density that no logarithm was taken of
        if node.op in ops.EXPONENTIAL and node.params and _is_crossed(node.inputs[0], stops):
            yield NearMiss.at(node, _CROSSED)


def _is_crossed(total: Node, stops: frozenset[int]) -> bool:
    """Whether an expression is quadratic in two values that are correlated: ℓ = (A x² + 2 R x y + B y²) / 2 with
    0 < R² < A B. Of one difference, (x - y)², it is R² = A B."""
    expression = Expression(Spot(total), stops, most=MOST_LEAVES)
    if not 3 <= len(expression.leaves) <= MOST_LEAVES:
        return False
    probe = Probe(expression)
    curved = [key for key in expression.leaves if probe.curvature(key) is not None]
    return any(
        LEAST_CORRELATION < probe.correlation(one, other) < 1 - LEAST_CORRELATION
        for one, other in itertools.combinations(curved, 2)
    )


_CORRELATED = "a Normal with correlations has no σ of each element; heads are of Normals whose elements are independent"
_ALMOST = (
    "a network's output changes the curvature and the logarithm of an expression as the σ of a Normal does, but no "
    "step has just the values of that σ, as where elements are correlated"
)


_CROSSED = (
    "the density of a Normal whose elements are correlated, written out; where the host makes one of its scales "
    'positive write vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v), and keep the correlation away from 1, as '
    "0.99 * torch.tanh(v) does"
)


def _line(frames: tuple[Frame, ...]) -> str:
    frame = next((frame for frame in frames if frame.host), None)
    return "" if frame is None else f"{frame.code.co_filename}:{frame.line}"


def _mixes_noise(graph: Graph, node: Node) -> bool:
    """Whether fresh noise meets a matrix of a network's: not one of its weights as they are, and no diagonal of σ."""
    operands = node.inputs
    noisy = [n for n in operands if (fresh := scaled_noise(n)) is not None and fresh.node.kind == "noise"]
    learned = [n for n in operands if n.params and not n.noise and settle(Spot(n)).node.kind != "parameter"]
    return bool(noisy) and any(not _is_diagonal(graph, n) for n in learned)


def _is_diagonal(graph: Graph, node: Node) -> bool:
    """Whether a matrix is the diagonal that a Normal was seen to be given."""
    while node.kind == "shape" and node.op != "diag_embed" and node.inputs:
        node = node.inputs[0]
    return (
        node.op == "diag_embed"
        and bool(node.inputs)
        and any(normal.scale is node.inputs[0] for normal in graph.normals)
    )
