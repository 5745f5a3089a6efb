"""Why a step was skipped: what came in from outside, what was made in the model, by which head, and what would hold.

The step is done again with every operation watched, as `replay` does it for a run of this package. Which head is to
blame is not guessed from a name or a size: the step is done again with each head's σ replaced in turn, and the head
with whose replacement loss and gradients are finite is the one.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.attach.entry import ExchangedCall
from vdvae_patch.errors import InvalidValueError, PatchError
from vdvae_patch.guarding import time_first
from vdvae_patch.guarding.again import Again, NoLossError, Share
from vdvae_patch.guarding.extremes import HeadExtremes, Seen
from vdvae_patch.heads import Head, Role
from vdvae_patch.outcome import Outcome, some
from vdvae_patch.patching import PatchHandle, is_patched, patch, patch_record
from vdvae_patch.patching.apply import lifted
from vdvae_patch.patching.variant import Variant
from vdvae_patch.scanning.finder import scan
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.watching.inputs import tensors_in
from vdvae_patch.scanning.watching.outcome import from_outside
from vdvae_patch.trace import OUTSIDE, Event, Tracer

LIMIT = 1e6
"""A value above it explodes."""

_SPREADING = re.compile("inf|nan")  # in what an operation was given: it only passes it on

_FACTORS = (1.0, 0.1, 0.01)

_LIKELIHOODS = ("downbounded(0.001)", "bounded(0.001, 10)")


@dataclass(frozen=True)
class Tried:
    """The same step with other scales.

    Attributes:
        variant: as `patch` takes it.
        outcome: None where it cannot be had, with the reason in `why_not`.
    """

    variant: str
    outcome: Outcome | None
    why_not: str = ""

    @property
    def holds(self) -> bool:
        """Whether loss and gradients are finite."""
        return self.outcome is not None and self.outcome.finite


@dataclass(frozen=True)
class Diagnosis:
    """What doing a step again has shown.

    Attributes:
        outside: what was not finite before the step, in words: rows of the batch, parameters, buffers.
        explodes: the first value that is larger than 10⁶ on the way to what is not finite; None if nothing exploded
            before.
        event: the first value that is not finite; None if there was none.
        head: the one that is to blame; None if none is.
        with_others: whether it is to blame only together with the other heads.
        heads: all that were found, with their extremes in this step.
        tried: the step with other scales.
        how: what was run again.
        exact: whether it gave the loss that the step had, bit for bit; None if that was not seen.
        reproduced: whether the step, done again, was not finite, either.
        notes: what could not be done, and why.
        index: the call of the model with which what was examined began, of those in the step.
        part: which `backward` of the step was examined, from 1, and of how many; rows and heads are of its part of the
            step alone. None where there is one.
    """

    outside: tuple[str, ...] = ()
    explodes: Event | None = None
    event: Event | None = None
    head: Head | None = None
    with_others: bool = False
    heads: tuple[HeadExtremes, ...] = ()
    tried: tuple[Tried, ...] = ()
    how: str = ""
    exact: bool | None = None
    reproduced: bool = False
    notes: tuple[str, ...] = ()
    index: int = 0
    part: tuple[int, int] | None = None

    @property
    def of_part(self) -> str:
        """Whose rows and heads these are, in words, where a step has several parts."""
        return "" if self.part is None else f"backward {self.part[0]} of the {self.part[1]} in this step"

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the batch in which the first bad value is."""
        first = self.event or self.explodes
        return () if first is None else first.rows

    @property
    def holding(self) -> tuple[str, ...]:
        """The variants under which the step is finite."""
        return tuple(tried.variant for tried in self.tried if tried.holds)

    @property
    def cure(self) -> str | None:
        """The first of them that gives the head that is to blame another scale."""
        return next(iter(self.cures), None)

    @property
    def cures(self) -> list[str]:
        """Those of the variants under which the step is finite that give the head to blame another scale."""
        return list(self.holding) if self.head is None else _for_role(self.holding, self.head.role)


