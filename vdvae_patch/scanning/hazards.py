"""What is numerically unsafe in a host as it is, with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Role
from vdvae_patch.scanning.chain import descend
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.replay import Spot

_SOURCE = '"Re-parameterizing VAEs for stability"'


def of_head(role: Role, convention: Convention, agree: bool, path: str) -> Iterator[str]:
    """Faults of one head's scale."""
    far = torch.tensor([-40.0, 40.0], dtype=torch.float64)
    low, high = (float(s) for s in convention.sigma(far))
    if not agree:
        yield (
            f"{path}: the host reads this raw value in ways that disagree, so it samples from one Normal and "
            f"computes the "
            "density of another; a patch makes them one"
        )
    if high > 1e6 and role != "likelihood":
        yield (
            f"{path}: σ grows exponentially with the raw parameter, so one large value makes a gradient that "
            f"ends the run "
            f"({_SOURCE}, section 3); remedy: explin or upbounded"
        )
    if low < 1e-6 and role == "likelihood":
        yield (
            f"{path}: the likelihood's σ has no lower bound, so the density of a well reconstructed value grows "
            f"without "
            f"limit ({_SOURCE}, section 4); remedy: downbounded or bounded"
        )
    if low < 0:
        yield f"{path}: nothing keeps σ positive; remedy: any scale of this package"


def of_graph(graph: Graph) -> Iterator[str]:
    """Faults of the host's arithmetic."""
    seen: set[tuple[str, int]] = set()
    for node in graph.nodes:
        frame = node.host_frame()
        if frame is None or not node.params:
            continue
        place = (frame.code.co_filename, frame.line)
        if node.op == "log" and place not in seen and _is_log_of_exponential(node):
            seen.add(place)
            yield (
                f"{place[0]}:{place[1]}: the log of an exponential is −∞ as soon as the exponential underflows "
                f"(raw values "
                f"below −103 in float32, below −51 of a square; {_SOURCE}, table 1); remedy: the stable "
                f"arithmetic, which "
                "never takes it"
            )


def _is_log_of_exponential(node: Node) -> bool:
    """Whether a log is taken of an exponential, or of a ratio of two, with no floor in between."""
    chains = [descend(Spot(node.inputs[0]))] if node.inputs else []
    if chains and chains[0].end == "product":
        begin = chains[0].begin
        chains += [descend(Spot(n)) for n in begin.node.inputs if n.params]
    for chain in chains:
        names = [step.name for step in chain.steps]
        if "exp" in names and not {"add", "clamp"} & set(names[names.index("exp") :]):
            return True
    return False
