"""Readers: what is computed in the place of a host's value, from the raw parameter p, so that σ is scale(p)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from vdvae_patch.composition import Target, undo
from vdvae_patch.conventions import Convention
from vdvae_patch.distributions import carrying
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.scales import Scale
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.scales.operation import Operation


class Reader:
    """p to what the host must have at a site, so that its remaining steps give scale(p).

    Args:
        rest: from the value at the site to σ; None for a site that lets the raw value pass.
        reads: for a site that disagrees with the others that read this raw value: their convention, already patched,
            whose σ it shall compute, too.
    """

    def __init__(self, scale: Scale, rest: Convention | None, reads: Convention | None = None) -> None:
        self.scale = scale
        self.rest = rest
        self.reads = reads
        self.carries = False
        """Whether the value is a σ that a Normal is made of, and carries its logarithm."""

    def __call__(self, p: Tensor) -> Any:
        if self.rest is None:
            return p
        if type(p).__module__ == "torch.return_types":
            return self._of_several(p)
        if self.reads is not None:
            return undo(self.rest, Target(self.reads.sigma(p), self.reads.log_sigma(p)))
        value = preimage(self.rest, self.scale, p)
        if self.carries and isinstance(value, Tensor) and not torch.compiler.is_compiling():
            return carrying(value, self.scale.log_sigma(p))
        return value

    def _of_several(self, outputs: Any) -> Any:
        """What an operation gives together with places, as max, median, sort and topk along a dimension do: the values
        are its first output."""
        if not isinstance(outputs[0], Tensor) or any(o.is_floating_point() for o in outputs[1:]):
            raise PatchError(
                f"{type(outputs).__name__} gives several tensors of numbers, and the raw value is one of them: take it "
                "by an operation of its own"
            )
        return type(outputs)((self(outputs[0]), *outputs[1:]))

    def same_as(self, other: AnyReader) -> bool:
        """Whether the two read alike."""
        if not isinstance(other, Reader):
            return False
        return vars(self) == vars(other) or self.rest is other.rest is None


class LogReader:
    """Lets what a host's expression computes of a raw value, a σ, carry its logarithm.

    A σ that comes of a root or a quotient, √exp(v), is computed anew as exp(log σ): of a root whose radicand is rounded
    to zero, from log σ = −52 on in float32, the slope is infinite, and the raw value's gradient NaN.
    """

    scale = None

    def __init__(self, convention: Convention) -> None:
        self.convention = convention

    def __call__(self, raw: Any, value: Any) -> Any:
        if isinstance(value, Tensor) and isinstance(raw, Tensor) and not torch.compiler.is_compiling():
            log_sigma = self.convention.log_sigma(wide(raw))
            if type(value.grad_fn).__name__ in _WITHOUT_SLOPE and log_sigma.shape == value.shape:
                value = log_sigma.exp().to(value.dtype)
            return carrying(value, log_sigma.to(raw.dtype))
        return value

    def same_as(self, other: AnyReader) -> bool:
        """Whether the two read alike."""
        return isinstance(other, LogReader) and self.convention == other.convention


_WITHOUT_SLOPE = {f"{name}Backward0" for name in ("Sqrt", "Pow", "Rsqrt", "Reciprocal", "Div")}
"""What autograd calls the operations whose slope is not finite where what they take was rounded to zero."""


class PartReader:
    """The raw value's channels of what a host's expression reads, and what it computes of all channels, to the latter
    with these replaced."""

    def __init__(self, read: Reader, channels: ChannelRange) -> None:
        self.read = read
        self.scale = read.scale
        self.channels = channels

    def raw(self, operand: Tensor) -> Tensor:
        """A copy, since the host may change its operand in place."""
        return self.channels.of(operand).clone(memory_format=torch.contiguous_format)

    def __call__(self, raw: Tensor, value: Tensor) -> Tensor:
        dim, start, stop, step = self.channels
        stop = value.shape[dim] if stop is None else stop
        return torch.slice_scatter(value, self.read(raw), dim, start, stop, step)

    def same_as(self, other: AnyReader) -> bool:
        """Whether the two read alike."""
        return isinstance(other, PartReader) and self.channels == other.channels and self.read.same_as(other.read)


class OutputReader:
    """What a module returns, to the same with the pre-image of scale(p) in the raw value's channels."""

    def __init__(self, scale: Scale, rest: Convention, channels: ChannelRange) -> None:
        dim, start, stop, step = channels
        self.scale = scale
        self.head = Head("", "posterior", start, stop, dim, convention=rest, step=step)

    def __call__(self, output: Tensor) -> Any:
        return replace_raw(output, self.head, self.scale)

    def same_as(self, other: AnyReader) -> bool:
        """Whether the two read alike."""
        return isinstance(other, OutputReader) and vars(self) == vars(other)


