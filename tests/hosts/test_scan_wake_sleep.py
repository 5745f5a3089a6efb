"""Posteriors that no KL shows: their law is computed twice, or they learn from dreams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def roles(model: nn.Module, *inputs: Tensor) -> dict[str, str]:
    torch.manual_seed(1)
    heads = list(scan(model, *inputs))
    found = {f"{head.path}[{head.channels}]": head.role for head in heads}
    assert len(found) == len(heads)
    return found


class Weighed(nn.Module):
    """Bits, several samples, and weights without a gradient."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.inference, self.generator = form, nn.Linear(10, 6), nn.Linear(3, 10)
        self.prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)

    def q(self, x: Tensor) -> Independent:
        mean, log_var = self.inference(x).chunk(2, -1)
        return Independent(Normal(mean, torch.exp(0.5 * log_var)), 1)

    def p(self, z: Tensor) -> Independent:
        return Independent(Bernoulli(logits=self.generator(z)), 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "sleep":
            with torch.no_grad():
                z = self.prior.sample((len(x),))
                dream = self.p(z).sample()
            return -self.q(dream).log_prob(z).mean()  # type: ignore[no-any-return, no-untyped-call]
        if self.form == "wake":
            with torch.no_grad():
                z = self.q(x).sample((4,))
        else:
            z = self.q(x).rsample((4,))
        log_p, log_q = self.p(z).log_prob(x) + self.prior.log_prob(z), self.q(x).log_prob(z)  # type: ignore[no-untyped-call]
        weight = (log_p - log_q).detach().softmax(0)
        if self.form == "wake":
            return -(weight * (log_p + log_q)).sum(0).mean()
        return -(weight**2 * (log_p - log_q)).sum(0).mean()


@pytest.mark.parametrize("form", ["wake", "sleep", "doubly reparameterized"])
def test_a_law_that_is_computed_once_to_draw_and_once_more_for_the_density_is_a_posteriors(form: str) -> None:
    bits = (torch.rand(5, 10) > 0.5).float()
    assert roles(Weighed(form), bits) == {"inference[3:6]": "posterior"}


def test_a_patch_of_what_learns_from_dreams_is_verified() -> None:
    torch.manual_seed(0)
    model, bits = Weighed("sleep"), (torch.rand(5, 10) > 0.5).float()
    assert patch(model, posterior="explin", heads=scan(model, bits)).heads


class Helmholtz(nn.Module):
    """Two levels of Normals, written out: the generator learns from codes, and the inference from dreams."""

    def __init__(self, wake: bool, sleep: bool) -> None:
        super().__init__()
        self.wake, self.sleep = wake, sleep
        self.q1, self.q2, self.p1, self.p0 = nn.Linear(8, 8), nn.Linear(4, 4), nn.Linear(2, 8), nn.Linear(4, 16)

    def draw(self, out: Tensor) -> Tensor:
        mean, log_sigma = out.chunk(2, 1)
        return mean + log_sigma.exp() * torch.randn_like(mean)

    def nll(self, value: Tensor, out: Tensor) -> Tensor:
        mean, log_sigma = out.chunk(2, 1)
        return (log_sigma + 0.5 * ((value - mean) / log_sigma.exp()) ** 2).sum(1).mean()

    def forward(self, x: Tensor) -> Tensor:
        loss = torch.zeros(())
        if self.wake:
            with torch.no_grad():
                one = self.draw(self.q1(x))
                two = self.draw(self.q2(one))
            loss = loss + self.nll(x, self.p0(one)) + self.nll(one, self.p1(two)) + 0.5 * two.square().sum(1).mean()
        if self.sleep:
            with torch.no_grad():
                two = torch.randn(len(x), 2)
                one = self.draw(self.p1(two))
                dream = self.draw(self.p0(one))
            loss = loss + self.nll(one, self.q1(dream)) + self.nll(two, self.q2(one))
        return loss


@pytest.mark.parametrize(("wake", "sleep"), [(True, False), (False, True), (True, True)])
def test_wake_and_sleep_give_each_level_the_same_role(wake: bool, sleep: bool) -> None:
    found = roles(Helmholtz(wake, sleep), torch.randn(7, 8))
    assert found == {"q1[4:8]": "posterior", "q2[2:4]": "posterior", "p1[4:8]": "prior", "p0[8:16]": "likelihood"}


class ConditionalPrior(nn.Module):
    """A control: beside a posterior whose law is computed twice, a prior that sees the same data and is not drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.prior, self.decoder = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 6)

    def law(self, out: Tensor) -> Normal:
        mean, log_sigma = out.chunk(2, 1)
        return Normal(mean, log_sigma.exp())

    def forward(self, x: Tensor) -> Tensor:
        z = self.law(self.encoder(x)).rsample()
        log_q, log_p = self.law(self.encoder(x)).log_prob(z), self.law(self.prior(x)).log_prob(z)
        return (self.decoder(z) - x).square().mean() + (log_q - log_p).mean()


def test_a_conditional_prior_of_the_same_data_is_no_second_posterior() -> None:
    assert roles(ConditionalPrior(), torch.randn(6, 6)) == {"encoder[3:6]": "posterior", "prior[3:6]": "prior"}
