"""Top priors: p(z) of the latent that nothing stands above, in the place of N(0, 1).

    prior = top_priors.get("vamp(components=500)", images=(1, 28, 28))
    rate = prior.kl(z, mean, log_sigma, model.encode)  # nats an image, [B]
    z = prior.sample(16, model.encode)

`encode` takes images `[K, *images]` in [0, 1] to the mean and the log sigma of the posterior of that latent, both
`[K, *latents]`: a `vamp` calls it on its pseudo-inputs. What is evaluated several times within one step is computed
once, by `prior.at(encode)`.

| name | p(z) |
|---|---|
| `standard` | N(0, 1) |
| `mixture(components=10, scale=exp)` | Σₖ wₖ N(μₖ, σₖ), all learned |
| `vamp(components=500, from_data=0)` | 1/K Σₖ q(z given uₖ), the pseudo-inputs uₖ learned |

Parameters are of the prior alone: it holds no encoder, so that whatever a patch does to the encoder's scales holds for
the pseudo-inputs' posteriors, too.

Source: "VAE with a VampPrior" (Tomczak and Welling, https://arxiv.org/abs/1705.07120).
"""

from __future__ import annotations

from vdvae_patch.top_priors.density import Density, NormalMixture, UnitNormal
from vdvae_patch.top_priors.mixture import Mixture
from vdvae_patch.top_priors.prior import TOP_PRIORS, Encode, TopPrior, get
from vdvae_patch.top_priors.standard import Standard
from vdvae_patch.top_priors.vamp import Vamp, reflect

__all__ = [
    "TOP_PRIORS",
    "Density",
    "Encode",
    "Mixture",
    "NormalMixture",
    "Standard",
    "TopPrior",
    "UnitNormal",
    "Vamp",
    "get",
    "reflect",
]