AnyReader = Reader | PartReader | OutputReader | LogReader


def preimage(convention: Convention, scale: Scale, p: Tensor) -> Any:
    """What the host has to read to compute σ = scale(p).

    Of a constant scale it does not depend on p, whose gradient is then zero and not absent: `DistributedDataParallel`
    takes a parameter without a gradient for one that was not used, and fails at the next step.
    """
    if isinstance(p, torch.fx.Proxy):
        return _kept_whole(p, preimage, convention, scale)
    value = convention.preimage(scale, p)
    if p.requires_grad and not value.requires_grad and torch.is_grad_enabled():
        value = _Ignoring.run(p, value)
    return value


class _Ignoring(Operation):
    """The value; its gradient with respect to p is zero, whatever comes from above, NaN included."""

    @staticmethod
    def forward(p: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(grad), None

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, of_value: Tensor | None) -> Tensor:
        return torch.zeros_like(tangent)


def replace_raw(output: Tensor, head: Head, scale: Scale, emitter: type | None = None) -> Any:
    """`output` with the head's channels replaced by the pre-image of the new scale.

    Args:
        emitter: the class of the module that made the output; a layer of PyTorch's own keeps it nowhere, so that the
            channels are written in place. Any other output is copied: a module may have put it aside, or computed a
            penalty of it.
    """
    if isinstance(output, torch.fx.Proxy):
        return _kept_whole(output, _replaced, head, scale)
    if not isinstance(output, Tensor):
        raise PatchError(
            f"head {head}: the module returns a {type(output).__name__}, not a tensor; "
            "name the module that emits the raw parameter itself"
        )
    if head.start == 0 and head.stop is None and head.step == 1:
        return preimage(head.convention, scale, output)
    size = output.shape[head.dim]
    if head.size is not None and size != head.size:
        raise PatchError(
            f"head {head}: the module's output has {size} channels along dimension {head.dim}, and had {head.size} "
            "where the head was found, so that these may be others; scan the model as it is now, and patch it"
        )
    if (head.start if head.stop is None else head.stop - 1) >= size:
        raise PatchError(f"head {head}: the module's output has {size} channels along dimension {head.dim}")
    if head.start == 0 and head.stop == size and head.step == 1:
        return preimage(head.convention, scale, output)
    # a copy of the slice alone: what is kept for the backward pass must not keep the whole output alive
    channels = head.channel_range
    raw = channels.of(output).clone(memory_format=torch.contiguous_format)
    value = head.convention.preimage(scale, raw)
    if emitter in _LAYERS and _is_new(output):
        channels.of(output).copy_(value)
        return output
    return torch.slice_scatter(output, value, head.dim, head.start, head.stop, head.step)


def _replaced(head: Head, scale: Scale, output: Tensor) -> Any:
    return replace_raw(output, head, scale)


class _Kept:
    """A function with its first arguments, as one node of a graph of `torch.fx`."""

    __name__ = __qualname__ = "scaled"

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __call__(self, value: Tensor) -> Any:
        return self.function(*self.arguments, value)


def _kept_whole(value: torch.fx.Proxy, function: Callable[..., Any], *arguments: Any) -> torch.fx.Proxy:
    """A scale in a graph of `torch.fx`: its formulas ask for the type of p, which a graph does not know."""
    return value.tracer.create_proxy("call_function", _Kept(function, *arguments), (value,), {})


_LAYERS = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d})

# Operations whose result autograd does not keep for the backward pass.
_FRESH = frozenset({"ConvolutionBackward0", "AddmmBackward0", "MkldnnConvolutionBackward0"})


def _is_new(output: Tensor) -> bool:
    if torch.compiler.is_compiling() or output.grad_fn is None:
        return False
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return output.grad_fn.name() in _FRESH
