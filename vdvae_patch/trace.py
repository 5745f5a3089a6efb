"""Follow every value of a step through the host's operations, and find where the first bad one was made.

A value is bad if it is not finite, or larger than `limit` where it explodes. A dispatch mode sees each operation of the
forward and the backward pass in order. Bad values that lead nowhere (an infinity that a mask throws away) are told from
those that reach the loss: for each bad result, the bad results that it was computed from are remembered, and the path
is followed back from the losses, and from the gradients, to where it began.
"""

from __future__ import annotations

import linecache
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vdvae_patch.torch_versions import takes_hooks

Pass = Literal["forward", "backward"]

_OWN = str(Path(__file__).parent) + os.sep
_HOSTS_OF_OURS = f"{_OWN}upstream{os.sep}"
_OF_GUARD = f"{_OWN}guarding{os.sep}"
_NOT_THE_HOSTS = (os.path.dirname(torch.__file__) + os.sep, _OWN, "<frozen ")


def shown(file: str) -> str:
    """A file, or a line of it, as a reader knows it: from the current folder on, if it lies there; of a notebook, the
    cell."""
    near = os.path.relpath(file) if file else ""
    return _cell_of(file) or (file if near.startswith("..") else near)


def short(file: str) -> str:
    """The name of a file, or the cell of a notebook."""
    return _cell_of(file) or os.path.basename(file)


def _cell_of(file: str) -> str:
    """How a notebook's own errors name the cell that a file stands for; nothing of any other file."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda file: None)(file)
    return " ".join(named) if named else ""


@dataclass(frozen=True)
class Place:
    """Where an operation stands in the source.

    Attributes:
        module: path of the innermost module that was running.
        file, line: of the host's (or the patch's) source; for the backward pass, of the forward operation.
        text: that line.
    """

    module: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (f"{shown(self.file)}:{self.line}", self.text)))  # code may have no source


OUTSIDE = "(outside)"
"""In the place of a module's path: no module was running."""


def _is_view(func: Any) -> bool:
    """Whether an operation shows what its argument holds: what came in so large, it has not made."""
    return any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)


def _within(module: str) -> str:
    return "outside of the model" if module == OUTSIDE else f"in module {module or '(the model itself)'}"


@dataclass(frozen=True)
class Event:
    """An operation that gave a bad value.

    Attributes:
        operation: such as `aten.div.Tensor`.
        value: what made it bad: the largest magnitude, or NaN or infinity.
        finite: whether it is merely too large.
        causes: the events whose bad results it took.
        inputs: magnitude of its inputs, smallest to largest, as text.
        rows: of the batch, in which the value is bad; empty where its first dimension is not that of the batch.
    """

    number: int
    phase: Pass
    operation: str
    place: Place
    value: str
    inputs: str
    finite: bool
    causes: tuple[int, ...]
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.operation} in the {self.phase} pass gave {self.value} from {self.inputs}, "
            f"{_within(self.place.module)}, at {self.place}"
        )

    @property
    def remedy(self) -> str:
        """What keeps an operation finite that no scale of a Normal does; empty where there is no usual way."""
        name = self.operation.split(".")[1] if self.operation.count(".") else self.operation
        if name in _LOGS and self.phase == "forward" and self.value.startswith("-inf"):
            return (
                "That is the log of zero: of a probability take the logits (F.binary_cross_entropy_with_logits, "
                "F.logsigmoid, F.log_softmax), and keep anything else above zero"
            )
        if name in _LOGS and self.phase == "forward" and "nan" not in self.inputs.lower():
            return "That is the log of a number below zero, or of a 1 - p whose p was rounded to 1: keep it above zero"
        if self.phase == "backward" and name in _OF_A_ROOT and any(text in self.place.text for text in _ROOTS):
            return "A root has no slope at zero: add a small number inside of it, (x + 1e-8).sqrt()"
        return ""


_LOGS = {"log", "log_", "log2", "log10", "log1p"}
_OF_A_ROOT = {"div", "div_", "pow", "mul", "rsqrt", "sqrt"}
_ROOTS = ("sqrt(", "norm(", ".std(", "cdist(", "dist(", "** 0.5", "**0.5", "** .5", "**.5", "pow(0.5", "pow(.5")


@dataclass
class Trace:
    """The bad values of a step, in the order of the computation.

    Attributes:
        refused: the events that an operation was given the results of and raised an error, by their number.
    """

    events: list[Event] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    refused: tuple[int, ...] = ()

    @property
    def culprits(self) -> list[Event]:
        """The events on the way to a bad loss or gradient, in the order of the computation."""
        wanted, todo = set(self.reached), list(self.reached)
        while todo:
            for cause in self.events[todo.pop()].causes:
                if cause not in wanted:
                    wanted.add(cause)
                    todo.append(cause)
        return [self.events[number] for number in sorted(wanted)]


