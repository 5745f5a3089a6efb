"""Roles that no KL tells: actions and codes, weights, bases of flows, generators beside posteriors, steps of a loop."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.scanning import scan


def roles(model: nn.Module, *inputs: Tensor) -> dict[str, str]:
    torch.manual_seed(1)
    heads = list(scan(model, *inputs))
    found = {f"{head.path}[{head.channels}]": head.role for head in heads}
    assert len(found) == len(heads)
    return found


class SoftActor(nn.Module):
    """Actions are drawn, judged by a critic, and kept apart by their own density, or by the entropy of their Normal."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.actor, self.critic, self.world = nn.Linear(4, 4), nn.Linear(6, 1), nn.GRUCell(2, 4)

    def law(self, state: Tensor) -> Normal:
        mean, log_std = self.actor(state).chunk(2, -1)
        return Normal(mean, log_std.clamp(-20, 2).exp())

    def forward(self, state: Tensor) -> Tensor:
        if self.form == "a world that actions move":
            dreamt = self.world(self.law(state).rsample(), state)
            return -self.critic(F.pad(dreamt, (0, 2))).mean() - 1e-3 * self.law(state).entropy().mean()
        law = self.law(state)
        drawn = law.rsample()
        action = torch.tanh(drawn)
        value = self.critic(torch.cat([state, action], 1)).squeeze(1)
        if self.form == "entropy":
            return (-value - 0.01 * law.entropy().sum(1)).mean()
        if self.form == "written out":
            mean, log_std = self.actor(state).chunk(2, -1)
            drawn = mean + log_std.exp() * torch.randn_like(mean)
            log_prob = -0.5 * ((drawn - mean) / log_std.exp()) ** 2 - log_std
            value = self.critic(torch.cat([state, drawn], 1)).squeeze(1)
            return (0.2 * log_prob.sum(1) - value).mean()
        log_prob = law.log_prob(drawn) - torch.log(1 - action**2 + 1e-6)
        return (0.2 * log_prob.sum(1) - value).mean()


@pytest.mark.parametrize("form", ["density", "written out", "entropy", "a world that actions move"])
def test_actions_are_a_likelihoods(form: str) -> None:
    assert roles(SoftActor(form), torch.randn(6, 4)) == {"actor[2:4]": "likelihood"}


class Coder(nn.Module):
    """Codes with a density of their own, or an entropy: what is made of them is compared with the data."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.encoder, self.decoder, self.critic = nn.Linear(4, 4), nn.Linear(2, 4), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_std = self.encoder(x).chunk(2, -1)
        law = Normal(mean, log_std.exp())
        z = law.rsample()
        if self.form == "entropy":
            return F.mse_loss(self.decoder(z), x) - 0.01 * law.entropy().mean()
        if self.form == "classes":
            return (
                F.cross_entropy(self.decoder(z), x.argmax(1)) + law.log_prob(z).mean() - Normal(0, 1).log_prob(z).mean()
            )
        if self.form == "counts":
            rate = F.softplus(self.decoder(z))
            return (rate - x.abs() * rate.log()).mean() + 0.1 * law.log_prob(z).mean()
        return law.log_prob(z).mean() + 0.5 * z.square().mean() - self.critic(z).mean()


@pytest.mark.parametrize("form", ["entropy", "classes", "counts", "a prior"])
def test_codes_are_a_posteriors(form: str) -> None:
    assert roles(Coder(form), torch.randn(6, 4)) == {"encoder[2:4]": "posterior"}


class DrawnWeights(nn.Module):
    """Bayes by backprop, whose KL is taken the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -3.0))

    def forward(self, x: Tensor) -> Tensor:
        sigma, prior = torch.log1p(torch.exp(self.raw)), torch.tensor(0.1)
        weight = self.mean + torch.empty(3, 6).normal_() * sigma
        kl = 0.5 * (2 * torch.log(sigma / prior) - 1 + (prior / sigma).pow(2) + (self.mean / sigma).pow(2))
        return F.linear(x, weight).pow(2).mean() + kl.sum()


