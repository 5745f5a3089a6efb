"""The role of a head: whether its σ is a posterior's, a prior's or a likelihood's.

A KL or a density says it; where neither was run, it is guessed from what reaches the raw value. On the way from the
data to a draw, as in `self.encoder(x)`, it is a posterior's; behind a draw that nothing goes on from, as in
`self.decoder(z)`, a likelihood's if it has the size of the data; else a prior's.

A KL is mostly KL(q ‖ p), so that its first σ is the posterior's. But some hosts have it the other way round. What is
drawn, goes into a network, and sees all data that the other one sees is the posterior, whatever its place. And weights
that are drawn are a posterior's by any density that is of no data.

A policy's actions are drawn, too, and their own density is their entropy; `uses.py` tells them from codes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from vdvae_patch.heads import Role
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import lies_in
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.gaussian import MOST_LEAVES, GaussianTerm, totals
from vdvae_patch.scanning.evidence.of_data import is_data, is_of_data
from vdvae_patch.scanning.evidence.reading import Reading, Readings
from vdvae_patch.scanning.evidence.sleep import draws_of_same_law, is_dreamt, is_of_what_it_sees
from vdvae_patch.scanning.evidence.uses import (
    drawn_weights,
    has_prior,
    inputs_of,
    is_decoded,
    is_read,
    products_of,
    sees_less,
)
from vdvae_patch.scanning.heads.actions import is_action, is_moved_state, moves_by_itself


def role_of(graph: Graph, readings: Readings, found: list[Reading]) -> tuple[Role, bool]:
    """The role of one raw value, and whether a density or a KL says so.

    Args:
        readings: all of the graph; their `samples` are what was drawn.
        found: those of this raw value.
    """
    places = {r.evidence for r in found}
    own = _draws_of(readings, found) or draws_of_same_law(graph, readings, found)
    if "q" not in places and _is_policy(graph, readings, found, own):
        return "likelihood", any(r.term is not None for r in found)
    roles: list[Role] = [_role_as_first(graph, readings, r) for r in found if r.evidence == "q"]
    densities = [_role_in_density(graph, readings, r, own) for r in found if r.term is not None and r.evidence == "p"]
    roles += densities
    if {*roles} == {"prior", "likelihood"} and any(_is_of_noised_data(r.term) for r in found if r.term is not None):
        return "prior", True  # a reverse step of diffusion, computed once more for its first step, which data follow
    if densities and not own and _is_law_of_observations(found, densities):
        return "likelihood", True
    if roles and {*roles} == {"likelihood"} and _is_of_a_label_too(graph, readings, found, own):
        return "likelihood", False
    if roles:
        return ("posterior" if "posterior" in roles else roles[0]), True
    raw, sampled = found[0].raw, "noise" in places
    rung = _role_on_a_ladder(readings, raw)
    if rung is not None:
        return rung, False
    if _measures_data(graph, found) and not (sampled and _sample_is_used(graph, readings, own)):
        return "likelihood", True
    if raw.node.noise and not (sampled and _sample_is_used(graph, readings, own)):
        return ("likelihood" if _has_size_of_data(graph, raw) else "prior"), False
    around = _has_size_of_data(graph, raw) or _is_around_data(graph, found) or _is_of_one_parameter(graph, found)
    if not sampled and around:
        return "likelihood", False  # a Normal that is made of the data, and never drawn from
    if sampled and raw.node.data and not _sample_is_used(graph, readings, own):
        every = frozenset(n.id for n in graph.nodes if n.kind == "input")
        if is_decoded(graph, readings, own, every, bare=True):
            return "likelihood", False  # logits that are drawn, and compared with classes
    if sampled and is_dreamt(graph, readings, raw, own):
        return "likelihood", False
    if sampled and raw.node.data and _is_generator(graph, readings, raw, own):
        return "prior", False
    if sampled and raw.node.noise and moves_by_itself(graph, readings, raw, own):
        return "prior", False
    judged = sampled and raw.node.data and graph.loss is not None
    if judged and is_moved_state(graph, readings, raw, own):
        return "prior", False
    if judged and is_action(graph, readings, raw, own):
        return "likelihood", False
    if raw.node.kind == "parameter" and any(drawn_weights(graph, r.node) for r in found if r.evidence == "noise"):
        return "posterior", False
    return ("posterior" if raw.node.data else "prior"), "Normal" in places


def _is_law_of_observations(found: list[Reading], densities: list[Role]) -> bool:
    """Whether what is never drawn has a density of data, or of what a network makes of data without a draw, beside a KL
    to a Normal of two numbers: it is fitted to what was observed, and the KL keeps it near N(0, 1)."""
    terms = [r.term for r in found if r.term is not None and r.evidence == "p"]
    if "likelihood" in densities and any(map(is_of_data, terms)):
        return True
    firsts = [r.term for r in found if r.term is not None and r.evidence == "q"]
    near = bool(firsts) and all(term.prior is not None for term in firsts)
    return near and not any(mean.node.noise for term in terms for mean in term.means)


def _is_of_a_label_too(graph: Graph, readings: Readings, found: list[Reading], own: set[int]) -> bool:
    """Whether what has a density of data is drawn as well, of data alone, and networks go on from the draw: a label
    that is known of some rows, and a code of others. By the density it is a likelihood's, by the draw a posterior's.

        y = draw(mean, log_var)
        loss = error(decoder(y), x) + nll(labels[known], mean[known], log_var[known])
    """
    raw = found[0].raw.node
    return raw.data and not raw.noise and _sample_is_used(graph, readings, own)


def _draws_of(readings: Readings, found: list[Reading]) -> set[int]:
    """The scales by which a raw value's own noise is multiplied: a density may have one step of what was drawn at once,
    `z[:, t]`."""
    own = {r.node.id if r.used < 0 else r.used for r in found if r.evidence == "noise"}
    if not own:
        raws = [r.raw for r in found]
        wider = [r for r in readings.found if r.evidence == "noise" and any(_is_part(raw, r.raw) for raw in raws)]
        own = {r.node.id if r.used < 0 else r.used for r in wider}
    return own


def _is_part(part: Spot, whole: Spot) -> bool:
    """Whether one part of a tensor lies in another one."""
    return part.node is whole.node and lies_in(part.cuts, whole.cuts)


def _is_policy(graph: Graph, readings: Readings, found: list[Reading], own: set[int]) -> bool:
    """Whether what is drawn is judged by its own density, or by the entropy of its Normal, and not decoded."""
    if not own or not (_has_own_density(readings, found, own) or _has_entropy(graph, found)):
        return False
    raw = found[0].raw
    sources = inputs_of(readings, raw) or _inputs_of_means(graph, readings, own)
    priors = [r for r in readings.found if r.evidence == "p" and r.raw.key != raw.key and is_of_draws(r, own)]
    if not sources or priors or is_decoded(graph, readings, own, sources):
        return False
    return not has_prior(graph, readings, own)


def _inputs_of_means(graph: Graph, readings: Readings, own: set[int]) -> frozenset[int]:
    """The inputs that the means of some draws are computed of, where a parameter is their scale."""
    drawn = products_of(graph, readings, own)
    sums = [user for product in drawn for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    at_once = [product for product in drawn if product.op in ops.SCALING_NOISE]  # torch.normal(mean, std)
    means = [n for node in (*sums, *at_once) for n in node.inputs if n.id not in readings.samples and n.id not in own]
    return frozenset[int]().union(*(inputs_of(readings, Spot(mean)) for mean in means))


def _has_own_density(readings: Readings, found: list[Reading], own: set[int]) -> bool:
    densities = [r for r in found if r.evidence == "p" and r.term is not None]
    return bool(densities) and all(is_of_draws(r, own) for r in densities)


def is_of_draws(reading: Reading, own: set[int]) -> bool:
    """Whether a density is of what was drawn with one of some scales."""
    means = reading.term.means if reading.term is not None else ()
    return any(n.id in own for mean in means for n in mean.node.inputs)


def _has_entropy(graph: Graph, found: list[Reading]) -> bool:
    """Whether the logarithm of a σ is taken that a Normal was given, and no density has it."""
    if any(r.term is not None for r in found):
        return False
    given = {r.node.id for r in found if r.evidence == "Normal"}
    same = {normal.scale.id for normal in graph.normals if normal.scale.id in given}
    while more := {u.id for i in same for u in graph.consumers.get(i, ()) if u.kind == "shape"} - same:
        same |= more
    return any(user.op == "log" for i in same for user in graph.consumers.get(i, ()))


def _is_generator(graph: Graph, readings: Readings, raw: Spot, own: set[int]) -> bool:
    """Whether a draw of a part of the data is not decoded, beside one of the same width of more data that is: the codes
    that a critic is to tell from the posterior's."""
    if is_decoded(graph, readings, own, inputs_of(readings, raw)):
        return False
    for other in readings.found:
        alike = other.evidence == "noise" and not other.parts and shape_of(other.raw)[-1:] == shape_of(raw)[-1:]
        if alike and sees_less(readings, raw, other.raw):
            draws = {other.node.id if other.used < 0 else other.used}
            if is_decoded(graph, readings, draws, inputs_of(readings, other.raw)):
                return True
    return False


