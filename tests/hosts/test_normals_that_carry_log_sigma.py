"""A patched host's Normals know log σ of the raw value, and not as the log of a σ that has been rounded."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

import vdvae_patch
from vdvae_patch.distributions import StableNormal, carried, carrying

X = torch.linspace(-1, 1, 128).reshape(16, 8)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def loss(self, q: Normal, x: Tensor) -> Tensor:
        z = q.rsample()
        kl = kl_divergence(q, Normal(torch.zeros_like(z), torch.ones_like(z)))
        return ((self.dec(z) - x) ** 2).mean() + kl.mean()


class OneExpression(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, raw.exp()), x)


class LogVariance(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(loc=mu, scale=torch.exp(0.5 * raw)), x)


class Steps(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        half = raw / 2
        sigma = torch.exp(half)
        return self.loss(Normal(mu, sigma), x)


class InAHelper(Base):
    def sigma(self, raw: Tensor) -> Tensor:
        return (raw * 0.5).exp()

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, self.sigma(raw)), x)


class Softplus(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, nn.functional.softplus(raw)), x)


class Independently(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        q = Independent(Normal(mu, raw.exp()), 1)
        p = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
        return ((self.dec(q.rsample()) - x) ** 2).mean() + kl_divergence(q, p).mean() / 4


class ALayerForEach(Base):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw = nn.Linear(8, 4), nn.Linear(8, 4)
        self.raw.bias.data[:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(Normal(self.mean(x), self.raw(x).exp()), x)


class ByTheLogOfASum(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, torch.log1p(torch.exp(raw))), x)


class OfTwoLogarithms(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, torch.logaddexp(raw, torch.zeros_like(raw))), x)


class SquarePlus(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        sigma = 0.5 * (raw + torch.sqrt(raw * raw + 4))
        return self.loss(Normal(mu, sigma), x)


class Chosen(Base):
    """Explin itself, in the host's own words."""

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, torch.where(raw > 0, raw + 1, torch.exp(raw))), x)


KNOWN_BY_THE_SCALE_ALONE = (ByTheLogOfASum, OfTwoLogarithms, SquarePlus, Chosen)
"""Hosts whose own σ has no better known logarithm: the scale that stands in its place has one."""


def _far_down(model: nn.Module, raw: float) -> nn.Parameter:
    layer = model.raw if isinstance(model, ALayerForEach) else model.enc
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight[-4:] = 0
        layer.bias[-4:] = raw
    return layer.bias


MODELS: dict[type[Base], float] = {
    OneExpression: 1.0,
    LogVariance: 0.5,
    Steps: 0.5,
    InAHelper: 0.5,
    Softplus: 1.0,
    Independently: 1.0,
    ALayerForEach: 1.0,
}


@pytest.mark.parametrize("raw", [-100.0, -150.0])
@pytest.mark.parametrize("how", ["patched", "by a document"])
@pytest.mark.parametrize("build", KNOWN_BY_THE_SCALE_ALONE)
def test_a_scale_knows_the_logarithm_of_a_sigma_of_which_the_host_knows_none(
    build: type[Base], how: str, raw: float
) -> None:
    model = build()
    handle = vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, X), paper=True)
    if how == "by a document":
        model = build()
        vdvae_patch.apply(model, handle.to_json())
    bias = _far_down(model, raw)
    model(X).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:], torch.full((4,), -0.25), atol=1e-3, rtol=0)


@pytest.mark.medium
@pytest.mark.parametrize("raw", [-60.0, -95.0, -100.0, -110.0, -1000.0])
@pytest.mark.parametrize("build", MODELS)
def test_the_kls_gradient_is_that_of_log_sigma_wherever_sigma_is_rounded(build: Callable[[], Base], raw: float) -> None:
    model = build()
    vdvae_patch.stabilize(model, X, file=io.StringIO(), paper=build is Softplus)
    bias = _far_down(model, raw)
    loss = model(X)
    loss.backward()
    assert torch.isfinite(loss)
    # the mean over 4 latents of −log σ
    slope = MODELS[build]  # type: ignore[index]  # the models are classes
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:], torch.full((4,), -slope / 4), atol=1e-3, rtol=0)


@pytest.mark.medium
@pytest.mark.parametrize("raw", [-12.0, -16.0, -20.0, -1000.0])
def test_so_it_is_in_half_precision(raw: float) -> None:
    model = OneExpression().half()
    vdvae_patch.stabilize(model, X.half(), file=io.StringIO())
    bias = _far_down(model, raw)
    model(X.half()).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:].float(), torch.full((4,), -0.25), atol=1e-2, rtol=0)


def test_a_host_that_is_left_as_it_is_has_the_logarithm_too() -> None:
    class TwoHeads(OneExpression):
        pass

    model = TwoHeads()
    heads = vdvae_patch.scan(model, X)
    vdvae_patch.patch(model, "vanilla", heads=heads, arithmetic="stable")
    bias = _far_down(model, -200.0)
    model(X).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:], torch.full((4,), -0.25), atol=1e-3, rtol=0)


