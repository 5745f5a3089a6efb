"""Run the host once under the recorder, and leave it as it was."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vdvae_patch.errors import PatchError
from vdvae_patch.patching.overrides import outputs_observed
from vdvae_patch.scanning.graph import Frame, Graph, NormalSeen
from vdvae_patch.scanning.layers import join_layers
from vdvae_patch.scanning.record import Recorder, run_watched

Call = Callable[..., Any]


def watch(model: nn.Module, inputs: tuple[Any, ...], call: Call | None = None) -> Graph:
    """The graph of `call(model, *inputs)`, or of `model(*inputs)`; the model is left as it was.

    Raises:
        PatchError: some parameters have no values yet (lazy, or on the meta device).
    """
    _require_values(model)
    if call is None and type(model).forward is nn.Module.forward:
        raise PatchError(
            f"{type(model).__name__} has no forward; say what to run: scan(model, batch, call=lambda m, x: m.loss(x))"
        )
    tensors = list(_tensors(inputs))
    recorder = Recorder(model, tensors)
    fixed = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
    if any(p.requires_grad for p in model.parameters()):
        recorder.graph.fixed = fixed
    paths = {id(module): path for path, module in model.named_modules()}

    def returned(module: nn.Module, args: Any, output: Any) -> None:
        path = paths.get(id(module))
        if path is not None and isinstance(output, Tensor):
            recorder.graph.returned.setdefault(recorder.node_of(output).id, []).append(path)

    def emitted(module: nn.Module, output: Any) -> None:
        returned(module, None, output)

    with untouched(model, recorder), _normals_watched(recorder), outputs_observed(emitted):
        hook = register_module_forward_hook(returned)
        try:
            if call is None:
                run_watched(recorder, model, inputs)
            else:
                run_watched(recorder, call, (model, *inputs))
        except Exception as error:
            error.add_note(f"while vdvae_patch.scan ran {_written(model, inputs, call)}")
            raise
        finally:
            hook.remove()
    recorder.graph.index_consumers()
    join_layers(recorder.graph)
    return recorder.graph


def _written(model: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> str:
    """The call as a reader would write it, tensors by type and shape."""
    words = [
        f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
        if isinstance(value, Tensor)
        else type(value).__name__
        for value in inputs
    ]
    name = type(model).__name__
    return f"{name}({', '.join(words)})" if call is None else f"call({', '.join([name, *words])})"


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors of nested sequences and mappings, and of the attributes of a batch that is an object."""
    if isinstance(value, Tensor):
        yield value
    elif depth > _DEPTH or isinstance(value, nn.Module | type):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, depth + 1)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name), depth + 1)
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            yield from _tensors(item, depth + 1)


_DEPTH = 6


@contextmanager
def untouched(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Restore random states, parameters, buffers, gradients and training flags at the end.

    A parameter that is written to is copied before it is, by the recorder, so that nothing is copied in vain.

    Raises:
        PatchError: an optimizer takes a step; it is stopped before it changes a parameter or its own state.
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    flags = [(module, module.training) for module in model.modules()]
    parameters = [
        (module, {k: (p, None if p is None else p.data) for k, p in module._parameters.items()})
        for module in model.modules()
        if not _is_script(module)  # whose parameters cannot be taken out or exchanged
    ]
    buffers = [
        (module, {k: (b, None if b is None else b.clone()) for k, b in module._buffers.items()})
        for module in model.modules()
    ]
    python, numpy_state = random.getstate(), _numpy_state()
    no_step = register_optimizer_step_pre_hook(_refuse_step)
    with torch.random.fork_rng(devices=[d.index or 0 for d in devices]):
        try:
            for p in model.parameters():
                p.grad = None
            yield
        finally:
            no_step.remove()
            random.setstate(python)
            _set_numpy_state(numpy_state)
            for module, training in flags:
                module.training = training
            for module, kept in parameters:
                _restore_parameters(module, kept)
            recorder.restore_parameters()
            for name, p in model.named_parameters():
                p.grad = gradients.get(name)
            for module, saved in buffers:
                _restore_buffers(module, saved)


def _refuse_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    raise PatchError(
        f"the call takes a step of {type(optimizer).__name__}, which would change the model; nothing was changed. Give "
        "a call that computes the loss and takes no step, such as call=lambda model, batch: model.loss(batch)"
    )


def _restore_parameters(module: nn.Module, kept: dict[str, tuple[nn.Parameter | None, Tensor | None]]) -> None:
    """Take out what a first pass made, put back what was replaced, and give each parameter its own memory again."""
    for name in list(module._parameters):
        if name not in kept:
            del module._parameters[name]
    for name, (parameter, data) in kept.items():
        module._parameters[name] = parameter
        if parameter is not None and data is not None and parameter.data_ptr() != data.data_ptr():
            parameter.data = data


def _restore_buffers(module: nn.Module, saved: dict[str, tuple[Tensor | None, Tensor | None]]) -> None:
    for buffer, copy in saved.values():
        if buffer is not None and copy is not None:
            with torch.no_grad():
                buffer.copy_(copy)
    if _is_script(module):
        return
    for name in list(module._buffers):
        if name not in saved:
            del module._buffers[name]
    for name, (buffer, _) in saved.items():
        module._buffers[name] = buffer


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _numpy_state() -> Any:
    import numpy as np

    return np.random.get_state()


def _set_numpy_state(state: Any) -> None:
    import numpy as np

    np.random.set_state(state)


def _require_values(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise PatchError(
                f"parameter {name!r} is lazy and has no shape yet; run the model once on a batch, then scan"
            )
        if tensor.device.type == "meta":
            raise PatchError(f"{name!r} is on the meta device and has no values; load the weights, then scan")
        if type(tensor).__name__ == "DTensor":
            raise PatchError(f"{name!r} is sharded (DTensor); scan the model before it is sharded")


@contextmanager
def _normals_watched(recorder: Recorder) -> Iterator[None]:
    """Note every `torch.distributions.Normal`: the tensors it is given, before it expands them. And every
    `MultivariateNormal` whose `scale_tril` is a diagonal."""
    made, made_of_many = Normal.__init__, MultivariateNormal.__init__

    def init_of_many(self: MultivariateNormal, loc: Any, *args: Any, **kwargs: Any) -> None:
        scale = kwargs.get("scale_tril", args[2] if len(args) > 2 else None)
        node = recorder.node_of(scale) if isinstance(scale, Tensor) else None
        if node is not None and node.op == "diag_embed" and isinstance(loc, Tensor):
            recorder.graph.normals.append(NormalSeen(recorder.node_of(loc), node.inputs[0]))
        made_of_many(self, loc, *args, **kwargs)

    def init(self: Normal, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        if isinstance(scale, Tensor):
            mean = recorder.node_of(loc) if isinstance(loc, Tensor) else recorder._new("constant", "number", ())
            recorder.graph.normals.append(NormalSeen(mean, recorder.node_of(scale), _made_at(recorder, self)))
        made(self, loc, scale, validate_args)

    Normal.__init__ = init  # type: ignore[method-assign]
    MultivariateNormal.__init__ = init_of_many  # type: ignore[method-assign]
    try:
        yield
    finally:
        Normal.__init__ = made  # type: ignore[method-assign]
        MultivariateNormal.__init__ = made_of_many  # type: ignore[method-assign]


def _made_at(recorder: Recorder, normal: Normal) -> tuple[Frame, ...]:
    caller = sys._getframe(2)
    if type(normal) is not Normal or caller.f_code.co_filename.startswith(os.path.dirname(torch.__file__) + os.sep):
        return ()
    return recorder._walk(3)
