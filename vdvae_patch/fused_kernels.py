"""The Triton kernels of `fused`; imported where one of them runs, and nowhere else.

Each element is on its own. The exponentials and logarithms of a GPU are approximations whose error does not fall with
the result, so `expm1` and `log1p` are series where their results are small. No NaN is lost: what bounds a value is a
comparison that NaN fails. Only what Triton builds in is called: its library of functions does not run in an
interpreter that is chosen after it was imported.
"""

# Triton compiles the source of a kernel, where a type of Python means nothing.
# mypy: disable-error-code="untyped-decorator, no-untyped-call, no-untyped-def, no-any-return"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdvae_patch.fused import CONSTANT, RAW

_BLOCK = 1024
_LEAST = torch.finfo(torch.float32).min
_ROOT_LIMIT = math.log(torch.finfo(torch.float32).max) - 1


@triton.jit
def _expm1(x):
    # below ½ the first ten terms of the series, whose rest is below 3e-11 of the result
    small = tl.where(tl.abs(x) < 0.5, x, 0.0)
    series = 1.0 + small * (1.0 / 10)
    series = 1.0 + small * (1.0 / 9) * series
    series = 1.0 + small * (1.0 / 8) * series
    series = 1.0 + small * (1.0 / 7) * series
    series = 1.0 + small * (1.0 / 6) * series
    series = 1.0 + small * (1.0 / 5) * series
    series = 1.0 + small * (1.0 / 4) * series
    series = 1.0 + small * (1.0 / 3) * series
    series = 1.0 + small * (1.0 / 2) * series
    return tl.where(tl.abs(x) < 0.5, small * series, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x):
    # of x from 0: below 1 as 2 artanh(x / (2 + x)), whose rest is below 2e-8 of the result
    small = tl.where(x < 1.0, x, 0.0)
    s = small / (2.0 + small)
    t = s * s
    series = 1.0 / 11 + t * (1.0 / 13)
    series = 1.0 / 9 + t * series
    series = 1.0 / 7 + t * series
    series = 1.0 / 5 + t * series
    series = 1.0 / 3 + t * series
    return tl.where(x < 1.0, 2.0 * s * (1.0 + t * series), tl.log(1.0 + x))


@triton.jit
def _scale(p, constant, KIND: tl.constexpr):
    """log σ and its derivative, of a scale that has one; KIND as `fused` numbers them."""
    if KIND == 1:
        above = tl.where(p <= 0.0, 0.0, p)
        share = _log1p(above)
        return tl.where(share < p, share, p), 1.0 / (above + 1.0)
    if KIND == 2:
        tail = tl.exp(-tl.where(p <= 0.0, 0.0, p))
        rest = 1.0 - tail
        share = _log1p(rest)
        return tl.where(share < p, share, p) + constant, tail / (rest + 1.0)
    if KIND == 3:
        return tl.where(p > 0.0, constant, constant), p  # of p's shape; the slope is not read
    return p, p


