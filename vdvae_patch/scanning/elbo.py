"""Which evidence lower bound does a scanned loss optimize?

The arithmetic of the answer is `objectives.implied`'s: with the factor a on each element's KL and b on each squared
error, σ = √(a / 2b). Here both factors are read off the recorded call: `kl_factors` and `reconstruction` measure them.
"""

from __future__ import annotations

import linecache
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vdvae_patch.attach.source import Span as Exact
from vdvae_patch.objectives.implied import CALIBRATED, Reduction, consequence
from vdvae_patch.patching.term import Mixing
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scanning import ops
from vdvae_patch.scanning.data_range import DataRange, range_of
from vdvae_patch.scanning.diagonals import as_it_ran
from vdvae_patch.scanning.graph import Frame, Graph, Node
from vdvae_patch.scanning.kl_factors import LogSigmaFactor, log_sigma_factors
from vdvae_patch.scanning.loss_size import size_of
from vdvae_patch.scanning.mixtures import distribution_of, lines_of, mixture_of, placed
from vdvae_patch.scanning.reading import Readings
from vdvae_patch.scanning.reconstruction import Reads, Term, TermKind, draws_of, input_of, linear_frontier, terms_of
from vdvae_patch.scanning.replay import Changes, NoReplayError, Tail

_DIFFER = 0.02
"""Spread of factors, relative to their median, from which it is said that they differ."""
_NO_SLOPE = 1e-9
"""Of a target by its data: rounding is 1e-13."""
OTHERS = "other terms of the loss, not counted"
"""What a note begins with that names them."""
_NO_FACTOR = 1e-6
"""Of the largest factor: what is left of none by rounding is 1e-14 of it."""


@dataclass(frozen=True)
class ReconstructionTerm:
    """The term of a loss that compares its output with the data.

    Attributes:
        kind: what it is, by its gradient.
        reduced: how its values become one number.
        factor: b, what the loss puts on each value's squared error, absolute error or negative log likelihood; the
            median where values differ.
        extremes: the smallest and the largest b.
        file, line: where it stands.
        expression: the host's text there.
    """

    kind: TermKind
    reduced: Reduction
    factor: float
    extremes: tuple[float, float]
    file: str
    line: int
    expression: str

    def __str__(self) -> str:
        place = f" at {os.path.basename(self.file)}:{self.line}" if self.file else ""
        text = f", `{self.expression}`" if self.expression else ""
        how = "" if self.reduced == "unknown" else f", reduced by {self.reduced}"
        return f"{self.kind}{place}{text}{how}"


Span = tuple[int | None, int | None, int | None, int | None]


_STAYS: dict[TermKind, str] = {
    "mixture density": ", of several means and scales for each value, and the host computes no one mean of them",
    "Gaussian density": ", whose σ is learned already; likelihood= gives it another scale",
    "categorical cross-entropy": ", which gives every level a probability, and has no mean that the host computes",
    "Poisson likelihood": ", of counts, whose variance is their mean",
    "log likelihood": ", of a mixture or by another formula, with no one mean that the host computes in its place",
}
"""Why no Gaussian takes a term's place."""


class TermPlace(NamedTuple):
    """Where a reconstruction term stands, and what the loss makes of it.

    Attributes:
        frames: the lines that were running at the comparison, innermost first.
        span: of the widest expression that holds the comparison alone.
        shape: of that expression's value.
        weight: what the loss multiplies each value of it by; None where they differ.
        compared: the shape of the comparison.
        units: how many units of what is compared one of the data's is.
        own: the root mean square of the errors of the mean that the host computes, in the units of what is compared.
        reads: what the output is that is compared, of a mean.
        data_first: whether the data are the first of the two that are compared.
        extremes: the smallest and the largest value of the data there.
        is_grey: whether these have values besides 0 and 1.
        weighted: whether the comparison has weights of its own.
        first: of a mixture, the comparison; its log likelihood, `span`, stands somewhere else.
        mixing, weights: of a mixture, how its mean is computed of the means that are compared, and where the weights of
            its components stand.
        of_distribution: whether the output is a distribution, which has a mean.
        why_not: why none of these places can be used; empty if they can.
        lines: what to write in the place of a mixture: the line of its mean, and where the log likelihood stands.
    """

    frames: tuple[Frame, ...]
    span: Span
    shape: tuple[int, ...]
    weight: float | None
    compared: tuple[int, ...]
    units: float
    own: float = math.nan
    reads: Reads = "mean"
    data_first: bool = False
    extremes: tuple[float, float] = (0.0, 1.0)
    is_grey: bool = True
    weighted: bool = False
    first: Exact | None = None
    mixing: Mixing | None = None
    weights: Exact | None = None
    of_distribution: bool = False
    why_not: str = ""
    lines: tuple[str, str] | None = None


