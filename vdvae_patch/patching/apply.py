"""Apply a variant to the Normal heads of a model, and take it back.

Patching changes no parameter and no buffer: the `state_dict` is the same before, during and after, so checkpoints go
both ways. A patched model deep-copies, pickles, compiles and is wrapped like any other.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from vdvae_patch.attach.attachment import Attachment, ReboundAttachment
from vdvae_patch.attach.decorators import name_of
from vdvae_patch.attach.entry import ExchangedCall
from vdvae_patch.attach.graft import is_own
from vdvae_patch.attach.recompile import Edit
from vdvae_patch.attach.sites import BESIDE, LogSite, NormalSite, Site, TermSite
from vdvae_patch.decoders import Decoder
from vdvae_patch.errors import InvalidValueError, PatchError, SharedScaleError
from vdvae_patch.given import require_module
from vdvae_patch.heads import Arithmetic, Head
from vdvae_patch.outcome import Outcome
from vdvae_patch.patching import floors, plan, state
from vdvae_patch.patching.decoder import Placement, apart_state, likelihood_in, take_away
from vdvae_patch.patching.fit import Keep, Spread, fitted
from vdvae_patch.patching.measure import HALF, Raw, raw_values, sample, together
from vdvae_patch.patching.record import (
    RECORD,
    PatchedHead,
    PatchedHeads,
    PatchRecord,
    beside_the_scale,
    is_patched,
    not_patched,
    owners,
    parts,
    patched_heads,
)
from vdvae_patch.patching.top_prior import TOP_PRIOR, TopPlacement, take_top_prior_away, top_prior_in
from vdvae_patch.patching.variant import Variant, resolve
from vdvae_patch.scales import Constant, ExpLin, Scale
from vdvae_patch.seams import DecoderSeam, TopPriorSeam, seam_of, top_prior_seam_of
from vdvae_patch.top_priors import TopPrior
from vdvae_patch.trace import short

_EXPLIN = ExpLin()


class Scan(Protocol):
    """What the heads of a scan remember of it."""

    @property
    def normals(self) -> Sequence[NormalSite | LogSite | TermSite]:
        """Where the host makes a Normal that can be one which carries log σ."""

    @property
    def heads(self) -> Sequence[Head]:
        """All that it found."""

    @property
    def can_verify(self) -> bool:
        """Whether the scanned call can be run again."""

    @property
    def outcome(self) -> Outcome:
        """Loss and gradients of the scanned call."""

    @property
    def call(self) -> Callable[..., Any] | None:
        """What was run in the place of the model."""

    @property
    def outside(self) -> Sequence[NormalSite | LogSite | TermSite]:
        """Where the scanned call makes a Normal that can be one which carries log σ, outside of the model."""

    def exchanged(self, model: nn.Module, edits: Sequence[Edit]) -> Callable[..., Any] | None:
        """The scanned call with what is to be exchanged in it; None if that is nothing, or only Normals, in code that
        cannot be compiled again."""

    @property
    def has_term_outside(self) -> bool:
        """Whether a decoder stands in the place of a reconstruction term that is outside of the model."""

    @property
    def places_outside(self) -> Sequence[str]:
        """Where it makes some."""

    def run_again(self, model: nn.Module, tracer: None = None, call: Callable[..., Any] | None = None) -> Outcome:
        """Run it, or another call on the same batch, and leave the model and the random numbers as they were."""

    def loss(self, model: nn.Module, call: Callable[..., Any] | None = None) -> float | None:
        """The loss that it, or another call, gives on the same batch, with the same noise."""

    def has_other_loss(self, model: nn.Module, loss: float | None, *, half: bool = False) -> bool:
        """Whether that is another one than it gave when it was scanned, which this model gives again; with `half` by
        more than half types round."""

    def explained(self, model: nn.Module, outcome: Outcome, call: Callable[..., Any] | None = None) -> Outcome:
        """An outcome that is not finite, with its causes."""

    def verify(
        self, model: nn.Module, patched: Iterable[PatchedHead], call: Callable[..., Any] | None = None
    ) -> Outcome:
        """Run it, or another call, again, and raise `PatchError` unless every σ is what it shall be."""


class PatchHandle:
    """Returned by `patch`; as a context manager it unpatches when the block ends.

    Attributes:
        heads: with their scales; prints as a table.
        unverified: the heads whose σ nobody looked at: written by hand, or of a scan whose call is not at hand.
        before, after: loss and gradients of the scanned batch without and with the patch; None where nothing was run.
        loss: the call that the scan was given. Where it computes a σ outside of the model that has another scale now,
            or makes a `torch.distributions.Normal` there, as a loss beside the model does, that call with these
            exchanged: to be called in its place. None without one.
        after_own: loss and gradients with the patch by the call as it is, where there is such a loss.
        misplaced: lines about heads in whose place the host's own σ gives another loss than the host.
    """

    def __init__(
        self,
        model: nn.Module,
        record: PatchRecord,
        unverified: Sequence[Head] = (),
        before: Outcome | None = None,
        after: Outcome | None = None,
        loss: Callable[..., Any] | None = None,
        after_own: Outcome | None = None,
        misplaced: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.record = record
        self.variant = record.variant
        self.heads = record.heads
        self.unverified = tuple(unverified)
        self.before = before
        self.after = after
        self.loss = loss
        self.after_own = after_own
        self.misplaced = tuple(misplaced)
        self._given = loss.call if isinstance(loss, ExchangedCall) else loss

    @classmethod
    def of(cls, model: nn.Module, handles: Sequence[PatchHandle]) -> PatchHandle:
        """One handle of a model for the patches of its parts."""
        if len(handles) == 1 and handles[0].model is model:
            return handles[0]
        handle = cls(model, handles[0].record, [head for part in handles for head in part.unverified])
        handle.heads = patched_heads(model)
        return handle

    def to_json(self) -> str:
        """The patch as the text of a file, for `vdvae_patch.apply`; see `vdvae_patch.patch_json`."""
        from vdvae_patch.patching.restore import patch_json

        return patch_json(self.model)

    def outcomes(self) -> list[str]:
        """Loss and gradients of the scanned batch before and after, in words; nothing where nothing was run."""
        if self.before is None or self.after is None:
            return []
        lines = [f"this batch before: {self.before.headline}", *(f"  {cause}" for cause in self.before.causes)]
        by = "" if self.after_own is None else ", by handle.loss"
        same = bool(self.after.causes) and self.after.causes == self.before.causes
        causes = ("for the same reason",) if same else self.after.causes
        lines += [f"this batch after{by}: {self.after.headline}", *(f"  {cause}" for cause in causes)]
        if self.after_own is not None:
            lines.append(f"  by the loss as it is: {self.after_own.headline}")
        return lines

    def unpatch(self) -> None:
        """Restore the model exactly; raises `PatchError` if that was done already."""
        unpatch(self.model)
        self.loss = self._given

    def __enter__(self) -> PatchHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_patched(self.model):
            self.unpatch()

    def __repr__(self) -> str:
        return f"PatchHandle({self.variant}, {len(self.heads)} heads)"

    def __str__(self) -> str:
        lines = [str(self.heads)] if self.heads else []
        likelihood = likelihood_in(self.model)
        if likelihood is not None:
            apart = apart_state(self.model)
            own = sum(value.numel() for name, value in apart.items() if TOP_PRIOR not in name.split("."))
            lines.append(
                f"decoder {self.variant.decoder} in the place of the host's likelihood; {own:,} numbers of its own, "
                "apart from the state_dict"
            )
        top = top_prior_in(self.model)
        if top is not None:
            own = sum(value.numel() for value in top.parameters())
            lines.append(
                f"top prior {self.variant.top_prior} in the place of the host's own; {own:,} numbers of its own, apart "
                "from the state_dict"
            )
        if self.unverified:
            named = ", ".join(head.named for head in self.unverified[:_SHOWN])
            more = f" and {len(self.unverified) - _SHOWN} more" if len(self.unverified) > _SHOWN else ""
            lines.append(
                f"not verified: {named}{more}; the σ that the model uses was not looked at, as it is for heads that "
                "vdvae_patch.scan finds"
            )
        lines += (*beside(self.heads), *self.outcomes())
        return "\n".join(lines)


_SHOWN = 4


def beside(heads: Sequence[PatchedHead]) -> Iterator[str]:
    """Heads whose σ is computed beside the model, and by what call they have their scale; nothing if there are none."""
    own = [h.head for h in plan.exchanged_beside(heads)]
    if not own:
        return
    named = ", ".join(head.named for head in own[:_SHOWN])
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    outside = [site for head in own for site in head.sites if isinstance(site, Site) and site.in_call]
    only_bounds = all(site.rest is None and site != BESIDE for site in outside)
    what = "is bounded again" if only_bounds else "is computed"
    otherwise = "bounds it as the host does" if only_bounds else "computes the host's own σ"
    places = dict.fromkeys(f"{short(h.found.file)}:{h.found.line}" for h in own if h.found and h.found.line)
    at = f" ({', '.join(list(places)[:_SHOWN])})" if places else ""
    yield (
        f"σ of {named}{more} {what} beside the model{at}: it has its scale in handle.loss(model, ...), the call "
        f"that was given with these expressions exchanged, and the call as it is {otherwise}; call "
        "handle.loss in its place (vdvae_patch.stable_loss gives it again for a model that was loaded)"
    )


def patch(
    model: nn.Module,
    variant: str | Variant | None = None,
    *,
    heads: Iterable[Head] = (),
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    decoder: str | Decoder | None = None,
    seam: DecoderSeam | None = None,
    top_prior: str | TopPrior | None = None,
    top_prior_seam: TopPriorSeam | None = None,
    arithmetic: Arithmetic = "auto",
    verify: bool = True,
    paper: bool | None = None,
) -> PatchHandle:
    """Give every head the scale that the variant names for its role.

    A scale is a function of a log σ, as the paper writes it, and is applied to the host's own: `explin` of a host that
    reads a log variance v is `explin(gain=0.5)` of v. So it is the host's own function wherever that was safe, and a
    model that is trained already keeps its σ as far as the scale allows.

    Args:
        variant: `posterior/prior[/likelihood]`; one name alone sets posterior and prior, `vanilla` leaves a role
            alone. Instead of it, one keyword a role. `vanilla+optimal` names a decoder, too.
        heads: where the model emits its raw parameters: what `scan` found, or any selection of it, or
            `host.heads(model)`, or `Head`s of your own.
        decoder: what takes the place of the host's likelihood, see `vdvae_patch.decoders`. Its parameters, and those of
            a layer beside the host's own where it needs more channels than that emits, are parameters of the model and
            no part of its `state_dict`; `unpatch` takes them away.
        seam: where the host's likelihood is, `host.decoder_seam(model)`; of a model that a host by name has built in
            this process it is known.
        top_prior: what takes the place of the host's own prior of its top latent, see `vdvae_patch.top_priors`. Its
            parameters stand apart in the same way. One that is prepared already, as from data, is copied.
        top_prior_seam: where that prior is read, `host.top_prior_seam(model)`; known as `seam` is.
        arithmetic: whose KL and sampling the model then uses, see `Arithmetic`.
        verify: for heads that a scan found, run the model once more on the scanned batch and compare the σ that it
            really uses with scale(p). A constant σ follows no p, so with one it is first done with explin in its place.
            Heads that somebody wrote down come without a batch and are taken at their word; the handle names them.
        paper: what a formula's p is. None: the host's own log σ where the host's σ is an exponential, straight or
            clamped; of any other host (a softplus, a floor) the raw value as it is. False: for those, too, a gain and
            a shift of the raw value by which σ is kept at the median of the scanned batch. True: the raw value as it
            is, whatever the host makes of it: `explin` of a log variance is σ = exp(p) of what was exp(p / 2). A scale
            with a `gain` or `shift` of its own is taken as it is, and so are those of the paper's own hosts.

    Warns:
        UserWarning: the patch changes nothing; or takes away a lower bound of σ that the host's arithmetic may need; or
            loss or gradients of the scanned batch are not finite with it, and why; or the host's own σ in the place of
            the scale gives another loss than the host.

    The handle's table, and `patched_heads`, show σ on the scanned batch before and after; the handle, its
    loss and gradients.

    Raises:
        PatchError: the model is patched already, a head does not exist or cannot be patched, two heads overlap, a role
            that was named has no head, the verification saw another σ or could not run the scanned call.
        UnknownNameError, InvalidValueError: no such scale, or arguments that it refuses.

    Whatever is raised, Ctrl-C included, the model is then as it was.
    """
    keep: Keep = "exponentials" if paper is None else "nothing" if paper else "all"
    chosen = resolve(variant, {"posterior": posterior, "prior": prior, "likelihood": likelihood}, decoder, top_prior)
    refuse_patched(model)
    placements = [
        found
        for found in (
            _placement(model, chosen, decoder, seam),
            _top_placement(model, chosen, top_prior, top_prior_seam),
        )
        if found is not None
    ]
    heads = list(heads)
    found = plan.checked(model, heads, chosen) if heads or chosen.sets_scales or not placements else []
    scans = _scans(found)
    verifying = [scan for scan in scans if verify and scan.can_verify]
    asked = [(head, chosen.for_role(head.role)) for head in found]
    raw, losses = _raw_values(model, asked, verifying)
    misplaced = _other_losses(
        model, asked, verifying, losses, half=any(one.values.dtype in HALF for one in raw.values())
    )
    following = _following(chosen)
    if verifying and following != chosen:
        with warnings.catch_warnings(), suppress(SharedScaleError):  # below, it names the scales that were asked for
            warnings.simplefilter("ignore", UserWarning)  # they are of scales that nobody asked for
            _apply(model, _fitted(found, following, raw, keep), following, arithmetic, scans, verifying)
            unpatch(model)
    fitting = _fitted(found, chosen, raw, keep)
    record, outcomes = _apply(model, fitting, chosen, arithmetic, scans, verifying, placements=placements)
    before, after = _both(verifying, outcomes)
    try:
        loss, scan, exchanges = _loss(model, record, fitting, scans)
        by_loss = after if loss is None or exchanges else None
        if loss is not None and scan in verifying and not exchanges:
            by_loss = _run(scan, model, loss)
        if loss is not None and scan in verifying and exchanges:
            after = _run(scan, model, None)
        last = by_loss
        if last is not None and not last.finite:
            warnings.warn(f"with the patch this batch is not finite: {last}", stacklevel=2)
        for line in floors.lost(((h.head, h.scale) for h in record.heads), record.arithmetic == "stable"):
            warnings.warn(line, stacklevel=2)
        for line in (*beside_the_scale(record.heads), *misplaced):
            warnings.warn(line, stacklevel=2)
    except BaseException:  # a call that raises, or a warning that is made an error
        _remove(model, record.number)
        _take_away(model)
        raise
    seen = {id(scan) for scan in verifying}
    unverified = [head for head in found if id(head.scan) not in seen]
    if loss is None or not verifying:
        given = loss or next((scan.call for scan in scans if scan.call is not None), None)
        return PatchHandle(model, record, unverified, before, after, given, misplaced=misplaced)
    return PatchHandle(model, record, unverified, before, by_loss, loss, after, misplaced)


def _placement(
    model: nn.Module, chosen: Variant, decoder: str | Decoder | None, seam: DecoderSeam | None
) -> Placement | None:
    """What puts the decoder of a variant into the model.

    Raises:
        PatchError: nobody said where this model's likelihood is, or there is a decoder already.
        InvalidValueError: the variant has an objective, or a scale for the likelihood that the decoder replaces.
        HostError: the host has no such place, and why.
    """
    if chosen.objective is not None:
        raise InvalidValueError(
            f"variant {chosen} names an objective, which is no part of a model but of the loop that trains it: "
            f"vdvae_patch.objectives.get({chosen.objective!r}), or vdvae-patch train --objective"
        )
    if chosen.decoder is None:
        return None
    if chosen.likelihood is not None:
        raise InvalidValueError(
            f"variant {chosen} gives the host's likelihood the scale {chosen.likelihood}, and a decoder in its place: "
            f"leave the third scale out, or give it to the decoder, as in per_pixel(scale={chosen.likelihood})"
        )
    seam = seam or seam_of(model)
    if seam is None:
        raise PatchError(
            f"decoder {chosen.decoder}: nobody said where this {type(model).__name__} computes its likelihood; for a "
            "host by name give seam=host.decoder_seam(model); for a model of your own call "
            f"vdvae_patch.decoders.get({chosen.decoder!r}).nll(x, parameters) in your loss"
        )
    return Placement(model, seam, decoder if isinstance(decoder, Decoder) else chosen.decoder)


def _top_placement(
    model: nn.Module, chosen: Variant, prior: str | TopPrior | None, seam: TopPriorSeam | None
) -> TopPlacement | None:
    """What puts the top prior of a variant into the model.

    Raises:
        PatchError: nobody said how this model's encoder is called.
        HostError: the host has no such place, and why.
    """
    if chosen.top_prior is None:
        return None
    seam = seam or top_prior_seam_of(model)
    if seam is None:
        raise PatchError(
            f"top prior {chosen.top_prior}: nobody said how the encoder of this {type(model).__name__} is called; for "
            "a host by name give top_prior_seam=host.top_prior_seam(model); for a model of your own call "
            f"vdvae_patch.top_priors.get({chosen.top_prior!r}).kl(z, mean, log_sigma, encode) in your loss"
        )
    return TopPlacement(seam, prior if isinstance(prior, TopPrior) else chosen.top_prior)


def _loss(
    model: nn.Module, record: PatchRecord, patched: Sequence[PatchedHead], scans: Sequence[Scan]
) -> tuple[Callable[..., Any] | None, Scan | None, bool]:
    """The first scanned call in which something is to be exchanged beside the model, exchanged; and whether scales
    are, without which a σ is not the one that was promised."""
    stable = record.arithmetic == "stable"
    for scan in scans:
        own = [h for h in patched if h.head.scan is scan]
        edits = _call_edits(model, own, stable, scan, _others(own, [scan]))
        loss = _exchanged(scan, model, edits, own)
        if loss is not None:
            return loss, scan, _has_scales(edits)
    return None, None, False


def _call_edits(
    model: nn.Module, patched: Sequence[PatchedHead], stable: bool, scan: Scan, others: Sequence[Head]
) -> list[Edit]:
    outside = [site for site in scan.outside if stable or isinstance(site, TermSite)]
    return plan.call_edits(model, patched, stable, outside, others)


def _exchanged(
    scan: Scan, model: nn.Module, edits: Sequence[Edit], patched: Iterable[PatchedHead]
) -> Callable[..., Any] | None:
    """The scanned call with edits; a refusal names the heads, and what to do about a function beside the model."""
    try:
        return scan.exchanged(model, edits)
    except SharedScaleError:
        raise
    except PatchError as error:
        own = ", ".join(str(h.head) for h in plan.exchanged_beside(list(patched)))
        why = str(error).removesuffix("; write a patch file whose Head has a CallSite")
        raise PatchError(
            f"σ of {own} is computed beside the model and cannot be exchanged there: {why}; let a method of the model "
            "compute it, or name a scale that the host's own arithmetic reaches, such as bounded"
        ) from error


def _has_scales(edits: Iterable[Edit]) -> bool:
    return any(scale is not None for _, scale in edits)


def exchanged_for(
    model: nn.Module, patched: Sequence[PatchedHead], stable: bool, scan: Scan, others: Sequence[Head] = ()
) -> Callable[..., Any] | None:
    """The scanned call as it is to be run with some heads patched: with what is exchanged beside the model; None where
    that is nothing.

    Raises:
        PatchError: what has to be exchanged cannot be.
    """
    return _exchanged(scan, model, _call_edits(model, patched, stable, scan, others), patched)


def _run(scan: Scan, model: nn.Module, call: Callable[..., Any] | None) -> Outcome:
    outcome = scan.run_again(model, None, call)
    return outcome if outcome.finite else scan.explained(model, outcome, call)


def _both(scans: Sequence[Scan], after: Sequence[Outcome]) -> tuple[Outcome | None, Outcome | None]:
    """The outcomes without and with a patch: of the first call that is not finite, or of the first."""
    if not scans:
        return None, None
    pairs = [(scan.outcome, outcome) for scan, outcome in zip(scans, after, strict=True)]
    return next((pair for pair in pairs if not pair[1].finite), pairs[0])


def patch_exactly(
    model: nn.Module,
    heads: Sequence[PatchedHead],
    variant: Variant,
    arithmetic: Arithmetic,
    normals: Iterable[NormalSite | LogSite | TermSite],
) -> PatchHandle:
    """Give every head the scale that it comes with, as it is; of what a patch of before is made again.

    Args:
        variant: what the scales were chosen by.
        normals: where the host makes a Normal that shall carry log σ.

    Raises:
        PatchError: as `patch`; the model is then as it was.
    """
    refuse_patched(model)
    found = plan.checked(model, [patched.head for patched in heads], variant)
    given = PatchedHeads(PatchedHead(head, old.scale) for head, old in zip(found, heads, strict=True))
    record, _ = _apply(model, given, variant, arithmetic, [], [], normals)
    return PatchHandle(model, record, found)


def refuse_patched(model: nn.Module) -> None:
    require_module(model, "a patch")
    if not is_patched(model):
        return
    known = owners(model)
    if known:
        where = f" ({known[0].path})" if known[0].path else ""
        raise PatchError(f"the model{where} is patched already, as {known[0].record.variant}; unpatch it first")
    raise PatchError("the model is a part of one that is patched already; unpatch that first")


def _scans(heads: Iterable[Head]) -> list[Scan]:
    """The scans that the heads come from, each once."""
    return list({id(head.scan): head.scan for head in heads if head.scan is not None}.values())


def _following(chosen: Variant) -> Variant:
    """The variant, with a scale that follows its raw parameter in the place of one that does not."""
    given = (chosen.posterior, chosen.prior, chosen.likelihood)
    posterior, prior, likelihood = (_EXPLIN if isinstance(scale, Constant) else scale for scale in given)
    return replace(chosen, posterior=posterior, prior=prior, likelihood=likelihood)


def _raw_values(
    model: nn.Module, asked: Sequence[tuple[Head, Scale | None]], scans: Sequence[Scan]
) -> tuple[dict[int, Raw], list[float | None]]:
    """The heads' raw values on the scanned batches, and the losses with the host's own σ where the scales will be."""
    calls: list[Callable[..., Any] | None] = []
    losses: list[float | None] = []

    def install(given: Sequence[tuple[Head, Scale | None]]) -> Callable[[], None]:
        heads = [plan.settled(PatchedHead(*pair)) for pair in given]
        calls[:] = [exchanged_for(model, [h for h in heads if h.head.scan is s], False, s) for s in scans]
        return put_in(model, plan.attachments(model, heads, False, []))

    def run(number: int, scan: Scan) -> None:
        losses.append(scan.loss(model, calls[number]))

    found = raw_values(model, asked, install, [partial(run, *pair) for pair in enumerate(scans)]) if scans else {}
    return found, losses


def _other_losses(
    model: nn.Module,
    asked: Sequence[tuple[Head, Scale | None]],
    scans: Sequence[Scan],
    losses: Sequence[float | None],
    *,
    half: bool,
) -> list[str]:
    """Lines about heads in whose place the host's own σ gives another loss than the host.

    What stands there is then computed of other values than the head's, as where one line makes σ of q at one level and
    of q + p at the next; or the host has two σ, one that it draws with and another in its KL. Of a σ that is the same
    for −v and v it tells nothing: a host that draws v · ε has other draws with |v|.

    Args:
        losses: of the scans, with the host's own σ in the place of every head.
        half: whether raw values are of half types.
    """
    wanted = [(head, scale) for head, scale in asked if scale is not None]
    found = []
    for scan, loss in zip(scans, losses, strict=False):
        if any(_tells_nothing(head) for head, _ in wanted) or not scan.has_other_loss(model, loss, half=half):
            continue
        groups = [[pair] for pair in wanted] + ([wanted] if len(wanted) > 1 else [])
        for group in groups:  # each alone, so that the one is named that is misplaced
            _, by_group = _raw_values(model, group, [scan])
            if by_group and scan.has_other_loss(model, by_group[0], half=half):
                named = ", ".join(str(head) for head, _ in group[:_SHOWN])
                found.append(
                    f"{named}: with the host's own σ in the place of the scale, the loss of the scanned batch is "
                    f"{by_group[0]:.6g}, and by the host as it is {scan.outcome.loss:.6g}: either its lines compute "
                    "more than one σ of the same values, as one that it draws with and another in the KL, or the scale "
                    "gets other values than σ was of. Let one line, or one method, compute σ of this head alone"
                )
                break
    return found


def _tells_nothing(head: Head) -> bool:
    """Whether a host's own loss may be another one with its σ: it has two, which is told by itself, or an even one."""
    two = head.found is not None and head.found.two_laws
    if two or any(isinstance(site, Site) and site.reads is not None for site in head.sites):
        return True
    v = torch.tensor([0.5, 2.0], dtype=torch.float64)
    return torch.allclose(head.convention.sigma(v), head.convention.sigma(-v))


