"""Look at a patched model once more: is the σ that it really uses the one that was promised?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.outcome import Outcome
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.agreement import FAR_AGREE, LEAST_SIGMA
from vdvae_patch.scanning.evidence.bystanders import (
    Steps,
    is_scale,
    require_only_sigma,
    require_steps_apart,
    steps_apart,
)
from vdvae_patch.scanning.evidence.emission import emission_of
from vdvae_patch.scanning.evidence.interpolated import given_to_scale
from vdvae_patch.scanning.evidence.positions import Placed, placed, strays
from vdvae_patch.scanning.evidence.reading import Reading, where
from vdvae_patch.scanning.evidence.weighed import weight_of
from vdvae_patch.scanning.heads.grouping import INTERPOLATED
from vdvae_patch.scanning.readings import read
from vdvae_patch.scanning.watching.recording import recorded

_FAR = torch.tensor([-15.0, -12.0, -8.0, 8.0, 12.0], dtype=torch.float64)  # past the floors and clamps of most hosts
_GRID = torch.cat([torch.linspace(-4, 4, 33, dtype=torch.float64), _FAR])


class Patched(Protocol):
    """A head with its scale."""

    @property
    def head(self) -> Head: ...
    @property
    def scale(self) -> Scale | None: ...


HeadKey = tuple[str, int, int | None, int]
"""Path, and start, stop and step of the channels; the dimension may be counted from either end."""


def head_key(path: str, channels: ChannelRange) -> HeadKey:
    return path, channels.start, channels.stop, channels.step


def residual_curves(graph: Graph, found: Iterable[Reading], keys: frozenset[HeadKey]) -> dict[HeadKey, list[Tensor]]:
    """σ of residual heads over a grid of their own raw values: what they must still compute if they are left as they
    are while the head that they are residual to is patched."""
    curves: dict[HeadKey, list[Tensor]] = {}
    for reading in found:
        for key, leaf, expression in _sources(graph, reading):
            if key in keys and _learned(expression) > 1:
                curves.setdefault(key, []).append(_sigma(leaf, expression, reading, _GRID, 0.5)[0])
    return curves


def places_of(graph: Graph, found: Iterable[Reading]) -> dict[HeadKey, list[Placed]]:
    """Where the elements of each raw value are in the σ that are computed of it."""
    places: dict[HeadKey, list[Placed]] = {}
    for reading in found:
        for key, leaf, _ in _sources(graph, reading):
            place = placed(graph, reading, leaf)
            known = places.setdefault(key, [])
            if place is not None and not any(p[:2] == place[:2] and p.agrees(place) for p in known):
                known.append(place)
    return places


def rest_of(graph: Graph, found: Iterable[Reading]) -> Steps:
    """What is computed apart from every raw value; see `bystanders.steps_apart`."""
    return steps_apart(graph, [leaf for reading in found for _, leaf, _ in _sources(graph, reading)])


def _learned(expression: Expression) -> int:
    return sum(spot.node.params for spot in expression.leaves.values())


def check_sigma(
    model: nn.Module,
    inputs: tuple[Any, ...],
    call: Callable[..., Any] | None,
    patched: Iterable[Patched],
    residual: Mapping[HeadKey, list[Tensor]],
    before: Mapping[HeadKey, list[Placed]],
    rest: Steps,
) -> Outcome:
    """Run the patched model and compare every σ that it uses, as a function of the raw parameter, with scale(p); gives
    the outcome of the run.

    Args:
        residual: see `residual_curves`.
        before: see `places_of`; of the host as it was scanned.
        rest: see `rest_of`; likewise.

    Raises:
        PatchError: one differs by more than rounding, or leaves the codomain; names head, expected and seen. Or a
            residual head that is left as it is computes another σ than before. Or a mean, or whatever is no σ, goes
            through a scale, too. Or an element of σ is computed of another element of the raw value than before. Or a
            step that has nothing to do with a raw value is gone.
    """
    graph = recorded(model, inputs, call)
    seen: dict[HeadKey, list[tuple[Spot, Expression, Reading]]] = {}
    found = read(graph).found
    for reading in found:
        for key, leaf, expression in _sources(graph, reading):
            seen.setdefault(key, []).append((leaf, expression, reading))
    require_only_sigma(graph, [leaf for places in seen.values() for leaf, _, _ in places])
    patched = list(patched)
    if any(entry.head.sites for entry in patched):
        require_steps_apart(rest, rest_of(graph, found))
    constants = [float(e.scale.sigma(torch.zeros(()))) for e in patched if e.scale and e.scale.name == "constant"]
    for entry in patched:
        head = entry.head
        if entry.scale is None:
            key = head_key(head.path, head.channel_range)
            _check_left_alone(head, seen.get(key, []), residual.get(key, []))
        if entry.scale is None or entry.scale.name == "constant":
            continue
        keys = _keys_of(head, seen)
        places = [p for key in keys for p in seen[key] if _is_call_of(head, p[0], p[1])]
        if not places:
            raise PatchError(
                f"head {head}: after patching, its σ is not seen any more; it cannot be verified. If the host reads "
                "its raw value in one place through the σ that was replaced, and in another as it is, let it compute "
                "σ once, and the rest of that"
            )
        if all(reading.term is None for _, _, reading in places):
            shown = [place for key in _keys_of(head, before) for place in before[key]]
            _require_compared(graph, head, shown, found, {leaf.key for leaf, _, _ in places})
        # a scale that is computed of this value alone must follow; of several (merged by precision) one sight is enough
        alone = [place for place in places if sum(s.node.params for s in place[1].leaves.values()) == 1]
        if any(_is_merged(head, entry.scale, constants, *place) for place in alone):
            alone = []  # with a constant, as with another head
        wrong = [
            place
            for place in alone or places
            if not any(_follows(head, entry.scale, constants, *sight) for sight in (place, *_behind(graph, *place)))
        ]
        own_laws = head.found is not None and head.found.two_laws  # one of which has the scale
        if wrong and ((alone and not own_laws) or len(wrong) == len(places)):
            _complain(head, entry.scale, *wrong[0])
        for own, (leaf, _, reading) in [(key, place) for key in keys for place in seen[key] if place in places]:
            place = placed(graph, reading, leaf)
            if place is not None and strays(before.get(own, []), place):
                raise PatchError(
                    f"head {head}: the patched model computes the elements of σ of other elements of the raw "
                    "value than the host does; the patch was taken back"
                )
    return graph.outcome


def _require_compared(
    graph: Graph, head: Head, before: Iterable[Placed], after: Iterable[Reading], raw: set[SpotKey]
) -> None:
    """Refuse a patch after which no density and no KL is known to have the σ, and the raw value itself is read where
    one was: in a place that was not replaced, so that what is left is no Normal's.

    Args:
        after: of all heads: levels that one KL reads as one tensor are shown by one of them.
    """
    shown = {place.line for place in before if place.line}
    if not shown or shown & {where(reading.term.total) for reading in after if reading.term is not None}:
        return
    # a raw value may be a mean or a sum, which an expression goes through
    stops = frozenset(node.id for node in graph.nodes if is_scale(node)) | {number for number, _ in raw}
    read_bare = any(
        raw & Expression(Spot(node), stops, through_sums=True).leaves.keys()
        for node in graph.nodes
        if node.kind == "elementwise" and node.params and not is_scale(node) and where(node) in shown
    )
    if read_bare:
        raise PatchError(
            f"head {head}: the density or the KL that the host computed of its σ is none of the new one, since the raw "
            "value is also read where it could not be replaced; the patch was taken back"
        )


_MOST_BEHIND = 4


def _behind(
    graph: Graph, leaf: Spot, expression: Expression, reading: Reading
) -> Iterator[tuple[Spot, Expression, Reading]]:
    """Sights of the same σ a few operations further on.

    A σ that is known from a density is the first value that fits where it was tried. Of exp(min(p, 0)) + max(p, 0) that
    is the exponential, if only values below 0 were tried, as for a scale with a shift; σ itself is the sum behind it.
    """
    if reading.term is None:
        return
    todo = [(user, 1) for user in graph.consumers.get(reading.spot.node.id, ())]
    while todo:
        node, distance = todo.pop(0)
        if node.kind != "elementwise" or distance > _MOST_BEHIND:
            continue
        further = Expression(Spot(node, reading.spot.cuts))
        if leaf.key in further.leaves:
            yield leaf, further, reading
        todo.extend((user, distance + 1) for user in graph.consumers.get(node.id, ()))


def _keys_of(head: Head, keys: Iterable[HeadKey]) -> list[HeadKey]:
    """Under what a head's σ are seen: its channels, and parts of them that the host reads apart."""
    own = head_key(head.path, head.channel_range)
    return [key for key in keys if key == own or (key[0] == head.path and _is_part(key, own))]