@dataclass(frozen=True)
class LossElbo:
    """The bound that a scanned loss optimizes; false, with the reason, where none was found.

    Attributes:
        reason: why there is none; empty if there is one.
        reconstruction: the term that compares with the data.
        kl_factor: a, what the loss puts on each element's KL in nats; the median where elements differ.
        kl_extremes: the smallest and the largest a.
        sigma: the standard deviation of the Gaussian (of an absolute error: the Laplace) whose bound it is, in the
            units of the data; None beside another likelihood.
        beta: how many times the KL counts: beside the Gaussian of `optimal_sigma`, or a / b beside another likelihood.
        optimal_sigma: what the errors of this batch have, at least the quantization noise of 8-bit pixels.
        data: the range of the data.
        compared: from what to what these go where they are compared, after the host's own arithmetic.
        weight: what the loss multiplies the value of the term's expression by, where that is one number.
        rows: how many rows the batch has.
        notes: what is to be known beside it.
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
    weight: float | None = None
    rows: int = 1
    notes: tuple[str, ...] = ()
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
        if self.reconstruction is None or not self or self.kl_factor is None:
            return f"the likelihood cannot be exchanged: {self.reason}"
        kind, output = self.reconstruction.kind, "output"
        if self.place is not None and self.place.lines is not None and self.data is not None:
            line, where = self.place.lines
            return (
                f"`{line}` is the mean of the mixture; in the place of what the loss makes of {where} write "
                f"`{self.kl_factor:.6g} * decoder.nll(data, mean).sum()`, decoder = {self._made(decoder)}"
            )
        grey = self.place is not None and self.place.is_grey and kind.startswith("Bernoulli")
        if self.data is None or not (kind in ("squared error", "absolute error", "smooth absolute error") or grey):
            why = "" if self.place is not None and not self.place.is_grey else _STAYS.get(kind, "")
            return f"the likelihood stays: a {kind} is one of its own{why}"
        if grey and self.place is not None and self.place.reads == "logit":
            output = "torch.sigmoid(output)"
        within, data, draws = "", "data", self._draws
        if draws > 1:
            data, output = f"data.expand(len({output}), *data.shape).flatten(0, 1)", f"{output}.flatten(0, 1)"
        if self.weight is None or self.rows < 1:
            factor, sums = f"{self.kl_factor / draws:.6g} * ", "sum"  # of the whole loss
            within = "what the loss makes of "
        else:
            times = self.kl_factor / self.weight
            mean = math.isclose(times * self.rows, 1, rel_tol=1e-4)
            sums = "mean" if mean else "sum"
            times = 1 if mean else times / draws
            factor = "" if math.isclose(times, 1, rel_tol=1e-4) else f"{times:.6g} * "
        term = self.reconstruction
        place = f"`{term.expression}` at {os.path.basename(term.file)}:{term.line}"
        made = self._made(decoder)
        return (
            f"in the place of {within}{place} write `{factor}decoder.nll({data}, {output}).{sums}()`, decoder = {made}"
        )

    @property
    def _draws(self) -> int:
        """How many outputs stand in front of each other and are compared with the same data."""
        shape = () if self.place is None else self.place.compared
        return shape[0] if len(shape) > 1 and shape[0] != self.rows and shape[1] == self.rows else 1

    def _made(self, decoder: str) -> str:
        assert self.data is not None
        low, high = self.compared or (self.data.low, self.data.high)
        return f'vdvae_patch.decoders.get("{decoder}", PixelGrid({low:g}, {high:g}))'

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
            terms = terms_of(graph, tail)
            factors = log_sigma_factors(graph, tail, readings)
            return replace(_of(tail, terms, factors), size=size)
    except NoReplayError as reason:
        return LossElbo(str(reason), size=size)
    except Exception as error:  # arithmetic that is like none before must not cost the heads
        return LossElbo(f"the loss could not be read: {type(error).__name__}: {error}", size=size)
    finally:
        graph.values.clear()


def _of(tail: Tail, terms: list[Term], factors: list[LogSigmaFactor]) -> LossElbo:
    chosen, notes = _main(terms)
    if chosen is None:
        return LossElbo(notes[0])
    chosen = _with_learned_sigma(tail, chosen, factors)
    b = _middle(chosen.factors)
    sign = -1.0 if b < 0 and chosen.kind != "log likelihood" else 1.0  # a bound that is maximized
    a, why = _kl(factors, sign)
    term = _written(tail, chosen, sign)
    weight, rows = _weight(tail, chosen, sign), _rows(chosen.target)
    if a is None:
        return LossElbo(why[0], term)
    notes += why
    if not math.isfinite(b) or not term.factor > 0:
        return LossElbo("the factor on the reconstruction term could not be read", term)
    median = _middle(a)
    extremes = (float(a.min()), float(a.max()))
    for what, (low, high), middle in (("KL", extremes, median), (term.kind, term.extremes, term.factor)):
        if high - low > _DIFFER * middle:
            notes.append(
                f"the factors on the {what} differ between elements: {low / middle:.3g} to {high / middle:.3g} times "
                "their median, which is what is taken"
            )
    notes += _others(tail, [chosen, *terms], factors)
    ratio = median / term.factor
    data, scale, compared = _data(tail, chosen.target)
    if term.kind == "norm of the error":
        return LossElbo("the norm of an error, not squared, is no log likelihood", term, median, extremes, data=data)
    made = partial(LossElbo, "", term, median, extremes, data=data, weight=weight, rows=rows, compared=compared)
    if term.kind not in ("squared error", "absolute error") or chosen.errors is None:
        place = _place_of(tail, chosen, sign, scale) if chosen.output is not None else _mixed(tail, chosen, scale)
        return made(beta=ratio, notes=tuple(notes), place=place)
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
    place = _place_of(tail, chosen, sign, scale)
    if not 1 / CALIBRATED <= beta <= CALIBRATED and math.isfinite(beta):
        notes.append("on this batch, as the model is now: the reconstructions' own σ falls while it trains")
    return made(sigma=sigma, beta=beta, optimal_sigma=own, notes=tuple(notes), place=place)


# --- which term -------------------------------------------------------------------------------------------------------


def _main(terms: list[Term]) -> tuple[Term | None, list[str]]:
    """The reconstruction term, and notes; or why there is no one."""
    if not terms:
        return None, ["no reconstruction term: nothing in the loss compares an output with the data"]
    many = [term for term in terms if not _is_of_labels(term)]
    labels = [term for term in terms if _is_of_labels(term)]
    left = many or terms
    if len(left) > 1:
        return None, [f"two reconstruction terms or more: {'; '.join(map(_named, left))}"]
    notes = [f"not counted: a term of one value a row, {_named(term)}" for term in labels if many]
    return left[0], notes


def _is_of_labels(term: Term) -> bool:
    """Whether it predicts one value a row, and not from a latent: the labels of a classifier beside the model."""
    shape = term.target.shape
    drawn = any(node.noise for node in term.node.inputs)
    return not drawn and (not shape or math.prod(shape) <= shape[0])


def _named(term: Term) -> str:
    frame = term.frame()
    return term.kind if frame is None else f"{term.kind} at {_place(frame)}"


def _place(frame: Frame) -> str:
    return f"{os.path.basename(frame.code.co_filename)}:{frame.line}"


def _with_learned_sigma(tail: Tail, term: Term, factors: Sequence[LogSigmaFactor]) -> Term:
    """A squared error that is divided by a learned σ², as the Gaussian density that it is."""
    if term.errors is None:
        return term
    before = tail.adjoints([term.node])[term.node.id]
    held = {term.node.id: lambda value: tail.base[term.node.id]}  # only its weight may change
    raws = [f.reading.raw.node for f in factors if len(f.factors) and _middle(f.factors) != 0]
    # most have no part in it: all are moved at once, each by a distance of its own, so that a ratio of two changes, too
    together = {
        raw.id: partial(torch.add, other=0.25 + 0.25 * (place * math.sqrt(2) % 1)) for place, raw in enumerate(raws)
    }
    together.pop(term.node.id, None)
    if torch.allclose(before, tail.adjoints([term.node], {**together, **held})[term.node.id], rtol=1e-6, atol=0):
        return term
    for factor in factors:
        raw = factor.reading.raw.node

        def change(value: Tensor) -> Tensor:
            return value + 0.25

        changes: Changes = {raw.id: change}
        if raw.id == term.node.id or not len(factor.factors) or _middle(factor.factors) == 0:
            continue
        after = tail.adjoints([term.node], {**changes, **held})[term.node.id]
        if not torch.allclose(before, after, rtol=1e-6, atol=0):
            kept = -factor.factors
            # one σ of several errors has the sum of their factors; of a loop, the first step's are compared
            if factor.count != term.at_node:
                kept = kept.mean()[None] * factor.count / term.at_node
            kept = kept * draws_of(tail, term)
            return Term("Gaussian density", term.node, term.target, kept, term.errors, term.count, term.followed)
    return term


def _kl(factors: Sequence[LogSigmaFactor], sign: float) -> tuple[Tensor | None, list[str]]:
    """The factors on all posteriors' elements, and notes; or why there are none."""
    if not factors:
        return None, ["no KL: no log σ of a posterior has a part in the loss"]
    unknown = [factor for factor in factors if not len(factor.factors)]
    largest = max((float(f.factors.abs().max()) for f in factors if len(f.factors)), default=0.0)
    # rounding leaves some elements of what has none: of a prior's σ that the KL has as a ratio alone
    some = [f.factors for f in factors if not largest or _middle(f.factors.abs()) > _NO_FACTOR * largest]
    found = sign * torch.cat(some) if some else torch.zeros(0)
    found = found[found > _NO_FACTOR * max(1e-6, float(found.abs().max()) if len(found) else 0.0)]
    if not len(found):
        if unknown:
            return None, ["no KL: how log σ has a part in the loss is not that of a KL"]
        return None, ["no KL: no log σ of a posterior has a part in the loss"]
    notes = []
    if all(factor.waiting for factor in factors if len(factor.factors) and bool((sign * factor.factors > 0).any())):
        notes.append("on this batch the KL is below its free bits; above them it has the factor that is taken")
    none = sum(int((factor.factors == 0).sum()) for factor in factors)
    if none:
        notes.append(f"{none / (none + len(found)):.0%} of the latents' elements have no KL here: masked, or free bits")
    return found, notes


