"""Which of the host's expressions have to be replaced for a head that its module's output cannot give."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from vdvae_patch.attach.sites import ActivationSite, LogSite, Site
from vdvae_patch.composition import Step, is_limited, named
from vdvae_patch.conventions import Convention, LogSigma, Sigma
from vdvae_patch.heads import Head
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain, descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, operands, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.arithmetic.layers import is_recurrent
from vdvae_patch.scanning.evidence.agreement import agrees
from vdvae_patch.scanning.evidence.emission import SCRIPTED, Emission, emission_of
from vdvae_patch.scanning.evidence.reading import Reading
from vdvae_patch.scanning.places.attributes import (
    EACH_OPERAND,
    attribute_sites,
    sites_at_operands,
    sites_beside_a_sum,
    sites_of_parts,
)
from vdvae_patch.scanning.places.calls import (
    CannotPlaceError,
    common_level,
    outer_first,
    site_of_nodes,
    span_of,
)
from vdvae_patch.scanning.places.cutting import (
    activation_of,
    all_alike,
    attribute_read,
    common_cut,
    goes_through,
    is_check,
    is_read_elsewhere,
    operand_of,
    readers_of,
    rest_behind,
    site_at,
    stays,
    whole_expression,
)


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
    whole = (
        sites_of_parts(graph, [reading for group in by_raw.values() for reading in group]) if len(by_raw) > 1 else []
    )
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
    everywhere = attribute_sites(graph, group) or sites_at_operands(graph, group)
    if everywhere:
        return list(everywhere)
    product = next((r for r in group if r.chain.end == "product"), None)
    if product is not None:
        return [_product(product)]
    chained = [r for r in group if r.steps is not None]
    group = [*group, *(again for r in chained for again in _computed_again(r))]
    chained = [r for r in group if r.steps is not None]
    if chained:
        embedded = _embedded(graph, chained)
        if embedded:
            return embedded
        cut = common_cut(chained)
        if cut is not None and all(goes_through(r, r.chain.nodes[cut[0] - 1]) for r in chained if cut[0]):
            try:
                return site_at(graph, chained[0], *cut)
            except CannotPlaceError:
                further_in = _in_front_of(graph, chained)
                if not further_in:
                    raise
                return further_in
        bare = _bare(graph, chained)
        if bare is not None:
            return [bare]
        part = sites_beside_a_sum(graph, chained)
        if part:
            return list(part)
        if cut is not None:
            return site_at(graph, chained[0], *cut)
    else:
        function = _at_function(graph, group)
        if function:
            return function
    try:
        return _apart(graph, group, chained)
    except CannotPlaceError:
        parted = _parted(graph, chained)
        if not parted:
            raise
        return parted


def _at_function(graph: Graph, group: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For what all readings take through one function without an inverse, such as a hard swish, and no other: where it
    is called. Empty if that is not the case."""
    first = group[0]
    node = first.chain.begin.node
    whole = Expression(first.chain.begin)
    if len({(r.chain.end, r.chain.begin.key) for r in group}) > 1 or first.chain.end != "several":
        return []
    if [spot.node for spot in whole.order] != [node] or {*whole.leaves} != {first.raw.key}:
        return []
    rests = [named((*r.chain.steps, *r.suffix)) for r in group]
    if any(map(is_limited, rests)) or not all_alike(rests) or not all(goes_through(r, node) for r in group):
        return []
    chain = Chain(first.raw, "raw", first.chain.steps, (node, *first.chain.nodes), ((), *first.chain.by_node))
    return site_at(graph, replace(first, chain=chain), 1, rests[0])


