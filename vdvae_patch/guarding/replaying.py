"""Do a recorded skip again, in another process: the same weights, batch and random numbers, and any other variant."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import CheckpointError, InvalidValueError, PatchError
from vdvae_patch.guarding.again import Again, Loss
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.diagnosis import Diagnosis, Diagnostician, for_heads
from vdvae_patch.guarding.passes import Pass, Window
from vdvae_patch.guarding.report import lines
from vdvae_patch.guarding.skip import FURTHER_CALL, Recorded
from vdvae_patch.outcome import Outcome
from vdvae_patch.outside import put
from vdvae_patch.patching import patch, patch_record, unpatch
from vdvae_patch.patching.plan import exchanged_beside
from vdvae_patch.saving import apply
from vdvae_patch.scanning import stable_loss
from vdvae_patch.skips import telling
from vdvae_patch.skips.compared import Compared, again
from vdvae_patch.skips.generators import threads


@dataclass(frozen=True)
class Replayed:
    """A recorded skip, done again.

    Attributes:
        diagnosis: of the step as it was.
        compared: what was recorded of the step, and what it is now.
        other: loss and gradients under another variant; None if none was asked for.
        heads: as text, what the variant was given to.
        norm: of the gradients of the step as it was, done again; None if there are none.
        note: why the loss need not be that of the step, where it was done on another device, or is of one call of the
            model of several; else empty.
    """

    recorded: Recorded
    diagnosis: Diagnosis
    compared: tuple[Compared, ...]
    variant: str | None = None
    other: Outcome | None = None
    heads: str = ""
    norm: float | None = None
    note: str = ""

    def __str__(self) -> str:
        info = self.recorded.info
        text = [
            telling.skipped(info["step"], info["cause"], info["elbo"], info["grad_norm"], info["ranks"]),
            *self._ranks(),
            self._compared(),
            *self._versions(),
            *([] if self._was_finite else lines(self.diagnosis)),
        ]
        if self._was_finite and self.norm is not None:
            text.append(f"the step is finite, as it was; the gradient norm of this batch's loss is {self.norm:.4g}")
        if self.recorded.missing:
            text.append(f"note: not recorded: {', '.join(self.recorded.missing)}")
        if self.other is not None:
            norm = "" if self.other.norm is None or not self.other.finite else f", gradient norm {self.other.norm:.4g}"
            under = telling.under(str(self.variant), self.other.headline + norm)
            text += ["", under, *self.other.causes, self.heads]
        return "\n".join(text).rstrip()

    @property
    def exact(self) -> bool:
        """Whether all of it is the same, bit for bit; where it was NaN, it is NaN again."""
        return all(one.same for one in self.compared)

    @property
    def _was_finite(self) -> bool:
        """Whether the step was skipped for the size of its gradients alone, and is finite now, too."""
        sizes = (float(self.recorded.info["elbo"]), float(self.recorded.info["grad_norm"]))
        return all(map(math.isfinite, sizes)) and not (self.diagnosis.outside or self.diagnosis.reproduced)

    def _compared(self) -> str:
        unseen = "the loss of the step was not seen, so that it cannot be compared"
        if not self.compared:
            return f"done again; {unseen}"
        told = again(self.compared, self.note)
        return told if _saw_loss(self.recorded) else f"{told}; {unseen}"

    def _versions(self) -> list[str]:
        """What it was recorded with, where that differs from what is running."""
        own = {"torch": torch.__version__, "vdvae_patch": vdvae_patch.__version__}
        then = {name: str(self.recorded.info.get(name)) for name in own}
        differ = [f"{name} {then[name]} (here {version})" for name, version in own.items() if then[name] != version]
        return [f"note: recorded with {', '.join(differ)}"] if differ else []

    def _ranks(self) -> list[str]:
        """Whose share of the batch was done again, of several ranks."""
        recorded = self.recorded
        if recorded.world == 1:
            return []
        blamed = recorded.info["ranks"]
        why = "which was to blame" if recorded.rank in blamed else "which was not to blame"
        there = telling.on_ranks(recorded.there).strip()
        return [
            f"{recorded.world} ranks did it, shares are recorded {there}; done again is that"
            f"{telling.on_ranks([recorded.rank])}, {why if blamed else 'and none was known to be to blame'}"
        ]


def replay(
    recorded: Recorded,
    model: nn.Module,
    call: Loss | None = None,
    variant: str | None = None,
    device: str = "auto",
) -> Replayed:
    """Do it again.

    Args:
        model: freshly built, of the class that was trained; it gets the recorded weights, and the patch that it had.
        call: the loss, `call(model, *inputs)`; not needed where the model gives it.
        variant: another one to try.
        device: where; auto is a device of the kind that it was recorded on, the CPU where there is none.

    Raises:
        InvalidValueError: a device that torch does not have here.
        CheckpointError: the weights are those of another model.
        PatchError: the variant cannot be applied, or nothing gives a loss.
    """
    try:
        model.load_state_dict(recorded.weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{recorded.path} has weights of a {recorded.info.get('model_class')}, which do not fit this "
            f"{type(model).__name__}: {str(error).splitlines()[-1].strip()}"
        ) from None
    place = _place(recorded, device)
    model.to(place).train(recorded.training)
    if recorded.patch:
        apply(model, recorded.patch)
    put(model, recorded.outside, f"{recorded.path}: outside")
    args, kwargs = moved(recorded.args, place), moved(recorded.kwargs, place)
    precision = replace(recorded.autocast, device=place.type)
    one = Pass(args, kwargs, (), recorded.generators, precision, (), recorded.training)
    one = replace(one, versions=tuple(t._version for t in one.tensors))
    buffers = Buffers(model)
    buffers.take()
    trained, why_not = _with_its_scales(model, recorded, args, kwargs, call)
    step = Again(model, Window([one]), buffers, trained)
    diagnostician = Diagnostician(model)
    with threads(recorded.threads):
        first = step.outcome(step.shares[0])
        if trained is not call and not _is_recorded(recorded, first):
            plain = Again(model, Window([one]), buffers, call)
            if _is_recorded(recorded, outcome := plain.outcome(plain.shares[0])):
                step, trained, first = plain, call, outcome  # it was trained without what the patch exchanges there
        diagnosis = diagnostician.examine(step)
        other, table = None, ""
        if variant is not None:
            if recorded.patch:
                unpatch(model)
                if trained is not call:  # what finds heads in it is not to meet what the patch exchanged there
                    step, diagnostician = Again(model, Window([one]), buffers, call), Diagnostician(model)
            heads = diagnostician.find(step, step.shares[0])  # of a step that is finite nobody has looked for them
            if not heads:
                raise PatchError(
                    f"no head was found, so that {variant} has nothing to change: {diagnostician.why_none}"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with patch(model, for_heads(heads, variant), heads=heads, verify=False) as handle:
                    other, table = diagnostician.under(step, step.shares[0], handle), str(handle.heads)
    compared = _compared(recorded, _loss_of(first), diagnosis)
    exact = all(one.same for one in compared)
    note = (
        ""
        if exact and recorded.kind == place.type
        else why_not or _other_device(recorded, place) or _of_further_calls(recorded)
    )
    return Replayed(recorded, diagnosis, compared, variant, other, table, first.norm, note)


def _with_its_scales(
    model: nn.Module, recorded: Recorded, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: Loss | None
) -> tuple[Loss | None, str]:
    """The loss with the patch's scales where they are computed beside the model, as `handle.loss` has them; else the
    loss as it was given, and why a step that was trained by that one is not this."""
    if not recorded.patch:
        return call, ""
    needed = bool(exchanged_beside(patch_record(model).heads))
    missed = "the patch has scales that are computed beside the model, as handle.loss has them, and "
    if call is None or kwargs:
        what = "the model was called with named inputs, which no loss is given" if kwargs else "no loss was given"
        return call, f"{missed}{what}" if needed else ""
    try:
        return stable_loss(model, *args, call=call), ""
    except PatchError as error:
        return call, f"{missed}the loss that was given cannot have them: {error}" if needed else ""


def _of_further_calls(recorded: Recorded) -> str:
    """Why the loss of the call that was recorded is not that of a step of several, as of accumulated gradients."""
    if not any(FURTHER_CALL in text for text in recorded.missing):
        return ""
    return "that is of further calls of the model, too, which are not recorded"


def _loss_of(outcome: Outcome) -> float:
    return math.nan if outcome.loss is None else outcome.loss


def _is_recorded(recorded: Recorded, outcome: Outcome) -> bool:
    return Compared("loss", recorded.loss, _loss_of(outcome)).same


def _saw_loss(recorded: Recorded) -> bool:
    """With a NaN that was seen, the loss would be the cause."""
    return not (math.isnan(recorded.loss) and recorded.info["cause"] == "high_gradient")


def _compared(recorded: Recorded, loss: float, diagnosis: Diagnosis) -> tuple[Compared, ...]:
    """The loss; of one process the first bad value, and the extremes of the heads that are known here and were there.

    Of several ranks one has examined its share, and which one is not written down.
    """
    found = [Compared("loss", recorded.loss, loss)] if _saw_loss(recorded) else []
    if recorded.world > 1:
        return tuple(found)
    info = recorded.info
    event = diagnosis.event or diagnosis.explodes
    if event is not None and isinstance(info.get("operation"), str):
        then = (info["operation"], info.get("module"), str(info.get("rows")))
        now = (event.operation, event.place.module, str(list(event.rows)))
        found.append(Compared("place of the first bad value", then, now))
    was = {_name(head): head for head in info.get("heads") or () if isinstance(head, Mapping)}
    pairs = [(was[_name(head)], head) for head in (h.record() for h in diagnosis.heads) if _name(head) in was]
    if pairs:
        one, other = (tuple(_numbers(pair[side]) for pair in pairs) for side in (0, 1))
        found.append(Compared(f"extremes of {len(pairs)} head{'s' if len(pairs) > 1 else ''}", one, other))
    return tuple(found)


def _name(head: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(str(head.get(key)) for key in ("path", "channels", "role"))


def _numbers(head: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((key, float(value)) for key, value in sorted(head.items()) if isinstance(value, int | float))


def _place(recorded: Recorded, device: str) -> torch.device:
    """Where a skip is done again."""
    if device != "auto":
        try:
            place = torch.device(device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            raise InvalidValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
        return place
    of_kind = getattr(torch, recorded.kind, None)
    there = recorded.kind != "cpu" and of_kind is not None and of_kind.is_available()
    return torch.device(recorded.kind if there else "cpu")


def moved(value: Any, place: torch.device) -> Any:
    """Nested containers with their tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(place)
    if isinstance(value, Mapping):
        return {key: moved(item, place) for key, item in value.items()}
    return type(value)(moved(item, place) for item in value) if isinstance(value, list | tuple) else value


def _other_device(recorded: Recorded, place: torch.device) -> str:
    if recorded.kind == place.type:
        return "" if place.type == "cpu" else "this device, too, may form sums in another order each time"
    return (
        f"recorded on a device of kind {recorded.kind} and done again on {place.type}: weights and inputs are the "
        "same, the noise is of another generator and sums are rounded otherwise"
    )
