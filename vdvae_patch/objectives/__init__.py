"""Objectives: what is minimized, from the rate, the distortion and, if one asks for it, the reconstruction.

    objective = objectives.get("geco(kappa=0.06)", pixels=PixelGrid(0, 1))
    result = objective(rate, distortion, reconstruction=decoder.mean(parameters), target=x)
    result.loss.backward()
    ...
    objective.step(skipped=False)  # once an update; a skipped one leaves the state alone

Rate is [B] in nats an image, or `{group: [B]}`, or a `BalancedRate`; distortion is [B] in nats an image; the loss is
the mean over the batch, in nats an image.

| name | loss |
|---|---|
| `elbo` | KL + NLL |
| `beta(beta=4)` | β KL + NLL |
| `warmup(epochs=100)` | β KL + NLL, β from 0 to 1 in that time |
| `freebits(nats=...)` | Σ max(KL of a group, nats) + NLL |
| `balance(prior=1, posterior=0.1)` | KL with other weights for its two gradients, + NLL |
| `geco(kappa=0.06)` | KL + Σ λ C, the λ moving until C is met |

State lies in buffers, and so in the checkpoint. It moves in training alone, by `step`, and is the same on all ranks.

`marginal_kl` measures how far the aggregate posterior is from the prior; `implied_elbo` says which bound a loss
optimizes.
"""

from __future__ import annotations

from vdvae_patch.objectives.balance import Balance, balanced_kl
from vdvae_patch.objectives.constraints import (
    Classification,
    Constraint,
    FeatureError,
    LocalStatistics,
    Patches,
    ReconstructionError,
)
from vdvae_patch.objectives.freebits import FreeBits
from vdvae_patch.objectives.geco import ConstraintWarning, Geco
from vdvae_patch.objectives.implied import ImpliedElbo, Reconstruction, implied_elbo
from vdvae_patch.objectives.marginal import GaussianPosterior, MarginalKL, marginal_kl
from vdvae_patch.objectives.objective import OBJECTIVES, Objective, Result, get
from vdvae_patch.objectives.rate import BalancedRate
from vdvae_patch.objectives.weights import Beta, Elbo, Warmup

__all__ = [
    "OBJECTIVES",
    "Balance",
    "BalancedRate",
    "Beta",
    "Classification",
    "Constraint",
    "ConstraintWarning",
    "Elbo",
    "FeatureError",
    "FreeBits",
    "GaussianPosterior",
    "Geco",
    "ImpliedElbo",
    "LocalStatistics",
    "MarginalKL",
    "Objective",
    "Patches",
    "Reconstruction",
    "ReconstructionError",
    "Result",
    "Warmup",
    "balanced_kl",
    "get",
    "implied_elbo",
    "marginal_kl",
]