def _is_expert(graph: Graph, readings: Readings, raw: Spot, samples: list[Spot], own: set[int]) -> bool:
    """Whether what is drawn by itself, and decoded, is of data that those do not see whose draws it judges: one expert
    of a mixture of posteriors, each for a kind of data of its own. A prior sees what its posterior does, or less; and
    what is computed of earlier draws, as the law of a next state is, is none."""
    if raw.node.noise:
        return False
    sees = inputs_of(readings, raw)
    scales = {n.id for sample in samples for n in sample.node.inputs}
    others = [r for r in readings.found if r.evidence == "noise" and (r.node.id if r.used < 0 else r.used) in scales]
    seen = frozenset[int]().union(*(inputs_of(readings, r.raw) for r in others))
    return bool(others) and not sees <= seen and is_decoded(graph, readings, own, sees)


def _judge_each_other(graph: Graph, readings: Readings, raw: Spot, samples: list[Spot], own: set[int]) -> bool:
    """Whether what is drawn by itself is compared with the mean of the law whose draws it judges, too: two posteriors,
    of two views of the data, that a symmetrised KL of samples keeps near each other. A prior sees less.

        kl = p.log_prob(z_p) - q.log_prob(z_p) + q.log_prob(z_q) - p.log_prob(z_q)
    """
    scales = {n.id for sample in samples for n in sample.node.inputs}
    others = [r for r in readings.found if r.evidence == "noise" and (r.node.id if r.used < 0 else r.used) in scales]
    if not others or any(sees_less(readings, raw, r.raw) for r in others):
        return False
    means = {settle(Spot(n)).key for sample in samples for n in _means_added(graph, sample.node)}
    drawn = [user for product in products_of(graph, readings, own) for user in graph.consumers.get(product.id, ())]
    for node in drawn:
        for user in _behind_moves(graph, node):
            if user.op in ops.DIFFERENCES and any(n.params and settle(Spot(n)).key in means for n in user.inputs):
                return True
    return False