def test_weights_that_are_drawn_are_a_posteriors_even_second_in_a_kl() -> None:
    assert roles(DrawnWeights(), torch.rand(5, 6)) == {"raw[:]": "posterior"}


class LearnedBase(nn.Module):
    """A flow of the data with a learned scale at its end, and a regression whose residual has one."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.log_var, self.net = nn.Parameter(torch.zeros(1)), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        log_s, shift = self.net(a).chunk(2, 1)
        if self.form == "flow":
            z = torch.cat([(b + shift) * torch.sigmoid(log_s), a], 1)
            return (0.5 * (self.log_var + z**2 * torch.exp(-self.log_var))).mean() - F.logsigmoid(log_s).mean()
        residual = b - shift
        return (0.5 * (self.log_var + residual**2 * torch.exp(-self.log_var))).mean()


@pytest.mark.parametrize(("form", "role"), [("flow", "prior"), ("regression", "likelihood")])
def test_the_base_of_a_flow_is_a_prior_and_the_scale_of_a_residual_a_likelihoods(form: str, role: str) -> None:
    assert roles(LearnedBase(form), torch.randn(5, 6)) == {"log_var[:]": role}


class TwoGenerators(nn.Module):
    """A critic tells the codes of a context from those of context and answer; with two codes, both are decoded."""

    def __init__(self, both_decoded: bool) -> None:
        super().__init__()
        self.both_decoded = both_decoded
        self.prior, self.posterior = nn.Linear(3, 6), nn.Linear(6, 6)
        self.critic, self.decoder, self.other = nn.Linear(3, 1), nn.Linear(3, 3), nn.Linear(3, 3)

    def draw(self, out: Tensor) -> Tensor:
        mean, log_var = out.chunk(2, 1)
        return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)

    def forward(self, context: Tensor, answer: Tensor) -> Tensor:
        first, second = self.draw(self.prior(context)), self.draw(self.posterior(torch.cat([context, answer], 1)))
        loss = F.mse_loss(self.decoder(second), answer) - self.critic(second).mean()
        if self.both_decoded:
            return loss + F.mse_loss(self.other(first), context)
        return loss + self.critic(first).mean()


@pytest.mark.parametrize(("both_decoded", "role"), [(False, "prior"), (True, "posterior")])
def test_of_two_generators_the_one_that_sees_less_and_is_not_decoded_is_the_prior(
    both_decoded: bool, role: str
) -> None:
    found = roles(TwoGenerators(both_decoded), torch.randn(5, 3), torch.randn(5, 3))
    assert found == {"prior[3:6]": role, "posterior[3:6]": "posterior"}


class StepByStep(nn.Module):
    """All steps are drawn at once, and their densities compared one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.posterior, self.decoder = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        pm, pv = self.prior(x[..., :3]).chunk(2, -1)
        qm, qv = self.posterior(x).chunk(2, -1)
        z = qm + torch.exp(0.5 * qv) * torch.randn_like(qm)
        loss = F.mse_loss(self.decoder(z), x)
        for t in range(x.shape[1]):
            log_q = -0.5 * (qv[:, t] + (z[:, t] - qm[:, t]) ** 2 / qv[:, t].exp())
            log_p = -0.5 * (pv[:, t] + (z[:, t] - pm[:, t]) ** 2 / pv[:, t].exp())
            loss = loss + (log_q - log_p).mean()
        return loss


def test_densities_of_one_step_of_what_was_drawn_at_once() -> None:
    assert roles(StepByStep(), torch.randn(5, 4, 6)) == {"prior[3:6]": "prior", "posterior[3:6]": "posterior"}


