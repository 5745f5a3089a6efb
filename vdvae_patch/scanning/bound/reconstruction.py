"""The terms of a loss that compare what a network puts out with the data, and the factor on each of their values.

A term is known by what it does, and not by its name. For a difference e of a network's output to the data, the loss has
the gradient ∂L/∂e, and it is

    2 b e        of a squared error, in whatever way it is squared, weighted and added up;
    b sign(e)    of an absolute error;
    e / ‖e‖      of a norm that is not squared.

How the gradient changes when e is made larger tells them apart. Cross-entropies are operations of PyTorch's, or
products of data with the logarithm of an output; for x · l the gradient for l tells a Bernoulli from a Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import CodeType
from typing import Any, Literal

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Frame, Graph, Node
from vdvae_patch.scanning.bound.replay import Changes, Tail

TermKind = Literal[
    "squared error",
    "absolute error",
    "smooth absolute error",
    "norm of the error",
    "Gaussian density",
    "mixture density",
    "Bernoulli cross-entropy",
    "Bernoulli cross-entropy with logits",
    "continuous Bernoulli density",
    "categorical cross-entropy",
    "Poisson likelihood",
    "log likelihood",
]

_LOSSES: dict[str, TermKind] = {
    "binary_cross_entropy": "Bernoulli cross-entropy",
    "binary_cross_entropy_with_logits": "Bernoulli cross-entropy with logits",
    "nll_loss_forward": "categorical cross-entropy",
    "nll_loss2d_forward": "categorical cross-entropy",
    "smooth_l1_loss": "smooth absolute error",
    "huber_loss": "smooth absolute error",
}
"""Losses that PyTorch computes in one operation: output and target are its first two arguments."""

_THRESHOLDS = {"smooth_l1_loss": "beta", "huber_loss": "delta"}
"""Up to this error they are e² / 2β and e² / 2; beyond it, linear."""

Reads = Literal["mean", "logit", "log mean"]
"""What the output of a comparison is, of the mean of the data."""

_STEP = 1e-3
_SAME = 1e-3
"""Differences between factors, and of exponents, that are none: rounding is 1e-9, and another loss differs by 0.1."""
_NOTHING = 1e-14


@dataclass
class Term:
    """One comparison with the data.

    Attributes:
        node: where the comparison is.
        target: what the output is compared with.
        factors: b of each value.
        errors: output minus data, of terms that have a difference.
        followed: the operations from the comparison to the loss, innermost first.
        output: what is compared with the target; None where that is not told apart.
        reads: what the output is, of a mean.
        weighted: whether the comparison was given weights of its own, which its factors have.
        at_node: how many of the values are compared at `node`, the first step of a loop.
        steps: the comparisons of all steps, and what each is with.
        where: of each step, its factors in the shape of what is compared, NaN where a value has none; empty where that
            is not known.
        masked: the share of values whose errors have no part in the loss.
        note: what is to be known of its kind.
    """

    kind: TermKind
    node: Node
    target: Node
    factors: Tensor
    errors: Tensor | None = None
    count: int = 0
    followed: list[Node] = field(default_factory=list)
    output: Node | None = None
    reads: Reads = "mean"
    weighted: bool = False
    at_node: int = 0
    steps: list[tuple[Node, Node]] = field(default_factory=list)
    where: list[Tensor] = field(default_factory=list)
    masked: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        self.at_node = self.at_node or self.count
        self.steps = self.steps or [(self.node, self.target)]

    @property
    def key(self) -> object:
        """Equal for the steps of a loop; of code that has no file, as of `exec`, nothing is known."""
        if not self.node.frames:
            return self.node.id
        return self.kind, tuple((frame.code, frame.lasti) for frame in self.node.frames)

    def frame(self) -> Frame | None:
        """The host's line."""
        return self.node.host_frame()


