"""Scales that a loss beside the model computes: exchanged there, and called by `handle.loss`."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import losses_beside
import pytest
import torch
import torch.nn.functional as F
from losses_beside import drawn, kl, sigma_of, squared
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch import PatchError, patch, scan, stabilize
from vdvae_patch.scales import Scale

Loss = Callable[..., Tensor]


class VAE(nn.Module):
    """Emits a mean and a raw value; what becomes of them is somebody else's affair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(x).chunk(2, 1)
        return mean, raw

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(x)


X = torch.linspace(-1, 1, 48).reshape(8, 6)


def reference(model: VAE, raw: Tensor, scale: Scale) -> float:
    """The loss of every host here with σ = scale(raw), in float64."""
    torch.manual_seed(1)
    mean = model.encoder(X)[:, :3].double()
    noise = torch.randn_like(mean.float()).double()
    sigma, log_sigma = scale.sigma(raw.double()), scale.log_sigma(raw.double())
    output = F.linear(mean + sigma * noise, model.decoder.weight.double(), model.decoder.bias.double())
    divergence = 0.5 * (mean**2 + sigma**2 - 1) - log_sigma
    return float((output - X.double()).pow(2).sum(1).mean() + divergence.sum(1).mean())


def check(model: VAE, loss: Loss, scale: Scale, convention: Callable[[Tensor], Tensor] | None = None) -> None:
    """The loss is that of σ = scale(raw), wherever the raw values are, past the host's floors and clamps, too."""
    keep = copy.deepcopy(model.encoder.state_dict())
    for at in (-14.0, -7.0, 0.5, 2.0, 5.0):
        with torch.no_grad():
            model.encoder.weight[3:] = 0
            model.encoder.bias[3:] = torch.tensor([at - 0.5, at, at + 0.25])
        raw = model.encoder.bias[3:].detach().expand(8, 3)
        torch.manual_seed(1)
        got = loss(model, X)
        assert float(got) == pytest.approx(reference(model, raw, scale), rel=2e-4), (at, scale)
        (gradient,) = torch.autograd.grad(got, [model.encoder.bias])
        assert bool(gradient.isfinite().all())
        model.encoder.load_state_dict(keep)


# --- spellings of one loss --------------------------------------------------------------------------------------------


def clamped(model: VAE, x: Tensor) -> Tensor:
    mean, v = model.encode(x)
    v = v.clamp(-6, 4)
    std = (0.5 * v).exp()
    z = mean + std * torch.randn_like(std)
    divergence = -0.5 * (1 + v - mean**2 - v.exp()).sum(1).mean()
    return (model.decoder(z) - x).pow(2).sum(1).mean() + divergence


def floored(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + 1e-3
    z = mean + sigma * torch.randn_like(mean)
    divergence = (0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma)).sum(1).mean()
    return squared(model.decoder(z), x) + divergence


def made(floor: float) -> Loss:
    def loss(model: VAE, x: Tensor) -> Tensor:
        mean, raw = model(x)
        sigma = F.softplus(raw) + floor
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    return loss


def nested(model: VAE, x: Tensor) -> Tensor:
    def sigma_from(raw: Tensor) -> Tensor:
        return torch.clamp(F.softplus(raw), min=1e-2)

    mean, raw = model.encode(x)
    sigma = sigma_from(raw)
    return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


def twice(model: VAE, x: Tensor) -> Tensor:
    """Once for the sample, and once for the KL."""
    mean, raw = model.encode(x)
    z = mean + sigma_of(raw) * torch.randn_like(mean)
    return squared(model.decoder(z), x) + kl(mean, sigma_of(raw))


