"""A scan of VDVAE finds the heads that its patch entry names, and no other."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from vdvae_patch.hosts import load_host
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def small(upstream: str | None = None) -> tuple[Any, nn.Module, torch.Tensor]:
    host = load_host("vdvae", upstream)
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
        with patch(model, "explin/upbounded", heads=heads, arithmetic="host", paper=True):
            torch.manual_seed(1)
            elbo: torch.Tensor = model(x, x)["elbo"]
        return elbo

    torch.testing.assert_close(loss(scan(model, x, x)), loss(host.heads(model)))


@pytest.mark.genuine
def test_a_scan_of_the_genuine_code_finds_exactly_the_heads_of_the_embedded_one_and_patches_them() -> None:
    path = os.environ.get("VDVAE_PATCH_GENUINE_VDVAE")
    if not path:
        pytest.skip("VDVAE_PATCH_GENUINE_VDVAE names no checkout of openai/vdvae")
    (_, embedded, x), (host, genuine, _) = small(), small(path)
    found = scan(genuine, x, x)
    assert host.origin.verified
    assert list(found) == list(scan(embedded, x, x))
    with torch.no_grad():
        for parameter, other in zip(genuine.parameters(), embedded.parameters(), strict=True):
            # away from the start, where priors are zero
            other.copy_(parameter.add_(0.02 * torch.randn_like(parameter)))

    def loss(model: nn.Module, heads: Any) -> torch.Tensor:
        with patch(model, "explin/upbounded", heads=heads):  # verified
            torch.manual_seed(1)
            elbo: torch.Tensor = model(x, x)["elbo"]
        return elbo

    torch.testing.assert_close(loss(genuine, found), loss(embedded, scan(embedded, x, x)), rtol=1e-5, atol=0)
