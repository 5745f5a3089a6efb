"""Watch one forward pass: every operation that PyTorch dispatches becomes a node of a `Graph`.

Tensors are known by where they lie (storage, offset, shape, strides), which also holds for views that autograd wraps
anew; sparse ones, which have no storage, by their object. No tensor is kept alive: the pass needs the memory that it
needs anyway. A weak reference to each storage keeps its few bytes of bookkeeping, and with them its address, so that a
tensor that PyTorch makes unseen (`torch.tensor`, `from_numpy`) never passes for a freed one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from vdvae_patch.attach.decorators import chain, plain
from vdvae_patch.attach.graft import is_stand_in
from vdvae_patch.attach.source import mangled
from vdvae_patch.errors import PatchError
from vdvae_patch.scales.operation import Operation
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import (
    Frame,
    Graph,
    Node,
    broadcast_shape,
    flat,
    is_diagonal,
    is_even,
    picks,
    representative,
)
from vdvae_patch.scanning.watching.foreign_draws import may_be_drawn
from vdvae_patch.scanning.watching.inputs import tensors_in
from vdvae_patch.scanning.watching.undoing import RUNNER, Undoing, storage_key, tensors_among
from vdvae_patch.trace import short, shown

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # all of `scanning`
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_RUN = Operation.run.__func__.__code__  # type: ignore[attr-defined]  # which calls what `apply` ends in
_CACHED = functools.cached_property.__get__.__code__
_TORCH_KEPT = os.path.join(_TORCH, "nn", "modules") + os.sep

View = tuple[int, tuple[int, ...], tuple[int, ...]]


class _Storage:
    """What is known of one piece of memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.address = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.places: dict[View, Node] = {}
        self.written: set[View] = set()
        self.before = False
        """Whether it was there before the call."""
        self.data = self.params = False
        self.noise = 0

    def add(self, place: View, node: Node) -> None:
        self.places[place] = node
        self.data |= node.data
        self.params |= node.params
        self.noise |= node.noise