def terms_of(graph: Graph, tail: Tail) -> list[Term]:
    """All terms that the loss moves with; those of one line, as of a loop, are one."""
    gradients = tail.adjoints(tail.floating)
    found: dict[object, Term] = {}
    every = (*_losses(tail, gradients), *_products(tail, gradients), *_differences(tail, gradients))
    for term in every:
        known = found.get(term.key)
        if known is None:
            found[term.key] = term
            term.followed = _to_the_loss(graph, tail, term.node)
            continue
        if known.kind == "categorical cross-entropy" and term.node.op != known.node.op:
            continue  # what label smoothing adds in the same call, which is in the factors
        known.factors = torch.cat([known.factors, term.factors])
        whole = sum(one.count / (1 - one.masked) for one in (known, term))
        known.count += term.count
        known.masked = max(0.0, 1 - known.count / whole) if known.masked or term.masked else 0.0
        known.steps += term.steps
        known.where = known.where + term.where if known.where and term.where else []
        if known.errors is not None and term.errors is not None:
            known.errors = torch.cat([known.errors, term.errors])
    kept = _without_parts(list(found.values()))
    if any(n.op == "lgamma" and n.params and n.id in gradients and _moves(gradients[n.id]) for n in tail.order):
        for term in kept:  # of counts: a binomial coefficient has a parameter in it
            term.kind = "log likelihood" if term.node.op == "mul" else term.kind
    return kept


def is_target(tail: Tail, node: Node) -> bool:
    """Whether a value is of the data, or picked from them, and no network had a part in it."""
    if node.params:
        return False
    value = tail.base.get(node.id)
    if value is None or value.numel() < 2:
        return False
    return node.data or (node.kind == "constant" and bool((value != value.flatten()[0]).any()))


# --- losses that are one operation ------------------------------------------------------------------------------------


def _losses(tail: Tail, gradients: dict[int, Tensor]) -> Iterator[Term]:
    for node in tail.order:
        kind = _LOSSES.get(node.op)
        if kind is None or node.index or len(node.inputs) < 2:
            continue
        output, target = node.inputs[:2]
        gradient = gradients.get(node.id)
        if not output.params or not is_target(tail, target) or gradient is None:
            continue
        count = counted = tail.base[target.id].numel()
        if kind == "categorical cross-entropy":
            counted = _not_ignored(tail, node, target)
            each = _on_rows(tail, node, output)
        else:
            divided = count if gradient.numel() == 1 and count > 1 and reduction_of(node) == 1 else 1
            each = gradient / divided * _weights(tail, node, target)
        factors = each.flatten()
        if not _moves(factors):
            continue
        quadratic = _quadratic(tail, node, output, target)
        if quadratic is not None:
            half, errors = quadratic
            factors = (half * factors).expand(errors.numel())
            yield Term(
                "squared error", node, target, factors[factors != 0], errors.flatten(), counted, output=output,
                note=f"by {node.op}, on this batch with no error beyond its threshold: there it is a squared error",
            )  # fmt: skip
            continue
        reads: Reads = "logit" if kind == "Bernoulli cross-entropy with logits" else "mean"
        yield Term(
            kind, node, target, factors[factors != 0], None, counted,
            output=output, reads=reads, weighted=_is_weighted(node), where=[_or_nan(each)],
        )  # fmt: skip


def _quadratic(tail: Tail, node: Node, output: Node, target: Node) -> tuple[float, Tensor] | None:
    """What a smooth absolute error multiplies squared errors by, and the errors, if all are below its threshold."""
    if node.op not in _THRESHOLDS or output.shape != target.shape:
        return None
    given = node.kwargs.get(_THRESHOLDS[node.op], node.args[3] if len(node.args) > 3 else 1.0)
    errors = tail.base[output.id] - tail.base[target.id]
    if not given > 0 or float(errors.abs().max()) > given:
        return None
    return (0.5 / given if node.op == "smooth_l1_loss" else 0.5), errors


def reduction_of(node: Node) -> int:
    """0 none, 1 mean, 2 sum, as PyTorch numbers them."""
    place = {"binary_cross_entropy": 3, "binary_cross_entropy_with_logits": 4, "nll_loss_forward": 3}
    place |= {"nll_loss2d_forward": 3, "smooth_l1_loss": 2, "huber_loss": 2}
    at = place[node.op]
    given = node.kwargs.get("reduction", node.args[at] if len(node.args) > at else 1)
    return int(given)


