"""Which of the host's expressions have to be replaced for a head that its module's output cannot give."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from vdvae_patch.attach.sites import ActivationSite, LogSite, Site
from vdvae_patch.composition import Step, is_limited, named
from vdvae_patch.conventions import Convention, LogSigma
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.scanning import ops
from vdvae_patch.scanning.agreement import agrees
from vdvae_patch.scanning.calls import (
    COMPREHENSIONS,
    CannotPlaceError,
    common_level,
    outer_first,
    site_in_call,
    site_of_nodes,
    span_of,
)
from vdvae_patch.scanning.chain import Chain, descend
from vdvae_patch.scanning.cuts import UNKNOWN
from vdvae_patch.scanning.emission import SCRIPTED, emission_of, examples_cut
from vdvae_patch.scanning.expression import Expression, Spot, operands, settle, step_through
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.layers import is_recurrent
from vdvae_patch.scanning.reading import Reading


def sites_of(graph: Graph, readings: Iterable[Reading]) -> tuple[Site | ActivationSite, ...]:
    """The sites of one head, from the readings of all its calls.

    One site serves all readings if they share the steps up to it, and the rest can be undone; otherwise each reading
    gets its own.
    """
    by_raw: dict[object, list[Reading]] = {}
    for reading in readings:
        by_raw.setdefault(reading.raw.key, []).append(reading)
    by_raw = _with_their_parts(by_raw)
    found: dict[Site | ActivationSite, None] = {}
    whole = _of_parts(graph, [reading for group in by_raw.values() for reading in group]) if len(by_raw) > 1 else []
    if whole:
        return tuple(whole)
    for group in by_raw.values():
        for site in _sites_of_raw(graph, group):
            found[site] = None
    _require_one_rest(found)
    return tuple(found)


def _with_their_parts(by_raw: Mapping[object, list[Reading]]) -> dict[object, list[Reading]]:
    """The readings of each raw value; those of some of its examples, or steps of time, with those of all.

        var = torch.exp(self.raw(h)) + 1e-4
        z = Normal(mean, var.sqrt()).rsample()
        kl = kl_divergence(Normal(mean[labelled], var[labelled].sqrt()), prior)

    One head has the same channels in all its readings, so that what else is cut out of a network's output is not apart.
    """
    out: dict[object, list[Reading]] = {}
    widest = sorted(by_raw.items(), key=lambda item: len(item[1][0].raw.cuts))
    for key, found in widest:
        raw = found[0].raw
        whole = next((k for k, known in out.items() if _is_whole_of(known[0].raw, raw)), None)
        if whole is None or raw.node.kind == "parameter":
            out[key] = list(found)
        else:
            out[whole] += found
    return out


def _is_whole_of(whole: Spot, part: Spot) -> bool:
    """Whether a part is of the same value, and nothing is cut out of the whole that is not cut out of it, too."""
    return whole.node is part.node and whole.cuts != part.cuts and set(whole.cuts) < set(part.cuts)


def _require_one_rest(sites: Iterable[Site | ActivationSite]) -> None:
    """One expression cannot give its readers two σ."""
    known: dict[object, Convention] = {}
    for site in sites:
        if isinstance(site, Site) and site.rest is not None and site.operand > -3:
            rest = known.setdefault((site.owner, site.method, site.calls, site.last, site.channels), site.rest)
            if rest != site.rest:
                raise CannotPlaceError(
                    f"one expression (line {site.last[0]} of {site.method}) gives what the host reads as {rest} in one "
                    f"place and as {site.rest} in another, so that no scale can be right for both; let the host's "
                    "sampler and its KL take it alike first"
                )


def _sites_of_raw(graph: Graph, group: Sequence[Reading]) -> list[Site | ActivationSite]:
    everywhere = _attribute(graph, group) or _at_operands(graph, group)
    if everywhere:
        return list(everywhere)
    product = next((r for r in group if r.chain.end == "product"), None)
    if product is not None:
        return [_product(product)]
    chained = [r for r in group if r.steps is not None]
    group = [*group, *(again for r in chained for again in _computed_again(r))]
    chained = [r for r in group if r.steps is not None]
    if chained:
        cut = _common_cut(chained)
        if cut is not None and all(_goes_through(r, r.chain.nodes[cut[0] - 1]) for r in chained if cut[0]):
            return _site(graph, chained[0], *cut)
        bare = _bare(graph, chained)
        if bare is not None:
            return [bare]
        if cut is not None:
            return _site(graph, chained[0], *cut)
    try:
        return _apart(graph, group, chained)
    except CannotPlaceError:
        parted = _parted(graph, chained)
        if not parted:
            raise
        return parted


def _apart(graph: Graph, group: Sequence[Reading], chained: Sequence[Reading]) -> list[Site | ActivationSite]:
    """The sites of readings that have no place in common."""
    again = (_bounded_again(graph, chained) or _drawn_of_bounded(graph, chained)) if chained else []
    if again:
        return again
    bounded = _bounded(group)
    return [bounded] if bounded is not None else _each_by_itself(graph, group)


def _each_by_itself(graph: Graph, group: Sequence[Reading]) -> list[Site | ActivationSite]:
    """A site of its own for each reading."""
    sites: list[Site | ActivationSite] = []
    for reading in {r.node.id: r for r in group}.values():
        if reading.chain.end == "several":
            sites.append(_whole_expression(reading))
        elif (at_term := _bare_in_term(graph, reading)) is not None:
            sites += at_term
        elif reading.chain.nodes:
            sites += _site(
                graph, reading, *(_common_cut([reading]) or (len(reading.chain.nodes), named(reading.suffix)))
            )
        elif not any(r.chain.end == "several" and r.node.id != reading.node.id for r in group):
            raise CannotPlaceError(
                "the host reads the raw value itself, with no step of its own that could be replaced"
                + _advice(graph, reading.raw.node)
            )
    return sites


def _goes_through(reading: Reading, node: Node) -> bool:
    """Whether a density or a KL reads a raw value through one node only, and nowhere else."""
    if reading.term is None:
        return True
    through = Expression(Spot(reading.term.total), frozenset({node.id}), through_sums=True)
    return reading.raw.key not in through.leaves


def _bare(graph: Graph, readings: Sequence[Reading]) -> Site | None:
    """For a KL that reads a raw value as it is beside its exponential: the expression that computes the raw value."""
    raw, rests = readings[0].raw, [_rest(r, 0) for r in readings]
    covered = all(not r.chain.nodes or _goes_through(r, r.chain.nodes[0]) for r in readings)
    several = any(is_recurrent(frame) for frame in raw.node.frames[:1])
    if covered or raw.node.kind == "parameter" or several or any(map(is_limited, rests)) or not _all_alike(rests):
        return None
    emission = emission_of(graph, raw)
    if emission.at_output or (raw.cuts and emission.channels.start == 0 and emission.channels.stop is None):
        return None  # what a module returns is patched there, unless other heads read it, too
    if emission.reason == SCRIPTED and raw.node.id not in graph.returned:
        return None  # its call gives several values, of which it is one
    site = site_of_nodes([raw.node], -1, rests[0])
    return replace(site, channels=emission.channels) if raw.cuts else site


def _bounded_again(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For what all readings bound, and some bound again on their way, as where a density clamps what it is given:

        log_var = log_var.clamp(-10, 10)
        z = mean + (0.5 * log_var).exp() * noise
        log_q = log_normal(z, mean, log_var)  # in which it is clamped once more

    The scale goes where all have it in common, and what bounds it again lets it pass. Empty if that is not the case.
    """
    chains = [r.chain for r in readings]
    together = 0
    for step in zip(*(c.nodes for c in chains), strict=False):
        if len({node.id for node in step}) > 1:
            break
        together += 1
    if any(r.parts for r in readings):
        return []
    for count in range(1, together + 1):
        limits = {i for i, steps in enumerate(chains[0].by_node[:together]) if i >= count and _only_bounds(steps)}
        rests = [_unbounded_rest(r, count) for r in readings]
        if limits or any(map(is_limited, rests)) or not _all_alike(rests):
            continue
        if not all(_goes_through(r, chains[0].nodes[count - 1]) for r in readings):
            continue
        passed = {
            node.id: node
            for c in chains
            for node, steps in zip(c.nodes[count:], c.by_node[count:], strict=True)
            if _only_bounds(steps)
        }
        return [*_site(graph, readings[0], count, rests[0]), *(_passing(graph, node) for node in passed.values())]
    return []


