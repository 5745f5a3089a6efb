"""The mean of a mixture that a loss's log likelihood is of, where the host computes its weights and its means.

    log p(x) = log Σₖ wₖ f(x − μₖ)          w the softmax of K logits, f any density or mass, the same for the whole sum

is known by what it does: with L the loss, the gradients ∂L/∂log wₖ add up over the components to ∂L/∂log p, for they
are the responsibilities times that. So no name of a function and no formula of f is looked for. The mean of the mixture
is Σₖ wₖ μₖ, where f has its own at 0, as a Normal and a logistic have.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vdvae_patch.attach.source import Span
from vdvae_patch.patching.term import Mixing
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Frame, Node
from vdvae_patch.scanning.bound.reconstruction import Term
from vdvae_patch.scanning.bound.replay import Tail
from vdvae_patch.scanning.places.calls import CannotPlaceError, common_level, outer_first, span_of
from vdvae_patch.trace import short


@dataclass(frozen=True)
class Mixture:
    """A mixture that was found, in the recorded call.

    Attributes:
        weights, means: of its components, as `mixing` takes them.
        end: its log likelihood, of each value or of each row.
        own: the root mean square of its mean's errors.
        shifted: whether the means are shifted by data of the same image.
    """

    mixing: Mixing
    weights: Node
    means: Node
    end: Node
    compared: tuple[int, ...]
    own: float
    shifted: bool


@dataclass(frozen=True)
class MixturePlace:
    """Where the parts of a mixture stand.

    Attributes:
        frames: the lines that were running, innermost first, up to the function that has all parts.
        first, last, weights: the comparison, the log likelihood and the weights in that function.
        why_not: why it cannot be replaced there, empty if it can; the spans are then not to be used.
    """

    frames: tuple[Frame, ...]
    first: Span
    last: Span
    weights: Span
    why_not: str = ""


def mixture_of(tail: Tail, term: Term) -> Mixture | None:
    """The mixture that a comparison with the data is a part of; None if it is part of none, or of one that is written
    in another way."""
    node, target = term.node, term.target
    if term.kind != "log likelihood" or len(node.inputs) != 2 or node.op not in ops.SUBTRACTING:
        return None
    means = next(n for n in node.inputs if n is not target)
    ends = _passed(tail, node)
    behind = {n.id for n in ends[1]}
    for weights, dim, logarithmic in _weights(tail):
        if weights.id in behind:
            continue
        found = _joined(tail, weights, dim, logarithmic, means, target, ends[0])
        if found is not None:
            return found
    return None


def _joined(
    tail: Tail, weights: Node, dim: int, logarithmic: bool, means: Node, target: Node, ends: list[Node]
) -> Mixture | None:
    along = _dimension(weights, dim, means, target)
    without = (*weights.shape[:dim], *weights.shape[dim + 1 :])
    if along is None:
        return None
    common = {n.id for n in _passed(tail, weights)[0]}
    # of w f, whose sum is no logarithm yet, the one behind it is
    candidates = [n for n in ends if n.id in common and tuple(s for s in n.shape if s != 1) == _wide(without)]
    gradients = tail.adjoints([weights, *candidates])
    each = gradients[weights.id] if logarithmic else gradients[weights.id] * tail.base[weights.id]
    added = each.sum(dim=dim).flatten()
    end = next((n for n in candidates if torch.allclose(added, gradients[n.id].flatten(), rtol=1e-5, atol=0)), None)
    if end is None:
        return None
    mixing = Mixing(dim, along, logarithmic)
    values = tail.base[means.id].double()
    mean = mixing.mean(tail.base[weights.id].double(), values)
    data = mixing.data(tail.base[target.id].double(), values.dim())
    if mean.shape != data.shape:
        return None
    own = float((mean - data).square().mean().sqrt())
    return Mixture(mixing, weights, means, end, tuple(mean.shape), own, _is_shifted(means, target))


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _weights(tail: Tail) -> Iterator[tuple[Node, int, bool]]:
    """What a softmax gives, the dimension along which its values sum to one, and whether they are logarithms."""
    for node in tail.order:
        if node.op in ops.SOFTMAXES and node.params:
            yield node, int(node.args[1]) % len(node.shape), node.op == "_log_softmax"


def _dimension(weights: Node, dim: int, means: Node, target: Node) -> int | None:
    """The dimension of the means that numbers the components: there the data have one value for all of them."""
    count = weights.shape[dim]
    shape = (1,) * (len(means.shape) - len(target.shape)) + target.shape
    places = [i for i, (one, many) in enumerate(zip(shape, means.shape, strict=False)) if one == 1 and many == count]
    if len(places) > 1 and len(weights.shape) == len(means.shape) and dim in places:
        return dim
    return places[0] if len(places) == 1 and count > 1 else None


def _passed(tail: Tail, node: Node) -> tuple[list[Node], list[Node]]:
    """The values that all of a node's influence on the loss goes through, and all that is computed of it; in order."""
    reached, behind = {node.id}, [node]
    last = {node.id: 0}
    for other in tail.order:
        if other.id in reached:
            continue
        sources = [n.id for n in other.inputs if n.id in reached]
        if sources:
            reached.add(other.id)
            behind.append(other)
            last[other.id] = len(behind) - 1
            last.update(dict.fromkeys(sources, len(behind) - 1))
    passed, open_until = [], 0
    for place, other in enumerate(behind):
        if place >= open_until:
            passed.append(other)
        open_until = max(open_until, last[other.id])
    return passed, behind


