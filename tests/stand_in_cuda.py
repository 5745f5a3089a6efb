"""GPUs that a machine without one can test with: tensors that say they are on `cuda:N`, and keep their values.

`torch`'s own fake tensors have no values, and without CUDA in the build autograd refuses those of a GPU. Here a tensor
says `cuda:N` to whoever asks it in Python, computes on the processor, and is held to the rules of a GPU:

- tensors of two devices do not meet, but for a scalar of the processor in arithmetic;
- what makes the host wait for the device is noted (`Cuda.waits`), and refused within `Cuda.no_wait()`;
- a copy into pinned memory that is asked not to block arrives when somebody has waited for it, and not before;
- each device draws from its own generator, of a seed and an offset, which `torch.cuda.get_rng_state` gives.

What it does not show: the numbers of a GPU's kernels, their order among several streams, and their time.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vdvae_patch.train import noise

aten = torch.ops.aten


def tree_map(change: Any, value: Any) -> Any:
    """Nested tuples, lists and dictionaries with another leaf for each; torch's own takes many times as long."""
    if type(value) is tuple or type(value) is list:
        return type(value)([tree_map(change, item) for item in value])
    if type(value) is dict:
        return {key: tree_map(change, item) for key, item in value.items()}
    return change(value)


def leaves(value: Any) -> list[Any]:
    """The leaves of the same."""
    found: list[Any] = []
    tree_map(found.append, value)
    return found


_CPU = torch.device("cpu")
_COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
_LOOKS = {  # what gives the host a number, or a shape that depends on numbers
    aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default,
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip


class WaitError(AssertionError):
    """The host waited for the device where it must not."""


class OnCuda(Tensor):
    """A tensor of a stand-in device; `value` has its numbers, in main memory."""

    value: Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor, place: torch.device) -> OnCuda:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            # torch's own code sees a tensor without values that is dispatched, and autocast, as one of a GPU
            made = Tensor._make_subclass(cls, shell, False, device_for_backend_keys=place)
        made.value, made.place = value, place
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: OnCuda) -> None:
        """From now on the numbers of another tensor, as for every name of this one."""
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        with torch._C._DisableTorchDispatch():
            self.value = other.value.detach()
        self.place = other.place

    def untyped_storage(self) -> Any:
        return self.value.untyped_storage()

    def data_ptr(self) -> int:
        return self.value.data_ptr()

    def storage_offset(self) -> Any:
        return self.value.storage_offset()

    def get_device(self) -> int:
        return self.place.index

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.value!r}, device='{self.place}')"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = OnCuda(self.value.clone(), self.place)
        copy.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        memo[id(self)] = copy
        return copy

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        other = args[0] if args and isinstance(args[0], Tensor) else kwargs.pop("other", None)
        if other is not None:
            args, kwargs = (), {"device": other.device, "dtype": other.dtype} | kwargs
        copy = kwargs.pop("copy", False)
        kwargs.pop("memory_format", None)
        place, dtype, wait_not, _ = torch._C._nn._parse_to(*args, **kwargs)
        place = self.place if place is None else _indexed(place)
        dtype = dtype or self.dtype
        if not copy and place == self.place and dtype == self.dtype:
            return self
        moved: Tensor = aten._to_copy.default(self, dtype=dtype, device=place, non_blocking=wait_not)
        return moved

    def cpu(self, *_: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self, device: Any = None, **kwargs: Any) -> Tensor:
        return self.to(_indexed(torch.device("cuda") if device is None else torch.device(device)), **kwargs)

    def type(self, dtype: Any = None, **_: Any) -> Any:
        return "torch.cuda.FloatTensor" if dtype is None else self.to(dtype)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert _active, f"{func} of a tensor of a stand-in device, outside of it"
        return _active[-1].call(func, args, kwargs or {})


_active: list[Cuda] = []


