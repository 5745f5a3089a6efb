"""What is written into one tensor, part after part, as one operation: `out[t] = ...` in a loop.

Each write makes a version of the whole, a node of its own. Of 2,000 writes there would be 2,000 wholes to keep, and as
many of their gradients, of which the last alone is read by anything but the next write.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Node


class Writes:
    """The writes of a sequence of operations, those into one tensor together.

    Args:
        order: operands first.
        users: of each node, the numbers of those that read it.
        end: is read by somebody else, too.
    """

    def __init__(self, order: Sequence[Node], users: Mapping[int, Sequence[int]], end: Node) -> None:
        self._chains: dict[int, list[Node]] = {}
        self._place: dict[int, tuple[list[Node], int]] = {}
        chains: dict[int, list[Node]] = {}
        for node in order:
            if not _is_write(node):
                continue
            before = node.args[0]
            follows = before.id in chains and before.id != end.id and list(users.get(before.id, ())) == [node.id]
            chain = chains.pop(before.id) if follows else []
            chain.append(node)
            chains[node.id] = chain
        for number, chain in chains.items():
            if len(chain) > 1:
                self._chains[number] = chain
                self._place |= {node.id: (chain, place) for place, node in enumerate(chain[:-1])}

    def within(self, *numbers: int) -> bool:
        """Whether one of them is a version that the next write alone reads."""
        return bool(self._place) and any(number in self._place for number in numbers)

    def ends(self, number: int) -> bool:
        """Whether it is the last version of several."""
        return number in self._chains

    def put_together(self, number: int, done: Mapping[int, Tensor]) -> Tensor:
        """The last version, of what was there before and of what was written."""
        return _all_written(self._chains[number], done)

    def up_to(self, number: int, done: Mapping[int, Tensor], known: tuple[int, Tensor] | None) -> Tensor:
        """A version in between; `known`, another one with its number, is begun with if it is an earlier one."""
        chain, place = self._place[number]
        if known is not None:
            other, begun = self._place[known[0]]
            if other is chain and begun < place:
                return _all_written(chain[begun + 1 : place + 1], done, known[1])
        return _all_written(chain[: place + 1], done)


class Versions(dict[int, Tensor]):
    """Values by the numbers of nodes; that of a version in between is put together when it is asked for."""

    def __init__(self, values: Mapping[int, Tensor], writes: Writes) -> None:
        super().__init__(values)
        self._writes = writes
        self._last: tuple[int, Tensor] | None = None

    def __missing__(self, number: int) -> Tensor:
        if not self._writes.within(number):
            raise KeyError(number)
        value = self._writes.up_to(number, self, self._last)
        self._last = number, value  # who asks for the versions in their order waits for one write each
        return value


def written(node: Node, old: Tensor, new: Tensor, *place: int) -> Tensor:
    """The whole with a part put in."""
    name = torch.ops.aten.select_scatter if node.op == "select_scatter" else torch.ops.aten.slice_scatter
    result: Tensor = name.default(old, new, *place)
    return result


def _is_write(node: Node) -> bool:
    return node.func is None and node.op in ops.WRITING_PART


def _all_written(chain: Iterable[Node], done: Mapping[int, Tensor], begun: Tensor | None = None) -> Tensor:
    whole = begun
    for dim, group in itertools.groupby(chain, key=_dimension):
        nodes = list(group)
        whole = done[nodes[0].args[0].id] if whole is None else whole
        places = [node.args[3] % whole.shape[dim] for node in nodes] if dim is not None else []
        if dim is not None and len(set(places)) == len(nodes) > 1:
            parts = torch.stack([done[node.args[1].id] for node in nodes], dim)
            whole = whole.index_copy(dim, torch.tensor(places), parts)
            continue
        for node in nodes:
            place: list[Any] = list(node.args[2:])
            whole = written(node, whole, done[node.args[1].id], *place)
    assert whole is not None
    return whole


def _dimension(node: Node) -> int | None:
    """Of a write to one place of a dimension, which one."""
    return int(node.args[2]) if node.op == "select_scatter" else None