def _drawn_of_bounded(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For a draw and a KL that take for different things what the host has bounded: the scale goes there, and what the
    KL reads is made of it. Empty if that is not the case, or if the KL reads something else."""
    kept = next((r for r in readings if r.evidence == "noise" and not r.parts), None)
    if kept is None or kept.steps is None:
        return []
    same = [r for r in readings if r.steps is not None and agrees(r.steps, kept.steps)]
    others = [r for r in readings if r not in same]
    cut = _common_cut(same)
    if cut is None or not cut[0] or not others or any(r.term is None or r.parts for r in others):
        return []
    if any(_in_common(r, kept) < cut[0] for r in others):
        return []
    for reading in others:
        _require_known_readers(graph, readings, reading, kept)
    return [*_site(graph, kept, *cut), *(site for r in others for site in _at_term(graph, r, kept))]


def _parted(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For readings that take some steps together and then part, as by a floor that the draw alone adds:

        var = self.encode(x)  # in which 0.03 * sigmoid(v)
        z = mean + (var + 1e-6).sqrt() * noise
        log_q = log_normal(z, mean, var)

    The scale goes where they part, in the unit that one of them reads without a floor or a bound of its own; those that
    have one get σ in the place of all their own steps. Empty if they do not part behind a step.
    """
    if not readings or any(r.parts or r.steps is None for r in readings):
        return []
    together = min(_in_common(r, readings[0]) for r in readings)
    if not together:
        return []
    rests = [_rest(r, together) for r in readings]
    free = [rest for rest in rests if not is_limited(rest)]
    rest = (free or [_free_rest(readings[0], together)])[0]
    if is_limited(rest) or not _all_alike([rest, *free]):
        return []
    kept = next((r for r in readings if r.evidence == "noise"), readings[0])
    for reading in readings:
        if reading.term is not None and reading is not kept:
            _require_known_readers(graph, readings, reading, kept)
    sites = _site(graph, readings[0], together, rest)
    for reading, own in zip(readings, rests, strict=True):
        nodes = reading.chain.nodes[together:]
        if not is_limited(own):
            continue
        if not nodes or any(node.inplace for node in nodes):
            raise CannotPlaceError("its readings part where no step of their own follows")
        for site in _site(
            graph, replace(reading, chain=_behind(reading.chain, together)), len(nodes), named(reading.suffix)
        ):
            if isinstance(site, ActivationSite):
                raise CannotPlaceError(f"{site.path} reads it in another way than the rest")
            sites.append(replace(site, reads=rest))
    return sites


def _behind(chain: Chain, count: int) -> Chain:
    """What is left of a chain behind some of its nodes."""
    steps = tuple(step for own in chain.by_node[count:] for step in own)
    begin = Spot(chain.nodes[count - 1])
    return Chain(begin, "raw", steps, chain.nodes[count:], chain.by_node[count:])


def _in_common(one: Reading, other: Reading) -> int:
    """How many steps two readings of a raw value take together."""
    pairs = zip(one.chain.nodes, other.chain.nodes, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], pairs))


