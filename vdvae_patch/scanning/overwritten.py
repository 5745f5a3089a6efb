"""Which part of a draw is read, where a part of it is overwritten before anything reads it.

    z = mean + sigma * torch.randn_like(sigma)
    z[:, :2] = position                          # what is known of the code: the posterior is of the rest
    recon = self.decoder(z)
    kl = kl_to_unit(mean[:, 2:], log_sigma[:, 2:])

The σ of the overwritten part draws nothing, and is no head's.
"""

from __future__ import annotations

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.cuts import Cuts, cut_of
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.written_parts import places_written


def kept_of(graph: Graph, product: Node) -> Cuts:
    """What is left of a draw σ ε; empty where it is all of it, or no range of one dimension."""
    node, dim, lost = product, -1, set[int]()
    while True:
        readers = [n for n in graph.consumers.get(node.id, ()) if not _is_idle(graph, n)]
        if len(readers) != 1 or readers[0].shape != product.shape:
            break
        (reader,) = readers
        if reader.op in ops.WRITING_PART and reader.inputs[0] is node:
            along, places = places_written(reader)
            if dim not in (-1, along):
                return ()
            dim, lost = along, lost | {*places}
        elif reader.op not in ops.COPYING and not (reader.op in ("add", "clone") and node.op not in ops.WRITING_PART):
            break
        node = reader
    if not lost:
        return ()
    size = product.shape[dim]
    left = [place for place in range(size) if place not in lost]
    step = left[1] - left[0] if len(left) > 1 else 1
    kept = range(left[0], left[-1] + 1, step) if left else range(0)
    return (cut_of(dim, kept, size),) if left and left == list(kept) else ()


def _is_idle(graph: Graph, node: Node) -> bool:
    """Whether it is the view by which a part is written to, which reads nothing."""
    return node.kind == "shape" and not graph.consumers.get(node.id, ())
