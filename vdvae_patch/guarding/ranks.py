"""Several processes that train one model: all decide the same, and say which of them had the bad batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vdvae_patch.guarding.skip import Skip


def world() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return 0 if world() == 1 else dist.get_rank()


def is_main() -> bool:
    """Whether this is the one that writes and tells."""
    return rank() == 0


def everyone(row: Tensor) -> Tensor:
    """`[ranks, values]`: every rank's row, so that all decide the same."""
    if world() == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(world())]
    dist.all_gather(rows, row.contiguous())
    return torch.stack(rows)


def of_all_ranks(skip: Skip) -> Skip:
    """The skip with the ranks whose own share was not finite, by their loss or by doing it again, and with what the
    first of them has found; the same on all."""
    diagnosis = skip.diagnosis
    bad = dist.get_rank() in skip.ranks or (diagnosis is not None and (diagnosis.reproduced or bool(diagnosis.outside)))
    said: list[Any] = [None] * world()
    dist.all_gather_object(said, (bad, diagnosis if bad else None, skip.loss if bad else None))
    ranks = tuple(rank for rank, one in enumerate(said) if one[0])
    if not ranks:
        return skip
    _, found, loss = said[ranks[0]]
    return replace(skip, ranks=ranks, diagnosis=found, loss=loss)
