"""What is numerically unsafe in a host as it is, with the reason and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from vdvae_patch.composition import Step
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Role
from vdvae_patch.patching.floors import least, zero_between
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import descend
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import Reading, where
from vdvae_patch.trace import shown

_SOURCE = '"Re-parameterizing VAEs for stability"'


MADE_ONE = "a patch makes them one"


def of_head(
    role: Role,
    convention: Convention,
    agree: bool,
    path: str,
    ways: Sequence[str] = (),
    factor: float = 1.0,
    counted: float = 0.0,
    drawn: bool = True,
    may_be_negative: bool = True,
) -> Iterator[str]:
    """Faults of one head's scale.

    Args:
        ways: how the host reads the raw value, where it does so in ways that disagree.
        factor: what the density or the KL has of the σ that is drawn with.
        counted: the σ as which the density counts any lower one, see `counted_from`.
        drawn: whether noise is multiplied by this σ.
        may_be_negative: not so of a sum of positive ones, which is the raw value itself.
    """
    far = torch.tensor([-40.0, 40.0], dtype=torch.float64)
    low, high = sorted(float(s) for s in convention.sigma(far))  # of a log precision σ falls
    if not agree:
        two = "so it samples from one Normal and computes the density of another" if drawn else "so it has two σ of it"
        yield f"{path}: the host reads this raw value in ways that disagree{_in_ways(ways)}, {two}; {MADE_ONE}"
    elif factor != 1.0:
        yield (
            f"{path}: the density or the KL has {factor:.4g} times the σ that noise is multiplied by{_in_ways(ways)}, "
            "so it samples from one Normal and computes the density of another; a patch keeps the factor, and its σ is "
            "what is drawn with; fix: one σ for both, if it is no temperature"
        )
    if high > 1e6 and role != "likelihood":
        yield (
            f"{path}: σ grows exponentially with the raw parameter, so one large value makes a gradient that ends the "
            f"run ({_SOURCE}, section 3); remedy: explin or upbounded"
        )
    if max(low, counted) < 1e-6 and role == "likelihood":
        floor = least(convention)
        bound, grows = (
            (f"a lower bound of {floor:.2g} alone", "almost without") if floor else ("no lower bound", "without")
        )
        yield (
            f"{path}: the likelihood's σ has {bound}, so the density of a well reconstructed value grows {grows} limit "
            f"({_SOURCE}, section 4); remedy: downbounded or bounded"
        )
    if low < 0 and may_be_negative:
        yield f"{path}: nothing keeps σ positive; remedy: any scale of this package"
    elif may_be_negative and (at := zero_between(convention)) is not None:
        yield (
            f"{path}: σ is zero where the raw value is {at + 0.0:g}, and its log, or a division by it, is not finite "
            "there; remedy: any scale of this package"
        )


def of_uneven(path: str, readings: Sequence[Reading]) -> str:
    """What takes part in σ beside the raw value, and is another number for each example or each channel: of a factor of
    the data, or of a buffer of deviations, the convention has the largest; empty if there is none."""
    for node in (node for reading in readings for node in reading.chain.nodes if node.op in _WITH_ANOTHER):
        for other in (n for n in node.inputs if not n.params and not n.even and not n.mask and math.prod(n.shape) > 1):
            if other.value != 1.0 or node.op in ops.ADDING:  # a mask of zeros and ones, as of padding, multiplies
                return (
                    f"{path}: at {where(node)} σ has another number in it for each element, {other.value:.4g} for one; "
                    "a patch keeps them, and σ in tables, and what a scale gives, is that one's"
                )
    return ""


_WITH_ANOTHER = ops.ADDING | ops.MULTIPLYING | {"pow"}


def of_masked(path: str, readings: Sequence[Reading]) -> str:
    """That a mask takes some elements out between a layer and σ, as those that are absent or padding; empty if none
    does on this batch."""
    for node in (node for reading in readings for node in reading.chain.nodes):
        others = [n for n in node.inputs if not n.params and not n.even and math.prod(n.shape) > 1]
        # of zeros and ones, by which what a network puts out is multiplied, see `of_uneven`
        if (node.op in ops.CHOOSING and others) or (node.op == "mul" and any(n.value == 1.0 for n in others)):
            return (
                f"{path}: at {where(node)} a mask takes some elements out, of which σ is the host's own whatever the "
                "scale; σ in tables, and what a scale is fitted to, is of all raw values, these too"
            )
    return ""


def of_factor(path: str, reading: Reading, all_are_heads: bool) -> str:
    """That a head is a factor of a product from which σ is computed."""
    others = "each has a scale of its own" if all_are_heads else "another is no head, stays, and is not tried"
    return (
        f"{path}: at {where(reading.node)} σ is computed of a product, of which this is one factor; {others}, and σ in "
        "tables, and the bounds of a scale, are those of the factor alone"
    )


def of_sum(path: str, reading: Reading) -> str:
    """That a head is a term of a sum of scales."""
    return (
        f"{path}: at {where(reading.node)} σ is a sum of {len(reading.parts)} scales, of which this is one; what the "
        "table has for the raw value is the sum itself, and a scale would take the place of all"
    )


def of_correlation(path: str, place: str) -> str:
    """The fault of a density of two correlated values whose ρ comes to ±1."""
    return (
        f"{path}: the correlation ρ that is computed at {shown(place)} comes to ±1 when its raw value grows (tanh is 1 "
        "from 9 on in float32), where 1 − ρ² is zero and the density is none; no scale of σ mends that; remedy: "
        "0.99 * torch.tanh(v) there"
    )


def of_floored_density(path: str, place: str) -> str:
    """The fault of a density whose divisors have floors of their own."""
    return (
        f"{path}: {shown(place)} adds small numbers in its divisors or logs, so that it is no Normal's density where σ "
        "is as small; they stay under a patch; remedy: a lower bound well above them, as of bounded(0.01, 10)"
    )


def of_floored_log(path: str, place: str, exchanged: bool) -> str:
    """The fault of a KL, or a density, whose log alone has a floor."""
    what = "a patch makes it the log of σ" if exchanged else "it stays under a patch: let it be the log of σ itself"
    return (
        f"{path}: {shown(place)} takes the log behind a floor and σ itself for the rest, which is no Normal's where σ "
        f"is small; {what}"
    )


def of_tiny_floor(path: str, place: str, floor: float) -> str:
    """The fault of a density or a KL that adds a small number to σ, beside which σ as it is was read."""
    return (
        f"{path}: {shown(place)} adds {floor:.3g} to σ, which stays under a patch: there a σ far below it counts as "
        f"{floor:.3g}, whatever the scale gives"
    )


def _in_ways(ways: Sequence[str]) -> str:
    return f" ({'; '.join(ways)})" if ways else ""


def of_graph(graph: Graph) -> Iterator[str]:
    """Faults of the host's arithmetic."""
    seen: set[tuple[str, int]] = set()
    for node in graph.nodes:
        frame = node.host_frame()
        if frame is None or not node.params:
            continue
        place = (frame.code.co_filename, frame.line)
        at = f"{shown(place[0])}:{place[1]}"
        if node.op == "log" and place not in seen and (of := _tail_in_log(node)):
            seen.add(place)
            article = "an" if of == "exponential" else "a"
            yield (
                f"{at}: the log of {article} {of} is −∞ as soon as the {of} underflows (raw "
                f"values below −103 in float32, below −51 of a square; {_SOURCE}, table 1); fix: compute the "
                "KL or the density from log σ itself, as a patched Normal does"
            )
        elif _is_clamp_of_nll(node) and place not in seen:
            seen.add(place)
            yield (
                f"{at}: gaussian_nll_loss counts a variance below its eps of {node.args[1]:g} as eps, "
                f"so a σ below {math.sqrt(node.args[1]):.3g} of any scale as that; remedy: a smaller eps, or a scale "
                "with a lower bound above it"
            )


