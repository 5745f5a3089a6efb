"""Trained parameters as they are, while a step is done again: lines that are run again may write to them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_MOST = 64 * 2**20  # bytes that are copied at most, of the smallest parameters


class Weights:
    """Copies of the trained parameters of some modules, to be put back.

    Above 64 MiB the largest are not copied: whether they were written to is seen, and they are not put back.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        every = (p for module in modules for p in module.parameters())
        trained = {id(p): p for p in every if p.requires_grad and not is_lazy(p) and not p.is_inference()}
        left, self._kept = _MOST, list[tuple[Tensor, int, Tensor | None]]()
        for p in sorted(trained.values(), key=lambda p: p.nbytes):
            left -= p.nbytes
            copied = left >= 0 and not p.is_meta and p.layout is torch.strided
            self._kept.append((p, p._version, p.detach().clone() if copied else None))

    @torch.no_grad()
    def put_back(self) -> bool:
        """Make them what they were; whether all that were written to could be."""
        whole = True
        for p, version, kept in self._kept:
            if kept is not None and not _is_the_same(p, kept):
                p.data.copy_(kept)  # unseen by autograd, as a buffer is
            whole &= kept is not None or p._version == version
        return whole


def _is_the_same(parameter: Tensor, kept: Tensor) -> bool:
    """Without a wait for the device where there is one: there it is copied each time."""
    return parameter.device.type == "cpu" and type(kept) is Tensor and torch.equal(parameter.detach(), kept)
