"""A law that is residual to another one by whole outputs, means and raw values in one sum: the scale goes to the sum's
raw values, or to the other law's own, and the means stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.scanning import scan


class Residual(nn.Module):
    truth = (("e", "3:6", "posterior"), ("p", "3:6", "prior"))

    def __init__(self) -> None:
        super().__init__()
        self.e, self.p, self.dec = nn.Linear(6, 6), nn.Linear(2, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        prior = self.p(x[:, :2])
        p_mean, p_raw = prior.chunk(2, 1)
        mean, raw = (self.e(x) + prior).chunk(2, 1)
        z = mean + (0.5 * raw).exp() * torch.randn_like(mean)
        kl = 0.5 * (p_raw - raw + (raw.exp() + (mean - p_mean) ** 2) / p_raw.exp() - 1)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean() + self.more(p_mean, p_raw)

    def more(self, mean: Tensor, raw: Tensor) -> Tensor:
        return mean.new_zeros(())


class AndDrawn(Residual):
    """The prior is drawn from, too."""

    def more(self, mean: Tensor, raw: Tensor) -> Tensor:
        return self.dec(mean + (0.5 * raw).exp() * torch.randn_like(mean)).square().mean()


class ToStandard(Residual):
    """Two networks' outputs are added up, and nothing else reads the second one's."""

    truth = (("e", "3:6", "posterior"), ("p", "3:6", "posterior"))

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = (self.e(x) + self.p(x[:, :2])).chunk(2, 1)
        z = mean + (0.5 * raw).exp() * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x) - 0.5 * (1 + raw - mean**2 - raw.exp()).sum(1).mean()


class Apart(Residual):
    """Means and raw values are layers of their own."""

    truth = (("e_raw", ":", "posterior"), ("p_raw", ":", "prior"))

    def __init__(self) -> None:
        super().__init__()
        self.e_raw, self.p_raw, self.e, self.p = nn.Linear(6, 3), nn.Linear(2, 3), nn.Linear(6, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        p_mean, p_raw = self.p(x[:, :2]), self.p_raw(x[:, :2])
        mean, raw = self.e(x) + p_mean, self.e_raw(x) + p_raw
        z = mean + (0.5 * raw).exp() * torch.randn_like(mean)
        kl = 0.5 * (p_raw - raw + (raw.exp() + (mean - p_mean) ** 2) / p_raw.exp() - 1)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


class OfTorch(Residual):
    def forward(self, x: Tensor) -> Tensor:
        prior = self.p(x[:, :2])
        both = self.e(x) + prior
        q, p = Normal(both[:, :3], (0.5 * both[:, 3:]).exp()), Normal(prior[:, :3], (0.5 * prior[:, 3:]).exp())
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, p).sum(1).mean()


@pytest.mark.parametrize("build", [Residual, AndDrawn, ToStandard, Apart, OfTorch])
def test_a_sum_of_whole_outputs_is_patched_in_its_raw_values_and_the_means_stay(build: type[Residual]) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(5, 6)
    heads = scan(model, x)
    assert {(head.path, str(head.channels), head.role) for head in heads} == set(build.truth)
    torch.manual_seed(1)
    before = model(x)
    roles = dict.fromkeys({head.role for head in heads}, "upbounded(omega=1000)")  # the exponential itself, below 500
    handle = vdvae_patch.patch(model, heads=heads, **roles)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=0)
    again = build()
    vdvae_patch.apply(again, handle.to_json())
    again.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    torch.testing.assert_close(again(x), before, rtol=1e-4, atol=0)
    with torch.no_grad():
        bias = model.e_raw.bias if isinstance(model, Apart) else model.e.bias[3:]
        bias += 400  # where the host's own σ is infinite
    torch.manual_seed(1)
    assert model(x).isfinite()
    handle.unpatch()
    torch.manual_seed(1)
    assert not model(x).isfinite()


def test_a_prior_of_which_the_posterior_is_a_sum_has_its_scale_in_the_whole_kl() -> None:
    torch.manual_seed(0)
    model, x = Apart(), torch.randn(5, 6)
    with torch.no_grad():
        model.e_raw.bias -= 6  # below 0 explin is the exponential
        raw = model.p_raw(x[:, :2]) + model.e_raw(x)
        mean, p_mean = model.e(x) + model.p(x[:, :2]), model.p(x[:, :2])
        # σ of the prior is 1, and the posterior's is what it was
        kl = 0.5 * (raw.exp() + (mean - p_mean) ** 2 - 1 - raw)
    with vdvae_patch.patch(model, heads=scan(model, x), prior="constant", posterior="explin"):
        torch.manual_seed(1)
        z = mean + (0.5 * raw).exp() * torch.randn_like(mean)
        torch.manual_seed(1)
        torch.testing.assert_close(model(x), F.mse_loss(model.dec(z), x) + kl.sum(1).mean(), rtol=1e-3, atol=1e-4)
