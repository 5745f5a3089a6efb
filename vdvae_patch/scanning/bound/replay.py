"""The arithmetic of a loss, computed again: from outputs of networks, draws and data to the one number.

A recorded call has every operation. Its *tail* is what lies between the outputs of layers and the loss: no product with
a weight, no convolution and no draw is in it. The tail is computed again in float64 from the values that its beginnings
had, with chosen nodes changed, and differentiated by autograd: so a factor that a loss puts on some value is read off
the operations that were run, however they are written. A detached value counts as what it is, a part of the loss.
"""

from __future__ import annotations

import math
import warnings
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph, Node, flat
from vdvae_patch.scanning.watching.draws import is_random
from vdvae_patch.scanning.watching.record import Recorder, _locate
from vdvae_patch.scanning.watching.undoing import storage_key
from vdvae_patch.scanning.watching.writes import Versions, Writes, written
from vdvae_patch.torch_versions import quiet_vmap

BUDGET = 1 << 30
"""Bytes of values that are kept of a call; of more, the latest ones: the tail is at its end."""


class NoReplayError(Exception):
    """The tail cannot be computed again; says why."""


class Keeper(Recorder):  # type: ignore[no-untyped-call]
    """A recorder that keeps, until the scan is over, the values in which a tail may begin."""

    def __init__(self, *given: Any) -> None:
        self._kept_of: dict[int | None, list[int]] = {}
        self._bytes = 0
        super().__init__(*given)

    def node_of(self, tensor: Tensor) -> Node:
        node = super().node_of(tensor)
        if node.op in ("mixed", "unknown") and not node.func:
            self._keep(tensor, node)
        return node

    def _source(self, tensor: Tensor, kind: Any, name: str) -> Node:
        node = super()._source(tensor, kind, name)
        self._keep(tensor, node)
        return node

    def _place(self, tensor: Tensor, node: Node, args: tuple[Any, ...], inplace: bool) -> None:
        super()._place(tensor, node, args, inplace)
        if not _is_inner(node) or node.kind == "constant":
            self._keep(tensor, node)

    def _keep(self, tensor: Tensor, node: Node) -> None:
        values = self.graph.values
        located = _locate(tensor)
        if node.id in values or located is None or tensor.device.type == "meta" or tensor.is_complex():
            return
        values[node.id] = tensor.detach()
        self._kept_of.setdefault(located[0], []).append(node.id)
        if node.kind not in ("parameter", "buffer", "input"):
            self._bytes += tensor.numel() * tensor.element_size()
        while self._bytes > BUDGET:
            oldest = next(iter(values))
            self._bytes -= values[oldest].numel() * values[oldest].element_size()
            del values[oldest]

    def _keep_memory(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super()._keep_memory(func, args, kwargs)
        for tensor in self._written_to(func, args, kwargs):
            for number in self._kept_of.pop(storage_key(tensor), []):
                if number in self.graph.values:
                    self.graph.values[number] = self.graph.values[number].clone()


_LOSSES = frozenset(
    {"binary_cross_entropy", "binary_cross_entropy_with_logits", "nll_loss_forward", "nll_loss2d_forward"}
)
"""Losses in one operation that take weights of their own."""


def _is_inner(node: Node) -> bool:
    """Whether a node can be computed again from its operands without a layer, and without a draw."""
    if node.func is None:
        return node.op in ops.WRITING_PART
    if node.kind in ("parameter", "buffer", "input", "constant", "noise") or is_random(node.func):
        return False
    if node.kind in ("elementwise", "shape", "reduction"):
        return True
    if node.op in _LOSSES:  # with a buffer of weights, too
        return True
    if node.op in ops.CONVOLUTIONS or node.op in ops.NORMALIZATIONS:
        return False
    if node.op in ops.PRODUCTS:  # of rows with rows, as of a KL with what weighs it: no layer, be its weights drawn
        return all(n.data and _is_computed(n) for n in node.inputs)
    return not any(_is_weight(n) for n in node.inputs)


def _is_computed(node: Node) -> bool:
    """Whether a value is one of arithmetic, with its elements elsewhere at most."""
    while node.kind == "shape" and len(node.inputs) == 1:
        node = node.inputs[0]
    return node.kind in ("elementwise", "reduction", "shape")


def _is_weight(node: Node) -> bool:
    while node.kind == "shape" and len(node.inputs) == 1:
        node = node.inputs[0]
    return node.kind in ("parameter", "buffer")


Changes = Mapping[int, Callable[[Tensor], Tensor]]


class Tail:
    """The tail of a recorded loss.

    Attributes:
        order: its nodes, operands first.
        inside, leaves: the numbers of all, and of those in which it begins.
        base: the value of each on the batch as it is; of one tensor that is written into again and again the last
            version is kept, and an earlier one is put together when it is asked for.
        same: of differences that are computed twice, as in `(x - y) * (x - y)`, the one of which the other is a copy.

    Raises:
        NoReplayError: a value that it begins in was not kept, or it does not give the recorded loss.
    """

    def __init__(self, graph: Graph, end: Node) -> None:
        self.end = end
        self._values = {number: _double(value) for number, value in self._collect(graph, end).items()}
        self.inside = {node.id for node in self.order}
        self.leaves = set(self._values)
        self.same = _same(self.order)
        same = {copy: (first,) for copy, first in self.same.items()}
        self._read = {n.id: (*(i.id for i in n.inputs), *same.get(n.id, ())) for n in self.order}
        self._place = {node.id: place for place, node in enumerate(self.order)}
        self._users: dict[int, list[int]] = {}
        for number, read in self._read.items():
            for source in read:
                self._users.setdefault(source, []).append(number)
        self.writes = Writes(self.order, self._users, end)
        self._agreed: set[object] = set()
        self._gateways: dict[tuple[int, frozenset[int]], list[Node]] = {}
        self._paths: dict[tuple[frozenset[int], frozenset[int]], list[Node]] = {}
        self._slopes_of: dict[frozenset[int], dict[int, Tensor]] = {}
        self.base: dict[int, Tensor] = {}
        self.base = Versions(self.run({}), self.writes)
        known = graph.outcome.loss
        got = float(self.base[end.id].sum())
        if known is None or not math.isfinite(known) or not math.isclose(got, known, rel_tol=1e-3, abs_tol=1e-4):
            raise NoReplayError("the loss is not finite, or its arithmetic could not be followed")

    def _collect(self, graph: Graph, end: Node) -> dict[int, Tensor]:
        todo, seen, leaves = [end], {end.id}, dict[int, Tensor]()
        found = [end]
        while todo:
            node = todo.pop()
            if not _is_inner(node):
                if node.id not in graph.values:
                    raise NoReplayError(f"the value of {node.op} was not kept")
                leaves[node.id] = graph.values[node.id]
                continue
            for source in node.inputs:
                if source.id not in seen:
                    seen.add(source.id)
                    todo.append(source)
                    found.append(source)
            if len(found) > MOST:
                raise NoReplayError(f"the loss is more than {MOST} operations")
        self.order = _sorted(found, {node.id for node in found if node.id not in leaves})
        return leaves

    def run(self, changes: Changes, held: frozenset[int] = frozenset()) -> dict[int, Tensor]:
        """The value of every node, those in `changes` replaced by a function of what they are.

        Only what depends on them is computed again, and not through nodes that are held.
        """
        together = not self.writes.within(*changes, *held)
        done: dict[int, Tensor] = Versions(self.base, self.writes)
        for node in self._moved(frozenset(changes), held):
            number = node.id
            if together and self.writes.within(number):
                continue
            if number in self.same:
                value = done[self.same[number]]
            elif number in self._values:
                value = self._values[number]
            else:
                value = self._computed(node, done, together)
            done[number] = changes[number](value) if number in changes else value
        return done

    @property
    def floating(self) -> list[Node]:
        """The nodes whose values have derivatives; of what is written into again and again the last version alone."""
        return [n for n in self.order if not self.writes.within(n.id) and self.base[n.id].is_floating_point()]

    def _moved(self, changed: frozenset[int], held: frozenset[int]) -> list[Node]:
        """What is to be computed again: all at first, then what depends on changed nodes."""
        if not self.base:
            return self.order
        key = changed, held
        if key not in self._paths:
            todo, moved = list(changed), set(changed)
            while todo:
                for user in self._users.get(todo.pop(), ()):
                    if user not in moved and user not in held:
                        moved.add(user)
                        todo.append(user)
            places = sorted(self._place[number] for number in moved if number in self._place)
            self._paths[key] = [self.order[place] for place in places]
        return self._paths[key]

    def adjoints(
        self, nodes: Sequence[Node], changes: Changes | None = None, held: frozenset[int] = frozenset()
    ) -> dict[int, Tensor]:
        """∂ loss / ∂ node for each of some nodes, with some of them changed first; zero where none flows."""
        if not nodes:
            return {}
        added: dict[int, Tensor] = {}

        def watched(number: int) -> Callable[[Tensor], Tensor]:
            def change(value: Tensor) -> Tensor:
                value = changes[number](value) if changes and number in changes else value
                added[number] = torch.zeros_like(value).requires_grad_()
                return value + added[number]

            return change

        with torch.enable_grad():
            done = self.run({**(changes or {}), **{node.id: watched(node.id) for node in nodes}}, held)
            loss = done[self.end.id].sum()
            keys = list(added)
            if not loss.requires_grad:
                return {key: torch.zeros_like(added[key]) for key in keys}
            found = torch.autograd.grad(loss, [added[key] for key in keys], allow_unused=True)
        return {
            key: torch.zeros_like(added[key]) if grad is None else grad for key, grad in zip(keys, found, strict=True)
        }

    def slopes(self, node: Node, values: Tensor, held: frozenset[int]) -> Tensor:
        """∂ loss / ∂ node at each of several values of it, `[points, *shape]`, held nodes left as they are; zero where
        none flows.

        A deep model's loss is a sum of hundreds of terms. Where all that was changed has come together in one value,
        and the rest of the way to the loss is linear, that rest has a constant slope, known from the batch as it is.
        """
        slopes = self._slopes(held)
        if (node.id, held) not in self._gateways:
            self._gateways[node.id, held] = self._to_gateway(node, held, slopes)
        path = self._gateways[node.id, held]
        if not path:
            return torch.zeros_like(values)
        end = path[-1]
        together = not self.writes.within(node.id, *held)

        def loss_at(value: Tensor) -> Tensor:
            done = ChainMap({node.id: value}, self.base)
            for n in path[1:]:
                if together and self.writes.within(n.id):
                    continue
                if n.id in self.same:
                    done[n.id] = done[self.same[n.id]]
                elif n.id not in self._values:
                    done[n.id] = self._computed(n, done, together)
            return done[end.id].sum() if end.id not in slopes else (slopes[end.id] * done[end.id]).sum()

        share = max(1, _AT_ONCE // max(1, len(path) * values[0].numel()))
        like = tuple((n.op, n.shape, repr([a for a in n.args if not isinstance(a, Node)])) for n in path)
        return torch.cat([_slopes_at(loss_at, part, like, self._agreed) for part in torch.split(values, share)])

    def _to_gateway(self, node: Node, held: frozenset[int], slopes: Mapping[int, Tensor]) -> list[Node]:
        """What is to be computed again of a changed node, up to the first node with a slope through which all of it
        goes; up to the loss, if there is none. Nothing, where held nodes stand in all ways."""
        path = self._moved(frozenset({node.id}), held - {node.id})
        place = {n.id: i for i, n in enumerate(path)}
        last = list(range(len(path)))  # where each value is read last
        for i, n in enumerate(path):
            for number in self._read[n.id]:
                if number in place:
                    last[place[number]] = i
        latest = 0
        for i, n in enumerate(path):
            if n.id in slopes and latest <= i:
                return path[: i + 1]
            latest = max(latest, last[i])
        return path if self.end.id in place else []

    def _slopes(self, held: frozenset[int]) -> dict[int, Tensor]:
        """∂ loss / ∂ node for the nodes from which all ways to the loss are linear and pass no held node."""
        if held not in self._slopes_of:
            users: dict[int, list[Node]] = {}
            for node in self.order:
                for number in self._read[node.id]:
                    users.setdefault(number, []).append(node)
            kept = held | self.same.keys() | {self.end.id}
            linear = {self.end.id}
            for node in reversed(self.order):
                ways = [user.id in linear and _is_linear(user) for user in users.get(node.id, [])]
                if node.id not in kept and ways and all(ways):
                    linear.add(node.id)
            self._slopes_of[held] = self.adjoints([n for n in self.floating if n.id in linear])
        return self._slopes_of[held]

    def _computed(self, node: Node, done: Mapping[int, Tensor], together: bool) -> Tensor:
        """Its value, of those of its operands.

        Args:
            together: whether what is written into one tensor is, without the versions in between.
        """

        try:
            if together and self.writes.ends(node.id):
                return self.writes.put_together(node.id, done)
            args, kwargs = _of_nodes(list(node.args), done), {key: _of_nodes(a, done) for key, a in node.kwargs.items()}
            return _double(_applied(node, args, kwargs))
        except Exception as error:  # whatever an operation says to float64
            raise NoReplayError(f"{node.op} could not be computed again: {type(error).__name__}") from error


class TaughtTail(Tail):
    """The tail as gradients go through it: what an operation reads detached stays what it was on the batch."""

    def _computed(self, node: Node, done: Mapping[int, Tensor], together: bool) -> Tensor:
        if node.cut and self.base and node.op != "detach":  # a node of that stands for what it is of, too: one memory
            done = ChainMap({number: self.base[number] for number in node.cut}, cast("dict[int, Tensor]", done))
        return super()._computed(node, done, together)


def _of_nodes(value: Any, done: Mapping[int, Tensor]) -> Any:
    """An argument with the values of nodes in their place, in float64 on the CPU."""
    # no function inside of the one that calls it: one that names itself is a cycle, which would keep all of `done`
    if isinstance(value, Node):
        return done[value.id]
    if isinstance(value, list | tuple):
        return [_of_nodes(v, done) for v in value]
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _slopes_at(loss_at: Callable[[Tensor], Tensor], values: Tensor, like: object, agreed: set[object]) -> Tensor:
    """The derivative of a function at each of several values, all in one evaluation if that can be.

    One of them is evaluated alone, too, and compared: in torch 2.13 the gradient of `select_scatter` under `vmap` is
    too large by the number of slices. Of functions that are `like` one that has `agreed`, with the same operations on
    values of the same shapes, it is not done again.
    """
    alone = None if like in agreed and len(values) > 1 else _slope_of(loss_at, values[:1], _one_by_one)
    if alone is not None and len(values) == 1:
        return alone
    try:
        with warnings.catch_warnings(), quiet_vmap():
            warnings.simplefilter("ignore")  # of an operation that has no form for several values and is run again
            together = _slope_of(loss_at, values, torch.vmap)
        if alone is None or torch.allclose(together[:1], alone, rtol=1e-6, atol=1e-12, equal_nan=True):
            agreed.add(like)
            return together
    except (NoReplayError, RuntimeError, ValueError):  # one that looks at a value, or writes into another
        pass
    return _slope_of(loss_at, values, _one_by_one)


def _one_by_one(loss_at: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda values: torch.stack([loss_at(value) for value in values])


def _slope_of(
    loss_at: Callable[[Tensor], Tensor],
    values: Tensor,
    of_several: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]],
) -> Tensor:
    with torch.enable_grad():
        moved = values.detach().requires_grad_()
        losses = of_several(loss_at)(moved)
        if not losses.requires_grad:
            return torch.zeros_like(values)
        (found,) = torch.autograd.grad(losses.sum(), moved, allow_unused=True)
    return torch.zeros_like(values) if found is None else found


def _is_linear(node: Node) -> bool:
    """Whether what an operation gives is linear in each operand that may change, for all values of the others."""
    if node.kind == "shape":
        return node.op not in ops.COMBINING
    if node.kind == "reduction":
        return True
    if node.op in ops.MULTIPLYING:
        varying = [a for a in node.args if isinstance(a, Node) and (a.params or a.noise)]
        return len(varying) == 1 and (node.op == "mul" or node.args[0] is varying[0])
    return node.op in ops.LINEAR


_AT_ONCE = 1 << 22
"""Elements of all values together that are computed in one evaluation at several values: 32 MiB."""

MOST = 20_000
"""Operations of a tail: what is longer is a network that has no layers."""


def _sorted(found: Sequence[Node], inner: set[int]) -> list[Node]:
    """Operands first; a write to a part has a higher number than what is put together of it."""
    order: list[Node] = []
    placed: set[int] = set()
    for start in sorted(found, key=lambda n: n.id):
        todo = [start]
        while todo:
            node = todo[-1]
            open_ = [n for n in node.inputs if n.id not in placed] if node.id in inner and node.id not in placed else []
            if open_:
                todo.extend(open_)
                continue
            todo.pop()
            if node.id not in placed:
                placed.add(node.id)
                order.append(node)
    return order


def _same(order: Sequence[Node]) -> dict[int, int]:
    """Differences that are multiplied with one that is computed of the same, or with what is made of that one, as
    errors are that are divided by their own deviation."""
    copies: dict[int, int] = {}
    known: dict[str, list[Node]] = {}
    for node in order:
        if node.op in ops.SUMMING and node.params and any(not n.params and n.data for n in node.inputs):
            known.setdefault(f"{node.op} {_given(node)}", []).append(node)
    for node in order:
        if node.op == "mul" and len(node.inputs) == 2:
            one, other = (_unmoved(n) for n in node.inputs)
            if one is not other and one.op == other.op and one.op in ops.SUMMING and _given(one) == _given(other):
                copies[max(one.id, other.id)] = min(one.id, other.id)
    for twins in known.values():
        first = twins[0]
        for twin in twins[1:]:
            if twin.id not in copies and _weighs(order, first, twin):
                copies[twin.id] = first.id
    return copies


def _weighs(order: Sequence[Node], first: Node, twin: Node) -> bool:
    """Whether what is made of one difference is multiplied with the other, or divides it."""
    of_first, of_twin = {first.id}, {twin.id}
    for node in order:
        own = [n.id in of_first for n in node.inputs], [n.id in of_twin for n in node.inputs]
        if node.op in ops.MULTIPLYING and any(own[0]) and any(own[1]):
            return True
        if node.op in ops.SUMMING and any(own[0]) and any(own[1]):
            continue  # added up: two terms
        if any(own[0]):
            of_first.add(node.id)
        if any(own[1]):
            of_twin.add(node.id)
    return False


def _unmoved(node: Node) -> Node:
    while node.kind == "shape" and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def _given(node: Node) -> str:
    return repr([(a.id if isinstance(a, Node) else a) for a in node.args]) + repr(sorted(node.kwargs.items()))


def _applied(node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    if node.func is None:
        old, new, *place = args
        return written(node, old, new, *place)
    if node.op in ops.COPYING or node.op in ops.LITERAL:
        source: Tensor = next(a for a in flat(args) if isinstance(a, Tensor))
        target = kwargs.get("dtype")
        if isinstance(target, torch.dtype) and not target.is_floating_point:
            source = source.to(target)
        return source if tuple(source.shape) == node.shape else source.expand(node.shape)
    if node.op in ops.VIEWS:  # the strides are others here
        viewed: Tensor = args[0].reshape(args[1])
        return viewed
    func = node.func
    if node.op in _LOSSES:  # its weights have no gradient, and refuse to be asked for one
        args = [*args[:2], *(a.detach() if isinstance(a, Tensor) else a for a in args[2:])]
        kwargs = {key: a.detach() if isinstance(a, Tensor) else a for key, a in kwargs.items()}
    if node.inplace and args and isinstance(args[0], Tensor):
        args = [args[0].clone(), *args[1:]]
    found = func(*args, **kwargs)
    value: Tensor = found if isinstance(found, Tensor) else found[node.index]
    return value


def _double(value: Tensor) -> Tensor:
    return value.to("cpu", torch.float64) if value.is_floating_point() else value.cpu()
