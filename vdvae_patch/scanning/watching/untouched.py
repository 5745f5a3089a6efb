"""What a watched call may change and must not: taken before it, put back after it.

    with Untouched(model, recorder):
        model(batch)

| what | how it is kept |
|---|---|
| parameters, and any other tensor from before the call | their memory is copied before the first write (`Recorder`) |
| buffers | copied beforehand: batch normalization writes to them unseen |
| gradients | taken off, and put back |
| training flags, attributes of the host's modules, lists and counters in these | by reference, containers by content |
| what the call reads and writes beside the model: its object, its globals | the same (`beside`) |
| random numbers of torch | never drawn from the global generators, see `draws` |
| random numbers of Python and NumPy | put back, unless other threads may have drawn them |

All of it is of one call, in one thread. Other threads may train or scan other models meanwhile.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vdvae_patch.attach.graft import TABLE
from vdvae_patch.errors import PatchError
from vdvae_patch.outside.places import Registered, holders
from vdvae_patch.scanning.watching.beside import bindings_of, forwards, is_exchanged, objects_of
from vdvae_patch.scanning.watching.inputs import slots_of, tensors_in


class Watching(Protocol):
    """What the recorder of the call knows of it."""

    def put_back(self) -> None:
        """Undo every write to memory from before the call."""

    def names(self, word: str) -> bool:
        """Whether a function of the host that ran names something so."""


class Untouched:
    """Restores the model, its batch and the random states at the end, whatever is raised.

    Raises:
        PatchError: an optimizer takes a step in this thread; it is stopped before it changes a parameter or its own
            state.
    """

    def __init__(self, model: nn.Module, watching: Watching, call: Any = None) -> None:
        self._model = model
        self._watching = watching
        self._call = call

    def __enter__(self) -> Untouched:
        model = self._model
        self._parts: list[Callable[[], None]] = [
            _modules(model), _flags(model), _attributes(model), _parameters(model), self._watching.put_back,
            _gradients(model), _buffers(model), _random_states(self._watching), _grad_mode(),
            *_beside(self._model, [] if self._call is None else [self._call]),
        ]  # fmt: skip
        self._no_step = register_optimizer_step_pre_hook(_refuse_in(threading.get_ident()))
        for p in model.parameters():
            p.grad = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._no_step.remove()
        _all_of(self._parts)


def _refuse_in(thread: int) -> Callable[..., None]:
    def refuse(optimizer: Any, args: Any, kwargs: Any) -> None:
        moves = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        if threading.get_ident() == thread and (moves or args[1:] or kwargs):  # else there is nothing to move along
            raise PatchError(
                f"the call takes a step of {type(optimizer).__name__}, which would change the model; nothing was "
                "changed. Give a call that computes the loss and takes no step, such as call=lambda model, batch: "
                "model.loss(batch)"
            )

    return refuse


def _modules(model: nn.Module) -> Callable[[], None]:
    """Submodules: what a first call makes is taken out again, since it has made it with weights of this call."""
    kept = [(module, dict(module._modules)) for module in model.modules() if not _is_script(module)]

    def put_back() -> None:
        for module, children in kept:
            if list(module._modules.items()) != list(children.items()):
                module._modules.clear()
                module._modules.update(children)

    return put_back


def _flags(model: nn.Module) -> Callable[[], None]:
    flags = [(module, module.training) for module in model.modules()]
    trained = [(p, p.requires_grad) for p in model.parameters()]

    def put_back() -> None:
        for module, training in flags:
            module.training = training
        for p, requires_grad in trained:
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)

    return put_back


def _grad_mode() -> Callable[[], None]:
    enabled = torch.is_grad_enabled()
    return lambda: torch._C._set_grad_enabled(enabled)


def _gradients(model: nn.Module) -> Callable[[], None]:
    gradients = {name: p.grad for name, p in model.named_parameters()}

    def put_back() -> None:
        for name, p in model.named_parameters():
            p.grad = gradients.get(name)

    return put_back


# --- parameters and buffers -------------------------------------------------------------------------------------------


def _parameters(model: nn.Module) -> Callable[[], None]:
    kept = [
        (module, {k: (p, None if p is None else p.data) for k, p in module._parameters.items()})
        for module in model.modules()
        if not _is_script(module)  # whose parameters cannot be taken out or exchanged
    ]

    def put_back() -> None:
        for module, parameters in kept:
            _put_back_parameters(module, parameters)

    return put_back


def _put_back_parameters(module: nn.Module, kept: dict[str, tuple[nn.Parameter | None, Tensor | None]]) -> None:
    """Take out what a first pass made, put back what was replaced, and give each parameter its own memory again."""
    for name in list(module._parameters):
        if name not in kept:
            del module._parameters[name]
    for name, (parameter, data) in kept.items():
        module._parameters[name] = parameter
        if parameter is not None and data is not None and parameter.data_ptr() != data.data_ptr():
            parameter.data = data


def _buffers(model: nn.Module) -> Callable[[], None]:
    kept = [
        (module, {k: (b, None if b is None else (b.data, b.clone())) for k, b in module._buffers.items()})
        for module in model.modules()
    ]

    def put_back() -> None:
        for module, buffers in kept:
            _put_back_buffers(module, buffers)

    return put_back


def _put_back_buffers(module: nn.Module, kept: dict[str, tuple[Tensor | None, tuple[Tensor, Tensor] | None]]) -> None:
    for buffer, before in kept.values():
        if buffer is None or before is None:
            continue
        memory, copy = before
        with torch.no_grad():
            if buffer.shape != memory.shape or buffer.data_ptr() != memory.data_ptr():
                buffer.data = memory  # a queue that grew
            buffer.data.copy_(copy)  # unseen by autograd: a graph that is still needed may have read it
    if _is_script(module):
        return
    for name in list(module._buffers):
        if name not in kept:
            del module._buffers[name]
    for name, (buffer, _) in kept.items():
        module._buffers[name] = buffer


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


# --- Python attributes ------------------------------------------------------------------------------------------------

_KEPT_ELSEWHERE = frozenset(
    {"_parameters", "_buffers", "_modules", "training", TABLE}
)  # what a patch keeps is no host's
_NO_STATE = (
    Tensor, nn.Module, type, types.ModuleType, types.FunctionType, types.MethodType, logging.Logger, threading.Thread,
    str, bytes, int, float, complex, bool, type(None),
)  # fmt: skip
_DEPTH = 6
_MOST_BYTES = 1 << 24  # of an array or tensor that is copied; a data set that lies there is not what is written to


def _attributes(model: nn.Module) -> Callable[[], None]:
    """Counters that the host advances, lists that it appends to, what it puts aside, hooks. Not of PyTorch's wrappers
    (DDP, FSDP), which have their other half elsewhere."""
    seen: set[int] = set()
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        own = not type(module).__module__.startswith("torch.") or type(module).__module__.startswith(
            "torch.nn.modules."
        )
        if own and not _is_script(module):
            undo += _of_dict(vars(module), _KEPT_ELSEWHERE, seen, 0)

    def put_back() -> None:
        for part in undo:
            part()

    return put_back


def contents_kept(model: nn.Module, values: Iterable[Any]) -> Callable[[], None]:
    """What puts back the attributes of a model's modules, and what lies in some other values: attributes, lists,
    counters, the states of generators; of functions what they read and write beside their arguments. Of the model the
    tensors among these are copied, too: no recorder sees who writes to them."""
    given = list(values)
    held = [t for t in tensors_in([given, objects_of(given)]) if t.nbytes <= _MOST_BYTES and not t.requires_grad]
    tensors = _tensors_outside(model) + _copies(held, Registered.of(model))
    undo: list[Callable[[], None]] = [*_beside(model, given), _attributes(model)]
    undo += [partial(_copy, tensor, copy) for tensor, copy in tensors]
    return partial(_all_of, undo)


def _all_of(parts: Iterable[Callable[[], None]]) -> None:
    """Put everything back; what comes behind one that raises, too."""
    failed: BaseException | None = None
    for put_back in parts:
        try:
            put_back()
        except BaseException as raised:  # raised below
            failed = failed or raised
    if failed is not None:
        raise failed


def _beside(model: nn.Module, values: Iterable[Any]) -> Iterator[Callable[[], None]]:
    """What puts back what lies in some values, and what they and the model's own methods reach if they are called."""
    given = list(values)
    calls, seen = [*given, *forwards(model)], set[int]()
    for value in (*(v for v in given if not is_exchanged(v)), *objects_of(calls)):
        yield from _of_value(value, seen, 0)
    yield from bindings_of(calls)


