"""How the runs of an ensemble are computed side by side.

Under `vmap` a convolution whose weights differ from run to run becomes one grouped convolution, a group a run
(`grouped`). `matmul` unfolds the windows and multiplies, one batched matrix product for all runs. `loop` computes one
run after the other within the step, which is the fastest where a single run fills the processor. All give the same
numbers to rounding; which is fastest depends on machine, model and batch, so `choose` times a step of each.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Lowering = Literal["grouped", "matmul", "loop"]
LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)


class MatmulConvolutions(TorchFunctionMode):
    """Computes `conv2d` and `conv_transpose2d` (one group, no dilation) as matrix products of unfolded windows."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        if func is torch.conv_transpose2d:
            return _conv_transpose2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def context(lowering: Lowering) -> contextlib.AbstractContextManager[Any]:
    """Under it, convolutions are computed that way."""
    return MatmulConvolutions() if lowering == "matmul" else contextlib.nullcontext()


def choose(
    step: Callable[[Lowering], object],
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Lowering:
    """The faster one: each takes one step to warm up and two that are timed."""
    seconds: dict[Lowering, float] = {}
    for lowering in LOWERINGS:
        step(lowering)
        synchronize()
        start = clock()
        step(lowering)
        step(lowering)
        synchronize()
        seconds[lowering] = clock() - start
    return min(LOWERINGS, key=lambda lowering: seconds[lowering])


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    _require_plain(dilation, groups)
    n, _, height, width = x.shape
    out, _, kh, kw = weight.shape
    rows = (height + 2 * padding[0] - kh) // stride[0] + 1
    columns = (width + 2 * padding[1] - kw) // stride[1] + 1
    if (kh, kw) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0):
        windows = x.flatten(2)
    else:
        windows = F.unfold(x, (kh, kw), padding=padding, stride=stride)
    # [inputs, n * positions]: one wide product, where one an image would be narrow
    product = weight.flatten(1) @ windows.transpose(0, 1).flatten(1)
    result = product.view(out, n, rows, columns).transpose(0, 1)
    return result if bias is None else result + bias.view(-1, 1, 1)


def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    _require_plain(dilation, groups)
    n, _, height, width = x.shape
    _, out, kh, kw = weight.shape
    size = tuple(
        (length - 1) * step - 2 * pad + kernel + extra
        for length, step, pad, kernel, extra in zip(
            (height, width), stride, padding, (kh, kw), output_padding, strict=True
        )
    )
    product = weight.flatten(1).T @ x.transpose(0, 1).flatten(1)
    windows = product.view(out * kh * kw, n, height * width).transpose(0, 1)
    result = F.fold(windows, size, (kh, kw), padding=padding, stride=stride)
    return result if bias is None else result + bias.view(-1, 1, 1)


def _require_plain(dilation: tuple[int, int], groups: int) -> None:
    if groups != 1 or tuple(dilation) != (1, 1):
        raise NotImplementedError(f"convolutions of {groups} groups and dilation {dilation} as matrix products")