def _given_weights(node: Node) -> dict[str, Any]:
    """The weights of elements, and of their positive part, that a Bernoulli's cross-entropy was given."""
    places = {"weight": 2, "pos_weight": 3} if node.op == "binary_cross_entropy_with_logits" else {"weight": 2}
    if not node.op.startswith("binary_cross_entropy"):
        return {}
    given = {name: node.kwargs.get(name, node.args[at] if len(node.args) > at else None) for name, at in places.items()}
    return {name: value for name, value in given.items() if value is not None}


def _is_weighted(node: Node) -> bool:
    """Whether a cross-entropy was given weights of elements or of its positive part."""
    return bool(_given_weights(node))


def _weights(tail: Tail, node: Node, target: Node) -> Tensor:
    """What a Bernoulli's cross-entropy multiplies each value's with: w (1 + (w₊ − 1) x)."""
    given = {name: tail.base[value.id] for name, value in _given_weights(node).items()}
    x, one = tail.base[target.id].double(), torch.ones((), dtype=torch.float64)
    return (given.get("weight", one) * (1 + (given.get("pos_weight", one) - 1) * x)).expand(x.shape)


def _on_rows(tail: Tail, node: Node, output: Node) -> Tensor:
    """The factors on the rows of a categorical's cross-entropy, whose gradient for its log probabilities is −b in all.

    So weights of classes are in them, what is ignored is not, and label smoothing, which gives each class a share, adds
    up to a whole. What else the loss computes of these log probabilities, as their entropy, is left out.
    """

    def place(of: Node) -> list[tuple[CodeType, int]]:
        return [(frame.code, frame.lasti) for frame in of.frames]

    while output.kind == "shape" and place(output) == place(node):  # rows of more dimensions, as PyTorch lays them out
        output = output.inputs[0]
    readers = (n for n in tail.order if any(read is output for read in n.inputs))
    others = frozenset(n.id for n in readers if place(n) != place(node))
    gradient = tail.adjoints([output], held=others)[output.id]
    return -gradient.sum(min(1, gradient.dim() - 1))


def _not_ignored(tail: Tail, node: Node, target: Node) -> int:
    ignored = node.kwargs.get("ignore_index", node.args[4] if len(node.args) > 4 else -100)
    return int((tail.base[target.id] != ignored).sum())


# --- products of data with an output, or with its logarithm --------------------------------------------------


def _products(tail: Tail, gradients: dict[int, Tensor]) -> Iterator[Term]:
    for node in tail.order:
        if node.op in ops.PICKING and len(node.inputs) > 1 and node.inputs[0].params:
            yield from _picked(tail, node, gradients[node.id])
            continue
        if node.op not in ops.WEIGHING_A_LOG or len(node.inputs) != 2:
            continue
        for target, output in (node.inputs, node.inputs[::-1]) if node.op == "mul" else (node.inputs,):
            if not output.params or not is_target(tail, target) or node.id not in gradients:
                continue
            value = tail.base[target.id]
            sign = -1 if bool((value <= 0).all()) else 1  # of -(x * log_softmax(l)), which Python reads as (-x) * ...
            if not bool((sign * value >= 0).all()):
                continue
            gradient = sign * gradients[node.id]
            kind = _kind_of_product(tail, node, target, output, gradient, gradients)
            if sign < 0 and kind == "Bernoulli cross-entropy":
                continue  # its other half has the data as they are
            if kind is not None and _moves(gradient):
                factors = -gradient.flatten()
                reads: Reads = "logit"
                if node.op == "xlogy" or _is_logarithm(output):
                    reads = "log mean" if node.op == "mul" else "mean"
                yield Term(
                    kind, node, target, factors[factors != 0], None, gradient.numel(), output=output, reads=reads,
                    where=[_or_nan(-gradient)],
                )  # fmt: skip


def _picked(tail: Tail, node: Node, gradient: Tensor) -> Iterator[Term]:
    """Log probabilities that a target picks: `Categorical.log_prob(x)`."""
    if not _is_logarithm(node.inputs[0]) or not any(
        not n.params and tail.base[n.id].dtype == torch.int64 and n.data for n in node.inputs[1:]
    ):
        return
    if _moves(gradient):
        factors = -gradient.flatten()
        yield Term(
            "categorical cross-entropy", node, node.inputs[1], factors[factors != 0], None, gradient.numel(),
            where=[_or_nan(-gradient)],
        )  # fmt: skip


