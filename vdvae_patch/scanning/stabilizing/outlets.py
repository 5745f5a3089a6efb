"""Hold what a network puts out at a number, so that the rest of the model computes with it as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.heads import Outlet
from vdvae_patch.torch_versions import takes_hooks


def can_be_held(model: nn.Module, outlet: Outlet | None) -> bool:
    """Whether a value is a parameter, or leaves the network in a module of Python, and none of TorchScript."""
    if outlet is None:
        return False
    if outlet.parameter:
        return outlet.path in dict(model.named_parameters(remove_duplicate=False))
    module = dict(model.named_modules(remove_duplicate=False)).get(outlet.path)
    return module is not None and takes_hooks(module)


@contextmanager
def held_at(model: nn.Module, levels: Mapping[Outlet, float]) -> Iterator[None]:
    """Put parameters, and channels of what a module's `forward` returns, whoever calls it, at a number; the gradient
    flows as if the network had put that out."""
    modules = dict(model.named_modules(remove_duplicate=False))
    with ExitStack() as taken_back:
        for outlet, level in levels.items():
            if outlet.parameter:
                parameter = model.get_parameter(outlet.path)
                taken_back.callback(setattr, parameter, "data", parameter.data)
                parameter.data = _filled(parameter.data, outlet, level)
                continue
            module = modules[outlet.path]
            own = module.__dict__.get("forward")
            # a hook would not be run where a host calls `forward` by its name
            module.__dict__["forward"] = partial(_held, module.forward, outlet, level)
            taken_back.callback(_give_back, module, own)
        yield


def _filled(values: Tensor, outlet: Outlet, level: float) -> Tensor:
    new = values.clone()
    outlet.channels.of(new).fill_(level)
    return new


def _give_back(module: nn.Module, own: Any) -> None:
    if own is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = own


def _held(forward: Callable[..., Any], outlet: Outlet, level: float, /, *args: Any, **kwargs: Any) -> Any:
    output = forward(*args, **kwargs)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return output
    kept = torch.ones_like(output, dtype=torch.bool, requires_grad=False)
    outlet.channels.of(kept).fill_(False)
    # a value that is not finite leaves no trace in the number, and has a gradient all the same
    return torch.where(kept, output, (output - output.detach()).nan_to_num(0, 0, 0) + level)