# --- the term in words ------------------------------------------------------------------------------------------------


def _written(tail: Tail, term: Term, sign: float) -> ReconstructionTerm:
    frame = term.frame()
    factors = sign * term.factors
    return ReconstructionTerm(
        term.kind,
        _reduction(term),
        _middle(factors),
        (float(factors.min()), float(factors.max())) if len(factors) else (math.nan, math.nan),
        "" if frame is None else frame.code.co_filename,
        0 if frame is None else frame.line,
        _expression(term),
    )


def _reduction(term: Term) -> Reduction:
    """How the values become one number, by the reductions on the way to the loss."""
    seen: list[str] = []
    rows = term.node.shape[0] if term.node.shape else 1
    divided = False
    for node in term.followed:
        if node.op in ops.TOTALS:
            seen.append(node.op)
        elif node.op == "div" and len(node.args) == 2 and not isinstance(node.args[1], Node) and seen:
            divided |= node.args[1] == rows
        elif node is term.node and node.op.endswith(("_loss", "_loss_forward", "cross_entropy", "_with_logits")):
            number = _fused(node)
            seen += [["", "mean", "sum"][number]] if number else []
    summed, averaged = "sum" in seen, "mean" in seen
    if summed and (divided if not averaged else seen[0] == "sum" and len(seen) == 2):
        return "mean over the batch"
    if summed and averaged:
        return "unknown"
    return "sum" if summed else "mean" if averaged else "unknown"


