"""Top priors in hosts by name: what is put in place, what stays, what the rate is then, and who is refused."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import vdvae_patch
from vdvae_patch import load_host, top_priors
from vdvae_patch.errors import HostError, InvalidValueError, PatchError, UnknownNameError
from vdvae_patch.hosts import HOSTS, Host
from vdvae_patch.patching import Variant, patch, unpatch
from vdvae_patch.patching.decoder import apart_state, load_apart_state
from vdvae_patch.patching.top_prior import TOP_PRIOR, density_at, prepared, top_prior_in
from vdvae_patch.patching.variant import with_seams
from vdvae_patch.train.weighing import Weighing

NAMES = ["conv_vae", "mlp_vae", "large_vae_one", "large_vae_two", "vdvae"]
PRIORS = ["standard", "mixture(components=3)", "vamp(components=4)"]


@dataclass
class Case:
    host: Host
    model: Any
    target: Tensor

    @property
    def entry(self) -> Any:
        return self.host.entry

    def patch(self, variant: str, **other: Any) -> vdvae_patch.PatchHandle:
        heads = self.host.heads(self.model) if Variant.parse(variant).sets_scales else []
        return patch(self.model, variant, heads=heads, **other)

    def encoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.host.top_prior_seam(self.model).encode(self.model, images)


def small(name: str, **other: Any) -> Case:
    torch.manual_seed(0)
    hparams: dict[str, dict[str, Any]] = {
        "conv_vae": {"channels": 3, "latents": 4},
        "mlp_vae": {"pixels": 64, "hidden": 16, "latents": 4},
        "large_vae_one": {"size": (8, 8), "hidden": 16, "latents": 4},
        "large_vae_two": {"size": (8, 8), "hidden": 16, "latents": 4, "levels": 2},
    }
    hparams["vdvae"] = {
        "width": 8, "zdim": 2, "num_mixtures": 2, "dataset": "cifar10", "image_size": 8,
        "enc_blocks": "8x1,8d8,1x1", "dec_blocks": "1x1,8m1",
    }  # fmt: skip
    host = load_host("large_vae" if name.startswith("large_vae") else name)
    side, channels = {"conv_vae": (32, 3), "vdvae": (8, 3)}.get(name, (8, 1))
    two = torch.randint(0, 2, (5, side, side, channels)) * 2.0 - 1
    return Case(host, host.build(hparams[name] | other), two)


def terms(case: Case) -> Any:
    torch.manual_seed(2)
    return case.host.decoder_seam(case.model).terms(case.model, case.target, case.target)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("scales", ["vanilla", "explin"])
@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_that_of_the_prior(name: str, scales: str, prior: str) -> None:
    """By torch's distributions, from the encoder's answers."""
    case = small(name)
    case.model.eval()
    case.patch(f"{scales}+{prior}")
    seam = case.host.top_prior_seam(case.model)
    drawn = terms(case)
    torch.manual_seed(2)
    z = case.entry.latents(case.model, case.target)[0].z
    mean, log_sigma = case.encoded(seam.read(case.target))
    assert tuple(mean.shape[1:]) == seam.latents
    assert tuple(seam.read(case.target).shape[1:]) == seam.images
    q = Independent(Normal(mean, log_sigma.exp()), mean.dim() - 1)
    if prior == "standard":
        p = Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
        if not name.startswith("large_vae"):  # hosts with the closed form keep it
            closed = torch.distributions.kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0))
            torch.testing.assert_close(next(iter(drawn.rates.values())), closed.flatten(1).sum(1), rtol=1e-4, atol=1e-4)
            return
    else:
        p = density_at(case.model).log_prob(z)  # type: ignore[union-attr]
    if prior.startswith("vamp"):
        made = top_prior_in(case.model)
        assert isinstance(made, top_priors.Vamp)
        by_hand = [
            Independent(Normal(m, s.exp()), m.dim()) for m, s in zip(*case.encoded(made.pseudo_inputs), strict=True)
        ]
        mixed = torch.stack([each.log_prob(z) for each in by_hand]).logsumexp(0) - torch.tensor(4.0).log()
        torch.testing.assert_close(p, mixed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(next(iter(drawn.rates.values())), q.log_prob(z) - p, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_hosts_own_loss_has_the_prior_too(name: str) -> None:
    case = small(name)
    case.patch("explin+vamp(components=4)")
    drawn = terms(case)
    torch.manual_seed(2)
    losses = case.entry.losses(case.model, case.target, case.target)
    dimensions = case.target[0].numel()
    torch.testing.assert_close(losses.rate * dimensions, sum(drawn.rates.values()).mean(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(losses.distortion * dimensions, drawn.distortion.mean(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(losses.elbo, losses.distortion + losses.rate)


@pytest.mark.parametrize("scales", ["vanilla", "explin"])
def test_the_hosts_own_vampprior_is_ours_from_outside(scales: str) -> None:
    own, ours = small("large_vae_two", prior="vamp", components=6), small("large_vae_two")
    made = prepared("vamp(components=6)", ours.host.top_prior_seam(ours.model))
    assert isinstance(made, top_priors.Vamp)
    with torch.no_grad():
        own.model.pseudo_inputs.raw.copy_(torch.rand(6, 64))
        made.raw.copy_(own.model.pseudo_inputs.raw)
    ours.model.load_state_dict(own.model.state_dict(), strict=False)
    ours.patch(f"{scales}+vamp(components=6)", top_prior=made)
    if scales != "vanilla":
        own.patch(scales)
    for rate, other in zip(terms(own).rates.values(), terms(ours).rates.values(), strict=True):
        torch.testing.assert_close(rate, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_stand_apart_and_unpatching_takes_them_away(name: str, prior: str) -> None:
    case = small(name)
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    parameters = [key for key, _ in case.model.named_parameters()]
    modules = [type(m) for m in case.model.modules()]
    rates = terms(case).rates
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    handle = case.patch(f"explin+{prior}")
    assert torch.equal(torch.rand(3), expected), "the new parameters used up random numbers"
    state = case.model.state_dict()
    buffers_moved = name == "conv_vae"  # by the pass above
    assert list(state) == list(before)
    assert buffers_moved or all(torch.equal(state[key], before[key]) for key in before)
    assert case.model.load_state_dict(state, strict=True).missing_keys == []
    own = [key for key, _ in case.model.named_parameters() if key not in parameters]
    assert {key.split(".")[0] for key in own} == (set() if prior == "standard" else {TOP_PRIOR})
    assert set(apart_state(case.model)) == set(own)
    vdvae_patch.check_intact(case.model)
    handle.unpatch()
    assert [key for key, _ in case.model.named_parameters()] == parameters
    assert [type(m) for m in case.model.modules()] == modules
    case.model.load_state_dict(before)
    assert all(torch.equal(a, b) for a, b in zip(terms(case).rates.values(), rates.values(), strict=True))


@pytest.mark.parametrize(
    "variant", ["vanilla+vamp(4)", "explin+vamp(4)", "explin+optimal+vamp(4)", "vanilla+bernoulli+mixture(3)"]
)
@pytest.mark.parametrize("name", NAMES)
def test_updates_train_all_of_it(name: str, variant: str) -> None:
    case = small(name)
    chosen = Variant.parse(variant)
    case.patch(variant)
    weighing = Weighing.of(chosen, case.host, case.model, torch.device("cpu"))
    assert weighing is not None
    run = weighing.module(case.model).train()
    learned = {key: p for key, p in run.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(learned.values(), lr=1e-2)
    before = {key: p.detach().clone() for key, p in learned.items()}
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        weighing.weigh(run(case.target, case.target)).loss.backward()  # type: ignore[no-untyped-call]
        assert not [key for key, p in learned.items() if p.grad is None], "a parameter without a gradient stops DDP"
        assert all(p.grad.isfinite().all() for p in learned.values() if p.grad is not None)
        optimizer.step()
        weighing.settle(case.model, torch.zeros(()))
    top = [key for key in learned if TOP_PRIOR in key]
    assert top
    assert all((learned[key] != before[key]).any() for key in top)
    assert all(value.isfinite() for value in weighing.measure(case.model.eval(), case.target, case.target))


def test_pseudo_inputs_leave_the_statistics_of_images_alone() -> None:
    case = small("conv_vae")
    case.patch("vanilla+vamp(components=4)")
    case.model.train()
    twin = small("conv_vae")
    for each in (case, twin):
        torch.manual_seed(2)
        each.entry.losses(each.model.train(), each.target, each.target).elbo.backward()
    for (key, value), other in zip(twin.model.named_buffers(), case.model.buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=key)
    assert all(m.training for m in case.model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_a_prior_is_copied_pickled_and_sampled(name: str) -> None:
    case = small(name)
    case.patch("explin+vamp(components=3)")
    case.model.eval()
    stream = io.BytesIO()
    torch.save(case.model, stream)
    stream.seek(0)
    expected = terms(case).rates
    for other in (copy.deepcopy(case.model), torch.load(stream, weights_only=False)):
        twin = Case(case.host, other, case.target)
        assert all(torch.equal(a, b) for a, b in zip(terms(twin).rates.values(), expected.values(), strict=True))
        unpatch(other)
        assert top_prior_in(other) is None
    images = case.entry.sample(case.model, 3, 0.5)
    assert images.shape == (3, *case.target.shape[1:])


def test_a_model_with_a_prior_compiles_whole() -> None:
    case = small("mlp_vae")
    case.patch("explin+vamp(components=3)")
    x = case.host.top_prior_seam(case.model).read(case.target)
    compiled = torch.compile(case.model, fullgraph=True, backend="aot_eager")
    found = []
    for run in (case.model, compiled):
        torch.manual_seed(1)
        found.append(run(x)["elbo"])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_of_latents_from_the_prior(name: str) -> None:
    """A mixture far away from 0 shows which latents were decoded."""
    case = small(name)
    case.patch("explin+mixture(components=2)")
    made: Any = top_prior_in(case.model)
    with torch.no_grad():
        made.mean.fill_(7.0)
        made.raw.fill_(-9.0)
    seen = []
    layer = {
        "vdvae": lambda m: m.decoder.dec_blocks[0].z_proj, "large_vae_two": lambda m: m.p_z1_z2,
    }.get(name, lambda m: m.decoder)(case.model)  # fmt: skip
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    case.entry.sample(case.model, 3, 1.0)
    if name != "vdvae":
        case.model.sample(3, 1.0)
        assert len(seen) >= 2
    assert seen
    for z in seen:
        torch.testing.assert_close(z, torch.full_like(z, 7.0), rtol=0, atol=0.01)


def test_what_stands_apart_can_be_carried_to_another_model() -> None:
    one, other = small("mlp_vae"), small("mlp_vae")
    for case, seed in ((one, 1), (other, 2)):
        torch.manual_seed(seed)
        case.patch("explin+optimal+vamp(components=3)")
    assert any(not torch.equal(v, apart_state(other.model)[k]) for k, v in apart_state(one.model).items())
    load_apart_state(other.model, apart_state(one.model))
    assert all(torch.equal(v, apart_state(other.model)[k]) for k, v in apart_state(one.model).items())


def test_variants_name_a_top_prior_anywhere_after_the_scales() -> None:
    for text in ("explin/constant+optimal+vamp(100)", "explin/constant+vamp(components=100)+optimal"):
        assert str(Variant.parse(text)) == "explin/constant+optimal+vamp(components=100)"
    assert str(with_seams("vanilla", None, None, "vamp(500)")) == "vanilla+vamp"
    assert str(with_seams("vanilla+vamp(5)", "optimal", None, "vamp(5)")) == "vanilla+optimal+vamp(components=5)"
    assert not Variant.parse("vanilla+standard").is_vanilla
    with pytest.raises(InvalidValueError, match="names top prior vamp"):
        with_seams("vanilla+vamp", None, None, "standard")
    with pytest.raises(InvalidValueError, match="two top priors"):
        Variant.parse("vanilla+vamp+standard")
    with pytest.raises(UnknownNameError, match="decoder or objective or top prior 'vampp'; did you mean 'vamp'"):
        Variant.parse("vanilla+vampp")
    with pytest.raises(InvalidValueError, match="scales first"):
        Variant.parse("vamp(100)")


@pytest.mark.parametrize("name", ["diffusers", "pythae", "nvae", "efficient_vdvae"])
def test_a_host_without_an_encoder_call_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(HostError, match=f"{name}' takes no top prior: (?!its entry does not say)"):
        HOSTS.get(name).top_prior_seam(nn.Linear(1, 1))


def test_a_host_with_a_vampprior_of_its_own_is_refused() -> None:
    case = small("large_vae_one", prior="vamp")
    with pytest.raises(HostError, match="beside the VampPrior that it has"):
        case.patch("explin+vamp(3)")
    assert not vdvae_patch.is_patched(case.model)


def test_an_encoder_that_gives_something_else_leaves_the_model_as_it_was() -> None:
    case = small("mlp_vae")
    seam = case.host.top_prior_seam(case.model)
    wrong = type(seam)((63,), seam.latents, seam.encode, seam.read, seam.instead)
    with pytest.raises(InvalidValueError, match="cannot be called on pseudo-inputs"):
        case.patch("explin+vamp(3)", top_prior_seam=wrong)
    other = type(seam)(seam.images, (9,), seam.encode, seam.read, seam.instead)
    with pytest.raises(InvalidValueError, match=r"latents being \[9\]"):
        case.patch("explin+vamp(3)", top_prior_seam=other)
    assert not vdvae_patch.is_patched(case.model)
    assert top_prior_in(case.model) is None


def lower_posterior(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a two-level host must not give for its upper latent's posterior."""
    mean, log_var = model.encode(images)
    above = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
    mean, log_var = model.q_z1(model.q_z1_joint(torch.cat([model.q_z1_x(images), model.q_z1_z2(above)], dim=1)))
    return mean, 0.5 * log_var


