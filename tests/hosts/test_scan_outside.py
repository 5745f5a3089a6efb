"""Scales that a function beside the model computes: called by a method of it, or by the training script."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def kl_to_standard(mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()


def by_hand(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    var = F.softplus(raw) + 1e-3
    return (0.5 * ((x - mean) ** 2 / var + var.log())).sum(1).mean()


def by_function(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return F.gaussian_nll_loss(mean, x, F.softplus(raw) + 1e-3)


CRITERION = nn.GaussianNLLLoss(full=True, reduction="sum")


def by_module(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return CRITERION(mean, x, F.softplus(raw).add(1e-3))


def by_named_argument(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return F.gaussian_nll_loss(input=mean, target=x, var=torch.clamp(raw.exp(), min=1e-3))


class WithFloor:
    """A loss that is an object, with a floor of its own."""

    def __init__(self, floor: float = 0.03) -> None:
        self.floor = floor

    def __call__(this, mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:  # noqa: N805  hosts name it as they like
        return -Normal(mean, raw.exp() + this.floor).log_prob(x).sum(1).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "by hand": by_hand,
    "F.gaussian_nll_loss": by_function,
    "GaussianNLLLoss": by_module,
    "arguments by name": by_named_argument,
    "an object": WithFloor(),
}


class VAE(nn.Module):
    """The model returns parameters; `loss` is a method that calls a function of no class."""

    def __init__(self, nll: Callable[..., Tensor] = by_hand) -> None:
        super().__init__()
        self.encoder, self.decoder, self.nll = nn.Linear(4, 6), nn.Linear(3, 8), nll

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return (*self.decoder(z).chunk(2, 1), mean, log_var)

    def loss(self, x: Tensor) -> Tensor:
        x_mean, raw, mean, log_var = self(x)
        return self.nll(x_mean, raw, x) + kl_to_standard(mean, log_var)


def outside(nll: Callable[..., Tensor]) -> Callable[[VAE, Tensor], Tensor]:
    """A training script's loss: no method of the model leads to it."""

    def loss(model: VAE, x: Tensor) -> Tensor:
        x_mean, raw, mean, log_var = model(x)
        return nll(x_mean, raw, x) + kl_to_standard(mean, log_var)

    return loss


def scanned(model: nn.Module, call: Callable[..., Any]) -> Any:
    heads = scan(model, torch.rand(5, 4), call=call)
    assert {(h.path, h.channels, h.role) for h in heads} == {
        ("encoder", "3:6", "posterior"),
        ("decoder", "4:8", "likelihood"),
    }, f"{heads}"
    return heads


