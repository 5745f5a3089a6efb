"""Which of PyTorch's operations act element by element, which only move elements, and which draw noise.

Names are those of `torch.ops.aten`, without the underscore of the in-place form.
"""

from __future__ import annotations

from typing import Literal

OpKind = Literal["elementwise", "shape", "normal_noise", "reduction", "discrete", "opaque"]

_ELEMENTWISE = """add sub rsub mul multiply div divide true_divide neg exp exp2 expm1 log log1p log2 log10 sqrt rsqrt
square pow
    reciprocal softplus sigmoid logit tanh atanh clamp clamp_min clamp_max clip hardtanh relu relu6 elu leaky_relu silu
    gelu mish selu celu abs where maximum minimum addcmul addcdiv log_sigmoid log_sigmoid_forward erf erfc sin cos tan
    sinh cosh asin acos atan asinh acosh atan2 hardsigmoid hardswish hardshrink softshrink logaddexp logaddexp2 lerp
    threshold nan_to_num masked_fill sign floor ceil round trunc frac fmod remainder hypot xlogy fmax fmin
    special_erf special_erfc special_ndtr
    _prelu_kernel prelu logical_not lgamma digamma"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
_SHAPE = """view _unsafe_view reshape _reshape_alias permute transpose t numpy_T swapaxes swapdims squeeze unsqueeze
expand
    expand_as slice select split split_with_sizes chunk unbind narrow clone contiguous detach alias _to_copy to
    lift_fresh lift_fresh_copy lift repeat flatten unflatten index_select gather index flip roll as_strided movedim
    constant_pad_nd repeat_interleave copy view_as real unfold diagonal pad expand_copy slice_copy _conj resolve_conj
    resolve_neg positive stack cat broadcast_tensors slice_scatter select_scatter diag_embed
    view_copy permute_copy"""
SHAPE = frozenset(_SHAPE.split())
_NORMAL_NOISE = "randn randn_like normal normal_functional"
NORMAL_NOISE = frozenset(_NORMAL_NOISE.split())
_REDUCTION = "sum mean"
REDUCTION = frozenset(_REDUCTION.split())
_DISCRETE = """eq ne lt le gt ge argmax argmin isnan isinf isfinite logical_and logical_or logical_xor bitwise_and
bitwise_or
    bitwise_not any all one_hot bucketize searchsorted topk sort argsort bernoulli multinomial nonzero"""
DISCRETE = frozenset(_DISCRETE.split())
"""Their results say which, not how much: no gradient comes through, so what is computed from them is no network's."""

_COMPARING = "eq ne lt le gt ge logical_and logical_or logical_xor"
COMPARING = frozenset(_COMPARING.split())

_COMBINING = "matmul mm bmm baddbmm einsum"
COMBINING = frozenset(_COMBINING.split())
"""With one operand that no parameter reaches (an alignment, a mask) they only move and repeat the other's elements."""

_DRAWS = "rand rand_like uniform bernoulli exponential multinomial randint randperm poisson cauchy"
DRAWS = frozenset(_DRAWS.split())
"""Noise that is not Normal."""


def base_name(name: str) -> str:
    """`exp_` and `exp` are one function."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def kind_of(name: str) -> OpKind:
    """What an operation does to its elements; `opaque` is everything else, from a convolution to a softmax."""
    if name in ELEMENTWISE:
        return "elementwise"
    if name in SHAPE:
        return "shape"
    if name in NORMAL_NOISE:
        return "normal_noise"
    if name in REDUCTION:
        return "reduction"
    if name in DISCRETE:
        return "discrete"
    return "opaque"
