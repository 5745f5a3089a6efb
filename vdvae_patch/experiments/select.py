"""Runs with different scales in one ensemble: every run carries the index of its own among several.

A GPU is idle most of the time over a small model with a few runs, so runs that differ in nothing but a scale are put
into one computation. Every scale is evaluated, at 0 where it is not the run's own: a NaN that a run's own scale would
not give cannot come from another one, neither forward nor backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.heads import Role
from vdvae_patch.scales import Scale

BUFFER = "selected_scale"


def carry(model: nn.Module, index: int) -> None:
    """Give a model the index of its scale, as a buffer that is stacked with the others and not saved."""
    model.register_buffer(BUFFER, torch.tensor(index), persistent=False)


@dataclass(frozen=True)
class Select:
    """Takes the place of a host's method from a raw scale to (σ, log σ); the model must `carry` an index."""

    candidates: tuple[Scale, ...]

    def __call__(self, model: Any, scales: Mapping[Role, Scale], raw: Tensor) -> tuple[Tensor, Tensor]:
        choice = getattr(model, BUFFER)
        sigma, log_sigma = torch.zeros_like(raw), torch.zeros_like(raw)
        for index, scale in enumerate(self.candidates):
            own = choice == index
            p = torch.where(own, raw, 0.0)
            sigma = torch.where(own, scale.sigma(p), sigma)
            log_sigma = torch.where(own, scale.log_sigma(p), log_sigma)
        return sigma, log_sigma