class Recorder(Undoing):  # type: ignore[no-untyped-call]
    """Records into `graph` while it is entered.

    Args:
        model: its parameters and buffers are known by name, its modules by path.
        inputs: tensors that are data.
        arrays: where the memory of arrays that are data begins and ends.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor], arrays: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self._arrays = tuple(arrays)
        # without any input that is known, a tensor that no operation made is the batch, and not a constant
        self._presume_data = not inputs
        self._outside: dict[int, str] = {}
        self._literal = False
        self.graph = Graph()
        self._storages: dict[int, _Storage] = {}
        self._sparse: dict[int, tuple[weakref.ref[Tensor], Node]] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.entry: CodeType | None = None
        """Of the function that the call begins in, where that is beside the model."""
        self._frames: dict[tuple[Frame, ...], tuple[Frame, ...]] = {}
        self._kept: dict[str, str] = {}
        self.draw_count = 0
        self.differentiated = False
        """Whether the call has taken gradients by itself."""
        self._methods: dict[tuple[CodeType, type], tuple[bool, str]] = {}
        self._modules: dict[CodeType, str] = {}
        self._without_values = {
            key: name
            for name, t in (*model.named_parameters(), *model.named_buffers())
            if t.device.type == "meta" and (key := storage_key(t)) is not None
        }
        self._attributes = {key for t in _attributes(model) if (key := storage_key(t)) is not None}
        for name, parameter in model.named_parameters():
            self._source(parameter, "parameter", name)
        for name, buffer in model.named_buffers():
            self._source(buffer, "buffer", name)
        for number, tensor in enumerate(inputs):
            self._source(tensor, "input", f"input {number}")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._without_values:
            self._require_values(args, kwargs)
        if any(self._written(func)):
            self._keep_memory(func, args, kwargs)
        if torch._C._current_autograd_node() is not None:
            self.differentiated = True
            out = self._run(func, args, kwargs)
            self._note_made([*args, *kwargs.values()], out)
            return out
        self._literal = func.overloadpacket.__name__ in ops.LITERAL
        sources = tuple(self._lift(a) for a in args)
        named = {key: self._lift(value) for key, value in kwargs.items()}
        cut = self._cut([*args, *kwargs.values()], [*sources, *named.values()])
        made = len(self.graph.nodes)
        out = self._run(func, args, kwargs)
        self._record(func, args, sources, named, out)
        if func.overloadpacket.__name__ == "_local_scalar_dense" and sources[0].params:
            self.graph.read_out.append(sources[0])
        for node in self.graph.nodes[made:] if cut else ():
            node.cut = cut
        return out

    def _cut(self, args: Sequence[Any], sources: Sequence[Any]) -> frozenset[int]:
        """The numbers of the operands that parameters have a part in and through which no gradient comes. Inside of an
        `autograd.Function`, which runs without gradients and has some of its own, that is not known of any."""
        learned = [(a, s) for a, s in zip(flat(args), flat(sources), strict=True) if isinstance(s, Node) and s.params]
        if torch.is_grad_enabled():
            return frozenset(s.id for a, s in learned if not a.requires_grad)
        return frozenset() if _in_function() else frozenset(s.id for _, s in learned)

    def _require_values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `PatchError` if an operation reads a parameter or a buffer that has no values."""
        for tensor in tensors_among([*args, *kwargs.values()]):
            name = self._without_values.get(storage_key(tensor) or 0) if tensor.device.type == "meta" else None
            if name is not None:
                raise PatchError(f"{name!r} is on the meta device and has no values; load the weights, then scan")

    def _note_refusal(self, func: Any, error: Exception) -> None:
        """Note an operation that refused its arguments because they are not finite, with where it is called."""
        frames = self._walk(3)
        place = f"{shown(frames[0].code.co_filename)}:{frames[0].line}" if frames else "PyTorch"
        text = (str(error).strip().splitlines() or [""])[0]
        name = func.overloadpacket.__name__
        self.graph.refused.append(f"{place}: {name} was given values that are not finite, and refuses them: {text!r}")

    def names(self, word: str) -> bool:
        """Whether a function of the host that ran names something so."""
        return any(word in code.co_names for code in self._modules)

    def _is_made(self, key: int) -> bool:
        storage = self._storages.get(key)
        return super()._is_made(key) if storage is None else not storage.before

    def node_of(self, tensor: Tensor) -> Node:
        """The node of a tensor; a constant if nothing is known of it."""
        located = _locate(tensor)
        if located is None:
            return self._without_storage(tensor)
        key, place = located
        storage = self._storages.get(key)
        if storage is not None and place in storage.places:
            return storage.places[place]
        if storage is None:
            return self._from_outside(tensor)
        mixed = self._new("opaque", "mixed", tuple(tensor.shape))
        mixed.data, mixed.params, mixed.noise = storage.data, storage.params, storage.noise
        mixed.value = representative(tensor)
        storage.add(place, mixed)
        return mixed

    def nodes_in(self, tensor: Tensor) -> frozenset[int]:
        """The numbers of the nodes that lie in a tensor's memory; none if nothing is known of it."""
        located = _locate(tensor)
        storage = None if located is None else self._storages.get(located[0])
        return frozenset() if storage is None else frozenset(node.id for node in storage.places.values())

    def _from_outside(self, tensor: Tensor) -> Node:
        """A tensor that no operation made: the batch, where the call brings it along unseen; else a constant."""
        shape = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        own = storage_key(tensor) in self._attributes
        if self._is_of_array(tensor):
            return self._source(tensor, "input", "input of an array")
        if self._presume_data and tensor.numel() > 1 and not own and not self._inside_model():
            self.graph.notes.append(f"a tensor {shape} that no input held was taken for the batch")
            return self._source(tensor, "input", "input from outside")
        node = self._source(tensor, "constant", "constant")
        node.drawn = not own and may_be_drawn(tensor)
        if not own and tensor.dim() > 1:
            self._outside[node.id] = shape
        return node

    def _is_of_array(self, tensor: Tensor) -> bool:
        if not self._arrays or tensor.device.type != "cpu":
            return False
        return any(start <= tensor.data_ptr() < end for start, end in self._arrays)

    def _inside_model(self) -> bool:
        """Whether it is numbers written in a line of the model itself: `torch.tensor([0.1, 0.2])`."""
        return self._literal and any(frame.path is not None and frame.host for frame in self._walk(1))

    def _without_storage(self, tensor: Tensor) -> Node:
        known, node = self._sparse.get(id(tensor), (None, None))
        if known is not None and node is not None and known() is tensor:
            return node
        return self._new("opaque", "unknown", tuple(tensor.shape))

    # --- one operation ---

    def _record(
        self, func: Any, args: tuple[Any, ...], sources: tuple[Any, ...], named: dict[str, Any], out: Any
    ) -> None:
        results = [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)] if _many(out) else []
        writes = self._written(func)
        if not results:
            return
        name = ops.base_name(func.overloadpacket.__name__)
        frames = self._walk()
        inplace = any(writes)
        if name in _IN_STEPS and self._record_steps(name, func, args, sources, named, results, frames):
            return
        for index, tensor in enumerate(results):
            node = self._new("opaque", name, tuple(tensor.shape))
            node.func, node.args, node.kwargs, node.index = func, sources, named, index
            node.inplace, node.frames = inplace, frames
            self._classify(node, tensor, args)
            if name == "embedding" and frames and frames[0].host:
                node.kind = (
                    "shape"  # F.embedding(batch, self.raw) picks rows of a parameter; nn.Embedding emits its own
                )
            if name in ops.COMBINING and len(args) > 1:
                node.moves = _moves(args, sources)
            if name in ops.SHUFFLING or name in ops.WRITING_PICKED or name == "embedding":
                node.picked = _picked(args, sources)
            self._place(tensor, node, args, inplace)

    def _record_steps(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        sources: tuple[Any, ...],
        named: dict[str, Any],
        results: list[Tensor],
        frames: tuple[Frame, ...],
    ) -> bool:
        """Record what squares and adds up in one as these two steps; False if it does something else."""
        steps = _IN_STEPS[name](sources, named)
        if steps is None or not isinstance(args[0], Tensor):
            return False
        shape: tuple[int, ...] = tuple(args[0].shape)
        if len(args) > 1 and isinstance(args[1], Tensor) and name not in ops.PRODUCTS:
            shape = broadcast_shape(shape, args[1].shape)
        node: Node | None = None
        for operation, arguments in steps:
            op = ops.base_name(operation.overloadpacket.__name__)
            if ops.kind_of(op) == "reduction":
                shape = tuple(results[0].shape)
            before, node = node, self._new("opaque", op, shape)
            node.func, node.args, node.frames = operation, arguments if before is None else (before, *arguments), frames
            self._classify(node, results[0], args)
        assert node is not None
        self._place(results[0], node, args, inplace=False)
        return True

    def _classify(self, node: Node, tensor: Tensor, args: tuple[Any, ...]) -> None:
        kind = ops.kind_of(node.op)
        inputs = node.inputs
        overwritten = node.inplace and node.op in ops.OVERWRITING
        if overwritten or node.op.endswith("_like") or node.op.startswith("new_"):
            # what lay there before has no influence; and of a model to be like only the shape is taken
            node.args = node.args[1:]
            inputs = node.inputs
        if kind == "opaque" and any(n.params for n in inputs):
            self._notice_outside(node, inputs)
        constant = node.op == "scatter" and len(inputs) == 2 and not inputs[0].data  # a one-hot vector
        node.decided = any(n.decided or ((kind == "discrete" or constant) and n.data) for n in inputs)
        if kind != "discrete" and not constant:
            node.data = any(n.data for n in inputs)
            node.params = any(n.params for n in inputs)
            node.noise = 0
            for n in inputs:
                node.noise |= n.noise
        if kind == "normal_noise" and not node.params:
            node.kind = "noise"
            node.noise |= 1 << self.draw_count
            self.draw_count += 1
        elif kind == "normal_noise":
            node.noise |= 1 << self.draw_count  # torch.normal(mean, std), drawn and scaled in one
            self.draw_count += 1
        elif kind in ("elementwise", "shape", "reduction"):
            node.kind = "opaque" if _adds_bias(node) else kind
        elif node.op in ops.COMPARING and any(n.params for n in inputs):
            node.kind = (
                "elementwise"  # the condition of a `where` is computed again, though nothing is learned through it
            )
            return
        if not (node.params or node.noise or node.data) and node.kind != "noise":
            node.drawn = node.op in _LEAVING_DRAWS and any(n.drawn for n in inputs)
            node.kind = "constant"
            if node.op not in ops.PICKING_BY_CHANCE:  # a dream of bits is known by what it was made of
                node.args, node.kwargs = (), {}
        if not (node.params or node.noise):
            node.value, node.even = representative(tensor), is_even(tensor)
            node.diagonal = node.kind == "constant" and is_diagonal(tensor)

    def _notice_outside(self, node: Node, inputs: Sequence[Node]) -> None:
        """Say that a network was given something that is no input, and that no operation made."""
        for shape in (self._outside.pop(n.id) for n in inputs if n.id in self._outside):
            frame = node.host_frame()
            at = "" if frame is None else f" at {short(frame.code.co_filename)}:{frame.line}"
            self.graph.notes.append(
                f"a tensor {shape} that is no input meets parameters{at}; if it is data, give it as an input, so that "
                "a posterior is not taken for a prior"
            )

    def _place(self, tensor: Tensor, node: Node, args: tuple[Any, ...], inplace: bool) -> None:
        located = _locate(tensor)
        if located is None:
            self._sparse[id(tensor)] = weakref.ref(tensor), node
            return
        key, place = located
        storage = self._storages.get(key)
        shared = any(isinstance(a, Tensor) and storage_key(a) == key for a in tensors_among(args))
        if storage is None or not shared:
            storage = self._storages[key] = _Storage(tensor)
        elif inplace:
            self._overwrite(storage, place, node)
        elif node.kind == "shape" and place in storage.written:
            return  # a part that was written since: what was written is what is read
        storage.add(place, node)

    def _overwrite(self, storage: _Storage, place: View, node: Node) -> None:
        """A write to a part changes the whole: the whole becomes its old self with the part put in. Where that is a
        part of a part, as in `out[i, j] = value`, which Python selects one after the other, so is the part around it.
        """
        storage.written.add(place)
        changed = {place: node}
        for other, old in sorted(storage.places.items(), key=lambda item: math.prod(item[0][1])):
            if other == place or _lie_apart(other, place):
                continue
            del storage.places[other]
            inner, where = next(
                ((i, found) for i in changed if (found := _narrowed(other, i) or _selected(other, i))), (None, ())
            )
            if inner is None:
                storage.written.discard(other)
                continue
            part = changed[inner]
            whole = self._new("shape", "select_scatter" if len(where) == 2 else "slice_scatter", other[1])
            whole.args = (old, part, *where)
            whole.data, whole.params = old.data or part.data, old.params or part.params
            whole.noise, whole.frames, whole.value = old.noise | part.noise, part.frames, old.value
            changed[other] = whole
            storage.add(other, whole)

    # --- where it happened ---

    def _walk(self, depth: int = 3) -> tuple[Frame, ...]:
        frame: FrameType | None = sys._getframe(depth)
        found: list[Frame] = []
        while frame is not None:
            code = frame.f_code
            if code is _APPLY:
                found.clear()  # what a custom autograd function does cannot be told apart from its call
            kind = self._kept.get(code.co_filename)
            if kind is None:
                kind = self._kept[code.co_filename] = _file_kind(code.co_filename)
            if kind == "own":
                if code.co_name == RUNNER:
                    break
            elif code is _CACHED:
                pass  # a property that keeps its value is called by whoever reads it, as any property is
            elif kind == "host" or (kind == "module" and code.co_name == "forward"):
                path, method = self._path_of_self(frame)
                if kind == "host" or path is not None:
                    found.append(
                        Frame(
                            code,
                            frame.f_lasti,
                            path,
                            kind == "host",
                            method,
                            self._module_of(frame),
                            code is self.entry,
                        )
                    )
            frame = frame.f_back
        frames = tuple(found)
        return self._frames.setdefault(frames, frames)

    def _path_of_self(self, frame: FrameType) -> tuple[str | None, str]:
        """The module's path if the frame runs one of its methods, and is no function that is merely given it; and the
        name by which its class reaches this very function, empty for a base class's."""
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        path = self._paths.get(id(owner))
        if path is None:
            return None, ""
        key = code, type(owner)
        if key not in self._methods:
            self._methods[key] = _method(*key)
        is_method, name = self._methods[key]
        return (path if is_method else None), name

    def _module_of(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._modules:
            self._modules[code] = _module_name(frame.f_globals)
        return self._modules[code]

    # --- small things ---

    def _lift(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, list | tuple):
            return [self._lift(item) for item in value]
        return value

    def _new(self, kind: Any, op: str, shape: tuple[int, ...]) -> Node:
        node = Node(len(self.graph.nodes), kind, op, shape)
        self.graph.nodes.append(node)
        return node

    def _source(self, tensor: Tensor, kind: Any, name: str) -> Node:
        node = self._new(kind, kind, tuple(tensor.shape))
        node.name = name
        node.params = kind == "parameter"
        node.data = kind == "input"
        node.mask = node.data and _is_binary(tensor)  # until `masks.settle_masks` has seen what it is used for
        node.value, node.even = representative(tensor), is_even(tensor)
        node.diagonal = kind in ("buffer", "constant") and is_diagonal(tensor)
        located = _locate(tensor)
        if located is not None:
            key, place = located
            if key not in self._storages:
                self._storages[key] = _Storage(tensor)
                self._storages[key].before = True
            self._storages[key].add(place, node)
        else:
            self._sparse[id(tensor)] = weakref.ref(tensor), node
        return node


_Steps = list[tuple[Any, tuple[Any, ...]]]


def _steps_of_mse(sources: tuple[Any, ...], named: Mapping[str, Any]) -> _Steps:
    reduction = named.get("reduction", sources[2] if len(sources) > 2 else 1)
    aten = torch.ops.aten
    square: _Steps = [(aten.sub.Tensor, sources[:2]), (aten.pow.Tensor_Scalar, (2,))]
    totals: dict[int, _Steps] = {0: [], 1: [(aten.mean.default, ())], 2: [(aten.sum.default, ())]}
    return [*square, *totals[reduction]]


def _steps_of_norm(sources: tuple[Any, ...], named: Mapping[str, Any]) -> _Steps | None:
    order, dim, keepdim = ([*sources[1:], *(2, None, False)[len(sources) - 1 :]])[:3]
    if order != 2:
        return None
    aten = torch.ops.aten
    total = (aten.sum.default, ()) if dim is None else (aten.sum.dim_IntList, (dim, keepdim))
    return [(aten.pow.Tensor_Scalar, (sources[0], 2)), total, (aten.sqrt.default, ())]


def _steps_of_dist(sources: tuple[Any, ...], named: Mapping[str, Any]) -> _Steps | None:
    if (sources[2] if len(sources) > 2 else 2) != 2:
        return None
    aten = torch.ops.aten
    square: _Steps = [(aten.sub.Tensor, sources[:2]), (aten.pow.Tensor_Scalar, (2,))]
    return [*square, (aten.sum.default, ()), (aten.sqrt.default, ())]


def _steps_of_product(sources: tuple[Any, ...], named: Mapping[str, Any]) -> _Steps | None:
    """Of a row and a column that are both computed by arithmetic, as errors are, or are one: no layer, but a sum."""
    row, column = sources[:2]
    vectors = len(row.shape) == len(column.shape) == 1
    if not vectors and (len(row.shape) == 1 or row.shape[-2] != 1 or column.shape[-1] != 1):
        return None
    aten = torch.ops.aten
    total: _Steps = [(aten.sum.default, ())] if vectors else [(aten.sum.dim_IntList, ([-1], True))]
    one, other = _in_order(row), _in_order(column)
    if one is None or other is None:
        return None
    if one.key == other.key:
        return [(aten.pow.Tensor_Scalar, (row, 2)), *total]
    if any(spot.node.kind != "elementwise" for spot in (one, other)):
        return None
    if vectors:
        return [(aten.mul.Tensor, (row, column)), *total]
    return [(aten.transpose.int, (column, -2, -1)), (aten.mul.Tensor, (row,)), *total]


def _in_order(node: Node) -> Spot | None:
    """Where a vector's elements were computed, if nothing on the way has put them into another order."""
    back = node
    while back.kind == "shape" and back.inputs:
        if back.op in ops.SHUFFLING:
            return None
        back = back.inputs[0]
    return settle(Spot(node))


_IN_STEPS: dict[str, Callable[[tuple[Any, ...], Mapping[str, Any]], _Steps | None]] = {
    "mse_loss": _steps_of_mse,
    "linalg_vector_norm": _steps_of_norm,
    "norm": _steps_of_norm,
    "dist": _steps_of_dist,
    "dot": _steps_of_product,
    "mm": _steps_of_product,
    "bmm": _steps_of_product,
}
"""Operations that square, or multiply, and add up in one: F.mse_loss(y, x, reduction="sum"), torch.norm(y - x, dim=1),
torch.einsum("bi,bi->b", error, error)."""


def run_watched(
    recorder: Undoing, call: Any, arguments: tuple[Any, ...], inner: TorchDispatchMode | None = None
) -> Any:
    """`call(*arguments)` under the recorder, TorchScript interpreted operation by operation.

    Args:
        inner: a mode that sees each operation before the recorder does.
    """
    with torch.jit.optimized_execution(False), recorder, inner or contextlib.nullcontext():  # type: ignore[attr-defined]
        return call(*arguments)


def _in_function() -> bool:
    """Whether a custom function of autograd is running."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not _APPLY and frame.f_code is not _RUN:
        frame = frame.f_back
    return frame is not None


def _method(code: CodeType, cls: type) -> tuple[bool, str]:
    """Whether a class has a method of a function's name, and the name by which it reaches the function itself."""
    private = {mangled(code.co_name, base.__name__) for base in cls.__mro__}
    names = [name for name in (code.co_name, *sorted(private)) if hasattr(cls, name)]
    for name in names:
        found = inspect.getattr_static(cls, name)
        while is_stand_in(found):
            found = plain(found).__wrapped__
        found = getattr(found, "func", found) if isinstance(found, functools.cached_property) else found
        if any(getattr(layer, "__code__", None) is code for layer in chain(found, code.co_name)):
            return True, name
    other = _alias(code, cls)
    return bool(names or other), other


def _alias(code: CodeType, cls: type) -> str:
    """The name by which a class has a function of another name: `forward = forward_of_another`, or a lambda."""
    names = dict.fromkeys(name for base in cls.__mro__[:-1] for name in vars(base))
    for name in names:
        value = inspect.getattr_static(cls, name)
        if isinstance(value, types.FunctionType) and any(
            getattr(layer, "__code__", None) is code for layer in chain(value)
        ):
            return name
    return ""


def _module_name(scope: dict[str, Any]) -> str:
    """The name under which `sys.modules` has the module of these globals: a notebook's, too, which is no file."""
    name = scope.get("__name__", "")
    if getattr(sys.modules.get(name), "__dict__", None) is scope:
        return str(name)
    return next((n for n, m in list(sys.modules.items()) if getattr(m, "__dict__", None) is scope), "")


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that the model keeps without naming them to PyTorch: constants of its own."""
    kept = ("_parameters", "_buffers", "_modules")
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in kept:
                yield from tensors_in(value)


def _file_kind(filename: str) -> str:
    if filename.startswith(_OWN):
        return "own"
    if filename.startswith(_TORCH_KEPT):
        return "module"
    return "torch" if filename.startswith((_TORCH, "<frozen", "<string>")) else "host"


def _adds_bias(node: Node) -> bool:
    """Whether a layer of PyTorch's own adds its bias in a step apart, as Linear does for transposed inputs."""
    layer = node.frames[0] if node.frames else None
    if node.op != "add" or layer is None or layer.host or layer.path is None:
        return False
    return any(n.kind == "parameter" and n.name == f"{layer.path}.bias" for n in node.inputs)


def _narrowed(whole: View, part: View) -> tuple[int, int, int, int] | None:
    """(dim, start, stop, step) if the part is a range of one dimension of the whole; else None."""
    (offset, shape, strides), (inner_offset, inner, inner_strides) = whole, part
    if len(shape) != len(inner):
        return None
    differing = [d for d in range(len(shape)) if shape[d] != inner[d] or strides[d] != inner_strides[d]]
    if len(differing) != 1 or strides[differing[0]] == 0:
        return None
    dim = differing[0]
    start, rest = divmod(inner_offset - offset, strides[dim])
    step, part_of_step = divmod(inner_strides[dim], strides[dim])
    stop = start + step * (inner[dim] - 1) + 1
    fits = rest == part_of_step == 0 and start >= 0 and step > 0 and stop <= shape[dim]
    return (dim, start, stop, step) if fits else None


def _selected(whole: View, part: View) -> tuple[int, int] | None:
    """(dim, index) if the part is one place of one dimension of the whole; else None."""
    (offset, shape, strides), (inner_offset, inner, inner_strides) = whole, part
    for dim, stride in enumerate(strides):
        others = tuple(s for d, s in enumerate(shape) if d != dim), tuple(s for d, s in enumerate(strides) if d != dim)
        index, rest = divmod(inner_offset - offset, stride) if stride else (0, 1)
        if others == (inner, inner_strides) and rest == 0 and 0 <= index < shape[dim]:
            return dim, index
    return None


def _lie_apart(one: View, other: View) -> bool:
    """Whether two views are ranges of one dimension of the same tensor that do not meet, as the gates are which one
    product is taken apart into: what is written into one leaves the other as it was."""
    (first, shape, strides), (second, others, same) = one, other
    differing = [d for d in range(len(shape)) if len(others) == len(shape) and shape[d] != others[d]]
    if strides != same or len(others) != len(shape) or len(differing) > 1 or 0 in strides:
        return False
    for dim in differing or range(len(shape)):
        start, rest = divmod(second - first, strides[dim])
        low, high = min(0, start), max(shape[dim], start + others[dim])
        wider = [s for d, s in enumerate(strides) if d != dim and shape[d] > 1 and s > strides[dim]]
        narrower = sum((shape[d] - 1) * s for d, s in enumerate(strides) if d != dim and s <= strides[dim])
        inside = narrower < strides[dim] and all((high - low) * strides[dim] <= s for s in wider)
        if rest == 0 and inside and (start >= shape[dim] or start + others[dim] <= 0):
            return True
    return False


_LEAVING_DRAWS = ops.COPYING | ops.KEEPING_CHANNELS | ops.MULTIPLYING
"""What a host does with numbers of another library's before it takes them for noise."""


def _picked(args: Any, sources: Any) -> dict[int, Tensor]:
    """The tensors of indices among the arguments of an operation, by the number of their node."""
    found: dict[int, Tensor] = {}
    for value, source in zip(flat(args), flat(sources), strict=False):
        if isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex():
            found[source.id] = value.detach().to("cpu", copy=True)
    return found


def _moves(args: Any, sources: Any) -> bool:
    """Whether a product of two matrices, the last two arguments, has one that no parameter reaches and that only moves
    elements of the other."""
    (left, right), (of_left, of_right) = args[-2:], sources[-2:]
    if not all(isinstance(value, Tensor) for value in (left, right)) or of_left.params == of_right.params:
        return False
    return picks(right, -2) if of_left.params else picks(left, -1)


def _is_binary(tensor: Tensor) -> bool:
    """Whether there are zeros and ones, or ones only."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.numel() == 0 or tensor.is_complex():
        return False
    return bool(((tensor == 0) | (tensor == 1)).all()) and bool((tensor == 1).any())


def _many(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _locate(tensor: Tensor) -> tuple[int, View] | None:
    key = storage_key(tensor)
    return None if key is None else (key, (int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()))
