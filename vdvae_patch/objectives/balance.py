"""KL balancing: the prior is drawn to the posterior faster than the posterior to the prior."""

from __future__ import annotations

from torch import Tensor

from vdvae_patch import normal
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.objectives.objective import OBJECTIVES, Batch, Objective, at_least_zero, distortion_of
from vdvae_patch.objectives.rate import BalancedRate, by_group, total


@OBJECTIVES.register("balance")
class Balance(Objective):
    """prior · KL(sg(q) ‖ p) + posterior · KL(q ‖ sg(p)) + NLL, sg stopping the gradient (DreamerV3's are 1 and 0.1).

    Both weights 1 give the gradient of the ELBO. With others the loss is the gradient of no bound; the metric `nelbo`
    is the bound still. The rate must be a `BalancedRate`, see `balanced_kl`.
    """

    def __init__(self, prior: float = 1.0, posterior: float = 0.1) -> None:
        super().__init__()
        self.prior = at_least_zero(self._who, "prior", prior)
        self.posterior = at_least_zero(self._who, "posterior", posterior)

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rate = batch.given
        if not isinstance(rate, BalancedRate):
            raise InvalidValueError(
                f"{self._who} weighs the KL's two gradients apart and needs it twice: "
                "rate=BalancedRate(prior=KL(sg(q), p), "
                "posterior=KL(q, sg(p))), for Normals balanced_kl(mean_q, log_sigma_q, mean_p, log_sigma_p)"
            )
        prior, posterior = total(by_group(rate.prior)), total(by_group(rate.posterior))
        return (self.prior * prior + self.posterior * posterior + distortion_of(batch)).mean(), {}


def balanced_kl(
    mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor | None = None, log_sigma_p: Tensor | None = None
) -> BalancedRate:
    """KL(N(mean_q, σ_q) ‖ N(mean_p, σ_p)) in nats an image, `[B, ...]` to `[B]`, each gradient apart.

    Raises:
        InvalidValueError: half a p.
    """

    def kl(mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor | None, log_sigma_p: Tensor | None) -> Tensor:
        return normal.kl_divergence(mean_q, log_sigma_q, mean_p, log_sigma_p).flatten(1).sum(dim=1)

    stopped_p = [None if value is None else value.detach() for value in (mean_p, log_sigma_p)]
    return BalancedRate(
        prior=kl(mean_q.detach(), log_sigma_q.detach(), mean_p, log_sigma_p),
        posterior=kl(mean_q, log_sigma_q, *stopped_p),
    )
