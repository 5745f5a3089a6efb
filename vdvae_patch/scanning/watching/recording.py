"""Run the host once, under the recorder or without it, and leave it as it was."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import DataLoader

from vdvae_patch.attach.attachment import outputs_observed
from vdvae_patch.attach.entry import entry_of
from vdvae_patch.errors import PatchError
from vdvae_patch.given import call_for_loss
from vdvae_patch.outcome import Outcome
from vdvae_patch.scanning.arithmetic.diagonals import settle_diagonals
from vdvae_patch.scanning.arithmetic.factors import settle_factors
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.arithmetic.layers import join_layers
from vdvae_patch.scanning.arithmetic.pairs import settle_pairs
from vdvae_patch.scanning.arithmetic.pooling import settle_pools
from vdvae_patch.scanning.watching.foreign_draws import settle_foreign_draws
from vdvae_patch.scanning.watching.inputs import arrays_in, data_of, tensors_in
from vdvae_patch.scanning.watching.masks import settle_masks
from vdvae_patch.scanning.watching.normals import normals_watched
from vdvae_patch.scanning.watching.outcome import gradients_of, loss_of, outcome_of, several_in
from vdvae_patch.scanning.watching.quiet import without_hook_warning, without_logging
from vdvae_patch.scanning.watching.record import Recorder, run_watched
from vdvae_patch.scanning.watching.undoing import Undoing
from vdvae_patch.scanning.watching.untouched import Untouched
from vdvae_patch.torch_versions import eagerly
from vdvae_patch.trace import Tracer

Call = Callable[..., Any]


def recorded(
    model: nn.Module,
    inputs: tuple[Any, ...],
    call: Call | None = None,
    tracer: Tracer | None = None,
    *,
    to_the_error: bool = False,
    recorder_of: type[Recorder] = Recorder,
) -> Graph:
    """The graph of `call(model, *inputs)`, or of `model(*inputs)`, and its outcome; the model is left as it was.

    Args:
        tracer: watches forward and backward pass for values that are not finite.
        to_the_error: where the call raises, give the graph up to there; its outcome has the error.
        recorder_of: the recorder's class, which may keep more of the call.

    Raises:
        PatchError: a parameter is lazy, or one that the call uses is on the meta device; or there is no forward to run.
    """
    _require_values(model)
    inner = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    own = inspect.getattr_static(type(inner), "forward")
    if call is None and own is nn.Module.forward and "forward" not in vars(inner):
        raise PatchError(f"{type(model).__name__} has no forward; give your loss: call={call_for_loss(model)}")
    owned = frozenset(id(t) for t in (*model.parameters(), *model.buffers()))
    data = data_of(inputs, call, owned)
    recorder = recorder_of(model, [t for t in tensors_in(data) if id(t) not in owned], arrays_in(data))
    entry = None if call is None else entry_of(call)
    recorder.entry = None if entry is None else entry.function.__code__
    fixed = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
    if any(p.requires_grad for p in model.parameters()):
        recorder.graph.fixed = fixed
    paths = {id(module): path for path, module in model.named_modules()}
    thread = threading.get_ident()

    def returned(module: nn.Module, args: Any, output: Any) -> None:
        path = paths.get(id(module))
        if path is None or threading.get_ident() != thread:
            return
        if isinstance(output, Tensor):
            recorder.graph.returned.setdefault(recorder.node_of(output).id, []).append(path)
        elif path:
            for tensor in tensors_in(output):
                recorder.graph.returned_beside.setdefault(recorder.node_of(tensor).id, []).append(path)

    def emitted(module: nn.Module, output: Any) -> None:
        returned(module, None, output)

    known = {id(module) for module in model.modules()}
    with _apart(model, recorder, recorder, call), outputs_observed(emitted):
        hook = register_module_forward_hook(returned)
        try:
            with nullcontext() if tracer is None else tracer.modules():
                result = run_watched(recorder, *_called(model, inputs, call), tracer)
            refused = tuple(dict.fromkeys(recorder.graph.refused))
            loss, is_loss = loss_of(result)
            if is_loss and loss is not None:
                recorder.graph.loss = recorder.node_of(loss)
                if loss.requires_grad and not recorder.differentiated:
                    learns = [t for t in tensors_in(result) if t.requires_grad]
                    recorder.graph.learns = frozenset(recorder.node_of(t).id for t in [loss, *learns])
            recorder.graph.given = frozenset().union(*map(recorder.nodes_in, [*tensors_in(result), *_kept(model)]))
            if tracer is not None:
                tracer.backward()
            # a checkpointed block draws its random numbers again, which must be private ones
            with recorder, nullcontext() if tracer is None else tracer:
                gradients, why = gradients_of(model, loss)
            given = [loss] if is_loss and loss is not None else tensors_in(result)
            outcome, bad = outcome_of(given, is_loss, gradients, why, refused)
            recorder.graph.outcome = outcome if is_loss else replace(outcome, several=several_in(result))
            if tracer is not None:
                tracer.reach(bad)
            del result, loss, given, gradients, bad
        except NotImplementedError as error:
            if call is None and _is_at_once(error):
                raise PatchError(
                    f"{type(model).__name__} has no forward of its own; give your loss: call={call_for_loss(model)}"
                ) from error
            raise
        except Exception as error:
            if isinstance(error, TypeError | AttributeError) and any(isinstance(i, DataLoader) for i in inputs):
                raise PatchError(
                    f"the call ended with {type(error).__name__}: {error}; a DataLoader was given: if a batch is what "
                    "the model takes, give one of it, next(iter(loader))"
                ) from error
            error.add_note(
                f"while vdvae_patch.scan ran {_written(model, inputs, call)}{_otherwise(model, inputs, call)}"
            )
            if not to_the_error or isinstance(error, PatchError):
                raise
            recorder.graph.outcome = Outcome(raised=error)
        finally:
            hook.remove()
        made = [path for path, module in model.named_modules() if id(module) not in known]
    if made:
        raise PatchError(
            f"the call makes modules that the model does not have yet ({', '.join(made[:4])}); run the model once on a "
            "batch, then scan it"
        )
    recorder.graph.index_consumers()
    settle_diagonals(recorder.graph)
    settle_factors(recorder.graph)
    settle_pairs(recorder.graph)
    join_layers(recorder.graph)
    settle_masks(recorder.graph)
    settle_pools(recorder.graph)
    settle_foreign_draws(recorder.graph, recorder.draw_count)
    recorder.graph.settle()
    return recorder.graph


def rerun(model: nn.Module, inputs: tuple[Any, ...], call: Call | None = None) -> Any:
    """What a call that was recorded before gives, with the same random numbers and nothing recorded; the model is left
    as it was.

    Raises:
        Exception: whatever the call raises.
    """
    undoing = Undoing()
    with _apart(model, undoing, None, call):
        return run_watched(undoing, *_called(model, inputs, call))


@contextmanager
def _apart(model: nn.Module, undoing: Undoing, recorder: Recorder | None, call: Call | None) -> Iterator[None]:
    """Whatever runs inside leaves no trace on the model, and is run as it is written."""
    with without_logging(model), _eager(), Untouched(model, undoing, call), normals_watched(recorder):
        yield


def _kept(model: nn.Module) -> list[Tensor]:
    """What the modules hold as plain attributes: a call may leave there what a loss is made of later."""
    return tensors_in([v for m in model.modules() for name, v in vars(m).items() if name not in _OF_EVERY_MODULE])


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _called(model: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> tuple[Any, tuple[Any, ...]]:
    return (model, inputs) if call is None else (call, (model, *inputs))


def _is_at_once(error: NotImplementedError) -> bool:
    """Whether PyTorch's `forward`, or one that calls nothing but it, raised this: no module inside has run."""
    trace, names = error.__traceback__, list[str]()
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return names.count("_call_impl") == 1 and names[-1] in ("forward", "_forward_unimplemented")


@contextmanager
def _eager() -> Iterator[None]:
    """What is compiled, parts of the model or the call itself, runs as it is written: what the compiler makes of it has
    no lines. Where nothing has imported the compiler there is nothing of the kind, and it is not imported for this."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with eagerly(), without_hook_warning():
        yield


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


def _otherwise(model: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> str:
    """What may be meant, where the model itself was called on the batch and raised."""
    if call is not None:
        return ""
    loss = call_for_loss(model)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping | list | tuple) and not hasattr(model, "training_step"):
        loss = f"lambda model, batch: model({'**' if isinstance(inputs[0], Mapping) else '*'}batch)"
    return f"; if your training does not call the model so, give its loss: call={loss}"


def _require_values(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise PatchError(
                f"parameter {name!r} is lazy and has no shape yet; run the model once on a batch, then scan"
            )
        if type(tensor).__name__ == "DTensor":
            raise PatchError(f"{name!r} is sharded (DTensor); scan the model before it is sharded")
