"""The gated dense VAEs: layers and arithmetic, what a patch changes of it, and that the scan finds their heads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

import vdvae_patch
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.decoders.masses import log_logistic_mass
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.train.probe import probe_heads

HOST = load_host("large_vae")
MODULE: Any = HOST.modules["vae"]
SMALL: dict[str, Any] = {"size": (4, 3), "hidden": 16, "latents": 3, "components": 5}
KINDS = [(levels, prior) for levels in (1, 2) for prior in ("standard", "vamp")]


def build(seed: int = 0, **other: Any) -> Any:
    torch.manual_seed(seed)
    return HOST.build(SMALL | other)


def images(likelihood: str, count: int = 6) -> Tensor:
    grey = torch.randint(0, 256, (count, 12), generator=torch.Generator().manual_seed(1))
    return (grey > 127).float() if likelihood == "bernoulli" else grey / 255


def losses(model: Any, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    found: dict[str, Tensor] = model(x)
    return found


def logistic(raw_mean: Tensor, raw_scale: Tensor, x: Tensor) -> Tensor:
    """By the host's own function, which is compared with sums of masses below."""
    found: Tensor = MODULE.log_logistic_256(x, raw_mean.sigmoid().clamp(1 / 512, 511 / 512), raw_scale.clamp(-4.5, 0))
    return found


def test_the_logistic_is_the_mass_of_each_grey_levels_bin() -> None:
    torch.manual_seed(0)
    mean, log_scale = torch.rand(50, 1).double(), 4.5 * torch.rand(50, 1).double() - 4.5
    levels = (torch.arange(256) / 255).double().expand(50, 256)
    each = MODULE.log_logistic_256(levels, mean, log_scale).exp() - 1e-7
    pixels = PixelGrid(1 / 512, 511 / 512)
    open_ended = log_logistic_mass(pixels.low + pixels.range * levels, mean, log_scale, pixels).exp()
    torch.testing.assert_close(each[:, 1:-1], open_ended[:, 1:-1], rtol=1e-5, atol=1e-12)
    assert (each.sum(dim=1) < 1 + 1e-9).all()
    assert (each[:, [0, 255]] <= open_ended[:, [0, 255]]).all()


def test_the_layers_are_the_papers() -> None:
    entry = trainable(HOST.entry)
    sizes = {}
    for name in ("standard", "hvae-vamp"):
        chosen = entry.preset(name).architecture
        hparams = entry.hyperparameters(chosen, image_size=28, image_channels=1, data="mnist-thresholded")
        model = HOST.build(hparams)
        sizes[name] = {key: tuple(p.shape) for key, p in model.named_parameters() if p.dim() > 1}
    gate = sizes["standard"].pop("encoder.0.gate.weight")
    assert gate == sizes["standard"]["encoder.0.linear.weight"] == (300, 784)
    assert sizes["standard"]["q_z.log_var.weight"] == (40, 300)
    assert sizes["standard"]["output.weight"] == (784, 300)
    two = sizes["hvae-vamp"]
    assert two["pseudo_inputs.raw"] == (500, 784)
    assert two["q_z1_joint.gate.weight"] == two["p_x_joint.linear.weight"] == (300, 600)
    assert two["p_z1.mean.weight"] == (40, 300)


def test_a_gated_dense_layer_is_linear_times_sigmoid() -> None:
    layer, x = MODULE.GatedDense(5, 3), torch.randn(7, 5)
    torch.testing.assert_close(layer(x), layer.linear(x) * (1 / (1 + torch.exp(-layer.gate(x)))))


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_the_loss_is_the_bound_by_torchs_distributions(levels: int, prior: str, likelihood: str) -> None:
    model = build(levels=levels, prior=prior, likelihood=likelihood).double()
    x = images(likelihood).double()
    torch.manual_seed(5)
    latents, rates = model.infer(x)
    found = losses(model, x)

    def normal(mean: Tensor, log_var: Tensor) -> Independent:
        return Independent(Normal(mean, (0.5 * log_var).exp()), 1)

    top = latents[0]
    p = normal(torch.zeros_like(top), torch.zeros_like(top))
    if prior == "vamp":
        u = model.pseudo_inputs.raw.clamp(0, 1)
        p = MixtureSameFamily(Categorical(torch.ones(5).double()), normal(*model.encode(u)))
    rate = normal(*model.encode(x)).log_prob(top) - p.log_prob(top)
    torch.testing.assert_close(next(iter(rates.values())), rate)
    if levels == 2:
        joint = model.q_z1_joint(torch.cat([model.q_z1_x(x), model.q_z1_z2(top)], dim=1))
        below = normal(*model.p_z1(model.p_z1_z2(top)))
        rate = rate + normal(*model.q_z1(joint)).log_prob(latents[1]) - below.log_prob(latents[1])
    emitted = model.emit(latents)
    if likelihood == "bernoulli":
        nll = -Bernoulli(logits=emitted).log_prob(x).sum(1)
    else:
        nll = -logistic(emitted[:, :12], emitted[:, 12:], x).sum(1)
    torch.testing.assert_close(found["rate"], rate.mean())
    torch.testing.assert_close(found["distortion"], nll.mean())
    torch.testing.assert_close(found["elbo"], (rate + nll).mean())


