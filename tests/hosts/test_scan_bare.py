"""KLs that read a raw value as it is beside its exponential: both are of the new σ, or the patch is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan
from vdvae_patch.scanning.places import placing

EXPLIN = scales.get("explin")


class VAE(nn.Module):
    """A model that keeps its KL, for a comparison with the formula."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.m, v, self.p = self.emitted(x)
        z = self.m + self.sigma(v) * torch.randn_like(self.m)
        self.kl = self.divergence(self.m, v)
        return (self.out(z) - x).square().mean() + self.kl.mean()

    def emitted(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = self.raw(x)
        return self.mean(x), v, v

    def sigma(self, v: Tensor) -> Tensor:
        return (0.5 * v).exp()

    def divergence(self, m: Tensor, v: Tensor) -> Tensor:
        return -0.5 * (1 + v - m**2 - v.exp())


class ClampedTwice(VAE):
    def sigma(self, v: Tensor) -> Tensor:
        return (0.5 * v.clamp(-6, 2)).exp()

    def divergence(self, m: Tensor, v: Tensor) -> Tensor:
        log_var = v.clamp(-6, 2)
        return -0.5 * (1 + log_var - m**2 - log_var.exp())


class ClampedInTheKl(VAE):
    def divergence(self, m: Tensor, v: Tensor) -> Tensor:
        log_var = F.hardtanh(v, -6, 6)
        return 0.5 * (log_var.exp() + m**2 - 1 - log_var)


class ClampedApart(VAE):
    def sigma(self, v: Tensor) -> Tensor:
        return torch.exp(torch.clamp(v, min=-6, max=2) / 2)

    def divergence(self, m: Tensor, v: Tensor) -> Tensor:
        log_var = torch.clamp(v, min=-8, max=4)
        return 0.5 * (log_var.exp() + m**2 - 1).sub(log_var)


class InFloat64(VAE):
    def divergence(self, m: Tensor, v: Tensor) -> Tensor:
        log_var = v.double().clip(-6, 6)
        return (0.5 * (log_var.exp() + m.double() ** 2 - 1 - log_var)).float()


class OfAProduct(VAE):
    """The model computes the raw value itself, in rows, by a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(6, 4))

    def emitted(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = self.weight @ x.t()
        self.both = both
        return both[:3].t(), both[3:].t(), both[3:].t()


CLAMPED = [ClampedTwice, ClampedInTheKl, ClampedApart, InFloat64]


@pytest.mark.filterwarnings("ignore:.*the host keeps σ")
@pytest.mark.parametrize("build", [VAE, *CLAMPED])
def test_both_parts_of_the_kl_are_of_the_new_sigma(build: type[VAE]) -> None:
    torch.manual_seed(0)
    model, x = build(), 3 * torch.randn(5, 4)
    heads = scan(model, x)
    assert [(h.path, h.role) for h in heads] == [("raw", "posterior")], f"{heads}"
    raw = model.raw(x)
    with patch(model, "explin", heads=heads, paper=True), torch.no_grad():
        model(x)
        sigma = EXPLIN.sigma(raw)
        torch.testing.assert_close(model.kl, 0.5 * (sigma**2 + model.m**2 - 1) - sigma.log(), rtol=1e-4, atol=1e-5)


def test_a_raw_value_that_the_model_computes_itself_is_replaced_where_it_begins() -> None:
    torch.manual_seed(0)
    model, x = OfAProduct(), torch.randn(5, 4)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role) for h in heads] == [("", "3:6", "posterior")]
    raw, mean = (model.weight @ x.t())[3:].t(), (model.weight @ x.t())[:3].t()
    with patch(model, "explin", heads=heads, paper=True), torch.no_grad():
        model(x)
        sigma = EXPLIN.sigma(raw)
        torch.testing.assert_close(model.m, mean)
        torch.testing.assert_close(model.kl, 0.5 * (sigma**2 + mean**2 - 1) - sigma.log(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*the host keeps σ")
def test_a_patch_of_only_the_exponential_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_bare", lambda graph, readings: None)
    monkeypatch.setattr(placing, "_bare_in_term", lambda graph, reading: None)
    monkeypatch.setattr(placing, "sites_beside_a_sum", lambda graph, group: [])
    torch.manual_seed(0)
    model, x = OfAProduct(), torch.randn(5, 4)
    heads = scan(model, x)
    with pytest.raises(
        PatchError, match="the density or the KL that the host computed of its σ is none of the new one"
    ):
        patch(model, "explin", heads=heads, paper=True)


class OfARecurrentLayer(VAE):
    """The gates of a recurrent layer are its own, and it returns more than its output."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)

    def emitted(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, _ = self.rnn(x[:, None])
        mean, v = h[:, 0].chunk(2, 1)
        return mean, v, v


def test_the_output_of_a_recurrent_layer_is_one_raw_value() -> None:
    torch.manual_seed(0)
    model, x = OfARecurrentLayer(), torch.randn(5, 4)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("rnn", "3:6", "posterior", "log_variance")
    ]
    with torch.no_grad():
        h = model.rnn(x[:, None])[0][:, 0]
    with patch(model, "explin", heads=heads, paper=True), torch.no_grad():
        model(x)
        sigma = EXPLIN.sigma(h[:, 3:])
        torch.testing.assert_close(model.m, h[:, :3])
        torch.testing.assert_close(model.kl, 0.5 * (sigma**2 + h[:, :3] ** 2 - 1) - sigma.log(), rtol=1e-4, atol=1e-5)
