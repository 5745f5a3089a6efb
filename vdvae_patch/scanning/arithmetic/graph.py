"""The graph of one forward pass: a node for every tensor that came to be, with what made it and from what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Literal, NamedTuple

import torch

from vdvae_patch.composition import Step
from vdvae_patch.outcome import Outcome

NodeKind = Literal["elementwise", "shape", "opaque", "reduction", "noise", "parameter", "buffer", "input", "constant"]


class Frame(NamedTuple):
    """A line of Python that was running.

    Attributes:
        code, lasti: the function and its instruction, which Python maps to the expression's exact columns.
        path: the model's module that is `self` there; None elsewhere.
        host: whether it is the host's own code, and not PyTorch's.
        method: the name by which the module's class reaches this function; empty if it does not, as of a base class's
            `forward` that is called by `super()`.
        module: the module of Python in whose globals the function runs.
        entry: whether it is the function that the scanned call begins in.
    """

    code: CodeType
    lasti: int
    path: str | None
    host: bool
    method: str = ""
    module: str = ""
    entry: bool = False

    @property
    def line(self) -> int:
        """Line of the expression."""
        return self.span[0] or self.code.co_firstlineno

    @property
    def span(self) -> tuple[int | None, int | None, int | None, int | None]:
        """First line, last line, first column, last column of the expression."""
        return _positions(self.code)[self.lasti // 2]


_Positions = list[tuple[int | None, int | None, int | None, int | None]]
_POSITIONS: dict[int, tuple[CodeType, _Positions]] = {}
_MOST_FUNCTIONS = 256


def _positions(code: CodeType) -> _Positions:
    """Of each instruction of a function; decoding them takes longer than all that is asked of them."""
    # by the object, which is kept with them: two functions with the same instructions are equal, wherever they stand
    known = _POSITIONS.get(id(code))
    if known is None:
        if len(_POSITIONS) >= _MOST_FUNCTIONS:
            _POSITIONS.clear()
        known = _POSITIONS[id(code)] = code, list(code.co_positions())
    return known[1]


class Node:
    """One tensor.

    Attributes:
        op: name of the operation without the in-place underscore; the kind of a parameter, buffer or input, whose own
            name may well be that of an operation.
        name: of a parameter, buffer or input.
        args, kwargs: the operation's arguments, tensors replaced by their nodes.
        index: which of several results it is.
        data, params: whether an input, or a parameter, has an influence on it.
        decided: whether an input has one through an answer that carries no gradient, as a comparison gives it.
        noise: bit set of the draws of Normal noise that have one.
        frames: innermost first.
        value: of a parameter, and of what neither a parameter nor noise reaches, its largest element; it stands for
            all of them.
        even: whether all its elements are that one, so far as they were looked at.
        mask: whether it is an input of zeros and ones by which the host multiplies what networks put out: no data.
        drawn: whether it is of numbers that another library may have drawn in the call; see `foreign_draws.py`.
        diagonal: whether it is a constant matrix with zeros beside its diagonal, and a number on it.
        moves: of a product of a network's value and of numbers that no parameter reaches, whether these are zeros and
            one 1 for each element, so that it only moves what the network put out. An adjacency adds up neighbours.
        picked: of an operation that picks elements, which ones: its tensors of indices, by the number of their node.
        cut: the numbers of those inputs through which no gradient comes, as where the host detaches them.
        stepped: what `expression.step_through` found before, by the cuts; None while nodes may still change.
    """

    __slots__ = (
        "_inputs", "args", "cut", "data", "decided", "diagonal", "drawn", "even", "frames", "func", "id", "index",
        "inplace", "kind", "kwargs", "mask", "moves", "name", "noise", "op", "params", "picked", "shape", "stepped",
        "value",
    )  # fmt: skip

    def __init__(self, id: int, kind: NodeKind, op: str, shape: tuple[int, ...]) -> None:
        self.id = id
        self.kind: NodeKind = kind
        self.op = op
        self.name = ""
        self.shape = shape
        self.func: Any = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.index = 0
        self.inplace = False
        self.data = False
        self.decided = False
        self.params = False
        self.noise = 0
        self.frames: tuple[Frame, ...] = ()
        self.value = 0.0
        self.even = False
        self.mask = False
        self.drawn = False
        self.diagonal = False
        self.moves = False
        self.picked: dict[int, torch.Tensor] = {}
        self.cut: frozenset[int] = frozenset()
        self.stepped: dict[Any, Any] | None = None
        self._inputs: list[Node] | None = None

    @property
    def inputs(self) -> list[Node]:
        """The nodes among its arguments."""
        return self._find_inputs() if self._inputs is None else self._inputs

    def keep_inputs(self) -> None:
        """Once the arguments change no more: find the nodes among them for good."""
        self._inputs = self._find_inputs()

    def _find_inputs(self) -> list[Node]:
        return [a for a in flat(self.args) if isinstance(a, Node)] + [
            a for a in self.kwargs.values() if isinstance(a, Node)
        ]

    @property
    def learned(self) -> bool:
        """Whether a parameter reaches it, so that it can be a network's output."""
        return self.params

    def host_frame(self) -> Frame | None:
        """The innermost line of the host's own code."""
        return next((frame for frame in self.frames if frame.host), None)

    def __repr__(self) -> str:
        flags = "".join(c for c, on in (("d", self.data), ("p", self.params), ("n", self.noise)) if on)
        return f"<{self.id} {self.name or self.op}{list(self.shape)} {flags}>"