@triton.jit
def _forward(
    mean_q, raw_q, mean_p, raw_p, noise, z, kl, spread, growth, distance, root, slope_q, slope_p,
    inner, count, stride_mean_q, stride_raw_q, stride_mean_p, stride_raw_p, constant_q, constant_p, least, limit,
    KIND_Q: tl.constexpr, KIND_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    own = i < count
    row, column = i // inner, i % inner
    p_q = tl.load(raw_q + row * stride_raw_q + column, mask=own, other=0.0)
    p_p = tl.load(raw_p + row * stride_raw_p + column, mask=own, other=0.0)
    m_q = tl.load(mean_q + row * stride_mean_q + column, mask=own, other=0.0)
    m_p = tl.load(mean_p + row * stride_mean_p + column, mask=own, other=0.0)
    log_q, d_q = _scale(p_q, constant_q, KIND_Q)
    log_p, d_p = _scale(p_p, constant_p, KIND_P)
    s = tl.exp(log_q) * tl.load(noise + i, mask=own, other=0.0)
    ratio = log_p - log_q
    ratio = tl.where(ratio < least, least, ratio)
    g = _expm1(-2.0 * ratio)
    half = -0.5 * log_p
    r = tl.exp(tl.where(half > limit, limit, half))
    d = (m_q - m_p) * r * r
    tl.store(z + i, m_q + s, mask=own)
    tl.store(kl + i, ratio + 0.5 * g + 0.5 * d * d, mask=own)
    tl.store(spread + i, s, mask=own)
    tl.store(growth + i, g, mask=own)
    tl.store(distance + i, d, mask=own)
    tl.store(root + i, r, mask=own)
    if KIND_Q == 1 or KIND_Q == 2:
        tl.store(slope_q + i, d_q, mask=own)
    if KIND_P == 1 or KIND_P == 2:
        tl.store(slope_p + i, d_p, mask=own)


@triton.jit
def _backward(
    grad_z, grad_kl, spread, growth, distance, root, slope_q, slope_p,
    to_mean_q, to_raw_q, to_mean_p, to_raw_p, count,
    KIND_Q: tl.constexpr, KIND_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    own = i < count
    of_z = tl.load(grad_z + i, mask=own, other=0.0)
    of_kl = tl.load(grad_kl + i, mask=own, other=0.0)
    d = tl.load(distance + i, mask=own, other=0.0)
    r = tl.load(root + i, mask=own, other=0.0)
    g = tl.load(growth + i, mask=own, other=0.0)
    push = -of_kl * d * r * r
    tl.store(to_mean_q + i, of_z - push, mask=own)
    tl.store(to_mean_p + i, push, mask=own)
    q = of_z * tl.load(spread + i, mask=own, other=0.0) + of_kl * g
    p = (g + d * d) * -of_kl
    if KIND_Q == 3:
        q = tl.where(own, 0.0, 0.0)
    elif KIND_Q != 0:
        q = q * tl.load(slope_q + i, mask=own, other=0.0)
    if KIND_P == 3:
        p = tl.where(own, 0.0, 0.0)
    elif KIND_P != 0:
        p = p * tl.load(slope_p + i, mask=own, other=0.0)
    tl.store(to_raw_q + i, q, mask=own)
    tl.store(to_raw_p + i, p, mask=own)


def forward(
    mean_q: Tensor, raw_q: Tensor, mean_p: Tensor, raw_p: Tensor, noise: Tensor, kind_q: tuple[int, float],
    kind_p: tuple[int, float],
) -> tuple[Tensor, ...]:  # fmt: skip
    """z, the divergence, and what the backward pass needs: spread, growth, distance, root and the slopes."""
    given = [_rows(t) for t in (mean_q, raw_q, mean_p, raw_p)]
    noise = noise.contiguous()
    made = [torch.empty_like(noise) for _ in range(6)]
    # a scale without a slope needs none; its kernel is compiled without the store
    slopes = [torch.empty_like(noise) if kind not in (RAW, CONSTANT) else None for kind, _ in (kind_q, kind_p)]
    count = noise.numel()
    _forward[(triton.cdiv(count, _BLOCK),)](
        *given, noise, *made, *(noise if slope is None else slope for slope in slopes), max(1, noise[0].numel()), count,
        *(_stride(t) for t in given), kind_q[1], kind_p[1], _LEAST, _ROOT_LIMIT,
        KIND_Q=kind_q[0], KIND_P=kind_p[0], BLOCK=_BLOCK,
    )  # fmt: skip
    return (*made, *(slope for slope in slopes if slope is not None))


def backward(
    grad_z: Tensor, grad_kl: Tensor, kept: tuple[Tensor, ...], kind_q: int, kind_p: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for mean and raw value of the posterior, and then of the prior."""
    spread, growth, distance, root, *slopes = kept
    slope_q = spread if kind_q in (RAW, CONSTANT) else slopes.pop(0)
    slope_p = spread if kind_p in (RAW, CONSTANT) else slopes.pop(0)
    to_mean_q, to_raw_q, to_mean_p, to_raw_p = (torch.empty_like(spread) for _ in range(4))
    count = spread.numel()
    _backward[(triton.cdiv(count, _BLOCK),)](
        grad_z.contiguous(), grad_kl.contiguous(), spread, growth, distance, root, slope_q, slope_p, to_mean_q,
        to_raw_q, to_mean_p, to_raw_p, count, KIND_Q=kind_q, KIND_P=kind_p, BLOCK=_BLOCK,
    )  # fmt: skip
    return to_mean_q, to_raw_q, to_mean_p, to_raw_p


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if each of its rows lies in one piece, as a slice of channels does; else a copy."""
    return tensor if tensor.dim() > 1 and tensor[0].is_contiguous() else tensor.contiguous()


def _stride(tensor: Tensor) -> int:
    return tensor.stride(0) if tensor.dim() > 0 else 1