def test_the_posterior_of_a_latent_below_another_is_refused() -> None:
    case = small("large_vae_two")
    seam = case.host.top_prior_seam(case.model)
    wrong = type(seam)(seam.images, seam.latents, lower_posterior, seam.read, seam.instead)
    with pytest.raises(InvalidValueError, match="depends on a draw"):
        case.patch("explin+vamp(3)", top_prior_seam=wrong)
    assert not vdvae_patch.is_patched(case.model)


def test_a_host_with_dropout_takes_a_top_prior_and_stays_in_training() -> None:
    case = small("mlp_vae")
    case.model.encoder = nn.Sequential(*case.model.encoder, nn.Dropout(0.0))
    case.model.train()
    case.model.encoder[1] = nn.Sequential(case.model.encoder[1], nn.Dropout(0.5))
    case.patch("vanilla+vamp(3)")
    assert all(module.training for module in case.model.modules())


def test_a_model_that_nobody_described_is_told_what_to_call() -> None:
    with pytest.raises(PatchError, match=r"top_prior_seam=host\.top_prior_seam"):
        patch(nn.Linear(2, 2), top_prior="vamp(3)")


def test_balance_is_refused_beside_a_top_prior() -> None:
    case = small("mlp_vae")
    variant = Variant.parse("vanilla+balance+vamp(3)")
    patch(case.model, variant.of_model)
    with pytest.raises(InvalidValueError, match="not told apart"):
        Weighing.of(variant, case.host, case.model, torch.device("cpu"))


def test_a_handle_says_what_was_put_there() -> None:
    handle = small("mlp_vae").patch("vanilla+vamp(3)")
    assert str(handle) == (
        "top prior vamp(components=3) in the place of the host's own; 192 numbers of its own, apart from the state_dict"
    )
