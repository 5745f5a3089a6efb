"""A user's own code is checked against our types: names resolved when they are first used are no `Any`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USER = """
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import constraints

import vdvae_patch
from vdvae_patch import Head, HostEntry, PatchError, PatchHandle, Scale, ScanResult, TrainableEntry
from vdvae_patch.conventions import CONVENTIONS, Convention
from vdvae_patch.data import DATASETS, DataSet
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.preset import Latent, Losses, Optimization, Preset
from vdvae_patch.scales import SCALES


class Mine(nn.Module):
    extra = 1


def work(model: Mine, x: torch.Tensor) -> int:
    heads: ScanResult = vdvae_patch.scan(model, x)
    handle: PatchHandle = vdvae_patch.patch(model, "explin", heads=heads)
    scale: Scale | None = handle.heads[0].scale
    folder = vdvae_patch.save(model, "there")
    one = vdvae_patch.load(Mine, folder)
    two = vdvae_patch.load(lambda: Mine(), folder)
    again: PatchHandle = vdvae_patch.apply(Mine(), handle.to_json())
    try:
        print(vdvae_patch.source(model).diff, scale, again)
    except PatchError as error:
        print(error)
    return one.extra + two.extra


def entry(host: HostEntry) -> bool:
    return isinstance(host, TrainableEntry)


@SCALES.register("mine")
class MyScale(Scale):
    codomain = constraints.positive

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = omega

    def inverse(self, sigma: Tensor) -> Tensor:
        return sigma.log() / self.omega

    def _sigma(self, p: Tensor) -> Tensor:
        return (self.omega * p).exp()

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return self.omega * self._sigma(p)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return self.omega * p

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return torch.full_like(p, self.omega)


@CONVENTIONS.register("mine")
class MyConvention(Convention):
    def sigma(self, v: Tensor) -> Tensor:
        return (-v).exp()

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        return -scale.log_sigma(p)


@DATASETS.register("mine")
class MyData(DataSet):
    def read(self, root: Path | None, *, download: bool) -> Splits:
        pixels = np.zeros((4, 8, 8, 1), np.uint8)
        return Splits(pixels, pixels, pixels, Normalization(0.0, 1.0), "made up", "none")


@dataclass(frozen=True)
class Architecture:
    width: int = 8


class MyHost(TrainableEntry):
    name = "mine"
    modules = ("my_vae",)
    architecture = Architecture

    def presets(self) -> Mapping[str, Preset]:
        return {"small": Preset(Optimization(lr=1e-3), Architecture(), data="mine")}

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> Mapping[str, Any]:
        return {"width": architecture.width}

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        return Mine()

    def heads(self, model: nn.Module) -> list[Head]:
        known: Convention = Head("prior", "prior", convention="log_sigma").convention
        return [Head("encoder.2", "posterior", convention=known), Head("prior", "prior", convention=MyConvention())]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        return Losses(x.sum(), x.sum(), x.sum())

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        return [Latent(x, x)]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        return np.zeros((n, 8, 8, 1), np.uint8)


HOST = MyHost()
vdvae_patch.load(1, "there")
"""


@pytest.mark.slow
def test_a_users_file_is_checked_against_our_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "load" in errors[0]