def elsewhere(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = losses_beside.sigma_of(raw, 5e-3)
    return squared(model.decoder(losses_beside.drawn(mean, sigma)), x) + losses_beside.kl(mean, sigma)


def by_default(model: VAE, x: Tensor, floor: float = 1e-2, beta: float = 1.0) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + floor
    return squared(model.decoder(drawn(mean, sigma)), x) + beta * kl(mean, sigma)


def weighted(beta: float, model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = torch.sqrt(raw.exp() + 1e-4)
    return squared(model.decoder(drawn(mean, sigma)), x) + beta * kl(mean, sigma)


def by_normals(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    q = Normal(mean, F.softplus(raw) + 1e-3)
    divergence = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
    return squared(model.decoder(q.rsample()), x) + divergence


def in_place(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    log_sigma = raw.clone().clamp_(-3, 2)
    sigma = log_sigma.exp()
    divergence = (0.5 * (mean**2 + sigma**2 - 1) - log_sigma).sum(1).mean()
    return squared(model.decoder(drawn(mean, sigma)), x) + divergence


def announced(function: Loss) -> Loss:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    return inner


@announced
def decorated(model: VAE, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = F.softplus(raw) + 1e-3
    return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Trainer:
    """A plain object with a setting and a helper of its own."""

    def __init__(self, floor: float = 2e-3) -> None:
        self.floor = floor

    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) + self.floor

    def loss_fn(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        sigma = self.sigma(raw)
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    def __call__(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        low = self.floor
        sigma = torch.clamp(F.softplus(raw), min=self.floor)
        assert low > 0
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)

    @staticmethod
    def static(model: VAE, x: Tensor) -> Tensor:
        mean, raw = model.encode(x)
        sigma = sigma_of(raw, floor=3e-3)
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Criterion(nn.Module):
    """A loss that is a module beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = 4e-3

    def forward(self, model: VAE, mean: Tensor, raw: Tensor, x: Tensor) -> Tensor:
        sigma = F.softplus(raw) + self.floor
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


class Whole(nn.Module):
    """A loss module that runs the model itself."""

    def forward(self, model: VAE, x: Tensor) -> Tensor:
        mean, raw = model(x)
        sigma = F.softplus(raw) + 1e-3
        return squared(model.decoder(drawn(mean, sigma)), x) + kl(mean, sigma)


TRAINER, CRITERION, WHOLE = Trainer(), Criterion(), Whole()
NEVER = Trainer(0.5)

LOSSES: dict[str, Loss] = {
    "clamped": clamped,
    "a floor": floored,
    "a closure with a floor": made(1e-3),
    "a function inside": nested,
    "a helper, twice": twice,
    "another module": elsewhere,
    "a default": by_default,
    "a partial": functools.partial(weighted, 1.0),
    "Normals": by_normals,
    "in place": in_place,
    "decorated": decorated,
    "a method": TRAINER.loss_fn,
    "a static method": Trainer.static,
    "an object": TRAINER,
    "a lambda around a method": lambda model, x: TRAINER.loss_fn(model, x),
    "a lambda alone": lambda m, x: (lambda mean, s: squared(m.decoder(drawn(mean, s)), x) + kl(mean, s))(
        m.encode(x)[0], sigma_of(m.encode(x)[1])
    ),
    "a module beside": lambda model, x: CRITERION(model, *model.encode(x), x),
    "a module that is the call": WHOLE,
}

quiet = pytest.mark.filterwarnings("ignore:.*the host keeps σ at")


@pytest.mark.medium
@quiet
@pytest.mark.parametrize("scale", ["explin", "upbounded(omega=2)", "downbounded(alpha=0.0001)"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_the_handle_has_exactly_the_scale_that_was_promised(name: str, scale: str) -> None:
    model, call = VAE(), LOSSES[name]
    heads = scan(model, X, call=call)
    assert [(h.path, h.channels, h.role) for h in heads] == [("encoder", "3:6", "posterior")]
    assert heads[0].found is not None
    assert heads[0].found.patch_at == "call", heads[0].found.reason
    torch.manual_seed(1)
    before = float(call(model, X))
    handle = patch(model, posterior=scale, heads=heads, paper=True)
    given = handle.heads[0].scale
    assert given is not None
    assert handle.loss is not None
    check(model, handle.loss, given)
    handle.unpatch()
    assert handle.loss is call
    torch.manual_seed(1)
    assert float(call(model, X)) == before


def test_a_scale_that_the_hosts_arithmetic_reaches_needs_no_exchange() -> None:
    model = VAE()
    heads = scan(model, X, call=floored)
    handle = patch(model, posterior="bounded(0.1, 1)", heads=heads, paper=True)
    given = handle.heads[0].scale
    assert given is not None
    assert handle.loss is floored
    assert "handle.loss" not in str(handle)
    check(model, floored, given)


@quiet
def test_the_call_as_it_is_still_has_the_hosts_sigma_and_the_handle_says_so() -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=floored), paper=True)
    assert "test_scan_beside.py:" in str(handle)
    assert "call handle.loss in its place" in str(handle)
    vanilla = VAE()
    torch.manual_seed(1)
    own = float(floored(model, X))
    torch.manual_seed(1)
    assert own == float(floored(vanilla, X))
    assert handle.after_own is not None
    assert handle.after is not None
    assert handle.after_own.loss == handle.before.loss != handle.after.loss  # type: ignore[union-attr]


# --- verdicts, files, pickles, compilers ------------------------------------------------------------------------------


def reciprocal(model: VAE, x: Tensor) -> Tensor:
    """A floor that its arithmetic needs: σ² of a small σ is zero, and its logarithm is taken."""
    mean, raw = model.encode(x)
    sigma = raw.exp() + 1e-3
    divergence = 0.5 * (mean**2 + sigma**2 - 1 - (sigma**2).log()).sum(1).mean()
    return squared(model.decoder(drawn(mean, sigma)), x) + divergence


def test_stabilize_pushes_the_exchanged_loss() -> None:
    said = io.StringIO()
    handle = stabilize(VAE(), X, call=clamped, file=said)
    assert "CURED: encoder[3:6]" in said.getvalue()
    assert "beside the model (test_scan_beside.py:" in said.getvalue()
    assert handle.loss is not clamped
    given = handle.heads[0].scale
    assert given is not None
    assert str(given) == "explin(gain=0.5)"
    assert handle.loss is not None
    check(handle.model, handle.loss, given)  # type: ignore[arg-type]


@pytest.mark.medium
def test_a_scale_with_which_the_exchanged_loss_breaks_is_not_chosen() -> None:
    said = io.StringIO()
    handle = stabilize(VAE(), X, call=reciprocal, file=said)
    given = handle.heads[0].scale
    assert given is None or given.name != "explin"
    assert (given is None or handle.loss is reciprocal) != ("call handle.loss in its place" in said.getvalue())
    assert "got" in said.getvalue() or "kept the host's own" in said.getvalue()
    asked = io.StringIO()
    stabilize(VAE(), X, call=reciprocal, posterior="explin", file=asked)
    assert "NOT cured: encoder[3:6]" in asked.getvalue()
    assert "test_scan_beside.py:" in asked.getvalue()


@quiet
def test_a_saved_patch_comes_back_and_stable_loss_gives_its_scales(tmp_path: Path) -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=twice), paper=True)
    vdvae_patch.save(model, tmp_path / "saved")
    again = vdvae_patch.load(VAE, tmp_path / "saved")
    assert vdvae_patch.patch_json(again) == vdvae_patch.patch_json(model)
    loss = vdvae_patch.stable_loss(again, X, call=twice)
    scale = handle.heads[0].scale
    assert scale is not None
    check(again, loss, scale)
    applied = vdvae_patch.apply(VAE(), handle.to_json())
    assert "stable_loss" in str(applied)
    check(applied.model, vdvae_patch.stable_loss(applied.model, X, call=twice), scale)  # type: ignore[arg-type]
    with pytest.raises(PatchError, match="this call does not compute it"):
        vdvae_patch.stable_loss(again, X, call=lambda model, x: (model(x)[0] ** 2).mean())


@quiet
def test_copies_and_pickles_of_model_and_loss_keep_the_scales() -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=twice), paper=True)
    scale = handle.heads[0].scale
    assert scale is not None
    assert handle.loss is not None
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert vdvae_patch.is_patched(other)
        check(other, pickle.loads(pickle.dumps(handle.loss)), scale)
        check(other, copy.deepcopy(handle.loss), scale)
    assert handle.loss.__name__ == "twice"


@pytest.mark.medium
@quiet
@pytest.mark.parametrize("name", ["clamped", "a floor", "a helper, twice", "a closure with a floor", "a method"])
def test_the_exchanged_loss_compiles(name: str) -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=LOSSES[name]), paper=True)
    assert handle.loss is not None
    scale = handle.heads[0].scale
    assert scale is not None
    torch._dynamo.reset()
    check(model, torch.compile(handle.loss, fullgraph=True, backend="aot_eager"), scale)


@quiet
def test_source_names_the_function_beside_the_model() -> None:
    model = VAE()
    patch(model, posterior="explin", heads=scan(model, X, call=elsewhere), paper=True)
    text = str(vdvae_patch.source(model))
    assert "beside the model: in sigma_of, line" in text
    assert "def stable_posterior_sigma" in text


# --- what is refused, and what must not be exchanged ------------------------------------------------------------------


@quiet
def test_an_argument_that_a_sigma_was_computed_with_can_no_longer_be_given() -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=by_default), paper=True)
    assert handle.loss is not None
    handle.loss(model, X, beta=0.5)
    for given in ({"floor": 0.5}, {"floor": 0.5, "beta": 0.5}):
        with pytest.raises(PatchError, match="depends on 'floor', an argument"):
            handle.loss(model, X, **given)
    with pytest.raises(PatchError, match="depends on 'floor', an argument"):
        handle.loss(model, X, 0.5)


def test_an_argument_of_the_call_that_sigma_depends_on_is_refused() -> None:
    model = VAE()
    heads = scan(model, X, 0.05, call=by_default)
    with pytest.raises(PatchError, match="depends on 'floor', an argument"):
        patch(model, posterior="explin", heads=heads, paper=True)
    assert not vdvae_patch.is_patched(model)


def hooked() -> Loss:
    criterion = Whole()
    criterion.register_forward_hook(lambda module, args, output: output)
    return criterion


def test_a_module_with_hooks_is_not_called_without_them() -> None:
    model = VAE()
    with pytest.raises(PatchError, match="give the call as a plain function"):
        patch(model, posterior="explin", heads=scan(model, X, call=hooked()), paper=True)


def test_heads_from_a_pickle_are_without_the_call() -> None:
    model = VAE()
    heads = scan(model, X, call=floored)
    run = pickle.loads(pickle.dumps(heads[0].scan))
    heads = [vdvae_patch.Head(**{**vars(h), "scan": run}) for h in heads]
    with pytest.raises(PatchError, match="scan the model again"):
        patch(model, posterior="explin", heads=heads, paper=True)


def clamped_twice(model: VAE, x: Tensor) -> Tensor:
    """The mean goes through the same clamp, and a temperature through the same helper."""
    mean, raw = model.encode(x)
    mean, v = mean.clamp(-6, 4), raw.clamp(-6, 4)
    temperature = sigma_of(mean.detach().mean())
    sigma = v.exp()
    z = mean + sigma * torch.randn_like(mean)
    return squared(model.decoder(z), x) + kl(mean, sigma) + 0 * temperature


@quiet
def test_what_is_no_sigma_keeps_its_clamp() -> None:
    model = VAE()
    handle = patch(model, posterior="explin", heads=scan(model, X, call=clamped_twice), paper=True)
    assert handle.loss is not None
    scale = handle.heads[0].scale
    assert scale is not None
    check(model, handle.loss, scale)
    with torch.no_grad():
        model.encoder.weight[:3] = 0
        model.encoder.bias[:3] = 50.0
    mean = torch.full((8, 3), 4.0)  # and not 50
    torch.manual_seed(1)
    got = float(handle.loss(model, X))
    torch.manual_seed(1)
    sigma = scale.sigma(model.encode(X)[1])
    wanted = squared(model.decoder(mean + sigma * torch.randn_like(mean)), X) + kl(mean, sigma)
    assert got == pytest.approx(float(wanted), rel=1e-4)


class TwoLevels(nn.Module):
    """A posterior and a learned prior, both of whose σ one helper computes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.prior, self.decoder = nn.Linear(6, 6), nn.Linear(2, 6), nn.Linear(3, 6)


def conditional(model: TwoLevels, x: Tensor) -> Tensor:
    mean, raw = model.encoder(x).chunk(2, 1)
    prior_mean, prior_raw = model.prior(x[:, :2]).chunk(2, 1)
    sigma, prior_sigma = sigma_of(raw), sigma_of(prior_raw)
    ratio = sigma / prior_sigma
    divergence = 0.5 * (ratio**2 + ((mean - prior_mean) / prior_sigma) ** 2 - 1) - ratio.log()
    return squared(model.decoder(drawn(mean, sigma)), x) + divergence.sum(1).mean()


@quiet
def test_two_heads_that_share_a_helper_have_two_scales() -> None:
    model = TwoLevels()
    heads = scan(model, X, call=conditional)
    assert {(h.path, h.role) for h in heads} == {("encoder", "posterior"), ("prior", "prior")}
    handle = patch(model, posterior="explin", prior="downbounded(alpha=0.0005)", heads=heads, paper=True)
    by_role = {h.head.role: h.scale for h in handle.heads}
    assert handle.loss is not None
    with torch.no_grad():
        for layer, at in ((model.encoder, -9.0), (model.prior, -8.0)):
            layer.weight[3:], layer.bias[3:] = 0, at
    sigma, prior_sigma = (by_role[r].sigma(torch.tensor(at)) for r, at in (("posterior", -9.0), ("prior", -8.0)))  # type: ignore[union-attr,index]
    mean, prior_mean = model.encoder(X)[:, :3], model.prior(X[:, :2])[:, :3]
    torch.manual_seed(1)
    z = mean + sigma * torch.randn_like(mean)
    ratio = sigma / prior_sigma
    divergence = 0.5 * (ratio**2 + ((mean - prior_mean) / prior_sigma) ** 2 - 1) - ratio.log()
    wanted = squared(model.decoder(z), X) + divergence.sum(1).mean()
    torch.manual_seed(1)
    assert float(handle.loss(model, X)) == pytest.approx(float(wanted), rel=1e-4)


class Learned(nn.Module):
    """A learned σ of each pixel in two groups, read by the loss alone under one name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.left, self.right = nn.Linear(6, 6), Half(), Half()


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.log_sigma = nn.Linear(3, 3), nn.Parameter(torch.full((3,), -1.0))


def of_halves(model: Learned, x: Tensor) -> Tensor:
    mean, v = model.encoder(x).chunk(2, 1)
    z = drawn(mean, (0.5 * v).exp())
    left = torch.clamp(model.left.log_sigma, -4, 2)
    right = torch.clamp(model.right.log_sigma, -4, 2)
    nll = (0.5 * ((x[:, :3] - model.left.decoder(z)) / left.exp()) ** 2 + left).sum(1).mean()
    nll = nll + (0.5 * ((x[:, 3:] - model.right.decoder(z)) / right.exp()) ** 2 + right).sum(1).mean()
    return nll - 0.5 * (1 + v - mean**2 - v.exp()).sum(1).mean()


@quiet
def test_a_parameter_that_a_loss_reads_is_told_from_another_of_its_name() -> None:
    model = Learned()
    heads = scan(model, X, call=of_halves)
    assert {h.path for h in heads} == {"encoder", "left.log_sigma", "right.log_sigma"}
    chosen = heads.select(path="left.log_sigma")
    handle = patch(model, likelihood="bounded(0.001, 1)", heads=chosen, paper=True)
    assert handle.loss is not None
    with torch.no_grad():
        model.left.log_sigma.fill_(-30.0)
        model.right.log_sigma.fill_(-30.0)
    torch.manual_seed(1)
    got = float(handle.loss(model, X))
    scale = handle.heads[0].scale
    assert scale is not None
    mean, v = model.encoder(X).chunk(2, 1)
    torch.manual_seed(1)
    z = drawn(mean, (0.5 * v).exp())
    wanted = -0.5 * (1 + v - mean**2 - v.exp()).sum(1).mean()
    for half, x, s in (
        (model.left, X[:, :3], scale.sigma(torch.tensor(-30.0))),
        (model.right, X[:, 3:], torch.tensor(-4.0).exp()),
    ):
        wanted = wanted + (0.5 * ((x - half.decoder(z)) / s) ** 2 + s.log()).sum(1).mean()
    assert got == pytest.approx(float(wanted), rel=1e-4)


class Stepped(VAE):
    """As a LightningModule: its own step calls a free helper, and no call outside is needed."""

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        return twice(self, batch)


@quiet
def test_a_helper_of_a_training_step_is_exchanged_in_the_model() -> None:
    model = Stepped()

    def step(model: Stepped, x: Tensor) -> Tensor:
        return model.training_step(x, 0)

    handle = patch(model, posterior="explin", heads=scan(model, X, call=step), paper=True)
    scale = handle.heads[0].scale
    assert scale is not None
    assert handle.loss is step
    check(model, step, scale)


@quiet
def test_the_batch_is_measured_where_the_loss_reads_it() -> None:
    model = VAE()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, posterior="explin", heads=scan(model, X, call=clamped))
    before, raw = handle.heads[0].before, model.encode(X)[1].detach()
    assert before is not None
    assert before.low == pytest.approx(float((0.5 * raw.min()).exp()), rel=1e-5)
    assert before.high == pytest.approx(float((0.5 * raw.max()).exp()), rel=1e-5)


class WithASigma(VAE):
    """Its likelihood's σ is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(-0.3))


def measured_beside_a_parameter(model: WithASigma, x: Tensor) -> Tensor:
    mean, raw = model.encode(x)
    sigma = torch.logaddexp(raw, torch.zeros_like(raw))
    output = model.decoder(drawn(mean, sigma))
    return -Normal(output, torch.exp(model.log_sigma)).log_prob(x).sum(1).mean() + kl(mean, sigma)


def test_a_document_of_one_head_beside_the_model_leaves_another_there_alone() -> None:
    """Of places beside the model it knows only that there are some, and two of them are not one."""
    model = WithASigma()
    heads = scan(model, X, call=measured_beside_a_parameter)
    assert sorted(head.role for head in heads) == ["likelihood", "posterior"]
    handle = patch(model, posterior="explin", heads=heads)
    assert handle.loss is not None
    other = WithASigma()
    vdvae_patch.apply(other, handle.to_json())
    again = vdvae_patch.stable_loss(other, X, call=measured_beside_a_parameter)
    torch.manual_seed(1)
    expected = handle.loss(model, X)
    torch.manual_seed(1)
    assert torch.equal(again(other, X), expected)