def test_it_comes_back_from_a_saved_patch() -> None:
    model, again = LogVariance(), LogVariance()
    handle = vdvae_patch.stabilize(model, X, file=io.StringIO())
    vdvae_patch.apply(again, handle.to_json())
    bias = _far_down(again, -300.0)
    again(X).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:], torch.full((4,), -0.125), atol=1e-3, rtol=0)


class Clamped(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, torch.exp(0.5 * torch.clamp(raw, -20, 20))), x)


class ClampedBefore(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        raw = raw.clamp(-10, 10)
        return self.loss(Normal(mu, (raw / 2).exp()), x)


class SoftlyClamped(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        log_sigma = 5 * torch.tanh(raw / 10)
        sigma = log_sigma.exp()
        return self.loss(Normal(mu, sigma), x)


class Root(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        variance = raw.exp()
        return self.loss(Normal(mu, variance.sqrt()), x)


class ClampedRoot(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        raw = torch.clamp(raw, max=8.0)
        return self.loss(Normal(mu, torch.exp(raw) ** 0.5), x)


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        return self.loss(Normal(mu, raw.mul(0.5).exp_()), x)


class ClampedAndDoubled(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        log_sigma = raw.clamp(-7, 7)
        return self.loss(Normal(mu, log_sigma.exp() * 2), x)


@pytest.mark.parametrize("raw", [-210.0, -1000.0])
@pytest.mark.parametrize(
    ("build", "slope"),
    [(Clamped, 0.5), (ClampedBefore, 0.5), (SoftlyClamped, None), (Root, 0.5), (ClampedRoot, 0.5), (InPlace, 0.5)],
)
def test_past_a_clamp_a_root_and_what_is_done_in_place_too(
    build: Callable[[], Base], slope: float | None, raw: float
) -> None:
    model = build()
    handle = vdvae_patch.stabilize(model, X, posterior="explin", probe=False, file=io.StringIO())
    (head,) = handle.heads
    assert head.scale is not None
    slope = slope or head.scale.of_log_sigma()[0] * getattr(head.scale, "gain", 1.0)
    bias = _far_down(model, raw)
    model(X).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[-4:], torch.full((4,), -slope / 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("build", [Clamped, ClampedBefore, ClampedAndDoubled, Root, ClampedRoot])
def test_what_is_carried_is_the_log_of_what_the_normal_is_made_of(build: Callable[[], Base]) -> None:
    model = build()
    with torch.no_grad():
        model.enc.bias[-4:] = -3  # where explin is the exponential
    handle = vdvae_patch.stabilize(model, X, posterior="explin", probe=False, file=io.StringIO())
    assert handle.before is not None
    assert handle.after is not None
    assert handle.after.loss == pytest.approx(handle.before.loss, rel=1e-5)


def test_a_sigma_that_is_changed_in_place_carries_nothing_more() -> None:
    sigma = torch.zeros(3)
    assert carried(carrying(sigma, torch.full((3,), -200.0))) is not None
    sigma += 1e-6
    assert carried(sigma) is None
    torch.testing.assert_close(StableNormal(torch.zeros(3), sigma).log_scale, torch.full((3,), 1e-6).log())


def test_a_logarithm_of_another_shape_is_not_carried() -> None:
    assert carried(carrying(torch.ones(3, 1), torch.zeros(3))) is None


class LearnedPrior(Base):
    """The prior's log σ is a parameter, which a patch replaces wherever it is named."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.full((4,), -0.2))

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        z = mu + (0.5 * raw).exp() * torch.randn_like(mu)
        kl = Normal(mu, (0.5 * raw).exp()).log_prob(z) - Normal(0, self.prior.exp()).log_prob(z)
        return ((self.dec(z) - x) ** 2).mean() + kl.mean()


def beside(model: LearnedPrior, x: Tensor) -> Tensor:
    mu, raw = model.enc(x).chunk(2, 1)
    z = mu + (0.5 * raw).exp() * torch.randn_like(mu)
    kl = Normal(mu, (0.5 * raw).exp()).log_prob(z) - Normal(0, model.prior.exp()).log_prob(z)
    return ((model.dec(z) - x) ** 2).mean() + kl.mean()


@pytest.mark.parametrize("scale", ["constant", "upbounded(2)"])
@pytest.mark.parametrize("call", [None, beside])
def test_a_parameter_that_is_patched_beside_it_takes_no_posterior_its_logarithm(
    scale: str, call: Callable[..., Tensor] | None
) -> None:
    model = LearnedPrior()
    handle = vdvae_patch.stabilize(model, X, call=call, posterior="explin", prior=scale, file=io.StringIO())
    with torch.no_grad():
        model.enc.bias[4:] = -190.0  # a σ of exp(-95), whose inverse is more than float32 holds
    loss = model(X) if call is None else handle.loss(model, X)
    loss.backward()
    assert model.enc.bias.grad is not None
    torch.testing.assert_close(model.enc.bias.grad[4:], torch.full((4,), -0.125))  # -½ of log σ each, a mean of four


class Twin(Base):
    """A posterior with explin written in by hand, or `exp` to be patched; what is done with its σ, or its Normal."""

    def __init__(self, *, patched: bool, of_sigma: Callable[[Tensor], object], of_normal: Callable[[Normal], object]):
        super().__init__()
        self.patched, self.of_sigma, self.of_normal = patched, of_sigma, of_normal

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.enc(x).chunk(2, 1)
        sigma = raw.exp() if self.patched else torch.where(raw <= 0, raw.clamp(max=0).exp(), raw + 1)
        self.of_sigma(sigma)
        q = Normal(mu, sigma)
        self.of_normal(q)
        return self.loss(q, x)


def nothing(given: object) -> None:
    """Leave it as it is."""


def clipped(sigma: Tensor) -> None:
    if sigma.requires_grad:
        sigma.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))


def tempered(q: Normal) -> None:
    q.scale = 0.5 * q.scale


@pytest.mark.parametrize(("of_sigma", "of_normal"), [(clipped, nothing), (nothing, tempered)])
def test_what_a_host_does_with_a_sigma_or_a_normal_that_was_made_is_done(
    of_sigma: Callable[[Tensor], object], of_normal: Callable[[Normal], object]
) -> None:
    results = []
    for patched in (True, False):
        model = Twin(patched=patched, of_sigma=of_sigma if of_normal is nothing else nothing, of_normal=nothing)
        if patched:
            vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, X))
        model.of_normal = of_normal
        torch.manual_seed(3)
        loss = model(X)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat([g.flatten() for g in gradients])))
    (loss, gradients), (expected, of_twin) = results
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, of_twin)


def test_a_sigma_whose_gradient_is_retained_has_the_whole() -> None:
    kept: list[Tensor] = []

    def retain(sigma: Tensor) -> None:
        if sigma.requires_grad:
            sigma.retain_grad()
            kept.append(sigma)

    for patched in (True, False):
        model = Twin(patched=patched, of_sigma=nothing, of_normal=nothing)
        if patched:
            vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, X))
        model.of_sigma = retain
        torch.manual_seed(3)
        model(X).backward()
    ours, of_twin = (sigma.grad for sigma in kept)
    torch.testing.assert_close(ours, of_twin)


def carried_far() -> StableNormal:
    raw = torch.full((3,), -120.0)
    return StableNormal(torch.zeros(3), carrying(raw.exp(), raw))


def saved(q: StableNormal) -> StableNormal:
    file = io.BytesIO()
    torch.save(q, file)
    file.seek(0)
    again: StableNormal = torch.load(file, weights_only=False)
    return again


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q)), saved])
def test_a_copy_knows_log_sigma_as_well(copied: Callable[[StableNormal], StableNormal]) -> None:
    q = copied(carried_far())
    assert q.log_scale.tolist() == [-120.0] * 3
    assert q.entropy().tolist() == carried_far().entropy().tolist()
    assert q.expand((2, 3)).log_scale.tolist() == [[-120.0] * 3] * 2


def test_a_scale_that_is_exchanged_or_changed_in_place_has_its_own_logarithm() -> None:
    q = carried_far()
    q.scale = torch.full((3,), 2.0)
    assert q.entropy().tolist() == pytest.approx(Normal(torch.zeros(3), 2.0).entropy().tolist())
    q.scale.mul_(0.5)
    assert q.entropy().tolist() == pytest.approx(Normal(torch.zeros(3), 1.0).entropy().tolist())
    q.scale = 0.5  # type: ignore[assignment]  # as torch's Normal takes it
    assert float(q.log_prob(torch.tensor(1.0))[0]) == pytest.approx(float(Normal(0.0, 0.5).log_prob(torch.tensor(1.0))))


def test_a_hook_changes_no_gradient_where_sigma_is_rounded() -> None:
    gradients = []
    for hooked in (False, True):
        raw = torch.tensor([-120.0, -1.0, 2.0], requires_grad=True)
        sigma = carrying(raw.exp(), raw)
        if hooked:
            sigma.register_hook(lambda gradient: None)
        StableNormal(torch.zeros(3), sigma).entropy().sum().backward()
        gradients.append(raw.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_hooked_sigma_is_transformed() -> None:
    def entropy(raw: Tensor) -> Tensor:
        sigma = carrying(raw.exp(), raw)
        sigma.register_hook(lambda gradient: None)
        return StableNormal(torch.zeros(3), sigma).entropy().sum()

    raw = torch.tensor([[-3.0, -1.0, 2.0], [0.0, 1.0, -2.0]])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(entropy))(raw), torch.ones(2, 3))
