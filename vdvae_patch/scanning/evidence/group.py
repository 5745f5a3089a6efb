"""The readings that are one head: those of one raw value that one module emits, in one role."""

from __future__ import annotations

from dataclasses import dataclass

from vdvae_patch.composition import Step
from vdvae_patch.heads import ChannelRange, Role
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.evidence.emission import Emission
from vdvae_patch.scanning.evidence.reading import Reading

EmissionKey = tuple[str, ChannelRange]
"""The path of a module or parameter, and the channels of its output."""

Groups = dict[tuple[EmissionKey, Role], "Group"]


@dataclass
class Group:
    """The readings of one emitted raw value in one role.

    Attributes:
        emission: which module emits the raw value, and in which channels.
        role: posterior, prior or likelihood.
        readings: every use of the raw value as a scale, in this role.
        spot: the raw value in the graph; of several calls, the first one's.
        sure: whether a density or a KL says the role.
        steps: of a factor of a product of scales, σ = exp(a) exp(b): from its raw value to the factor.
        factors: whether each factor of such a product is a head.
    """

    emission: Emission
    role: Role
    readings: list[Reading]
    spot: Spot
    sure: bool
    steps: tuple[Step, ...] | None = None
    factors: bool = True

    @property
    def key(self) -> EmissionKey:
        """Equal for groups of the same channels of one module, whatever their roles."""
        return self.emission.path, self.emission.channels

    @property
    def shown(self) -> bool:
        """Whether a density or a KL has it, and not only a sampler."""
        return any(reading.term is not None for reading in self.readings)