def _is_shifted(means: Node, target: Node) -> bool:
    """Whether data of the image itself come in behind a draw, as earlier channels do in PixelCNN++'s mixture."""
    source = _inputs_of([target])
    todo, seen = [means], {means.id}
    while todo:
        node = todo.pop()
        if not node.noise:
            continue  # in front of the draw: the encoder
        for other in node.inputs:
            if other.data and not other.params and not other.noise and _inputs_of([other]) & source:
                return True
            if other.id not in seen:
                seen.add(other.id)
                todo.append(other)
    return False


def _inputs_of(todo: list[Node]) -> set[int]:
    found, seen = set[int](), {node.id for node in todo}
    while todo:
        node = todo.pop()
        if node.kind == "input":
            found.add(node.id)
        for other in node.inputs:
            if other.id not in seen:
                seen.add(other.id)
                todo.append(other)
    return found


@dataclass(frozen=True)
class OfDistribution:
    """A density that `torch.distributions` computes of a value, in one call of the host's.

    Attributes:
        end: what the call returns.
        compared: the shape of the data that it was given.
    """

    end: Node
    compared: tuple[int, ...]


def distribution_of(tail: Tail, term: Term) -> OfDistribution | None:
    """The call `d.log_prob(x)` that a comparison with the data is a part of; d has the mean that is wanted.

    No line of the host's is further inside, so that d is of a library's class.
    """
    frame = term.frame()
    if term.kind != "log likelihood" or frame is None:
        return None
    try:
        called = ast.parse(_text(frame), mode="eval").body
    except SyntaxError:
        return None
    if not (isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute) and called.func.attr == "log_prob"):
        return None
    end = term.node
    for node in _passed(tail, term.node)[0]:
        if node.host_frame() != frame:
            break
        end = node
    data = term.target
    while data.kind == "shape" and len(data.inputs) == 1 and data.host_frame() == frame:
        data = data.inputs[0]
    return OfDistribution(end, data.shape)


# --- where it stands --------------------------------------------------------------------------------------------------


def placed(mixture: Mixture, term: Term) -> MixturePlace:
    """Where its parts stand; with the reason where no one function of the host has all of them."""
    nodes = [term.node, mixture.end, mixture.weights]
    none: Span = (0, 0, 0, 0)
    try:
        level = common_level(nodes)
        lines = [outer_first(node) for node in nodes]
        if level < 0 or any(len(sequence) <= level for sequence in lines):
            raise CannotPlaceError("its weights, its means and its logarithm are computed in functions of their own")
        frames = tuple(reversed(lines[0][: level + 1]))
        first, last, weights = (span_of(sequence[level]) for sequence in lines)
    except CannotPlaceError as error:
        return MixturePlace(term.node.frames, none, none, none, str(error))
    why = ""
    if len({first, last, weights}) < 3:
        why = "its weights, its means and its logarithm are computed in functions of their own"
    if mixture.shifted:
        why = (
            "the means of its later channels are shifted by the data of earlier ones, and a mean image has none: shift "
            "them by the earlier channels' mean in its place, and then"
        )
    return MixturePlace(frames, first, last, weights, why)


def lines_of(mixture: Mixture, term: Term) -> tuple[str, str]:
    """The line that computes the mean, for somebody who writes it; and where the log likelihood stands."""
    mixing = mixture.mixing
    weights, means = f"{_said(mixture.weights, term)}{'.exp()' if mixing.logarithmic else ''}", _operand(term)
    dim = mixing.means
    if mixing.components != mixing.means:
        weights, means, dim = f"{weights}.movedim({mixing.components}, 0)", f"{means}.movedim({mixing.means}, 0)", 0
    weights += "[..., None]" * (len(mixture.means.shape) - len(mixture.weights.shape))
    return f"mean = ({weights} * {means}).sum(dim={dim})", f"`{_said(mixture.end, term)}`{_where(mixture.end, term)}"


def _operand(term: Term) -> str:
    frame = term.frame()
    try:
        tree = ast.parse("" if frame is None else _text(frame), mode="eval").body
    except SyntaxError:
        return "means"
    if not isinstance(tree, ast.BinOp):
        return "means"
    return ast.unparse(tree.right if term.node.inputs[0] is term.target else tree.left)


def _frame(node: Node, term: Term) -> Frame | None:
    """The line of the function that compares, or the innermost one of the host's."""
    own = term.frame()
    here = (frame for frame in node.frames if own is not None and frame.host and frame.code is own.code)
    return next(here, node.host_frame())


def _said(node: Node, term: Term) -> str:
    frame = _frame(node, term)
    return ("" if frame is None else _text(frame)) or node.op


def _where(node: Node, term: Term) -> str:
    frame = _frame(node, term)
    return "" if frame is None else f" at {short(frame.code.co_filename)}:{frame.line}"


def _text(frame: Frame) -> str:
    first, last, start, stop = frame.span
    if first is None or last is None or start is None or stop is None:
        return ""
    lines = [
        linecache.getline(frame.code.co_filename, number).rstrip("\n").encode() for number in range(first, last + 1)
    ]
    lines[-1] = lines[-1][:stop]
    lines[0] = lines[0][start:]
    return " ".join(b" ".join(lines).decode(errors="replace").split())
