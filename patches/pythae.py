"""pythae: VAE, beta-VAE, VAMP, IWAE, HVAE and the others whose encoder emits `log_covariance`.

pythae's own encoders emit it by a layer `log_var`; the models read it as a log variance, HVAE as a softplus. A user's
own encoder may have any other layer: its heads are found by a scan.

That layer's output is patched, for the model and for all who read the encoder: samplers, `get_nll`. VAE and beta-VAE,
with an encoder of pythae's and unchanged, are patched at the encoder's output, and get a `forward` with the stable KL:
the host's expression 1 + log σ² − μ² − σ² cancels where σ is nearly 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError
from vdvae_patch.heads import Head
from vdvae_patch.hosts.entry import Example, HostEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vdvae_patch.seams import TopPriorSeam

_SOFTPLUS = frozenset({"HVAE"})
_WITHOUT = frozenset({"AE", "RAE_L2", "RAE_GP", "WAE_MMD", "VQVAE", "SVAE", "PoincareVAE", "Adversarial_AE"})


class Pythae(HostEntry):
    """The Gaussian models of pythae; hyperparameters are `model` and the arguments of its configuration."""

    name = "pythae"
    modules = ("pythae.models",)
    installed = True
    no_decoder = (
        "its models form reconstruction and KL in one method, each in its own way; vdvae_patch.scan says "
        "which bound that is, and decoder.nll(x, model.decoder(z).reconstruction) can take its place in a "
        "loss of yours"
    )
    no_top_prior = (
        "only pythae's VAE and beta-VAE do, with the loss and get_nll that it gives them; the others form the KL in "
        "ways of their own, some to priors of their own (its VAMP); in a loss of yours "
        "top_priors.get(...).kl(z, mean, log_sigma, encode) of vdvae_patch can take its place"
    )

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """The model of that name (`VAE` unless given), with pythae's own networks."""
        arguments = dict(hparams)
        name = arguments.pop("model", "VAE")
        models = modules["pythae.models"]
        cls, config = getattr(models, name, None), getattr(models, f"{name}Config", None)
        config = config or getattr(models, f"{name}_Config", None)
        if cls is None or config is None:
            raise HostError(f"pythae has no model {name!r}; give a name such as VAE, BetaVAE, VAMP or HVAE")
        model: nn.Module = cls(config(**arguments))
        return model

    def example(self, modules: Mapping[str, ModuleType]) -> Example:
        """The plain `VAE` with pythae's own networks on images of 28x28, 16 latents."""
        import torch

        model = self.build(modules, {"input_dim": (1, 28, 28), "latent_dim": 16})
        return Example(model, (torch.rand(64, 1, 28, 28),), _loss)

    def heads(self, model: nn.Module) -> list[Head]:
        """One: the posterior's, which is also VAMP's prior."""
        name = type(model).__name__
        if name in _WITHOUT:
            raise HostError(f"pythae's {name} has no Normal head of this form; find its heads with scan")
        if "encoder.log_var" not in dict(model.named_modules()):
            raise HostError(f"the encoder of this {name} has no layer log_var; find its heads with scan")
        from vdvae_patch.conventions import get

        from . import _pythae_vae

        convention = "softplus" if name in _SOFTPLUS else "log_variance"
        calls = _pythae_vae.call_sites(model)
        return [Head("encoder.log_var", "posterior", convention=get(convention), calls=calls)]

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """Of VAE and beta-VAE, whose encoder may be a user's: `loss_function` and `get_nll` read the prior.

        Raises:
            HostError: another model, or one with a loss of its own; or nobody said which shape an image has.
        """
        from . import _pythae_vae

        return _pythae_vae.top_prior_seam(model) or super().top_prior_seam(model)


def _loss(model: Any, x: Tensor) -> Tensor:
    loss: Tensor = model({"data": x}).loss
    return loss


HOST = Pythae()
