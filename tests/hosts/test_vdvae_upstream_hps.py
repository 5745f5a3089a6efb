"""Hyperparameters, layer strings and widths of our VDVAE; none of them needs torch."""

from __future__ import annotations

import argparse
import copy
import pickle
import subprocess
import sys

import pytest
from vdvae_patch.upstream.vdvae.hps import (
    HPARAMS_REGISTRY,
    Hyperparams,
    add_vae_arguments,
    parse_args_and_update_hparams,
)
from vdvae_patch.upstream.vdvae.layout import Layer, Layout, Widths, parse_layer_string


def _parse(*argv):
    H = Hyperparams()
    parse_args_and_update_hparams(H, add_vae_arguments(argparse.ArgumentParser()), s=list(argv))
    return H


def test_a_hyperparameter_is_an_item_and_an_attribute_and_a_missing_one_is_none():
    H = Hyperparams(width=4)
    H.lr = 0.5
    assert (H["lr"], H.width, H.missing) == (0.5, 4, None)
    assert dict(copy.deepcopy(H)) == dict(pickle.loads(pickle.dumps(H))) == {"width": 4, "lr": 0.5}


def test_defaults_hold_without_a_preset():
    H = _parse()
    assert (H.width, H.zdim, H.lr, H.wd, H.warmup_iters, H.n_batch) == (512, 16, 1.5e-4, 0, 0, 32)
    assert (H.ema_rate, H.grad_clip, H.skip_threshold, H.num_mixtures) == (0.999, 200, 400, 10)
    assert (H.bottleneck_multiple, H.no_bias_above, H.adam_beta1, H.adam_beta2) == (0.25, 64, 0.9, 0.9)
    assert (H.custom_width_str, H.test_eval, H.enc_blocks) == ("", False, None)


@pytest.mark.parametrize(
    ("preset", "dataset", "width", "lr", "n_batch", "ema_rate", "grad_clip", "skip_threshold", "blocks"),
    [
        ("cifar10", "cifar10", 384, 2e-4, 16, 0.9999, 200, 400, 43),
        ("imagenet32", "imagenet32", 512, 1.5e-4, 8, 0.999, 200, 300, 78),
        ("imagenet64", "imagenet64", 512, 1.5e-4, 4, 0.999, 220, 380, 75),
        ("ffhq256", "ffhq_256", 512, 1.5e-4, 1, 0.999, 130, 180, 66),
        ("ffhq1024", "ffhq_1024", 16, 7e-5, 1, 0.999, 360, 500, 70),
    ],
)
def test_presets_have_their_published_values(
    preset, dataset, width, lr, n_batch, ema_rate, grad_clip, skip_threshold, blocks
):
    H = _parse("--hps", preset)
    assert (H.dataset, H.width, H.lr, H.n_batch) == (dataset, width, lr, n_batch)
    assert (H.ema_rate, H.grad_clip, H.skip_threshold) == (ema_rate, grad_clip, skip_threshold)
    assert (H.wd, H.warmup_iters, H.zdim) == (0.01, 100, 16)
    assert H.num_mixtures == (2 if preset == "ffhq1024" else 10)
    assert len(parse_layer_string(H.dec_blocks, "dec_blocks")) == blocks


@pytest.mark.parametrize(
    ("preset", "size"), [("cifar10", 32), ("imagenet32", 32), ("imagenet64", 64), ("ffhq256", 256), ("ffhq1024", 1024)]
)
def test_every_preset_fits_together(preset, size):
    H = _parse("--hps", preset)
    layout = Layout.of(Hyperparams(H, image_size=size, image_channels=3))
    assert layout.decoder_resolutions[-1] == size
    assert layout.bias_resolutions == [r for r in (1, 4, 8, 16, 32, 64) if r <= size]


def test_an_option_beats_a_preset_and_a_later_preset_an_earlier_one():
    H = _parse("--hps", "cifar10,imagenet32", "--lr", "0.25")
    assert (H.lr, H.width, H.dataset) == (0.25, 512, "imagenet32")
    assert HPARAMS_REGISTRY["cifar10"].lr == 2e-4, "reading a command line must not change the presets"


def test_a_misspelt_preset_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match=r"unknown preset 'cifer10'; did you mean 'cifar10'"):
        _parse("--hps", "cifer10")


def test_a_preset_that_sets_an_unknown_option_is_refused(monkeypatch):
    monkeypatch.setitem(HPARAMS_REGISTRY, "odd", Hyperparams(widht=3))
    with pytest.raises(ValueError, match="preset 'odd' sets widht"):
        _parse("--hps", "odd")


def test_presets_and_layouts_are_read_without_torch():
    package = "vdvae_patch.upstream.vdvae"
    code = f"import sys; import {package}.hps, {package}.layout; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_layer_strings_count_pool_and_mix():
    assert parse_layer_string("8x2,8d2, 4", "enc_blocks") == [Layer(8), Layer(8), Layer(8, down_rate=2), Layer(4)]
    assert parse_layer_string("1x1,4m1", "dec_blocks") == [Layer(1), Layer(4, mixin=1)]


@pytest.mark.parametrize(
    ("text", "side"), [("4m1", "enc_blocks"), ("4d2", "dec_blocks"), ("4x", "dec_blocks"), ("", "enc_blocks"),
                       ("4x0", "enc_blocks"), ("8d0", "enc_blocks"), ("-4x1", "dec_blocks"), ("8x2d2", "enc_blocks")]
)  # fmt: skip
def test_a_layer_that_means_nothing_is_refused(text, side):
    with pytest.raises(ValueError, match=f"{side} has the layer"):
        parse_layer_string(text, side)


def test_widths_fall_back_to_the_default():
    widths = Widths.parse(16, "512:32, 256:64")
    assert [widths.at(r) for r in (1024, 512, 256, 1)] == [16, 32, 64, 16]
    assert Widths.parse(16, "").at(8) == Widths.parse(16, None).at(8) == 16
    with pytest.raises(ValueError, match="custom_width_str has the item '512=3'"):
        Widths.parse(16, "512=3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": None}, "hyperparameter 'image_size' is not set"),
        ({"dec_blocks": None}, "hyperparameter 'dec_blocks' is not set"),
        ({"image_channels": 1}, "image_channels is 1"),
        ({"enc_blocks": "4,8d2"}, "layer 0 is written for resolution 4, but what reaches it has 8"),
        ({"enc_blocks": "8d2,8"}, "layer 1 is written for resolution 8, but what reaches it has 4"),
        ({"enc_blocks": "8d16"}, "goes from 8 .* to 0"),
        ({"custom_width_str": "2:2"}, "widths must not shrink"),
        ({"custom_width_str": "8:2"}, "must be the width"),
        ({"dec_blocks": "1,4m1,8m4"}, "resolution 4 has no activations to read"),
        ({"dec_blocks": "1,2m1"}, "dec_blocks ends at 2, but the image's size is 8"),
        ({"dec_blocks": "1,2m4,8m2"}, "adds resolution 4, which has no trunk"),
        ({"dec_blocks": "1,8m2,2", "no_bias_above": 1}, "adds resolution 2, which has no trunk"),
        ({"dec_blocks": "8,2m8,8"}, "which does not divide it"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_a_weight_is_made(vdvae_hparams, change, message):
    H = Hyperparams(vdvae_hparams("starts_at_zero"), **change)
    with pytest.raises(ValueError, match=message):
        Layout.of(H)
