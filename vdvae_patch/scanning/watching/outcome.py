"""Measure the outcome of a call that was run, and find out why it is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.outcome import Outcome, some
from vdvae_patch.scanning.watching.inputs import tensors_in
from vdvae_patch.trace import Tracer

_SHOWN = 3
_OFF: dict[str, Callable[[], bool]] = {
    "torch.inference_mode() is on: leave it first": torch.is_inference_mode_enabled,
    "gradients are off, by torch.no_grad(): leave it first": lambda: not torch.is_grad_enabled(),
}
_LOSSES = ("loss", "total_loss", "nelbo")  # names under which a loss stands beside its terms


def explained(outcome: Outcome, model: nn.Module, run: Callable[[Tracer | None], Outcome], data: Any) -> Outcome:
    """An outcome that is not finite, with what came in from outside, and where the first such value was made.

    Args:
        run: the call, watched by a tracer.
        data: what it is given.
    """
    tracer = Tracer(model)
    run(tracer)
    return replace(with_origin(outcome, tracer), outside=tuple(from_outside(model, data)))


def with_origin(outcome: Outcome, tracer: Tracer) -> Outcome:
    """An outcome with the first value that is not finite on the way to it; of a call that raised, with the first of
    all, since nothing was reached."""
    events = tracer.trace.events if outcome.raised is not None else tracer.trace.culprits
    return replace(outcome, origin=next(iter(events), None))


def loss_of(result: Any) -> tuple[Tensor | None, bool]:
    """What to differentiate of what a call gave, and whether it is a loss: the one number, or the one with a loss's
    name, or the first that gradients flow to. Without any, the sum of all that they flow to."""
    named = result if isinstance(result, Mapping) else getattr(result, "__dict__", {})
    for name in _LOSSES:
        found = named.get(name) if isinstance(named, Mapping) else None
        if isinstance(found, Tensor) and found.numel() == 1:
            return found, True
    tensors = [t for t in tensors_in(result) if t.is_floating_point()]
    numbers = [t for t in tensors if t.numel() == 1 and (t.requires_grad or len(tensors) == 1)]
    if numbers:
        return numbers[0], True
    learned = [t for t in tensors if t.requires_grad]
    return (torch.stack([t.float().sum() for t in learned]).sum() if learned else None), False


def gradients_of(model: nn.Module, loss: Tensor | None) -> tuple[list[tuple[str, Tensor]], str]:
    """The gradients of a call that was just run, by parameter: those that it computed itself, or those of its loss.
    And why there are none."""
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    own = [(name, p.grad) for name, p in parameters if p.grad is not None]
    if own:
        return own, ""
    if loss is None or not loss.requires_grad:
        off = next((text for text, is_on in _OFF.items() if is_on()), "")
        return [], off or ("nothing that it gave depends on a parameter" if parameters else "no parameter is trained")
    try:
        found = torch.autograd.grad(loss.sum(), [p for _, p in parameters], allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return [], f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return [(name, g) for (name, _), g in zip(parameters, found, strict=True) if g is not None], ""


def several_in(result: Any) -> str:
    """The shape of the only tensor that a call gave and gradients flow to, where it is no single number; or empty."""
    learned = [t for t in tensors_in(result) if t.is_floating_point() and t.requires_grad]
    return str(list(learned[0].shape)) if len(learned) == 1 and learned[0].numel() != 1 else ""


def outcome_of(
    given: Sequence[Tensor],
    is_loss: bool,
    gradients: Sequence[tuple[str, Tensor]],
    not_differentiated: str = "",
    refused: tuple[str, ...] = (),
) -> tuple[Outcome, list[Tensor]]:
    """The outcome of a call that was just run, and the tensors that are not finite.

    Args:
        given: the loss, or if there is none all that the call gave.
        gradients: by parameter; `not_differentiated` says why there are none.
        refused: see `Outcome`.
    """
    bad = [t for t in given if t.is_floating_point() and not is_finite(t)]
    bad_gradients = [(name, g) for name, g in gradients if not is_finite(g)]
    return Outcome(
        loss=float(given[0].detach().double()) if is_loss else None,
        bad_values=tuple(_described(t) for t in bad),
        gradients=len(gradients),
        bad_gradients=tuple(name for name, _ in bad_gradients),
        not_differentiated=not_differentiated,
        refused=refused,
    ), [*bad, *(g for _, g in bad_gradients)]


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is."""
    return tensor.is_meta or tensor.is_quantized or bool(_elements(tensor).isfinite().all())