@dataclass
class NormalSeen:
    """A `torch.distributions.Normal` that was made; `frames` are empty if PyTorch made it for another distribution, and
    `suffix` are steps to σ if it was given another number, such as a variance."""

    loc: Node
    scale: Node
    frames: tuple[Frame, ...] = ()
    suffix: tuple[Step, ...] = ()


@dataclass
class OtherSeen:
    """A distribution of PyTorch's that was made and whose scale no head can be: of another kind, or correlated."""

    name: str
    scale: Node
    frames: tuple[Frame, ...] = ()
    argument: str = ""
    """By which it was given."""
    loc: Node | None = None


@dataclass
class Graph:
    """All nodes in the order in which they came to be."""

    nodes: list[Node] = field(default_factory=list)
    normals: list[NormalSeen] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    others: list[OtherSeen] = field(default_factory=list)
    factors: dict[int, Node] = field(default_factory=dict)
    """The diagonals of Cholesky factors that are scales, by the number of the factor's node; see `factors.py`."""
    fixed: frozenset[str] = frozenset()
    """Parameters that are not trained, in a model of which others are."""
    notes: list[str] = field(default_factory=list)
    """What was presumed of data that no input held."""
    returned: dict[int, list[str]] = field(default_factory=dict)
    returned_beside: dict[int, list[str]] = field(default_factory=dict)
    """The same of modules that return several values, of which each is one."""
    stacked: frozenset[int] = frozenset()
    """Outputs whose first dimension holds a mean and a raw value, by the number of their node; see `stacked.py`."""
    consumers: dict[int, list[Node]] = field(default_factory=dict)
    loss: Node | None = None
    """The one number that the call gave."""
    given: frozenset[int] = frozenset()
    """All that the call gave, or left in attributes of the model, by the number of their node."""
    learns: frozenset[int] = frozenset()
    """The loss, and what else the call gave of which gradients can be taken, by the number of their node; none where
    nothing is known of that: there is no loss, or the call differentiates by itself."""
    read_out: list[Node] = field(default_factory=list)
    """What parameters reach and the host made a number of Python of, by `.item()` or `float`."""
    rewritten: dict[int, tuple[Any, ...]] = field(default_factory=dict, repr=False)
    """What nodes were that are written down as something else, by their number; see `diagonals.py`."""
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    """Kept for the reading of the loss alone, by the number of their node; see `replay.py`."""
    _taught: frozenset[int] | None = field(default=None, repr=False)
    _draws: dict[int, int] = field(default_factory=dict, repr=False)
    _outputs: dict[str, list[Node]] = field(default_factory=dict, repr=False)

    def settle(self) -> None:
        """Once nodes change no more: what is found of one may be remembered."""
        for node in self.nodes:
            node.stepped = {}

    def outputs_of(self, path: str) -> list[Node]:
        """What the module at a path returned, over all its calls."""
        return self._outputs.get(path, [])

    def draws_behind(self, node: Node) -> int:
        """Bit set of the draws of noise on any way back from a node, also through what lets none of it by, such as a
        comparison: a node has all those of every node that it is computed of."""
        found = self._draws
        todo = [node]
        while todo:
            inner = todo[-1]
            waiting = [n for n in inner.inputs if n.id not in found] if inner.id not in found else []
            if waiting:
                todo += waiting
                continue
            todo.pop()
            if inner.id not in found:
                draws = inner.noise
                for source in inner.inputs:
                    draws |= found[source.id]
                found[inner.id] = draws
        return found[node.id]

    @property
    def taught(self) -> frozenset[int]:
        """The numbers of the nodes to which gradients of the loss come."""
        if self._taught is None:
            todo, found = list(self.learns), set(self.learns)
            while todo:
                node = self.nodes[todo.pop()]
                further = {n.id for n in node.inputs} - node.cut - found
                found |= further
                todo += further
            self._taught = frozenset(found)
        return self._taught

    def leads_out(self, node: Node, but: frozenset[str] = frozenset()) -> bool:
        """Whether what is computed of a node comes to what the call gives, or to one number, such as a loss that the
        host differentiates by itself.

        Args:
            but: operations through which nothing counts.
        """
        todo, seen = [node], {node.id}
        while todo:
            current = todo.pop()
            if current.id in self.given or current.shape == ():
                return True
            for user in self.consumers.get(current.id, ()):
                if user.id not in seen and user.op not in but:
                    seen.add(user.id)
                    todo.append(user)
        return False

    def index_consumers(self) -> None:
        """Fill `consumers`, and what `outputs_of` gives, once recording is over."""
        self.consumers = {}
        self._outputs = {}
        for number, paths in self.returned.items():
            for path in dict.fromkeys(paths):
                self._outputs.setdefault(path, []).append(self.nodes[number])
        for node in self.nodes:
            node.keep_inputs()
            for source in node.inputs:
                self.consumers.setdefault(source.id, []).append(node)