def _is_logarithm(node: Node) -> bool:
    """Whether a value is a logarithm, limited or not, or log probabilities less their logarithm of a sum."""
    for _ in range(12):
        if node.op in ops.LOGARITHMS:
            return True
        if node.op in ops.DIFFERENCES and any(_through(n).op in ("logsumexp", "log") for n in node.inputs):
            return True
        if node.op not in ops.HELD and node.kind != "shape":
            return False
        if not node.inputs:
            return False
        node = node.inputs[0]
    return False


def _through(node: Node) -> Node:
    return settle(Spot(node)).node


def _kind_of_product(
    tail: Tail, node: Node, target: Node, output: Node, gradient: Tensor, gradients: dict[int, Tensor]
) -> TermKind | None:
    if node.op == "xlogy" or _is_logarithm(output):
        inner = _through(output)
        if inner.op == "_log_softmax" or any(_through(n).op == "logsumexp" for n in inner.inputs):
            return "categorical cross-entropy"
        return _kind_by_mean(tail, node, target, output)
    source = _through(output)
    total, value = gradients.get(source.id), tail.base.get(source.id)
    if total is None or value is None or total.shape != gradient.shape or not bool((gradient != 0).any()):
        return None
    # of b (A(l) − x l) the gradient for l is b (A'(l) − x)
    slope = total / -gradient.where(gradient != 0, torch.ones_like(gradient)) + tail.base[target.id]
    used = gradient != 0
    for kind, expected in (
        ("Bernoulli cross-entropy with logits", torch.sigmoid(value)),
        ("Poisson likelihood", value.exp()),
    ):
        if torch.allclose(slope[used], expected[used], rtol=1e-4, atol=1e-6):
            return kind  # type: ignore[return-value]
    return None


def _kind_by_mean(tail: Tail, node: Node, target: Node, output: Node) -> TermKind:
    """The kind of a product x · log u, by the mean that the rest of the loss gives the data.

    Of −x η(h) + A(h) the mean is A'(h) / η'(h): the gradient for h at x = 0, which is A', over what x adds to it. It
    is u of a Poisson, and of a Bernoulli, whose u is a probability; without any A probabilities of a categorical are
    compared, which add up to one. Counts of another kind, such as a negative binomial's, have another mean.
    """
    x = tail.base[target.id].abs()  # of (-x) * log u, too
    u = tail.base[output.id] if node.op == "xlogy" else tail.base[output.id].exp()
    logits = _through(output).op.startswith("log_sigmoid")
    binary: TermKind = "Bernoulli cross-entropy with logits" if logits else "Bernoulli cross-entropy"

    def none(value: Tensor) -> Tensor:
        return torch.zeros_like(value)

    changes: Changes = {target.id: none}
    places, ends = way_back(tail, output)
    apart, whole = (tail.adjoints([*places, *ends], changed) for changed in (changes, None))
    if all(float(apart[n.id].abs().max()) <= _SAME * float(whole[n.id].abs().max()) for n in ends):
        return "categorical cross-entropy"
    complement = node.op == "mul" and _has_complement(tail, node, target)
    for place in places:
        by_data = apart[place.id] - whole[place.id]
        if by_data.shape != x.shape or u.shape != x.shape or not bool((by_data != 0).any()):
            continue
        used = by_data != 0
        if torch.allclose((x * apart[place.id] / by_data)[used], u[used], rtol=1e-3, atol=1e-6):
            return binary if logits or complement else "Poisson likelihood"
    return binary if complement else "log likelihood"


def way_back(tail: Tail, output: Node) -> tuple[list[Node], list[Node]]:
    """The values that alone an output is computed of, itself first, and those in which its arithmetic begins; of a
    layer's output that has more beside it the part."""
    found, todo, seen, ends = [output], [output], {output.id}, list[Node]()
    while todo:
        node = todo.pop()
        learned = list({n.id: n for n in node.inputs if n.params and n.id in tail.inside}.values())
        part = node.kind == "shape" and any(math.prod(n.shape) > math.prod(node.shape) for n in learned)
        if node.id in tail.leaves or not learned or part:
            ends.append(node)
            continue
        if len(learned) == 1 and found[-1] is node:
            found += learned
        todo += [n for n in learned if n.id not in seen]
        seen.update(n.id for n in learned)
    return found + [end for end in ends if len(ends) == 1 and end is not found[-1]], ends


