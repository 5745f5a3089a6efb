"""Kinds of ordinary code that a fifth look at public models showed to be misread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


def rows(size: int = 6) -> Tensor:
    return torch.randn(9, size, generator=torch.Generator().manual_seed(1))


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return [(head.path, str(head.channel_range), head.role) for head in heads]


@pytest.mark.parametrize("name", ["std", "log", "exp", "sum", "cat", "var"])
def test_a_parameter_may_have_the_name_of_an_operation(name: str) -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Linear(6, 2)
            self.register_parameter(name, nn.Parameter(torch.zeros(2)))

        def forward(self, state: Tensor, action: Tensor) -> Tensor:
            return -Normal(self.mean(state), F.softplus(getattr(self, name))).log_prob(action).mean()

    model = Policy()
    heads = scan(model, rows(), rows(2))
    assert found(heads) == [(name, ":", "likelihood")]
    patch(model, heads=heads, likelihood="bounded(0.01, 10)")


def test_a_scan_of_a_patched_model_says_that_it_is_patched() -> None:
    torch.manual_seed(0)
    model = NearObserved()
    heads = scan(model, rows(), rows(2))
    assert "patched (" not in str(heads)
    patch(model, heads=heads, likelihood="downbounded(0.01)")
    assert "the model is patched (net[2:4] (likelihood, log_variance) downbounded(alpha=0.01" in str(
        scan(model, rows(), rows(2))
    )
    vdvae_patch.unpatch(model)
    assert "patched (" not in str(scan(model, rows(), rows(2)))


class DroppedOut(nn.Module):
    """Dropout behind the mean and the log variance; NumPy's noise is one vector for the whole batch."""

    def __init__(self, noise: str, leaky: bool) -> None:
        super().__init__()
        self.noise = noise

        def layer() -> nn.Module:
            return nn.Sequential(nn.Linear(6, 3), nn.LeakyReLU() if leaky else nn.Identity(), nn.Dropout(0.2))

        self.mean, self.log_var, self.decoder = layer(), layer(), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        size = (3,) if self.noise == "one vector" else (len(x), 3)
        noise = torch.randn(size) if self.noise == "torch" else torch.Tensor(np.random.normal(size=size))
        z = mean + noise * torch.exp(log_var / 2)
        kl = -0.5 * torch.mean(1 + log_var - mean.pow(2) - torch.exp(log_var))
        return kl + (self.decoder(z) - x).square().mean()


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("noise", ["torch", "NumPy", "one vector"])
def test_dropout_may_lie_between_a_network_and_its_normal(noise: str, leaky: bool) -> None:
    torch.manual_seed(0)
    np.random.seed(1)  # of both signs, else a vector of three is not taken for a draw
    model = DroppedOut(noise, leaky)
    heads = scan(model, rows())
    assert found(heads) == [("log_var.0", ":", "posterior")]
    assert heads[0].found is not None
    assert len(heads[0].found.evidence) == 2, "the sampler's noise, and the KL"


class ClampedInside(nn.Module):
    """The encoder clamps its log variance and returns it; the loss takes its exponential, for a Normal."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.net(x).chunk(2, -1)
        log_var = torch.clip(log_var, min=-7, max=10)
        std = torch.exp(0.5 * log_var)
        return mean, log_var, mean + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var, z = self.encode(x * torch.ones_like(x))
        unit = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        kl = kl_divergence(Normal(mean, torch.exp(0.5 * log_var)), unit).mean()
        return kl + (self.decoder(z) - x).square().mean()


def test_a_sigma_that_carries_its_log_is_taken_where_its_function_has_the_raw_value() -> None:
    """Else the argument of `encode`, which is the data, would go through a scale."""
    torch.manual_seed(0)
    model = ClampedInside()
    handle = patch(model, heads=scan(model, rows()), posterior="explin")
    assert [str(h.head.channel_range) for h in handle.heads] == ["3:6"]
    model.net.bias.data[3:] = -12.0  # below the clamp, which is the host's own
    assert model(rows()).isfinite()


class NearObserved(nn.Module):
    """A regression whose law is kept near a narrow Normal around what was observed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = self.net(x).chunk(2, -1)
        std, noise = torch.exp(0.5 * log_var), torch.tensor(1e-2)
        kl = torch.log(noise) - torch.log(std) + (std**2 + (mean - y) ** 2) / (2 * noise**2) - 0.5
        return kl.mean()