def _fused(node: Node) -> int:
    from vdvae_patch.scanning.reconstruction import _reduction as of

    return of(node)


def _expression(term: Term) -> str:
    """The host's text: of the comparison, and of what its line makes of it before anything else comes in."""
    frame, (first, last, start, stop), _ = _widest(term)
    if frame is None or first is None or last is None or start is None or stop is None:
        return ""
    lines = [linecache.getline(frame.code.co_filename, number).rstrip("\n") for number in range(first, last + 1)]
    if not any(lines):
        return ""
    data = [line.encode() for line in lines]
    data[-1] = data[-1][:stop]
    data[0] = data[0][start:]
    return " ".join(b" ".join(data).decode(errors="replace").split())


def _weight(tail: Tail, term: Term, sign: float) -> float | None:
    """What the loss multiplies the expression's value by; None where that is no single number."""
    end = _widest(term)[2]
    if math.prod(end.shape) != 1:
        return None
    return sign * float(tail.adjoints([end])[end.id].sum())


def _place_of(tail: Tail, term: Term, sign: float, units: float) -> TermPlace | None:
    frame, span, end = _widest(term)
    if frame is None:
        return None
    weights = sign * tail.adjoints([end])[end.id]
    low, high = (float(value) for value in torch.aminmax(weights))
    even = math.isclose(low, high, rel_tol=1e-6) and low != 0
    data = tail.base[term.target.id].double()
    extremes = (float(data.min()), float(data.max()))
    return TermPlace(
        tuple(term.node.frames), span, end.shape, low if even else None, _compared_shape(term), units, _own(tail, term),
        term.reads, bool(term.node.inputs) and term.node.inputs[0] is term.target, extremes,
        bool(((data != 0) & (data != 1)).any()), term.weighted,
    )  # fmt: skip


