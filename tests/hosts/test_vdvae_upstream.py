"""Our VDVAE by itself: names, shapes, start, noise, temperature and given latents."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from torch import nn
from vdvae_patch.upstream.vdvae import hps, vae, vae_helpers

SIZES = ["stress", "tiny", "five_bit", "custom_widths", "starts_at_zero"]


def _preset(name, size):
    H = hps.Hyperparams(bottleneck_multiple=0.25, no_bias_above=64, num_mixtures=10, image_channels=3, image_size=size)
    H.update(hps.HPARAMS_REGISTRY[name])
    return H


def test_cifar10_has_its_published_size():
    with torch.device("meta"):
        model = vae.VAE(_preset("cifar10", 32))
    tensors = model.state_dict().values()
    assert (len(tensors), sum(t.numel() for t in tensors)) == (1393, 39_145_700)
    assert len(model.decoder.dec_blocks) == 43


def test_parameters_have_the_names_and_shapes_of_published_checkpoints():
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in vae.VAE(_preset("cifar10", 32)).state_dict().items()}
    expected = {
        "encoder.in_conv.weight": (384, 3, 3, 3),
        "encoder.enc_blocks.0.c1.weight": (96, 384, 1, 1),
        "encoder.enc_blocks.0.c2.weight": (96, 96, 3, 3),
        "encoder.enc_blocks.32.c3.bias": (96,),
        "encoder.enc_blocks.29.c2.weight": (96, 96, 3, 3),
        "encoder.enc_blocks.30.c2.weight": (96, 96, 1, 1),
        "decoder.dec_blocks.0.enc.c1.weight": (96, 768, 1, 1),
        "decoder.dec_blocks.0.enc.c3.weight": (96, 96, 1, 1),
        "decoder.dec_blocks.1.enc.c3.weight": (96, 96, 3, 3),
        "decoder.dec_blocks.42.enc.c4.weight": (32, 96, 1, 1),
        "decoder.dec_blocks.42.prior.c4.weight": (416, 96, 1, 1),
        "decoder.dec_blocks.42.z_proj.weight": (384, 16, 1, 1),
        "decoder.dec_blocks.42.resnet.c4.bias": (384,),
        "decoder.bias_xs.0": (1, 384, 1, 1),
        "decoder.bias_xs.4": (1, 384, 32, 32),
        "decoder.gain": (1, 384, 1, 1),
        "decoder.bias": (1, 384, 1, 1),
        "decoder.out_net.out_conv.weight": (100, 384, 1, 1),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    tops = ["encoder.in_conv", "encoder.enc_blocks", "decoder.gain", "decoder.bias", "decoder.dec_blocks"]
    tops += ["decoder.bias_xs", "decoder.out_net"]
    assert list(dict.fromkeys(".".join(name.split(".")[:2]) for name in shapes)) == tops


@pytest.mark.parametrize(("resolution", "window"), [(1, 1), (2, 1), (3, 3), (4, 3), (32, 3)])
def test_inner_convolutions_look_around_only_above_resolution_two(resolution, window):
    block = vae.Block(resolution, 6, 4, 8)
    windows = [layer.kernel_size for layer in (block.c1, block.c2, block.c3, block.c4)]
    assert windows == [(1, 1), (window, window), (window, window), (1, 1)]


@pytest.mark.parametrize(("name", "size", "likelihood_channels"), [("ffhq256", 256, 100), ("ffhq1024", 1024, 20)])
def test_resolutions_above_64_start_without_a_bias(name, size, likelihood_channels):
    with torch.device("meta"):
        model = vae.VAE(_preset(name, size))
    assert [b.shape[2] for b in model.decoder.bias_xs] == [1, 4, 8, 16, 32, 64]
    assert model.decoder.out_net.out_conv.out_channels == likelihood_channels


def test_initialization_draws_layer_by_layer_in_the_published_order(build_vdvae):
    """Each convolution, drawn afresh in the documented order and scaled as documented, is the model's own."""
    model = build_vdvae("custom_widths")
    weights = model.state_dict()
    torch.manual_seed(0)

    def expect(name, fan_in, fan_out, window, factor=1.0):
        layer = nn.Conv2d(fan_in, fan_out, window)
        torch.testing.assert_close(weights[f"{name}.weight"], layer.weight.data * factor, rtol=1e-6, atol=0)
        assert torch.equal(weights[f"{name}.bias"], torch.zeros(fan_out))

    def expect_block(name, resolution, fan_in, inner, fan_out, factor=1.0):
        window = 3 if resolution > 2 else 1
        expect(f"{name}.c1", fan_in, inner, 1)
        expect(f"{name}.c2", inner, inner, window)
        expect(f"{name}.c3", inner, inner, window)
        expect(f"{name}.c4", inner, fan_out, 1, factor)

    widths = {16: 8, 8: 12, 4: 24, 1: 24}
    expect("encoder.in_conv", 3, 8, 3)
    for i, r in enumerate([16, 16, 8, 8, 4, 4, 1]):
        expect_block(f"encoder.enc_blocks.{i}", r, widths[r], widths[r] // 4, widths[r], math.sqrt(1 / 7))
    for i, r in enumerate([1, 4, 4, 8, 16]):
        name, width = f"decoder.dec_blocks.{i}", widths[r]
        expect_block(f"{name}.enc", r, 2 * width, width // 4, 8)
        expect_block(f"{name}.prior", r, width, width // 4, 8 + width, factor=0.0)
        expect(f"{name}.z_proj", 4, width, 1, math.sqrt(1 / 5))
        expect_block(f"{name}.resnet", r, width, width // 4, width, math.sqrt(1 / 5))
    expect("decoder.out_net.out_conv", 8, 20, 1)
    assert torch.equal(weights["decoder.gain"], torch.ones(1, 8, 1, 1))
    assert all(not bias.any() for bias in [*model.decoder.bias_xs, model.decoder.bias])


@pytest.mark.parametrize("size", SIZES)
def test_the_negative_elbo_is_distortion_plus_rate_per_dimension(build_vdvae, vdvae_batch, size, seeded):
    model = build_vdvae(size, moved=True)
    x, target = vdvae_batch(model.H.image_size)
    out = seeded(lambda: model(x, target))
    latents = seeded(lambda: model.forward_get_latents(x))
    rate = sum(latent["kl"].double().sum() for latent in latents) / x.numel()
    torch.testing.assert_close(out["rate"].double(), rate, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(out["elbo"], out["distortion"] + out["rate"])
    assert all(value.shape == () for value in out.values())


def test_latents_come_one_a_block_in_block_order_and_z_is_detached(build_vdvae, vdvae_batch):
    model = build_vdvae("stress", moved=True)
    latents = model.forward_get_latents(vdvae_batch(32)[0])
    resolutions = [1, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32]
    assert [tuple(latent["z"].shape) for latent in latents] == [(2, 8, r, r) for r in resolutions]
    assert [latent["kl"].shape for latent in latents] == [latent["z"].shape for latent in latents]
    assert not any(latent["z"].requires_grad for latent in latents)


def test_the_encoder_keeps_the_last_activation_of_each_resolution_and_pads_with_zeros(build_vdvae, vdvae_batch):
    model = build_vdvae("custom_widths", moved=True)
    x, _ = vdvae_batch(16)
    activations = model.encoder(x)
    assert {r: a.shape[1] for r, a in activations.items()} == {16: 8, 8: 12, 4: 24, 1: 24}
    trunk = model.encoder.in_conv(x.permute(0, 3, 1, 2))
    first = model.encoder.enc_blocks[0](trunk)
    torch.testing.assert_close(activations[16], first)
    pooled = model.encoder.enc_blocks[1](first)
    padded = torch.cat([pooled, torch.zeros(2, 4, 8, 8)], dim=1)
    torch.testing.assert_close(activations[8], model.encoder.enc_blocks[2](padded))


def test_noise_is_one_draw_a_block_in_block_order(build_vdvae, vdvae_batch, monkeypatch, seeded):
    model = build_vdvae("stress", moved=True)
    seen = []

    def draw(mu, logsigma):
        seen.append((mu, logsigma))
        return vae_helpers.draw_gaussian_diag_samples(mu, logsigma)

    monkeypatch.setattr(vae, "draw_gaussian_diag_samples", draw)
    latents = seeded(lambda: model.forward_get_latents(vdvae_batch(32)[0]))
    torch.manual_seed(1)
    for (mu, logsigma), latent in zip(seen, latents, strict=True):
        torch.testing.assert_close(latent["z"], mu + logsigma.exp() * torch.empty(mu.shape).normal_())


def test_the_divergence_is_looked_up_in_the_module_so_that_it_can_be_replaced(build_vdvae, vdvae_batch, monkeypatch):
    model = build_vdvae("tiny", moved=True)
    monkeypatch.setattr(vae, "gaussian_analytical_kl", lambda mu1, mu2, a, b: torch.ones_like(mu1))
    out = model(*vdvae_batch(4))
    assert out["rate"].item() == pytest.approx(4 * (1 + 16) / (4 * 4 * 3))


def test_a_block_s_methods_can_be_replaced_on_the_instance(build_vdvae, vdvae_batch, seeded):
    model = build_vdvae("tiny", moved=True)
    block, calls = model.decoder.dec_blocks[1], []

    def sample(self, x, acts):
        calls.append("sample")
        return vae.DecBlock.sample(self, x, acts)

    def sample_uncond(self, x, t=None, lvs=None):
        calls.append(("sample_uncond", t, lvs is None))
        return vae.DecBlock.sample_uncond(self, x, t, lvs)

    before = seeded(lambda: model(*vdvae_batch(4)))["elbo"]
    block.sample = types.MethodType(sample, block)
    block.sample_uncond = types.MethodType(sample_uncond, block)
    assert torch.equal(seeded(lambda: model(*vdvae_batch(4)))["elbo"], before)
    model.forward_uncond_samples(1, t=0.5)
    assert calls == ["sample", ("sample_uncond", 0.5, True)]


def test_a_fresh_model_has_standard_normal_priors(build_vdvae, vdvae_batch, monkeypatch):
    model, priors = build_vdvae("stress"), []

    def divergence(mu1, mu2, logsigma1, logsigma2):
        priors.append((mu2, logsigma2))
        return torch.zeros_like(mu1)

    monkeypatch.setattr(vae, "gaussian_analytical_kl", divergence)
    model(*vdvae_batch(32))
    assert len(priors) == 12
    assert all(not mean.any() and not log_sigma.any() for mean, log_sigma in priors)


def test_the_divergence_is_exact_in_the_middle_and_breaks_where_squares_leave_float32():
    torch.manual_seed(0)
    mu1, mu2, a, b = torch.randn(4, 500).double()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu1, a.exp()), torch.distributions.Normal(mu2, b.exp())
    )
    ours = vae_helpers.gaussian_analytical_kl(*(v.float() for v in (mu1, mu2, a, b)))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    mu, tiny, huge = torch.zeros(1), torch.tensor([-60.0]), torch.tensor([60.0])
    assert vae_helpers.gaussian_analytical_kl(mu, mu, tiny, tiny).isnan()
    assert vae_helpers.gaussian_analytical_kl(mu, mu, huge, huge).isnan()


def test_noise_does_not_depend_on_the_memory_layout_of_the_mean(seeded):
    mean, log_sigma = torch.randn(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    dense = seeded(lambda: vae_helpers.draw_gaussian_diag_samples(mean, log_sigma))
    strided = mean.to(memory_format=torch.channels_last)
    assert torch.equal(seeded(lambda: vae_helpers.draw_gaussian_diag_samples(strided, log_sigma)), dense)


@pytest.mark.parametrize("size", SIZES)
def test_samples_are_images_that_a_seed_repeats(build_vdvae, size, seeded):
    model = build_vdvae(size, moved=True)
    first, second = (seeded(lambda: model.forward_uncond_samples(3)) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == (3, model.H.image_size, model.H.image_size, 3)
    assert np.array_equal(first, second)


def test_temperature_adds_its_logarithm_to_every_prior_log_sigma(build_vdvae, monkeypatch):
    model, seen = build_vdvae("tiny"), []

    def draw(mu, logsigma):
        seen.append(logsigma.unique().item())
        return mu

    monkeypatch.setattr(vae, "draw_gaussian_diag_samples", draw)
    for t in (None, 0.5, [0.5, 0.25], [None, 0.25], np.float32(0.5), torch.tensor([0.5, 0.25])):
        model.forward_uncond_samples(1, t=t)
    half, quarter = torch.tensor([0.5, 0.25]).log().tolist()
    assert seen == pytest.approx([0, 0, half, half, half, quarter, 0, quarter, half, half, half, quarter])


def test_temperature_zero_samples_the_prior_mean(build_vdvae):
    block = build_vdvae("tiny", moved=True).decoder.dec_blocks[1]
    x = torch.randn(2, 8, 4, 4)
    z, _ = block.sample_uncond(x, 0.0)
    assert torch.equal(z, block.prior(x)[:, :4])


@pytest.mark.parametrize("t", [-1.0, [1.0], [1.0, 1.0, 1.0]])
def test_a_temperature_that_means_nothing_is_refused(build_vdvae, t):
    with pytest.raises(ValueError, match="temperature"):
        build_vdvae("tiny").forward_uncond_samples(1, t=t)


def test_given_latents_replace_draws_and_the_rest_is_drawn(build_vdvae, seeded):
    model = build_vdvae("tiny", moved=True)
    latents = [torch.randn(2, 4, 1, 1), torch.randn(2, 4, 4, 4)]
    trunk = model.decoder.forward_manual_latents
    assert torch.equal(seeded(lambda: trunk(2, latents), 1), seeded(lambda: trunk(2, latents), 2))
    assert torch.equal(seeded(lambda: trunk(2, latents[:1])), seeded(lambda: trunk(2, [latents[0], None])))
    assert not torch.equal(seeded(lambda: trunk(2, latents[:1]), 1), seeded(lambda: trunk(2, latents[:1]), 2))
    assert model.forward_samples_set_latents(2, latents, t=0.1).shape == (2, 4, 4, 3)
    with pytest.raises(ValueError, match="3 latents for 2 blocks"):
        model.forward_samples_set_latents(2, [*latents, None])


def test_a_reconstruction_from_all_latents_has_the_trunk_of_the_forward_pass(build_vdvae, vdvae_batch):
    model = build_vdvae("starts_at_zero", moved=True)
    px_z, latents = model.decoder(model.encoder(vdvae_batch(8)[0]))
    torch.testing.assert_close(model.decoder.forward_manual_latents(2, [latent.z for latent in latents]), px_z)
