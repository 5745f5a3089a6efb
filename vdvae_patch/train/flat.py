"""Parameters and their moving averages side by side in one storage, so that what is done to all is done in one pass.

    flat      one tensor a type and device: what an update, an average or a copy goes over
    view      a tensor of the model, which lies in it: `parameter.data`

Names, shapes, gradients and `state_dict` of a model stay what they were; its tensors have moved. Each begins at a
multiple of 64 bytes, as an allocation of its own does, and what is between two of them is zero and stays zero.

A tensor keeps a storage of its own where somebody else may look into it by another way: one that shares its storage
with another tensor of the model or with one that no module knows, that is not contiguous, or a subclass that wraps
others (`DTensor`).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vdvae_patch.errors import RunError

_ALIGNMENT = 64  # bytes
_PIECE = 2**18
"""Elements of three tensors that a processor's caches hold together."""

# Private, and so looked up: where a later torch lacks it, a storage counts as nobody else's.
_holders: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda _: 0)


@dataclass(frozen=True)
class Flat:
    """Parameters of one type on one device.

    Attributes:
        members: which of the parameters, in their order.
        starts: where each begins, in elements.
        values, averages: `[elements]`, the storage of the parameters and of their averages.
    """

    members: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    starts: tuple[int, ...]
    values: Tensor
    averages: Tensor

    @classmethod
    def of(cls, members: Sequence[int], parameters: Sequence[Tensor], averages: Sequence[Tensor]) -> Flat:
        """Move these parameters and their averages into storages of their own."""
        first = parameters[members[0]]
        unit = max(1, _ALIGNMENT // first.element_size())
        starts, end = [], 0
        for member in members:
            starts.append(end)
            end += -(-parameters[member].numel() // unit) * unit
        shapes = tuple(parameters[member].shape for member in members)
        made = cls(tuple(members), shapes, tuple(starts), first.new_zeros(end), first.new_zeros(end))
        for storage, tensors in ((made.values, parameters), (made.averages, averages)):
            views = made.views(storage)
            torch._foreach_copy_(views, [tensors[member].detach() for member in members])
            for member, view in zip(members, views, strict=True):
                tensors[member].data = view
        return made

    def views(self, storage: Tensor) -> list[Tensor]:
        """The tensors that lie in a storage of this layout."""
        parts = zip(self.starts, self.shapes, strict=True)
        # not by an index: of a fake tensor that asks for the device it pretends to be on
        return [storage.narrow(0, start, shape.numel()).view(shape) for start, shape in parts]

    @cached_property
    def paddings(self) -> tuple[Tensor | None, ...]:
        """Zeros that fill the space behind each tensor."""
        ends = (*self.starts[1:], self.values.numel())
        gaps = [end - start - shape.numel() for start, end, shape in zip(self.starts, ends, self.shapes, strict=True)]
        return tuple(self.values.new_zeros(gap) if gap else None for gap in gaps)

    @cached_property
    def _pieces(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        room = self.values.new_empty(min(_PIECE, self.values.numel()))
        pairs = zip(torch.split(self.values, _PIECE), torch.split(self.averages, _PIECE), strict=True)
        return [(value, average, room.narrow(0, 0, value.numel())) for value, average in pairs]

    def average(self, weight: Tensor) -> None:
        """averages += weight · (values − averages), in one pass over both; a weight of 0 leaves every bit."""
        if self.values.device.type != "cpu":
            self.averages.lerp_(self.values, weight.to(self.values))
            return
        # three operations while a piece is in the cache; one that is fused rounds once where these round twice, and a
        # run would no longer repeat digit for digit what it gave before
        for value, average, room in self._pieces:
            torch.sub(value, average, out=room)
            average.add_(room.mul_(weight))


class FlatWeights:
    """The parameters that are trained, and their averages, moved side by side where that is safe.

    Args:
        parameters, averages: in pairs.
        owners: the modules that have them, whose tensors may share a storage.
    """

    def __init__(self, parameters: Sequence[Tensor], averages: Sequence[Tensor], owners: Iterable[nn.Module]) -> None:
        self.parameters, self.averages = list(parameters), list(averages)
        gc.collect()  # what only waits to be deleted holds no storage: the layout must not depend on when that happens
        seen = Counter(_key(t) for module in owners for t in (*module.parameters(), *module.buffers()) if _is_plain(t))
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, pair in enumerate(zip(self.parameters, self.averages, strict=True)):
            if all(_may_move(tensor, seen) for tensor in pair) and _alike(*pair):
                groups.setdefault((pair[0].device, pair[0].dtype), []).append(index)
        with torch.no_grad():
            self.flats = [Flat.of(members, self.parameters, self.averages) for members in groups.values()]
        moved = {index for flat in self.flats for index in flat.members}
        self.apart = [index for index in range(len(self.parameters)) if index not in moved]
        """Those that keep a storage of their own."""
        self._places = _addresses(self.parameters)

    def storages(self) -> list[Tensor]:
        """Every parameter, in as few tensors as there are storages."""
        return [*(flat.values for flat in self.flats), *(self.parameters[index] for index in self.apart)]

    @torch.no_grad()
    def average(self, weight: Tensor) -> None:
        """averages += weight · (parameters − averages), `weight` a scalar on the device; exact where it is 0."""
        for flat in self.flats:
            flat.average(weight)
        if self.apart:
            averages = [self.averages[index] for index in self.apart]
            difference = list(torch._foreach_sub([self.parameters[index] for index in self.apart], averages))
            torch._foreach_mul_(difference, weight)
            torch._foreach_add_(averages, difference)

    def require_in_place(self) -> None:
        """Make sure that the parameters are still where they were moved to.

        Raises:
            RunError: one lies elsewhere, so that what is updated is no longer the model.
        """
        if _addresses(self.parameters) != self._places:
            raise RunError(
                "a parameter of the model lies in another storage than the one that is trained: something assigned to "
                "its .data (as model.to(...) does) after the training step was made; make a new step for the model"
            )


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not is_traceable_wrapper_subclass(tensor)


def _may_move(tensor: Tensor, seen: Counter[int]) -> bool:
    if not _is_plain(tensor) or not tensor.is_contiguous() or not tensor.numel() or not tensor.is_floating_point():
        return False
    storage = tensor.untyped_storage()
    own = storage.nbytes() == tensor.numel() * tensor.element_size()
    # held by the tensor, and by what Python has of it here
    return own and seen[_key(tensor)] == 1 and _holders(storage._cdata) <= 2


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() if _is_real(tensor) else 0 for tensor in tensors]


def _is_real(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter)