def _is_part(key: HeadKey, whole: HeadKey) -> bool:
    _, start, stop, step = whole
    if stop is None:
        return (start, step) == (0, 1)
    _, first, last, each = key
    return last is not None and set(range(first, last, each)) <= set(range(start, stop, step))


def _check_left_alone(head: Head, places: list[tuple[Spot, Expression, Reading]], before: list[Tensor]) -> None:
    for leaf, expression, reading in places:
        if not before or _learned(expression) < 2:
            continue
        after, _ = _sigma(leaf, expression, reading, _GRID, 0.5)
        if not any(torch.allclose(after, curve, rtol=1e-4, atol=1e-7) for curve in before):
            raise PatchError(
                f"head {head} is left as it is, but the host computes its σ from that of a head that is patched, so "
                "it would change with it; give it a scale, too. The patch was taken back"
            )


def _is_call_of(head: Head, leaf: Spot, expression: Expression) -> bool:
    """Whether a raw value comes from one of the head's own calls, where its module is called for another role, too; or
    is a part of one of its sums."""
    sites = [site for site in head.sites if getattr(site, "channels", None) is not None and not head.parameter]
    if not sites:
        return True
    ways = [{frame.span for frame in node.frames} for node in (leaf.node, *(s.node for s in expression.order))]
    return any({site.last, *(step.span for step in site.calls)} <= spans for site in sites for spans in ways)