def ancestors(nodes: Iterable[Node]) -> set[int]:
    """The numbers of some nodes, and of all that they are computed of."""
    todo = list(nodes)
    found = {node.id for node in todo}
    while todo:
        for source in todo.pop().inputs:
            if source.id not in found:
                found.add(source.id)
                todo.append(source)
    return found


def in_order(graph: Graph) -> Iterator[Node]:
    """The nodes, operands before what is computed of them: those that `pairs.py` adds stand behind all others."""
    done: set[int] = set()
    for node in graph.nodes:
        todo = [node]
        while todo:
            inner = todo[-1]
            waiting = [n for n in inner.inputs if n.id not in done] if inner.id not in done else []
            todo += waiting
            if not waiting:
                todo.pop()
                if inner.id not in done:
                    done.add(inner.id)
                    yield inner


def flat(value: Any) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


LOOKED_AT = 4096
"""How many elements of a tensor `representative` and `is_even` see."""


def representative(tensor: torch.Tensor) -> float:
    """An element of the largest magnitude among the first 4096; of a sparse tensor, among those that it stores."""
    if tensor.layout == torch.sparse_coo:
        tensor = tensor._values()
    elif tensor.layout in _COMPRESSED:
        tensor = tensor.values()
    if tensor.numel() == 0 or tensor.is_complex() or tensor.device.type == "meta" or tensor.layout != torch.strided:
        return 0.0
    values = tensor.detach().flatten()[:LOOKED_AT].double()
    return float(values[values.abs().argmax()])


def is_even(tensor: torch.Tensor) -> bool:
    """Whether the first 4096 elements are one number."""
    if tensor.numel() == 0 or tensor.is_complex() or tensor.device.type == "meta" or tensor.layout != torch.strided:
        return False
    values = tensor.detach().flatten()[:LOOKED_AT]
    return bool((values == values[0]).all())


def picks(matrix: torch.Tensor, dim: int) -> bool:
    """Whether a matrix, or each of several, has zeros and at most one 1 along a dimension: a product over it moves
    elements of the other factor, and leaves some out."""
    if matrix.dim() < 2 or matrix.is_complex() or matrix.device.type == "meta" or matrix.layout != torch.strided:
        return False
    ones = matrix.detach() == 1
    return bool((ones | (matrix.detach() == 0)).all()) and bool((ones.sum(dim) <= 1).all())


def is_diagonal(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a matrix with zeros beside its diagonal, and one number on it, or several such."""
    rows = tensor.shape[-1] if tensor.dim() > 1 else 0
    if (
        rows < 2
        or tensor.shape[-2] != rows
        or rows > _MOST_ROWS
        or not tensor.numel()
        or not tensor.is_floating_point()
    ):
        return False
    if tensor.device.type == "meta" or tensor.layout != torch.strided:
        return False
    matrix = tensor.detach().flatten(0, -3)[0] if tensor.dim() > 2 else tensor.detach()
    first = matrix[0, 0]
    return bool(first != 0) and bool(
        (matrix == first * torch.eye(rows, dtype=matrix.dtype, device=matrix.device)).all()
    )


_MOST_ROWS = 256

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what is computed of tensors of some shapes (`torch.broadcast_shapes` imports a computer algebra)."""
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)
