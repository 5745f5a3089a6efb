"""The stages at which rules are applied, and what a rule of each stage is given and gives back.

In the order of the scan:

    noise_uses   a value that multiplies fresh noise: may it be a scale at all?
    chains       the way back from a scale to its raw value: does it end in something that a network emits?
    merges       a scale in which several are merged: which are they?
    terms        a density or a KL: is it one of a Normal that a network parametrizes?
    drops        all readings together: which are no heads, seen beside the others?
    groupings    all readings of each emitted value: which are one head?

Within a stage the order of the rules makes no difference, except where a rule says that it comes `after` others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.group import Groups
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading, Readings

R = TypeVar("R", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule(Generic[R]):
    """A rule and the names of the rules of its stage whose results it needs."""

    apply: R
    after: tuple[str, ...]


class Stage(Generic[R]):
    """The rules that are applied at one place of the scan; iterate over it to get them in order.

    Attributes:
        rules: by name, which is that of the function and of its file.
    """

    def __init__(self) -> None:
        self.rules: dict[str, Rule[R]] = {}

    def rule(self, *, after: Sequence[str] = ()) -> Callable[[R], R]:
        """Register a function as a rule.

        Args:
            after: names of the rules that must have been applied before; say why at the place.
        """

        def add(apply: R) -> R:
            self.rules[apply.__name__] = Rule(apply, tuple(after))
            return apply

        return add

    def __iter__(self) -> Iterator[R]:
        order = {name: [a for a in self.rules[name].after if a in self.rules] for name in sorted(self.rules)}
        for name in TopologicalSorter(order).static_order():
            yield self.rules[name].apply


class NoiseUseRule(Protocol):
    """Refuses a value that multiplies noise.

    Args:
        value: what would be the scale.
        noise: the draw; None where the host draws and scales in one, as `torch.normal(mean, std)` does.

    Returns:
        Why it is no scale; None if the rule has nothing against it.
    """

    def __call__(self, value: Node, noise: Node | None, /) -> str | None: ...


class ChainRule(Protocol):
    """Refuses a chain by where it begins.

    Args:
        chain: from where the value begins that would be raw, to the scale.
        readings: what is known so far; its `samples` are complete.

    Returns:
        Why it begins in no raw value; None if the rule has nothing against it.
    """

    def __call__(self, chain: Chain, readings: Readings, /) -> str | None: ...


class Merged(NamedTuple):
    """The scales that are merged into one, and the steps from each to a σ of its own."""

    scales: list[Spot]
    suffix: tuple[Step, ...]


class MergeRule(Protocol):
    """Takes a scale apart in which several are merged.

    Args:
        chain: from the node in which they are merged, to the scale.
        suffix: steps from there to σ.

    Returns:
        The parts; None if the scale is not of the kind that the rule knows.
    """

    def __call__(self, chain: Chain, suffix: tuple[Step, ...], /) -> Merged | None: ...


class TermRule(Protocol):
    """Refuses a term of a density or a KL.

    Args:
        graph: the whole pass.
        term: which value would be the raw one, and what else the term reads.
        readings: what is known so far; those of samplers and `Normal`s are complete.

    Returns:
        Why it is not a Normal's that a network parametrizes; None if the rule has nothing against it.
    """

    def __call__(self, graph: Graph, term: GaussianTerm, readings: Readings, /) -> str | None: ...


class DropRule(Protocol):
    """Drops readings that are no heads, seen beside all the others.

    Args:
        graph: the whole pass.
        found: the readings that the rules before have left.

    Yields:
        Each reading to drop, and the near miss that says where it is and why.
    """

    def __call__(self, graph: Graph, found: Sequence[Reading], /) -> Iterator[tuple[Reading, NearMiss]]: ...


class GroupRule(Protocol):
    """Joins or removes groups of readings, each of which becomes a head; it changes the groups that it is given."""

    def __call__(self, groups: Groups, /) -> None: ...


noise_uses: Stage[NoiseUseRule] = Stage()
chains: Stage[ChainRule] = Stage()
merges: Stage[MergeRule] = Stage()
terms: Stage[TermRule] = Stage()
drops: Stage[DropRule] = Stage()
groupings: Stage[GroupRule] = Stage()

STAGES: tuple[Stage[Any], ...] = (noise_uses, chains, merges, terms, drops, groupings)
