"""The buffers of a model as they were before a step, in a loop whose every step is looked at."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vdvae_patch.guarding.deferred import selected
from vdvae_patch.scanning.watching.outcome import is_finite
from vdvae_patch.untrained import Places, places_of_untrained

_AGAIN = 50  # steps between two looks at which modules there are
_FIRST = 3  # looks one after the other at the beginning, so that what a model moves in its first steps is known soon
_SAMPLES = 1024  # values of a large parameter that are compared from one look to the next
_LARGE = 2**20  # bytes from which a buffer is not copied before somebody writes to it


class Buffers:
    """A copy of a model's buffers, to be taken before a step and put back after one that was skipped.

    Running statistics are written by kernels that say nothing of it to autograd's version counter, and neither does a
    write through `.data`: no counter says whether a buffer changed. A large one on a CPU is therefore copied when it is
    written to, by PyTorch's copy-on-write storage, which sees every write of an operation. What others may write to
    behind PyTorch's back (a NumPy array of it, a view that somebody holds) is copied in every step, as small buffers
    are, and so is for a while what was written to since the step before. Parameters that are not trained, beside others
    that are, are buffers here: a model may move them by itself, as a codebook that follows its codes. Large ones are so
    from the look on that finds them moved: a frozen network would cost a copy in every step for nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._owners: list[tuple[dict[str, Tensor | None], str]] = []
        self._kept: list[Tensor] = []
        self._own: list[Tensor] = []
        self._seen: list[int] = []
        self._dicts: list[dict[str, Tensor | None]] = []
        self._untrained: Places = []
        self._frozen = _Frozen()
        self._large: list[int] = []
        self._small: tuple[list[Tensor], list[Tensor]] = [], []
        self._copied: dict[int, int] = {}  # of large ones: in how many more steps they are copied at once
        self._rests: dict[int, int] = {}  # and in how many they were, when one was last found to be written to
        self.modules: list[nn.Module] = []
        self._takes = 0

    @torch.no_grad()
    def take(self) -> None:
        """Copy them as they are; but for those that cannot be, such as a view that repeats one number."""
        # what a loop does in every step must cost little: nothing is looked at twice that is the same tensor
        seen = [id(b) for _, _, b in self._slots()]
        if seen != self._seen:
            self._seen = seen
            self._choose()
        elif self._small[0]:
            torch._foreach_copy_(*self._small)
        for n in self._large:
            self._take_large(n)

    def _choose(self) -> None:
        chosen = [(owner, name, b) for owner, name, b in self._slots(again=True) if _can_be_copied(b)]
        self._owners, self._own = [(owner, name) for owner, name, _ in chosen], [b for _, _, b in chosen]
        self._large = [n for n, b in enumerate(self._own) if _is_large(b)]
        self._kept = [b.detach() if n in self._large else b.detach().clone() for n, b in enumerate(self._own)]
        small = [n for n in range(len(self._own)) if n not in self._large]
        self._small = [self._kept[n] for n in small], [self._own[n] for n in small]
        self._copied, self._rests = {}, {}
        for n in self._large:
            self._kept[n] = self._own[n].new_empty(0)

    def _take_large(self, n: int) -> None:
        held_here_alone = self._is_held_here_alone(n)  # before there is a further name for it
        own, kept = self._own[n], self._kept[n]
        known = kept.numel() > 0  # there is a copy of the step before
        if known and _is_shared(own) and _same_memory(own, kept):
            self._rests[n] = 0
            return  # nobody has written to it
        if known and _is_shared(kept):
            self._rests[n] = self._copied[n] = min(_AGAIN, max(1, 2 * self._rests.get(n, 0)))
        wait = self._copied.get(n, 0)
        if not wait and held_here_alone:
            with suppress(RuntimeError):  # memory that is shared, mapped, or not PyTorch's own
                self._kept[n] = torch._lazy_clone(own.detach())
                return
        self._copied[n] = max(0, wait - 1)
        if known and not _is_shared(kept):
            kept.copy_(own)
        else:
            self._kept[n] = own.detach().clone()

    def _is_held_here_alone(self, n: int) -> bool:
        """Whether nothing but the module and this refers to a buffer or its memory, and could write to it unseen. An
        array that shares a tensor's memory refers to the tensor."""
        owner, name = self._owners[n]
        return sys.getrefcount(self._own[n]) <= _alone() and _uses(owner[name]) <= 1

    def _slots(self, again: bool = False) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Where what is copied lies, and what it is. Modules are looked for anew now and then: they may be added."""
        if not again and (self._takes < _FIRST or self._takes % _AGAIN == 0):
            self.modules = list(self._model.modules())
            self._dicts = [m._buffers for m in self.modules]
            self._untrained = self._frozen.moving(places_of_untrained(self.modules))
        self._takes += not again
        slots = [(owner, name, b) for owner in self._dicts for name, b in owner.items() if b is not None]
        moved = ((owner, name, owner.get(name)) for owner, name in self._untrained)
        return slots + [(owner, name, p) for owner, name, p in moved if p is not None and not p.requires_grad]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make them what they were, in place where the tensor is still the same one.

        Not by an operation that autograd counts: a graph that is still needed may have read them.
        """
        for (owner, name), value, kept in zip(self._owners, self._own, self._kept, strict=True):
            if _is_trained(value):
                continue
            if not _same_memory(value, kept):  # else it is as it was, and a write would make a copy of it
                value.data.copy_(kept)
            owner[name] = value

    @torch.no_grad()
    def put_back_spoilt(self) -> list[str]:
        """Make those what they were that are not finite, and were when they were copied; their names."""
        names = {id(buffer): name for name, buffer in self._model.named_buffers()}
        found = []
        for (owner, name), value, kept in zip(self._owners, self._own, self._kept, strict=True):
            now = owner.get(name)
            if now is None or id(now) not in names or is_finite(now) or not is_finite(kept):
                continue
            value.data.copy_(kept)
            owner[name] = value
            found.append(names[id(now)])
        return found

    def put_back_where(self, flag: Tensor) -> None:
        """The same where a flag on the device is set, without a wait for it; of buffers that are `in_place`."""
        for value, kept in zip(self._own, self._kept, strict=True):
            if not _is_trained(value):
                selected(flag, value, kept)

    @property
    def in_place(self) -> bool:
        """Whether each is still the tensor that was copied, and none was exchanged for another one."""
        return all(owner.get(name) is own for (owner, name), own in zip(self._owners, self._own, strict=True))

    def state(self) -> dict[str, Tensor]:
        """The copies, by the names that a `state_dict` has."""
        named = [
            *self._model.named_buffers(remove_duplicate=False), *self._model.named_parameters(remove_duplicate=False)
        ]  # fmt: skip
        names = {id(b): name for name, b in named}
        return {names[id(v)]: kept for v, kept in zip(self._own, self._kept, strict=True) if id(v) in names}