def _mixed(tail: Tail, term: Term, units: float) -> TermPlace | None:
    """The place of a log likelihood whose mean is known: of a distribution, or of a mixture that is written out."""
    data = tail.base[term.target.id].double()
    extremes = (float(data.min()), float(data.max()))
    frame, known = term.frame(), distribution_of(tail, term)
    if known is not None and frame is not None:
        return TermPlace(
            tuple(term.node.frames), frame.span, known.end.shape, _even(tail, known.end), known.compared, units,
            extremes=extremes, of_distribution=True,
        )  # fmt: skip
    mixture = mixture_of(tail, term)
    if mixture is None:
        return None
    at = placed(mixture, term)
    return TermPlace(
        at.frames, at.last, mixture.end.shape, _even(tail, mixture.end), mixture.compared, units, mixture.own,
        data_first=term.node.inputs[0] is term.target, extremes=extremes, first=at.first, mixing=mixture.mixing,
        weights=at.weights, why_not=at.why_not, lines=lines_of(mixture, term),
    )  # fmt: skip


def _rows(target: Node) -> int:
    """How many rows the batch has: as it was given, since the data may be compared along a dimension in front."""
    source = input_of(target)
    shape = target.shape if source is None else source.shape
    return shape[0] if shape else 1


def _even(tail: Tail, node: Node) -> float | None:
    """What the loss multiplies each value by; None where they differ."""
    weights = tail.adjoints([node])[node.id]
    low, high = (float(value) for value in torch.aminmax(weights))
    return low if math.isclose(low, high, rel_tol=1e-6) and low != 0 else None


def _compared_shape(term: Term) -> tuple[int, ...]:
    return term.node.shape if term.output is None else term.output.shape


def _own(tail: Tail, term: Term) -> float:
    """The root mean square of the mean's errors; NaN where output and data are no pairs."""
    if term.output is None:
        return math.nan if term.errors is None else float(term.errors.square().mean().sqrt())
    output, data = tail.base[term.output.id].double(), tail.base[term.target.id].double()
    if output.shape != data.shape:
        return math.nan
    mean = {"logit": torch.sigmoid, "log mean": torch.exp}.get(term.reads, lambda value: value)(output)
    return float((mean - data).square().mean().sqrt())


def _widest(term: Term) -> tuple[Frame | None, Span, Node]:
    """The line of the comparison, the expression there, and what it gives."""
    frame = term.frame()
    end = term.node
    if frame is None:
        return None, (None, None, None, None), end
    widest, chain = frame.span, _chain(term)
    for node in term.followed[1:]:
        other = node.host_frame()
        if other is None or other.code is not frame.code:
            break
        if sum(n.params for n in node.inputs) > 1 and not _is_of_one_output(node, end, chain):
            break
        if (node.op in ops.DIFFERENCES and not chain) or not _contains(other.span, widest):
            break
        widest, end = other.span, node
    return frame, widest, end


