"""Copies of networks, such as those that follow them, have the role of the network that they are copies of.

    self.target_inverse = copy.deepcopy(self.inverse)

A target network is drawn from, or makes a Normal, and no density shows its role, which would be a guess. The network
whose copy it is has the same layers under a path that differs in one name, and densities or a KL of its own.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.group import Group, Groups


def join_roles_of_twins(graph: Graph, groups: Groups) -> None:
    """Give each head without a density the role of its twin, if there is one and its role is shown."""
    for place, group in list(groups.items()):
        roles = set() if group.shown else {g.role for g in groups.values() if g.shown and _are_twins(graph, group, g)}
        role = roles.pop() if len(roles) == 1 else group.role
        if role != group.role and (group.key, role) not in groups:
            groups[group.key, role] = groups.pop(place)
            group.role = role


def _are_twins(graph: Graph, one: Group, other: Group) -> bool:
    """Whether two heads are of networks under paths that differ in one name, one of which has the other's values, or
    those that it had: no gradient comes to it."""
    here, there = one.emission.path.split("."), other.emission.path.split(".")
    places = [i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b]
    if len(here) != len(there) or len(places) != 1 or one.emission.channels != other.emission.channels:
        return False
    first, second = (_weights(graph, ".".join(path[: places[0] + 1])) for path in (here, there))
    if not first or {name: w.shape for name, w in first.items()} != {name: w.shape for name, w in second.items()}:
        return False
    follows = bool(graph.learns) and all(r.raw.node.id not in graph.taught for r in one.readings)
    return follows or all(weight.value == second[name].value for name, weight in first.items())


def _weights(graph: Graph, path: str) -> dict[str, Node]:
    """The parameters below a path, by the rest of their names."""
    kept = (n for n in graph.nodes if n.kind == "parameter" and n.name.startswith(f"{path}."))
    return {node.name.removeprefix(path): node for node in kept}
