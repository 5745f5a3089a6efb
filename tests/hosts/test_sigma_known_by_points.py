"""A σ that no chain of steps computes: what tables show of it, and when the host's own lines hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.scanning.evidence.measuring import measured

FLOOR = 1e-3
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class VAE(nn.Module):
    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = encoder or nn.Linear(8, 8), nn.Linear(4, 8)

    def sigma(self, v: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        mu, v = self.encoder(x).chunk(2, 1)
        sigma = self.sigma(v)
        z = mu + sigma * torch.randn_like(mu)
        kl = 0.5 * (sigma**2 + mu**2 - 1) - torch.log(sigma)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


class SigmoidByHand(VAE):
    def sigma(self, v: Tensor) -> Tensor:  # ∞ / ∞ from 89 on
        return torch.exp(v) / (1 + torch.exp(v)) + FLOOR


class WhereOfAnExponential(VAE):
    def sigma(self, v: Tensor) -> Tensor:  # 0 · ∞ in the gradient of the branch that is not taken
        return torch.where(v > 20, v, torch.log1p(torch.exp(v))) + FLOOR


class HardSigmoid(VAE):
    def sigma(self, v: Tensor) -> Tensor:
        return F.hardsigmoid(v) + 0.01


def _breaks(model: VAE) -> list[float]:
    """The raw values at which the model's own loss, or a gradient, is not finite."""
    found = []
    bias = model.encoder.bias
    assert isinstance(bias, Tensor)
    own = bias.data.clone()
    for raw in (-1e4, -100.0, -30.0, 30.0, 100.0, 1e4):
        bias.data[4:] = raw
        model.zero_grad()
        loss = model(X)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not all(bool(value.isfinite().all()) for value in (loss, *gradients)):
            found.append(raw)
        bias.data.copy_(own)
    return found


@pytest.mark.medium
@pytest.mark.parametrize("build", [SigmoidByHand, WhereOfAnExponential])
def test_cured_is_said_of_a_host_that_overflows_in_its_own_lines_only_with_another_scale(
    build: type[VAE], capsys: pytest.CaptureFixture[str]
) -> None:
    model = build()
    assert _breaks(model)
    vdvae_patch.stabilize(model, X)
    assert "CURED: encoder[4:8] (posterior, bounded(" in capsys.readouterr().out
    assert not _breaks(model)


def test_a_host_that_holds_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    vdvae_patch.stabilize(model := HardSigmoid(), X)
    assert "CURED: encoder[4:8] (posterior, left as it is)" in capsys.readouterr().out
    assert not _breaks(model)


class CallsByName(SigmoidByHand):
    def forward(self, x: Tensor) -> Tensor:
        mu, v = self.encoder.forward(x).chunk(2, 1)
        sigma = self.sigma(v)
        z = mu + sigma * torch.randn_like(mu)
        kl = 0.5 * (sigma**2 + mu**2 - 1) - torch.log(sigma)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


def test_a_layer_whose_hooks_do_not_run_is_pushed_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    vdvae_patch.stabilize(model := CallsByName(), X, posterior="vanilla")
    assert "NOT cured: encoder[4:8] (posterior, left as it is), pushed to" in capsys.readouterr().out
    assert "forward" not in vars(model.encoder)


class OfAParameter(SigmoidByHand):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 4))
        self.raw = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        mu, sigma = self.encoder(x), self.sigma(self.raw)
        z = mu + sigma * torch.randn_like(mu)
        kl = 0.5 * (sigma**2 + mu**2 - 1) - torch.log(sigma)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


def test_a_parameter_is_pushed_in_the_hosts_own_lines_and_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    model = OfAParameter()
    vdvae_patch.stabilize(model, X, posterior="vanilla")
    assert "NOT cured: raw[:] (posterior, left as it is), pushed to" in capsys.readouterr().out
    assert not model.raw.any()


class OfAMean(SigmoidByHand):
    """The raw value is a mean over the examples of a set, which no module puts out."""

    def forward(self, x: Tensor) -> Tensor:
        mu, v = self.encoder(x.view(4, 4, 8)).mean(1).chunk(2, 1)
        sigma = self.sigma(v)
        z = mu + sigma * torch.randn_like(mu)
        kl = 0.5 * (sigma**2 + mu**2 - 1) - torch.log(sigma)
        return ((self.decoder(z) - x[:4]) ** 2).sum(1).mean() + kl.sum(1).mean()


def test_of_lines_that_cannot_be_pushed_nothing_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    vdvae_patch.stabilize(OfAMean(), X, posterior="vanilla")
    text = capsys.readouterr().out
    assert "CURED" not in text
    assert "not pushed: the model[4:8] (posterior, left as it is): " in text


@pytest.mark.parametrize("raw", [-40.0, -3.3, 15.0, 300.0])
def test_tables_show_the_sigma_of_every_raw_value(raw: float) -> None:
    class ExpLinByHand(VAE):
        def sigma(self, v: Tensor) -> Tensor:
            return torch.where(v < 0, v.clamp(max=0).exp(), 1 + v)

    model = ExpLinByHand()
    with torch.no_grad():
        model.encoder.weight[4:], model.encoder.bias[4:] = 0.0, raw  # type: ignore[index]
    right = float(model.sigma(torch.tensor(raw)))
    handle = vdvae_patch.patch(model, "bounded(0.001, 100)", heads=vdvae_patch.scan(model, X))
    (shown,) = handle.heads
    assert shown.before is not None
    assert shown.before.median == pytest.approx(right, rel=5e-4)


@pytest.mark.parametrize(
    "curve",
    [
        F.softplus,
        lambda v: torch.where(v < 0, v.exp(), 1 + v),
        lambda v: v.exp() / (1 + v.exp()),  # NaN from 710 on
        lambda v: 0.5 * (v + torch.sqrt(v * v + 4)),
    ],
)
def test_a_curve_known_by_points_has_three_digits(curve: Callable[[Tensor], Tensor]) -> None:
    v = torch.cat([torch.linspace(-8, 8, 4001), torch.linspace(-200, 200, 4001)]).double()
    found = measured(curve)
    assert len(found.points) < 600
    torch.testing.assert_close(found.sigma(v), curve(v), rtol=3e-4, atol=1e-12)


def test_beyond_its_points_a_curve_goes_on_as_the_line_that_it_was() -> None:
    found = measured(F.softplus)
    assert max(at for at, _ in found.points) < 5000
    assert float(found.sigma(torch.tensor(5000.0))) == pytest.approx(5000, rel=1e-3)