@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_the_stable_functions_compute_what_the_hosts_do_and_go_away_again(levels: int, prior: str) -> None:
    model, x = build(levels=levels, prior=prior), images("bernoulli")
    before = losses(model, x)
    handle = vdvae_patch.patch(model, "exp", heads=HOST.heads(model), arithmetic="stable")
    for key, value in losses(model, x).items():
        torch.testing.assert_close(value, before[key])
    handle.unpatch()
    assert all(torch.equal(value, before[key]) for key, value in losses(model, x).items())


@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_scales_hold_for_every_posterior_and_for_those_of_pseudo_inputs(levels: int, prior: str) -> None:
    """By replacing the log variances by hand, in the host's own arithmetic."""
    model, x = build(levels=levels, prior=prior), images("bernoulli")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "log_var.weight" in name:
                p.mul_(3)
    heads = HOST.heads(model)
    assert [head.role for head in heads] == (["posterior"] if levels == 1 else ["posterior", "posterior", "prior"])
    handle = vdvae_patch.patch(model, "upbounded", heads=heads)
    found = losses(model, x)
    (scale,) = {str(patched.scale): patched.scale for patched in handle.heads}.values()
    handle.unpatch()
    assert scale is not None
    hooks = [
        model.get_submodule(head.path).register_forward_hook(lambda m, i, out: 2 * scale.log_sigma(out))
        for head in heads
    ]
    expected = losses(model, x)
    for hook in hooks:
        hook.remove()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_a_log_variance_that_breaks_the_host_is_cured(levels: int, prior: str) -> None:
    model, x = build(levels=levels, prior=prior), images("bernoulli")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("log_var.bias") and name.startswith("q_z"):
                p.fill_(-210.0)  # σ² is rounded to zero, and σ is not
    assert not losses(model, x)["elbo"].isfinite()
    vdvae_patch.patch(model, "exp", heads=HOST.heads(model), arithmetic="stable")
    found = losses(model, x)
    assert all(value.isfinite() for value in found.values())
    found["elbo"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_scan_finds_the_heads_that_the_entry_names(levels: int) -> None:
    model, x = build(levels=levels, prior="standard"), images("bernoulli")
    found = vdvae_patch.scan(model, x)
    wanted = {(head.path, head.role, str(head.convention)) for head in HOST.heads(model)}
    assert {(head.path, head.role, str(head.convention)) for head in found} == wanted


def test_the_likelihood_is_what_fits_the_data() -> None:
    entry = trainable(HOST.entry)
    architecture: Any = entry.preset("standard").architecture
    sizes: dict[str, Any] = {"image_size": 28, "image_channels": 1}
    chosen = {
        name: entry.hyperparameters(architecture, data=name, **sizes)["likelihood"]
        for name in ("mnist", "mnist-thresholded", "mnist-drawn-anew(seed=3)", "frey-faces", "fashion-mnist")
    }
    assert list(chosen.values()) == ["logistic", "bernoulli", "bernoulli", "logistic", "logistic"]
    frey = entry.hyperparameters(architecture, data="frey-faces", image_width=20, **sizes)
    assert frey["size"] == (28, 20)
    with pytest.raises(InvalidValueError, match="grey images; cifar10 has 3"):
        entry.hyperparameters(architecture, image_size=32, image_channels=3, data="cifar10")


def test_a_bernoulli_of_grey_values_is_refused() -> None:
    entry = trainable(HOST.entry)
    grey = torch.tensor([0.0, 255.0, 51.0]).view(1, 3, 1, 1) / 127.5 - 1
    with pytest.raises(InvalidValueError, match="such as 51: take --likelihood logistic"):
        entry.check_data(build(likelihood="bernoulli"), grey)
    entry.check_data(build(likelihood="logistic"), grey)
    entry.check_data(build(likelihood="bernoulli"), grey.sign())


@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_samples_are_images_and_given_latents_are_used(levels: int, prior: str) -> None:
    entry, model = trainable(HOST.entry), build(levels=levels, prior=prior, likelihood="logistic")
    target = images("logistic").view(-1, 4, 3, 1) * 2 - 1
    latents = [latent.z for latent in entry.latents(model, target)]
    assert len(latents) == levels
    once, again = (entry.sample(model, 6, 1.0, latents) for _ in range(2))
    assert (once == again).all()
    assert once.shape == (6, 4, 3, 1)
    assert not (entry.sample(model, 6, 1.0) == entry.sample(model, 6, 1.0)).all()


def test_samples_of_a_vamp_come_from_all_pseudo_inputs() -> None:
    model = build(prior="vamp")
    with torch.no_grad():
        model.pseudo_inputs.raw.copy_(torch.rand(5, 12))
        model.q_z.log_var.bias.fill_(-30)
    means, _ = model.encode(model.pseudo_inputs())
    nearest = torch.cdist(model.draw_prior(300), means).argmin(dim=1)
    assert len(nearest.unique()) == 5
    assert torch.bincount(nearest).min() > 300 / 5 - 5 * math.sqrt(300 / 5)


def test_the_upstream_code_imports_torch_alone() -> None:
    text = (Path(HOST.origin.path) / "vae.py").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert all("vdvae_patch" not in line for line in lines)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_look_at_the_heads_has_the_kl_of_the_latent_that_each_is_of(levels: int) -> None:
    """The one prior of two levels is the lower latent's, and not the first latent's."""
    model = build(levels=levels)
    x = 2 * images("bernoulli").view(-1, 4, 3, 1) - 1
    torch.manual_seed(7)
    rates = {
        name: float(rate.detach().mean()) for name, rate in HOST.decoder_seam(model).terms(model, x, x).rates.items()
    }
    torch.manual_seed(7)
    states = probe_heads(trainable(HOST.entry), model, HOST.heads(model), x)
    assert len(set(rates.values())) == levels
    for state in states:
        latent = state.path.split(".")[0][2:]  # q_z2.log_var and p_z1.log_var
        assert state.kl == pytest.approx(rates[latent], rel=1e-5), state.path
    assert [state.path for state in states] == ["q_z.log_var"] * (levels == 1) + [
        "q_z2.log_var", "q_z1.log_var", "p_z1.log_var"
    ] * (levels == 2)  # fmt: skip
    backwards = probe_heads(trainable(HOST.entry), model, HOST.heads(model)[::-1], x)
    assert [state.path for state in backwards] == [state.path for state in states][::-1]
    torch.manual_seed(7)
    assert {s.path: s.kl for s in probe_heads(trainable(HOST.entry), model, HOST.heads(model)[::-1], x)} == {
        s.path: s.kl for s in states
    }


@pytest.mark.parametrize(("levels", "prior"), KINDS)
def test_pseudo_inputs_are_no_images_of_the_posterior_means(levels: int, prior: str) -> None:
    """They pass through the same layers, behind the images."""
    model, x = build(levels=levels, prior=prior), images("bernoulli")
    means = trainable(HOST.entry).posterior_means(model, 2 * x.view(-1, 4, 3, 1) - 1)
    assert means is not None
    assert [mean.shape for mean in means] == [(6, 3)] * levels
    torch.testing.assert_close(means[0], model.encode(x)[0])


@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_a_look_has_the_extremes_of_every_call_of_a_heads_layer(prior: str) -> None:
    model, x = build(levels=1, prior=prior), images("bernoulli")
    passed = [x] if prior == "standard" else [x, model.pseudo_inputs()]
    own = 0.5 * model.encode(torch.cat(passed))[1]
    (state,) = probe_heads(trainable(HOST.entry), model, HOST.heads(model), 2 * x.view(-1, 4, 3, 1) - 1)
    assert (state.log_sigma_min, state.log_sigma_max) == pytest.approx(
        (float(own.detach().min()), float(own.detach().max())), rel=1e-5
    )