def _means_added(graph: Graph, product: Node) -> list[Node]:
    """What the products σ ε of a draw are added to."""
    sums = [user for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    return [n for node in sums for n in node.inputs if n is not product]


def _behind_moves(graph: Graph, node: Node) -> Iterator[Node]:
    """What reads a value, or its elements elsewhere."""
    todo = [node]
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.kind == "shape":
                todo.append(user)
            else:
                yield user


def _is_factor_beside_others(readings: Readings, raw: Spot) -> bool:
    """Whether a raw value is merged into what is drawn, beside another one of other data to which there is a KL, too: a
    product has one prior at most, so that these are experts, each a posterior of its label or modality."""
    products = {r.used for r in readings.found if r.evidence == "noise" and r.used >= 0 and r.raw.key == raw.key}
    if not products:
        return False
    sees = inputs_of(readings, raw)
    second = {r.raw.key for r in readings.found if r.evidence == "p" and r.term is not None}
    others = [
        r.raw
        for r in readings.found
        if r.evidence == "noise" and r.used in products and r.raw.key != raw.key and r.raw.key in second
    ]
    return bool(sees) and any(inputs_of(readings, other) not in (frozenset(), sees) for other in others)


def _role_on_a_ladder(readings: Readings, raw: Spot) -> Role | None:
    """The role of what knows the data by the draws above it alone, and is merged into a draw with what sees them: the
    prior that the posterior of a ladder is merged with, or a part of that posterior, where a prior of its own judges
    the draw. None of anything else."""
    drawn = [r for r in readings.found if r.evidence == "noise" and r.used >= 0]
    products = {r.used for r in drawn if r.raw.key == raw.key}
    if not products or not raw.node.noise or inputs_of(readings, raw, through_means=False):
        return None
    merged = [r for r in drawn if r.used in products]
    if not any(inputs_of(readings, r.raw, through_means=False) for r in merged):
        return None
    own = {r.raw.key for r in merged}
    judges = (r for r in readings.found if r.evidence == "p" and r.term is not None and r.raw.key not in own)
    return "posterior" if any(is_of_draws(r, products) for r in judges) else "prior"


def _drawn_alone(readings: Readings, raw: Spot) -> set[int]:
    """Those of a raw value that is not merged with others: a prior that is multiplied into a posterior is not drawn."""
    alone = (r for r in readings.found if r.evidence == "noise" and r.used < 0 and r.raw.node.id == raw.node.id)
    return {r.node.id for r in alone if r.raw.key == raw.key}


def _role_as_first(graph: Graph, readings: Readings, reading: Reading) -> Role:
    """The role of a σ that stands first in a KL: a posterior's, unless the second one is."""
    assert reading.term is not None
    if _is_near_likelihood(readings, reading):
        return "likelihood"
    if is_of_data(reading.term) and not _draws_of(readings, [reading]):
        return "likelihood"  # KL(p ‖ N(x, 0.01)): a prediction that is kept near what was observed
    beside = readings.beside(reading.term, "p")
    seconds = [r for r in beside if r.term is not None and is_one_kl(r.term, reading.term)]
    exchanged = any(_is_exchanged(graph, readings, reading.raw, r.raw) for r in seconds)
    exchanged = exchanged or any(_is_of_known_code(graph, readings, reading.raw, r.raw) for r in seconds)
    if reading.raw.node.noise and not _draws_of(readings, [reading]):
        # drawn nowhere, and of the data it knows what the code above tells: p(z_1 | z_2), kept near N(0, 1) as well
        knows_a_code = not inputs_of(readings, reading.raw, through_means=False)
        exchanged = exchanged or (knows_a_code and not _is_posterior_of_what_was_made(graph, readings, reading.raw))
    return "prior" if exchanged else "posterior"


def _is_posterior_of_what_was_made(graph: Graph, readings: Readings, raw: Spot) -> bool:
    """Whether the layer that gives a raw value of draws alone is the one by which data are encoded, drawn and decoded:
    an encoder that is given what the model makes, to tell it from data, as of IntroVAE.

        z = draw(*encoder(x))
        loss = error + kl(*encoder(x)) + (margin - kl(*encoder(decoder(z).detach()))).relu()
    """
    emitted = emission_of(graph, raw)
    return any(
        r.evidence == "noise"
        and not r.parts
        and bool(inputs_of(readings, r.raw, through_means=False))
        and emission_of(graph, r.raw) == emitted
        and _sample_is_used(graph, readings, {r.node.id if r.used < 0 else r.used})
        for r in readings.found
    )


def _is_of_known_code(graph: Graph, readings: Readings, first: Spot, second: Spot) -> bool:
    """Whether the second of a KL is a code, which is drawn, decoded and near N(0, 1) by a KL of its own, and the first
    is drawn nowhere: what predicts the code, whatever it sees."""
    own = [r for r in readings.found if r.raw.key == second.key and r.evidence == "q" and r.term is not None]
    if _drawn_alone(readings, first) or not any(r.term.prior is not None for r in own if r.term is not None):
        return False
    return _sample_is_used(graph, readings, _drawn_alone(readings, second))


def _is_near_likelihood(readings: Readings, reading: Reading) -> bool:
    """Whether the KL's other mean is that of a density of data: of a policy that is kept near an earlier one."""
    assert reading.term is not None
    compared = {m.key for m in reading.term.means if m.node.params}
    beside = readings.beside(reading.term, "p")
    others = (r.term for r in beside if r.term is not None and r.raw.key != reading.raw.key)
    return any(is_of_data(term) for term in others if any(m.key in compared for m in term.means))


def _role_in_density(graph: Graph, readings: Readings, reading: Reading, own: set[int]) -> Role:
    """The role of a σ that stands in a density, or second in a KL.

    Args:
        own: the scales by which this raw value's own noise is multiplied.
    """
    assert reading.term is not None
    term = reading.term
    samples = [mean for mean in term.means if mean.node.id in readings.samples]
    if any(n.id in own for sample in samples for n in sample.node.inputs):
        return "posterior"  # log q(z) of a z that was drawn from q: the Monte Carlo form of a KL
    firsts = [r for r in readings.beside(term, "q") if r.term is not None and is_one_kl(r.term, term)]
    # what another law draws, or has for its mean, is not moved by the layers, and is measured by a prior
    if not samples and not firsts and _is_of_path_of_own_draw(graph, readings, reading):
        return "posterior"  # log q(z_t | x_t) along a path that begins in a draw of q(z_0 | x_0)
    if any(_is_exchanged(graph, readings, r.raw, reading.raw) for r in firsts):
        return "posterior"
    if samples and own and _is_expert(graph, readings, reading.raw, samples, own):
        return "posterior"
    if samples and own and _judge_each_other(graph, readings, reading.raw, samples, own):
        return "posterior"
    if _is_factor_beside_others(readings, reading.raw):
        return "posterior"
    if not firsts and is_of_what_it_sees(graph, term):
        return "posterior"  # log q(z | x) of a z that x was dreamt of
    if samples and not any(sample.node.data for sample in samples) and is_of_data(term):
        return "likelihood"  # of data, around a layer's output to which a bias is added that is drawn
    if samples or firsts:
        return "prior"  # log p(z) of a z that was drawn, or second in a KL
    if _is_of_noised_data(term) or _is_measured_at_other_steps(graph, term):
        return "prior"
    if is_of_data(term):
        return "likelihood"
    if own and reading.raw.node.kind == "parameter":
        return "posterior"  # of weights
    if any(mean.node.op in ops.ROUNDING and mean.node.params for mean in term.means):
        return "prior"  # of a code that is rounded, and not drawn
    codes = [r for r in readings.found if r.evidence == "q" and r.term is not None and _shares_mean(r.term, term)]
    if codes and _infers_a_part(graph, readings, reading.raw, codes):
        return "posterior"
    if codes:
        return "prior"  # of the mean of a code, whose σ stands in another expression
    if _is_flow_of_data(graph, term):
        return "prior"
    if _is_drawn_of_data(graph, readings, reading):
        return "posterior"  # second in a KL whose first σ is a constant: KL(N(0, 1) ‖ q)
    if _is_in_another_draw(readings, reading.raw):
        return "prior"  # of a residual posterior's difference of means: (Δμ / σ_p)², and log σ is not there at all
    if _is_of_code(graph, term):
        return "prior"  # a rate: the bits of what is made of the data, and decoded
    whole = Expression(Spot(term.total), through_sums=True)
    if _has_noise(whole) and not any(is_data(leaf.node) for leaf in whole.leaves.values()):
        return "prior"  # of a draw that a flow without layers has moved
    if _is_of_features(graph, term):
        return "likelihood"
    networks = {mean.node.id for mean in term.means if mean.node.params}
    return "prior" if len(networks) > 1 else "likelihood"


def _is_of_features(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a density compares what the same layers make of data and of what a draw was decoded to, be it layer by
    layer: a perceptual error."""
    noisy: dict[str, list[bool]] = {}
    for mean in term.means:
        if mean.node.params and mean.node.data:
            noisy.setdefault(emission_of(graph, mean).path, []).append(bool(mean.node.noise))
    features = {path: found for path, found in noisy.items() if sorted(found) == [False, True]}
    return bool(features) and "" not in features and all(path in features or all(noisy[path]) for path in noisy)


def _is_of_path_of_own_draw(graph: Graph, readings: Readings, reading: Reading) -> bool:
    """Whether a density is of what was made of a draw by the same layers, which both times see data and no draw.

    A prior of a condition may be drawn from, too; but what its density is taken of is made of the posterior's draw.
    """
    assert reading.term is not None
    if not reading.raw.node.data or reading.raw.node.noise:
        return False
    path = emission_of(graph, reading.raw).path
    alike = [
        r
        for r in readings.found
        if r.evidence == "noise" and r.raw.node.data and not r.raw.node.noise and emission_of(graph, r.raw).path == path
    ]
    own = 0
    for product in products_of(graph, readings, {r.node.id if r.used < 0 else r.used for r in alike}):
        own |= product.noise
    return any(mean.node.noise & own for mean in reading.term.means)


def _shares_mean(one: GaussianTerm, other: GaussianTerm) -> bool:
    return not {mean.key for mean in one.means}.isdisjoint(mean.key for mean in other.means)


def _infers_a_part(graph: Graph, readings: Readings, raw: Spot, codes: list[Reading]) -> bool:
    """Whether a Normal that is kept near codes is of data that the codes are decoded to, where the codes' prior is
    known, a standard Normal: a posterior of one of several modalities. A prior is of a condition."""
    sees = inputs_of(readings, raw)
    if not sees or not all(r.term is not None and r.term.prior is not None for r in codes):
        return False
    return is_decoded(graph, readings, _draws_of(readings, codes), sees)


def _is_in_another_draw(readings: Readings, raw: Spot) -> bool:
    """Whether a raw value has a part in the σ of a draw whose own raw value it is not: a posterior's that is computed
    relative to its prior's, σ_q = σ_p exp(Δ)."""
    return any(
        r.evidence == "noise" and r.raw.key != raw.key and raw.key in Expression(r.spot, through_sums=True).leaves
        for r in readings.found
    )


def is_one_kl(one: GaussianTerm, other: GaussianTerm) -> bool:
    """Whether two terms are the two sides of one KL: of one expression, or of one that goes on from the other's, as
    where a KL is added up in place, and compare the same means."""
    if one.total is other.total:
        return True
    alike = any(a.node.id == b.node.id and a.cuts == b.cuts for a in one.means for b in other.means)
    early, late = (one, other) if one.total.id <= other.total.id else (other, one)
    return alike and _goes_on_from(late.total, early.total)


def _goes_on_from(late: Node, early: Node) -> bool:
    todo, seen = [late], set[int]()
    while todo:
        node = todo.pop()
        if node is early:
            return True
        if node.id > early.id and node.id not in seen and node.kind in ("elementwise", "shape", "reduction"):
            seen.add(node.id)
            todo.extend(node.inputs)
    return False


def _is_exchanged(graph: Graph, readings: Readings, first: Spot, second: Spot) -> bool:
    """Whether the second of a KL is what is drawn and sees the data, and the first one is not.

    A conditional prior may be drawn from in place of the posterior, p(z | c) of q(z | x, c), but sees less; so does
    one whose draw is decoded by mistake, where it knows the data by the code above it alone.
    """
    if not _sample_is_used(graph, readings, _drawn_alone(readings, second)):
        return False
    if not inputs_of(readings, first, through_means=False) <= inputs_of(readings, second, through_means=False):
        return False
    seen, others = inputs_of(readings, second), inputs_of(readings, first)
    if not seen:
        return False
    if _sample_is_used(graph, readings, _drawn_alone(readings, first)):
        return not others  # both are drawn, and only one sees data by itself
    return others <= seen


def _is_drawn_of_data(graph: Graph, readings: Readings, reading: Reading) -> bool:
    """Whether a σ is of what is drawn and goes into a network, and sees all data that its term's means see."""
    assert reading.term is not None
    seen = inputs_of(readings, reading.raw)
    means = [mean for mean in reading.term.means if mean.node.params]
    if any(mean.node.noise for mean in means):
        return False  # of what another one has drawn
    used = _sample_is_used(graph, readings, _drawn_alone(readings, reading.raw))
    return bool(seen) and used and all(inputs_of(readings, mean) <= seen for mean in means)


def _is_flow_of_data(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a density with a learned scale, and no mean of a network's, is of what a network makes of the data.

    What a flow makes of them is as many numbers as they are, and there is no noise in it but that of dequantization. A
    residual is another matter: data less a prediction, times a constant at most.
    """
    if term.raw.node.data or len(term.means) != 1:
        return False
    node = settle(Spot(term.means[0].node)).node
    if not (node.data and node.params) or node.noise or node.op in ops.STATISTICS or node.kind == "reduction":
        return False
    sizes = {math.prod(n.shape) for n in graph.nodes if n.kind == "input"}
    return math.prod(node.shape) in sizes and not _is_residual(node)


def _is_of_code(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a density or a mass is of what a network makes of the data, and other networks go on from, be it with
    the noise that stands for a rounding: no data are compared with it."""
    (node, *others) = [settle(Spot(mean.node)).node for mean in term.means]
    if others or not (node.data and node.params) or term.raw.node.kind == "parameter" or _is_residual(node):
        return False
    return is_read(graph, node)


def _is_residual(node: Node) -> bool:
    """Whether data have a part in a value by addition alone."""
    todo, seen = [node], set[int]()
    while todo:
        current = settle(Spot(todo.pop())).node
        if is_data(current):
            return True
        if current.id in seen or current.op not in ops.LINEAR or sum(n.params for n in current.inputs) > 1:
            continue
        seen.add(current.id)
        todo.extend(current.inputs)
    return False


_MOST_TOTALS = 64
"""How many terms of a loss are looked at behind a density: the KL stands in the next lines, among a dozen terms."""


def _is_measured_at_other_steps(graph: Graph, term: GaussianTerm) -> bool:
    """Whether a density of data is that of diffusion's first step, at which the data are drawn, and the same σ stands
    in the KL of all other steps."""
    if not is_of_data(term) or not _has_noise(Expression(Spot(term.total), through_sums=True)):
        return False
    later = (node for node in totals(graph, through_sums=False) if node.id > term.total.id)
    return any(_is_of_noised_data(replace(term, total=node)) for node in itertools.islice(later, _MOST_TOTALS))


def _has_noise(expression: Expression) -> bool:
    """Whether noise itself, and not what a network makes of it, has a part in an expression."""
    return any(spot.node.noise and not spot.node.params for spot in expression.leaves.values())


_V = torch.linspace(-1.5, 1.5, 17, dtype=torch.float64)
_SMALL = 6.0
"""How far below a log σ is looked at, too: the σ of diffusion's steps are small, and so are those they are compared
with."""
_EXACT = 1e-6


def _is_of_noised_data(term: GaussianTerm) -> bool:
    """Whether a term is a KL whose first Normal is no network's, and lies around data with noise of known size: a step
    of diffusion, q(x_{t-1} | x_t, x_0) of numbers and p(x_{t-1} | x_t) of a network, of what no data are.

    Its least value over the mean has a part in 1/σ², by the variance of the first Normal; that of a density has none.
    """
    raw = frozenset({term.raw.node.id})  # it may be computed: a sum of raw values, or of numbers and one
    expression = Expression(Spot(term.total), raw, through_sums=True, most=MOST_LEAVES)
    if not 1 < len(expression.leaves) <= MOST_LEAVES or not _has_noise(expression):
        return False
    if not any(m.key in expression.leaves for m in term.means):  # the difference of the two means
        stops = raw | {m.node.id for m in term.means}
        expression = Expression(Spot(term.total), stops, through_sums=True, most=MOST_LEAVES)
    mean = next((m for m in term.means if m.key in expression.leaves), None)
    if mean is None or term.raw.key not in expression.leaves:
        return False
    return any(_has_known_variance(expression, term.raw.key, mean.key, grid) for grid in (_V, _V - _SMALL))


def _has_known_variance(expression: Expression, raw: SpotKey, mean: SpotKey, grid: torch.Tensor) -> bool:
    """Whether the least value over the mean has a part in 1/σ² over a grid of raw values."""
    others = {key: torch.tensor(0.3, dtype=torch.float64) for key in expression.leaves}
    below, at, above = (
        expression.value({**others, raw: grid, mean: torch.tensor(m, dtype=torch.float64)}).expand_as(grid)
        for m in (-1.0, 0.0, 1.0)
    )
    curvature, slope = (above + below) / 2 - at, (above - below) / 2
    if not bool((curvature.abs() > 0).all()):
        return False
    least = at - slope**2 / (4 * curvature)
    design = torch.stack([torch.ones_like(grid), curvature.abs().log(), curvature], 1)
    if not bool(design.isfinite().all() and least.isfinite().all()):
        return False
    solution = torch.linalg.lstsq(design, least[:, None], driver="gelsd").solution
    size = float(least.max() - least.min())
    left = float((design @ solution - least[:, None]).abs().max())
    share = abs(float(solution[2])) * float(curvature.max() - curvature.min())
    return left < _EXACT * size and share > 1e3 * _EXACT * size


def _has_size_of_data(graph: Graph, raw: Spot) -> bool:
    size = math.prod(shape_of(raw))
    return any(n.kind == "input" and math.prod(n.shape) == size for n in graph.nodes)


def _is_around_data(graph: Graph, found: list[Reading]) -> bool:
    """Whether the mean of a Normal that is given a scale is of a draw, and has the size of the data."""
    given = {reading.node.id for reading in found if reading.evidence == "Normal"}
    means = [normal.loc for normal in graph.normals if normal.scale.id in given]
    return any(mean.noise and mean.params and _has_size_of_data(graph, Spot(mean)) for mean in means)


def _measures_data(graph: Graph, found: list[Reading]) -> bool:
    """Whether data are compared with the mean of a Normal that is given a scale, as its density of them does.

    Where that scale is computed of several raw values, `sqrt(exp(v) + exp(noise))`, no reading of its density says it.
    """
    given = [reading.node for reading in found if reading.evidence == "Normal"]
    for normal in graph.normals:
        if not any(_goes_on_from(normal.scale, node) for node in given):
            continue
        for user in _behind_moves(graph, normal.loc):
            if user.op not in ops.DIFFERENCES:
                continue
            sides = [n for n in user.inputs if settle(Spot(n)).node is not settle(Spot(normal.loc)).node]
            of_data = any(is_data(side) or (not normal.loc.params and _is_residual(side)) for side in sides)
            if of_data and _is_scaled_by(graph, user, normal.scale):
                return True
    return False


def _is_scaled_by(graph: Graph, difference: Node, scale: Node) -> bool:
    """Whether a difference is divided by, or multiplied with, what is computed of a scale, as the density has it."""
    todo, seen = [difference], set[int]()
    while todo and len(seen) < _NEAR_SCALE:
        node = todo.pop(0)
        for user in graph.consumers.get(node.id, ()):
            if user.kind not in ("elementwise", "shape") or user.id in seen:
                continue
            others = [n for n in user.inputs if n is not node]
            if user.op in ops.MULTIPLYING and any(n.params and _goes_on_from(n, scale) for n in others):
                return True
            seen.add(user.id)
            todo.append(user)
    return False


_NEAR_SCALE = 12
"""How many values behind a difference are looked at: a density squares it, and divides."""


def _is_of_one_parameter(graph: Graph, found: list[Reading]) -> bool:
    """Whether a network of the data gives a Normal its mean, and a parameter its scale, as a policy has it."""
    given = {r.node.id for r in found if r.evidence == "Normal"}
    means = [normal.loc for normal in graph.normals if normal.scale.id in given]
    alone = not found[0].raw.node.data and not found[0].raw.node.noise
    return alone and any(mean.data and mean.params and not mean.noise for mean in means)


def shape_of(spot: Spot) -> tuple[int, ...]:
    """The shape of what is cut out of a node."""
    kept = {cut.dim: cut.length for cut in spot.cuts}
    return tuple(kept.get(dim, size) for dim, size in enumerate(spot.node.shape))


def _sample_is_used(graph: Graph, readings: Readings, own: set[int]) -> bool:
    """Whether a network goes on from what was drawn with one of these scales."""
    todo = [user for number in own for user in graph.consumers.get(number, ()) if user.id in readings.samples]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if node.kind == "opaque" and any(_is_weight(n) for n in node.inputs):
            return True
        todo.extend(graph.consumers.get(node.id, ()))
    return False


def _is_weight(node: Node) -> bool:
    """Whether a value is a parameter, as it is or with its dimensions moved, as a Linear's weight is."""
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    return node.kind == "parameter"
