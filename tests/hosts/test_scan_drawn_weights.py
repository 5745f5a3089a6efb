"""Bayesian layers whose weights are drawn: narrow priors, one line for all layers, biases that no KL measures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import apply, patch_json, source
from vdvae_patch.errors import SharedScaleError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

ACTIVATIONS = {"softplus": F.softplus, "exp": torch.exp, "half": lambda v: (0.5 * v).exp()}


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.mu, self.bias = nn.Parameter(0.1 * torch.randn(outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        self.rho, self.bias_rho = nn.Parameter(torch.full((outputs, inputs), -5.0)), nn.Parameter(torch.zeros(outputs))

    def sigma(self, rho: Tensor) -> Tensor:
        if self.activation == "softplus":
            return F.softplus(rho)
        if self.activation == "half":
            return torch.exp(0.5 * rho)
        return torch.exp(rho)

    def forward(self, x: Tensor) -> Tensor:
        sigma, bias_sigma = self.sigma(self.rho), self.sigma(self.bias_rho)
        weight = self.mu + sigma * torch.randn_like(sigma)
        return F.linear(x, weight, self.bias + bias_sigma * torch.randn_like(bias_sigma))


class Network(nn.Module):
    def __init__(self, activation: str = "exp", prior: float = 1.0, form: str = "torch", biases: bool = True) -> None:
        super().__init__()
        self.first, self.second = Layer(6, 5, activation), Layer(5, 2, activation)
        self.prior, self.form, self.biases = torch.tensor(prior), form, biases

    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor:
        if self.form == "torch":
            return kl_divergence(Normal(mean, sigma), Normal(0.0, self.prior)).sum()
        ratio = sigma / self.prior
        return (0.5 * (ratio**2 + (mean / self.prior) ** 2 - 1) - torch.log(ratio)).sum()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(self.second(torch.relu(self.first(x))), y)
        for layer in (self.first, self.second):
            loss = loss + 1e-3 * self.kl(layer.mu, layer.sigma(layer.rho))
            if self.biases:
                loss = loss + 1e-3 * self.kl(layer.bias, layer.sigma(layer.bias_rho))
        return loss


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(7, 6, generator=generator), torch.randn(7, 2, generator=generator)


NAMES = {f"{layer}.{name}" for layer in ("first", "second") for name in ("rho", "bias_rho")}


@pytest.mark.medium
@pytest.mark.parametrize("form", ["torch", "ratio"])
@pytest.mark.parametrize("prior", [1e-4, 1e-3, 0.03, 1.0, 100.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_are_posteriors_however_narrow_their_prior_is(activation: str, prior: float, form: str) -> None:
    torch.manual_seed(0)
    heads = scan(Network(activation, prior, form), *batch())
    assert {(head.path, head.role) for head in heads} == {(name, "posterior") for name in NAMES}
    assert all(head.found is not None and head.found.confidence == "sure" for head in heads)
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert all(torch.allclose(head.convention.sigma(v), ACTIVATIONS[activation](v)) for head in heads)


@pytest.mark.medium
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_line_that_reads_the_parameters_of_all_layers_is_patched_once(activation: str, biases: bool) -> None:
    """`patch` verifies σ, and would find a scale of a scale."""
    torch.manual_seed(0)
    model = Network(activation, biases=biases)
    handle = patch(model, heads=scan(model, *batch()), posterior="explin", paper=True)
    assert {h.head.path for h in handle.heads} == NAMES
    with torch.no_grad():
        for parameter in (model.first.rho, model.second.rho, model.first.bias_rho, model.second.bias_rho):
            parameter.fill_(200.0)  # where exp is infinite in float32
    loss = model(*batch())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_line_cannot_have_two_scales() -> None:
    model = Network()
    heads = [replace(h, role="prior") if h.path == "first.rho" else h for h in scan(model, *batch())]
    with pytest.raises(SharedScaleError, match="give both the same"):
        patch(model, heads=heads, posterior="explin", prior="upbounded(omega=2)", verify=False)


def test_a_bias_that_is_drawn_and_left_out_of_the_kl_is_a_likely_posterior() -> None:
    torch.manual_seed(0)
    heads = scan(Network(biases=False), *batch())
    known = {h.path: (h.role, h.found.confidence) for h in heads if h.found is not None}
    assert known == {name: ("posterior", "likely" if "bias" in name else "sure") for name in NAMES}


class Ensemble(nn.Module):
    """Three networks, whose outputs are stacked before the density is taken."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        outputs = [net(x) for net in self.nets]
        if self.form == "whole":
            mean, log_var = torch.stack(outputs).chunk(2, -1)
            return (0.5 * ((y - mean) ** 2 * torch.exp(-log_var) + log_var)).mean()
        mean = torch.stack([output[:, :2] for output in outputs])
        if self.form == "Normal":
            sigma = torch.stack([F.softplus(output[:, 2:]) + 1e-6 for output in outputs])
            return -Normal(mean, sigma).log_prob(y).mean()
        if self.form == "mean":
            variance = torch.stack([F.softplus(output[:, 2:]) + 1e-6 for output in outputs]).mean(0)
            return F.gaussian_nll_loss(mean.mean(0), y, variance)
        log_var = torch.stack([output[:, 2:] for output in outputs])
        return F.gaussian_nll_loss(mean, y.expand_as(mean), log_var.exp())


