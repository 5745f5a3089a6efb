"""Push the raw values of heads to where they break, and see whether loss and gradients hold.

A raw value that training moves far out is what ends a run, and the batch at hand seldom has one. So each head's raw
values are set, all of them, to values where σ² and σ leave the range of the type, and to what an optimizer's steps can
reach; the rest of the user's own call stays what it is, backward pass included. The gradient flows through the value as
if the network had put it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.attach.sites import place_of
from vdvae_patch.heads import Head, Outlet
from vdvae_patch.outcome import Outcome
from vdvae_patch.patching import plan
from vdvae_patch.patching.apply import exchanged_for, put_in
from vdvae_patch.patching.fit import line
from vdvae_patch.patching.floors import zero_between
from vdvae_patch.patching.measure import Meter
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.scales import Constant, Scale, Shifted
from vdvae_patch.scanning.evidence.emission import IN_PASSING
from vdvae_patch.scanning.finder import ScanRun
from vdvae_patch.scanning.stabilizing.outlets import can_be_held, held_at
from vdvae_patch.scanning.watching.draws import drawn_anew
from vdvae_patch.scanning.watching.outcome import with_origin
from vdvae_patch.torch_versions import takes_hooks
from vdvae_patch.trace import Tracer

_APART = 0.5  # between the means of a posterior and a prior, which a last layer of zeros would make the same


class Pushed(Scale):
    """A scale of raw values that are all one number; the gradient goes through to the real ones."""

    def __init__(self, scale: Scale, raw: float) -> None:
        super().__init__()
        self.scale, self.raw = scale, raw

    @property
    def name(self) -> str:  # type: ignore[override]
        """The scale's, and the number."""
        return f"{self.scale.name} at {self.raw:g}"

    def arguments(self) -> dict[str, float]:
        return self.scale.arguments()

    def defaults(self) -> dict[str, Any]:
        """See `Scale.defaults`."""
        return self.scale.defaults()

    def _push(self, p: Tensor) -> Tensor:
        return (p - p.detach()).nan_to_num(0, 0, 0) + self.raw

    def sigma(self, p: Tensor) -> Tensor:
        return self.scale.sigma(self._push(p))

    def log_sigma(self, p: Tensor) -> Tensor:
        return self.scale.log_sigma(self._push(p))

    def log_variance(self, p: Tensor) -> Tensor:
        return self.scale.log_variance(self._push(p))

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale.log_sigma_and_slope(self._push(p))

    def inverse(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    # what asks for a scale's own formulas asks for one of the registry
    _sigma = _log_sigma = _sigma_slope = _log_sigma_slope = inverse  # type: ignore[assignment]


@dataclass(frozen=True)
class Verdict:
    """What pushing some heads showed.

    Attributes:
        heads: those that were pushed together, with their scales.
        outcome: of the first call that was not finite, with where the first such value was made; None if all held.
        level: the log σ that the host's own exponential would have had in that call, −∞ where the host's own σ is zero
            between the ends of the range; None for the batch as it is.
    """

    heads: tuple[PatchedHead, ...]
    outcome: Outcome | None = None
    level: float | None = None

    @property
    def cured(self) -> bool:
        """Whether loss and gradients were finite in every call."""
        return self.outcome is None


Unit = tuple[PatchedHead, ...]
"""Heads whose σ are computed in one place, so that they are pushed together."""


def units(heads: Sequence[PatchedHead]) -> list[Unit]:
    """The heads, together those that cannot have two scales."""
    first: dict[object, int] = {}
    found: dict[int, list[PatchedHead]] = {}
    for index, patched in enumerate(heads):
        head = patched.head
        places: list[object] = [place_of(site) for site in head.sites] or [(head.path, head.channel_range)]
        mine = min((first[place] for place in places if place in first), default=index)
        first |= dict.fromkeys(places, mine)
        found.setdefault(mine, []).append(patched)
    return [tuple(unit) for unit in found.values()]


def levels(dtype: torch.dtype) -> tuple[float, ...]:
    """Values of log σ = p to push to: where σ² underflows, where σ is among the smallest numbers there are (so that a
    quotient by it overflows, with a KL of little weight, too), where it is zero, where σ² and σ overflow; the last of
    either side is what steps of an optimizer can reach."""
    numbers = torch.finfo(dtype)
    end = math.log(numbers.max)
    far = max(1000.0, 1.5 * end)
    return (-0.6 * end, math.log(numbers.tiny) + math.log(numbers.eps) + 1, -far, 0.6 * end, far)


class Probe:
    """Runs a scanned call with heads' raw values pushed.

    Args:
        run: the scan's.
        others: heads of the scan that are left as they are.
        own_loss: run the call as it was given, in which nothing is exchanged.
    """

    def __init__(self, model: nn.Module, run: ScanRun, others: Sequence[Head] = (), own_loss: bool = False) -> None:
        self._model = model
        self._run = run
        self._others = others
        self._own_loss = own_loss
        self.levels = levels(_dtype(model))

    def verdicts(self, heads: Sequence[PatchedHead]) -> list[Verdict]:
        """Those that break, each with the heads that it takes; or one for all, cured.

        First nothing is pushed: a batch that is not finite as it is breaks all. Then, at each level, all are pushed
        together, each role is by itself, and each head where there are few: what two of them do together (a posterior
        and its prior that both go to zero) may hide what one does alone. Of several that break, those at fault are
        looked for by halves. A σ of the host's own that is zero between the ends (|v|, v², v + 1) is pushed there, too.
        At last all are pushed up together for some more draws of the noise: what a large σ makes
        of it may be what breaks (the sigmoid of a flow's gate that is zero), and one draw may miss it.
        """
        as_it_is = self._breaking(heads, [], 0.0)
        if as_it_is:
            return [replace(as_it_is[0], heads=tuple(heads), level=None)]
        following = [unit for unit in units(heads) if not all(isinstance(h.scale, Constant) for h in unit)]
        found: list[Verdict] = []
        for level in self.levels:
            for chosen in _selections(following):
                known = {id(h) for verdict in found for h in verdict.heads}
                rest = [unit for unit in chosen if id(unit[0]) not in known]
                found += self._breaking(heads, rest, level) if rest else []
        for chosen in _selections([unit for unit in following if _zero_of(unit) is not None]):
            known = {id(h) for verdict in found for h in verdict.heads}
            rest = [unit for unit in chosen if id(unit[0]) not in known]
            found += self._breaking(heads, rest, -math.inf) if rest else []
        found = self._with_other_partners(heads, following, found)
        for seed in _DRAWS if following and not found else ():
            with drawn_anew(seed):
                found = found or self._breaking(heads, following, max(self.levels))
        return found or [Verdict(tuple(heads))]

    def outcome_at(
        self,
        heads: Sequence[PatchedHead],
        level: float | None,
        tracer: Tracer | None = None,
        held: Mapping[Outlet, float] = MappingProxyType({}),
    ) -> Outcome:
        """Of one call with all heads whose σ follows their raw values at a level; None for the batch as it is.

        Args:
            held: other values that leave the network, and the numbers that they are put at.
        """
        following = [unit for unit in units(heads) if not all(isinstance(h.scale, Constant) for h in unit)]
        return self._outcome(heads, [] if level is None else following, level or 0.0, tracer, held)

    def _breaking(self, heads: Sequence[PatchedHead], pushed: Sequence[Unit], level: float) -> list[Verdict]:
        if self._outcome(heads, pushed, level, None).finite:
            return []
        if len(pushed) > 1:
            half = len(pushed) // 2
            parts = [*self._breaking(heads, pushed[:half], level), *self._breaking(heads, pushed[half:], level)]
            if parts:
                return parts
            pushed = self._needed(heads, pushed, level)
        tracer = Tracer(self._model)
        outcome = with_origin(self._outcome(heads, pushed, level, tracer), tracer)
        return [Verdict(tuple(h for unit in pushed for h in unit), outcome, level)]

    def _with_other_partners(
        self, heads: Sequence[PatchedHead], following: Sequence[Unit], found: Sequence[Verdict]
    ) -> list[Verdict]:
        """Verdicts of several heads together, with those that break as well beside one of them: of a + b and a + c."""
        known = {id(h) for verdict in found for h in verdict.heads}
        wider = []
        for verdict in found:
            members = [unit for unit in following if any(h is unit[0] for h in verdict.heads)]
            for unit in following if len(members) > 1 and len(following) <= _FEW and verdict.level is not None else ():
                if id(unit[0]) not in known and any(
                    self._breaks(heads, [[member, unit]], verdict.level or 0.0) for member in members
                ):
                    known |= {id(h) for h in unit}
                    verdict = replace(verdict, heads=(*verdict.heads, *unit))
            wider.append(verdict)
        return wider

    def _needed(self, heads: Sequence[PatchedHead], pushed: Sequence[Unit], level: float) -> list[Unit]:
        """Those of some which break together, and in no half, that have a part in it: a head at a time of few, and else
        a role at a time. What breaks with another partner than the first that is found has one, too."""
        parts = [[unit] for unit in pushed]
        if len(pushed) > _FEW:
            roles = dict.fromkeys(unit[0].head.role for unit in pushed)
            parts = [[unit for unit in pushed if unit[0].head.role == role] for role in roles]
        found = first = self._fewest(heads, parts, level)
        for part in first:
            rest = [other for other in parts if other is not part]
            if self._breaks(heads, rest, level):
                found = [*found, *self._fewest(heads, rest, level)]
        having = {id(unit) for part in found for unit in part}
        return [unit for unit in pushed if id(unit) in having]

    def _fewest(self, heads: Sequence[PatchedHead], parts: list[list[Unit]], level: float) -> list[list[Unit]]:
        """Parts that break together, without each that can be left out."""
        for part in parts:
            rest = [other for other in parts if other is not part]
            if self._breaks(heads, rest, level):
                parts = rest
        return parts

    def _breaks(self, heads: Sequence[PatchedHead], parts: Sequence[Sequence[Unit]], level: float) -> bool:
        pushed = [unit for part in parts for unit in part]
        return bool(pushed) and not self._outcome(heads, pushed, level, None).finite

    def _outcome(
        self,
        heads: Sequence[PatchedHead],
        pushed: Sequence[Unit],
        level: float,
        tracer: Tracer | None,
        held: Mapping[Outlet, float] = MappingProxyType({}),
    ) -> Outcome:
        # the host's own lines break where the σ that they compute does not: exp(v) / (1 + exp(v)), the slope of a where
        by_network = [unit for unit in pushed if self._leave_the_network(unit)]
        raw = {h.head.found.raw: _raw(h, level) for u in by_network for h in u if h.head.found and h.head.found.raw}
        # one scale for all heads of a unit: what computes them can have no two
        units_apart = [unit for unit in pushed if unit not in by_network]
        scales = {id(h): scale for unit in units_apart for scale in [_pushed(_following(unit), level)] for h in unit}
        given = [replace(h, scale=scales.get(id(h), h.scale)) for h in heads]
        planned = plan.attachments(self._model, given, True, self._run.normals, self._others)
        loss = None if self._own_loss else exchanged_for(self._model, given, True, self._run, self._others)
        take_out = put_in(self._model, planned)
        try:
            apart = _means_apart(self._model, [h.head for h in heads]) if pushed else nullcontext()
            with apart, held_at(self._model, {**raw, **held}):
                return self._run.run_again(self._model, tracer, loss, to_the_error=True)
        finally:
            take_out()

    def _leave_the_network(self, unit: Unit) -> bool:
        """Whether heads are all left as they are, and their raw values are outputs of modules, which can be set."""
        outlets = [None if h.scale is not None or h.head.found is None else h.head.found.raw for h in unit]
        return all(can_be_held(self._model, outlet) for outlet in outlets)


_FEW = 8
_DRAWS = (1, 2, 3)
"""Seeds of further draws."""


def _selections(following: Sequence[Unit]) -> list[list[Unit]]:
    """What is pushed together, see `Probe.verdicts`; each selection once."""
    roles = dict.fromkeys(h.head.role for unit in following for h in unit)
    chosen = [list(following), *([u for u in following if any(h.head.role == role for h in u)] for role in roles)]
    chosen += [[unit] for unit in following] if len(following) <= _FEW else []
    return [s for i, s in enumerate(chosen) if s and not any(s == other for other in chosen[:i])]


def _following(unit: Unit) -> PatchedHead:
    """The first head of a unit whose σ follows its raw value."""
    return next((h for h in unit if not isinstance(h.scale, Constant)), unit[0])


def _pushed(patched: PatchedHead, level: float) -> Scale:
    """The head's scale, or the host's own, at the raw value of which the level is log σ or what stands for it."""
    if patched.scale is None:
        return Pushed(Meter(patched.head.convention), _raw(patched, level))
    shifted = patched.scale if isinstance(patched.scale, Shifted) else Shifted(patched.scale)
    gain, shift = shifted.gain, shifted.shift
    slope, offset = shifted.base.of_log_sigma()  # of upbounded(ω) a p of 0 is a σ of ω / 2
    return Pushed(patched.scale, (slope * level + offset - shift) / gain)


def _raw(patched: PatchedHead, level: float) -> float:
    """The raw value of which the level is the host's own log σ, or what stands for it."""
    if level == -math.inf:
        return _zero_of((patched,)) or 0.0
    gain, shift = line(patched.head.convention, 0.0, straight=True) or (1.0, 0.0)
    return (level - shift) / gain


def _zero_of(unit: Unit) -> float | None:
    """The raw value between the ends at which the host's own σ touches or crosses zero; None where a scale stands in
    its place, or it does not."""
    patched = _following(unit)
    return zero_between(patched.head.convention) if patched.scale is None else None


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextmanager
def _means_apart(model: nn.Module, heads: Sequence[Head]) -> Iterator[None]:
    """Move what is no raw value in the outputs that hold one: up for posteriors, down for priors. What is computed in
    passing, as a mean over a set in the model's own `forward`, is in no output."""
    modules = dict(model.named_modules(remove_duplicate=False))
    by_path: dict[str, list[Head]] = {}
    for head in heads:
        in_passing = head.found is not None and IN_PASSING in head.found.reason
        if not head.parameter and not in_passing and head.path in modules and takes_hooks(modules[head.path]):
            by_path.setdefault(head.path, []).append(head)
    hooks = [modules[path].register_forward_hook(partial(_move, found)) for path, found in by_path.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _move(heads: Sequence[Head], module: nn.Module, arguments: Any, output: Any) -> Any:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    move = torch.full_like(output, -_APART if heads[0].role == "prior" else _APART, requires_grad=False)
    for head in heads:
        if head.start == 0 and head.stop is None and head.step == 1:
            return None
        head.channel_range.of(move).zero_()
    return output + move