class _Frozen:
    """Which of a model's untrained parameters a guard has to copy: all that are small, and the large ones that move."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], tuple[int, int, Tensor | None]] = {}
        self._moving: set[tuple[int, str]] = set()

    @torch.no_grad()
    def moving(self, places: Places) -> Places:
        """Those that are small, or were another tensor, of another version or of other values at the last look.

        A write through `.data` raises no version, so that values have to be compared: some, spread over all.
        """
        found = []
        for owner, name in places:
            place, parameter = (id(owner), name), owner[name]
            small = parameter.numel() * parameter.element_size() < _LARGE
            if not small and place not in self._moving:
                before, now = self._seen.get(place), (id(parameter), _version_of(parameter), _some_of(parameter))
                self._seen[place] = now
                if before is not None and not (before[:2] == now[:2] and _equal(before[2], now[2])):
                    self._moving.add(place)
            if small or place in self._moving:
                found.append((owner, name))
        return found


def _version_of(parameter: Tensor) -> int:
    return -1 if parameter.is_inference() else parameter._version


def _some_of(values: Tensor) -> Tensor | None:
    """None of what has no values that can be picked out, as a quantized weight: its version alone tells."""
    with suppress(Exception):  # a subclass of a tensor refuses in its own words
        own: Tensor = values.to_local() if hasattr(values, "to_local") else values  # a rank's part
        which = torch.linspace(0, own.numel() - 1, _SAMPLES, dtype=torch.float64).long()
        return own.detach()[torch.unravel_index(which.to(own.device), own.shape)].cpu()
    return None


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_trained(value: Tensor) -> bool:
    """Whether it is a parameter that has a gradient again, as of a discriminator that was fixed for the generator's
    pass alone: an optimizer may have moved it since, and that update was done."""
    return isinstance(value, nn.Parameter) and value.requires_grad


# Private, and so looked up: where a torch lacks one of them, large buffers are copied in every step as small ones are.
_COPIES_ON_WRITE = hasattr(torch, "_lazy_clone") and all(
    hasattr(torch._C, name) for name in ("_is_cow_tensor", "_data_address", "_storage_Use_Count")
)


def _is_large(buffer: Tensor) -> bool:
    if not _COPIES_ON_WRITE or buffer.device.type != "cpu" or hasattr(buffer, "full_tensor"):
        return False
    return type(buffer) in (Tensor, getattr(nn, "Buffer", Tensor)) and buffer.numel() * buffer.element_size() >= _LARGE


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if not _COPIES_ON_WRITE or one.device.type != "cpu" or other.device.type != "cpu" or not other.numel():
        return False
    return _is_plain(one) and _is_plain(other) and _address(one) == _address(other)


def _address(tensor: Tensor) -> int:
    """Where its memory is; asked in another way, it would be taken for one that is about to be written to."""
    found: int = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    return found


def _is_shared(tensor: Tensor) -> bool:
    """Whether a write to it makes a copy first."""
    found: bool = torch._C._is_cow_tensor(tensor)  # type: ignore[attr-defined]
    return found


def _is_plain(tensor: Tensor) -> bool:
    return not hasattr(tensor, "full_tensor")


def _uses(tensor: Tensor | None) -> int:
    """How many tensors share its memory."""
    if tensor is None:
        return 2
    count: int = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return count - 1  # that of the storage that was just asked for


def _alone() -> int:
    """What a tensor that a dictionary and a list refer to is said to be referred to by."""
    owner = {"": torch.empty(0)}
    own = [owner[""]]
    return sys.getrefcount(own[0])


def _can_be_copied(buffer: Tensor) -> bool:
    if is_lazy(buffer) or buffer.is_inference() or buffer.layout is not torch.strided:
        return False
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))
