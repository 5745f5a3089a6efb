"""See every head's log σ while a model runs, patched or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from vdvae_patch.attach.attachment import OutputAttachment
from vdvae_patch.attach.graft import stands_in
from vdvae_patch.heads import Head
from vdvae_patch.patching.record import PatchedHead, is_patched, patched_heads
from vdvae_patch.torch_versions import takes_hooks


@contextmanager
def each_log_sigma(model: nn.Module, heads: Sequence[Head], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Forward hooks that call `see` with a head's index and its log σ, at each call of the head's module that gives one
    tensor. That of a head which is a parameter is seen at once."""
    modules = dict(model.named_modules())
    scales = {(p.head.path, p.head.role): p for p in patched_heads(model)} if is_patched(model) else {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for index, head in enumerate(heads):
        if head.parameter and head.path in parameters:
            raw = head.channel_range.of(parameters[head.path].detach())
            see(index, log_sigma_of(head, raw, scales.get((head.path, head.role))))
    handles = [
        modules[head.path].register_forward_hook(partial(_see, see, index, head, scales.get((head.path, head.role))))
        for index, head in enumerate(heads)
        if head.path in modules and takes_hooks(modules[head.path])
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_sigma_of(head: Head, value: Tensor, patched: PatchedHead | None, replaced_here: bool = False) -> Tensor:
    """log σ of a head's raw value.

    Args:
        patched: what the head got; None if it is not patched.
        replaced_here: whether the value has been replaced already by the one of which the host makes the new σ.
    """
    if patched is None or patched.scale is None or replaced_here:
        return head.convention.log_sigma(value)
    return patched.scale.log_sigma(value)


def _see(
    see: Callable[[int, Tensor], None],
    index: int,
    head: Head,
    patched: PatchedHead | None,
    module: nn.Module,
    _: Any,
    output: Any,
) -> None:
    if isinstance(output, Tensor):
        replaced_here = isinstance(stands_in(module).get("forward"), OutputAttachment)
        see(index, log_sigma_of(head, head.channel_range.of(output), patched, replaced_here))