class DrawnLogits(nn.Module):
    """Aleatoric uncertainty of a classifier: logits are drawn and compared, and no network goes on from them."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.log_var = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        mean, sigma = self.logits(x), torch.exp(0.5 * self.log_var(x))
        drawn = mean[None] + sigma[None] * torch.randn(10, *mean.shape)
        return F.nll_loss(drawn.softmax(-1).mean(0).log(), label)


def test_logits_that_are_drawn_and_compared_with_classes_are_a_likelihoods() -> None:
    assert roles(DrawnLogits(), torch.randn(5, 6), torch.arange(5) % 4) == {"log_var[:]": "likelihood"}


class NearAnEarlierPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.new, self.old = nn.Linear(4, 4), nn.Linear(4, 4)

    def law(self, net: nn.Module, state: Tensor) -> Normal:
        mean, log_std = net(state).chunk(2, -1)
        return Normal(mean, log_std.exp())

    def forward(self, state: Tensor, action: Tensor, advantage: Tensor) -> Tensor:
        new, old = self.law(self.new, state), self.law(self.old, state)
        ratio = torch.exp(new.log_prob(action) - old.log_prob(action).detach())
        return -(ratio.sum(-1) * advantage).mean() + kl_divergence(old, new).mean()


def test_a_kl_to_an_earlier_policy_makes_it_no_posterior() -> None:
    found = roles(NearAnEarlierPolicy(), torch.randn(6, 4), torch.randn(6, 2), torch.randn(6))
    assert found == {"new[2:4]": "likelihood", "old[2:4]": "likelihood"}


class Wakeful(nn.Module):
    """A posterior with its KL that also learns, as in the sleep phase, to make codes of the prior likely."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.law(x)
        kl = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)))
        dreamt = torch.randn_like(q.loc)
        return kl.sum() + (self.dec(q.rsample()) - x).pow(2).sum() - q.log_prob(self.dec(dreamt)[:, :4]).sum()

    def law(self, x: Tensor) -> Normal:
        mean, raw = self.enc(x).chunk(2, 1)
        return Normal(mean, raw.exp())


def test_a_posterior_of_a_kl_is_one_whatever_else_is_made_likely_under_it() -> None:
    assert roles(Wakeful(), torch.randn(6, 8)) == {"enc[4:8]": "posterior"}


class Modality(nn.Module):
    """An encoder and a decoder of one kind of data."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

    def posterior(self, x: Tensor) -> Normal:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        return Normal(mean, log_sigma.exp())


class MixtureOfExperts(nn.Module):
    """Each expert is drawn from in turn, and its draw judged by all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Modality(), Modality()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        experts, loss = (self.one.posterior(x), self.two.posterior(y)), x.new_zeros(len(x))
        for expert in experts:
            z = expert.rsample()
            posterior = torch.stack([e.log_prob(z).sum(1) for e in experts]).logsumexp(0)
            error = (self.one.decoder(z) - x).square().sum(1) + (self.two.decoder(z) - y).square().sum(1)
            loss = loss + error + posterior - Normal(0, 1).log_prob(z).sum(1)
        return loss.mean()


def test_each_expert_of_a_mixture_is_a_posterior() -> None:
    torch.manual_seed(0)
    heads = scan(MixtureOfExperts(), torch.randn(9, 6), torch.randn(9, 6))
    assert {(h.path, h.role) for h in heads} == {("one.encoder", "posterior"), ("two.encoder", "posterior")}


class NoiseBesideItsOwn(nn.Module):
    """A decoder whose variance is a part that it emits and one that is learned for all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.mean, self.log_var = nn.Linear(10, 8), nn.Linear(4, 10), nn.Linear(4, 10)
        self.log_noise = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, -1)
        q = Normal(mean, log_sigma.exp())
        z = q.rsample()
        sigma = torch.sqrt(self.log_var(z).exp() + self.log_noise.exp())
        nll = -Normal(self.mean(z), sigma).log_prob(x).sum(-1)
        return (nll + kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)).mean()


class Filter(nn.Module):
    """A Kalman filter: the variance of what is observed is that of the state and the sensor's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step, self.of_state, self.of_sensor = nn.Linear(6, 6), *(nn.Parameter(torch.zeros(6)) for _ in range(2))

    def forward(self, y: Tensor) -> Tensor:
        mean, variance, loss = torch.zeros(y.shape[1:]), torch.ones(y.shape[1:]), torch.zeros(())
        for seen in y:
            mean, variance = self.step(mean), variance + self.of_state.exp()
            whole = variance + self.of_sensor.exp()
            loss = loss - Normal(mean, whole.sqrt()).log_prob(seen).sum(1).mean()
            gain = variance / whole
            mean, variance = mean + gain * (seen - mean), (1 - gain) * variance
        return loss


