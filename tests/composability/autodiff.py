"""torch.func, checkpointing and hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from .case import Case, Values, gradient, loss, value
from .table import row


def _of_input(case: Case) -> Callable[[Tensor], Tensor]:
    return lambda x: loss(case.model, (x, *case.batch[1:]))


def _halved(model: nn.Module) -> dict[str, Tensor]:
    return {name: 0.5 * p.detach() for name, p in model.state_dict().items()}


def _with_half_the_weights(case: Case) -> Values:
    case.model.load_state_dict(_halved(case.model))
    return gradient(case.model, case.batch)


@row("torch.func.functional_call", reference=_with_half_the_weights)
def called(case: Case) -> Any:
    case.patch()
    return gradient(lambda *batch: functional_call(case.model, _halved(case.model), batch), case.batch)


def _one_by_one(case: Case) -> Values:
    return [torch.stack([*value(case.model, case.batch), _with_half_the_weights(case)[0]])]


@row("torch.func.vmap over stacked weights", reference=_one_by_one)
def mapped(case: Case) -> Any:
    case.patch()
    other = case.fresh()
    other.load_state_dict(_halved(other))
    weights, buffers = stack_module_state([case.fresh(), other])

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return loss(lambda *batch: functional_call(case.model, (weights, buffers), batch), case.batch)

    return [vmap(one, randomness="same")(weights, buffers)]


@row("torch.func.grad")
def differentiated(case: Case) -> Any:
    case.patch()
    call = _of_input(case)
    return [call(case.batch[0]), grad(call)(case.batch[0])]


def _slope(case: Case) -> Values:
    return gradient(case.model, case.batch)[1:]


def _directional(case: Case) -> Values:
    return [_slope(case)[0].sum()]


@row("torch.func.jvp", reference=_directional)
def pushed_forward(case: Case) -> Any:
    case.patch()
    x = case.batch[0]
    return [jvp(_of_input(case), (x,), (torch.ones_like(x),))[1]]


@row("torch.func.jacfwd", reference=_slope)
def jacobian(case: Case) -> Any:
    case.patch()
    return [jacfwd(_of_input(case), randomness="same")(case.batch[0])]


def _by_differences(case: Case) -> Values:
    """Differences of the gradient in float64, which no second derivative of an operation comes into."""
    case.model.double()
    batch = tuple(t.double() for t in case.batch)
    x, step, columns = batch[0], 1e-5, []
    for index in range(x.numel()):
        moved = torch.zeros(x.numel(), dtype=torch.float64)
        moved[index] = step
        above, below = (_slope_at(case, x + sign * moved.view_as(x), batch) for sign in (1, -1))
        columns.append((above - below).flatten() / (2 * step))
    return [torch.stack(columns)]


def _slope_at(case: Case, x: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
    return gradient(case.model, (x, *batch[1:]))[1]


@row("jacfwd(jacrev(loss)), which torch.func.hessian is", reference=_by_differences, tolerance=1e-3)
def second_derivatives(case: Case) -> Any:
    case.patch()
    case.model.double()
    batch = tuple(t.double() for t in case.batch)
    x = batch[0]
    # hessian itself takes no randomness="same", which a VAE needs
    full = jacfwd(jacrev(lambda t: loss(case.model, (t, *batch[1:]))), randomness="same")(x)
    return [full.reshape(x.numel(), x.numel())]


@row(
    "a gradient of a gradient (create_graph=True)",
    reference=lambda case: [_by_differences(case)[0].sum(0)],
    note="patch with arithmetic='host' for second derivatives in reverse mode",
)
def penalized(case: Case) -> Any:
    case.patch()
    case.model.double()
    batch = tuple(t.double() for t in case.batch)
    x = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(case.model, (x, *batch[1:])), x, create_graph=True)
    return [torch.autograd.grad(slope.sum(), x)[0].flatten()]


@row("torch.inference_mode", reference=lambda case: value(case.model, case.batch))
def inferred(case: Case) -> Any:
    case.patch()
    with torch.inference_mode():
        return [loss(case.model, case.batch).clone()]


@row("torch.utils.checkpoint, use_reentrant=False")
def recomputed(case: Case) -> Any:
    case.patch()
    return lambda *batch: checkpoint(lambda *b: loss(case.model, b), *batch, use_reentrant=False)


@row("torch.utils.checkpoint, use_reentrant=True")
def recomputed_reentrant(case: Case) -> Any:
    case.patch()

    x = case.batch[0].clone().requires_grad_()
    out = checkpoint(lambda *b: loss(case.model, b), x, *case.batch[1:], use_reentrant=True)
    out.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return [out.detach(), x.grad]


@row("torch.autograd.graph.save_on_cpu, detect_anomaly")
def watched(case: Case) -> Any:
    case.patch()
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=True):
        return gradient(case.model, case.batch)


def _calls(model: nn.Module, case: Case) -> int:
    """How often a hook on the patched module runs in one call."""
    times = 0

    def count(*_: Any) -> None:
        nonlocal times
        times += 1

    handle = model.get_submodule(case.column.part).register_forward_hook(count)
    value(model, case.batch)
    handle.remove()
    return times


@row("register_forward_hook, and removing it", note="it runs as often as in vanilla, and sees what the patch returns")
def hooked(case: Case) -> Any:
    times = _calls(case.fresh(), case)
    case.patch()
    assert _calls(case.model, case) == times > 0
    return case.model


@row("register_full_backward_hook, and removing it")
def hooked_backward(case: Case) -> Any:
    case.patch()
    seen: list[Any] = []
    handle = case.part.register_full_backward_hook(lambda *_: seen.append(1))
    with_hook = gradient(case.model, case.batch)
    handle.remove()
    assert seen
    return with_hook


@row("a forward hook that copies the output of the emitting layer")
def replaced_by_a_hook(case: Case) -> Any:
    case.patch()
    handle = case.emitter.register_forward_hook(lambda _, __, out: out.clone())
    seen = gradient(case.model, case.batch)
    handle.remove()
    return seen
