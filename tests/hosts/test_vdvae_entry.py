"""The patch entry of VDVAE: presets, heads, and the same for the embedded and the genuine code."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from vdvae_patch.patches.vdvae import HOST

import vdvae_patch
from vdvae_patch.errors import UnknownNameError


@pytest.fixture(scope="module", params=["embedded", pytest.param("genuine", marks=pytest.mark.genuine)])
def host(request: pytest.FixtureRequest) -> vdvae_patch.hosts.Host:
    """The embedded host, or the genuine one where the machine has it."""
    if request.param == "embedded":
        return vdvae_patch.load_host("vdvae")
    folder = os.environ.get("VDVAE_PATCH_GENUINE_VDVAE")
    if not folder:
        pytest.skip("VDVAE_PATCH_GENUINE_VDVAE names no folder with the genuine vae.py")
    return vdvae_patch.load_host("vdvae", upstream=folder)


def test_builds_a_published_preset_with_its_86_heads(host: vdvae_patch.hosts.Host) -> None:
    with torch.device("meta") if host.origin.kind == "embedded" else torch.device("cpu"):
        model = host.build(host.modules["hps"].HPARAMS_REGISTRY["cifar10"])
    assert sum(p.numel() for p in model.parameters()) == 39_145_700
    heads = host.heads(model)
    assert len(heads) == 86
    assert [h.role for h in heads[:4]] == ["posterior", "prior"] * 2
    assert {(h.start, h.stop) for h in heads} == {(16, 32)}
    modules = dict(model.named_modules())
    assert all(isinstance(modules[h.path], nn.Module) for h in heads)


def test_a_patch_gives_the_same_losses_on_both_codes(host: vdvae_patch.hosts.Host) -> None:
    preset = HOST.preset("demo")
    hparams = HOST.hyperparameters(preset.architecture, image_size=32, image_channels=3, data="builtin")
    x = torch.randn(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for code in (vdvae_patch.load_host("vdvae"), host):
        torch.manual_seed(0)
        model = code.build(hparams)
        assert code.heads(model)[0].calls, "a known block is patched at its calls"
        with vdvae_patch.patch(model, "explin/upbounded", heads=code.heads(model)):
            torch.manual_seed(1)
            losses.append(HOST.losses(model, x, x.clamp(-1, 1)))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)


def test_presets_have_the_published_hyperparameters() -> None:
    presets = HOST.presets()
    assert {"cifar10", "imagenet32", "imagenet64", "ffhq256", "ffhq1024", "small", "demo"} <= set(presets)
    table = {name: (p.architecture.width, p.optimization.lr, p.optimization.batch_size, p.optimization.ema_rate,
                    p.optimization.grad_clip, p.optimization.skip_threshold, p.architecture.num_mixtures)
             for name, p in presets.items()}  # fmt: skip
    assert table["cifar10"] == (384, 2e-4, 16, 0.9999, 200, 400, 10)
    assert table["imagenet32"] == (512, 1.5e-4, 8, 0.999, 200, 300, 10)
    assert table["imagenet64"] == (512, 1.5e-4, 4, 0.999, 220, 380, 10)
    assert table["ffhq256"] == (512, 1.5e-4, 1, 0.999, 130, 180, 10)
    assert table["ffhq1024"] == (16, 7e-5, 1, 0.999, 360, 500, 2)
    published = [p.optimization for name, p in presets.items() if name not in ("small", "demo")]
    assert all(o.warmup_iters == 100 and o.wd == 0.01 for o in published)
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        HOST.preset("cifar")
