"""Where the reconstruction term of a scanned loss stands in the host's code, how it is reduced, and what the loss makes
of it: what is needed to put another likelihood there."""

from __future__ import annotations

import ast
import linecache
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vdvae_patch.attach.source import Span as Exact
from vdvae_patch.objectives.implied import Reduction
from vdvae_patch.patching.term import Mixing
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Frame, Node
from vdvae_patch.scanning.bound.mixtures import distribution_of, lines_of, mixture_of, placed
from vdvae_patch.scanning.bound.reconstruction import Reads, Term, TermKind, reduction_of
from vdvae_patch.scanning.bound.repetitions import Draws
from vdvae_patch.scanning.bound.replay import Tail
from vdvae_patch.scanning.bound.targets import rows_of
from vdvae_patch.trace import short


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
        place = f" at {short(self.file)}:{self.line}" if self.file else ""
        text = f", `{self.expression}`" if self.expression else ""
        how = "" if self.reduced == "unknown" else f", reduced by {self.reduced}"
        return f"{self.kind}{place}{text}{how}"


Span = tuple[int | None, int | None, int | None, int | None]


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
        draws: how many outputs of each posterior are compared with the same data.
        images: how many of the first dimensions of the comparison number images and draws.
        masked: the share of values that have no part in the loss.
        steps: how often the comparison runs in one call.
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
    draws: Draws = Draws()
    images: int = 1
    masked: float = 0.0
    steps: int = 1

    @property
    def rows(self) -> int:
        """How many images are compared, each draw for one."""
        return math.prod(self.compared[: self.images])


# --- the term in words ------------------------------------------------------------------------------------------------


def written(term: Term, sign: float) -> ReconstructionTerm:
    """The term as its line has it; `sign` is −1 of a bound that is maximized."""
    frame = term.frame()
    factors = sign * term.factors
    return ReconstructionTerm(
        term.kind,
        _reduction(term),
        median_of(factors),
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
            number = reduction_of(node)
            seen += [["", "mean", "sum"][number]] if number else []
    summed, averaged = "sum" in seen, "mean" in seen
    if summed and (divided if not averaged else seen[0] == "sum" and len(seen) == 2):
        return "mean over the batch"
    if summed and averaged:
        return "unknown"
    return "sum" if summed else "mean" if averaged else "unknown"


def _expression(term: Term) -> str:
    """The host's text: of the comparison, and of what its line makes of it before anything else comes in."""
    frame, span, _ = _widest(term)
    return "" if frame is None else _text(frame, span)


def _text(frame: Frame, span: Span) -> str:
    first, last, start, stop = span
    if first is None or last is None or start is None or stop is None:
        return ""
    lines = [linecache.getline(frame.code.co_filename, number).rstrip("\n") for number in range(first, last + 1)]
    if not any(lines):
        return ""
    data = [line.encode() for line in lines]
    data[-1] = data[-1][:stop]
    data[0] = data[0][start:]
    return " ".join(b" ".join(data).decode(errors="replace").split())


# --- its place --------------------------------------------------------------------------------------------------------


def place_of(tail: Tail, term: Term, sign: float, units: float, draws: Draws) -> TermPlace | None:
    """Where a term stands; None where no line of the host has it, or no mean of the data that the host computes.

    Args:
        units: how many units of what is compared one of the data's is.
    """
    if term.output is None and (term.errors is None or term.kind not in ("squared error", "absolute error")):
        return _mixed(tail, term, units)
    frame, span, end = _widest(term)
    if frame is None or _is_its_own_weight(tail, term):
        return None
    data = tail.base[term.target.id].double()
    compared = _compared_shape(term)
    weight = _even(tail, end)
    return TermPlace(
        tuple(term.node.frames), span, end.shape, None if weight is None else sign * weight, compared, units,
        _own(tail, term), term.reads, bool(term.node.inputs) and term.node.inputs[0] is term.target,
        (float(data.min()), float(data.max())), bool(((data != 0) & (data != 1)).any()), term.weighted,
        draws=draws, images=_images(compared, draws.along * rows_of(term.target)), masked=term.masked,
        steps=len(term.steps),
    )  # fmt: skip


def _is_its_own_weight(tail: Tail, term: Term) -> bool:
    """Whether the same errors are computed again on another line, so that no one expression has the term."""
    copies = [node for node in tail.order if tail.same.get(node.id) == term.node.id]
    return any(_line_of(node) != _line_of(term.node) for node in copies)


def _line_of(node: Node) -> object:
    frame = node.host_frame()
    return None if frame is None else (frame.code, frame.line)


def _images(compared: tuple[int, ...], rows: int) -> int:
    """How many dimensions number images and draws, which are so many rows."""
    return next((n for n in range(1, len(compared) + 1) if math.prod(compared[:n]) == rows), 1)


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
    if frame is None or _is_all_of_it(term, frame):
        return None, (None, None, None, None), end
    widest, chain = frame.span, _chain(term)
    for node in term.followed[1:]:
        other = node.host_frame()
        if other is None or other.code is not frame.code:
            break
        if sum(n.params for n in node.inputs) > 1 and not _is_of_one_output(node, end, chain):
            break
        if not _contains(other.span, widest):
            break
        if node.op in ops.DIFFERENCES and not chain and not _adds_a_constant(term, node, end, _text(other, other.span)):
            break
        widest, end = other.span, node
    return frame, widest, end


def _is_all_of_it(term: Term, frame: Frame) -> bool:
    """Whether the whole loss, its KL too, is made where the comparison is: by code that has no file, as of `exec`."""
    joined = any(sum(n.params for n in node.inputs) > 1 for node in term.followed[1:])
    others = [node.host_frame() for node in term.followed]
    return joined and all(o is not None and (o.code, o.lasti) == (frame.code, frame.lasti) for o in others)


def _adds_a_constant(term: Term, node: Node, end: Node, text: str) -> bool:
    """Whether all that a sum has beside the term is a number, as log σ of a fixed σ is: a likelihood has its own.

    What a loop adds to is a number at its first step alone, and `total += ...` is no expression.
    """
    if len(term.steps) > 1 or any(n is not end and (n.params or n.data or n.noise) for n in node.inputs):
        return False
    try:
        ast.parse(f"({text})", mode="eval")
    except SyntaxError:
        return False
    return bool(text)


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


def median_of(values: Tensor) -> float:
    """The median; of an even count the mean of the middle two, where PyTorch's is the lower of them."""
    return 0.5 * (float(values.median()) - float((-values).median())) if len(values) else math.nan
