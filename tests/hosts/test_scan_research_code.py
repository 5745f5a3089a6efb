"""What people who tried their own models met with: a head's class of their own, helpers, properties, floors."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import vdvae_patch
from vdvae_patch import patch, scales, scan, stabilize
from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.scanning.write import entry_file

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def _loss(decoder: nn.Module, x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    z = mean + log_sigma.exp() * torch.randn_like(mean)
    rate = (0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(1)
    loss: Tensor = ((decoder(z) - x) ** 2).sum(1).mean() + rate.mean()
    return loss


class GaussianLayer(nn.Linear):
    def __init__(self, inputs: int, latents: int) -> None:
        super().__init__(inputs, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mean, log_sigma = super().forward(x).chunk(2, -1)
        return mean, log_sigma


class LayerOfItsOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = GaussianLayer(4, 2)
        self.decoder = nn.Linear(2, 4)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.q(x)
        self.seen = log_sigma
        return _loss(self.decoder, x, mean, log_sigma)


def test_a_layer_that_returns_a_tuple_is_patched_where_it_calls_the_layer_it_is_made_of(tmp_path: Path) -> None:
    model = LayerOfItsOwn()
    heads = scan(model, X)
    (head,) = heads
    assert (head.path, head.channels, head.role, head.found.patch_at) == ("q", "2:4", "posterior", "call")
    raw = F.linear(X, model.q.weight, model.q.bias)[:, 2:]
    want = scales.get("upbounded").log_sigma(raw)
    written = tmp_path / "host.py"
    written.write_text(entry_file("research:LayerOfItsOwn", heads, model))
    for found in (heads, vdvae_patch.load_entry_file(written).heads(model)):
        with patch(model, posterior="upbounded", heads=found, paper=True):
            model(X).backward()
            torch.testing.assert_close(model.seen, want)
    model(X)
    assert torch.equal(model.seen, raw)


class Helper(nn.Module):
    """As in recurrent world models: one method makes every Normal's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p = nn.Linear(4, 4), nn.Linear(3, 4)

    def stats(self, layer: nn.Module, h: Tensor) -> Normal:
        mean, raw = layer(h).chunk(2, -1)
        return Normal(mean, F.softplus(raw) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, p = self.stats(self.q, x), self.stats(self.p, x[:, :3])
        loss: Tensor = q.rsample().pow(2).mean() + kl_divergence(q, p).mean()
        return loss


def test_where_a_helper_makes_both_scales_stabilize_gives_one_and_says_so() -> None:
    model, out = Helper(), io.StringIO()
    with pytest.raises(
        SharedScaleError, match=r'Helper.stats line \d+ computes two heads.* posterior="explin", prior='
    ):
        patch(model, "explin/constant", heads=scan(model, X), paper=True)
    with pytest.raises(SharedScaleError, match=r"\(upbounded and constant\)"):
        patch(model, "upbounded/constant", heads=scan(model, X), paper=True)
    with pytest.raises(SharedScaleError):
        stabilize(model, X, prior="constant", file=out)
    with stabilize(model, X, file=out) as handle:
        assert [h.scale for h in handle.heads] == [None, None]  # a softplus with a floor of 0.1, which holds by itself
    assert "the prior gets what the posterior gets, and no constant one" in out.getvalue()
    with stabilize(model, X, posterior="bounded(0.01, 2)", probe=False, file=out) as handle:
        assert [type(getattr(h.scale, "base", h.scale)).__name__ for h in handle.heads] == ["Bounded", "Bounded"]


class Property(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)
        self.rho = nn.Parameter(torch.zeros(4))

    @property
    def sigma(self) -> Tensor:
        return self.rho.exp()

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        density = ((x - self.decoder(z)) / self.sigma) ** 2 / 2 + self.sigma.log()
        rate = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma
        loss: Tensor = density.sum(1).mean() + rate.sum(1).mean()
        return loss


class CachedProperty(Property):
    @functools.cached_property
    def sigma(self) -> Tensor:  # type: ignore[override]
        return self.rho.exp()


def test_a_scale_in_a_property_is_patched_there() -> None:
    model = Property()
    likelihood = next(head for head in scan(model, X) if head.role == "likelihood")
    assert likelihood.path == "rho"
    with patch(model, likelihood="bounded(0.01, 1)", heads=scan(model, X), paper=True):
        torch.testing.assert_close(model.sigma, torch.full((4,), 0.01 + 0.99 / 2))
    torch.testing.assert_close(model.sigma, torch.ones(4))


def test_a_scale_in_a_cached_property_is_found_and_said_to_be_out_of_reach() -> None:
    model = CachedProperty()
    heads = scan(model, X)
    likelihood = next(head for head in heads if head.role == "likelihood")
    assert likelihood.found.patch_at == "no"
    with pytest.raises(PatchError, match=r"the cached_property CachedProperty\.sigma"):
        patch(model, likelihood="bounded(0.01, 1)", heads=heads, paper=True)
    patch(model, posterior="explin", heads=heads, paper=True)


class Floor(nn.Module):
    def __init__(self, distributions: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)
        self.distributions = distributions

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        sigma = F.softplus(raw) + 1e-4
        if self.distributions:
            q = Normal(mean, sigma)
            z, rate = q.rsample(), kl_divergence(q, Normal(torch.zeros_like(mean), 1.0))
        else:
            z, rate = mean + sigma * torch.randn_like(mean), 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
        loss: Tensor = ((self.decoder(z) - x) ** 2).sum(1).mean() + rate.sum(1).mean()
        return loss


def test_a_floor_that_a_patch_takes_from_the_hosts_own_arithmetic_is_a_warning() -> None:
    model = Floor(distributions=False)
    heads = scan(model, X)
    with pytest.warns(UserWarning, match=r"keeps σ at 0\.0001 or above, explin does not.*downbounded\(0\.0001\)"):
        patch(model, posterior="explin", heads=heads, paper=True).unpatch()
    for scale in ("downbounded(0.0001)", "bounded(0.0001, 1)", "constant"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            patch(model, posterior=scale, heads=heads, paper=True).unpatch()


def test_a_normal_that_carries_log_sigma_needs_no_floor_nor_a_sigma_above_zero() -> None:
    model = Floor(distributions=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patch(model, posterior="explin", heads=scan(model, X), paper=True)
    with torch.no_grad():
        model.encoder.weight[2:] = 0
        model.encoder.bias[2:] = -120  # the exponential is zero in float32
    loss = model(X)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_loss_that_was_not_run_is_asked_for() -> None:
    class Sampler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log_sigma = self.encoder(x).chunk(2, 1)
            return self.decoder(mean + log_sigma.exp() * torch.randn_like(mean)), mean, log_sigma

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        reconstruction, mean, log_sigma = model(x)
        rate: Tensor = (0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(1).mean()
        return rate + ((reconstruction - x) ** 2).mean()

    model, out = Sampler(), io.StringIO()
    hint = "no density and no KL was seen"
    assert hint in str(scan(model, X))
    assert hint not in str(scan(model, X, call=loss))
    stabilize(model, X, file=out)
    assert hint in out.getvalue()


@pytest.mark.parametrize("eps", [1e-6, 1e-4])
def test_the_clamp_inside_pytorchs_gaussian_loss_is_named(eps: float) -> None:
    class Likelihood(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 8)

        def forward(self, x: Tensor) -> Tensor:
            mean, raw = self.decoder(torch.tanh(self.encoder(x))).chunk(2, 1)
            return F.gaussian_nll_loss(mean, torch.ones_like(x), F.softplus(raw), eps=eps)

    heads = scan(Likelihood(), X)
    assert [head.role for head in heads] == ["likelihood"]
    (warning,) = (w for w in heads.warnings if "gaussian_nll_loss" in w)
    assert f"eps of {eps:g} as eps, so a σ below {eps**0.5:.3g} of any scale" in warning
    assert not any("gaussian_nll_loss" in w for w in scan(Floor(distributions=False), X).warnings)


def test_a_class_is_no_model() -> None:
    given: Any = LayerOfItsOwn
    with pytest.raises(PatchError, match="LayerOfItsOwn is a class; give scan an instance"):
        scan(given, X)
