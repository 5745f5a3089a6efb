"""What a scan found: a sequence of heads, with what was seen beside them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, overload

from torch import nn

from vdvae_patch.attach.sites import NormalSite
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import THE_MODEL, Head, Role
from vdvae_patch.outcome import Outcome
from vdvae_patch.scanning.bound.elbo import LossElbo
from vdvae_patch.scanning.evidence.reading import NearMiss
from vdvae_patch.tables import columns
from vdvae_patch.trace import short

ONLY_SAMPLED = (
    "no density and no KL was seen: if the loss is computed outside of what was run, give your loss: "
    "call=lambda model, batch: ..., so that priors and likelihoods are seen, too"
)
ONLY_SAMPLED_IN_LOSS = (
    "the loss that was run has no density and no KL of these σ that is known as one: if you train with another loss, "
    "give that: call=lambda model, batch: ..."
)


class ScanResult(Sequence[Head]):
    """The heads that a scan found, in the order in which the model computes them; prints as a table.

    A slice, `select` and `+` give a `ScanResult` again. A plain list of its heads is as good for `patch`: each head
    knows the scan that found it.

    Attributes:
        near_misses: what looked like a scale and was not taken, and why.
        warnings: what is numerically unsafe in the host as it is: in its heads, and elsewhere in its arithmetic.
        notes: what was presumed about the data.
        outcome: whether loss and gradients of the batch are finite, and if not, where the first value was made that is
            not, and what was not finite before the call.
        normals: where the host makes a `torch.distributions.Normal`; patched with stable arithmetic, it makes one that
            carries log σ.
        advice: what to give where no loss was seen.
        stays: the warnings that no scale changes anything about.
        elbo: which evidence lower bound the loss optimizes; false, with the reason, where that is not known.
    """

    def __init__(
        self,
        heads: Iterable[Head] = (),
        near_misses: Iterable[NearMiss] = (),
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
        outcome: Outcome | None = None,
        elbo: LossElbo | None = None,
        advice: str = "",
        stays: Iterable[str] = (),
    ) -> None:
        self._heads = tuple(heads)
        self.near_misses = tuple(near_misses)
        self.stays = tuple(stays)
        self._elsewhere = (*warnings, *self.stays)
        self.notes = tuple(notes)
        self.outcome = Outcome() if outcome is None else outcome
        self.advice = advice
        self.elbo = LossElbo("these heads are of no scan") if elbo is None else elbo

    def __len__(self) -> int:
        return len(self._heads)

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> ScanResult: ...
    def __getitem__(self, index: int | slice) -> Head | ScanResult:
        return self.with_heads(self._heads[index]) if isinstance(index, slice) else self._heads[index]

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def __add__(self, other: Iterable[Head]) -> ScanResult:
        return self.with_heads((*self._heads, *other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ScanResult({list(self._heads)!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How a notebook shows it at the end of a cell."""
        printer.text(str(self))

    def __str__(self) -> str:
        header = ("path", "channels", "role", "convention", "patched at", "sure", "where")
        lines = [columns(header, (_row(head) for head in self))] if self else ["no Normal head", self.why_not()]
        lines += [self.unmeasured] if self and self.only_sampled else []
        lines += (f"near miss: {miss}" for miss in self.near_misses if self and miss.likely)
        warnings = (f"warning: {text}" for text in _gathered(self, self._elsewhere))
        lines += (f"note: {note}" for note in self.notes)
        # Of a loss that is not finite the lines before say what there is to say.
        asked_for = bool(self) and self.outcome.has_loss and self.outcome.finite
        bound = [str(self.elbo)] if self.elbo or self.elbo.reconstruction is not None or asked_for else []
        return "\n".join([*lines, *warnings, f"this batch: {self.outcome.headline}", *self.outcome.causes, *bound])

    @property
    def warnings(self) -> tuple[str, ...]:
        """See the class."""
        of_heads = (warning for head in self if head.found is not None for warning in head.found.warnings)
        return tuple(dict.fromkeys((*of_heads, *self._elsewhere)))

    @property
    def normals(self) -> tuple[NormalSite, ...]:
        """See the class."""
        runs = {id(head.scan): head.scan for head in self._heads if head.scan is not None}
        sites = (site for run in runs.values() for site in run.normals if isinstance(site, NormalSite))
        return tuple(dict.fromkeys(sites))

    @property
    def only_sampled(self) -> bool:
        """Whether no head was seen in a density or a KL."""
        return not any(map(_is_compared, self))

    @property
    def unmeasured(self) -> str:
        """What is to be said where `only_sampled`: that the loss is asked for, if it was not given."""
        return ONLY_SAMPLED_IN_LOSS if self.outcome.has_loss else ONLY_SAMPLED

    def why_not(self) -> str:
        """The near misses, one a line, and what may be missing."""
        nothing = _NOTHING_ELSE if self else _NOTHING
        misses = "\n".join(f"  {miss}" for miss in self.near_misses) or f"  {nothing}"
        return f"{misses}\n  {self.advice}" if self.advice else misses

    def select(
        self,
        *,
        role: Role | Iterable[Role] | None = None,
        path: str | Callable[[str], bool] | None = None,
        sure: bool | None = None,
    ) -> ScanResult:
        """The heads of a role (or several), at a path and below it (or for which a function of the path is true), and
        those that a density, a KL or a Normal shows (`sure=True`), or that only noise does (`sure=False`).

        Raises:
            PatchError: none is left; the message has those that there are.
        """
        roles = None if role is None else {role} if isinstance(role, str) else set(role)
        left = [
            head
            for head in self
            if (roles is None or head.role in roles)
            and (path is None or _is_at(head.path, path))
            and (sure is None or (head.found is None or head.found.confidence == "sure") == sure)
        ]
        if not left:
            raise PatchError(f"no head is left; there are: {', '.join(map(str, self)) or 'none'}")
        return self.with_heads(left)

    def without(self, heads: Iterable[Head]) -> ScanResult:
        """The heads but some."""
        out = {id(head) for head in heads}
        return self.with_heads(head for head in self if id(head) not in out)

    def corrected(
        self, *, exclude: str | Iterable[str] = (), roles: Mapping[str, Role] = MappingProxyType({})
    ) -> ScanResult:
        """The heads without those at some paths and below, and with other roles than the scan gave them.

        Raises:
            PatchError: a path has no head, or no head is left.
        """
        out = [exclude] if isinstance(exclude, str) else list(exclude)
        for path in (*out, *roles):
            if not any(_is_at(head.path, path) for head in self):
                raise PatchError(f"no head is at {path!r}; there are: {', '.join(map(str, self))}")
        left = [head for head in self if not any(_is_at(head.path, path) for path in out)]
        if not left:
            raise PatchError(f"no head is left without {', '.join(out)}")
        return self.with_heads(_with_roles(left, roles) if roles else left)

    def verify(self, model: nn.Module) -> None:
        """Run the scanned batch through a model that is patched, and compare every σ with what was promised.

        Raises:
            PatchError: it is not patched, a σ is another one, or the call cannot be run again.
        """
        from vdvae_patch.patching.apply import exchanged_for
        from vdvae_patch.patching.record import patch_record

        by_head = {(h.head.path, h.head.channels, h.head.role): h for h in patch_record(model).heads}
        for run in {id(head.scan): head.scan for head in self if head.scan is not None}.values():
            own = [head for head in self if head.scan is run]
            known = [(head, by_head.get((head.path, head.channels, head.role))) for head in own]
            missing = [str(head) for head, patched in known if patched is None]
            if missing:
                raise PatchError(f"not among the patched heads: {', '.join(missing)}")
            both = [(dataclasses.replace(patched, head=head), patched) for head, patched in known if patched]
            stable = patch_record(model).arithmetic == "stable"
            loss = exchanged_for(model, [as_patched for _, as_patched in both], stable, run)
            run.verify(model, [patched for patched, _ in both], loss)

    def with_heads(self, heads: Iterable[Head]) -> ScanResult:
        """The same scan with other heads."""
        new = copy.copy(self)
        new._heads = tuple(heads)
        return new