def test_a_kl_to_a_normal_around_data_is_of_a_likelihood() -> None:
    torch.manual_seed(0)
    assert found(scan(NearObserved(), rows(), rows(2))) == [("net", "2:4", "likelihood")]


class TanhPolicy(nn.Module):
    """The mean is squashed, log σ is a parameter, an action is drawn that the loss does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(6, 2), nn.Parameter(torch.full((2,), -0.5))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        law = Normal(torch.tanh(self.mean(state)), torch.exp(self.log_std))
        law.sample()
        return -law.log_prob(action).mean() - 0.001 * law.entropy().mean()


def test_the_density_of_given_actions_is_a_likelihood_whatever_is_done_to_the_mean() -> None:
    torch.manual_seed(0)
    assert found(scan(TanhPolicy(), rows(), rows(2))) == [("log_std", ":", "likelihood")]


@pytest.mark.parametrize(
    "pool", [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(4), nn.Upsample(scale_factor=2)]
)
def test_channels_are_kept_through_a_pooling_of_sequences(pool: nn.Module) -> None:
    class TakingTurns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Sequential(nn.Conv1d(6, 8, 5, padding=2), pool), nn.Conv1d(4, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = F.elu(self.encoder(x))
            mean, log_var = h[:, 0::2], h[:, 1::2]
            out = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
            kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean()
            return kl + (out - F.adaptive_avg_pool1d(x, out.shape[-1])).square().mean()

    torch.manual_seed(0)
    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    assert found(scan(TakingTurns(), x)) == [("encoder.1", "1:8:2", "posterior")]


class TakenForALogSigma(nn.Module):
    """The encoder clamps; the sampler takes what it returns for log σ, the KL for a log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_var, self.decoder = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.log_var(x).clamp(-18, 18)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encode(x)
        z = mean + log_var.exp() * torch.randn_like(mean)
        kl = -0.5 * torch.mean(1 + log_var - mean.pow(2) - log_var.exp())
        return kl + (self.decoder(z) - x).square().mean()


def test_one_expression_that_is_read_in_two_ways_is_said_and_a_patch_makes_them_one() -> None:
    torch.manual_seed(0)
    model, x = TakenForALogSigma(), rows()
    heads = scan(model, x)
    assert any("in ways that disagree" in warning and "a patch makes them one" in warning for warning in heads.warnings)
    with torch.no_grad():
        model.log_var.weight.zero_()
        model.log_var.bias.fill_(3)
    with pytest.warns(UserWarning, match="keeps σ at"):
        handle = patch(model, heads=heads, posterior="explin")
    torch.manual_seed(1)
    loss = model(x)
    mean, sigma = model.mean(x), torch.tensor(4.0)  # explin(3)
    torch.manual_seed(1)
    z = mean + sigma * torch.randn_like(mean)
    kl = -0.5 * torch.mean(1 + 2 * sigma.log() - mean.pow(2) - sigma.square())
    torch.testing.assert_close(loss, kl + (model.decoder(z) - x).square().mean())
    handle.unpatch()