def _embedded(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For what becomes the diagonal of a matrix, to which a floor is added there:

        covariance = torch.diag_embed(log_var.exp()) + 1e-4 * torch.eye(3)

    Beside the diagonal there are zeros, of which no scale may be computed. So it goes where the elements alone are, and
    the floor lets the matrix pass. Empty if that is not the case.
    """
    first = readings[0].chain
    count = next((i for i in range(1, len(first.nodes)) if _is_embedded(first.nodes[i - 1], first.nodes[i])), 0)
    if not count or any(r.parts or _in_common(r, readings[0]) <= count for r in readings):
        return []
    if any(not is_limited(rest_behind(r, count)) for r in readings):
        return []
    floors: dict[int, Node] = {}
    rests = []
    for reading in readings:
        left: list[Step] = []
        for node, steps in zip(reading.chain.nodes[count:], reading.chain.by_node[count:], strict=True):
            if all(step.name in ops.FLOORS for step in steps):
                floors[node.id] = node
            else:
                left += steps
        rests.append(named((*left, *reading.suffix)))
    if any(map(is_limited, rests)) or not all_alike(rests):
        return []
    if not all(goes_through(r, first.nodes[count - 1]) for r in readings):
        return []
    return [*site_at(graph, readings[0], count, rests[0]), *(_passing(graph, node) for node in floors.values())]


def _is_embedded(before: Node, after: Node) -> bool:
    """Whether a value is put on the diagonal of a matrix between two steps."""
    node = after.inputs[operand_of(after)] if after.inputs else before
    while node is not before and node.kind == "shape" and node.inputs:
        if node.op == "diag_embed":
            return True
        node = node.inputs[0]
    return False


def _apart(graph: Graph, group: Sequence[Reading], chained: Sequence[Reading]) -> list[Site | ActivationSite]:
    """The sites of readings that have no place in common."""
    again = (_bounded_again(graph, chained) or _drawn_of_bounded(graph, chained)) if chained else []
    if again:
        return again
    return _bounded(graph, group) or _each_by_itself(graph, group)


def _each_by_itself(graph: Graph, group: Sequence[Reading]) -> list[Site | ActivationSite]:
    """A site of its own for each reading."""
    sites: list[Site | ActivationSite] = []
    for reading in {r.node.id: r for r in group}.values():
        if reading.chain.end == "several":
            sites.append(whole_expression(reading))
        elif (at_term := _bare_in_term(graph, reading)) is not None:
            sites += at_term
        elif reading.chain.nodes:
            sites += site_at(
                graph, reading, *(common_cut([reading]) or (len(reading.chain.nodes), named(reading.suffix)))
            )
        elif not any(r.chain.end == "several" and r.node.id != reading.node.id for r in group):
            raise CannotPlaceError(
                "the host reads the raw value itself, with no step of its own that could be replaced"
                + _advice(graph, reading.raw.node)
            )
    return sites


def _bare(graph: Graph, readings: Sequence[Reading]) -> Site | None:
    """For a KL that reads a raw value as it is beside its exponential: the expression that computes the raw value."""
    raw, rests = readings[0].raw, [rest_behind(r, 0) for r in readings]
    covered = all(not r.chain.nodes or goes_through(r, r.chain.nodes[0]) for r in readings)
    several = any(is_recurrent(frame) for frame in raw.node.frames[:1])
    if covered or raw.node.kind == "parameter" or several or any(map(is_limited, rests)) or not all_alike(rests):
        return None
    emission = emission_of(graph, raw)
    if emission.at_output or (raw.cuts and emission.channels.start == 0 and emission.channels.stop is None):
        return None  # what a module returns is patched there, unless other heads read it, too
    if emission.reason == SCRIPTED and raw.node.id not in graph.returned:
        return None  # its call gives several values, of which it is one
    site = site_of_nodes([raw.node], -1, rests[0])
    if not raw.cuts:
        return site
    # what a module computes in passing has its channels; a sum of several modules' outputs is none of theirs
    is_sum = bool(readings[0].parts)
    return replace(site, beside=emission.channels) if is_sum else replace(site, channels=emission.channels)


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
        rests = [_rest_without(r, count, _only_bounds) for r in readings]
        if limits or any(map(is_limited, rests)) or not all_alike(rests):
            continue
        if not all(goes_through(r, chains[0].nodes[count - 1]) for r in readings):
            continue
        sites = site_at(graph, readings[0], count, rests[0])
        return [*sites, *(_passing(graph, node) for node in _that(_only_bounds, readings, count))]
    return []


def _in_front_of(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For a network whose own function bounds what it puts out, and returns it to where it is bounded once more, or
    gets a floor:

        mean, log_var = model(x)  # in which high - F.softplus(high - log_var)
        loss = (mean - y).square() / (log_var.exp() + 1e-6) + ...

    The scale goes where the function returns it, and what comes behind lets it pass. Empty if there is no such place.
    """
    together = min(_in_common(r, readings[0]) for r in readings)
    for passed in (_only_bounds, _only_floors) if not any(r.parts for r in readings) else ():
        for count in range(together - 1, 0, -1):
            rests, behind = [_rest_without(r, count, passed) for r in readings], _that(passed, readings, count)
            if not behind or any(map(is_limited, rests)) or not all_alike(rests):
                continue
            nodes = readings[0].chain.nodes
            if not all(goes_through(r, nodes[count - 1]) for r in readings):
                continue
            if any(is_read_elsewhere(graph, nodes[i - 1], nodes[i]) for i in range(count, together)):
                continue  # by what is no σ
            with contextlib.suppress(CannotPlaceError):
                sites = site_at(graph, readings[0], count, rests[0])
                return [*sites, *(_passing(graph, node) for node in behind)]
    return []


def _drawn_of_bounded(graph: Graph, readings: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For a draw and a KL that take for different things what the host has bounded: the scale goes there, and what the
    KL reads is made of it. Empty if that is not the case, or if the KL reads something else."""
    kept = next((r for r in readings if r.evidence == "noise" and not r.parts), None)
    if kept is None or kept.steps is None:
        return []
    same = [r for r in readings if r.steps is not None and agrees(r.steps, kept.steps)]
    others = [r for r in readings if r not in same]
    cut = common_cut(same)
    if cut is None or not cut[0] or not others or any(r.term is None or r.parts for r in others):
        return []
    if any(_in_common(r, kept) < cut[0] for r in others):
        return []
    for reading in others:
        _require_known_readers(graph, readings, reading, kept)
    return [*site_at(graph, kept, *cut), *(site for r in others for site in _at_term(graph, r, kept))]


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
    rests = [rest_behind(r, together) for r in readings]
    free = [rest for rest in rests if not is_limited(rest)]
    rest = (free or [_free_rest(readings[0], together)])[0]
    if is_limited(rest) or not all_alike([rest, *free]):
        return []
    kept = next((r for r in readings if r.evidence == "noise"), readings[0])
    for reading in readings:
        if reading.term is not None and reading is not kept:
            _require_known_readers(graph, readings, reading, kept)
    sites = site_at(graph, readings[0], together, rest)
    for reading, own in zip(readings, rests, strict=True):
        nodes = reading.chain.nodes[together:]
        if not is_limited(own):
            continue
        if not nodes or any(node.inplace for node in nodes):
            raise CannotPlaceError("its readings part where no step of their own follows")
        for site in site_at(
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


def _only_floors(steps: Sequence[Step]) -> bool:
    return bool(steps) and all(step.name in ops.FLOORS for step in steps)


def _rest_without(reading: Reading, count: int, passed: Callable[[Sequence[Step]], bool]) -> Convention:
    steps = (step for node in reading.chain.by_node[count:] if not passed(node) for step in node)
    return named((*steps, *reading.suffix))


def _that(passed: Callable[[Sequence[Step]], bool], readings: Sequence[Reading], count: int) -> list[Node]:
    """The operations behind some steps of chains that pass, each once."""
    found = {
        node.id: node
        for chain in (reading.chain for reading in readings)
        for node, steps in zip(chain.nodes[count:], chain.by_node[count:], strict=True)
        if passed(steps)
    }
    return list(found.values())


def _free_rest(reading: Reading, count: int) -> Convention:
    """What is left of the steps to σ, without the floors and bounds among them."""
    steps = (step for node in reading.chain.by_node[count:] for step in node if step.name not in ops.FLOORS)
    return named((*steps, *reading.suffix))


def _passing(graph: Graph, node: Node) -> Site | ActivationSite:
    """A site at which one operation lets its operand pass."""
    activation = activation_of(graph, [node])
    if activation is not None:
        return ActivationSite(activation, None)
    if not node.frames or not node.frames[0].host:
        raise CannotPlaceError("what the host has bounded is bounded again in a function that is not the host's")
    return site_of_nodes([node], operand_of(node), None)


def _advice(graph: Graph, raw: Node) -> str:
    """What would help with a parameter that only functions outside of the model read."""
    inside = any(f.path is not None and f.method for node in readers_of(graph, raw) for f in node.frames if f.host)
    alone = raw.kind == "parameter" and not inside
    return " (let a method of the model return the parameter, or call what reads it)" if alone else ""


def _computed_again(reading: Reading) -> list[Reading]:
    """The other places of a density or a KL at which the host computes the same steps of the same parameter.

        0.5 * ((x - y) / soft(self.log_sigma).exp()) ** 2 + soft(self.log_sigma)

    The second one gives log σ, and is a reading of its own: from there the rest of the first one's steps leads to σ.
    Of what a network emits those that one function computes once more, such as a law's property `q.std`.
    """
    if reading.term is None or not reading.chain.nodes:
        return []
    of_parameter = reading.raw.node.kind == "parameter"
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
        # of what a network emits, a residual posterior's σ may be computed, too, but by other lines
        if not of_parameter and not _is_same_code(chain.nodes, reading.chain.nodes):
            continue
        if count and chain.by_node == reading.chain.by_node[:count]:
            rest = tuple(step for steps in reading.chain.by_node[count:] for step in steps)
            for node in chain.nodes[:-1]:
                found.pop(node.id, None)
            found[spot.node.id] = replace(
                reading, chain=chain, suffix=(*rest, *reading.suffix), node=spot.node, term=None, cuts=spot.cuts
            )
    return list(found.values())


def _is_same_code(nodes: Sequence[Node], others: Sequence[Node]) -> bool:
    """Whether one function, a helper or a property, computes all steps, called twice from elsewhere."""

    def inner(node: Node) -> object:
        frame = node.host_frame()
        return None if frame is None else (frame.code, frame.lasti)

    def called(node: Node) -> int:
        return sum(frame.host for frame in node.frames)

    alike = len(nodes) == len(others) and all(inner(a) == inner(b) for a, b in zip(nodes, others, strict=True))
    return alike and called(nodes[-1]) > 1


def _bounded(graph: Graph, group: Sequence[Reading]) -> list[Site | ActivationSite]:
    """For a scale that all readings compute of one value, which parameters bound: that value's expression. A floor
    behind it, `log_var.exp() + 1e-6`, lets σ pass. Empty if that is not the case."""
    first = group[0]
    ends = {(r.chain.end, r.chain.begin.key) for r in group}
    if len(ends) > 1 or first.chain.end != "several" or first.chain.begin.node.kind != "elementwise":
        return []
    expression = Expression(first.chain.begin)
    others = [spot for key, spot in expression.leaves.items() if key != first.raw.key and spot.node.params]
    reads = {s.node: [o.key for o in operands(expression, s)] for s in expression.order}
    readers = [node for node, keys in reads.items() if first.raw.key in keys]
    if not others or any(o.node.kind != "parameter" for o in others) or len(readers) != 1:
        return []
    rests, passing = [rest_behind(r, 0) for r in group], list[Node]()
    if any(map(is_limited, rests)):
        rests, passing = [_rest_without(r, 0, _only_floors) for r in group], _that(_only_floors, group, 0)
    if any(map(is_limited, rests)) or not all_alike(rests):
        return []
    operand = reads[readers[0]].index(first.raw.key)
    site = site_of_nodes([readers[0], first.chain.begin.node], operand, rests[0])
    return [site, *(_passing(graph, node) for node in passing)]


_FAR_DOWN = torch.tensor([-1000.0, -200.0])  # where exp underflows in float32


def log_sites(readings: Iterable[Reading]) -> tuple[LogSite, ...]:
    """The expressions that compute a Normal's σ of one raw value, where it is the very tensor it is given."""
    found: dict[LogSite, None] = {}
    for raw, nodes, convention in _carrying(readings):
        parameter = "" if raw.cuts else attribute_read(raw.node, nodes[0])
        with contextlib.suppress(CannotPlaceError):
            at = site_of_nodes(nodes, operand_of(nodes[0]), None, parameter)
            log = LogSite(at.owner, at.method, at.calls, at.first, at.last, at.operand, convention, parameter)
            found[log] = None
    return tuple(found)


def logs_of(readings: Iterable[Reading]) -> list[tuple[Sequence[Node], Convention]]:
    """Of each σ that could carry its logarithm the steps from the raw value to it, and what they compute."""
    return [(nodes, convention) for _, nodes, convention in _carrying(readings)]


def _carrying(readings: Iterable[Reading]) -> Iterator[tuple[Spot, Sequence[Node], Convention]]:
    """What σ is computed of, where one function has both; the nodes from there to σ, and what they compute. Where they
    know its logarithm no better than as that of σ, the last of them alone, with σ itself: a scale that takes the place
    of it all does."""
    known, others = set[int](), dict[int, Node]()
    for reading in readings:
        for raw, nodes, convention in _with_their_log([reading]):
            known.add(nodes[-1].id)
            yield raw, nodes, convention
        sigma = reading.node
        while sigma.op in ops.COPYING and sigma.inputs:
            sigma = sigma.inputs[0]
        if reading.evidence == "Normal" and not reading.suffix and sigma.kind == "elementwise" and sigma.inputs:
            others[sigma.id] = sigma
    for number in others.keys() - known:
        yield Spot(others[number].inputs[0]), [others[number]], Sigma()


def _with_their_log(readings: Iterable[Reading]) -> Iterator[tuple[Spot, Sequence[Node], Convention]]:
    for reading in readings:
        nodes = reading.chain.nodes
        if reading.evidence != "Normal" or reading.steps is None or reading.suffix or not nodes:
            continue
        if (
            reading.chain.end != "raw"
            or not _is_same_tensor(reading.node, nodes[-1])
            or nodes[0].inplace  # the raw value is gone then
        ):
            continue
        if any(not stays(nodes[i - 1], nodes[i]) for i in range(1, len(nodes))):
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
        for site in site_at(graph, reading, len(reading.chain.nodes), named(reading.suffix)):
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
    for node in readers_of(graph, begin):
        read = [settle(Spot(a)) for a in node.args if isinstance(a, Node)]
        own = any(spot.node is begin and (together or spot.key == reading.raw.key) for spot in read)
        drawn = any(spot.node.kind == "noise" for spot in read)
        if own and node.kind == "elementwise" and node.id not in known and not drawn and not is_check(graph, node):
            raise CannotPlaceError("what draws is read beside the KL, too, in a way that is not understood")


def _has_steps_of_its_own(reading: Reading, kept: Reading) -> bool:
    """Whether a density or a KL reads the raw value through steps that the reading which is kept does not take."""
    nodes = reading.chain.nodes
    return bool(nodes) and nodes[-1] not in kept.chain.nodes and goes_through(reading, nodes[-1])


def _bare_in_term(graph: Graph, reading: Reading) -> list[Site] | None:
    """The places of a density or a KL that reads a raw value as it is, beside steps of its own or without any; None
    for what is no such reading, for one that takes the same steps again, and where a place is not the host's."""
    if reading.term is None or reading.steps is None or reading.parts:
        return None
    nodes = reading.chain.nodes
    if nodes and (goes_through(reading, nodes[-1]) or _computed_again(reading)):
        return None
    if is_limited(rest_behind(reading, 0)):
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
    if is_limited(rest_behind(reading, together)):
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
            site = site_of_nodes([node], EACH_OPERAND - place, rest_behind(reading, together))
            found[site if kept is None else replace(site, reads=rest_behind(kept, together))] = None
    if not found:
        raise CannotPlaceError("one of its readings has no step of its own that could be replaced")
    return list(found)


def is_product_of_others(reading: Reading) -> bool:
    """Whether σ is a product of scales that are no plain exponentials, whose raw values nobody may add."""
    return reading.chain.end == "product" and any(
        named(part.steps) != LogSigma() or part.end != "raw" or not part.nodes for part in reading.parts
    )


def is_product_of_scales(reading: Reading) -> bool:
    """Whether σ itself is such a product, each factor of which can get a scale: not so exp(a b), nor a root."""
    apart = all(part.end == "raw" and part.nodes for part in reading.parts)
    return apart and is_product_of_others(reading) and all_alike([Sigma(), rest_behind(reading, 0)])


def sites_of_factor(graph: Graph, readings: Iterable[Reading], emission: Emission) -> tuple[Site | ActivationSite, ...]:
    """The sites of one factor of σ = softplus(a) softplus(b) ..., where it is computed: each factor gets a scale."""
    found: dict[Site | ActivationSite, None] = {}
    for reading in readings:
        if not all_alike([Sigma(), rest_behind(reading, 0)]):
            raise CannotPlaceError("it is a factor of a product of scales that is no σ yet")
        for part in reading.parts:
            if emission_of(graph, part.begin) != emission:
                continue
            if part.end != "raw" or not part.nodes:
                raise CannotPlaceError("it is a factor of a product of scales, and no single step computes it")
            factor = replace(reading, raw=part.begin, chain=part, suffix=(), node=part.nodes[-1], term=None, parts=())
            found |= dict.fromkeys(site_at(graph, factor, len(part.nodes), Sigma()))
    return tuple(found)


def _product(reading: Reading) -> Site:
    """σ = exp(a) exp(b) ...: the product's expression reads scale(a + b + ...)."""
    if is_product_of_others(reading):
        raise CannotPlaceError("it is a factor of a product of scales that are no plain exponentials")
    nodes = [part.nodes[0] for part in reading.parts]
    join = reading.chain.begin.node
    level = common_level([*nodes, join])
    spans = [span_of(outer_first(n)[level]) for n in nodes]
    site = site_of_nodes([*nodes, join], 0, named((*reading.chain.steps, *reading.suffix)))
    return replace(site, also=tuple((span, 0) for span in spans[1:]))
