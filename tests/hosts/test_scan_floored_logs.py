"""Hosts whose draw, or whose log in the KL alone, has a small floor: what draws is σ, and the KL measures it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Coder(nn.Module):
    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.h, self.mean, self.raw, self.dec = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.h(x).relu()
        mean, noise = self.mean(h), torch.randn(len(x), 4)
        z, kl = self.drawn(mean, self.raw(h), noise)
        self.seen = mean, (z - mean) / noise, kl
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()

    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class DrawOfSoftplus(Coder):
    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = mean + (F.softplus(v) + self.floor) * noise
        return z, 0.5 * (mean**2 + F.softplus(v) ** 2 - 1) - torch.log(F.softplus(v))


class DrawOfLogVariance(Coder):
    def reparameterize(self, mean: Tensor, v: Tensor, noise: Tensor) -> Tensor:
        return mean + noise * (torch.exp(0.5 * v) + self.floor)

    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.reparameterize(mean, v, noise), -0.5 * (1 + v - mean.pow(2) - v.exp())


class LogOfSigma(Coder):
    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigma = v.exp()
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma + self.floor)


class LogOfSoftplus(Coder):
    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigma = F.softplus(v)
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma + self.floor)


class LogOfVariance(Coder):
    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        var = v.exp()
        return mean + var.sqrt() * noise, -0.5 * (1 + torch.log(var + self.floor) - mean**2 - var)


class LogOfSquare(Coder):
    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.exp(0.5 * v)
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1 - torch.log(sigma**2 + self.floor))


def scanned_and_patched(model: Coder, x: Tensor, scale: str) -> tuple[list[str], nn.Module]:
    heads = scan(model, x)
    (head,) = heads
    assert (head.path, head.role) == ("raw", "posterior")
    assert head.found is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (patched,) = patch(model, heads=heads, posterior=scale).heads
    assert patched.scale is not None
    return list(head.found.warnings), patched.scale


@pytest.mark.parametrize("floor", [1e-4, 1e-6])
@pytest.mark.parametrize(
    "host", [DrawOfSoftplus, DrawOfLogVariance, LogOfSigma, LogOfSoftplus, LogOfVariance, LogOfSquare]
)
def test_the_kl_measures_the_sigma_that_draws_and_neither_has_a_floor(host: type[Coder], floor: float) -> None:
    torch.manual_seed(0)
    model, x = host(floor), torch.randn(7, 6)
    told, scale = scanned_and_patched(model, x, "explin")
    assert any("ways that disagree" in warning or "behind a floor" in warning for warning in told)
    model.raw.bias.data[0] = -20.0
    loss = model(x)
    p = F.linear(model.h(x).relu(), model.raw.weight, model.raw.bias)
    mean, drawn, kl = model.seen
    torch.testing.assert_close(drawn, scale.sigma(p), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(kl, 0.5 * (mean**2 + scale.sigma(p) ** 2 - 1) - scale.log_sigma(p))
    loss.backward()
    assert model.raw.bias.grad is not None
    assert model.raw.bias.grad.isfinite().all()


class LogInAHelper(Coder):
    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma + self.floor)

    def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigma = F.softplus(v)
        return mean + sigma * noise, self.kl(mean, sigma)


@pytest.mark.parametrize("scale", ["explin", "upbounded"])
def test_a_floored_log_where_no_raw_value_is_at_hand_stays_and_is_told(scale: str) -> None:
    torch.manual_seed(0)
    model, x = LogInAHelper(1e-4), torch.randn(7, 6)
    told, made = scanned_and_patched(model, x, scale)
    assert sum("takes the log behind a floor" in w and "stays under a patch" in w for w in told) == 1
    model(x)
    p = F.linear(model.h(x).relu(), model.raw.weight, model.raw.bias)
    torch.testing.assert_close(model.seen[1], made.sigma(p), rtol=1e-4, atol=1e-5)


def test_a_floor_that_is_nothing_at_any_sigma_is_no_disagreement() -> None:
    torch.manual_seed(0)
    model, x = DrawOfSoftplus(1e-9), torch.randn(7, 6)
    (head,) = scan(model, x)
    assert str(head.convention) == "softplus"
    assert head.found is not None
    assert head.found.patch_at == "output"
    assert not any("disagree" in warning or "floor" in warning for warning in head.found.warnings)


def test_a_raw_value_that_is_divided_by_zero_is_found_where_it_began() -> None:
    class Divides(Coder):
        def drawn(self, mean: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            sigma = torch.exp(v / self.floor)
            return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - v / self.floor

    torch.manual_seed(0)
    found = scan(Divides(0.0), torch.randn(7, 6))
    assert found[0].path == "raw"
    assert "aten.div" in str(found)