@dataclass
class Diagnostician:
    """Examines steps of one model.

    Attributes:
        heads: what a scan found, or what was given; None until a step has to be examined.
        why_none: why there are none.
        nan_is_ordinary: whether the data of a step that was finite had some.
    """

    model: nn.Module
    heads: Sequence[Head] | None = None
    why_none: str = ""
    nan_is_ordinary: bool = False
    _scanned: Share | None = field(default=None, init=False, repr=False)

    def came_in(self, data: Any) -> Iterator[str]:
        """What was not finite before a step, and is not so in every step: a mask has infinities, and NaN may stand for
        a missing value, as it did in a step that was finite."""
        return from_outside(self.model, [] if self.nan_is_ordinary else data, masks=True)

    def examine(self, again: Again, sound: Again | None = None) -> Diagnosis:
        """Do the step again, share by share, until one is not finite; the last one first, since gradients of an earlier
        one may have been set to zero meanwhile, as those of a discriminator are; those of `grad` behind those of
        `backward`, which are sure to be in the step.

        Args:
            sound: a step that was finite: heads are read in it, for where all is infinite little can be told apart.
        """
        again.settled()
        if sound is not None and sound.settled().shares and not is_patched(self.model):
            self.find(sound, sound.shares[0])
        ordinary = _with_infinities(sound)
        last: Diagnosis | None = None
        shares = list(enumerate(again.shares, 1))[::-1]
        for number, share in sorted(shares, key=lambda numbered: numbered[1].by_grad):
            part = (number, len(shares)) if len(shares) > 1 else None
            found = replace(self._examine(again, share, ordinary), index=share.index, part=part)
            if found.reproduced or found.outside:
                return found
            last = last or found
        if last is None:
            with again.buffers_of_before():
                outside = tuple(from_outside(self.model, again.data))
            return Diagnosis(outside=outside, notes=(again.why_not,))
        return last

    def has_part_in(self, again: Again) -> bool:
        """Whether a value that is not finite has a part in an error that a step ended in: it came in from outside, an
        operation was given it and raised the error, or it is NaN. An infinity that leads nowhere (the logarithm of 0
        that a mask throws away) has none, and is ordinary."""
        share = again.shares[0]
        with again.buffers_of_before():
            if any(self.came_in([t for t in tensors_in(again.inputs(share)) if not t.requires_grad])):
                return True
        tracer = Tracer(self.model)
        try:
            outcome = again.outcome(share, tracer)
        except NoLossError:
            return False
        if outcome.raised is None:
            return not outcome.finite
        return bool(tracer.trace.refused) or any(event.value.startswith("NaN") for event in tracer.trace.events)

    def _examine(self, again: Again, share: Share, ordinary: frozenset[int] = frozenset()) -> Diagnosis:
        """Of one share.

        Args:
            ordinary: the inputs that had infinities in a step that was finite, by their number.
        """
        notes: list[str] = []
        inputs = again.inputs(share)
        data = [t for t in tensors_in(inputs) if not t.requires_grad]
        with again.buffers_of_before():
            outside = tuple(self.came_in(data))
        first = next((t for t in again.passes[share.used].tensors if t.dim()), None)
        tracer = Tracer(self.model, limit=LIMIT, batch=again.passes[share.used].rows)
        try:
            with time_first.watched(self.model) as lengths:
                outcome = again.outcome(share, tracer)
        except NoLossError as error:
            return Diagnosis(outside=outside, notes=(*notes, str(error)))
        notes += [again.inexact] if again.inexact else []
        event, explodes = outcome.origin, None
        if outcome.finite:
            event = None
        else:
            events = tracer.trace.events if outcome.raised is not None else tracer.trace.culprits
            event = next((e for e in events if not e.finite), None)
            explodes = next((e for e in events if e.finite and (event is None or e.number < event.number)), None)
        if first is not None and tuple(first.shape[:2]) in lengths:  # whose rows would be steps of time
            event, explodes = (None if e is None else replace(e, rows=()) for e in (event, explodes))
        if explodes is not None and (large := _large(self.model)):
            notes.append(large)
        exact = None
        if share.seen is not None and outcome.loss is not None:
            exact = outcome.loss == share.seen or (math.isnan(outcome.loss) and math.isnan(share.seen))
        base = Diagnosis(
            outside, explodes, event, how=share.how, exact=exact, reproduced=not outcome.finite, notes=tuple(notes)
        )
        if outside or outcome.finite:
            return base
        others = again.other_models(share)
        if note := _not_finite(others):
            base = replace(base, notes=(*base.notes, note))
            with _zero_where_not_finite(others):
                return base if again.outcome(share).finite else self._with_heads(again, share, base)
        found = self._with_heads(again, share, base)
        made_here = event is not None and not _SPREADING.search(event.inputs)
        with again.buffers_of_before():
            infinite = tuple(from_outside(self.model, _without_infinities(data, ordinary)))
        if infinite and not (found.holding or made_here or self.nan_is_ordinary):
            if part := again.passes[share.index].of:  # what a part is given, the rest of the model may have made
                infinite = tuple(text.replace("the batch is", f"what {part} is given is") for text in infinite)
            return replace(found, outside=infinite)  # no mask: the heads are not what breaks it
        return found

    def _with_heads(self, again: Again, share: Share, base: Diagnosis) -> Diagnosis:
        record = patch_record(self.model) if is_patched(self.model) else None
        extremes: list[HeadExtremes] = []
        tried: list[Tried] = []
        head, with_others = None, False
        notes = list(base.notes)
        with nullcontext() if record is None else lifted(self.model, record):
            self.find(again, share)
        found = self.heads
        if found:
            extremes = self.extremes(again, share, found)
            with nullcontext() if record is None else lifted(self.model, record):
                for variant in variants(found):
                    if record is None or variant != str(record.variant):
                        tried.append(self._try(again, share, found, variant))
                holding = [t.variant for t in tried if t.holds]
                if holding:
                    head, with_others = self._blamed(again, share, found, extremes, holding)
                    fallen = [t for t in tried if not t.holds and t.outcome is not None]
                    if head is None and not fallen:
                        notes.append("no single head is at fault: replacing any one of them alone does not help")
        else:
            notes.append(f"no head was found in the model: {self.why_none}")
        if head is not None:
            head = replace(head, scan=None)  # whose call keeps the model, and a record may be kept for long
        return Diagnosis(
            base.outside, base.explodes, base.event, head, with_others, tuple(extremes), tuple(tried), base.how,
            base.exact, base.reproduced, tuple(notes),
        )  # fmt: skip

    def find(self, again: Again, share: Share) -> Sequence[Head]:
        """The heads, looked for in a step if none are known.

        Weights that a training has driven to where the step is infinite show few: a density of which every term is
        infinite is none. So they are looked for with smaller weights, too; which expression is a head's σ does not
        depend on them.
        """
        if self.heads:
            return self.heads
        found: list[ScanResult] = []
        for factor in _FACTORS:
            try:
                with (
                    _shrunk(self.model, factor),
                    again.as_it_was(share),
                    warnings.catch_warnings(),
                    torch.enable_grad(),
                ):
                    warnings.simplefilter("ignore")
                    found.append(scan(self.model, *again.inputs(share), call=share.call or _called(share)))
            except Exception as error:  # the user's own code runs in it
                self.why_none = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
                continue
            if found[-1] and found[-1].outcome.finite:
                break
        if found:
            self.heads, self._scanned = max(reversed(found), key=len), share
            self.why_none = found[-1].why_not().strip()
        else:
            self.heads = ()
        return self.heads

    def extremes(self, again: Again, share: Share, heads: Sequence[Head]) -> list[HeadExtremes]:
        """Of the heads in a share, done again."""
        seen = Seen(self.model, heads, again.passes[share.used].rows)
        with again.as_it_was(share), seen.watched(), torch.enable_grad(), suppress(Exception):
            share.compute()  # that it may raise is known; what ran before counts
        return seen.extremes()

    def _try(self, again: Again, share: Share, heads: Sequence[Head], variant: str) -> Tried:
        """The step under a variant: finite if this share is, and all others whose loss was not."""
        bad = [one for one in again.shares if one.seen is not None and not math.isfinite(one.seen)]
        try:
            with self._patched(heads, variant) as handle:
                for one in (share, *(other for other in bad if other is not share)):
                    outcome = self.under(again, one, handle)
                    if isinstance(outcome.raised, PatchError):
                        raise outcome.raised  # that says nothing of the scales
                    if not outcome.finite:
                        break
                if (
                    not outcome.finite
                    and patch_record(self.model).beside
                    and not isinstance(handle.loss, ExchangedCall)
                ):
                    return Tried(variant, None, _OWN_NORMALS)
                return Tried(variant, outcome)
        except (PatchError, InvalidValueError) as error:
            return Tried(variant, None, str(error))

    def under(self, again: Again, share: Share, handle: PatchHandle) -> Outcome:
        """A share with a patch of the heads that were found, and what the patch exchanges beside the model.

        Raises:
            PatchError: the loss of this share cannot be run with what is exchanged.
        """
        loss = handle.loss
        if not isinstance(loss, ExchangedCall):
            return again.outcome(share)
        if share.call is not None:
            return again.outcome(again.through(share, loss))
        if share is not self._scanned:
            raise PatchError(
                "what the patch exchanges beside the model is in the loss of another step; give the guard yours, "
                "call=lambda model, *inputs: ..."
            )
        return again.outcome(replace(share, compute=lambda: loss(self.model, *again.inputs(share))))

    def _blamed(
        self, again: Again, share: Share, heads: Sequence[Head], extremes: Sequence[HeadExtremes], holding: list[str]
    ) -> tuple[Head | None, bool]:
        """The head with whose replacement alone the step is finite, the most extreme first; else the most extreme of
        those without whose replacement it is not, all others being replaced.

        Each is replaced as in the first variant that holds and has a scale for it. Variants are tried from the one that
        changes least, and of two heads one is often rescued by the other, through another sample: the first variant
        that holds may leave the head alone that is to blame.
        """
        order = sorted(range(len(heads)), key=lambda n: _first_to_blame(extremes[n]), reverse=True)
        for n in order:
            for variant in _for_role(holding, heads[n].role)[:1]:
                if self._try(again, share, [heads[n]], variant).holds:
                    return heads[n], False
        order = [n for n in order if _for_role(holding[:1], heads[n].role)]
        for n in order:
            others = [heads[m] for m in order if m != n]
            if others and not self._try(again, share, others, holding[0]).holds:
                return heads[n], True
        return None, False

    @contextmanager
    def _patched(self, heads: Sequence[Head], variant: str) -> Iterator[PatchHandle]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            handle = patch(self.model, for_heads(heads, variant), heads=heads, verify=False)
        try:
            yield handle
        finally:
            handle.unpatch()