def put_in(model: nn.Module, planned: Sequence[Attachment]) -> Callable[[], None]:
    """Install attachments for a while, with no record on the model; gives what takes them out again."""
    number = uuid.uuid4().hex
    for attachment in planned:
        attachment.patch = number
    try:
        _install(model, planned)
    except BaseException:
        _remove(model, number)
        raise
    return lambda: _remove(model, number)


def _fitted(heads: Sequence[Head], chosen: Variant, raw: Mapping[int, Raw], keep: Keep) -> PatchedHeads:
    """Each head with its scale, and its σ on the batch with and without."""
    patched = []
    scales: dict[int, Scale | None] = {}
    firsts = together([(head, chosen.for_role(head.role)) for head in heads])
    for index, (head, first) in enumerate(zip(heads, firsts, strict=True)):
        values = raw.get(index)
        if first not in scales:
            at = None if values is None else sample(values.shared)
            scales[first] = fitted(head, chosen.for_role(head.role), at, keep)
        scale = scales[first]
        if values is None:
            patched.append(PatchedHead(head, scale))
        else:
            wide = values.values.double()
            before = replace(Spread.of(head.convention.sigma(wide)), heads=values.heads)
            after = before if scale is None else replace(Spread.of(scale.sigma(wide)), heads=values.heads)
            patched.append(PatchedHead(head, scale, before, after))
    return PatchedHeads(map(plan.settled, patched))


