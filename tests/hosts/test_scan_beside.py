"""Scales that a loss beside the model computes: exchanged there, and called by `handle.loss`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import losses_beside
import pytest
import torch
import torch.nn.functional as F
from losses_beside import drawn, kl, sigma_of, squared
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import patch, scan
from vdvae_patch.scales import Scale

Loss = Callable[..., Tensor]


class VAE(nn.Module):
    """Emits a mean and a raw value; what becomes of them is somebody else's affair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(x).chunk(2, 1)
        return mean, raw

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(x)


X = torch.linspace(-1, 1, 48).reshape(8, 6)


def reference(model: VAE, raw: Tensor, scale: Scale) -> float:
    """The loss of every host here with σ = scale(raw), in float64."""
    torch.manual_seed(1)
    mean = model.encoder(X)[:, :3].double()
    noise = torch.randn_like(mean.float()).double()
    sigma, log_sigma = scale.sigma(raw.double()), scale.log_sigma(raw.double())
    output = F.linear(mean + sigma * noise, model.decoder.weight.double(), model.decoder.bias.double())
    divergence = 0.5 * (mean**2 + sigma**2 - 1) - log_sigma
    return float((output - X.double()).pow(2).sum(1).mean() + divergence.sum(1).mean())


def check(model: VAE, loss: Loss, scale: Scale, convention: Callable[[Tensor], Tensor] | None = None) -> None:
    """The loss is that of σ = scale(raw), wherever the raw values are, past the host's floors and clamps, too."""
    keep = copy.deepcopy(model.encoder.state_dict())
    for at in (-14.0, -7.0, 0.5, 2.0, 5.0):
        with torch.no_grad():
            model.encoder.weight[3:] = 0
            model.encoder.bias[3:] = torch.tensor([at - 0.5, at, at + 0.25])
        raw = model.encoder.bias[3:].detach().expand(8, 3)
        torch.manual_seed(1)
        got = loss(model, X)
        assert float(got) == pytest.approx(reference(model, raw, scale), rel=2e-4), (at, scale)
        (gradient,) = torch.autograd.grad(got, [model.encoder.bias])
        assert bool(gradient.isfinite().all())
        model.encoder.load_state_dict(keep)


# --- spellings of one loss --------------------------------------------------------------------------------------------


def clamped(model: VAE, x: Tensor) -> Tensor:
    mean, v = model.encode(x)
    v = v.clamp(-6, 4)
    std = (0.5 * v).exp()
    z = mean + std * torch.randn_like(std)
    divergence = -0.5 * (1 + v - mean**2 - v.exp()).sum(1).mean()
    return (model.decoder(z) - x).pow(2).sum(1).mean() + divergence


def floored(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + 1e-3
    z = mean + sigma * torch.randn_like(mean)
    divergence = (0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma)).sum(1).mean()
    return squared(model.decoder(z), x) + divergence


def made(floor: float) -> Loss:
    def loss(model: VAE, x: Tensor) -> Tensor:
        mean, raw = model(x)
        sigma = F.softplus(raw) + floor
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    return loss


def nested(model: VAE, x: Tensor) -> Tensor:
    def sigma_from(raw: Tensor) -> Tensor:
        return torch.clamp(F.softplus(raw), min=1e-2)

    mean, raw = model.encode(x)
    sigma = sigma_from(raw)
    return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


def twice(model: VAE, x: Tensor) -> Tensor:
    """Once for the sample, and once for the KL."""
    mean, raw = model.encode(x)
    z = mean + sigma_of(raw) * torch.randn_like(mean)
    return squared(model.decoder(z), x) + kl(mean, sigma_of(raw))


def elsewhere(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = losses_beside.sigma_of(raw, 5e-3)
    return squared(model.decoder(losses_beside.drawn(mean, sigma)), x) + losses_beside.kl(mean, sigma)


def by_default(model: VAE, x: Tensor, floor: float = 1e-2, beta: float = 1.0) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + floor
    return squared(model.decoder(drawn(mean, sigma)), x) + beta * kl(mean, sigma)


def weighted(beta: float, model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = torch.sqrt(raw.exp() + 1e-4)
    return squared(model.decoder(drawn(mean, sigma)), x) + beta * kl(mean, sigma)


def by_normals(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    q = Normal(mean, F.softplus(raw) + 1e-3)
    divergence = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
    return squared(model.decoder(q.rsample()), x) + divergence


def in_place(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    log_sigma = raw.clone().clamp_(-3, 2)
    sigma = log_sigma.exp()
    divergence = (0.5 * (mean**2 + sigma**2 - 1) - log_sigma).sum(1).mean()
    return squared(model.decoder(drawn(mean, sigma)), x) + divergence


def announced(function: Loss) -> Loss:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    return inner


@announced
def decorated(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + 1e-3
    return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Trainer:
    """A plain object with a setting and a helper of its own."""

    def __init__(self, floor: float = 2e-3) -> None:
        self.floor = floor

    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) + self.floor

    def loss_fn(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        sigma = self.sigma(raw)
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    def __call__(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        low = self.floor
        sigma = torch.clamp(F.softplus(raw), min=self.floor)
        assert low > 0
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    @staticmethod
    def static(model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        sigma = sigma_of(raw, floor=3e-3)
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Criterion(nn.Module):
    """A loss that is a module beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = 4e-3

    def forward(self, model: VAE, mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
        sigma = F.softplus(raw) + self.floor
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Whole(nn.Module):
    """A loss module that runs the model itself."""

    def forward(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model(x)
        sigma = F.softplus(raw) + 1e-3
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


TRAINER, CRITERION, WHOLE = Trainer(), Criterion(), Whole()
NEVER = Trainer(0.5)

LOSSES: dict[str, Loss] = {
    "clamped": clamped,
    "a floor": floored,
    "a closure with a floor": made(1e-3),
    "a function inside": nested,
    "a helper, twice": twice,
    "another module": elsewhere,
    "a default": by_default,
    "a partial": functools.partial(weighted, 1.0),
    "Normals": by_normals,
    "in place": in_place,
    "decorated": decorated,
    "a method": TRAINER.loss_fn,
    "a static method": Trainer.static,
    "an object": TRAINER,
    "a lambda around a method": lambda model, x: TRAINER.loss_fn(model, x),
    "a lambda alone": lambda m, x: (lambda mean, s: squared(m.decoder(drawn(mean, s)), x) + kl(mean, s))(
        m.encode(x)[0], sigma_of(m.encode(x)[1])
    ),
    "a module beside": lambda model, x: CRITERION(model, *model.encode(x), x),
    "a module that is the call": WHOLE,
}

quiet = pytest.mark.filterwarnings("ignore:.*the host keeps σ at")


@quiet
@pytest.mark.parametrize("scale", ["explin", "upbounded(omega=2)", "downbounded(alpha=0.0001)"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_the_handle_has_exactly_the_scale_that_was_promised(name: str, scale: str) -> None:
    model, call = VAE(), LOSSES[name]
    heads = scan(model, X, call=call)
    assert [(h.path, h.channels, h.role) for h in heads] == [("encoder", "3:6", "posterior")]
    assert heads[0].found is not None
    assert heads[0].found.patch_at == "call", heads[0].found.reason
    torch.manual_seed(1)
    before = float(call(model, X))
    handle = patch(model, posterior=scale, heads=heads, paper=True)
    given = handle.heads[0].scale
    assert given is not None
    assert handle.loss is not None
    check(model, handle.loss, given)
    handle.unpatch()
    assert handle.loss is call
    torch.manual_seed(1)
    assert float(call(model, X)) == before
