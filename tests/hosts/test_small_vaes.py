"""The paper's two small VAEs: their layers, their arithmetic as it is written, and what a patch changes of it."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch import scales
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.train.samples import sample_grid

SIZES: dict[str, dict[str, Any]] = {"conv_vae": {"channels": 3}, "mlp_vae": {"pixels": 784}}
SHAPES = {"conv_vae": (4, 3, 32, 32), "mlp_vae": (4, 784)}
HOSTS = tuple(SIZES)


def build(name: str, seed: int = 0, **other: Any) -> nn.Module:
    torch.manual_seed(seed)
    return load_host(name).build(SIZES[name] | other)


def images(name: str) -> Tensor:
    return torch.rand(SHAPES[name], generator=torch.Generator().manual_seed(1))


def losses(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    result: dict[str, Tensor] = model(x)
    return result


def patched(name: str, variant: str, **other: Any) -> nn.Module:
    model = build(name, **other)
    vdvae_patch.patch(model, variant, heads=load_host(name).heads(model), arithmetic="stable")
    return model


@pytest.mark.parametrize("name", HOSTS)
def test_the_upstream_code_knows_nothing_of_patches(name: str) -> None:
    for file in Path(load_host(name).origin.path).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert "vdvae_patch" not in (module or "")


def test_the_layers_are_those_at_the_end_of_the_paper() -> None:
    shapes = {name: tuple(p.shape) for name, p in build("conv_vae").named_parameters() if p.dim() > 1}
    assert shapes == {
        "encoder.main.0.weight": (16, 3, 4, 4),
        "encoder.main.3.weight": (32, 16, 4, 4),
        "encoder.main.6.weight": (64, 32, 4, 4),
        "encoder.mu.weight": (100, 64, 4, 4),
        "encoder.param_sigma.weight": (100, 64, 4, 4),
        "decoder.to_same_dim.weight": (100, 64, 4, 4),
        "decoder.main.0.weight": (64, 32, 4, 4),
        "decoder.main.3.weight": (32, 16, 4, 4),
        "decoder.main.6.weight": (16, 3, 4, 4),
        "gamma.raw": (1, 1, 1, 1),
    }
    linear = {name: tuple(p.shape) for name, p in build("mlp_vae").named_parameters() if p.dim() > 1}
    assert linear == {
        "encoder.0.weight": (128, 784),
        "encoder.2.weight": (256, 128),
        "decoder.0.weight": (128, 128),
        "decoder.2.weight": (1568, 128),
    }
    assert tuple(build("mlp_vae", scale="global").get_parameter("decoder.2.weight").shape) == (784, 128)


@pytest.mark.parametrize("name", HOSTS)
def test_the_loss_is_that_of_torch_distributions(name: str) -> None:
    model: Any = build(name)
    x = images(name)
    found = losses(model, x)
    encoded = model.encoder(x)
    mean, raw = encoded if name == "conv_vae" else encoded.chunk(2, dim=1)
    posterior = Normal(mean, raw.exp())
    torch.manual_seed(5)
    z = mean + raw.exp() * torch.randn(mean.shape)
    if name == "conv_vae":
        likelihood = Normal(model.decoder(z), model.gamma.raw.exp())
    else:
        mean_x, raw_x = model.decoder(z).chunk(2, dim=1)
        likelihood = Normal(mean_x, raw_x.exp())
    rate = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum() / 4
    distortion = -likelihood.log_prob(x).sum() / 4
    torch.testing.assert_close(found["rate"], rate, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["distortion"], distortion, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found["elbo"], found["rate"] + found["distortion"])


@pytest.mark.parametrize("name", HOSTS)
def test_the_host_is_naiveexp_already(name: str) -> None:
    vanilla, naive = losses(build(name), images(name)), losses(patched(name, "naiveexp/vanilla/naiveexp"), images(name))
    assert all(torch.equal(vanilla[key], naive[key]) for key in vanilla)


@pytest.mark.parametrize("name", HOSTS)
def test_exp_is_another_thing_for_these_hosts_and_mends_the_rate(name: str) -> None:
    # -110 is where exp is 0 in float32 and log(exp) is -inf
    outcomes = {}
    for scale in ("naiveexp", "exp"):
        model: Any = patched(name, f"{scale}/vanilla/exp")
        sigma, log_sigma = model.posterior_scale(torch.tensor([-110.0]))
        assert sigma.item() == 0
        outcomes[scale] = log_sigma.item()
    assert outcomes == {"naiveexp": -math.inf, "exp": -110}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("scale", ["explin", "upbounded", "bounded(0.01, 1)"])
def test_a_patch_gives_both_formulas_of_the_scale_to_the_host(name: str, scale: str) -> None:
    model: Any = patched(name, f"{scale}/vanilla/{scale}")
    raw = torch.linspace(-4, 4, 9)
    expected = scales.get(scale)
    for method in ("posterior_scale", "likelihood_scale"):
        sigma, log_sigma = getattr(model, method)(raw)
        assert torch.equal(sigma, expected.sigma(raw))
        assert torch.equal(log_sigma, expected.log_sigma(raw))


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("scale", ["explin", "upbounded", "constant(0.5)"])
def test_of_a_patched_host_loss_and_gradients_are_those_of_its_own_lines_with_the_scales_two_formulas(
    name: str, scale: str
) -> None:
    found: Any = patched(name, scale).double()
    own: Any = build(name).double()
    formulas = scales.get(scale)
    own.posterior_scale = lambda raw: (formulas.sigma(raw), formulas.log_sigma(raw))
    x = images(name).double()
    losses(found, x)["elbo"].backward()
    losses(own, x)["elbo"].backward()
    assert losses(found, x)["rate"].item() == pytest.approx(losses(own, x)["rate"].item(), rel=1e-12)
    for (key, a), (_, b) in zip(found.named_parameters(), own.named_parameters(), strict=True):
        wanted = torch.zeros_like(a) if b.grad is None else b.grad
        torch.testing.assert_close(a.grad, wanted, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("name", HOSTS)
def test_unpatching_restores_the_host_bit_for_bit(name: str) -> None:
    model = build(name)
    before = losses(model, images(name))
    model.load_state_dict(build(name).state_dict())  # batch statistics, too
    handle = vdvae_patch.patch(model, "explin/vanilla/upbounded", heads=load_host(name).heads(model))
    assert not torch.equal(losses(model, images(name))["elbo"], before["elbo"])
    handle.unpatch()
    model.load_state_dict(build(name).state_dict())
    after = losses(model, images(name))
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", HOSTS)
def test_the_heads_name_the_channels_that_emit_the_raw_scales(name: str) -> None:
    model = build(name)
    heads = load_host(name).heads(model)
    assert [head.role for head in heads] == ["posterior", "likelihood"]
    seen = {}
    modules = dict(model.named_modules())
    for head in heads:
        modules[head.path].register_forward_hook(lambda m, i, output, path=head.path: seen.update({path: output}))
    model(images(name))
    for head in heads:
        assert seen[head.path].shape[head.dim] >= (head.stop or 1)


def test_the_scale_of_a_global_model_is_one_head() -> None:
    model = build("mlp_vae", scale="global", mean="sigmoid")
    assert [head.path for head in load_host("mlp_vae").heads(model)] == ["encoder", "gamma"]
    assert losses(model, images("mlp_vae"))["gamma_min"].item() == 1


def test_a_sigmoid_mean_is_inside_0_and_1() -> None:
    model: Any = build("mlp_vae", mean="sigmoid")
    mean, _ = model.decode(100 * torch.randn(8, 128))
    assert 0 <= mean.min() <= mean.max() <= 1


def test_a_mean_or_scale_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'tanh' must be identity or sigmoid"):
        build("mlp_vae", mean="tanh")


@pytest.mark.parametrize(("name", "size", "channels"), [("conv_vae", 32, 3), ("mlp_vae", 28, 1)])
def test_the_entry_trains_evaluates_and_samples(name: str, size: int, channels: int) -> None:
    host = load_host(name)
    entry = trainable(host.entry)
    preset = entry.preset("paper")
    hparams = entry.hyperparameters(preset.architecture, image_size=size, image_channels=channels, data=preset.data)
    torch.manual_seed(0)
    model = host.build(hparams)
    target = torch.rand(3, size, size, channels) * 2 - 1
    found = entry.losses(model, target, target)
    torch.testing.assert_close(found.elbo, found.distortion + found.rate)
    assert 0.5 < found.elbo.item() < 3  # nats per dimension of an untrained unit Gaussian on pixels in [0, 1]
    (latent,) = entry.latents(model, target)
    assert latent.z.shape == latent.kl.shape
    samples = entry.sample(model, 2, 0.8)
    assert samples.shape == (2, size, size, channels)
    assert samples.dtype == "uint8"
    assert (entry.sample(model, 3, 1.0, [latent.z]) == entry.sample(model, 3, 1.0, [latent.z])).all()


def test_the_convolutional_vae_says_which_images_it_takes() -> None:
    entry = trainable(load_host("conv_vae").entry)
    with pytest.raises(InvalidValueError, match="32x32, not of 64x64"):
        entry.hyperparameters(entry.preset("paper").architecture, image_size=64, image_channels=3, data="x")


def test_a_sample_grid_goes_from_the_first_latents_to_all_and_then_from_temperature_1_to_07() -> None:
    asked: list[tuple[float, int]] = []

    class Entry:
        def read(self, images: tuple[Tensor, Tensor]) -> Tensor:
            return images[0]

        def latents(self, model: nn.Module, x: Tensor) -> list[SimpleNamespace]:
            return [SimpleNamespace(z=x) for _ in range(10)]

        def sample(self, model: nn.Module, n: int, temperature: float, given: Sequence[Tensor] = ()) -> Any:
            asked.append((temperature, len(given)))
            return np.zeros((n, 4, 4, 3), dtype=np.uint8)

    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    entry: Any = Entry()
    sample_grid(entry, nn.Identity(), pixels, Normalization(shift=0.0, scale=1.0), seed=0)
    assert asked[:5] == [(0.1, 2), (0.1, 4), (0.1, 6), (0.1, 8), (0.1, 10)]
    assert asked[5:] == [(1.0, 0), (0.9, 0), (0.8, 0), (0.7, 0)]


@pytest.mark.parametrize(("name", "channels"), [("conv_vae", 3), ("mlp_vae", 1)])
def test_images_are_reconstructed_from_the_pixels_that_the_loss_reads(name: str, channels: int) -> None:
    """The encoder is given the same values by the loss and by a sample grid, whatever data are normalized by."""
    host = load_host(name)
    entry: Any = host.entry
    seen: list[Tensor] = []
    side = 32 if name == "conv_vae" else 8
    hparams = {"channels": 3} if name == "conv_vae" else {"pixels": 64}
    model: Any = host.build(hparams).eval()
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    pixels = torch.randint(0, 256, (2, side, side, channels), dtype=torch.uint8)
    normalization = Normalization(shift=33.0, scale=1 / 78.0)
    sample_grid(entry, model, pixels, normalization, seed=0)
    entry.losses(model, *normalization.apply(pixels))
    assert torch.equal(seen[0], seen[-1])
    assert 0 <= float(seen[0].min()) <= float(seen[0].max()) <= 1
