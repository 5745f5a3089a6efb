"""Near misses that no rule gives: what looks like a Normal with a learned scale and is read as none.

Of a Normal with correlations, by PyTorch's class or written out; of a distribution of another kind; of a density that
is almost a Normal's; and where nothing at all was found, of the noise that was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.chain import scaled_noise
from vdvae_patch.scanning.expression import Spot, SpotKey, settle
from vdvae_patch.scanning.graph import Frame, Graph, Node
from vdvae_patch.scanning.reading import NearMiss, Readings


def unread(graph: Graph, readings: Readings, unmatched: Mapping[SpotKey, Node]) -> Iterator[NearMiss]:
    """The near misses of a graph.

    Args:
        unmatched: raw values that change a density as a scale does, with where that is complete; see `gaussian_terms`.
    """
    found = [*_others(graph), *_almost(readings, unmatched)]
    yield from found
    if not found and not readings.found and not readings.near_misses:
        for node in graph.nodes:
            if node.kind == "noise":
                yield NearMiss.at(node, "fresh Normal noise is drawn, and no value that a network computes scales it")


def _others(graph: Graph) -> Iterator[NearMiss]:
    for other in graph.others:
        reason = _CORRELATED if "Normal" in other.name else "its scale is that of no Normal, and no head"
        yield NearMiss(_line(other.frames), reason, other.name)
    for node in graph.nodes:
        if node.params and node.kind == "opaque" and node.op in ops.COMBINING and _mixes_noise(graph, node):
            yield NearMiss.at(node, f"fresh Normal noise meets a matrix that a network computes: {_CORRELATED}")


def _almost(readings: Readings, unmatched: Mapping[SpotKey, Node]) -> Iterator[NearMiss]:
    known = {reading.raw.key for reading in readings.found}
    for key, total in unmatched.items():
        if key not in known:
            yield NearMiss.at(total, _ALMOST)


_CORRELATED = "a Normal with correlations has no σ of each element; heads are of Normals whose elements are independent"
_ALMOST = (
    "a network's output changes the curvature and the logarithm of an expression as the σ of a Normal does, but no "
    "step has just the values of that σ, as where elements are correlated"
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