def _indexed(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    index = _active[-1].current if device.type == "cuda" and device.index is None else device.index
    return device if index is None else torch.device(device.type, index)


@dataclass
class _Pending:
    """A copy on its way to pinned memory."""

    device: int
    target: Tensor
    value: Tensor


@dataclass
class Cuda:
    """The stand-in devices of a test.

    Attributes:
        waits: where the host waited for a device: the operation, and the line of code outside of torch.
        log: what was asked of `torch.cuda`, in order.
        current: the current device, 0 as in a new process.
        started: whether this process has begun to use CUDA.
        states: of each device's generator, its seed and its offset.
    """

    count: int = 2
    host_noise: bool = False
    waits: list[str] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    current: int = 0
    started: bool = False
    strict: bool = False
    states: list[list[int]] = field(default_factory=list)
    defaults: list[_Default] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    generators: dict[int, torch._C.Generator] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    last: torch.device = field(default_factory=lambda: torch.device("cuda", 0))

    def __post_init__(self) -> None:
        self.states = [[0, 0] for _ in range(self.count)]
        self.defaults = [_Default(self, index) for index in range(self.count)]

    # what an operation does

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].device
        flat = leaves((args, kwargs))
        ours = [x for x in flat if isinstance(x, OnCuda)]
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "meta":  # torch's own code, of what such a tensor has
            wanted = None if ours else self.last
        wanted = None if wanted is None else _indexed(wanted)
        if not ours and (wanted is None or wanted.type == "cpu"):
            return self._plain(func, args, kwargs)
        self.seen.add(str(func))
        self._generator(func, flat, wanted or ours[0].place)
        places = {x.place for x in ours}
        if func not in _COPIES:
            self._same(func, places, flat)
        place = wanted or ours[0].place
        if place.type == "cuda":
            self.last = place
        if func in (aten.copy_.default, aten._to_copy.default) and (moved := self._copied(func, args, kwargs, place)):
            return moved[0]
        self._looks(func, args, ours)
        given = {id(x.value): x for x in ours}
        plain_args, plain = tree_map(lambda x: x.value if isinstance(x, OnCuda) else x, (args, kwargs))
        if wanted is not None or "device" in plain:
            plain["device"] = _CPU
        plain.pop("pin_memory", None)
        with self._drawing(func, place, flat), torch._C._DisableTorchDispatch():
            out = func(*plain_args, **plain)

        def again(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return given[id(x)] if id(x) in given else OnCuda(x, place)

        return tree_map(again, out)

    def _generator(self, func: Any, flat: list[Any], place: torch.device) -> None:
        for given in flat:
            if isinstance(given, torch._C.Generator) and (given._cdata in self.generators) != (place.type == "cuda"):
                kind = "cuda" if given._cdata in self.generators else "cpu"
                raise RuntimeError(f"{func}: expected a '{place.type}' device type for generator but found '{kind}'")

    def _plain(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pinned = kwargs.pop("pin_memory", None) if kwargs.get("pin_memory") else None
        with torch._C._DisableTorchDispatch():
            out = func(*args, **kwargs)
        if pinned:
            self.pinned.add(out.data_ptr())
        return out

    def _same(self, func: Any, places: set[torch.device], flat: list[Any]) -> None:
        if len(places) > 1:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found {sorted(map(str, places))}"
            )
        beside = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnCuda)]
        if not beside or not places:
            return
        if func in _INDEXING and isinstance(flat[0], OnCuda):
            self._wait(func, "an index in main memory")
            return
        arithmetic = torch.Tag.pointwise in func.tags and not (func._schema.is_mutable and flat[0] is beside[0])
        if not arithmetic or any(x.dim() for x in beside):
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found {places.pop()} and cpu "
                f"{[tuple(x.shape) for x in beside]}"
            )

    def _copied(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: torch.device
    ) -> tuple[Tensor] | None:
        """A copy between a device and main memory, or two devices; None within one device."""
        to_new = func is aten._to_copy.default
        source, target = (args[0], None) if to_new else (args[1], args[0])
        target_place = place if target is None else target.device
        if source.device == target_place:
            return None
        wait_not = kwargs.get("non_blocking", False) or (not to_new and len(args) > 2 and args[2])
        value = source.value if isinstance(source, OnCuda) else source.detach()
        if isinstance(source, OnCuda) and target_place.type == "cpu":
            pinned = target is not None and target.data_ptr() in self.pinned
            if wait_not and pinned:
                assert target is not None
                with torch._C._DisableTorchDispatch():
                    self.pending.append(_Pending(source.place.index, target, value.clone()))
                    target.view(torch.uint8).fill_(0x7F) if target.dim() else target.fill_(77)
                self.log.append(("copy", source.place.index))
                return (target,)
            self._wait(func, "a copy to main memory")
            self.arrive(source.place.index)
        elif not isinstance(source, OnCuda) and not (wait_not and source.data_ptr() in self.pinned):
            self._wait(func, "a copy from memory that is not pinned")
        with torch._C._DisableTorchDispatch():
            if to_new:
                given = {k: v for k, v in kwargs.items() if k in ("dtype", "layout", "memory_format")}
                copy = aten._to_copy.default(value, **given)
                return (copy if target_place.type == "cpu" else OnCuda(copy, target_place),)
            assert target is not None
            (target.value if isinstance(target, OnCuda) else target).copy_(value)
        return (target,)

    def _looks(self, func: Any, args: tuple[Any, ...], ours: list[OnCuda]) -> None:
        masks = func in _INDEXING and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1] if i is not None
        )
        if func in _LOOKS or masks:
            self._wait(func, "a number or a shape for the host")
            self.arrive(ours[0].place.index)

    def _wait(self, func: Any, why: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and (
            "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__
        ):
            frame = frame.f_back
        said = f"{func}: {why}, {'/'.join(frame.f_code.co_filename.rsplit('/', 2)[-2:])}:{frame.f_lineno}"
        self.waits.append(said)
        if self.strict:
            raise WaitError(said)

    @contextlib.contextmanager
    def _drawing(self, func: Any, place: torch.device, flat: list[Any]) -> Iterator[None]:
        own = any(isinstance(x, torch._C.Generator) for x in flat)
        if own or self.host_noise or torch.Tag.nondeterministic_seeded not in func.tags:
            yield
            return
        default, before = self.defaults[place.index], torch.default_generator.get_state()
        torch.default_generator.set_state(default.get_state())
        try:
            yield
            default.moved(torch.default_generator.get_state())
        finally:
            torch.default_generator.set_state(before)

    # what the host asks of it

    def arrive(self, device: int) -> None:
        """All copies of a device are there."""
        for one in [p for p in self.pending if p.device == device]:
            with torch._C._DisableTorchDispatch():
                one.target.copy_(one.value)
            self.pending.remove(one)

    @contextlib.contextmanager
    def no_wait(self) -> Iterator[None]:
        """Refuse whatever makes the host wait for a device."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def rng_state(self, device: Any = "cuda") -> Tensor:
        return torch.tensor(self.states[_index(device)], dtype=torch.int64).view(torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = "cuda") -> None:
        if state.dtype != torch.uint8 or state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        self.states[_index(device)] = state.clone().view(torch.int64).tolist()

    def seed_all(self, seed: int) -> None:
        self.states = [[int(seed), 0] for _ in self.states]


def _index(device: Any) -> int:
    if isinstance(device, int):
        return device
    found = _indexed(device).index
    assert found is not None
    return found


class _Default:
    """The generator of a device that is not told another: a seed and an offset, drawn from as the processor's is.

    Its state can be that of another generator of a device, as CUDA's can.
    """

    def __init__(self, cuda: Cuda, index: int) -> None:
        self.cuda, self.index, self.lent, self.known = cuda, index, None, {}

    def get_state(self) -> Tensor:
        if self.lent is not None:
            return self.lent.clone()
        pair = tuple(self.cuda.states[self.index])
        words = np.random.SeedSequence([abs(pair[0]), pair[1], 1]).generate_state(2, np.uint32)
        state = torch._C.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1).get_state()
        self.known[state.numpy().tobytes()] = pair
        return state

    def set_state(self, state: Tensor) -> None:
        pair = self.known.get(state.numpy().tobytes())
        self.lent = state.clone() if pair is None else None
        if pair is not None:
            self.cuda.states[self.index] = list(pair)

    def moved(self, state: Tensor) -> None:
        """After a draw."""
        if self.lent is not None:
            self.lent = state.clone()
        else:
            self.cuda.states[self.index][1] += 4


class _Mode(TorchDispatchMode):
    # in the place of torch's own fake tensors: it is what keeps torch from starting CUDA
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.cuda.call(func, args, dict(kwargs or {}))


class _Autocast(TorchFunctionMode):
    """`torch.autocast("cuda")`, whose own code asks the shell of a tensor where it is, and is told that it has none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "to" and not isinstance(args[0], OnCuda):  # which in C++ asks CUDA for its current device
            args = tuple(_with_index(value) for value in args)
            kwargs = {key: _with_index(value) for key, value in kwargs.items()}
        if torch.is_autocast_enabled("cuda") and (name in _NARROW or name in _WIDE):
            dtype = torch.get_autocast_dtype("cuda") if name in _NARROW else torch.float32

            def cast(x: Any) -> Any:
                narrow = isinstance(x, OnCuda) and x.is_floating_point() and x.dtype != torch.float64
                return x.to(dtype) if narrow else x

            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        return func(*args, **kwargs)


# a trace or a scan takes the innermost frame that is not torch's for the place of an operation
_Autocast.__torch_function__.__code__ = _Autocast.__torch_function__.__code__.replace(
    co_filename=torch.overrides.__file__
)


def _with_index(value: Any) -> Any:
    return _indexed(value) if isinstance(value, torch.device) or (isinstance(value, str) and value == "cuda") else value


_NARROW = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "mm",
    "bmm", "addmm", "baddbmm", "addbmm", "mv", "einsum", "prelu", "__matmul__", "__rmatmul__",
}  # fmt: skip
_WIDE = {
    "exp", "expm1", "log", "log1p", "log10", "log2", "softmax", "log_softmax", "softplus", "logsumexp", "sum", "prod",
    "cumsum", "pow", "reciprocal", "rsqrt", "norm", "layer_norm", "group_norm", "mse_loss", "l1_loss", "cross_entropy",
    "nll_loss", "kl_div", "sinh", "cosh", "tan", "asin", "acos", "erfinv", "__pow__", "__rpow__", "softmin",
}  # fmt: skip
"""Which functions autocast gives narrow numbers, and which wide ones (torch's own lists, of what hosts call)."""