def counted_from(graph: Graph, readings: Sequence[Reading]) -> float:
    """The σ as which `gaussian_nll_loss` counts any lower one in a head's densities; 0 where one is not by it."""
    totals = [reading.term.total for reading in readings if reading.term is not None]
    if not any("gaussian_nll_loss" in frame.code.co_names for total in totals for frame in total.frames):
        return 0.0  # of most hosts: nothing to look for
    clamps = {_call_of(node): float(node.args[1]) for node in graph.nodes if _is_clamp_of_nll(node)}
    return math.sqrt(max(0.0, min(clamps.get(_call_of(total), 0.0) for total in totals)))


def _call_of(node: Node) -> tuple[str, int] | None:
    """File and line of the host's that a node is of."""
    frame = node.host_frame()
    return None if frame is None else (frame.code.co_filename, frame.line)


def _is_clamp_of_nll(node: Node) -> bool:
    """The clamp inside PyTorch's Gaussian loss, which changes a copy of the variance that it was given."""
    calls = any("gaussian_nll_loss" in frame.code.co_names for frame in node.frames)
    return calls and node.op == "clamp" and node.inplace and isinstance(node.args[1], float)


def of_probabilities(graph: Graph) -> Iterator[str]:
    """Logs of a sigmoid, or of one minus it, that are not finite where it rounds to 0 or 1; no σ changes them."""
    seen: set[tuple[str, int]] = set()
    for node in graph.nodes:
        frame = node.host_frame() if node.op == "log" and node.params and node.inputs else None
        if frame is None or (frame.code.co_filename, frame.line) in seen:
            continue
        chain = descend(Spot(node.inputs[0]))
        names = [step.name for step in chain.steps]
        if "sigmoid" not in names:
            continue
        ends = torch.tensor([-1e4, 1e4], dtype=torch.float64)
        at_sigmoid = _forward(chain.steps[: names.index("sigmoid") + 1], ends)
        logged = _forward(chain.steps, ends)
        worst = int(logged.argmin())
        if logged[worst] > 0:
            continue
        seen.add((frame.code.co_filename, frame.line))
        rounded, value = round(float(at_sigmoid[worst])), float(logged[worst])
        yield (
            f"{shown(frame.code.co_filename)}:{frame.line}: where the sigmoid rounds to {rounded} "
            f"({'from 17 on' if rounded else 'below −104'} in float32), this is the log of {value:.3g}, which is "
            f"{'NaN' if value < 0 else '−∞'}, and no scale changes that; fix: F.binary_cross_entropy_with_logits, or "
            "F.logsigmoid, of what goes into the sigmoid"
        )