def _sources(graph: Graph, reading: Reading) -> Iterable[tuple[HeadKey, Spot, Expression]]:
    expression = Expression(reading.spot)
    for leaf in expression.leaves.values():
        if leaf.node.params:
            emission = emission_of(graph, leaf)
            yield head_key(emission.path, emission.channels), leaf, expression


def _sigma(
    leaf: Spot, expression: Expression, reading: Reading, p: Tensor, other: float = 0.0
) -> tuple[Tensor, Tensor]:
    """σ at a raw parameter of p (masks as they are, `other` for what is added to it), and that p."""
    others = {
        key: torch.tensor(other if spot.node.params else spot.node.value, dtype=torch.float64)
        for key, spot in expression.leaves.items()
    }
    value = expression.value({**others, leaf.key: p})
    for step in reading.suffix:
        value = step.forward(value)
    return value.expand_as(p), p


def _follows(
    head: Head, scale: Scale, constants: list[float], leaf: Spot, expression: Expression, reading: Reading
) -> bool:
    seen, p = _sigma(leaf, expression, reading, _GRID)
    expected = scale.sigma(_given(head, leaf, expression, p))
    if torch.allclose(seen, expected, rtol=FAR_AGREE, atol=LEAST_SIGMA):
        return True
    if _is_merged(head, scale, constants, leaf, expression, reading):
        return True
    ratio = seen / expected  # a temperature, the other factors of a product, or a number of each row
    factor = 1.0 if head.found is None else head.found.factor
    if factor != 1.0:  # what is drawn is the scale, and the density or the KL has the host's factor of it
        return reading.evidence != "noise" and torch.allclose(ratio, torch.full_like(ratio, factor), rtol=1e-4)
    multiple = reading.evidence == "noise" or reading.chain.end == "product" or weight_of(reading) is not None
    return multiple and torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)


def _is_merged(
    head: Head, scale: Scale, constants: list[float], leaf: Spot, expression: Expression, reading: Reading
) -> bool:
    """Whether a head that was merged with another one, by precision or variance, is so still where the other has become
    a constant; up to a floor that the host adds to the variance behind, before it takes its log."""
    seen, p = _sigma(leaf, expression, reading, _GRID)
    expected = scale.sigma(_given(head, leaf, expression, p))
    for merged in ((expected**power + c**power) ** (1 / power) for c in constants for power in (-2, 2)):
        floor = float((seen**2 - merged**2).median())
        # without one, too: a median of 1e-8 is rounding beside a σ of 1, and 1% of the variance of one of 0.001
        for added in (0.0, *([floor] if 0 < floor < _MOST_FLOOR else [])):
            if torch.allclose(seen, (merged**2 + added).sqrt(), rtol=FAR_AGREE, atol=LEAST_SIGMA):
                return True
    return False


_MOST_FLOOR = 1e-5
"""Of a variance: an eps, as in `torch.log(variance + 1e-8)`."""


def _given(head: Head, leaf: Spot, expression: Expression, p: Tensor) -> Tensor:
    """What the scale is of at a raw value: itself, or the log σ that the host computes of it, where that stands for it
    (`interpolated.py`)."""
    if head.found is None or not head.found.reason.startswith(INTERPOLATED):
        return p
    others = {
        key: torch.tensor(0.0 if spot.node.params else spot.node.value, dtype=torch.float64)
        for key, spot in expression.leaves.items()
    }
    given = given_to_scale(expression, expression.evaluate({**others, leaf.key: p}))
    return p if given is None else given.expand_as(p)


def _complain(head: Head, scale: Scale, leaf: Spot, expression: Expression, reading: Reading) -> None:
    seen, p = _sigma(leaf, expression, reading, _GRID)
    expected = scale.sigma(_given(head, leaf, expression, p))
    worst = int((seen - expected).abs().nan_to_num(nan=torch.inf).argmax())
    raise PatchError(
        f"head {head}: at p = {float(p[worst]):g} the host uses σ = {float(seen[worst]):g}, not {scale}(p) = "
        f"{float(expected[worst]):g}; the patch was taken back"
    )