class _Stream:
    def __init__(self, cuda: Cuda, index: int) -> None:
        self.cuda, self.device_index, self.device = cuda, index, torch.device("cuda", index)

    def synchronize(self) -> None:
        self.cuda.log.append(("wait", self.device_index))
        self.cuda.waits.append("stream.synchronize")
        self.cuda.arrive(self.device_index)


class _Event:
    """Of the current stream of the *current* device unless it is told another, as CUDA's."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.until, self.index = cuda, [], None

    def record(self, stream: _Stream | None = None) -> None:
        self.index = self.cuda.current if stream is None else stream.device_index
        self.until = [p for p in self.cuda.pending if p.device == self.index]
        self.cuda.log.append(("record", self.index))

    def synchronize(self) -> None:
        self.cuda.log.append(("wait", self.index))
        for one in self.until:
            if one in self.cuda.pending:
                with torch._C._DisableTorchDispatch():
                    one.target.copy_(one.value)
                self.cuda.pending.remove(one)

    def query(self) -> bool:
        return not any(one in self.cuda.pending for one in self.until)


@contextlib.contextmanager
def stand_in(count: int = 2, *, host_noise: bool = False) -> Iterator[Cuda]:
    """A machine with `count` GPUs, for as long as the block runs.

    Args:
        host_noise: draw what the processor would draw, so that a run can be compared with one there.
    """
    cuda = Cuda(count, host_noise)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(torch.cuda, "stand_in", cuda, raising=False)
        patch.setattr(Tensor, "pin_memory", lambda x, *_: _pinned(cuda, x))
        patch.setattr(Tensor, "is_pinned", lambda x, *_: x.data_ptr() in cuda.pinned)
        patch.setattr(Tensor, "cuda", lambda x, d=None, **k: x.to(_indexed("cuda" if d is None else d), **k))
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        patch.setattr(torch, "Generator", _generators(cuda))
        for name, value in _functions(cuda).items():
            patch.setattr(torch.cuda, name, value)
        if hasattr(noise, "_accelerator"):  # which is asked once a process
            patch.setattr(noise, "_accelerator", lambda: torch.device("cuda"))
        _active.append(cuda)
        stack.callback(_active.remove, cuda)
        # `torch.tensor(1.0, device="cuda")` makes a tensor in main memory first, and copies it by an operation
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(_Mode(cuda))
        stack.enter_context(_Autocast())
        yield cuda


def _pinned(cuda: Cuda, value: Tensor) -> Tensor:
    copy = value.clone()
    cuda.pinned.add(copy.data_ptr())
    return copy


def _generators(cuda: Cuda) -> type:
    class OfADevice(type):
        def __call__(cls, device: Any = "cpu") -> torch._C.Generator:
            made = torch._C.Generator()
            if torch.device(device).type == "cuda":
                cuda.generators[made._cdata] = made
            return made

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, torch._C.Generator)

    return OfADevice("Generator", (), {})


def _functions(cuda: Cuda) -> dict[str, Any]:
    @contextlib.contextmanager
    def device(index: Any) -> Iterator[None]:
        before, cuda.current = cuda.current, _index(index)
        try:
            yield
        finally:
            cuda.current = before

    def set_device(index: Any) -> None:
        cuda.current, cuda.started = _index(index), True
        cuda.log.append(("set_device", cuda.current))

    def synchronize(index: Any = None) -> None:
        chosen = cuda.current if index is None else _index(index)
        cuda.log.append(("wait", chosen))
        cuda.arrive(chosen)

    def memory(*_: Any) -> int:
        return 2**33

    return {
        "is_available": lambda: True, "device_count": lambda: cuda.count, "current_device": lambda: cuda.current,
        "set_device": set_device, "device": device, "synchronize": synchronize, "_lazy_init": lambda: None,
        "is_bf16_supported": lambda *_, **__: True, "get_device_name": lambda *_: "Stand-in",
        "get_device_capability": lambda *_: (9, 0), "mem_get_info": lambda *_: (2**36, 2**37),
        "memory_allocated": memory, "memory_reserved": memory, "max_memory_allocated": lambda *_: 2**34,
        "reset_peak_memory_stats": lambda *_: None, "empty_cache": lambda: None,
        "current_stream": lambda index=None: _Stream(cuda, cuda.current if index is None else _index(index)),
        "Event": lambda *_, **__: _Event(cuda), "is_initialized": lambda: cuda.started,
        "get_rng_state": cuda.rng_state, "set_rng_state": cuda.set_rng_state, "manual_seed_all": cuda.seed_all,
        "manual_seed": lambda seed: cuda.states.__setitem__(cuda.current, [int(seed), 0]),
        "initial_seed": lambda: cuda.states[cuda.current][0], "_is_in_bad_fork": lambda: False,
        "get_rng_state_all": lambda: [cuda.rng_state(i) for i in range(cuda.count)],
        "is_current_stream_capturing": lambda: False, "init": lambda: None,
        "default_generators": tuple(cuda.defaults),
    }  # fmt: skip


def on_the_host(value: Any) -> list[str]:
    """The paths of the tensors in nested containers, or of a module, that are in main memory."""
    if isinstance(value, torch.nn.Module):
        named = [*value.named_parameters(), *value.named_buffers()]
        return [name for name, tensor in named if not isinstance(tensor, OnCuda)]
    return [str(n) for n, leaf in enumerate(leaves(value)) if isinstance(leaf, Tensor) and not isinstance(leaf, OnCuda)]


def numbers(value: Tensor) -> Tensor:
    """The values of a tensor, wherever it is, without a wait that counts."""
    return value.value if isinstance(value, OnCuda) else value.detach()


__all__ = ["Cuda", "OnCuda", "WaitError", "numbers", "on_the_host", "stand_in"]