def _apply(
    model: nn.Module,
    patched: PatchedHeads,
    chosen: Variant,
    arithmetic: Arithmetic,
    scans: Sequence[Scan],
    verifying: Sequence[Scan],
    more_normals: Iterable[NormalSite | LogSite | TermSite] = (),
    placements: Sequence[Placement | TopPlacement] = (),
) -> tuple[PatchRecord, list[Outcome]]:
    """Install and verify; the model is as it was if anything is raised. Gives the outcomes of the verified calls."""
    changed = any(h.scale is not None and not h.head.convention.is_identity(h.scale) for h in patched)
    stable = arithmetic == "stable" or (arithmetic == "auto" and changed)
    if not changed and not stable and chosen.sets_scales and not placements:
        warnings.warn(f"variant {chosen} is what the host computes already: the patch changes nothing", stacklevel=3)
    known = [*(site for scan in scans for site in scan.normals), *more_normals]
    normals = [site for site in dict.fromkeys(known) if stable or isinstance(site, TermSite)]
    number = uuid.uuid4().hex
    planned = plan.attachments(model, patched, stable, normals, _others(patched, scans)) if patched else []
    planned = _with_placed(planned, placements)
    _require_calls(patched)
    for attachment in planned:
        attachment.patch = number
    # without the scans, which hold a batch
    kept = PatchedHeads(replace(h, head=replace(h.head, scan=None)) for h in patched)
    beside = tuple(dict.fromkeys(place for scan in scans if stable for place in scan.places_outside))
    record = PatchRecord(chosen, "stable" if stable else "host", kept, tuple(planned), number, beside)
    try:
        _install(model, planned)
        for placement in placements:
            placement.put(model)
        vars(model)[RECORD] = record
        state.mark(model)
        outcomes = []
        for scan in verifying:
            own = [h for h in patched if h.head.scan is scan]
            edits = _call_edits(model, own, stable, scan, _others(own, [scan]))
            # Normals alone change no σ: the call as it is shows it
            call = _exchanged(scan, model, edits, own) if _has_scales(edits) else None
            found = scan.verify(model, own, call)
            outcomes.append(found if found.finite else scan.explained(model, found, call))
    except BaseException:
        _remove(model, number)
        _take_away(model)
        raise
    return record, outcomes