_NOTHING = (
    "no fresh Normal noise is multiplied by what a network computes, and no Normal's density or KL has a σ that a "
    "network computes"
)
_NOTHING_ELSE = "nothing but the heads looks like a Normal with a learned scale"
_SHOWN = 3
_NO_SOURCE = "no source"  # of code that was made on the spot


def _gathered(heads: Iterable[Head], elsewhere: Iterable[str]) -> list[str]:
    """The warnings; one that several heads have is said once, with their names."""
    paths: dict[str, list[str]] = {}
    for head in heads:
        for warning in () if head.found is None else head.found.warnings:
            name = head.path or THE_MODEL
            paths.setdefault(warning.removeprefix(f"{name}: "), []).append(name)
    lines = []
    for text, found in paths.items():
        names = list(dict.fromkeys(found))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"{', '.join(names[:_SHOWN])}{more}: {text}")
    return [*lines, *dict.fromkeys(elsewhere)]


def _is_at(path: str, wanted: str | Callable[[str], bool]) -> bool:
    if not isinstance(wanted, str):
        return bool(wanted(path))
    return path == wanted or path.startswith(f"{wanted}.")


def _with_roles(heads: Iterable[Head], roles: Mapping[str, Role]) -> list[Head]:
    """Heads of other roles; their scans know them by these."""

    def corrected(head: Head, scan: object) -> Head:
        role = next((role for path, role in roles.items() if _is_at(head.path, path)), head.role)
        return dataclasses.replace(head, role=role, scan=scan)

    runs: dict[int, Any] = {}
    found = []
    for head in heads:
        if head.scan is not None and id(head.scan) not in runs:
            others = [corrected(other, other.scan) for other in head.scan.heads]
            runs[id(head.scan)] = head.scan.with_heads(others)
        found.append(corrected(head, runs.get(id(head.scan))))
    return found


def _is_compared(head: Head) -> bool:
    return head.found is None or any("noise" not in way for way in head.found.evidence)


def _row(head: Head) -> tuple[str, ...]:
    found = head.found
    place = "" if found is None else f"{short(found.file)}:{found.line}" if found.file else _NO_SOURCE
    kind: Literal["parameter"] | str = "parameter" if head.parameter else head.channels
    return (
        head.path,
        kind,
        head.role,
        str(head.convention),
        "" if found is None else found.patch_at,
        "" if found is None else found.confidence,
        place,
    )
