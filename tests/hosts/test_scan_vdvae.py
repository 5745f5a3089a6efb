"""A scan of VDVAE finds the heads that its patch entry names, and no other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vdvae_patch.hosts import load_host
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def small() -> tuple[Any, nn.Module, torch.Tensor]:
    host = load_host("vdvae")
    entry: Any = host.entry
    architecture = entry.presets()["demo"].architecture
    torch.manual_seed(0)
    model = host.build(entry.hyperparameters(architecture, image_size=32, image_channels=3, data="cifar10"))
    return host, model, torch.randn(2, 32, 32, 3).clamp(-1, 1)


def test_a_scan_finds_exactly_the_heads_of_the_entry() -> None:
    host, model, x = small()
    found = scan(model, x, x)
    # the entry names the block, the scan the block's last layer, which emits the same tensor
    assert {(h.path.removesuffix(".c4"), h.start, h.stop, h.role, str(h.convention)) for h in found} == {
        (h.path, h.start, h.stop, h.role, str(h.convention)) for h in host.heads(model)
    }


def test_scanned_heads_compute_what_the_entrys_heads_compute() -> None:
    host, model, x = small()

    def loss(heads: Any) -> torch.Tensor:
        with patch(model, "explin/upbounded", heads=heads, arithmetic="host"):
            torch.manual_seed(1)
            elbo: torch.Tensor = model(x, x)["elbo"]
        return elbo

    torch.testing.assert_close(loss(scan(model, x, x)), loss(host.heads(model)))