def _require_calls(patched: Iterable[PatchedHead]) -> None:
    """Refuse heads of a scan whose call is gone, where a σ is computed in it."""
    for h in plan.exchanged_beside(list(patched)):
        scan = h.head.scan
        if scan is not None and scan.call is None:
            raise PatchError(
                f"head {h.head}: its σ is computed beside the model, in the call that was scanned, and these heads "
                "come without it (from a pickle, or a file); scan the model again with call=..."
            )


def _with_placed(planned: Sequence[Attachment], placements: Sequence[Placement | TopPlacement]) -> list[Attachment]:
    """What scales need and what stands at the other seams: one attachment a method.

    A method that is replaced as a whole needs no stable functions inside, and no function of the scales alone that
    yields to it; and one that two seams replace is replaced once, by the function of both.
    """
    placed: dict[tuple[str, str], Attachment] = {}
    for placement in placements:
        for attachment in placement.attachments:
            placed.setdefault((attachment.path, attachment.method), attachment)
    kept = [a for a in planned if not ((a.path, a.method) in placed and _yields(a))]
    return [*kept, *placed.values()]


def _yields(attachment: Attachment) -> bool:
    """Whether nothing is left for it to do in a method that another seam replaces."""
    return isinstance(attachment, ReboundAttachment) or getattr(attachment, "yields", False)


