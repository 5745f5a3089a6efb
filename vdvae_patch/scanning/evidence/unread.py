"""Near misses that no rule gives: what looks like a Normal with a learned scale and is read as none.

Of a Normal with correlations, by PyTorch's class or written out; of a distribution of another kind; of a density that
is almost a Normal's; and where nothing at all was found, of the noise that was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import descend, scaled_noise
from vdvae_patch.scanning.arithmetic.elements import is_pair_matrix
from vdvae_patch.scanning.arithmetic.expression import Spot, SpotKey, settle
from vdvae_patch.scanning.arithmetic.factors import drawn_by_factor
from vdvae_patch.scanning.arithmetic.graph import Frame, Graph, Node, ancestors
from vdvae_patch.scanning.evidence.correlated import Correlated
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.interpolated import leaves_of
from vdvae_patch.scanning.evidence.reading import NearMiss, Readings, where
from vdvae_patch.trace import shown


def unread(
    graph: Graph, readings: Readings, unmatched: Mapping[SpotKey, Node], pairs: Correlated
) -> Iterator[NearMiss]:
    """The near misses of a graph.

    Args:
        unmatched: raw values that change a density as a scale does, with where that is complete; see `gaussian_terms`.
        pairs: what was read of densities of two correlated values.
    """
    found = [*_others(graph, readings), *_almost(readings, unmatched, pairs)]
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


def _others(graph: Graph, readings: Readings) -> Iterator[NearMiss]:
    named, told = set[str](), list[Node]()
    sigmas = {reading.node.id for reading in readings.found if reading.term is not None}
    for other in graph.others:
        if _is_read(other.scale, sigmas):
            named.add(_line(other.frames))
            continue
        named.add(_line(other.frames))
        if "Normal" in other.name:
            reason = _with_advice(graph, _CORRELATED, other.scale, other.argument)
            yield NearMiss(_line(other.frames), reason, other.name)
        else:  # said beside heads, too: they may be cured, and this still breaks
            yield NearMiss(_line(other.frames), _NO_NORMAL, other.name, likely=True)
    for node in graph.nodes:
        if node.params and node.kind == "opaque" and node.op in ops.COMBINING and _mixes_noise(graph, node):
            if where(node) in named or drawn_by_factor(graph, node) is not None:
                continue  # PyTorch's own draw
            matrix = next(n for n in node.inputs if n.params and scaled_noise(n) is None)
            if _is_read(matrix, sigmas):
                continue
            told.append(matrix)
            reason = f"fresh Normal noise meets a matrix that a network computes: {_CORRELATED}"
            yield NearMiss.at(node, _with_advice(graph, reason, matrix, "scale_tril"))
    before, factored = ancestors(told), list[Node]()
    for node in graph.nodes:
        if node.op in _FACTORING and node.index == 0 and node.kind == "opaque" and where(node) not in named:
            matrix = node.inputs[0]
            if _is_read(matrix, sigmas):
                continue
            if matrix.params and matrix.data and node.id not in before:  # the factor of a draw is told of with the draw
                named.add(where(node))
                factored.append(node)
                yield NearMiss.at(node, _with_advice(graph, f"of a matrix: {_CORRELATED}", matrix, "covariance_matrix"))
    known = {*graph.factors, *(other.scale.id for other in graph.others), *(node.id for node in (*told, *factored))}
    for node in graph.nodes:
        if node.op != "linalg_solve_triangular" or node.kind != "opaque":
            continue
        factor = node.inputs[0]
        if factor.params and factor.data and known.isdisjoint(ancestors([factor])):
            known.add(factor.id)
            reason = f"a triangular matrix is solved for, as in a density: {_CORRELATED}"
            yield NearMiss.at(node, _with_advice(graph, reason, factor, "scale_tril"))


_NO_NORMAL = (
    "its scale is that of no Normal, and no head: a patch leaves it as it is, and nothing was tried there; where "
    "nothing bounds it yet, do so in your own code, as scale.clamp(1e-3, 1e3) does"
)


def _is_read(matrix: Node, sigmas: set[int]) -> bool:
    """Whether a matrix of two rows is made of scales that a density shows; see `pairs.py`."""
    return is_pair_matrix(matrix) and not sigmas.isdisjoint(ancestors([matrix]))


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


def _almost(readings: Readings, unmatched: Mapping[SpotKey, Node], pairs: Correlated) -> Iterator[NearMiss]:
    known = {key for reading in readings.found for key in leaves_of(reading)} | pairs.read
    known |= {spot.key for term in pairs.terms for spot in term.correlation}
    for key, total in {**unmatched, **pairs.unread}.items():
        if key not in known:
            crossed = key in pairs.unread or total.id in pairs.seen
            yield NearMiss.at(total, _CROSSED if crossed else _ALMOST, likely=crossed)


_CORRELATED = (
    "a Normal with correlations, whose scales are heads where they are two deviations and ρ, or the diagonal of a "
    "factor that is torch.tril(below, -1) + torch.diag_embed(σ)"
)
_ALMOST = (
    "a network's output changes the curvature and the logarithm of an expression as the σ of a Normal does, but no "
    "step has just the values of that σ, as where elements are correlated"
)


_CROSSED = (
    "two differences are multiplied and weighed as in the density of a Normal with a correlation, but no step has just "
    'the values of its σ; if it is one, write vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v) where the host '
    "makes one of its scales positive, and keep the correlation away from 1, as 0.99 * torch.tanh(v) does"
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
