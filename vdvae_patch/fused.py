"""Scale, sample and KL in one kernel forward and one backward, on a GPU that Triton compiles for.

What `normal.sample_kl` computes of a posterior and a prior in about twenty operations is one launch here, and its
gradients are another one. Values and gradients are those of the eager form to rounding; the same is kept for the
backward pass. Off unless it is asked for, by `VDVAE_PATCH_FUSED=1` or `use(True)`: on the GPUs of today the
compiler's own form (`torch.compile`) may be as fast, and `bench --gpu` measures both.

It serves tensors of float32 on a CUDA device, of one shape, whose scales are among `SCALES` or none at all, outside of
transforms, traces and forward mode. All else takes the eager form, and so does a machine without Triton. With
`TRITON_INTERPRET=1` the kernels run in Triton's interpreter, on a CPU too, which is how they are tested.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.scales.operation import is_forward_mode, transforms_active
from vdvae_patch.scales.paper import Constant, Exp, ExpLin, UpBounded

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

SWITCH = "VDVAE_PATCH_FUSED"
SCALES = ("exp", "explin", "upbounded", "constant")
"""Those that the kernel knows; any other one, and one with a gain or a shift, takes the eager form."""

_on = os.environ.get(SWITCH) == "1"


@contextmanager
def use(on: bool) -> Iterator[None]:
    """Use the kernels where they serve, or do not, until the end of the block; of this process."""
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


def is_on() -> bool:
    """Whether the kernels are asked for."""
    return _on


@cache
def why_not() -> str:
    """Why no kernel can run on this machine; empty where it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no CUDA device; TRITON_INTERPRET=1 runs the kernels in an interpreter"
    return ""


def interpreted() -> bool:
    """Whether Triton runs its kernels in an interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def serves(tensors: tuple[Tensor, ...], scale_q: Scale | None, scale_p: Scale | None) -> bool:
    """Whether the kernels are asked for, and can take these tensors and scales."""
    if not _on or why_not():
        return False
    first = tensors[0]
    return (
        first.device.type == ("cpu" if interpreted() else "cuda")
        and first.dim() > 0
        and first.numel() > 0
        and all(type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)
        and all(t.dtype == torch.float32 and t.shape == first.shape and t.device == first.device for t in tensors)
        and _kind(scale_q) is not None
        and _kind(scale_p) is not None
        and not (is_forward_mode() or transforms_active() or torch.jit.is_tracing())  # type: ignore[no-untyped-call, attr-defined]
    )


RAW, EXPLIN, UPBOUNDED, CONSTANT = range(4)


def _kind(scale: Scale | None) -> tuple[int, float] | None:
    """Which formula of the kernel is a scale's, and its number; None if none is."""
    if scale is None or type(scale) is Exp:
        return RAW, 0.0
    if type(scale) is ExpLin:
        return EXPLIN, 0.0
    if type(scale) is UpBounded:
        return UPBOUNDED, math.log(scale.omega / 2)
    return (CONSTANT, math.log(scale.value)) if type(scale) is Constant else None


def sample_kl(
    mean_q: Tensor, raw_q: Tensor, mean_p: Tensor, raw_p: Tensor, noise: Tensor, scale_q: Scale | None,
    scale_p: Scale | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `normal.sample_kl`, of tensors and scales that `serves`; differentiable once."""
    result: tuple[Tensor, Tensor] = _SampleKL.apply(  # type: ignore[no-untyped-call]
        mean_q, raw_q, mean_p, raw_p, noise, _kind(scale_q), _kind(scale_p)
    )
    return result


class _SampleKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean_q: Tensor, raw_q: Tensor, mean_p: Tensor, raw_p: Tensor, noise: Tensor,
        kind_q: tuple[int, float], kind_p: tuple[int, float],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        from vdvae_patch import fused_kernels

        z, kl, *kept = fused_kernels.forward(mean_q, raw_q, mean_p, raw_p, noise, kind_q, kind_p)
        ctx.save_for_backward(*kept)
        ctx.kinds = kind_q[0], kind_p[0]
        return z, kl

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_kl: Tensor) -> Any:
        if torch.is_grad_enabled():
            # a kernel leaves no graph, so that a second derivative would be taken for zero
            raise RuntimeError(
                f"the fused sample_kl is differentiable once, and create_graph=True asks for more; unset {SWITCH}"
            )
        from vdvae_patch import fused_kernels

        gradients = fused_kernels.backward(grad_z, grad_kl, ctx.saved_tensors, *ctx.kinds)
        return *gradients, None, None, None
