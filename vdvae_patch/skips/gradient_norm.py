"""The norm of a gradient, finite where the gradient is, though squares in float32 overflow; and clipping at a norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def gradient_norm(gradients: Sequence[Tensor], device: torch.device | None = None, *, may_wait: bool = True) -> Tensor:
    """√Σ g² of all elements together, float64, `[]`; infinite or NaN only if an element is.

    Squares of what lies above 1.8e19 overflow in float32. On a CPU, where looking is no wait and float64 takes twenty
    times as long, the squares are summed in float32, and once more in float64 if that overflowed. Elsewhere the sum is
    in float64 at once, so that nothing waits, and ranks that share a gradient always do the same. (MPS has no float64;
    there it stays float32.)

    Args:
        gradients: dense, sparse or distributed (`DTensor`, of which the whole is meant), on any devices.
        device: where the norm is wanted; that of the first gradient if left out.
        may_wait: whether a CPU is looked at; if not, it sums as an accelerator does, for a step that is captured.
    """
    if may_wait and (device is None or device.type == "cpu") and _are_ordinary(gradients):
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
        if not math.isinf(norm.item()):
            return norm.double()
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    if device is None:
        device = dense[0].device if dense else torch.device("cpu")
    wide = torch.float32 if device.type == "mps" else torch.float64
    if not dense:
        return torch.zeros((), dtype=wide, device=device)
    if may_wait and all(g.device.type in ("cpu", "mps") and _is_plain(g) for g in dense):
        norm = _norm([g.float() if g.dtype == torch.float16 else g for g in dense], None, device)
        if wide == torch.float32 or not bool(norm.isinf()):
            return norm.to(wide)
    return _norm(dense, wide, device)


def row_norms(gradients: Tensor) -> Tensor:
    """The same of every row of a matrix, `[rows, elements]` to `[rows]`."""
    if gradients.device.type != "cpu":
        return torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64)  # type: ignore[no-any-return]
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1).double()
    over = norms.isinf()
    if bool(over.any()):
        norms[over] = torch.linalg.vector_norm(gradients[over], dim=1, dtype=torch.float64)
    return norms


def clip_gradients(gradients: Sequence[Tensor], norm: Tensor, limit: Tensor) -> None:
    """Scale gradients of that norm down to the limit, where it is above: by `min(1, limit / (norm + 1e-6))`.

    As `torch.nn.utils.clip_grad_norm_` does it, whose limit must be a number and whose norm must not overflow; a limit
    that is on the device is not waited for here.
    """
    torch._foreach_mul_(list(gradients), coefficient(norm, limit))


def coefficient(norm: Tensor, limit: Tensor) -> Tensor:
    """What a gradient is multiplied by, float32, of the shape of the norm."""
    # an infinite limit over an infinite norm is NaN, but such an update is skipped
    narrow = limit.float() / (norm.float() + 1e-6)
    return torch.where(norm.float().isinf(), (limit / norm).float(), narrow).clamp(max=1)


def _norm(gradients: list[Tensor], dtype: torch.dtype | None, device: torch.device) -> Tensor:
    if all(map(_is_plain, gradients)):
        norms = list(torch._foreach_norm(gradients, dtype=dtype))
    else:
        groups: dict[Any, list[Tensor]] = {}  # no operation takes those of two meshes, or of one and of none
        for g in gradients:
            groups.setdefault(getattr(g, "device_mesh", None), []).append(g)
        norms = [n for group in groups.values() for n in torch._foreach_norm(group, dtype=dtype)]
        norms = [n.full_tensor() if hasattr(n, "full_tensor") else n for n in norms]
    widest = torch.float64 if any(n.dtype == torch.float64 for n in norms) else torch.float32
    there = (n if n.dtype == widest and n.device == device else n.to(device, widest) for n in norms)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(there)))
    return norm


def _are_ordinary(gradients: Sequence[Tensor]) -> bool:
    """Whether they are summed in float32 as they are: what a guard asks in every step of a loop must cost little."""
    return len(gradients) > 0 and all(
        type(g) is Tensor and g.dtype == torch.float32 and g.is_cpu and g.layout is torch.strided for g in gradients
    )


def _is_plain(gradient: Tensor) -> bool:
    """Whether it is not distributed; what every step asks of every gradient must cost little."""
    return type(gradient) is Tensor or not hasattr(gradient, "full_tensor")