_OWN_NORMALS = (
    "the step is run by the loss as it is, in which Normals that are made beside the model, those of "
    "torch.distributions, stay what they are; give the guard your loss, call=lambda model, *inputs: ..."
)


def _first_to_blame(extremes: HeadExtremes) -> tuple[bool, float]:
    """The most extreme first; but a head whose log σ is NaN was given that by what lies before it, and comes last."""
    span = extremes.log_sigma
    return span is None or not (math.isnan(span.low) or math.isnan(span.high)), extremes.extremity


def _large(model: nn.Module) -> str:
    """The parameters that are as large before the step as what explodes in it, in words; empty if none is."""
    found = {
        name: float(p.detach().abs().max())
        for name, p in model.named_parameters()
        if p.numel() and p.is_floating_point() and bool(p.detach().isfinite().all())
    }
    names = tuple(f"{name} (up to {size:.3g})" for name, size in found.items() if size > LIMIT)
    if not names:
        return ""
    return (
        f"weights were as large before this step: {some(names)}; an update before made them so, and "
        'while updates are skipped they stay so: load an earlier checkpoint, and clip (clip="auto") or lower the '
        "learning rate"
    )


def _not_finite(others: Iterable[nn.Module]) -> str:
    """What is said of another model that a loss uses, such as a discriminator, if its weights are not finite."""
    for other in others:
        bad = [name for name, p in other.named_parameters() if not bool(p.detach().isfinite().all())]
        if bad:
            return (
                f"a {type(other).__name__} that the loss uses, too, has weights that are not finite "
                f"({some(tuple(bad))}), for which 0 was taken where scales were tried; nothing keeps a bad update "
                "out of it but a guard of its own: vdvae_patch.guard(it)"
            )
    return ""