def _only_bounds(steps: Sequence[Step]) -> bool:
    return bool(steps) and all(step.name == "clamp" for step in steps)


def _unbounded_rest(reading: Reading, count: int) -> Convention:
    steps = (step for node in reading.chain.by_node[count:] if not _only_bounds(node) for step in node)
    return named((*steps, *reading.suffix))


def _free_rest(reading: Reading, count: int) -> Convention:
    """What is left of the steps to σ, without the floors and bounds among them."""
    steps = (step for node in reading.chain.by_node[count:] for step in node if step.name not in ("add", "clamp"))
    return named((*steps, *reading.suffix))


def _passing(graph: Graph, node: Node) -> Site | ActivationSite:
    """A site at which one operation lets its operand pass."""
    activation = _activation(graph, [node])
    if activation is not None:
        return ActivationSite(activation, None)
    if not node.frames or not node.frames[0].host:
        raise CannotPlaceError("what the host has bounded is bounded again in a function that is not the host's")
    return site_of_nodes([node], _operand(node), None)


def _advice(graph: Graph, raw: Node) -> str:
    """What would help with a parameter that only functions outside of the model read."""
    inside = any(f.path is not None and f.method for node in _readers(graph, raw) for f in node.frames if f.host)
    alone = raw.kind == "parameter" and not inside
    return " (let a method of the model return the parameter, or call what reads it)" if alone else ""


def _computed_again(reading: Reading) -> list[Reading]:
    """The other places of a density or a KL at which the host computes the same steps of the same parameter.

        0.5 * ((x - y) / soft(self.log_sigma).exp()) ** 2 + soft(self.log_sigma)

    The second one gives log σ, and is a reading of its own: from there the rest of the first one's steps leads to σ.
    """
    if reading.term is None or not reading.chain.nodes or reading.raw.node.kind != "parameter":
        return []  # of what a network emits, a residual posterior's σ may be computed, too
    own = {node.id for node in reading.chain.nodes}
    found: dict[int, Reading] = {}
    for spot in Expression(Spot(reading.term.total), through_sums=True).order:
        chain = descend(spot) if spot.node.id not in own and spot.node.kind == "elementwise" else None
        if (
            chain is None
            or chain.end != "raw"
            or chain.begin.key != reading.raw.key
            or own & {n.id for n in chain.nodes}
        ):
            continue
        count = len(chain.by_node)
        if count and chain.by_node == reading.chain.by_node[:count]:
            rest = tuple(step for steps in reading.chain.by_node[count:] for step in steps)
            for node in chain.nodes[:-1]:
                found.pop(node.id, None)
            found[spot.node.id] = replace(
                reading, chain=chain, suffix=(*rest, *reading.suffix), node=spot.node, term=None, cuts=spot.cuts
            )
    return list(found.values())


def _bounded(group: Sequence[Reading]) -> Site | None:
    """For a scale that all readings compute of one value, which parameters bound: that value's expression."""
    first = group[0]
    ends = {(r.chain.end, r.chain.begin.key) for r in group}
    if len(ends) > 1 or first.chain.end != "several" or first.chain.begin.node.kind != "elementwise":
        return None
    expression = Expression(first.chain.begin)
    others = [spot for key, spot in expression.leaves.items() if key != first.raw.key and spot.node.params]
    reads = {s.node: [o.key for o in operands(expression, s)] for s in expression.order}
    readers = [node for node, keys in reads.items() if first.raw.key in keys]
    rests = [_rest(r, 0) for r in group]
    if not others or any(o.node.kind != "parameter" for o in others) or len(readers) != 1 or not _all_alike(rests):
        return None
    if any(is_limited(rest) for rest in rests):
        return None
    operand = reads[readers[0]].index(first.raw.key)
    return site_of_nodes([readers[0], first.chain.begin.node], operand, rests[0])


_FAR_DOWN = torch.tensor([-1000.0, -200.0])  # where exp underflows in float32


def log_sites(readings: Iterable[Reading]) -> tuple[LogSite, ...]:
    """The expressions that compute a Normal's σ of one raw value, where it is the very tensor it is given."""
    found: dict[LogSite, None] = {}
    for raw, nodes, convention in _carrying(readings):
        parameter = "" if raw.cuts else _attribute_read(raw.node, nodes[0])
        with contextlib.suppress(CannotPlaceError):
            at = site_of_nodes(nodes, _operand(nodes[0]), None, parameter)
            log = LogSite(at.owner, at.method, at.calls, at.first, at.last, at.operand, convention, parameter)
            found[log] = None
    return tuple(found)


def logs_of(readings: Iterable[Reading]) -> list[tuple[Sequence[Node], Convention]]:
    """Of each σ that could carry its logarithm the steps from the raw value to it, and what they compute."""
    return [(nodes, convention) for _, nodes, convention in _carrying(readings)]


