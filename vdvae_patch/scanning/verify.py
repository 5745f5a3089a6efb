"""Look at a patched model once more: is the σ that it really uses the one that was promised?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.emission import emission_of
from vdvae_patch.scanning.graph import Graph
from vdvae_patch.scanning.readings import Reading, read
from vdvae_patch.scanning.replay import Expression, Spot
from vdvae_patch.scanning.watch import watch

_FAR = torch.tensor([-15.0, -12.0, -8.0, 8.0, 12.0], dtype=torch.float64)  # past the floors and clamps of most hosts
_GRID = torch.cat([torch.linspace(-4, 4, 33, dtype=torch.float64), _FAR])


class Patched(Protocol):
    """A head with its scale."""

    @property
    def head(self) -> Head: ...
    @property
    def scale(self) -> Scale | None: ...


def check_sigma(
    model: nn.Module, inputs: tuple[Any, ...], call: Callable[..., Any] | None, patched: Iterable[Patched]
) -> None:
    """Run the patched model and compare every σ that it uses, as a function of the raw parameter, with scale(p).

    Raises:
        PatchError: one differs by more than rounding, or leaves the codomain; names head, expected and seen.
    """
    graph = watch(model, inputs, call)
    seen: dict[tuple[str, int, int | None], list[tuple[Spot, Expression, Reading]]] = {}
    for reading in read(graph).found:
        for key, leaf, expression in _sources(graph, reading):
            seen.setdefault(key, []).append((leaf, expression, reading))
    for entry in patched:
        if entry.scale is None or entry.scale.name == "constant":
            continue
        head = entry.head
        places = seen.get((head.path, head.start, head.stop), [])
        if not places:
            raise PatchError(f"head {head}: after patching, its σ is not seen any more; it cannot be verified")
        # a scale that is computed of this value alone must follow; of several (merged by precision) one sight is enough
        alone = [place for place in places if sum(s.node.params for s in place[1].leaves.values()) == 1]
        wrong = [place for place in alone or places if not _follows(head, entry.scale, *place)]
        if wrong and (alone or len(wrong) == len(places)):
            _complain(head, entry.scale, *wrong[0])


def _sources(graph: Graph, reading: Reading) -> Iterable[tuple[tuple[str, int, int | None], Spot, Expression]]:
    node = reading.term.node if reading.term is not None else Spot(reading.node)
    expression = Expression(node)
    for leaf in expression.leaves.values():
        if leaf.node.params:
            emission = emission_of(graph, leaf, ())
            yield (emission.path, emission.start, emission.stop), leaf, expression


def _sigma(leaf: Spot, expression: Expression, reading: Reading, p: Tensor) -> tuple[Tensor, Tensor]:
    """σ at a raw parameter of p (masks as they are, zero for what is added to it), and that p."""
    others = {
        key: torch.tensor(0.0 if spot.node.params else spot.node.value, dtype=torch.float64)
        for key, spot in expression.leaves.items()
    }
    value = expression.value({**others, leaf.key: p})
    for step in reading.suffix:
        value = step.forward(value)
    return value.expand_as(p), p


def _follows(head: Head, scale: Scale, leaf: Spot, expression: Expression, reading: Reading) -> bool:
    seen, p = _sigma(leaf, expression, reading, _GRID)
    expected = scale.sigma(p)
    if torch.allclose(seen, expected, rtol=1e-4, atol=1e-7):
        return True
    ratio = seen / expected  # a temperature
    return reading.evidence == "noise" and torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)


def _complain(head: Head, scale: Scale, leaf: Spot, expression: Expression, reading: Reading) -> None:
    seen, p = _sigma(leaf, expression, reading, _GRID)
    expected = scale.sigma(p)
    worst = int((seen - expected).abs().nan_to_num(nan=torch.inf).argmax())
    raise PatchError(
        f"head {head}: at p = {float(p[worst]):g} the host uses σ = {float(seen[worst]):g}, not {scale}(p) = "
        f"{float(expected[worst]):g}; the patch was taken back"
    )