@contextmanager
def _zero_where_not_finite(others: Iterable[nn.Module]) -> Iterator[None]:
    """The weights of these models, while the block runs."""
    weights: list[Tensor] = [p.data for other in others for p in other.parameters() if p.is_floating_point()]
    kept = [(p, p.clone()) for p in weights if not bool(p.isfinite().all())]
    for p, before in kept:
        p.copy_(before.masked_fill(~before.isfinite(), 0))
    try:
        yield
    finally:
        for p, before in kept:
            p.copy_(before)


def _with_infinities(sound: Again | None) -> frozenset[int]:
    """The inputs of a step that was finite which had infinities all the same, as a mask has, by their number."""
    if sound is None or not sound.shares:
        return frozenset()
    data = _floats(t for t in tensors_in(sound.inputs(sound.shares[0])) if not t.requires_grad)
    return frozenset(number for number, t in enumerate(data) if bool(t.detach().isinf().any()))


def _without_infinities(data: Iterable[Tensor], ordinary: frozenset[int]) -> list[Tensor]:
    """The same inputs, those with ordinary infinities without them, so that the numbers of the others stay."""
    return [
        t.detach().masked_fill(t.detach().isinf(), 0) if number in ordinary else t
        for number, t in enumerate(_floats(data))
    ]


