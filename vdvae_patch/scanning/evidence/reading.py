"""What a scan reads off a graph: uses of raw values as scales, and what looked like one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.cuts import Cuts
from vdvae_patch.scanning.arithmetic.expression import Spot, SpotKey
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.trace import shown

Evidence = Literal["noise", "Normal", "q", "p"]
"""`noise`: it multiplies fresh noise; `Normal`: of torch.distributions; `q`, `p`: its place in a KL or a density."""


@dataclass(frozen=True)
class Reading:
    """One raw value, read as a scale.

    Attributes:
        raw: the leaf, or the node in which several raw values are joined.
        chain: from `raw` to `node`.
        suffix: steps from the chain's end to σ.
        evidence: how it is known.
        term: the density or KL, where there is one.
        parts: the chains of a join's operands.
        used: the number of the σ that is used, where this one is merged into it.
        cuts: the part of `node` that is read.
        sums: of a density or a KL, the sums of raw values that it reads, another head's among them, by their number.
    """

    raw: Spot
    chain: Chain
    suffix: tuple[Step, ...]
    evidence: Evidence
    node: Node
    term: GaussianTerm | None = None
    parts: tuple[Chain, ...] = ()
    used: int = -1
    cuts: Cuts = ()
    sums: frozenset[int] = frozenset()

    @property
    def spot(self) -> Spot:
        """What is read as a scale, up to the suffix."""
        return Spot(self.node, self.cuts) if self.term is None else self.term.node

    @property
    def steps(self) -> tuple[Step, ...] | None:
        """From the raw value to σ; None if the expression is not a chain."""
        return None if self.chain.end == "several" else (*self.chain.steps, *self.suffix)


@dataclass(frozen=True)
class NearMiss:
    """Something that looks like a scale and was not taken.

    Attributes:
        where: `file:line`.
        reason: why not.
        operation: what is computed there, by PyTorch's name; empty for what no operation makes.
        likely: whether it may well be a head that is missed, which is said also where others are found.
    """

    where: str
    reason: str
    operation: str = ""
    likely: bool = False

    @classmethod
    def at(cls, node: Node, reason: str, *, likely: bool = False) -> NearMiss:
        """The near miss of what a node computes."""
        while node.op in ops.COPYING and node.inputs:  # autograd detaches what it keeps
            node = node.inputs[0]
        return cls(where(node), reason, "" if node.func is None else node.op, likely)

    def __str__(self) -> str:
        operation = f" ({self.operation})" if self.operation else ""
        return f"{shown(self.where)}{operation}: {self.reason}"


@dataclass
class Readings:
    """All readings of a graph."""

    found: list[Reading] = field(default_factory=list)
    near_misses: list[NearMiss] = field(default_factory=list)
    samples: set[int] = field(default_factory=set)
    """The nodes σ ε."""
    merged: set[int] = field(default_factory=set)
    """Sums of precisions or variances: no head's raw value, but leaves of a density."""
    _indexed: _Indexed | None = field(default=None, repr=False, compare=False)

    def beside(self, term: GaussianTerm, evidence: Evidence) -> list[Reading]:
        """The readings of densities and KLs that have a term's total or one of its means, in the order in which they
        were found: of a deep model's hundreds, the few that may be of one KL with it."""
        known = self._indexed
        if known is None or known.found is not self.found or known.count != len(self.found):
            known = self._indexed = _Indexed(self.found)
        return known.beside(term, evidence)


class _Indexed:
    """Readings by what their terms are of."""

    def __init__(self, found: list[Reading]) -> None:
        self.found, self.count = found, len(found)
        self._by: dict[tuple[Evidence, SpotKey | int], list[int]] = {}
        for place, reading in enumerate(found):
            for key in () if reading.term is None else _keys(reading.term):
                self._by.setdefault((reading.evidence, key), []).append(place)

    def beside(self, term: GaussianTerm, evidence: Evidence) -> list[Reading]:
        places = {place for key in _keys(term) for place in self._by.get((evidence, key), ())}
        return [self.found[place] for place in sorted(places)]


def _keys(term: GaussianTerm) -> Iterator[SpotKey | int]:
    """A term's total, by its number, and its means."""
    yield term.total.id
    for mean in term.means:
        yield mean.key


def where(node: Node) -> str:
    """`file:line` of a node, or of the nearest host code before it."""
    current: Node | None = node
    for _ in range(20):
        if current is None:
            break
        frame = current.host_frame()
        if frame is not None:
            return f"{frame.code.co_filename}:{frame.line}"
        current = current.inputs[0] if current.inputs else None
    return node.name or node.op
