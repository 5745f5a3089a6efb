"""Small models in the styles that are met in public repositories, each with its true heads beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vdvae_patch.scanning import ScanResult, scan


@dataclass(frozen=True)
class TrueHead:
    """A true head: path, channels, role, and σ as a function of the raw value (None where several are joined)."""

    path: str
    start: int
    stop: int | None
    role: str
    sigma: Callable[[torch.Tensor], torch.Tensor] | None = torch.exp


@dataclass(frozen=True)
class Case:
    """A host: how it is built and called, and what is to be found."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    heads: tuple[TrueHead, ...]
    call: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        return self.build.__name__


def built(case: Case) -> tuple[nn.Module, ScanResult]:
    """The model from seed 0, and its scan."""
    torch.manual_seed(0)
    model = case.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, scan(model, *case.inputs(), call=case.call)


def rows(width: int = 6, batch: int = 5) -> Callable[[], tuple[Any, ...]]:
    """A batch of vectors."""

    def make() -> tuple[Any, ...]:
        return (torch.randn(batch, width, generator=torch.Generator().manual_seed(1)),)

    return make


def images(channels: int = 3, size: int = 8, batch: int = 2) -> Callable[[], tuple[Any, ...]]:
    """A batch of images, channels first."""

    def make() -> tuple[Any, ...]:
        return (torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(2)),)

    return make