@pytest.mark.medium
@pytest.mark.parametrize("likelihood", ["bounded(0.1, 1)", "explin", "downbounded(alpha=0.001)"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_scale_in_a_function_that_a_method_calls_can_be_any(name: str, likelihood: str) -> None:
    torch.manual_seed(0)
    model = VAE(LOSSES[name])
    heads = scanned(model, lambda m, x: m.loss(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "head decoder.*: the host keeps σ at")
        patch(model, posterior="explin", likelihood=likelihood, heads=heads, paper=True).unpatch()


@pytest.mark.medium
@pytest.mark.parametrize("name", LOSSES)
def test_a_scale_in_a_function_of_the_script_can_be_any_and_is_exchanged_if_the_script_cannot_compute_it(
    name: str,
) -> None:
    torch.manual_seed(0)
    model, call = VAE(), outside(LOSSES[name])
    heads = scanned(model, call)
    handle = patch(model, posterior="explin", likelihood="bounded(0.1, 1)", heads=heads, paper=True)
    assert "is computed beside the model" not in str(handle)
    handle.unpatch()
    for likelihood, verify in (("explin", True), ("downbounded(alpha=0.001)", False)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "head decoder.*: the host keeps σ at")
            handle = patch(model, posterior="explin", likelihood=likelihood, heads=heads, verify=verify, paper=True)
        assert handle.loss is not call
        assert "σ of decoder[4:8] is computed beside the model" in str(handle)
        assert handle.loss is not None
        with torch.no_grad():
            kept = model.decoder.bias.clone()
            model.decoder.bias[4:] = -12.0
        if likelihood == "explin":  # σ is far below the host's own floor
            assert float(handle.loss(model, torch.rand(5, 4))) > 1e5
            assert abs(float(call(model, torch.rand(5, 4)))) < 5e4
        with torch.no_grad():
            model.decoder.bias.copy_(kept)
        handle.unpatch()


class Learned(VAE):
    """One learned σ of all pixels, which the method hands on."""

    def __init__(self, nll: Callable[..., Tensor]) -> None:
        super().__init__(nll)
        self.decoder, self.raw = nn.Linear(3, 4), nn.Parameter(torch.full((4,), -1.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return self.decoder(z), self.raw, mean, log_var


def read_twice(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return (0.5 * ((x - mean) ** 2 * torch.exp(-raw) + raw)).sum(1).mean()


def read_in_pieces(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    error = F.mse_loss(mean, x, reduction="none").sum(0) / len(x)
    return (0.5 * raw.neg().exp() * error).sum() + raw.mul(0.5).sum()


def read_expanded(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return F.gaussian_nll_loss(mean, x, raw.exp().expand_as(x), reduction="sum")


def soft(raw: Tensor, low: float = -6.0) -> Tensor:
    return low + F.softplus(raw - low)


def read_through_a_bound(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    """The bound is computed twice: for σ, and for log σ."""
    return (0.5 * torch.pow((x - mean) / soft(raw).exp(), 2) + soft(raw)).sum(1).mean()


def read_through_a_bound_in_a_line(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    return ((x - mean) ** 2 * torch.exp(-2 * raw.clamp(min=-3)) / 2 + raw.clamp(min=-3)).sum(1).mean()


class Within(Learned):
    """The method that names the parameter is the one that calls the function."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x_mean, _, mean, log_var = super().forward(x)
        return x_mean, mean, log_var

    def loss(self, x: Tensor) -> Tensor:
        x_mean, mean, log_var = self(x)
        return self.nll(x_mean, self.raw, x) + kl_to_standard(mean, log_var)


def of_many(mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    scale = torch.diag_embed(raw.exp().expand_as(mean))
    return -torch.distributions.MultivariateNormal(mean, scale_tril=scale).log_prob(x).mean()


def test_the_scale_of_a_normal_around_a_decoders_mean_is_a_likelihoods() -> None:
    torch.manual_seed(0)
    model = Learned(of_many)
    heads = scan(model, torch.rand(5, 4), call=lambda m, x: m.loss(x))
    assert {(h.path, h.role) for h in heads} == {("encoder", "posterior"), ("raw", "likelihood")}


READ = [by_hand, read_twice, read_in_pieces, read_expanded, read_through_a_bound, read_through_a_bound_in_a_line]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("build", "nll", "call"),
    [
        *((Learned, nll, lambda m, x: m.loss(x)) for nll in READ),
        *((Learned, nll, outside(nll)) for nll in READ[1:4]),
        *((Within, nll, lambda m, x: m.loss(x)) for nll in READ),
    ],
)
def test_a_parameter_that_a_method_hands_on_is_replaced_where_it_is_named(
    build: type[Learned], nll: Callable[..., Tensor], call: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    model = build(nll)
    heads = scan(model, torch.rand(5, 4), call=call)
    assert {(h.path, h.role) for h in heads} == {("encoder", "posterior"), ("raw", "likelihood")}
    patch(model, posterior="explin", likelihood="bounded(0.1, 1)", heads=heads, paper=True).unpatch()


# --- spellings of one free function, and of its call ------------------------------------------------------------------


def floored(raw: Tensor, floor: float = 1e-3) -> Tensor:
    return F.softplus(raw) + floor


def nll(x: Tensor, mean: Tensor, raw: Tensor, *, floor: float = 1e-3) -> Tensor:
    sigma = floored(raw, floor)
    return (0.5 * ((x - mean) / sigma) ** 2 + sigma.log()).sum(-1).mean()


def nll_of_variance(x: Tensor, mean: Tensor, raw: Tensor, eps: float = 1e-4) -> Tensor:
    return F.gaussian_nll_loss(mean, x, raw.exp().clamp(min=eps), full=True)


def of_a_dict(x: Tensor, out: dict[str, Tensor]) -> Tensor:
    return nll_of_variance(x, out["mean"], out["raw"])


def announced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    return inner


@announced
def decorated(x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
    return -Normal(mean, raw.exp() + 1e-2).log_prob(x).sum(-1).mean()


class Losses:
    @staticmethod
    def static(x: Tensor, mean: Tensor, raw: Tensor, floor: float = 1e-2) -> Tensor:
        return -Normal(mean, F.softplus(raw) + floor).log_prob(x).sum(-1).mean()

    @classmethod
    def of_class(cls, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return cls.static(x, mean, raw)


class Criterion(nn.Module):
    """A module that is no part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.GaussianNLLLoss(eps=1e-5)

    def forward(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return self.loss(mean, x, F.softplus(raw) + 1e-3)


OUTSIDE = Criterion()
BY_NAME = {"nll": nll, "variance": nll_of_variance}
WITH_FLOOR = functools.partial(nll_of_variance, eps=1e-3)


class Spelled(VAE):
    floor = 2e-3

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x_mean, raw, mean, log_var = super().forward(x)
        return self.likelihood(x, x_mean, raw) + kl_to_standard(mean, log_var)

    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return nll(x, mean, raw)


class ByKeywords(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return nll(raw=raw, mean=mean, x=x, floor=5e-3)


class OfASetting(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return nll(x, mean, raw, floor=self.floor)


class OfADict(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return of_a_dict(x, {"mean": mean, "raw": raw})


class FromATable(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return BY_NAME["variance"](x, mean, raw)


class Partial(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return WITH_FLOOR(x, mean, raw)


class Static(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return Losses.static(x, mean, raw)


class OfAClass(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return Losses.of_class(x, mean, raw)


class OfAModuleBeside(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return OUTSIDE(x, mean, raw)


class Decorated(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return decorated(x, mean, raw)


class Unpacked(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return nll(*(x, mean), raw)


class InALoop(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        return torch.stack([nll(*rows) for rows in zip(x, mean, raw, strict=True)]).mean()


class OfAVariable(Spelled):
    def likelihood(self, x: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        loss = nll
        return loss(x, mean, raw)


SPELLED = [
    Spelled, ByKeywords, OfASetting, OfADict, FromATable, Partial, Static, OfAClass, OfAModuleBeside, Decorated,
    OfAVariable,
]  # fmt: skip


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:.*the host keeps σ at")
@pytest.mark.parametrize("build", SPELLED)
def test_a_free_function_with_a_floor_is_patched_however_it_is_called(build: type[VAE]) -> None:
    torch.manual_seed(0)
    model = build()
    heads = scanned(model, lambda m, x: m(x))
    patch(model, posterior="explin", likelihood="downbounded(alpha=0.0005)", heads=heads, paper=True).unpatch()


@pytest.mark.parametrize("build", [Unpacked, InALoop])
def test_a_call_whose_arguments_are_not_in_sight_is_refused(build: type[VAE]) -> None:
    torch.manual_seed(0)
    model = build()
    heads = scanned(model, lambda m, x: m(x))
    with pytest.raises(PatchError, match="σ also depends on 'floor', an argument"):
        patch(model, posterior="explin", likelihood="downbounded(alpha=0.0005)", heads=heads, paper=True)


class Annealed(Spelled):
    """The floor is an argument of the model's, of another value at each call."""

    def forward(self, x: Tensor, floor: float = 1e-2) -> Tensor:  # type: ignore[override]
        x_mean, raw, mean, log_var = VAE.forward(self, x)
        return nll(x, x_mean, raw, floor=floor) + kl_to_standard(mean, log_var)


def test_a_floor_that_changes_from_call_to_call_is_not_fixed() -> None:
    torch.manual_seed(0)
    model = Annealed()
    heads = scanned(model, lambda m, x: m(x, 5e-3))
    with pytest.raises(PatchError, match="σ also depends on 'floor', an argument"):
        patch(model, posterior="explin", likelihood="downbounded(alpha=0.0005)", heads=heads, paper=True)


class WeightLaw:
    """A law of weights that is no module: a property computes its σ, and it keeps a Normal for its noise."""

    def __init__(self, mean: Tensor, raw: Tensor) -> None:
        self.mean, self.raw, self.normal = mean, raw, Normal(0, 1)

    @property
    def sigma(self) -> Tensor:
        return torch.log1p(torch.exp(self.raw))

    def sample(self) -> Tensor:
        return self.mean + self.sigma * self.normal.sample(self.raw.size())

    def log_prob(self, weight: Tensor) -> Tensor:
        return (-self.sigma.log() - (weight - self.mean) ** 2 / (2 * self.sigma**2)).sum()


class DrawnWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -3.0))
        self.law = WeightLaw(self.mean, self.raw)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.law.sample()
        return F.linear(x, weight).pow(2).mean() + self.law.log_prob(weight) + 0.5 * weight.pow(2).sum()


def test_a_property_of_an_object_that_is_no_module_is_patched_where_the_model_reads_it() -> None:
    torch.manual_seed(0)
    model, x = DrawnWeights(), torch.rand(5, 6)
    host = WeightLaw.sigma
    heads = scan(model, x)
    assert [(h.path, h.role, str(h.convention)) for h in heads] == [("raw", "posterior", "log1p(exp(v))")]
    handle = patch(model, heads=heads, posterior="bounded(0.01, 2)", paper=True)
    model.raw.data.fill_(1000.0)
    assert float(model(x).detach()) < 1e4  # σ is 2 at most, and would be 1000
    assert WeightLaw.sigma is host
    assert torch.equal(model.law.sigma, torch.log1p(torch.exp(model.raw)))
    handle.unpatch()


def _density(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (math.log(2 * math.pi) + log_var + (x - mean) ** 2 / log_var.exp()).sum(-1)


def test_a_constant_before_a_learned_log_variance_is_not_taken_for_it() -> None:
    torch.manual_seed(0)
    noise = nn.ParameterDict({"log_var": nn.Parameter(torch.linspace(-1, 1, 4))})
    nets = nn.ModuleDict({"enc": nn.Linear(4, 6), "dec": nn.Linear(3, 4), "noise": noise})

    def call(nets: nn.ModuleDict, x: Tensor) -> Tensor:
        mean, log_var = nets["enc"](x).chunk(2, -1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1)
        return (_density(x, nets["dec"](z), nets["noise"]["log_var"]) + kl).mean()

    x = torch.randn(16, 4)
    handle = patch(nets, "vanilla/vanilla/bounded(0.05, 2)", heads=scan(nets, x, call=call), paper=True)
    torch.manual_seed(3)
    got = handle.loss(nets, x)  # type: ignore[misc]
    handle.unpatch()
    sigma = 0.05 + 1.95 * torch.sigmoid(noise["log_var"].detach())
    noise["log_var"].data = 2 * sigma.log()
    torch.manual_seed(3)
    assert float(got) == pytest.approx(float(call(nets, x)), rel=1e-5)