def _carrying(readings: Iterable[Reading]) -> Iterator[tuple[Spot, Sequence[Node], Convention]]:
    """What σ is computed of, where one function has both; the nodes from there to σ, and what they compute."""
    for reading in readings:
        nodes = reading.chain.nodes
        if reading.evidence != "Normal" or reading.steps is None or reading.suffix or not nodes:
            continue
        if (
            reading.chain.end != "raw"
            or not _is_same_tensor(reading.node, nodes[-1])
            or any(node.inplace for node in nodes)
        ):
            continue
        if any(not _stays(nodes[i - 1], nodes[i]) for i in range(1, len(nodes))):
            continue
        if not all(node.frames and node.frames[0].host for node in nodes):
            continue  # an activation's, which a patch may stand in for
        # else it is no better known than as the log of σ
        begin = _in_one_function(reading.raw.node, nodes)
        convention = named([step for own in reading.chain.by_node[begin:] for step in own])
        if begin < len(nodes) and convention.log_sigma(_FAR_DOWN).isfinite().all():
            yield Spot(nodes[begin - 1]) if begin else reading.raw, nodes[begin:], convention


def _in_one_function(raw: Node, nodes: Sequence[Node]) -> int:
    """From which of some nodes on a function has in its text what they are computed of, and not only what calls the
    function that computes it: `mean, log_var = self.encode(x)`, where the log variance is clamped in `encode`."""
    before = raw
    for begin, node in enumerate(nodes):
        with contextlib.suppress(CannotPlaceError):
            level, frames = common_level(nodes[begin:]), outer_first(node)
            of_before = outer_first(before) if any(f.host for f in before.frames) else []
            inside = [(f.code, f.lasti) for f in frames[: level + 1]] == [
                (f.code, f.lasti) for f in of_before[: level + 1]
            ]
            if len(frames) == level + 1 or not inside:
                return begin
        before = node
    return len(nodes)


def _is_same_tensor(node: Node, other: Node) -> bool:
    while node is not other and node.op in ops.COPYING and node.inputs:
        node = node.inputs[0]  # what autograd keeps
    return node is other


