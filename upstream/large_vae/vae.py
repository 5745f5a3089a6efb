"""A VAE and a two-level VAE for flat images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 256


class GatedDense(nn.Module):
    """A linear layer, each of whose outputs is multiplied by a sigmoid of another linear layer's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.sigmoid(self.gate(x))


class NormalHead(nn.Module):
    """Mean and log variance of a Normal, from two linear layers."""

    def __init__(self, inputs: int, latents: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, latents)
        self.log_var = nn.Linear(inputs, latents)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(h), self.log_var(h)


class PseudoInputs(nn.Module):
    """The VampPrior's images, `[components, pixels]`: free numbers cut to [0, 1]."""

    def __init__(self, components: int, pixels: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(0.05 + 0.01 * torch.randn(components, pixels))

    def forward(self) -> Tensor:
        return F.hardtanh(self.raw, 0.0, 1.0)


class LargeVAE(nn.Module):
    """What both models share: the likelihood, the prior of the top latent, and the loss.

    Args:
        size: rows and columns of an image, which comes as `[B, rows * columns]`.
        likelihood: `bernoulli` for images of 0 and 1, `logistic` for 256 grey levels.
        prior: `standard` or `vamp`.
        components: pseudo-inputs of the VampPrior.
    """

    def __init__(
        self,
        size: Sequence[int] = (28, 28),
        hidden: int = 300,
        latents: int = 40,
        likelihood: str = "bernoulli",
        prior: str = "standard",
        components: int = 500,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "logistic") or prior not in ("standard", "vamp"):
            raise ValueError(
                f"likelihood {likelihood!r} must be bernoulli or logistic, prior {prior!r} standard or vamp"
            )
        self.size, self.latents, self.likelihood = tuple(size), latents, likelihood
        self.pixels = math.prod(size)
        self.pseudo_inputs = PseudoInputs(components, self.pixels) if prior == "vamp" else None
        self.output = nn.Linear(hidden, self.pixels if likelihood == "bernoulli" else 2 * self.pixels)

    def initialize(self) -> None:
        """Weights from N(0, 2 / inputs), for the layers that are there."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The negative ELBO and its two parts; nats an image, averaged over the batch."""
        latents, rates = self.infer(x)
        distortion = self.distortion(x, self.emit(latents)).mean()
        rate = torch.stack(list(rates.values())).sum(dim=0).mean()
        return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the top latent's posterior, both `[B, latents]`."""
        raise NotImplementedError

    def infer(self, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Draws of the latents, the top one first, and log q − log p of each, nats an image, `[B]`."""
        raise NotImplementedError

    def generate(self, n: int, temperature: float = 1.0, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """Latents from the prior, the top one first; the first ones may be given."""
        raise NotImplementedError

    def emit(self, latents: Sequence[Tensor]) -> Tensor:
        """The likelihood's parameters: a logit for each pixel; for grey levels then a raw log scale for each, too."""
        raise NotImplementedError

    def log_prior(self, z: Tensor) -> Tensor:
        """log p of the top latent, nats an image, `[B]`."""
        if self.pseudo_inputs is None:
            return log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(dim=1)
        return log_mixture(z, *self.encode(self.pseudo_inputs()))

    def draw_prior(self, n: int, temperature: float = 1.0) -> Tensor:
        """The top latent from its prior, `[n, latents]`."""
        if self.pseudo_inputs is None:
            mean = log_var = torch.zeros(n, self.latents, device=self.output.weight.device)
        else:
            chosen = torch.randint(len(self.pseudo_inputs.raw), (n,), device=self.pseudo_inputs.raw.device)
            mean, log_var = self.encode(self.pseudo_inputs()[chosen])
        return draw(mean, log_var, temperature)

    def distortion(self, x: Tensor, emitted: Tensor) -> Tensor:
        """−log p(x), nats an image, `[B]`."""
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(emitted, x, reduction="none").sum(dim=1)
        return -log_logistic_256(x, self.mean_of(emitted), emitted[:, self.pixels :].clamp(-4.5, 0)).sum(dim=1)

    def mean_of(self, emitted: Tensor) -> Tensor:
        """The mean of each pixel, `[B, pixels]`."""
        mean = torch.sigmoid(emitted[:, : self.pixels])
        return mean if self.likelihood == "bernoulli" else mean.clamp(1 / 512, 1 - 1 / 512)

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` mean images of latents drawn from the prior, `[n, pixels]`."""
        return self.mean_of(self.emit(self.generate(n, temperature)))


class VAE(LargeVAE):
    """q(z|x) p(x|z) p(z)."""

    def __init__(self, size: Sequence[int] = (28, 28), hidden: int = 300, latents: int = 40, **other: object) -> None:
        super().__init__(size, hidden, latents, **other)  # type: ignore[arg-type]
        self.encoder = nn.Sequential(GatedDense(self.pixels, hidden), GatedDense(hidden, hidden))
        self.q_z = NormalHead(hidden, latents)
        self.decoder = nn.Sequential(GatedDense(latents, hidden), GatedDense(hidden, hidden))
        self.initialize()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_z(self.encoder(x))

    def infer(self, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        mean, log_var = self.encode(x)
        z = draw(mean, log_var)
        return [z], {"z": log_normal(z, mean, log_var).sum(dim=1) - self.log_prior(z)}

    def generate(self, n: int, temperature: float = 1.0, given: Sequence[Tensor] = ()) -> list[Tensor]:
        return [given[0] if given else self.draw_prior(n, temperature)]

    def emit(self, latents: Sequence[Tensor]) -> Tensor:
        return self.output(self.decoder(latents[0]))


class TwoLevelVAE(LargeVAE):
    """q(z1|x, z2) q(z2|x) p(x|z1, z2) p(z1|z2) p(z2)."""

    def __init__(self, size: Sequence[int] = (28, 28), hidden: int = 300, latents: int = 40, **other: object) -> None:
        super().__init__(size, hidden, latents, **other)  # type: ignore[arg-type]
        self.encoder = nn.Sequential(GatedDense(self.pixels, hidden), GatedDense(hidden, hidden))
        self.q_z2 = NormalHead(hidden, latents)
        self.q_z1_x = GatedDense(self.pixels, hidden)
        self.q_z1_z2 = GatedDense(latents, hidden)
        self.q_z1_joint = GatedDense(2 * hidden, hidden)
        self.q_z1 = NormalHead(hidden, latents)
        self.p_z1_z2 = nn.Sequential(GatedDense(latents, hidden), GatedDense(hidden, hidden))
        self.p_z1 = NormalHead(hidden, latents)
        self.p_x_z1 = GatedDense(latents, hidden)
        self.p_x_z2 = GatedDense(latents, hidden)
        self.p_x_joint = GatedDense(2 * hidden, hidden)
        self.initialize()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_z2(self.encoder(x))

    def infer(self, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        mean2, log_var2 = self.encode(x)
        z2 = draw(mean2, log_var2)
        joint = self.q_z1_joint(torch.cat([self.q_z1_x(x), self.q_z1_z2(z2)], dim=1))
        mean1, log_var1 = self.q_z1(joint)
        z1 = draw(mean1, log_var1)
        prior = log_normal(z1, *self.p_z1(self.p_z1_z2(z2))).sum(dim=1)
        return [z2, z1], {
            "z2": log_normal(z2, mean2, log_var2).sum(dim=1) - self.log_prior(z2),
            "z1": log_normal(z1, mean1, log_var1).sum(dim=1) - prior,
        }

    def generate(self, n: int, temperature: float = 1.0, given: Sequence[Tensor] = ()) -> list[Tensor]:
        z2 = given[0] if given else self.draw_prior(n, temperature)
        z1 = given[1] if len(given) > 1 else draw(*self.p_z1(self.p_z1_z2(z2)), temperature)
        return [z2, z1]

    def emit(self, latents: Sequence[Tensor]) -> Tensor:
        z2, z1 = latents
        return self.output(self.p_x_joint(torch.cat([self.p_x_z1(z1), self.p_x_z2(z2)], dim=1)))


def draw(mean: Tensor, log_var: Tensor, temperature: float = 1.0) -> Tensor:
    """A sample of a Normal, its standard deviation multiplied by the temperature."""
    return mean + temperature * torch.exp(0.5 * log_var) * torch.randn_like(mean)


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z) elementwise, in nats."""
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mean) ** 2 / torch.exp(log_var))


def log_mixture(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log of the mean density of Normals `[K, latents]` at z `[B, latents]`, in nats, `[B]`."""
    each = log_normal(z[:, None], mean, log_var).sum(dim=2)
    return torch.logsumexp(each, dim=1) - math.log(len(mean))


def log_logistic_256(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the mass that a logistic gives to the bin of each grey level, elementwise; x is level / 255."""
    scale = torch.exp(log_scale)
    lower = ((x * (LEVELS - 1)).round() / LEVELS - mean) / scale
    return torch.log(torch.sigmoid(lower + 1 / (LEVELS * scale)) - torch.sigmoid(lower) + 1e-7)