def _forward(steps: Sequence[Step], value: torch.Tensor) -> torch.Tensor:
    for step in steps:
        value = step.forward(value)
    return value


_TAILS = {"exp": "exponential", "softplus": "softplus"}
"""What goes to zero as an exponential does."""


def _tail_in_log(node: Node) -> str:
    """Of what a log is taken that underflows, or of a ratio of two, with no floor in between; nothing if of none."""
    chains = [descend(Spot(node.inputs[0]))] if node.inputs else []
    if chains and chains[0].end == "product" and not any(_is_floor(step.name) for step in chains[0].steps):
        begin = chains[0].begin
        chains += [descend(Spot(n)) for n in begin.node.inputs if n.params]
    for chain in chains:
        names = [step.name for step in chain.steps]
        for place, name in enumerate(names):
            floored = any(map(_is_floor, names[place:]))
            if name in _TAILS and not floored and _breaks_at_zero(chain.steps, place + 1):
                return _TAILS[name]
    return ""


def _breaks_at_zero(steps: Sequence[Step], count: int) -> bool:
    """Whether what the first steps compute underflows at some raw value, and what the rest makes of it is zero, too, or
    infinite: not of a value that is clamped before, and not where an exponential follows, `exp(softplus(v) / 2)`."""
    value = _forward(steps[:count], torch.tensor([-1e4, 1e4], dtype=torch.float64))
    rest = _forward(steps[count:], value)[value < _UNDERFLOWS]
    return bool(((rest < _UNDERFLOWS) | ~rest.isfinite()).any())


_UNDERFLOWS = 1e-19
"""The square of what is less is no normal number in float32."""


def _is_floor(step: str) -> bool:
    """Whether a step may keep what follows from being zero: exp(v) + 1e-6, exp(v).clamp(min=1e-6)."""
    return step == "add" or step == "clamp"
