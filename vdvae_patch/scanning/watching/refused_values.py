"""Operations that refuse a value which is not finite, as PyTorch's binary cross-entropy refuses a NaN.

That error is the symptom of what a scan looks for, and it must not hide what comes behind it: the KL, mostly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def despite_refusal(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> Any:
    """NaN in the shape of what an operation gives that refused its arguments because they are not finite.

    Whether that was the reason is tried: with zeros in their place the operation must run.

    Args:
        run: the operation, as a function of its arguments.
        error: what it raised.

    Raises:
        Exception: `error` itself, if it has another reason, such as a shape that does not fit.
    """
    finite, changed = _finite([args, kwargs])
    if not changed:
        raise error
    try:
        given = run(*finite[0], **finite[1])
    except Exception:
        raise error from None
    return _all_nan(given)


def _finite(value: Any) -> tuple[Any, bool]:
    """A value with zeros for NaN and infinities in its tensors, and whether there were any."""
    if isinstance(value, Tensor):
        if not (value.is_floating_point() or value.is_complex()) or value.is_meta or value.is_sparse:
            return value, False
        good = value.isfinite()
        return (value, False) if bool(good.all()) else (torch.where(good, value, torch.zeros_like(value)), True)
    if isinstance(value, dict):
        named = {key: _finite(part) for key, part in value.items()}
        return {key: part for key, (part, _) in named.items()}, any(changed for _, changed in named.values())
    if isinstance(value, list | tuple):
        parts = [_finite(part) for part in value]
        return type(value)(part for part, _ in parts), any(changed for _, changed in parts)
    return value, False


def _all_nan(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.full_like(value, torch.nan) if value.is_floating_point() or value.is_complex() else value
    return type(value)(_all_nan(part) for part in value) if isinstance(value, list | tuple) else value
