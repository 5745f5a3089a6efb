"""See every head's log σ while a model runs, patched or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from vdvae_patch.attach.attachment import OutputAttachment
from vdvae_patch.attach.graft import stands_in
from vdvae_patch.heads import Head
from vdvae_patch.patching.record import PatchedHead, is_patched, patched_heads


@contextmanager
def log_sigmas(model: nn.Module, heads: Sequence[Head], seen: dict[int, Tensor]) -> Iterator[None]:
    """Forward hooks that store each head's log σ in `seen`, by the head's index; of heads whose module is called and
    gives one tensor."""
    modules = dict(model.named_modules())
    scales = {(p.head.path, p.head.role): p for p in patched_heads(model)} if is_patched(model) else {}
    handles = [
        modules[head.path].register_forward_hook(partial(_store, seen, index, head, scales.get((head.path, head.role))))
        for index, head in enumerate(heads)
        if head.path in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _store(
    seen: dict[int, Tensor],
    index: int,
    head: Head,
    patched: PatchedHead | None,
    module: nn.Module,
    _: Any,
    output: Any,
) -> None:
    if not isinstance(output, Tensor):
        return
    value = head.channel_range.of(output)
    replaced_here = isinstance(stands_in(module).get("forward"), OutputAttachment)
    if patched is None or patched.scale is None or replaced_here:
        seen[index] = head.convention.log_sigma(value)
    else:
        seen[index] = patched.scale.log_sigma(value)
