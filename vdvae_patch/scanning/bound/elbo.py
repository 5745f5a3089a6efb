"""Which evidence lower bound does a scanned loss optimize?

The arithmetic of the answer is `objectives.implied`'s: with the factor a on each element's KL and b on each squared
error, σ = √(a / 2b). Here both factors are read off the recorded call: `kl_factors` and `reconstruction` measure them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from vdvae_patch.objectives.implied import CALIBRATED, consequence
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scanning.arithmetic.diagonals import as_it_ran
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Frame, Graph, ancestors
from vdvae_patch.scanning.bound.continuous import KIND, as_continuous, is_of_its_output
from vdvae_patch.scanning.bound.coupled import couples_rows
from vdvae_patch.scanning.bound.data_range import DataRange
from vdvae_patch.scanning.bound.instead import written_instead
from vdvae_patch.scanning.bound.kl_factors import LogSigmaFactor, log_sigma_factors, part_of, taught_share
from vdvae_patch.scanning.bound.kl_of_what import (
    DIFFER,
    not_followed,
    of_a_part,
    of_reading,
    role_of_factor,
    second_in_a_kl,
    why_no_kl,
)
from vdvae_patch.scanning.bound.learned_sigma import with_learned_sigma
from vdvae_patch.scanning.bound.loss_size import size_of
from vdvae_patch.scanning.bound.reconstruction import (
    Term,
    learned_weight,
    linear_frontier,
    terms_of,
    unknown_comparison,
)
from vdvae_patch.scanning.bound.repetitions import by_draws, draws_of, takes_some
from vdvae_patch.scanning.bound.replay import NoReplayError, Tail, TaughtTail
from vdvae_patch.scanning.bound.rows import without_rows
from vdvae_patch.scanning.bound.targets import data_of, is_behind_a_network, is_of_features, rows_of
from vdvae_patch.scanning.bound.term_place import ReconstructionTerm, TermPlace, median_of, place_of, written
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.trace import short

OTHERS = "other terms of the loss, not counted"
"""What a note begins with that names them."""
SHARED = "the KL is of parameters that all rows of the data share, as weights are, and counts once for all in the bound"
_NO_FACTOR = 1e-6
"""Of the largest factor on a KL: another that is smaller is none."""
_ROUNDING = 1e-13
"""Of the largest factor, be it that of one σ of all pixels: what is left of none by rounding is 1e-14 of it."""
_REWARDED = 1e-10
"""What a loss puts on a log σ with the wrong sign, and is more than the rounding of a long loop's sums, 1e-12."""
_GREY = (
    "the data have grey values: beside a Bernoulli the loss is the bound of pixels that are drawn as 0 or 1 with these "
    "probabilities, and not of the grey values themselves"
)
_SMOOTH = (
    "its threshold is a scale: beside errors that are far below it the KL counts too much, as beside a squared error"
)