def _chain(term: Term) -> set[int]:
    """The values that a product's output is made of by operations of one value: where its other half begins, too.

    A cross-entropy that is written out has two halves, x log p and (1 − x) log (1 − p), and both are of p.
    """
    if term.output is None or term.node.op != "mul":
        return set()
    node, found = term.output, {term.output.id}
    for _ in range(30):
        variable = [n for n in node.inputs if n.params]
        if len(variable) != 1 or node.kind not in ("elementwise", "shape"):
            break
        node = variable[0]
        found.add(node.id)
    return found


def _is_of_one_output(node: Node, end: Node, chain: set[int]) -> bool:
    """Whether all that a sum has beside the comparison is computed of the same output, and of data."""
    if not chain:
        return False
    todo, seen = [n for n in node.inputs if n is not end and n.params], set[int]()
    while todo:
        current = todo.pop()
        if current.id in chain or current.id in seen:
            continue
        seen.add(current.id)
        variable = [n for n in current.inputs if n.params]
        if not variable:
            return False
        todo += variable
    return True


def _contains(outer: Span, inner: Span) -> bool:
    if None in outer or None in inner:
        return False
    begins = (outer[0], outer[2]) <= (inner[0], inner[2])
    return begins and (outer[1], outer[3]) >= (inner[1], inner[3])


def _others(tail: Tail, terms: Sequence[Term], factors: Sequence[LogSigmaFactor]) -> list[str]:
    """Terms of the loss that are neither the reconstruction nor on a line with the KL."""
    known = {term.node.id for term in terms} | {factor.reading.raw.node.id for factor in factors}
    means = [mean.node.id for f in factors if f.reading.term is not None for mean in f.reading.term.means]
    reached = known | set(means)
    for node in tail.order:
        if any(n.id in reached for n in node.inputs):
            reached.add(node.id)
    frontier = [node for node in linear_frontier(tail) if node.params]
    frames = [node.host_frame() for node in frontier if node.id in reached]
    lines = {(f.code, f.line) for f in (*frames, *(term.frame() for term in terms)) if f is not None}
    before = {term.node.id for term in terms}  # what a comparison is computed of
    for node in reversed(tail.order):
        if node.id in before:
            before.update(n.id for n in node.inputs)
    found: dict[str, None] = {}
    for node in frontier:
        frame = node.host_frame()
        if node.id in reached or node.id in before or frame is None or (frame.code, frame.line) in lines:
            continue
        found[f"{_place(frame)} ({node.op})"] = None
    return [f"{OTHERS}: {', '.join(found)}"] if found else []


# --- the data ---------------------------------------------------------------------------------------------------------


def _data(tail: Tail, target: Node) -> tuple[DataRange, float, tuple[float, float]]:
    """The range of the input that a target is made of, how many units of the target one of the input's is, and what
    the host makes of the ends of that range."""
    source = input_of(target)
    value = tail.base[target.id]
    here = range_of(value)
    as_is = here, 1.0, (here.low, here.high)
    if source is None or source.id not in tail.base:
        return as_is
    if not (value.is_floating_point() and tail.base[source.id].is_floating_point()):
        return as_is
    given, data = tail.base[source.id], range_of(tail.base[source.id])
    before = _before(target)
    others = frozenset(node.id for node in tail.order if node.id not in before)  # a cross-entropy refuses what is moved

    def made(change: Callable[[Tensor], Tensor]) -> Tensor:
        return tail.run({source.id: change}, others)[target.id]

    # of a target that repeats its data a gradient would be a sum over the repetitions
    step = 1e-3 * (float(given.max() - given.min()) or 1.0)
    slope = (made(partial(torch.add, other=step)) - value) / step
    moved = slope[slope.abs() > _NO_SLOPE].abs()
    if not len(moved) or float(moved.max() - moved.min()) > 1e-6 * float(moved.max()):
        return as_is
    ends = [float(made(partial(torch.full_like, fill_value=end)).flatten()[0]) for end in (data.low, data.high)]
    return data, float(moved[0]), (min(ends), max(ends))


def _before(node: Node) -> set[int]:
    """A value and all that it is computed of."""
    todo, found = [node], {node.id}
    while todo:
        for source in todo.pop().inputs:
            if source.id not in found:
                found.add(source.id)
                todo.append(source)
    return found


def _middle(values: Tensor) -> float:
    return float(values.median()) if len(values) else math.nan
