"""Our VDVAE against the genuine one: same weights, losses, latents, images and command line."""

from __future__ import annotations

import argparse

import pytest
import torch
from vdvae_patch.upstream.vdvae import hps, vae, vae_helpers

pytestmark = pytest.mark.genuine

SIZES = ["stress", "five_bit", "custom_widths", "starts_at_zero"]


@pytest.fixture(params=SIZES)
def both(request, genuine_vdvae, vdvae_hparams):
    """The genuine model and ours, built from the same seed."""
    H = vdvae_hparams(request.param)
    return _seeded(lambda: genuine_vdvae.vae.VAE(genuine_vdvae.hps.Hyperparams(H))), _seeded(lambda: vae.VAE(H))


def _seeded(build, seed=0):
    torch.manual_seed(seed)
    return build()


def _move_away_from_the_start(*models):
    """Give every parameter the same random step in all models: fresh priors are zero and would hide a fault."""
    for copies in zip(*(model.parameters() for model in models), strict=True):
        step = 0.1 * torch.randn_like(copies[0])
        for parameter in copies:
            parameter.data.add_(step)


def test_the_same_seed_gives_identical_weights_in_the_same_order(both):
    genuine, ours = (model.state_dict() for model in both)
    assert list(ours) == list(genuine)
    assert all(torch.equal(ours[name], genuine[name]) for name in genuine)
    assert [name for name, _ in both[1].named_parameters()] == [name for name, _ in both[0].named_parameters()]


def test_checkpoints_load_strictly_in_both_directions(both):
    genuine, ours = both
    _move_away_from_the_start(ours)
    genuine.load_state_dict(ours.state_dict(), strict=True)
    _move_away_from_the_start(genuine)
    ours.load_state_dict(genuine.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(genuine.parameters(), ours.parameters(), strict=True))


