"""Other readings of a hierarchical host's means: what a patch of the scales leaves open.

A prior scale with an upper bound can still be small where the two means are far apart, and `(μ_q − μ_p)² / 2 σ_p²`
explodes. Which modules emit the means, and where they are read, only a host's entry knows: `HostEntry.heads_reading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vdvae_patch.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

Means = Literal["plain", "residual", "relative"]
"""How a posterior's mean is read from its channels Δμ; Δσ is the posterior's scale of the variant.

- `plain`: μ_q = Δμ, σ_q = Δσ, as most hosts read them.
- `residual`: μ_q = μ_p + Δμ, σ_q = σ_p Δσ (NVAE, Vahdat and Kautz 2020, section 3.2); the rate holds (Δμ / σ_p)².
- `relative`: μ_q = μ_p + σ_p Δμ, σ_q = σ_p Δσ; the rate is KL(N(Δμ, Δσ) ‖ N(0, 1)), in which σ_p does not occur.

`residual` and `relative` change what the posterior's channels mean, so a model must be trained with them from its
start.
"""


@dataclass(frozen=True)
class MeanReading:
    """How the means of a pair of posterior and prior are read.

    Attributes:
        means: of the three readings above.
        limit: every mean channel m, of posterior and prior, is read as `limit · tanh(m / limit)`; None leaves it.

    Raises:
        InvalidValueError: the limit is not a positive number.
    """

    means: Means = "plain"
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise InvalidValueError(f"means are bounded by a positive limit, not by {self.limit:g}")

    def squash(self, mean: Tensor) -> Tensor:
        """The mean that a channel stands for."""
        return mean if self.limit is None else self.limit * (mean / self.limit).tanh()