def _has_complement(tail: Tail, node: Node, target: Node) -> bool:
    """Whether the same output and target are multiplied as (1 − x) log(1 − p), too, whatever the sign."""
    value = 1 - tail.base[target.id].double().abs()
    for other in tail.order:
        if other.op == "mul" and other.params and other is not node and other.shape == node.shape:
            for n in other.inputs:
                if (
                    not n.params
                    and tail.base[n.id].shape == value.shape
                    and torch.allclose(tail.base[n.id].double().abs(), value.abs())
                ):
                    return True
    return False


def unknown_comparison(tail: Tail) -> Node | None:
    """Where a loss without a term that is known has what a draw was decoded to and data together, in whatever way; None
    if it has not."""
    for node in tail.order:
        outputs = [n for n in node.inputs if n.params and n.noise and n.id in tail.inside]
        if node.kind == "elementwise" and outputs and any(is_target(tail, n) and n.data for n in node.inputs):
            return node
    return None


# --- differences ------------------------------------------------------------------------------------------------------


def _differences(tail: Tail, gradients: dict[int, Tensor]) -> Iterator[Term]:
    for node in tail.order:
        if node.id in tail.same:
            continue
        pair = _compared(tail, node)
        if pair is None or node.id not in gradients or not _moves(gradients[node.id]):
            continue
        target, sign = pair
        error = sign * tail.base[node.id]
        gradient = gradients[node.id] * sign
        kind, factors = _classified(tail, node, tail.base[node.id], gradients[node.id])
        if kind is None:
            continue
        used = gradient != 0
        masked = float((~used & ((error != 0) | _put_to_zero(tail, node))).double().mean())
        compared = error[used] if masked else error  # an error of zero has no gradient, and is one
        yield Term(
            kind, node, target, factors, compared.flatten(), compared.numel(), masked=masked,
            where=_placed(factors, used & (error != 0)),
        )  # fmt: skip


def _or_nan(factors: Tensor) -> Tensor:
    return torch.where(factors != 0, factors, torch.nan)


def _placed(factors: Tensor, used: Tensor) -> list[Tensor]:
    """Factors where their errors are; none if they are of something else, as of whole rows."""
    if factors.numel() != int(used.sum()):
        return []
    where = torch.full(used.shape, torch.nan, dtype=factors.dtype)
    where[used] = factors
    return [where]


def _put_to_zero(tail: Tail, node: Node) -> Tensor:
    """Where errors are zero because the host has put output and data to one value, as by a mask on both: such an error
    stays zero whatever the network gives, where one behind an activation does not: one that is flat on both sides, as
    `clamp(0, 1)`, has another value on the other."""
    zero = tail.base[node.id] == 0
    if not bool(zero.any()):
        return zero
    given = [n for n in tail.order if n.id in tail.leaves and n.params and tail.base[n.id].is_floating_point()]
    for sign in (1, -1):
        changes: Changes = {n.id: partial(_pushed, sign=sign) for n in given}
        zero = zero & (tail.run(changes)[node.id] == 0)
    return zero


def _pushed(value: Tensor, sign: int) -> Tensor:
    return value + sign * (2 * value.abs().max() + 1)


def _compared(tail: Tail, node: Node) -> tuple[Node, int] | None:
    """The data of a difference of an output to them, and the sign with which the output stands in it."""
    if node.op not in ops.DIFFERENCES or node.kind != "elementwise" or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if first.params == second.params:
        return None
    target, output = (second, first) if first.params else (first, second)
    alpha = float(node.kwargs.get("alpha", 1))
    negative = node.op != "add" or alpha < 0
    if node.op == "add":
        if not (_through(target).op == "neg" or _through(output).op == "neg" or negative):
            return None
        sign = -1 if _through(output).op == "neg" or (negative and output is second) else 1
    else:
        sign = 1 if (output is first) == (node.op == "sub") else -1
    if not is_target(tail, target) or not target.data or abs(alpha) != 1:
        return None
    few = tail.base[target.id].numel() * 2 < tail.base[node.id].numel()
    if few and target.shape[:1] != node.shape[:1] and not _is_whole(target):
        return None
    return target, sign