def test_losses_and_gradients_agree(both, vdvae_batch):
    _move_away_from_the_start(*both)
    batch = vdvae_batch(both[1].H.image_size)
    losses = [_seeded(lambda model=model: model(*batch)) for model in both]
    for loss in losses:
        loss["elbo"].backward()
    for key in ("elbo", "distortion", "rate"):
        torch.testing.assert_close(losses[1][key], losses[0][key], rtol=1e-6, atol=0)
    for (name, p), q in zip(both[0].named_parameters(), both[1].parameters(), strict=True):
        tolerance = 1e-4 * p.grad.abs().max().item()
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_latents_agree(both, vdvae_batch):
    _move_away_from_the_start(*both)
    x, _ = vdvae_batch(both[1].H.image_size)
    genuine, ours = (_seeded(lambda model=model: model.forward_get_latents(x)) for model in both)
    assert len(ours) == len(genuine)
    for a, b in zip(genuine, ours, strict=True):
        assert set(b) == set(a)
        torch.testing.assert_close(b["z"], a["z"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b["kl"], a["kl"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [None, 1.0, 0.7, "one a block"])
def test_images_from_the_prior_agree(both, t):
    _move_away_from_the_start(*both)
    if t == "one a block":
        t = [1 - 0.05 * i for i in range(len(both[1].decoder.dec_blocks))]
    genuine, ours = (_seeded(lambda model=model: model.forward_uncond_samples(3, t=t)) for model in both)
    _assert_same_images(ours, genuine)


def test_images_from_given_latents_agree(both, vdvae_batch):
    _move_away_from_the_start(*both)
    latents = [latent["z"] for latent in both[0].forward_get_latents(vdvae_batch(both[1].H.image_size)[0])[:2]]
    genuine, ours = (
        _seeded(lambda model=model: model.forward_samples_set_latents(2, latents, t=0.1)) for model in both
    )
    _assert_same_images(ours, genuine)


def _assert_same_images(ours, genuine):
    assert ours.dtype == genuine.dtype
    assert ours.shape == genuine.shape
    difference = abs(ours.astype(int) - genuine.astype(int))
    assert difference.max() <= 1, "values may fall on either side of a whole number, no further"
    assert (difference > 0).mean() < 0.01


def test_the_cifar10_preset_agrees_on_one_image(genuine_vdvae, vdvae_batch):
    H = hps.Hyperparams(hps.HPARAMS_REGISTRY["cifar10"], image_size=32, image_channels=3, num_mixtures=10)
    H.update(bottleneck_multiple=0.25, no_bias_above=64)
    genuine = _seeded(lambda: genuine_vdvae.vae.VAE(genuine_vdvae.hps.Hyperparams(H)))
    ours = _seeded(lambda: vae.VAE(H))
    batch = vdvae_batch(32, 1)
    with torch.no_grad():
        a, b = (_seeded(lambda model=model: model(*batch)) for model in (genuine, ours))
    torch.testing.assert_close(b["elbo"], a["elbo"], rtol=1e-6, atol=0)
    torch.testing.assert_close(b["rate"], a["rate"], rtol=1e-4, atol=1e-8)


def test_normal_arithmetic_agrees_where_it_is_sound_and_where_it_breaks(genuine_vdvae):
    mu1, mu2 = torch.randn(2, 1000)
    logsigma1, logsigma2 = torch.linspace(-70, 70, 1000), torch.linspace(70, -70, 1000)
    for a, b in ((logsigma1, logsigma2), (logsigma1 / 70, logsigma2 / 70), (logsigma1, logsigma1)):
        torch.testing.assert_close(
            vae_helpers.gaussian_analytical_kl(mu1, mu2, a, b),
            genuine_vdvae.vae_helpers.gaussian_analytical_kl(mu1, mu2, a, b),
            rtol=1e-6,
            atol=1e-6,
            equal_nan=True,
        )
    ours, genuine = (
        _seeded(lambda helpers=helpers: helpers.draw_gaussian_diag_samples(mu1, logsigma1 / 70))
        for helpers in (vae_helpers, genuine_vdvae.vae_helpers)
    )
    torch.testing.assert_close(ours, genuine, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dataset", ["cifar10", "ffhq_256"])
def test_the_pixel_likelihood_agrees_far_from_the_data_too(genuine_vdvae, vdvae_batch, dataset):
    H = hps.Hyperparams(width=16, num_mixtures=5, dataset=dataset)
    genuine, ours = (_seeded(lambda m=m: m.DmolNet(H)) for m in (genuine_vdvae.vae_helpers, vae_helpers))
    _, target = vdvae_batch(8)
    for size in (0.1, 1, 30):
        px_z = size * torch.randn(2, 16, 8, 8)
        torch.testing.assert_close(ours.nll(px_z, target), genuine.nll(px_z, target), rtol=1e-6, atol=0)
        assert torch.equal(ours(px_z), genuine(px_z))


def test_presets_are_the_same(genuine_vdvae):
    ours = {name: dict(preset) for name, preset in hps.HPARAMS_REGISTRY.items()}
    assert ours == {name: dict(preset) for name, preset in genuine_vdvae.hps.HPARAMS_REGISTRY.items()}


@pytest.mark.parametrize(
    "argv",
    [
        ["--hps", "cifar10"],
        ["--hps", "imagenet32", "--lr", "0.5", "--test_eval"],
        ["--hparam_sets", "imagenet64,ffhq256"],
        ["--hps", "ffhq1024", "--zdim", "3", "--scale_encblock", "--seed", "5"],
        ["--hps", ""],
    ],
)
def test_a_command_line_gives_the_same_hyperparameters(genuine_vdvae, argv):
    results = []
    for module in (genuine_vdvae.hps, hps):
        H = module.Hyperparams()
        module.parse_args_and_update_hparams(H, module.add_vae_arguments(argparse.ArgumentParser()), s=argv)
        results.append({name: (type(value), value) for name, value in H.items()})
    assert results[1] == results[0]
