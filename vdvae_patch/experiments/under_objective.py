"""A model under a decoder and an objective, as an ensemble trains it: a forward that returns scalars.

The states (a running error, GECO's multiplier) are buffers, which the ensemble stacks. They move in the forward pass,
and `moved_by_updates` names them: where an update is skipped, the ensemble puts them back.
"""

from __future__ import annotations

from torch import Tensor, nn

from vdvae_patch.hosts.host import Host
from vdvae_patch.objectives import Geco
from vdvae_patch.patching import Variant
from vdvae_patch.patching.decoder import likelihood_in
from vdvae_patch.train.weighing import Pass, Weighing


class UnderObjective(nn.Module):
    """`elbo`, `distortion` and `rate` of the bound with β = 1, and `objective`, in nats per dimension."""

    def __init__(self, model: nn.Module, weighing: Weighing) -> None:
        super().__init__()
        self.weighing = weighing
        self.run: Pass = weighing.module(model)
        self.objective = weighing.objective
        if isinstance(self.objective, Geco):
            self.objective.patience = 2**62  # its warning would look at values, which a batched run has none of
        states = ("objective.", "mean_squared_error", "updates")
        self.moved_by_updates = tuple(
            name for name, _ in self.named_buffers() if name.startswith(states[0]) or name.endswith(states[1:])
        )

    @classmethod
    def of(cls, variant: Variant, host: Host, model: nn.Module) -> nn.Module:
        """The model itself where a variant names neither decoder nor objective; the decoder is in it already."""
        weighing = Weighing.of(variant, host, model, next(model.parameters()).device)
        return model if weighing is None else cls(model, weighing)

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Scalars of a batch."""
        loss, losses, _ = self.weighing.weigh(self.run(x, target))
        likelihood = likelihood_in(self.run)
        if likelihood is not None:
            likelihood.decoder.step()
        self.objective.step()
        return {**losses._asdict(), "objective": loss}