def _is_whole(target: Node) -> bool:
    """Whether a value has one for each of the data that it is made of, and is no statistic of them.

    It may then be compared with several outputs, of components or of draws, along a dimension in front.
    """
    source = input_of(target)
    return source is not None and math.prod(target.shape) >= math.prod(source.shape)


def input_of(node: Node) -> Node | None:
    """The largest tensor of the call's arguments that a value is made of."""
    todo, seen, found = [node], {node.id}, list[Node]()
    while todo:
        current = todo.pop()
        if current.kind == "input" and not current.mask:
            found.append(current)
        for source in current.inputs:
            if source.id not in seen:
                seen.add(source.id)
                todo.append(source)
    return max(found, key=lambda n: math.prod(n.shape), default=None)


def _classified(tail: Tail, node: Node, error: Tensor, gradient: Tensor) -> tuple[TermKind | None, Tensor]:
    """The kind of a term by the gradient for its errors, and the factor on each."""

    def change(value: Tensor) -> Tensor:
        return value * (1 + _STEP)

    changes: Changes = {node.id: change}
    larger = tail.adjoints([node], changes)[node.id]
    # in the middle between the two, an odd function of e is what its power says
    used = (gradient != 0) & (error != 0)
    if not bool(used.any()):
        return None, gradient
    e, g = error[used], gradient[used]
    power = torch.log((larger[used] / g).abs()) / torch.log(torch.tensor(1 + _STEP, dtype=torch.float64))
    exponent = float(power.median())
    steady = float((power - exponent).abs().quantile(0.9)) < 0.05 if len(power) < 1_000_000 else True
    ratio = g / (2 * e)
    if steady and abs(exponent - 1) < 0.02:
        return "squared error", ratio
    if steady and abs(exponent) < 0.02:
        if _is_linear(tail, node, gradient):
            return None, ratio
        if _is_joint(tail, node, gradient):
            return "norm of the error", ratio
        return "absolute error", g * e.sign()
    if steady and abs(exponent + 1) < 0.02 and _spread(ratio) < _SAME:
        return "squared error", ratio  # log of the mean squared error: a Gaussian with the σ that is best for it
    if steady and abs(exponent + 1) < 0.02 and _spread(g.abs()) > _SAME:
        # each image, or each pixel, has the σ that is best for it: of c (log σ + e² / 2σ²) the mean of g e is c
        return "Gaussian density", (g * e).mean().expand(len(e))
    return "log likelihood", _complete(tail, node, gradient)


def learned_weight(tail: Tail, term: Term) -> Node | None:
    """What errors are multiplied with before they are added up, if parameters have a part in it that is not by way of
    the errors themselves; None of fixed weights."""
    same = [node for node in tail.order if tail.same.get(node.id) == term.node.id]
    behind = {node.id for start in (term.node, *same) for node in _behind(tail, start)}
    for node in term.followed:
        if node.op in ops.MULTIPLYING:
            others = [n for n in node.inputs if n.params and n.id not in behind]
            if others and any(n.id in behind for n in node.inputs):
                return others[0]
    return None


def _is_linear(tail: Tail, node: Node, gradient: Tensor) -> bool:
    """Whether the gradient for e is the same for −e: a constant of the data is added there, and nothing compared."""
    changes: Changes = {node.id: torch.neg}
    return torch.allclose(tail.adjoints([node], changes)[node.id], gradient, rtol=1e-6, atol=1e-12)


def _is_joint(tail: Tail, node: Node, gradient: Tensor) -> bool:
    """Whether errors move with each other's gradients, as in a norm, and not each with its own alone."""
    every_other = (torch.arange(gradient.numel()) % 2 == 0).view(gradient.shape)

    def change(value: Tensor) -> Tensor:
        return torch.where(every_other, value * 1.5, value)

    changes: Changes = {node.id: change}
    moved = tail.adjoints([node], changes)[node.id]
    return not torch.allclose(moved[~every_other], gradient[~every_other], rtol=1e-6, atol=1e-12)


