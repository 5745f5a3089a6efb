"""Hosts whose sampler clamps what their KL does not, or the other way round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

EXPLIN = scales.get("explin")


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.mean(x), self.raw(x)
        self.sigma = self.std(raw)
        z = mean + self.sigma * torch.randn_like(mean)
        kl = -0.5 * (1 + self.log_var(raw) - mean**2 - self.log_var(raw).exp())
        return ((self.out(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()

    def std(self, raw: Tensor) -> Tensor:
        return torch.exp(0.5 * raw)

    def log_var(self, raw: Tensor) -> Tensor:
        return raw


class SamplerClamps(VAE):
    def std(self, raw: Tensor) -> Tensor:
        return torch.exp((0.5 * raw).clamp(-4, 15))


class SamplerClampsSigma(VAE):
    def std(self, raw: Tensor) -> Tensor:
        return torch.exp(0.5 * raw).clamp(min=1e-2)


class SamplerClampsAbove(VAE):
    def std(self, raw: Tensor) -> Tensor:
        return torch.exp(0.5 * torch.clamp(raw, max=6.0))


class KlClamps(VAE):
    def log_var(self, raw: Tensor) -> Tensor:
        return raw.clamp(-6, 6)


class Guarded(VAE):
    """A guard against overflow, far beyond what raw values are: the output is patched."""

    def std(self, raw: Tensor) -> Tensor:
        return torch.exp(0.5 * raw.clamp(-30, 20))


def built(build: type[VAE]) -> tuple[VAE, Tensor]:
    torch.manual_seed(0)
    return build(), torch.randn(5, 4)


@pytest.mark.filterwarnings("ignore:.*the host keeps σ")
@pytest.mark.parametrize("build", [SamplerClamps, SamplerClampsSigma, SamplerClampsAbove, KlClamps])
def test_a_clamp_in_one_of_two_readings_is_patched_and_warned_of(build: type[VAE]) -> None:
    model, x = built(build)
    heads = scan(model, x)
    assert [(h.path, h.role) for h in heads] == [("raw", "posterior")]
    assert heads[0].found is not None
    assert any("disagree" in warning for warning in heads[0].found.warnings)
    patch(model, "explin", heads=heads, paper=True)
    with torch.no_grad():
        model.raw.bias += torch.tensor([-12.0, 0.0, 9.0])
        model(x)
        raw = nn.functional.linear(x, model.raw.weight, model.raw.bias)
        torch.testing.assert_close(model.sigma, EXPLIN.sigma(raw), rtol=1e-4, atol=1e-6)


def test_a_guard_against_overflow_is_no_disagreement() -> None:
    model, x = built(Guarded)
    heads = scan(model, x)
    assert heads[0].found is not None
    assert heads[0].found.patch_at == "output"
    assert not any("disagree" in warning for warning in heads[0].found.warnings)
