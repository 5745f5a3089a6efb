"""What was done to a model: the record that lies on it, and how the parts of a patch are found again.

A record refers to no module. The parts are found by the number of the patch, which every attachment has, wherever a
wrapper has moved them to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from vdvae_patch.attach.attachment import Attachment
from vdvae_patch.attach.graft import stands_in
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Arithmetic, Head
from vdvae_patch.patching.fit import Spread
from vdvae_patch.patching.variant import VANILLA, Variant
from vdvae_patch.patching.wrapped import INSIDE, Inside, is_taken_back
from vdvae_patch.scales import Scale
from vdvae_patch.tables import columns

RECORD = "_vdvae_patch_record"


@dataclass(frozen=True)
class PatchedHead:
    """A head with the scale that it was given; None where it was left as it is.

    Attributes:
        before, after: σ on the scanned batch, of the same raw values; None where no batch was at hand.
    """

    head: Head
    scale: Scale | None
    before: Spread | None = None
    after: Spread | None = None

    def row(self) -> tuple[str, str, str, str, str]:
        """Path, channels, role, convention and scale, as text."""
        scale = VANILLA if self.scale is None else str(self.scale)
        return self.head.path, self.head.channels, self.head.role, str(self.head.convention), scale


def beside_the_scale(heads: Iterable[PatchedHead]) -> list[str]:
    """What a scan saw that makes σ another one than the scale's, for some elements or in some lines of the model."""
    lines: list[str] = []
    for patched in heads:
        found = patched.head.found
        if found is not None:
            lines += [found.uneven, found.elsewhere if patched.head.sites and patched.scale is not None else ""]
            lines += [_of_a_constant(patched)]
    return [line for line in dict.fromkeys(lines) if line]


_REACH = 64.0  # raw values between which a constant's is looked for


def _of_a_constant(patched: PatchedHead) -> str:
    """A line about a fixed σ that the replaced expression computes, too, where the scale makes it another one."""
    found, scale = patched.head.found, patched.scale
    if found is None or found.constant is None or scale is None:
        return ""
    place, sigma = found.constant

    def own(raw: float) -> float:
        return float(patched.head.convention.sigma(torch.tensor(raw, dtype=torch.float64)))

    low, high = (-_REACH, _REACH) if own(-_REACH) < own(_REACH) else (_REACH, -_REACH)
    for _ in range(100):  # the raw value of which it is the host's σ
        middle = (low + high) / 2
        low, high = (middle, high) if own(middle) < sigma else (low, middle)
    new = float(scale.sigma(torch.tensor(high, dtype=torch.float64)))
    if not math.isclose(own(high), sigma, rel_tol=1e-3) or math.isclose(new, sigma, rel_tol=1e-3):
        return ""
    return (
        f"{place} computes σ of a constant, too, as of a fixed prior: {sigma:.3g} in the host, and with {scale}, which "
        f"stands there, {new:.3g}; give the fixed one a line of its own, or name a scale that leaves it"
    )


class PatchedHeads(tuple[PatchedHead, ...]):
    """The heads of a patched model; prints as a table."""

    def __str__(self) -> str:
        header = ("path", "channels", "role", "convention", "scale")
        if not any(h.before for h in self):
            return columns(header, (h.row() for h in self))
        rows = ((*h.row(), _text(h.before), _text(h.after)) for h in self)
        return columns((*header, "σ before", "σ after"), rows)


def _text(spread: Spread | None) -> str:
    return "" if spread is None else str(spread)


@dataclass(frozen=True)
class PatchRecord:
    """What was done to a model; lies on the model, goes into every checkpoint beside the weights.

    Attributes:
        attachments: what stands in for which method; paths are those of when the patch was made.
        number: of this patch; copies of the model have the same.
        beside: where the call that was scanned makes Normals outside of the model, which no attachment reaches.
    """

    variant: Variant
    arithmetic: Arithmetic
    heads: PatchedHeads
    attachments: tuple[Attachment, ...]
    number: str
    beside: tuple[str, ...] = ()


class Owner(NamedTuple):
    """A model that was patched, and where it lies in another one.

    `prefix` is the model's path in the wrapper that was patched, and the attachments in it are named from there on.
    """

    path: str
    model: nn.Module
    record: PatchRecord
    prefix: str = ""

    def installed(self, path: str) -> str:
        """The path that the installed attachment of this one has."""
        return ".".join(part for part in (self.prefix, path) if part)

    def has(self, module: nn.Module) -> bool:
        """Whether a module is inside of this model."""
        return any(m is module for m in self.model.modules())

    def named(self, path: str) -> str:
        """A path of the patched model, in the one around it."""
        return ".".join(part for part in (self.path, path) if part)

    @property
    def heads(self) -> list[PatchedHead]:
        """Its heads, by their paths in the model around it."""
        return [replace(h, head=replace(h.head, path=self.named(h.head.path))) for h in self.record.heads]


def owners(model: nn.Module) -> list[Owner]:
    """Every patched model in a model: itself, what a wrapper holds, a teacher and a student.

    Of a model that was patched through a wrapper, the wrapper if it is there, and else the model.
    """
    found: list[Owner] = []
    for path, module in model.named_modules():
        record, inside = vars(module).get(RECORD), vars(module).get(INSIDE)
        if record is not None and not is_taken_back(module, record):
            found.append(Owner(path, module, record))
        elif isinstance(inside, Inside) and inside.record and not any(o.has(module) for o in found):
            found.append(Owner(path, module, inside.record, inside.prefix))
    return found


def parts(model: nn.Module, number: str | None = None) -> Iterator[tuple[str, nn.Module, Attachment]]:
    """What stands in for methods anywhere in a model, of one patch or of all: path, module and attachment."""
    for path, module in model.named_modules(remove_duplicate=False):
        for instead in stands_in(module).values():
            if isinstance(instead, Attachment) and number in (None, instead.patch):
                yield path, module, instead


def is_patched(model: nn.Module) -> bool:
    """Whether the model, one that it wraps, or a part of it is patched."""
    return bool(owners(model)) or any(stands_in(m) for m in model.modules())


def patch_record(model: nn.Module) -> PatchRecord:
    """The variant, heads and attachments of a patched model; raises `PatchError` if it is not patched.

    Of several patched models in one, the first.
    """
    found = owners(model)
    if not found:
        raise PatchError(not_patched(model))
    return found[0].record


def patched_heads(model: nn.Module) -> PatchedHeads:
    """Path, channels, role, convention and scale of every head that a patch knows; none of an unpatched model.

    Prints as a table. Of several patched models in one, the heads of all, by their paths in that one.
    """
    return PatchedHeads(head for owner in owners(model) for head in owner.heads)


def not_patched(model: nn.Module) -> str:
    """Why a model has no record of its own."""
    if is_patched(model):
        return "the model is a part of one that was patched as a whole; ask that one, and unpatch it there"
    return "the model is not patched"