def _complete(tail: Tail, node: Node, gradient: Tensor) -> Tensor:
    """The factors on a log likelihood that is no power of its error: the gradients where it is complete, which is where
    the loss begins to be a sum."""
    frontier = [n for n in linear_frontier(tail) if n.noise or n.data or n.params]
    reached = {n.id for n in _behind(tail, node)}
    ends = [n for n in frontier if n.id in reached]
    gradients = tail.adjoints(ends)
    found = [-gradients[n.id].flatten() for n in ends if bool((gradients[n.id] != 0).any())]
    if not found or _is_of_power(ends[-1], {n.id: n for n in _behind(tail, node)}):
        return torch.zeros(0, dtype=torch.float64)
    factors = found[-1][found[-1] != 0]
    # what is complete may be the log likelihood or less it, as log cosh e is: a loss that is minimized grows with |e|
    grows = bool((gradient * tail.base[node.id] >= 0).all())
    return -factors if grows and bool((factors < 0).all()) else factors


def _is_of_power(end: Node, behind: Mapping[int, Node]) -> bool:
    """Whether a logarithm is of a power of the error and no more, as a Student's t has log(1 + e²/ν) with (ν + 1)/2 in
    front: a log likelihood to some power, and which is not to be seen. One of exponentials, of a mixture, is whole."""
    if end.op not in ops.NATURAL_LOGARITHMS:
        return False
    todo, seen = [end], set[int]()
    while todo:
        node = todo.pop()
        seen.add(node.id)
        if (
            node is not end
            and node.op not in ops.POWERS
            and node.op not in ops.FACTORS | ops.DIFFERENCES
            and node.kind != "shape"
        ):
            return False
        todo += [n for n in node.inputs if n.id in behind and n.id not in seen]
    return True


def linear_frontier(tail: Tail, known: Collection[int] = ()) -> list[Node]:
    """The nodes at which the loss, walked back, stops to be a sum of constant multiples.

    Args:
        known: numbers of nodes at which the walk ends in any case: a KL has log σ itself as a term, and what a raw
            value is pooled of is no term of the loss.
    """
    by_id = {node.id: node for node in tail.order}
    todo, seen, ends = [tail.end], {tail.end.id}, []
    while todo:
        node = todo.pop()
        variable = [n for n in node.inputs if n.params]
        scaled = node.op in ops.FACTORS and len(variable) == 1 and node.inputs[0] is variable[0]
        scaled = scaled or (node.op == "mul" and len(variable) == 1)
        if node.id not in known and (node.op in ops.TOTALLED or node.kind == "shape" or scaled):
            for n in variable:
                if n.id not in seen and n.id in by_id:
                    seen.add(n.id)
                    todo.append(n)
        else:
            ends.append(node)
    return sorted(ends, key=lambda n: n.id)


def _behind(tail: Tail, node: Node) -> list[Node]:
    """What is computed of a node, in order, itself included."""
    reached, found = {node.id}, [node]
    for other in tail.order:
        if other.id not in reached and any(n.id in reached for n in other.inputs):
            reached.add(other.id)
            found.append(other)
    return found


def _to_the_loss(graph: Graph, tail: Tail, node: Node) -> list[Node]:
    """A way from a term to the loss."""
    way, current = [node], node
    while current is not tail.end:
        following = [
            n for n in graph.consumers.get(current.id, ()) if n.id in tail.inside and n.id not in {w.id for w in way}
        ]
        if not following or len(way) > 500:
            break
        current = following[0]
        way.append(current)
    return way


def _without_parts(terms: list[Term]) -> list[Term]:
    """Without the second of two products of one cross-entropy, and without differences inside of another term."""
    kept: list[Term] = []
    for term in terms:
        twin = next(
            (
                t
                for t in kept
                if t.kind == term.kind
                and t.errors is None
                and term.errors is None
                and t.node.op == term.node.op == "mul"
                and _line(t) == _line(term)
            ),
            None,
        )
        if twin is None:
            kept.append(term)
    return kept


def _line(term: Term) -> tuple[str, int] | None:
    frame = term.frame()
    return None if frame is None else (frame.code.co_filename, frame.line)


def _moves(gradient: Tensor) -> bool:
    return bool((gradient.abs() > _NOTHING).any())


def _spread(values: Tensor) -> float:
    middle = values.median().abs()
    return float((values - values.median()).abs().max() / middle.clamp_min(1e-300))