def _attribute(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For a parameter that can be replaced wherever methods name it, so that all readings agree."""
    raw = group[0].raw
    found = _attributes(graph, group)
    if len(found) > 1 and any(site.calls for site in found):
        return []
    return [replace(site, channels=emission_of(graph, raw).channels) for site in found] if raw.cuts else found


def _of_parts(graph: Graph, group: Sequence[Reading]) -> list[Site]:
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
    rests = [_rest(r, 0) for r in group]
    if any(is_limited(rest) for rest in rests) or not _all_alike(rests):
        return []
    if _is_read_for_something_else(graph, group):
        return []
    found = _around_readers(graph, raw, rests[0]) or _naming_method(graph, raw, rests[0])
    places: dict[object, Site] = {}
    for site in sorted(found, key=lambda site: site.first):
        places.setdefault((site.owner, site.method, site.calls), site)
    return list(places.values())


def _at_operands(graph: Graph, group: Sequence[Reading]) -> list[Site]:
    """For a parameter that a KL reads bare beside its exponential, under a name that is not its own, as where a loop
    goes through a list: every operand that it is.

        for mean, log_var in zip(self.means, self.log_vars):
            kl = kl + 0.5 * (torch.exp(log_var) + mean**2 - log_var).sum()
    """
    raw = group[0].raw.node
    nodes = [r.chain.nodes[0] for r in group if r.chain.nodes]
    covered = all(_goes_through(r, r.chain.nodes[0]) for r in group if r.chain.nodes)
    if raw.kind != "parameter" or any(r.steps is None or r.raw.cuts for r in group) or not nodes or covered:
        return []
    rests = [_rest(r, 0) for r in group]
    if any(is_limited(rest) for rest in rests) or not _all_alike(rests) or _is_read_for_something_else(graph, group):
        return []
    found: dict[Site, None] = {}
    for node in _readers(graph, raw):
        which = [i for i, a in enumerate(node.args) if isinstance(a, Node) and settle(Spot(a)).node is raw]
        if len(which) != 1 or node.inplace or not node.frames or not node.frames[0].host:
            return []
        try:
            found[site_of_nodes([node], _EACH_OPERAND - which[0], rests[0])] = None
        except CannotPlaceError:
            return []
    return list(found)


_EACH_OPERAND = -4


def _is_given_away(reading: Reading) -> bool:
    """Whether a raw value goes to a `Normal` as it is, in which PyTorch reads it."""
    return reading.evidence == "Normal" and not reading.chain.nodes


def _around_readers(graph: Graph, raw: Node, rest: Convention) -> list[Site]:
    """The functions that name a parameter around what reads it; none if one of its readers has no such function."""
    try:
        found = [_site_of_attribute(raw, node, rest) for node in _readers(graph, raw)]
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
        if frame.host and frame.method and frame.path is not None and name in _names_in(frame.code)
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
    level = next((i for i in range(len(frames) - 1, -1, -1) if name in _names_in(frames[i].code)), None)
    while level and frames[level].code.co_name in COMPREHENSIONS:
        level -= 1  # its text stands in the function around it
    if level is None or (frames[level].path is None and any(frame.path is not None for frame in frames[level:])):
        return (
            None  # a loss may name the parameter in another line than that in which it calls the module that reads it
        )
    return site_in_call(frames, level, rest, raw.name)


def _names_in(code: types.CodeType) -> set[str]:
    """The names that a function's text reads, in the comprehensions in it, too, which run as functions of their own."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name in COMPREHENSIONS)
    return set(code.co_names).union(*map(_names_in, inner))


def _readers(graph: Graph, raw: Node) -> list[Node]:
    """What reads a node, moved around or not."""
    todo, found = list(graph.consumers.get(raw.id, ())), dict[int, Node]()
    while todo:
        user = todo.pop()
        if user.kind == "shape":
            todo.extend(graph.consumers.get(user.id, ()))
        else:
            found[user.id] = user
    return list(found.values())


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
        elif user.id not in known and not _is_check(graph, user) and not _is_of_scale(user, group[0]):
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


def _is_check(graph: Graph, node: Node) -> bool:
    """Whether a value is compared and nothing chosen by it, as a `Normal` compares its scale with zero."""
    return node.op in ops.COMPARING and all(ops.kind_of(u.op) == "discrete" for u in graph.consumers.get(node.id, ()))


def _attribute_read(raw: Node, first: Node) -> str:
    """The parameter's name in the model, if the function that reads it names it; empty for what it is given."""
    name = raw.name.rpartition(".")[2] if raw.kind == "parameter" else ""
    frames = outer_first(first) if name else []
    return raw.name if frames and name in _names_in(frames[common_level([first])].code) else ""


def replaceable(model: nn.Module, heads: Iterable[Head]) -> Iterator[Head]:
    """The heads; those with a site in what is neither a method nor a property, and so cannot be replaced on an
    instance, patched nowhere."""
    modules = dict(model.named_modules())
    for head in heads:
        strange = [
            text
            for site in head.sites
            if isinstance(site, Site) and not site.in_call and (text := _strange(modules, site))
        ]
        if strange and head.found is not None:
            reason = f"{head.found.reason}, and it is computed in {strange[0]}, which no patch can stand in for"
            yield replace(head, sites=(), found=replace(head.found, patch_at="no", reason=reason))
        else:
            yield head


def _strange(modules: Mapping[str, nn.Module], site: Site) -> str:
    """A cached property, or another object that a class has in the place of a function."""
    cls = type(modules[site.owner])
    found = inspect.getattr_static(cls, site.method, None)
    if isinstance(found, types.FunctionType | property):
        return ""
    return f"the {type(found).__name__} {cls.__name__}.{site.method}"


def disagreeing(graph: Graph, readings: Sequence[Reading], convention: Convention) -> tuple[Site | ActivationSite, ...]:
    """Sites for the readings that do not follow the convention that is kept: they shall compute its σ."""
    sites: dict[Site | ActivationSite, None] = {}
    model = next(r for r in readings if r.steps is not None and named(r.steps) == convention)
    kept = model.steps
    for reading in readings:
        steps = reading.steps
        if steps is not None and kept is not None and agrees(steps, kept):
            continue
        if reading.term is not None and steps is not None:
            _require_known_readers(graph, readings, reading, model)
            if not _has_steps_of_its_own(reading, model):
                sites |= dict.fromkeys(_at_term(graph, reading, model))
                continue
        if not reading.chain.nodes:
            raise CannotPlaceError("one of its readings has no step of its own that could be replaced")
        for site in _site(graph, reading, len(reading.chain.nodes), named(reading.suffix)):
            if isinstance(site, ActivationSite):
                raise CannotPlaceError(f"{site.path} reads it in another way than the rest")
            sites[replace(site, reads=convention)] = None
    return tuple(sites)


def _require_known_readers(graph: Graph, readings: Sequence[Reading], reading: Reading, kept: Reading) -> None:
    """Refuse a KL beside which arithmetic goes on from what it has in common with the draw: its value may be a part of
    the KL that was not understood, and would be left as it is."""
    together = _in_common(reading, kept)
    begin = reading.chain.nodes[together - 1] if together else reading.raw.node
    known = {node.id for r in readings for node in r.chain.nodes}
    for term in (r.term for r in readings if r.term is not None):
        known |= {spot.node.id for spot in Expression(Spot(term.total), through_sums=True).order}
    for node in _readers(graph, begin):
        read = [settle(Spot(a)) for a in node.args if isinstance(a, Node)]
        own = any(spot.node is begin and (together or spot.key == reading.raw.key) for spot in read)
        drawn = any(spot.node.kind == "noise" for spot in read)
        if own and node.kind == "elementwise" and node.id not in known and not drawn and not _is_check(graph, node):
            raise CannotPlaceError("what draws is read beside the KL, too, in a way that is not understood")


def _has_steps_of_its_own(reading: Reading, kept: Reading) -> bool:
    """Whether a density or a KL reads the raw value through steps that the reading which is kept does not take."""
    nodes = reading.chain.nodes
    return bool(nodes) and nodes[-1] not in kept.chain.nodes and _goes_through(reading, nodes[-1])


def _bare_in_term(graph: Graph, reading: Reading) -> list[Site] | None:
    """The places of a density or a KL that reads a raw value as it is, beside steps of its own or without any; None
    for what is no such reading, for one that takes the same steps again, and where a place is not the host's."""
    if reading.term is None or reading.steps is None or reading.parts:
        return None
    nodes = reading.chain.nodes
    if nodes and (_goes_through(reading, nodes[-1]) or _computed_again(reading)):
        return None
    if is_limited(_rest(reading, 0)):
        return None
    try:
        return _at_term(graph, reading, None)
    except CannotPlaceError:
        return None


def _at_term(graph: Graph, reading: Reading, kept: Reading | None) -> list[Site]:
    """For a KL that takes for something else what is drawn with, wherever it reads it: there it gets what it takes it
    for.

        sigma = raw.exp()
        z = mean + sigma * noise
        kl = -0.5 * (1 + sigma.log() - mean**2 - sigma)  # of a variance; sigma**2 is what it shall read

    Args:
        kept: what is drawn with, if that has the scale already; else the raw value is read.
    """
    together = 0 if kept is None else _in_common(reading, kept)
    if is_limited(_rest(reading, together)):
        raise CannotPlaceError("its KL bounds what it reads")
    last = reading.chain.nodes[together - 1] if together else reading.raw.node
    begin = settle(Spot(last, reading.raw.cuts)) if together else reading.raw
    own = {node.id for node in kept.chain.nodes} if kept is not None else set()
    assert reading.term is not None
    whole = Expression(Spot(reading.term.total), frozenset({last.id}), through_sums=True)
    found: dict[Site, None] = {}
    for node in {spot.node.id: spot.node for spot in whole.order}.values():
        read = [settle(Spot(a)) if isinstance(a, Node) else None for a in node.args]
        if node.id in own or any(s is not None and s.node.kind == "noise" for s in read):
            continue  # the draw, of which the density of a sample is
        for place, spot in enumerate(read):
            if spot is None or spot.node is not begin.node or (not together and spot.key != begin.key):
                continue
            if node.inplace or not node.frames or not node.frames[0].host:
                raise CannotPlaceError("its KL reads the raw value in place, or where no line of the host does")
            site = site_of_nodes([node], _EACH_OPERAND - place, _rest(reading, together))
            found[site if kept is None else replace(site, reads=_rest(kept, together))] = None
    if not found:
        raise CannotPlaceError("one of its readings has no step of its own that could be replaced")
    return list(found)


def _product(reading: Reading) -> Site:
    """σ = exp(a) exp(b): the product's expression reads scale(a + b)."""
    if any(named(part.steps) != LogSigma() or part.end != "raw" or not part.nodes for part in reading.parts):
        raise CannotPlaceError("it is a factor of a product of scales that are no plain exponentials")
    nodes = [part.nodes[0] for part in reading.parts]
    join = reading.chain.begin.node
    level = common_level([*nodes, join])
    spans = [span_of(outer_first(n)[level]) for n in nodes]
    site = site_of_nodes([*nodes, join], 0, named((*reading.chain.steps, *reading.suffix)))
    return replace(site, also=((spans[1], 0),))


def _common_cut(readings: Sequence[Reading]) -> tuple[int, Convention] | None:
    """How many nodes are passed before the readings part, with the rest undoable; and that rest."""
    shortest = min(len(r.chain.nodes) for r in readings)
    joined = bool(readings[0].parts) and readings[0].chain.end in ("sum", "raw")
    for count in range(0 if joined else 1, shortest + 1):
        if len({tuple(n.id for n in r.chain.nodes[:count]) for r in readings}) > 1:
            return None
        rests = [_rest(r, count) for r in readings]
        if not any(is_limited(rest) for rest in rests) and _all_alike(rests):
            return count, rests[0]
    return None


def _rest(reading: Reading, count: int) -> Convention:
    steps: list[Step] = [step for node in reading.chain.by_node[count:] for step in node]
    return named((*steps, *reading.suffix))


def _all_alike(rests: Sequence[Convention]) -> bool:
    v = torch.linspace(0.05, 3, 30, dtype=torch.float64)
    first = rests[0].sigma(v)
    if not first.isfinite().any():  # what a natural parameter is read by takes negative values only
        v = -v
        first = rests[0].sigma(v)
    for rest in rests[1:]:
        ratio = rest.sigma(v) / first
        if not torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-6):  # up to a temperature
            return False
    return True


