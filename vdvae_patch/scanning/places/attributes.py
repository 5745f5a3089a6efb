"""Sites of a parameter that is a σ or a log variance, or holds several: where its attribute is read, or it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vdvae_patch.attach.sites import Site
from vdvae_patch.composition import is_limited, named
from vdvae_patch.conventions import Convention
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.reading import Reading
from vdvae_patch.scanning.places.calls import (
    COMPREHENSIONS,
    CannotPlaceError,
    outer_first,
    site_in_call,
    site_of_nodes,
)
from vdvae_patch.scanning.places.cutting import all_alike, goes_through, is_check, names_in, readers_of, rest_behind


def attribute_sites(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For a parameter that can be replaced wherever methods name it, so that all readings agree."""
    raw = group[0].raw
    found = _attributes(graph, group)
    if len(found) > 1 and any(site.calls for site in found):
        return []
    return [replace(site, channels=emission_of(graph, raw).channels) for site in found] if raw.cuts else found


def sites_of_parts(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For a parameter whose parts are read here and there, all of them: the functions that name it, where it is
    replaced whole."""
    raw = group[0].raw.node
    if raw.kind != "parameter" or len({r.raw.node.id for r in group}) > 1:
        return []
    read = torch.zeros(raw.shape, dtype=torch.bool)
    for cuts in {r.raw.cuts for r in group}:
        if any(cut.dim == UNKNOWN for cut in cuts):
            return []
        places = {cut.dim: list(cut.places) for cut in cuts}
        part = [places.get(dim, list(range(size))) for dim, size in enumerate(raw.shape)]
        read[torch.meshgrid(*map(torch.tensor, part), indexing="ij")] = True
    if not bool(read.all()):
        return []
    found = _attributes(graph, group)
    return [] if any(site.calls for site in found) else found


def _attributes(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """The functions that name a parameter whose readings all agree, each with one site."""
    raw = group[0].raw.node
    if raw.kind != "parameter" or any(r.steps is None for r in group):
        return []
    rests = [rest_behind(r, 0) for r in group]
    if any(is_limited(rest) for rest in rests) or not all_alike(rests):
        return []
    if _is_read_for_something_else(graph, group):
        return []
    found = _around_readers(graph, raw, rests[0]) or _naming_method(graph, raw, rests[0])
    places: dict[object, Site] = {}
    for site in sorted(found, key=lambda site: site.first):
        places.setdefault((site.owner, site.method, site.calls), site)
    return list(places.values())


def sites_at_operands(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For a parameter that a KL reads bare beside its exponential, under a name that is not its own, as where a loop
    goes through a list: every operand that it is.

        for mean, log_var in zip(self.means, self.log_vars):
            kl = kl + 0.5 * (torch.exp(log_var) + mean**2 - log_var).sum()
    """
    raw = group[0].raw.node
    nodes = [r.chain.nodes[0] for r in group if r.chain.nodes]
    covered = all(goes_through(r, r.chain.nodes[0]) for r in group if r.chain.nodes)
    if raw.kind != "parameter" or any(r.steps is None or r.raw.cuts for r in group) or not nodes or covered:
        return []
    rests = [rest_behind(r, 0) for r in group]
    if any(is_limited(rest) for rest in rests) or not all_alike(rests) or _is_read_for_something_else(graph, group):
        return []
    found: dict[Site, None] = {}
    for node in readers_of(graph, raw):
        which = [i for i, a in enumerate(node.args) if isinstance(a, Node) and settle(Spot(a)).node is raw]
        if len(which) != 1 or node.inplace or not node.frames or not node.frames[0].host:
            return []
        try:
            found[site_of_nodes([node], EACH_OPERAND - which[0], rests[0])] = None
        except CannotPlaceError:
            return []
    return list(found)


def sites_beside_a_sum(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For what a layer puts out, or a part of it or of a sum, that a KL reads bare beside its exponential, where
    another σ is computed of it, or of the whole, too: every operand that it is but for the other one's.

        both = self.prior(y)
        prior_mean, prior_log_var = both.chunk(2, 1)
        mean, log_var = (self.encoder(x) + both).chunk(2, 1)  # in which the prior's output is as it was

    Empty if that is not the case, or an operand is in no line of the host's.
    """
    raw = group[0].raw
    if raw.node.kind == "parameter" or any(r.steps is None or _is_given_away(r) for r in group):
        return []
    rests = [rest_behind(r, 0) for r in group]
    if any(is_limited(rest) for rest in rests) or not all_alike(rests):
        return []
    found: dict[Site, None] = {}
    readers = readers_of(graph, raw.node)
    if not raw.cuts and not any(node.id in group[0].sums for node in readers):
        return []  # nothing but this head's own readers has it
    for node in readers:
        which = [i for i, a in enumerate(node.args) if isinstance(a, Node) and settle(Spot(a)).key == raw.key]
        if not which or is_check(graph, node) or node.id in group[0].sums:
            continue
        if node.op in ops.SUMMING and _scales_noise(graph, node):
            return []  # another σ is computed of the sum as it is
        if len(which) != 1 or node.inplace or not node.frames or not node.frames[0].host:
            return []
        try:
            found[site_of_nodes([node], EACH_OPERAND - which[0], rests[0])] = None
        except CannotPlaceError:
            return []
    return list(found)


def _scales_noise(graph: Graph, node: Node) -> bool:
    """Whether noise is multiplied by what arithmetic makes of a value."""
    todo, seen = [node] if not node.noise else [], {node.id}
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.noise and user.op in ops.MULTIPLYING:
                return True
            if not user.noise and user.kind in ("elementwise", "shape") and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False


EACH_OPERAND = -4


def _is_given_away(reading: Reading) -> bool:
    """Whether a raw value goes to a `Normal` as it is, in which PyTorch reads it."""
    return reading.evidence == "Normal" and not reading.chain.nodes


def _around_readers(graph: Graph, raw: Node, rest: Convention) -> list[Site]:
    """The functions that name a parameter around what reads it; none if one of its readers has no such function."""
    try:
        found = [_site_of_attribute(raw, node, rest) for node in readers_of(graph, raw)]
    except CannotPlaceError:
        return []
    sites = [site for site in found if site is not None]
    return sites if len(sites) == len(found) else []


def _naming_method(graph: Graph, raw: Node, rest: Convention) -> list[Site]:
    """The method that names a parameter and returns it, so that what reads it runs elsewhere."""
    owner, _, name = raw.name.rpartition(".")
    frames = dict.fromkeys(
        frame
        for node in graph.nodes
        for frame in node.frames
        if frame.host and frame.method and frame.path is not None and name in names_in(frame.code)
    )
    near = [f for f in frames if owner == f.path or owner.startswith(f"{f.path}.") or f.path == ""]
    try:
        return [site_in_call([frame], 0, rest, raw.name) for frame in near]
    except CannotPlaceError:
        return []


def _site_of_attribute(raw: Node, reader: Node, rest: Convention) -> Site | None:
    """The innermost function around a reader that names the parameter; it may hand it on as an argument."""
    name = raw.name.rpartition(".")[2]
    frames = outer_first(reader)
    level = next((i for i in range(len(frames) - 1, -1, -1) if name in names_in(frames[i].code)), None)
    while level and frames[level].code.co_name in COMPREHENSIONS:
        level -= 1  # its text stands in the function around it
    if level is None or (frames[level].path is None and any(frame.path is not None for frame in frames[level:])):
        return (
            None  # a loss may name the parameter in another line than that in which it calls the module that reads it
        )
    return site_in_call(frames, level, rest, raw.name)


def _is_read_for_something_else(graph: Graph, group: Sequence[Reading]) -> bool:
    """Whether a parameter is also read where no scale, density or KL is computed of it, as by a penalty on it."""
    known = {node.id for reading in group for node in reading.chain.nodes}
    for reading in group:
        if reading.term is not None:
            whole = Expression(Spot(reading.term.total), through_sums=True)
            known |= {spot.node.id for spot in whole.order}
        if reading.evidence == "noise":
            known |= {user.id for user in graph.consumers.get(reading.node.id, ()) if user.noise}
    todo = list(graph.consumers.get(group[0].raw.node.id, ()))
    while todo:
        user = todo.pop()
        if user.kind == "shape" and user.id not in known:
            todo.extend(graph.consumers.get(user.id, ()))
        elif user.id not in known and not is_check(graph, user) and not _is_of_scale(user, group[0]):
            return True
    return False


def _is_of_scale(node: Node, reading: Reading) -> bool:
    """Whether a value is a power of σ times something, or a multiple of log σ plus something: the variances of weights
    in a layer's product, or a log variance relative to a weight's logarithm, mean what the density or the KL means."""
    expression = Expression(Spot(node))
    if reading.raw.key not in expression.leaves or reading.steps is None:
        return False
    v = torch.linspace(-1.48, 1.52, 17, dtype=torch.float64)
    log_sigma = named(reading.steps).sigma(v).log()
    others = {key: torch.tensor(0.5, dtype=torch.float64) for key in expression.leaves}
    value = expression.value({**others, reading.raw.key: v}).expand_as(v)
    if bool((value == value[0]).all()):
        return True  # log σ less its own copy, which an earlier policy is
    return _is_line(log_sigma, value) or (bool((value > 0).all()) and _is_line(log_sigma, value.log()))


def _is_line(x: torch.Tensor, y: torch.Tensor) -> bool:
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return False
    centred = x - x.mean()
    slope = (centred * (y - y.mean())).sum() / (centred * centred).sum()
    return bool((y - y.mean() - slope * centred).abs().max() < 1e-6 * (y.max() - y.min()))
