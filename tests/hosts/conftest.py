"""Fixtures of the host tests: small VDVAEs, and the genuine VDVAE code where the machine has it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from vdvae_patch.upstream.vdvae.hps import Hyperparams
from vdvae_patch.upstream.vdvae.vae import VAE

GENUINE_VDVAE = "VDVAE_PATCH_GENUINE_VDVAE"

_COMMON = {"image_channels": 3, "bottleneck_multiple": 0.25, "num_mixtures": 10, "no_bias_above": 64}
_SIZES: dict[str, dict[str, object]] = {
    "stress": {
        "dataset": "cifar10",
        "image_size": 32,
        "width": 64,
        "zdim": 8,
        "enc_blocks": "32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1",
        "dec_blocks": "1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16,32x2",
    },
    "tiny": {
        "dataset": "cifar10",
        "image_size": 4,
        "width": 8,
        "zdim": 4,
        "num_mixtures": 2,
        "enc_blocks": "4,4d4,1",
        "dec_blocks": "1,4m1",
    },
    "five_bit": {
        "dataset": "ffhq_256",
        "image_size": 16,
        "width": 16,
        "zdim": 4,
        "no_bias_above": 4,
        "enc_blocks": "16x1,16d2,8x1,8d2,4x1,4d4,1x1",
        "dec_blocks": "1x1,4m1,8m4,8x1,16m8",
    },
    "custom_widths": {
        "dataset": "ffhq_1024",
        "image_size": 16,
        "width": 8,
        "custom_width_str": "8:12,4:24,1:24",
        "zdim": 4,
        "num_mixtures": 2,
        "no_bias_above": 4,
        "enc_blocks": "16x1,16d2,8x1,8d2,4x1,4d4,1x1",
        "dec_blocks": "1x1,4m1,4x1,8m4,16m8",
    },
    "starts_at_zero": {
        "dataset": "cifar10",
        "image_size": 8,
        "width": 8,
        "zdim": 4,
        "no_bias_above": 1,
        "enc_blocks": "8x1,8d4,2x1,2d2,1x1",
        "dec_blocks": "1,2m1,8,8m2",
    },
}


@pytest.fixture(scope="session")
def vdvae_hparams() -> Callable[[str], Hyperparams]:
    """From the name of a small size to its hyperparameters."""
    return lambda size: Hyperparams(_COMMON, **_SIZES[size])


@pytest.fixture(scope="session")
def build_vdvae(vdvae_hparams: Callable[[str], Hyperparams]) -> Callable[..., VAE]:
    """A VDVAE of a named size, from seed 0; `moved` takes it away from its start, where every prior is N(0, 1)."""

    def make(size: str, moved: bool = False) -> VAE:
        torch.manual_seed(0)
        model = VAE(vdvae_hparams(size))
        if moved:
            for parameter in model.parameters():
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def seeded() -> Callable[..., Any]:
    """Call something right after seeding the default generator."""

    def call_after_seeding(call: Callable[[], Any], seed: int = 1) -> Any:
        torch.manual_seed(seed)
        return call()

    return call_after_seeding


@pytest.fixture(scope="session")
def vdvae_batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """From an image size to a batch: inputs and 8-bit targets in [-1, 1], with both outermost values among them."""

    def make(image_size: int, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        pixels = torch.randint(0, 256, (n, image_size, image_size, 3), generator=generator).float()
        pixels[:, 0, 0], pixels[:, -1, -1] = 0, 255
        return (pixels - 120.6) / 64.2, (pixels - 127.5) / 127.5

    return make


@pytest.fixture(scope="session")
def genuine_vdvae() -> SimpleNamespace:
    """The genuine `hps`, `vae_helpers` and `vae`; their bare names are gone from `sys.modules` afterwards."""
    folder = os.environ.get(GENUINE_VDVAE)
    if not folder:
        pytest.skip(f"{GENUINE_VDVAE} names no folder with the genuine vae.py")
    modules: dict[str, ModuleType] = {}
    shadowed = {name: sys.modules.get(name) for name in ("hps", "vae_helpers", "vae")}
    try:
        for name in shadowed:
            modules[name] = sys.modules[name] = _load(name, Path(folder) / f"{name}.py")
    finally:
        for name, before in shadowed.items():
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
    return SimpleNamespace(**modules)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"genuine_vdvae_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