def _site(graph: Graph, reading: Reading, count: int, rest: Convention) -> list[Site | ActivationSite]:
    nodes = list(reading.chain.nodes[:count])
    if count == 0:
        return [site_of_nodes([reading.raw.node], -1, rest)]
    moves = [i for i in range(1, count) if not _stays(nodes[i - 1], nodes[i])]
    if moves:
        return _around_moves(graph, reading, nodes, moves, rest, "elements are moved between two steps to σ")
    inside = _inside_call(graph, nodes)
    if inside:
        reason = "a function that goes on from it computes a part of σ"
        return _around_moves(graph, reading, nodes, [inside], rest, reason)
    following = reading.chain.nodes[count] if count < len(reading.chain.nodes) else None
    beside = _beside(graph, reading, nodes[-1], following)
    if beside is not None:
        return [_part_site(graph, reading, nodes, rest, beside)]
    activations = _activations(graph, nodes)
    if activations:
        return [*(ActivationSite(path, None) for path in activations[:-1]), ActivationSite(activations[-1], rest)]
    first = nodes[0]
    # of a part of a parameter the expression has a variable
    parameter = "" if reading.raw.cuts else _attribute_read(reading.raw.node, first)
    if reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, first, nodes):
        return _behind_activation(graph, reading.raw.node, nodes, rest)
    if _is_cut_inside(reading, nodes):
        return _behind_activation(graph, reading.raw.node, nodes, rest)
    if any(node.inplace for node in nodes) and not _within_calls(nodes):
        return [_in_place(graph, nodes, rest, parameter)]
    return [site_of_nodes(nodes, _operand(first), rest, parameter)]


def _stays(before: Node, after: Node) -> bool:
    """Whether nothing is moved, picked or reshaped between two steps of a chain."""
    node = after.inputs[_operand(after)] if after.inputs else before
    while node is not before:
        if node.op not in ops.COPYING | ops.BROADCASTING or not node.inputs:
            return False
        node = node.inputs[0]
    return True


def _inside_call(graph: Graph, nodes: Sequence[Node]) -> int:
    """The number of the first of some steps that is computed in a call which returns something else than the last one:
    a density that is given what was clamped, and clamps it again. 0 if there is none, or if all are in it."""
    level, ends = common_level(nodes), outer_first(nodes[-1])
    if len(ends) <= level + 1:
        return 0
    call = [(frame.code, frame.lasti) for frame in ends[: level + 1]]

    def is_inside(node: Node) -> bool:
        frames = [frame for frame in reversed(node.frames) if frame.host]
        return len(frames) > level + 1 and [(f.code, f.lasti) for f in frames[: level + 1]] == call

    users = [user for user in _readers(graph, nodes[-1]) if not _is_check(graph, user)]
    if not users or not all(map(is_inside, users)):
        return 0
    return next((i for i, node in enumerate(nodes) if is_inside(node)), 0)