def _copy(tensor: Tensor, copy: Tensor) -> None:
    tensor.data.copy_(copy)  # unseen by autograd, as a buffer is


def _tensors_outside(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The tensors in a model's plain attributes, with copies; not what a pass has computed, which nobody writes to."""
    held = [value for holder in holders(model) if holder.only is None for _, value in holder.items()]
    return _copies(tensors_in(held), Registered.of(model))


def _copies(tensors: Iterable[Tensor], known: Registered) -> list[tuple[Tensor, Tensor]]:
    found = {id(t): t for t in tensors if t.grad_fn is None and not known.has(t) and _can_be_written(t)}
    return [(tensor, tensor.detach().clone()) for tensor in found.values()]


def _can_be_written(tensor: Tensor) -> bool:
    plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta
    sizes = zip(tensor.stride(), tensor.shape, strict=True) if plain else ()
    return plain and not tensor.is_inference() and not any(stride == 0 and size > 1 for stride, size in sizes)


def _of_dict(values: dict[Any, Any], but: frozenset[str], seen: set[int], depth: int) -> Iterator[Callable[[], None]]:
    saved = {key: value for key, value in values.items() if key not in but}

    def put_back() -> None:
        for key in [key for key in values if key not in saved and key not in but]:
            del values[key]
        for key, value in saved.items():
            if key not in values or values[key] is not value:
                values[key] = value

    yield put_back
    for value in saved.values():
        yield from _of_value(value, seen, depth + 1)


def _of_value(value: Any, seen: set[int], depth: int) -> Iterator[Callable[[], None]]:
    if depth > _DEPTH or isinstance(value, _NO_STATE) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        yield from _of_dict(value, frozenset(), seen, depth)
    elif isinstance(value, list | deque):
        yield _of_sequence(value)
        for item in list(value):
            yield from _of_value(item, seen, depth + 1)
    elif isinstance(value, set):
        yield _of_set(value)
    elif isinstance(value, random.Random):
        state = value.getstate()
        yield lambda: value.setstate(state)
    elif isinstance(value, torch.Generator):
        yield partial(_set_state, value, value.get_state())
    elif type(value).__name__ == "RandomState" and hasattr(value, "set_state"):  # of NumPy
        yield partial(value.set_state, value.get_state(legacy=False))
    elif hasattr(type(value), "bit_generator"):  # of NumPy
        bits, of_bits = value.bit_generator, value.bit_generator.state
        yield lambda: setattr(bits, "state", of_bits)
    elif isinstance(value, bytearray) or (
        hasattr(type(value), "__array_interface__") and hasattr(type(value), "__setitem__") and _is_written(value)
    ):
        yield _of_array(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _of_value(item, seen, depth + 1)
    else:
        if type(vars(value) if hasattr(value, "__dict__") else None) is dict:
            yield from _of_dict(vars(value), frozenset(), seen, depth)
        names = [name for cls in type(value).__mro__ for name in slots_of(cls)]
        yield from _of_slots(value, names, seen, depth)


def _of_slots(value: Any, names: list[str], seen: set[int], depth: int) -> Iterator[Callable[[], None]]:
    saved = {name: getattr(value, name) for name in names if hasattr(value, name)}

    def put_back() -> None:
        for name in names:
            if name not in saved and hasattr(value, name):
                delattr(value, name)
            elif name in saved and getattr(value, name, None) is not saved[name]:
                setattr(value, name, saved[name])

    if names:
        yield put_back
    for item in saved.values():
        yield from _of_value(item, seen, depth + 1)


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _is_written(array: Any) -> bool:
    """Whether it can be written to, and is no data set."""
    read_only = not getattr(getattr(array, "flags", None), "writeable", True)
    return not read_only and 0 < int(getattr(array, "nbytes", 0)) <= _MOST_BYTES


def _of_array(value: Any) -> Callable[[], None]:
    saved = bytes(value) if isinstance(value, bytearray) else value.copy()

    def put_back() -> None:
        value[...] = saved

    def put_back_bytes() -> None:
        value[:] = saved

    return put_back_bytes if isinstance(value, bytearray) else put_back


def _of_sequence(value: list[Any] | deque[Any]) -> Callable[[], None]:
    saved = list(value)

    def put_back() -> None:
        if len(value) != len(saved) or any(a is not b for a, b in zip(value, saved, strict=True)):
            value.clear()
            value.extend(saved)

    return put_back


def _of_set(value: set[Any]) -> Callable[[], None]:
    saved = set(value)

    def put_back() -> None:
        if value != saved:
            value.clear()
            value.update(saved)

    return put_back


# --- random numbers ---------------------------------------------------------------------------------------------------


def _random_states(watching: Watching) -> Callable[[], None]:
    python, of_numpy = random.getstate(), _numpy_state()
    of_torch, seed = torch.get_rng_state(), torch.initial_seed()

    def put_back() -> None:
        alone = threading.active_count() == 1
        # what changed is the call's doing if nobody else is there, or if its lines speak of random numbers
        ours = alone or any(map(watching.names, _DRAWING))
        if ours and random.getstate() != python:
            random.setstate(python)
        if ours and of_numpy is not None:
            sys.modules["numpy"].random.set_state(of_numpy)
        seeded = torch.initial_seed() != seed or any(map(watching.names, _SEEDING))
        if (alone or seeded) and not torch.equal(torch.get_rng_state(), of_torch):
            torch.set_rng_state(of_torch)  # the call seeded it

    return put_back


_DRAWING = (
    "random", "randint", "randrange", "choice", "choices", "gauss", "uniform", "normal", "normalvariate", "rand",
    "randn", "shuffle", "sample", "permutation", "standard_normal", "random_sample", "binomial", "exponential", "seed",
)  # fmt: skip
_SEEDING = ("manual_seed", "seed", "seed_everything", "set_seed", "set_rng_state", "fork_rng")


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()