@pytest.mark.parametrize("form", ["whole", "parts", "Normal", "mean"])
def test_each_network_of_a_stacked_ensemble_has_a_likelihood(form: str) -> None:
    torch.manual_seed(0)
    model = Ensemble(form)
    heads = scan(model, *batch())
    assert [(h.path, h.start, h.stop, h.role) for h in heads] == [(f"nets.{i}.2", 2, 4, "likelihood") for i in range(3)]
    handle = patch(model, heads=heads, likelihood="bounded(0.01, 10)")
    assert len(handle.heads) == 3


class Regression(nn.Module):
    """The last layer draws its weights, and puts out the log variance of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Layer(6, 5, "exp"), Layer(5, 2, "exp")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = self.last(torch.tanh(self.first(x))).unbind(-1)
        kl = sum(
            kl_divergence(Normal(layer.mu, layer.sigma(layer.rho)), Normal(0.0, 1.0)).sum()
            for layer in (self.first, self.last)
        )
        nll = F.gaussian_nll_loss(mean, y[:, 0], log_var.exp())
        return nll + 1e-3 * kl


def test_a_layer_that_draws_its_weights_has_a_scale_inside_and_one_at_its_output() -> None:
    torch.manual_seed(0)
    model = Regression()
    heads = [h for h in scan(model, *batch()) if h.path in ("last", "last.rho")]
    handle = patch(model, heads=heads, posterior="bounded(0.02, 1)", likelihood="bounded(0.1, 3)", verify=True)
    x, y = batch()
    with torch.no_grad():
        model.last.rho.fill_(-200.0)
        model.last.bias_rho.fill_(-200.0)
        model.last.bias.copy_(torch.tensor([0.0, -200.0]))
        torch.manual_seed(5)
        out = model.last(torch.eye(5))
        torch.manual_seed(5)
        weight = model.last.mu + 0.02 * torch.randn(2, 5)
    torch.testing.assert_close(out[:, 0], weight[0])
    torch.testing.assert_close((0.5 * out[:, 1]).exp(), torch.full((5,), 0.1))
    torch.manual_seed(1)
    loss = model(x, y)
    other = Regression()
    other.load_state_dict(model.state_dict())
    for again in (pickle.loads(pickle.dumps(model)), apply(other, patch_json(model)).model):
        torch.manual_seed(1)
        assert torch.equal(again(x, y), loss)
    text = str(source(model))
    assert "stable_posterior" in text
    assert "stable_likelihood" in text
    handle.unpatch()
    assert type(model.last) is Layer