def _around_moves(
    graph: Graph, reading: Reading, nodes: Sequence[Node], moves: Sequence[int], rest: Convention, reason: str
) -> list[Site | ActivationSite]:
    """For steps between which elements are moved, `(softplus(raw)[batch] + 1e-7)`, or a function is entered.

    The steps before a move let the raw value pass, so that it is moved as the host moves it, and those behind the last
    move become the scale.

    Args:
        moves: the numbers of the nodes in front of which something is moved.
        reason: what parts them, for a message.
    """
    bounds = [0, *moves, len(nodes)]
    sites: list[Site | ActivationSite] = []
    for start, stop in itertools.pairwise(bounds):
        part = list(nodes[start:stop])
        last = stop == len(nodes)
        following = None if last else nodes[stop]
        beside = _beside(graph, reading, part[-1], following)
        if beside is not None:
            sites.append(_part_site(graph, reading, part, None if not last else rest, beside))
            continue
        if following is not None and _is_read_elsewhere(graph, part[-1], following):
            raise CannotPlaceError(f"{reason}, and what it has there is read in another way, too")
        sites += _segment(graph, reading, part, rest if last else None)
    return sites


def _segment(
    graph: Graph, reading: Reading, nodes: Sequence[Node], rest: Convention | None
) -> list[Site | ActivationSite]:
    """The sites of steps between which nothing is moved; without a rest they let the raw value pass."""
    activations = _activations(graph, nodes)
    if activations:
        return [*(ActivationSite(path, None) for path in activations[:-1]), ActivationSite(activations[-1], rest)]
    if any(node.inplace for node in nodes) and not _within_calls(nodes):
        raise CannotPlaceError("the host changes the raw value in place, and moves elements between two steps to σ")
    parameter = (
        ""
        if reading.raw.cuts or nodes[0] is not reading.chain.nodes[0]
        else _attribute_read(reading.raw.node, nodes[0])
    )
    if reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, nodes[0], nodes):
        raise CannotPlaceError(
            "the raw value and a step to σ are computed in one call, and elements are moved behind it"
        )
    return [site_of_nodes(nodes, _operand(nodes[0]), rest, parameter)]


def _beside(graph: Graph, reading: Reading, node: Node, following: Node | None) -> ChannelRange | None:
    """The channels of the raw value in what a step computes, if that is cut out of it later and the rest of it is used
    otherwise: `self.relu(self.fc(x)).chunk(2, 1)`."""
    spots = (s for s in Expression(reading.spot).order if s.node is node)
    cuts = next((s.cuts for s in spots), ())
    examples = examples_cut(graph, reading.raw)
    cuts = tuple(cut for cut in cuts if cut not in examples)
    if not cuts or not _is_used_in_parts(graph, node, reading.chain.nodes):
        return None
    if len(cuts) > 1 or cuts[0].dim < 0:
        raise CannotPlaceError("a step to σ computes other values, too, and which are which cannot be said by channels")
    (cut,) = cuts
    return ChannelRange(cut.dim, cut.start, min(cut.start + cut.step * cut.length, cut.size), cut.step)


def _is_used_in_parts(graph: Graph, node: Node, steps: Sequence[Node]) -> bool:
    """Whether parts are cut out of a value, as it is or behind further steps of its chain."""
    todo, found = [node], list[Node]()
    while todo:
        users = graph.consumers.get(todo.pop().id, ())
        found += [user for user in users if user.op in ops.NARROWING | ops.SELECTING or _picks_some(user)]
        todo += [user for user in users if (user.kind == "shape" and user not in found) or user in steps]
    return bool(found)


def _picks_some(node: Node) -> bool:
    """Whether an operation picks some elements of its operand, and not all in another order."""
    return node.op in ops.SHUFFLING and math.prod(node.shape) < math.prod(node.inputs[0].shape)


def _part_site(
    graph: Graph, reading: Reading, nodes: Sequence[Node], rest: Convention | None, beside: ChannelRange
) -> Site | ActivationSite:
    activations = _activations(graph, nodes)
    if len(activations) == 1:
        return ActivationSite(activations[0], rest, beside)
    if (len(nodes) > 1 and any(node.inplace for node in nodes) and not _within_calls(nodes)) or (
        reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, nodes[0], nodes)
    ):
        raise CannotPlaceError(
            "a step to σ computes other values, too, in one call with the layer or in place; move it behind the split"
        )
    parameter = _attribute_read(reading.raw.node, nodes[0]) if nodes[0] is reading.chain.nodes[0] else ""
    return replace(site_of_nodes(nodes, _operand(nodes[0]), rest, parameter), beside=beside)


def _is_cut_inside(reading: Reading, nodes: Sequence[Node]) -> bool:
    """Whether the call that computes the first node cuts the raw value out itself, so that its operand is more."""
    level, sequence = common_level(nodes), outer_first(nodes[0])
    if len(sequence) <= level + 1:
        return False
    spot = Spot(nodes[0].inputs[_operand(nodes[0])], ()) if nodes[0].inputs else None
    while spot is not None and spot.node is not reading.raw.node:
        frames = [frame for frame in reversed(spot.node.frames) if frame.host]
        back = step_through(spot)
        if back is not None and back.cuts != spot.cuts and frames[: level + 1] == sequence[: level + 1]:
            return True
        spot = back
    return False


def _operand(node: Node) -> int:
    return next((i for i, a in enumerate(node.args) if isinstance(a, Node) and a.params), 0)


