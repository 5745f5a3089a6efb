"""Hosts whose means and scales take turns in one output."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import scales
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS, load_entry_file
from vdvae_patch.scanning.write import entry_file


def loss_of(mean: Tensor, log_sigma: Tensor) -> Tensor:
    z = mean + log_sigma.exp() * torch.randn_like(mean)
    kl = -log_sigma + 0.5 * ((2 * log_sigma).exp() + mean**2) - 0.5
    return kl.mean() + z.square().mean()


class ByView(nn.Module):
    """(batch, latents, 2), as where each latent has a row of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.net(x).view(len(x), 4, 2)
        return parameters[..., 0], parameters[..., 1]

    def forward(self, x: Tensor) -> Tensor:
        return loss_of(*self.raw(x))


class ByStride(nn.Module):
    """Every second channel of a convolution, the scales first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 6, 1)

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.net(x)
        return h[:, 1::2], h[:, 0::2]

    def forward(self, x: Tensor) -> Tensor:
        return loss_of(*self.raw(x))


class WithFeatures(nn.Module):
    """Means and scales take turns in the first channels; what follows is something else."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        h = self.net(x)
        return loss_of(h[:, 0:6:2], h[:, 1:6:2]) + h[:, 6:].square().mean()


CASES = [(ByView, (5, 6), "net.2", "1:8:2"), (ByStride, (2, 3, 4, 4), "net", ":6:2")]


def made(host: type[nn.Module], shape: tuple[int, ...]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return host(), torch.randn(shape)


@pytest.mark.parametrize(("host", "shape", "path", "channels"), CASES)
def test_every_second_channel_is_found_and_patched(
    host: type[nn.Module], shape: tuple[int, ...], path: str, channels: str
) -> None:
    model, x = made(host, shape)
    before_mean, before_raw = model.raw(x)
    heads = vdvae_patch.scan(model, x)
    assert [(h.path, h.channels, h.role, h.dim) for h in heads] == [(path, channels, "posterior", 1)]
    handle = vdvae_patch.patch(model, "upbounded", heads=heads, paper=True)
    for patched in (model, copy.deepcopy(model)):
        mean, raw = patched.raw(x)
        assert torch.equal(mean, before_mean)
        torch.testing.assert_close(raw, scales.get("upbounded").log_sigma(before_raw))
    torch.compile(model, fullgraph=True, backend="eager")(x).backward()
    handle.unpatch()
    assert all(map(torch.equal, model.raw(x), (before_mean, before_raw)))


@pytest.mark.parametrize(("host", "shape", "path", "channels"), CASES)
def test_a_written_patch_file_keeps_the_step(
    host: type[nn.Module], shape: tuple[int, ...], path: str, channels: str, tmp_path: Path
) -> None:
    model, x = made(host, shape)
    file = tmp_path / "mine.py"
    file.write_text(entry_file(f"some.{host.__name__.lower()}:Model", vdvae_patch.scan(model, x), model))
    load_entry_file(str(file))
    heads = HOSTS.get(f"some_{host.__name__.lower()}_model").heads(model)
    assert [(h.path, h.channels) for h in heads] == [(path, channels)]


def test_turns_among_other_channels_leave_these_alone() -> None:
    model, x = made(WithFeatures, (5, 6))
    before = model.net(x)
    heads = vdvae_patch.scan(model, x)
    assert [h.channels for h in heads] == ["1:6:2"]
    vdvae_patch.patch(model, "explin", heads=heads, paper=True)
    after = model.net(x)
    torch.testing.assert_close(after[:, 1:6:2], scales.get("explin").log_sigma(before[:, 1:6:2]))
    others = [0, 2, 4, 6, 7, 8]
    assert torch.equal(after[:, others], before[:, others])


def test_a_head_that_somebody_writes_takes_a_step() -> None:
    model, x = made(ByStride, (2, 3, 4, 4))
    _, raw = model.raw(x)
    vdvae_patch.patch(model, "explin", heads=[Head("net", "posterior", step=2)], paper=True)
    torch.testing.assert_close(model.raw(x)[1], scales.get("explin").log_sigma(raw))
