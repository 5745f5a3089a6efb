"""Which part of a value is read, where the rest is overwritten before anything reads it, or is never read.

    z = mean + sigma * torch.randn_like(sigma)
    z[:, :2] = position                          # what is known of the code: the posterior is of the rest
    recon = self.decoder(z)
    kl = kl_to_unit(mean[:, 2:], log_sigma[:, 2:])

The σ of the overwritten part draws nothing, and is no head's.
"""

from __future__ import annotations

from collections.abc import Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import Cuts, argument, cut_of, lies_in
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.arithmetic.written_parts import places_written
from vdvae_patch.scanning.evidence.reading import Reading


def kept_of(graph: Graph, value: Node) -> Cuts:
    """The part of a value, such as a draw's σ ε, that is read; empty where it is all of it, or no range of one
    dimension."""
    node, dim, lost = value, -1, set[int]()
    while True:
        readers = [n for n in graph.consumers.get(node.id, ()) if not _is_idle(graph, n)]
        sliced = {n.id: _places_read(n) for n in readers}
        if readers and all(found is not None for found in sliced.values()):
            read = [found for found in sliced.values() if found is not None]
            if {along for along, _ in read} != {read[0][0]} or dim not in (-1, read[0][0]):
                return ()
            dim = read[0][0]
            lost |= {*range(value.shape[dim])} - {place for _, places in read for place in places}
            break
        if len(readers) != 1 or readers[0].shape != value.shape:
            break
        (reader,) = readers
        if reader.op in ops.WRITING_PART and reader.inputs[0] is node:
            along, places = places_written(reader)
            if dim not in (-1, along):
                return ()
            dim, lost = along, lost | {*places}
        elif reader.op not in ops.COPYING and reader.kind != "elementwise":
            break
        node = reader
    if not lost:
        return ()
    size = value.shape[dim]
    left = [place for place in range(size) if place not in lost]
    step = left[1] - left[0] if len(left) > 1 else 1
    kept = range(left[0], left[-1] + 1, step) if left else range(0)
    return (cut_of(dim, kept, size),) if left and left == list(kept) else ()


def without_wholes(graph: Graph, found: Sequence[Reading]) -> list[Reading]:
    """The readings without those of a KL of which a part is read, `kl[:, 2:].sum()`, where the part was read, too."""
    of_terms = [r for r in found if r.term is not None]
    return [
        r
        for r in found
        if r.term is None
        or not any(
            o.evidence == r.evidence and o.raw.node is r.raw.node and o.raw.cuts != r.raw.cuts
            and o.term is not None and o.term.total.id > r.term.total.id and lies_in(o.raw.cuts, r.raw.cuts)
            for o in of_terms
        )
        or not kept_of(graph, r.term.total)
    ]  # fmt: skip


def _is_idle(graph: Graph, node: Node) -> bool:
    """Whether it is the view by which a part is written to, which reads nothing."""
    return node.kind == "shape" and not graph.consumers.get(node.id, ())


def _places_read(node: Node) -> tuple[int, range] | None:
    """The dimension, and the places of it, that an operation takes; None of any other operation."""
    shape = node.inputs[0].shape if node.inputs else ()
    if node.op not in ops.CUTTING or not shape:
        return None
    dim = argument(node, 1, "dim", 0) % len(shape)
    size = shape[dim]
    if node.op == "select":
        place = argument(node, 2, "index", 0) % size
        return dim, range(place, place + 1)
    start, stop, step = argument(node, 2, "start", None), argument(node, 3, "end", None), argument(node, 4, "step", 1)
    return dim, range(size)[slice(start, stop, step)]