def _floats(data: Iterable[Tensor]) -> list[Tensor]:
    return [t for t in data if t.is_floating_point()]


@contextmanager
def _shrunk(model: nn.Module, factor: float) -> Iterator[None]:
    """All weights smaller by a factor, while the block runs."""
    if factor == 1:
        yield
        return
    # their data: a graph that is still needed may have read them
    weights: list[Tensor] = [p.data for p in model.parameters() if p.is_floating_point()]
    before = [p.detach().clone() for p in weights]
    try:
        with torch.no_grad():
            torch._foreach_mul_(weights, factor)
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, before)


def for_heads(heads: Sequence[Head], variant: str) -> Variant:
    """The variant with the scales of roles that these heads have."""
    chosen, roles = Variant.parse(variant), {head.role for head in heads}
    kept = {role: chosen.for_role(role) if role in roles else None for role in ("posterior", "prior", "likelihood")}
    return Variant(**kept)  # type: ignore[arg-type]


def cure_of(diagnoses: Sequence[Diagnosis]) -> str | None:
    """The first variant that cures all steps that can be cured; else the first step's."""
    cures = [d.cures for d in diagnoses if d.cures]
    common = [variant for variant in cures[0] if all(variant in other for other in cures)] if cures else []
    return next(iter(common or (cures[0] if cures else [])), None)


def _for_role(variants: Sequence[str], role: Role) -> list[str]:
    """Those that have a scale for the heads of a role."""
    return [variant for variant in variants if Variant.parse(variant).for_role(role) is not None]


def variants(heads: Sequence[Head]) -> list[str]:
    """What is tried, that which changes least first."""
    roles = {head.role for head in heads}
    names = ["explin"] if roles - {"likelihood"} else []
    if "prior" in roles and "posterior" in roles:
        names.append("explin/constant")
    if names:
        names.append("bounded(0.001, 10)")
    if "likelihood" in roles:
        latent = [n if "/" in n else f"{n}/{n}" for n in (names or ["vanilla"])]
        names += [f"vanilla/vanilla/{s}" for s in _LIKELIHOODS] + [f"{n}/{_LIKELIHOODS[1]}" for n in latent if names]
    return names


def outside_of_model(event: Event) -> bool:
    """Whether no module was running when a value was made."""
    return event.place.module == OUTSIDE


def _called(share: Share) -> Callable[..., Tensor]:
    def loss(model: nn.Module, *inputs: object) -> Tensor:
        return share.compute()

    return loss
