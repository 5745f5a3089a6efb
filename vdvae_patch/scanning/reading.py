"""What a scan reads off a graph: uses of raw values as scales, and what looked like one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vdvae_patch.composition import Step
from vdvae_patch.scanning import ops
from vdvae_patch.scanning.chain import Chain
from vdvae_patch.scanning.cuts import Cuts
from vdvae_patch.scanning.expression import Spot
from vdvae_patch.scanning.gaussian import GaussianTerm
from vdvae_patch.scanning.graph import Node
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
    """

    where: str
    reason: str
    operation: str = ""

    @classmethod
    def at(cls, node: Node, reason: str) -> NearMiss:
        """The near miss of what a node computes."""
        while node.op in ops.COPYING and node.inputs:  # autograd detaches what it keeps
            node = node.inputs[0]
        return cls(where(node), reason, "" if node.func is None else node.op)

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