def test_a_sigma_that_is_a_part_of_that_of_a_normal_of_data_is_a_likelihoods() -> None:
    found = roles(NoiseBesideItsOwn(), torch.randn(16, 10))
    assert found == {"log_noise[:]": "likelihood", "log_var[:]": "likelihood", "enc[4:8]": "posterior"}
    assert {*roles(Filter(), torch.randn(1, 16, 6)).values()} == {"likelihood"}
    heads = scan(Filter(), torch.randn(3, 16, 6))
    assert {head.role for head in heads} == {"likelihood"}
    assert not any("samples from one Normal" in warning for warning in heads.warnings)


def test_a_head_that_has_no_part_in_what_breaks_of_two_together_gets_its_scale() -> None:
    said = io.StringIO()
    handle = vdvae_patch.stabilize(NoiseBesideItsOwn(), torch.randn(16, 10), file=said)
    scales = {h.head.path: h.scale for h in handle.heads}
    assert scales["enc"] is not None
    assert "CURED: enc[4:8]" in said.getvalue()
    (line,) = [line for line in said.getvalue().splitlines() if line.startswith("NOT cured")]
    assert "log_noise[:]" in line
    assert "enc[4:8]" not in line


class Supervised(nn.Module):
    """A conditional prior whose variance is a sum, and whose mean is kept near a label as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec, self.prior = nn.Linear(10, 8), nn.Linear(4, 10), nn.Linear(4, 8)
        self.log_noise = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, -1)
        q = Normal(mean, log_sigma.exp())
        z = q.rsample()
        prior_mean, prior_log_var = self.prior(y).chunk(2, -1)
        p = Normal(prior_mean, torch.sqrt(prior_log_var.exp() + self.log_noise.exp()))
        kl = (q.log_prob(z) - p.log_prob(z)).sum(-1)
        return (0.5 * ((self.dec(z) - x) ** 2).sum(-1) + kl + ((prior_mean - y) ** 2).sum(-1)).mean()


def test_a_mean_that_is_compared_with_data_beside_its_density_makes_no_likelihood_of_its_sigma() -> None:
    found = roles(Supervised(), torch.randn(16, 10), torch.randn(16, 4))
    assert found["log_noise[:]"] == "prior"
    assert found["enc[4:8]"] == "posterior"


class OfHalves(nn.Module):
    """A decoder whose variances are sums of two, of which one is in those of both halves of the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(10, 8), nn.Linear(4, 10)
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(5)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, -1)
        q = Normal(mean, log_sigma.exp())
        z = q.rsample()
        y, own = self.dec(z), F.softplus(self.a)
        nll = torch.zeros(())
        for half, other in ((slice(0, 5), self.b), (slice(5, 10), self.c)):
            nll = nll - Normal(y[:, half], torch.sqrt(own + F.softplus(other))).log_prob(x[:, half]).sum(-1).mean()
        return nll + kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1).mean()


def test_what_breaks_beside_either_of_two_others_is_not_said_to_be_cured() -> None:
    said = io.StringIO()
    vdvae_patch.stabilize(OfHalves(), torch.randn(16, 10), file=said)
    lines = said.getvalue().splitlines()
    (bad,) = [line for line in lines if line.startswith("NOT cured")]
    assert all(f"{name}[:] (likelihood" in bad.split("pushed")[0] for name in "abc")
    (good,) = [line for line in lines if line.startswith("CURED")]
    assert "enc[4:8]" in good
    assert "c[:] (likelihood" not in good
