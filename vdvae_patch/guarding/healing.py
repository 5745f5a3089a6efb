"""`policy="heal"`: a head that was to blame twice gets another scale in place, and the lines that make it permanent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from vdvae_patch.errors import PatchError
from vdvae_patch.guarding.again import Again
from vdvae_patch.guarding.averages import unlike
from vdvae_patch.guarding.diagnosis import Diagnosis, Diagnostician, cure_of, for_heads
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.guarding.voice import Voice
from vdvae_patch.heads import Head
from vdvae_patch.patching import PatchHandle, is_patched, patch, unpatch
from vdvae_patch.skips import telling

_YOUR_LOSS = "(loss(model, batch) is your loss; no call= if model(batch) returns it)"


class Healer:
    """The heads of a model that were given another scale.

    Attributes:
        healed: them, with the scale's name.
    """

    def __init__(self, model: nn.Module, diagnostician: Diagnostician, voice: Voice) -> None:
        self.model, self.healed = model, dict[Head, str]()
        self._diagnostician, self._voice = diagnostician, voice
        self._handle: PatchHandle | None = None

    def heal(self, skip: Skip, before: Sequence[Skip], again: Again) -> Skip:
        """The head that is to blame for the second time gets the first scale that holds.

        Args:
            before: the skips before this one.
            again: the step, to be done again.
        """
        diagnosis = skip.diagnosis
        head = None if diagnosis is None else diagnosis.head
        chosen = None if diagnosis is None else diagnosis.cure
        if head is None or chosen is None:
            return skip
        head = next((known for known in self._diagnostician.heads or () if known == head), head)  # with its scan
        blamed = any(s.head == head.path and s.diagnosis is not None for s in before)
        if not blamed or head in self.healed or (is_patched(self.model) and self._handle is None):
            return skip
        wanted = {**self.healed, head: str(for_heads([head], chosen).for_role(head.role))}
        if self._handle is not None:
            unpatch(self.model)
        self._handle = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._handle = _patched(self.model, wanted)
        except PatchError as error:
            if self.healed:
                self._handle = _patched(self.model, self.healed)
            self._voice.say(f"step {skip.step}: {head} could not be healed: {error}")
            return skip
        self.healed = wanted
        for note in unlike(self.model):
            self._voice.say_once(f"note: {note}")
        said = f"{head.named} ({head.role}) has {wanted[head]} from now on"
        return replace(skip, healed=said + self._moved(head, diagnosis, again))

    def _moved(self, head: Head, diagnosis: Diagnosis | None, again: Again) -> str:
        """How much another scale changes what a head gives, in the step at hand."""
        again, same = again.settled(), (head.path, head.channels, head.role)
        before = next((h for h in (diagnosis.heads if diagnosis else ()) if (h.path, h.channels, h.role) == same), None)
        found = self._diagnostician.extremes(again, again.shares[-1], [head]) if again.shares else []
        if before is None or before.log_sigma is None or not found or found[0].log_sigma is None:
            return ""
        spans = [telling.log_sigma(span.low, span.high) for span in (before.log_sigma, found[0].log_sigma)]
        return f": its {spans[0]} in this step, and now {spans[1].removeprefix('log σ ')}"

    def said(self) -> str:
        """Which heads have which scale."""
        named = "; ".join(f"{head} got {scale}" for head, scale in self.healed.items())
        return f"healed: {named}" if named else ""

    def cure(self, diagnoses: Sequence[Diagnosis]) -> str:
        """The lines that make it permanent, or those of what would have held."""
        chosen = cure_of(diagnoses)
        if self.healed:
            paths = " or ".join(f"path == {head.path!r}" for head in self.healed)
            of_role = {head.role: scale for head, scale in self.healed.items()}
            roles = ", ".join(f"{role}={scale!r}" for role, scale in of_role.items())
            return (
                f"what was healed, for good {_YOUR_LOSS}:\n"
                f"  heads = vdvae_patch.scan(model, batch, call=loss).select(path=lambda path: {paths})\n"
                f"  vdvae_patch.patch(model, heads=heads, {roles})"
            )
        if chosen is None or self._handle is not None:
            return ""
        return (
            f"the cure, in two lines before the training {_YOUR_LOSS}:\n"
            "  heads = vdvae_patch.scan(model, batch, call=loss)\n"
            f"  vdvae_patch.patch(model, {chosen!r}, heads=heads)"
        )


def _patched(model: nn.Module, scales: Mapping[Head, str]) -> PatchHandle:
    """The heads with their scales; of one role, all have the same."""
    by_role: dict[str, str] = {head.role: scale for head, scale in scales.items()}
    return patch(model, heads=list(scales), verify=False, **by_role)  # type: ignore[arg-type]