def _take_away(model: nn.Module) -> None:
    """The modules of the other seams."""
    take_away(model)
    take_top_prior_away(model)


def _others(patched: Iterable[PatchedHead], scans: Iterable[Scan]) -> list[Head]:
    """The heads of the scans that are not among the patched ones."""
    chosen = {(h.head.path, h.head.channel_range, h.head.role) for h in patched}
    return [h for scan in scans for h in scan.heads if (h.path, h.channel_range, h.role) not in chosen]


def _install(model: nn.Module, planned: Iterable[Attachment]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for attachment in planned:
        attachment.install(modules[attachment.path])


def _remove(model: nn.Module, number: str) -> None:
    # all are found before one is taken out: a module with several names comes several times
    found = {(id(module), a.method): (module, a) for _, module, a in parts(model, number)}
    for module, attachment in found.values():
        if is_own(module, attachment.method):
            del vars(module)[attachment.method]
        attachment.remove(module)
    vars(model).pop(RECORD, None)
    state.unmark(model)


@contextmanager
def lifted(model: nn.Module, record: PatchRecord) -> Iterator[None]:
    """The model without a patch for a while; it comes back as it was, even if the block raises."""
    _remove(model, record.number)
    try:
        yield
    finally:
        _install(model, record.attachments)
        vars(model)[RECORD] = record
        state.mark(model)


def unpatch(model: nn.Module) -> None:
    """Restore a patched model exactly, bit for bit; of several patched models in one, all.

    Raises:
        PatchError: it is not patched; or a method was replaced after it was patched, which must be taken back first.
            The model is then as it was.
    """
    found = owners(model)
    if not found:
        raise PatchError(not_patched(model))
    for owner in found:  # all before any is removed: a refusal must leave the model as it was
        for _, module, attachment in parts(owner.model, owner.record.number):
            if attachment.method in vars(module) and not is_own(module, attachment.method):
                raise PatchError(
                    f"{type(module).__name__}.{attachment.method} was replaced after it was patched "
                    f"(by {name_of(vars(module)[attachment.method])}); remove that first"
                )
    for owner in found:
        _remove(owner.model, owner.record.number)
        _take_away(owner.model)