class Lists(nn.Module):
    """Bayesian layers whose parameters lie in lists; the KL goes through them and reads log variances bare."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ParameterList(0.1 * torch.randn(4, size) for size in (6, 4))
        self.log_vars = nn.ParameterList(torch.full((4, size), -6.0) for size in (6, 4))

    def forward(self, x: Tensor) -> Tensor:
        h, kl = x, torch.zeros(())
        for mean, log_var in zip(self.means, self.log_vars, strict=True):
            h = torch.tanh(F.linear(h, mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)))
            kl = kl - 0.5 * torch.sum(log_var) + 0.5 * torch.sum(torch.exp(log_var) + mean**2)
        return (h - x[:, :4]).square().mean() + 1e-3 * kl


def test_parameters_in_lists_are_replaced_wherever_they_are_operands() -> None:
    torch.manual_seed(0)
    model = Lists()
    heads = scan(model, rows())
    assert found(heads) == [("log_vars.0", ":", "posterior"), ("log_vars.1", ":", "posterior")]
    saved = patch(model, heads=heads, posterior="explin").to_json()
    with torch.no_grad():
        model.log_vars[0].fill_(300.0)  # exp(300) is infinite in float32
    loss = model(rows())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    again = Lists()
    again.load_state_dict(model.state_dict())
    vdvae_patch.apply(again, saved)
    torch.manual_seed(2)
    expected = model(rows())
    torch.manual_seed(2)
    assert torch.equal(again(rows()), expected)


@pytest.mark.parametrize("alike", [True, False])
def test_two_codes_whose_scales_are_all_that_a_layer_puts_out_are_one_head(alike: bool) -> None:
    class TwoCodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log_sigma, self.decoder = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            (m1, m2), (s1, s2) = self.mean(x).split([3, 2], 1), self.log_sigma(x).split([3, 2], 1)
            laws = Normal(m1, s1.exp()), Normal(m2, s2.exp() if alike else F.softplus(s2))
            kl = sum(kl_divergence(q, Normal(torch.zeros(()), torch.ones(()))).mean() for q in laws)
            z = torch.cat([q.rsample() for q in laws], 1)
            return (self.decoder(z) - x).square().mean() + kl

    torch.manual_seed(0)
    heads = found(scan(TwoCodes(), rows()))
    parts = [("log_sigma", ":3", "posterior"), ("log_sigma", "3:5", "posterior")]
    assert heads == ([("log_sigma", ":", "posterior")] if alike else parts)


@pytest.mark.parametrize("trained", [True, False])
def test_a_table_of_log_variances_that_is_not_trained_is_a_constant(trained: bool) -> None:
    class MixtureOfPriors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
            self.means, self.log_sigmas = nn.Embedding(3, 2), nn.Embedding(3, 2)
            self.log_sigmas.weight.requires_grad = trained

        def forward(self, x: Tensor, k: Tensor) -> Tensor:
            mean, log_sigma = self.encoder(x).chunk(2, 1)
            q, p = Normal(mean, log_sigma.exp()), Normal(self.means(k), self.log_sigmas(k).exp())
            return (self.decoder(q.rsample()) - x).square().mean() + kl_divergence(q, p).mean()

    torch.manual_seed(0)
    heads = found(scan(MixtureOfPriors(), rows(), torch.arange(9) % 3))
    assert [head for head in heads if head[2] == "posterior"] == [("encoder", "2:4", "posterior")]
    assert [head[0] for head in heads if head[2] == "prior"] == (["log_sigmas"] if trained else [])


def test_an_action_that_is_drawn_without_a_gradient_for_the_critics_target_is_no_code() -> None:
    class ActorCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.critic = nn.Linear(6, 4), nn.Linear(8, 1)

        def act(self, state: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
            mean, raw = self.net(state).chunk(2, 1)
            law = Normal(mean, raw.clamp(-20, 2).exp())
            action = law.rsample() if gradient else law.sample()
            bounded = torch.tanh(action)
            return bounded, (law.log_prob(action) - torch.log(1 - bounded.pow(2) + 1e-6)).sum(1, keepdim=True)

        def value(self, state: Tensor, action: Tensor) -> Tensor:
            value: Tensor = self.critic(torch.cat([state, action], 1))
            return value

        def forward(self, state: Tensor, action: Tensor, reward: Tensor, after: Tensor, done: Tensor) -> Tensor:
            with torch.no_grad():
                next_action, log_prob = self.act(after, False)
                target = reward + 0.99 * ~done * (self.value(after, next_action) - 0.01 * log_prob)
            loss = F.mse_loss(self.value(state, action), target)
            drawn, log_prob = self.act(state, True)
            return loss + (0.01 * log_prob - self.value(state, drawn)).mean()

    torch.manual_seed(0)
    batch = rows(), rows(2), rows(1), rows() + 1, torch.zeros(9, 1, dtype=torch.bool)
    assert found(scan(ActorCritic(), *batch)) == [("net", "2:4", "likelihood")]