class Tracer(TorchDispatchMode):
    """Watches the operations while it is entered.

    Args:
        model: whose modules name the places.
        sources: folders whose files count as the host's; the innermost frame in one of them is the place. None for
            whatever is neither PyTorch's nor this package's.
        limit: values above it explode.
        batch: the size of the batch, so that events name its rows.
    """

    def __init__(
        self,
        model: nn.Module,
        sources: Sequence[Path] | None = None,
        limit: float = math.inf,
        *,
        batch: int | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.limit = limit
        self._batch = batch
        self._thread = threading.get_ident()
        self._sources = None if sources is None else tuple(str(path.resolve()) for path in sources)
        self._stack: list[str] = [OUTSIDE]
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model
        self._phase: Pass = "forward"
        self._made_by: dict[int, int] = {}  # storage of a bad value to the event that made it
        self._alive: list[Tensor] = []  # so that no storage's address is used a second time
        self._forward_places: dict[int, Place] = {}  # autograd's number of an operation to its place

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to be wrapped by PyTorch's compiler, which would be imported: nothing compiled runs under this mode."""
        return False

    def backward(self) -> None:
        """The operations from here on are those of the backward pass."""
        self._phase = "backward"

    def reach(self, values: Iterable[Tensor]) -> None:
        """Say which results count: the losses, or the gradients."""
        for value in values:
            event = self._made_by.get(_storage(value))
            if event is not None and self._is_bad(value):
                self.trace.reached.append(event)

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which module runs in this thread, while the block does."""
        self._thread = threading.get_ident()
        handles = []
        for module in filter(takes_hooks, self._model.modules()):
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it gave."""
        before = self._causes((args, kwargs))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        # in-place operations overwrite what the message needs, and they are rare
        spans = _spans(inputs) if func._schema.is_mutable else None
        try:
            result = func(*args, **(kwargs or {}))
        except Exception:
            self.trace.refused = before
            raise
        aside = self._phase == "forward" and _is_of_guard(sys._getframe(1))
        if self._phase == "forward" and not aside:
            # autograd numbers an operation just before it runs it
            self._forward_places.setdefault(_sequence_number() - 1, self._place())
        for output in tree_leaves(result):
            if isinstance(output, Tensor) and output.is_floating_point():
                if aside and self._is_bad(output) and (before or _is_finite(output)):
                    self.trace.reached.extend(before)  # a sum of the step's losses is no operation of it
                elif self._is_bad(output) and not (_is_view(func) and not before and _is_finite(output)):
                    self._note(func, output, spans or _spans(inputs), before)
                elif func._schema.is_mutable:
                    self._made_by.pop(_storage(output), None)
        return result

    def _note(self, func: Any, output: Tensor, inputs: str, causes: tuple[int, ...]) -> None:
        number = len(self.trace.events)
        place = self._place() if self._phase == "forward" else self._backward_place()
        self.trace.events.append(
            Event(
                number,
                self._phase,
                str(func),
                place,
                _describe(output, self.limit),
                inputs,
                _is_finite(output),
                causes,
                self._rows(output),
            )
        )
        self._made_by[_storage(output)] = number
        self._alive.append(output)

    def _rows(self, output: Tensor) -> tuple[int, ...]:
        if self._batch is None or not output.dim() or output.shape[0] != self._batch:
            return ()
        return tuple(_bad(output, self.limit).reshape(self._batch, -1).any(1).nonzero().flatten().tolist())

    def _causes(self, arguments: Any) -> tuple[int, ...]:
        keys = (_storage(t) for t in tree_leaves(arguments) if isinstance(t, Tensor))
        return tuple(sorted({self._made_by[key] for key in keys if key in self._made_by}))

    def _is_bad(self, value: Tensor) -> bool:
        if not value.numel():
            return False
        if math.isinf(self.limit):
            return not bool(value.detach().isfinite().all())
        return bool(_bad(value.detach().abs().amax(), self.limit))

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        if threading.get_ident() == self._thread:  # another one may evaluate the model meanwhile
            self._stack.append(self._names[id(module)])

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._stack.pop()

    def _place(self) -> Place:
        frame: Any = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if self._is_host(code.co_filename):
                return Place(self._stack[-1], code.co_filename, frame.f_lineno, _line(code.co_filename, frame.f_lineno))
            frame = frame.f_back
        return Place(self._stack[-1], "(no line of the host)", 0, "")

    def _is_host(self, file: str) -> bool:
        if self._sources is not None:
            return file.startswith(self._sources) and file != __file__
        return file.startswith(_HOSTS_OF_OURS) or not file.startswith(_NOT_THE_HOSTS)

    def _backward_place(self) -> Place:
        node = torch._C._current_autograd_node()
        known = None if node is None else self._forward_places.get(node._sequence_nr())
        if known is None:
            name = "the end of the graph" if node is None else node.name()
            return Place("", f"(no line of the host: {name})", 0, "")
        return known


def _is_of_guard(frame: Any) -> bool:
    """Whether a guard that does a step again asked for an operation by itself, such as the sum of several losses."""
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_HOSTS[0]):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_OF_GUARD)


def _sequence_number() -> int:
    # missing in torch's stubs
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _bad(value: Tensor, limit: float) -> Tensor:
    """Flags of the values that explode or are not finite."""
    detached = value.detach()
    sizes = detached.abs()
    # a limit above 65504 is infinite in half precision, and there infinity would not be above it
    return ~(sizes.to(torch.promote_types(sizes.dtype, torch.float32)) <= limit) | ~detached.isfinite()


def _is_finite(value: Tensor) -> bool:
    return bool(value.detach().isfinite().all())


def _describe(value: Tensor, limit: float) -> str:
    detached = value.detach()
    if detached.isnan().any():
        kind = "NaN"
    elif detached.isinf().any():
        kind = "-inf" if (detached == -torch.inf).any() else "inf"
    else:
        kind = f"{float(detached.abs().amax()):.3g}"
    bad = int(_bad(value, limit).sum())
    return f"{kind} ({bad} of {value.numel()} values)"


def _spans(values: Sequence[Tensor]) -> str:
    spans = [
        f"[{float(low):.3g}, {float(high):.3g}]"
        for low, high in (v.detach().aminmax() for v in values if v.is_floating_point() and v.numel())
    ]
    return " and ".join(spans) or "no tensor"


def _line(file: str, number: int) -> str:
    return linecache.getline(file, number).strip()  # also of a notebook's cell, which is no file