@dataclass(frozen=True)
class LossElbo:
    """The bound that a scanned loss optimizes; false, with the reason, where none was found.

    Attributes:
        reason: why there is none; empty if there is one.
        reconstruction: the term that compares with the data.
        kl_factor: a, what the loss puts on each element's KL in nats; the median where elements differ, and without
            what each row of the data has on all of its terms (`rows`).
        kl_extremes: the smallest and the largest a.
        sigma: the standard deviation of the Gaussian (of an absolute error: the Laplace) whose bound it is, in the
            units of the data; None beside another likelihood.
        beta: how many times the KL counts: beside the Gaussian of `optimal_sigma`, or a / b beside another likelihood.
        optimal_sigma: what the errors of this batch have, at least the quantization noise of 8-bit pixels.
        data: the range of the data.
        compared: from what to what these go where they are compared, after the host's own arithmetic.
        rows: how many rows the batch has.
        notes: what is to be known beside it.
        shared: whether the KL is of parameters that all rows of the data share, as weights are.
        size: the sum of the magnitudes of what the loss adds up; None where its arithmetic is not known.
    """

    reason: str = ""
    reconstruction: ReconstructionTerm | None = None
    kl_factor: float | None = None
    kl_extremes: tuple[float, float] | None = None
    sigma: float | None = None
    beta: float | None = None
    optimal_sigma: float | None = None
    data: DataRange | None = None
    rows: int = 1
    notes: tuple[str, ...] = ()
    shared: bool = False
    place: TermPlace | None = field(default=None, repr=False, compare=False)
    compared: tuple[float, float] | None = field(default=None, repr=False, compare=False)
    size: float | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return not self.reason

    @property
    def pixels(self) -> PixelGrid | None:
        """The grid of 8-bit pixels; None where the data are none."""
        return None if self.data is None else self.data.pixels

    @property
    def grey_levels(self) -> float | None:
        """σ in steps of an 8-bit image; None where the data are none."""
        return None if self.sigma is None or self.pixels is None else self.pixels.grey_levels(self.sigma)

    def words(self) -> str:
        """What the loss takes for the data's deviation, and what follows for its KL; or the reason."""
        if self.reconstruction is None:
            return self.reason
        if self.shared and self.beta:
            return (
                f"{SHARED}; here it counts as in that of {self.rows / self.beta:,.0f} rows beside the "
                f"{self.reconstruction.kind}"
            )
        if self.sigma is None or self.optimal_sigma is None:
            return (
                self.reason if self.beta is None else f"{consequence(self.beta)} beside the {self.reconstruction.kind}"
            )
        assert self.beta is not None
        if self.pixels is not None:
            sizes = [f"{self.pixels.grey_levels(s):.3g}" for s in (self.sigma, self.optimal_sigma)]
            first = f"as if pixels had a standard deviation of {sizes[0]} grey levels"
        else:
            sizes = [f"{s:.3g}" for s in (self.sigma, self.optimal_sigma)]
            first = f"as if the data had a standard deviation of {sizes[0]} around their reconstructions"
        return f"{first}; the reconstructions' own is {sizes[1]}: {consequence(self.beta)}"

    def instead(self, decoder: str = "optimal") -> str:
        """What to write in the place of the reconstruction term, in one line, so that the loss is a bound with β = 1.

        The factor on the KL stays; the reconstruction term gets the same one.
        """
        return written_instead(self, decoder)

    def __str__(self) -> str:
        if not self:
            return f"the loss as a bound: not known, {self.reason}"
        lines = [f"the loss as a bound: {self.words()}", f"  reconstruction: {self.reconstruction}"]
        if self.sigma is not None and self.data is not None:
            lines.append(f"  σ = {self.sigma:.4g} in the units of the data, which are {self.data.words}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def elbo_of(graph: Graph, readings: Readings) -> LossElbo:
    """The bound that the loss of a recorded call optimizes."""
    if graph.loss is None:
        return LossElbo("the call gave no loss; give it: call=lambda model, batch: ...")
    size = None
    try:
        with as_it_ran(graph):
            tail = Tail(graph, graph.loss)
            size = size_of(tail)
            return replace(_of(graph, tail, readings), size=size)
    except NoReplayError as reason:
        return LossElbo(str(reason), size=size)
    except Exception as error:  # arithmetic that is like none before must not cost the heads
        return LossElbo(f"the loss could not be read: {type(error).__name__}: {error}", size=size)
    finally:
        graph.values.clear()


def _of(graph: Graph, tail: Tail, readings: Readings) -> LossElbo:
    terms = terms_of(graph, tail)
    factors = log_sigma_factors(graph, tail, readings)
    chosen, notes = _main(terms, factors)
    other = None if terms else unknown_comparison(tail)
    frame = None if other is None else other.host_frame()
    if other is not None and frame is not None:
        return LossElbo(
            f"no reconstruction term that is known: {_place(frame)} ({other.op}) has an output and the data together, "
            "and neither as an error nor as a cross-entropy"
        )
    if chosen is None:
        return LossElbo(notes[0])
    if as_continuous(tail, chosen):
        chosen.kind = KIND
    chosen, of_one_sigma, of_sigma = with_learned_sigma(tail, chosen, factors)
    if chosen.kind in ("squared error", "absolute error") and learned_weight(tail, chosen) is not None:
        return LossElbo(
            f"the {_named(chosen)} is multiplied by something that is learned, or made of errors, and how that stands "
            "in the loss besides is not known to be that of a Gaussian's σ"
        )
    b = median_of(chosen.factors)
    sign = -1.0 if b < 0 and chosen.kind != "log likelihood" else 1.0  # a bound that is maximized
    posteriors, others = _split(factors, sign)
    plain, of_rows = factors, without_rows(tail, chosen, posteriors, of_sigma)
    if of_rows is not None:
        chosen, b = of_rows.term, median_of(of_rows.term.factors)
        plain = [*of_rows.posteriors, *others]
        notes.append(of_rows.note)
    a, why = _kl(graph, plain, sign, readings, rows_of(chosen.target))
    draws = draws_of(graph, chosen, [f.reading.raw.node for f in posteriors])
    of_draws = None
    if chosen.kind != "log likelihood":
        # a learned σ has the factors of all comparisons that it is the σ of, of which a posterior may have but some
        uneven = draws.in_all > 1 and float(chosen.factors.max() - chosen.factors.min()) > DIFFER * abs(b)
        each = by_draws(tail, chosen, draws) if uneven else None
        chosen.factors = chosen.factors * draws.in_all / of_one_sigma
        if uneven:
            if each is None or float((each - each.mean(0)).abs().max()) > DIFFER * abs(b):
                of_draws = (sign * chosen.factors).aminmax()
            # the weights of a posterior's draws add up to one, as those of equal draws do, and their median is no such
            chosen.factors = (
                chosen.factors.mean().expand_as(chosen.factors) if each is None else each.sum(0) / of_one_sigma
            )
    term = written(chosen, sign)
    if of_draws is not None:
        term = replace(term, extremes=(float(of_draws[0]), float(of_draws[1])))
        notes.append(
            f"the factors on the {_named(chosen)} differ between {'steps' if draws.steps > 1 else 'draws'}, as in an "
            "importance-weighted bound: their mean is taken"
        )
    if a is None:
        return LossElbo(why[0], term)
    shared = SHARED in why
    notes += [note for note in why if note != SHARED]
    if shared and (chosen.errors is not None or draws.in_all != 1):
        return LossElbo(f"{SHARED}, and how many there are is not seen", term, median_of(a))
    if takes_some(tail, chosen):
        return LossElbo(
            f"of the outputs with which the {_named(chosen)} compares one value of the data the loss takes "
            "some alone, as the nearest, which is no likelihood, or as an importance-weighted bound where the others' "
            "weights are 0 on this batch: how often the KL counts is not told",
            term, median_of(a), (float(a.min()), float(a.max())),
        )  # fmt: skip
    if not math.isfinite(b) or not term.factor > 0:
        return LossElbo("the factor on the reconstruction term could not be read", term)
    median = median_of(a)
    extremes = (float(a.min()), float(a.max()))
    if of_one_sigma > 1 and extremes[1] - extremes[0] > DIFFER * median:
        return LossElbo(
            f"{of_one_sigma} comparisons have one learned σ, and the factors on the KL differ between elements, so "
            "that how often the KL counts is not told",
            term, median, extremes,
        )  # fmt: skip
    for what, (low, high), middle in (("KL", extremes, median), (term.kind, term.extremes, term.factor)):
        if high - low > DIFFER * middle and (of_draws is None or what != term.kind):
            notes.append(
                f"the factors on the {what} differ between elements: {low / middle:.3g} to {high / middle:.3g} times "
                "their median, which is what is taken"
            )
    if chosen.masked:
        notes.append(f"{chosen.masked:.0%} of the values have no part in it: masked")
    notes += [chosen.note] if chosen.note else []
    notes += _others(tail, [chosen, *terms], factors)
    notes += _balanced(graph, tail, readings, posteriors)
    if couples_rows(tail, chosen.node, rows_of(chosen.target)):
        notes.append(f"{OTHERS}: what couples the latents of different rows, such as an MMD or a squared capacity")
    ratio = median / term.factor
    data, scale, compared = data_of(tail, [target for _, target in chosen.steps])
    if term.kind == "norm of the error":
        return LossElbo("the norm of an error, not squared, is no log likelihood", term, median, extremes, data=data)
    place = None if chosen.kind == KIND else place_of(tail, chosen, sign, scale, draws)
    made = partial(
        LossElbo, "", term, median, extremes, data=data, rows=rows_of(chosen.target), compared=compared, place=place
    )
    if term.kind not in ("squared error", "absolute error") or chosen.errors is None:
        if term.kind.startswith("Bernoulli") and place is not None and place.is_grey:
            notes.append(_GREY)
        if term.kind == "smooth absolute error":
            notes.append(_SMOOTH)
        return made(beta=ratio, notes=tuple(notes), shared=shared)
    errors = chosen.errors
    sigma, own = math.sqrt(ratio / 2), float(errors.square().mean().sqrt())
    beta_of = 2
    if term.kind == "absolute error":  # of a Laplace with the scale a / b
        sigma, own, beta_of = math.sqrt(2) * ratio, math.sqrt(2) * float(errors.abs().mean()), 1
    sigma, own = sigma / scale, own / scale
    if data.pixels is not None and own < data.pixels.noise:
        notes.append(
            f"the errors are below the quantization noise, {data.pixels.noise:.3g}, which is taken for their σ"
        )
        own = data.pixels.noise
    beta = (sigma / own) ** beta_of if own else math.inf
    if not 1 / CALIBRATED <= beta <= CALIBRATED and math.isfinite(beta):
        notes.append("on this batch, as the model is now: the reconstructions' own σ falls while it trains")
    return made(sigma=sigma, beta=beta, optimal_sigma=own, notes=tuple(notes))


# --- which term -------------------------------------------------------------------------------------------------------


def _main(terms: list[Term], factors: Sequence[LogSigmaFactor]) -> tuple[Term | None, list[str]]:
    """The reconstruction term, and notes; or why there is no one."""
    if not terms:
        return None, ["no difference, cross-entropy or log density of an output and the data was found in it"]
    many = [term for term in terms if not _is_of_labels(term)]
    labels = [term for term in terms if _is_of_labels(term)]
    read = ancestors([factor.reading.raw.node for factor in factors])
    features = [term for term in many if is_of_features(term.target, read)]
    left = [term for term in many if term not in features] or ([] if features else terms)
    if not left:
        return None, [
            f"the loss compares features that a network makes of the data, and not the data: {_listed(features)}; "
            "of the data it is no likelihood"
        ]
    if len(left) > 1:
        return None, [f"two reconstruction terms or more: {_listed(left)}"]
    notes = [f"not counted: a term of one value a row, {_named(term)}" for term in labels if many]
    if features:
        notes.append(f"{OTHERS}: of features of the data, {_listed(features)}")
    return left[0], notes


def _listed(terms: Sequence[Term]) -> str:
    return "; ".join(map(_named, terms))


def _is_of_labels(term: Term) -> bool:
    """Whether it predicts one value a row, and not from a latent: the labels of a classifier beside the model."""
    shape = term.target.shape
    drawn = any(node.noise for node in term.node.inputs)
    return not drawn and (not shape or math.prod(shape) <= shape[0])


def _named(term: Term) -> str:
    frame = term.frame()
    return term.kind if frame is None else f"{term.kind} at {_place(frame)}"


def _place(frame: Frame) -> str:
    return f"{short(frame.code.co_filename)}:{frame.line}"


def _split(factors: Sequence[LogSigmaFactor], sign: float) -> tuple[list[LogSigmaFactor], list[LogSigmaFactor]]:
    """Those of posteriors, and the others."""
    of_posteriors = [sign * _of_those_with_any(factor.factors) > 0 for factor in factors]
    return [f for f, of in zip(factors, of_posteriors, strict=True) if of], [
        f for f, of in zip(factors, of_posteriors, strict=True) if not of
    ]


def _kl(
    graph: Graph, factors: Sequence[LogSigmaFactor], sign: float, readings: Readings, rows: int
) -> tuple[Tensor | None, list[str]]:
    """The factors on all posteriors' elements, and notes; or why there are none."""
    if not factors:
        unread = not_followed(graph, readings)
        if unread is not None:
            frame = unread.host_frame()
            where = "" if frame is None else f" at {_place(frame)}"
            return None, [f"σ has a part in the loss{where} ({unread.op}), and what it is was not found out"]
        return None, [why_no_kl(readings)]
    counted, _ = _split(factors, sign)
    shared: list[str] = []
    told = [role_of_factor(graph, readings, factor, rows) for factor in counted]
    for factor, role in zip(counted, told, strict=True):
        if role == "weights":
            shared = [SHARED]
        if role == "prior" and factor.reading.evidence == "q":
            where = of_reading(factor.reading)
            return None, [f"a KL{where} has a prior first, so that how often the KL counts is not told"]
    part = of_a_part(graph, readings, factors)
    if part is not None:
        return None, [
            f"a KL{of_reading(part)} is of a part of what is merged into one code, which has a KL, too, so that how "
            "often the KL counts is not told"
        ]
    unknown = [factor for factor in factors if not len(factor.factors)]
    largest = max((float(f.factors.abs().max()) for f in factors if len(f.factors)), default=0.0)
    of_kls = max((float((sign * f.factors).max()) for f in factors if len(f.factors)), default=0.0)
    # rounding leaves some elements of what has none: of a prior's σ that the KL has as a ratio alone
    least = max(_NO_FACTOR * of_kls, _ROUNDING * largest)
    some = [f.factors for f in factors if not largest or _of_those_with_any(f.factors.abs()) > least]
    found = sign * torch.cat(some) if some else torch.zeros(0)
    found = found[found > max(_NO_FACTOR**2, least)]
    if not len(found):
        drawn = {reading.raw.key for reading in readings.found if reading.evidence in ("noise", "q")}
        rewarded = [
            f for f in factors if f.reading.raw.key in drawn and sign * _of_those_with_any(f.factors) < -_REWARDED
        ]
        second = next((r for f in rewarded if (r := second_in_a_kl(graph, readings, f)) is not None), None)
        if second is not None:
            return None, [
                f"a KL{of_reading(second)} has its arguments exchanged, the posterior second, so that how often the KL "
                "counts is not told"
            ]
        if rewarded:
            weight = sign * _of_those_with_any(rewarded[0].factors)
            return None, [
                f"the factor on the KL is {weight:.4g}, so that the loss rewards it: it has the wrong sign, or is "
                "drawn to a capacity, |KL − C|, and is below that on this batch"
            ]
        if any(f.reading.term is not None and len(f.factors) and not bool(f.factors.any()) for f in factors):
            return None, [
                "a KL is there and does not move with any log σ on this batch: it is below its free bits, above a "
                "limit, or has no weight yet"
            ]
        if unknown:
            return None, [why_no_kl(readings, unknown=True)]
        return None, [why_no_kl(readings)]
    notes = list(shared)
    if all(factor.waiting for factor in factors if len(factor.factors) and bool((sign * factor.factors > 0).any())):
        notes.append("on this batch the KL is below its free bits; above them it has the factor that is taken")
    # a density's σ and a prior's have the other sign, and what has no part in them is masked in the density
    of_kl = [f for f in factors if bool((sign * f.factors > 0).any()) or not bool((f.factors != 0).any())]
    # outputs of several layers that are joined first have their factor in what they are joined in, and none beside it
    joined = {reading.raw.key for reading in readings.found if reading.used >= 0}
    of_kl = [f for f in of_kl if f.reading.raw.key not in joined or bool((f.factors != 0).any())]
    share = _share_without(of_kl, sign)
    if share:
        notes.append(f"about {share:.0%} of the latents' elements have no KL here: masked, or free bits")
    return found, notes


def _share_without(factors: Sequence[LogSigmaFactor], sign: float) -> float:
    """How much of the posteriors' elements has no KL, of those whose factor could be read.

    A part that was cut out, as `logvar[:n]`, is within the whole that noise is drawn with, and does not count again.
    """
    none = whole = 0.0
    for factor in factors:
        same = [other for other in factors if other.reading.raw.node is factor.reading.raw.node]
        within = len(same) > 1 and any(set[int]() < _places(factor) < _places(other) for other in same)
        if within or not len(factor.factors):
            continue
        none += factor.count * float((factor.factors == 0).double().mean())
        whole += factor.count * float((sign * factor.factors >= 0).double().mean())
    return none / whole if whole else 0.0


def _places(factor: LogSigmaFactor) -> set[int]:
    """Where the elements of its raw value are in the node, flat; none if that is not known."""
    raw = factor.reading.raw
    where = part_of(torch.empty(raw.node.shape, device="meta"), raw)
    return set() if where is None else set(where.tolist())


def _others(tail: Tail, terms: Sequence[Term], factors: Sequence[LogSigmaFactor]) -> list[str]:
    """Terms of the loss that are neither the reconstruction nor the KL: what stands on a line with one of them is taken
    for a part of it, unless a network has made it of the reconstruction."""
    known = {term.node.id for term in terms} | {factor.reading.raw.node.id for factor in factors}
    means = [mean.node.id for f in factors if f.reading.term is not None for mean in f.reading.term.means]
    reached = known | set(means)
    for node in tail.order:
        if any(n.id in reached for n in node.inputs):
            reached.add(node.id)
    frontier = [node for node in linear_frontier(tail, known) if node.params]
    frames = [node.host_frame() for node in frontier if node.id in reached]
    lines = {(f.code, f.line) for f in (*frames, *(term.frame() for term in terms)) if f is not None}
    before = {node.id for term in terms for node, _ in term.steps}  # what a comparison is computed of
    for node in reversed(tail.order):
        if node.id in before:
            before.update(n.id for n in node.inputs)
    compared = [(node, target) for term in terms for node, target in term.steps]
    outputs = {
        settle(Spot(n)).node.id for node, target in compared for n in node.inputs if n.params and n is not target
    }
    found: dict[str, None] = {}
    for node in frontier:
        frame = node.host_frame()
        if node.id in reached or node.id in before or frame is None:
            continue
        if any(term.kind == KIND and is_of_its_output(tail, node, term) for term in terms):
            continue
        if (frame.code, frame.line) in lines and not is_behind_a_network(node, outputs):
            continue
        found[f"{_place(frame)} ({node.op})"] = None
    return [f"{OTHERS}: {', '.join(found)}"] if found else []


def _balanced(graph: Graph, tail: Tail, readings: Readings, counted: Sequence[LogSigmaFactor]) -> list[str]:
    """That posteriors learn by a part of the KL alone, if they do."""
    if graph.loss is None or not any(node.cut for node in tail.order):
        return []
    taught = TaughtTail(graph, graph.loss)
    shares = [taught_share(taught, readings, factor) for factor in counted]
    if not any(DIFFER < share < 1 - DIFFER for share in shares):
        return []
    low, high = (f"{of(shares):.3g}" for of in (min, max))
    share = low if low == high else f"{low} to {high}"
    return [
        f"the posterior learns by {share} of the KL's factor, the rest is detached from it, as where a KL is balanced: "
        "how often the KL counts is told of the value of the loss, and of no gradient"
    ]


def _of_those_with_any(factors: Tensor) -> float:
    """The median of the factors that are not 0: most elements may be below their free bits, or masked; 0 if all are."""
    return median_of(factors[factors != 0]) if bool(factors.any()) else 0.0