def _behind_activation(graph: Graph, raw: Node, nodes: Sequence[Node], rest: Convention) -> list[Site | ActivationSite]:
    """For a layer and activations in one call, and further steps of the host behind it: a floor after a Sequential.

    The activations let the raw parameter pass, and the host's steps become the scale.
    """
    for count in range(len(nodes) - 1, 0, -1):
        activations, behind = _activations(graph, nodes[:count]), nodes[count:]
        if not activations or _same_expression(raw, behind[0], behind):
            continue
        if _is_read_elsewhere(graph, nodes[count - 1], behind[0]):
            raise CannotPlaceError(f"what {activations[-1]} returns is used in another way, too")
        passing = [ActivationSite(path, None) for path in activations]
        return [*passing, site_of_nodes(behind, _operand(behind[0]), rest)]
    raise CannotPlaceError("the raw value and the scale are computed in one call, which holds no expression to replace")


def _in_place(graph: Graph, nodes: Sequence[Node], rest: Convention, parameter: str) -> Site:
    """For steps that overwrite their operand: those before the last are left out, so that it holds the raw value."""
    start = next(i for i, node in enumerate(nodes) if node.inplace)
    for node, following in zip(nodes[start:-1], nodes[start + 1 :], strict=True):
        if _is_read_elsewhere(graph, node, following):
            frame = node.host_frame()
            line = "" if frame is None else f" (line {frame.line})"
            raise CannotPlaceError(f"the host changes the raw value in place{line} and reads it on the way")
    # what is left out leaves the raw value where the first step that makes something new finds it
    first = nodes[0] if start else next((node for node in nodes if not node.inplace), nodes[-1])
    whole = site_of_nodes([first, nodes[-1]], _operand(first), rest, parameter)
    level = common_level([first, *nodes[start:]])
    if level != common_level([first, nodes[-1]]):
        raise CannotPlaceError("the host changes the raw value in place in several functions")
    drops = tuple(span_of(outer_first(node)[level]) for node in nodes[start:-1] if node.inplace)
    return replace(whole, drops=drops, inplace=nodes[-1].inplace)


def _within_calls(nodes: Sequence[Node]) -> bool:
    """Whether all in-place steps are hidden in calls of functions, and change what these made themselves."""
    level = common_level([nodes[0], nodes[-1]])
    spans = [(frames[level].code, frames[level].lasti) for frames in map(outer_first, nodes)]
    hidden = [
        len(outer_first(node)) > level + 1 or spans.count(spans[i]) > 1 for i, node in enumerate(nodes) if node.inplace
    ]
    if nodes[0].inplace and hidden[0] and spans[0] != spans[-1]:
        raise CannotPlaceError("a function that the host calls changes the raw value in place")
    return all(hidden)


def _is_read_elsewhere(graph: Graph, node: Node, following: Node) -> bool:
    """Whether anything but the next step reads a node, moved around or not."""
    todo = list(graph.consumers.get(node.id, ()))
    seen: set[int] = set()
    while todo:
        user = todo.pop()
        if user is following or user.id in seen:
            continue
        seen.add(user.id)
        if user.kind != "shape":
            return True
        todo.extend(graph.consumers.get(user.id, ()))
    return False


def _whole_expression(reading: Reading) -> Site:
    node = reading.chain.nodes[-1] if reading.chain.nodes else reading.node
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    whole = site_of_nodes([node], -2, named(reading.suffix))
    apart = next((n for n in _readers_within(reading) if not _is_within(n, node)), None)
    if apart is not None:
        raise CannotPlaceError(f"{apart.op}, a step to σ without an inverse, stands in another expression than σ")
    return whole


def _readers_within(reading: Reading) -> list[Node]:
    """What reads the raw value in the expression of σ."""
    expression = Expression(reading.spot)
    return [s.node for s in expression.order if reading.raw.key in [o.key for o in operands(expression, s)]]


def _is_within(inner: Node, outer: Node) -> bool:
    """Whether one node is computed in the very expression that computes another one."""
    level = common_level([inner, outer])
    first, last, start, stop = span_of(outer_first(outer)[level])
    a, b, left, right = span_of(outer_first(inner)[level])
    return (first, start) <= (a, left) and (b, right) <= (last, stop)


def _activations(graph: Graph, nodes: Sequence[Node]) -> list[str]:
    """The activations, one behind the other, that compute the nodes and nothing else; empty if others have a part."""
    found = []
    for _, own in itertools.groupby(nodes, key=lambda node: node.frames[0].path if node.frames else None):
        path = _activation(graph, list(own))
        if path is None:
            return []
        found.append(path)
    return found


def _activation(graph: Graph, nodes: Sequence[Node]) -> str | None:
    """The parameterless module of PyTorch's own that computes the nodes and nothing else."""
    frames = [n.frames[0] if n.frames else None for n in nodes]
    first = frames[0]
    if first is None or first.host or first.path is None or any(f is None or f.path != first.path for f in frames):
        return None
    own = {"detach", *(n.op for n in nodes)}  # autograd detaches a result that it keeps
    others = [n for n in graph.nodes if n.frames and n.frames[0].path == first.path and n.op not in own]
    calls = [n for n in graph.nodes if n.frames and n.frames[0].path == first.path and n.op == nodes[-1].op]
    lines = {tuple((f.code, f.lasti) for f in n.frames[1:2]) for n in calls}
    return first.path if not others and len(lines) == 1 else None


def _same_expression(raw: Node, first: Node, nodes: Sequence[Node]) -> bool:
    if raw.kind == "parameter":
        return False
    level = common_level(nodes)
    sequence, other = outer_first(first), outer_first(raw)
    return len(other) > level and other[: level + 1] == sequence[: level + 1]