def _elements(tensor: Tensor) -> Tensor:
    """Those that it stores, of a type that can be asked what they are."""
    values = tensor.detach()
    values = values.coalesce().values() if values.is_sparse else values
    return values.float() if values.is_floating_point() and values.element_size() == 1 else values


def _not_finite(tensor: Tensor) -> bool:
    return not is_finite(tensor)


def has_nan(tensor: Tensor) -> bool:
    """Whether an element is NaN; infinities alone are none."""
    return not is_finite(tensor) and bool(_elements(tensor).isnan().any())


def from_outside(model: nn.Module, data: Any, *, masks: bool = False) -> Iterator[str]:
    """What is not finite before a call: rows of the batch, parameters, buffers.

    Args:
        masks: leave out data and buffers that have infinities alone, as a mask has them.
    """
    bad_data = has_nan if masks else _not_finite
    for number, tensor in enumerate(t for t in tensors_in(data) if t.is_floating_point()):
        if bad_data(tensor):
            yield f"the batch is not finite: {_rows(tensor)} of input {number}, {_described(tensor)}"
    parameters = list(model.named_parameters())
    bad = tuple(name for name, p in parameters if p.is_floating_point() and not is_finite(p))
    if bad:
        yield (
            f"{len(bad)} of {len(parameters)} parameters are not finite ({some(bad)}): an update before this one "
            "destroyed them; load an earlier checkpoint"
        )
    buffers = tuple(name for name, b in model.named_buffers() if b.is_floating_point() and bad_data(b))
    if buffers:
        yield (
            f"buffers are not finite ({some(buffers)}), such as running statistics that have seen a NaN; load an "
            "earlier checkpoint"
        )


def _rows(tensor: Tensor) -> str:
    if not tensor.dim():
        return "the value"
    bad = (~tensor.detach().isfinite()).flatten(1).any(1) if tensor.dim() > 1 else ~tensor.detach().isfinite()
    rows = bad.nonzero().flatten().tolist()
    return ("row " if len(rows) == 1 else "rows ") + _some_rows(rows)


def _some_rows(rows: list[int]) -> str:
    if len(rows) > 1 and rows == list(range(rows[0], rows[-1] + 1)):
        return f"{rows[0]} to {rows[-1]}"
    more = f" and {len(rows) - 2 * _SHOWN} more" if len(rows) > 2 * _SHOWN else ""
    return ", ".join(map(str, rows[: 2 * _SHOWN])) + more


def _described(tensor: Tensor) -> str:
    values = tensor.detach()
    counts = {"NaN": int(values.isnan().sum()), "infinite": int(values.isinf().sum())}
    return " and ".join(f"{count} {kind}" for kind, count in counts.items() if count) + f" of {values.numel()} values"


def batch_dim(shape: Sequence[int], rows: int | None) -> int:
    """The dimension of the batch: the second where something stands in front of it, as several draws of each
    posterior do, `[K, B, ...]`, and else the first.

    Args:
        rows: how many the batch has, where it is known.
    """
    return int(rows is not None and len(shape) > 2 and shape[0] != rows and shape[1] == rows)


def refusal(parameter: str, value: Tensor, where: str, rows: int | None = None) -> str:
    """What PyTorch's Normal has against a mean or a scale, in words; empty if nothing.

    Args:
        rows: how many the batch has, where it is known.
    """
    detached = value.detach()
    good = detached > 0 if parameter == "scale" else ~detached.isnan()
    if bool(good.all()):
        return ""
    bad = ~good
    of_rows = bad.movedim(batch_dim(bad.shape, rows), 0).flatten(1).any(1) if bad.dim() > 1 else bad.reshape(-1)
    found = of_rows.nonzero().flatten().tolist()
    finite = detached[detached.isfinite()]
    lowest = f", the smallest {float(finite.min()):.3g}" if parameter == "scale" and finite.numel() else ""
    what = "not positive or NaN" if parameter == "scale" else "NaN"
    return (
        f"{where}: the {parameter} of a Normal is {what} in {int(bad.sum())} of {bad.numel()} values "
        f"(row{'s' if len(found) > 1 else ''} {_some_rows(found)}{lowest}), which PyTorch refuses: 'Expected parameter "
        f"{parameter} ... to satisfy the constraint'"
    )
