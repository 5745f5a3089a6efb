"""What a batch's raw values are, before a patch: read where the patch will sit, with nothing changed.

Every head gets a scale that computes the host's own σ and keeps what it is given, and the scanned call runs once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vdvae_patch.attach.sites import place_of
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.scales import Scale
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.torch_versions import takes_hooks

HALF = (torch.bfloat16, torch.float16)

_SAME = 1e-6  # of σ, relatively: what float32 rounds of a constant's
_SAMPLE = 65_536  # raw values to which a scale is fitted: enough for a median, little beside a batch


class Meter(Scale):
    """The host's own σ; keeps the raw values that it is asked for."""

    name = "meter"

    # two heads of one layer are two places, if their scales are, whatever their convention
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self, convention: Convention) -> None:
        super().__init__()
        self.convention = convention
        self.seen: list[Tensor] = []

    def arguments(self) -> dict[str, float]:
        return {}

    def forget(self) -> None:
        """Begin anew."""
        self.seen.clear()

    def raw(self) -> Tensor | None:
        """All that was seen, flat, in the model's own type; None if nothing was.

        All of it, since extremes are shown of it: one value of a million may be the one that breaks the model.
        """
        return torch.cat(self.seen) if self.seen else None

    def _see(self, p: Tensor) -> None:
        if not isinstance(p, torch.fx.Proxy):
            self.seen.append(p.detach().flatten().to("cpu", copy=True))

    def sigma(self, p: Tensor) -> Tensor:
        self._see(p)
        return self.convention.sigma(wide(p)).to(p.dtype)

    def log_sigma(self, p: Tensor) -> Tensor:
        self._see(p)
        return self.convention.log_sigma(wide(p)).to(p.dtype)

    def log_variance(self, p: Tensor) -> Tensor:
        return 2 * self.log_sigma(p)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_sigma(wide(p)), torch.ones_like(wide(p))

    def inverse(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    # what asks for a scale's own formulas asks for a scale of the registry
    _sigma = _log_sigma = _sigma_slope = _log_sigma_slope = inverse  # type: ignore[assignment]


def sample(raw: Tensor) -> Tensor:
    """At most 65,536 of the values, evenly spaced, so that the last rows of a batch count as the first ones do."""
    return raw[:: -(-raw.numel() // _SAMPLE) or 1]


def together(heads: Sequence[tuple[Head, Scale | None]]) -> list[int]:
    """For each head the number of the first one that it shares a place with: channels of a module, or an expression.

    Two roles that one helper computes cannot have two scales, so what they get in common is fitted to both.
    """
    first: dict[object, int] = {}
    found: list[int] = []
    for index, (head, scale) in enumerate(heads):
        places = [(head.path, head.channel_range, str(scale)), *((place_of(site), str(scale)) for site in head.sites)]
        known = [first[place] for place in places if place in first]
        mine = min(known, default=index)
        found.append(mine)
        first |= dict.fromkeys(places, mine)
    return found


class Raw(NamedTuple):
    """Raw values of a head on the scanned batches, flat.

    Attributes:
        values: its own.
        shared: those of all heads that it shares a place with, to which their common scale is fitted.
        heads: how many heads the `values` are of: more than one where one line computes the σ of several, and nothing
            tells whose a value is.
    """

    values: Tensor
    shared: Tensor
    heads: int


def raw_values(
    model: nn.Module,
    heads: Sequence[tuple[Head, Scale | None]],
    install: Callable[[Sequence[tuple[Head, Scale | None]]], Callable[[], None]],
    runs: Iterable[Callable[[], object]],
) -> dict[int, Raw]:
    """The raw values of each head on the scanned batches, by the head's number; none where they were not seen.

    Args:
        heads: with the scale that is asked for, None where a head is left as it is.
        install: puts scales in place, and gives what takes them out again.
        runs: run the scanned calls.
    """
    places = together(heads)
    meters = [Meter(head.convention) for head, _ in heads]
    apart: list[tuple[Head, Scale | None]] = [(head, meter) for (head, _), meter in zip(heads, meters, strict=True)]
    everywhere: list[tuple[Head, Scale | None]] = [
        (head, meters[first]) for (head, _), first in zip(heads, places, strict=True)
    ]
    asked = [
        (head, None if scale is None else meter) for (head, scale), (_, meter) in zip(heads, everywhere, strict=True)
    ]
    layers = [(first, head.path, head.channel_range) for first, (head, _) in zip(places, heads, strict=True)]
    # one layer that two roles call is measured where each calls it
    several = [apart] if len({*layers}) < len(layers) else []
    take_out, given = None, asked
    # a head that is left as it is may be one that nothing can be put in the place of
    for given in (*several, everywhere, asked):
        # what cannot be put in place is refused where it matters
        with contextlib.suppress(PatchError):
            take_out = install(given)
            break
    if take_out is None:
        return {}
    for used in meters:
        used.forget()  # what was asked to find a place for it is of no batch
    emitted: dict[int, list[Tensor]] = {}
    try:
        for run in runs:
            with contextlib.suppress(Exception), _emitted(model, heads, places, emitted):
                run()  # a call that raises is the verification's to tell of
    finally:
        take_out()
    found: dict[int, Raw] = {}
    users: dict[Meter, list[int]] = {}
    for index, (_, meter) in enumerate(given):
        if isinstance(meter, Meter):
            users.setdefault(meter, []).append(index)
    for meter, heads_of in users.items():
        raw = meter.raw()
        if raw is not None:
            seen = _without_constants(meter, [heads[index][0] for index in heads_of])
            raw = torch.cat(seen)
            each = _each(seen, {index: emitted.get(index, []) for index in heads_of})
            for index in heads_of:
                found[index] = Raw(each[index], raw, 1) if index in each else Raw(raw, raw, len(heads_of))
    if given is apart:  # a scale for both is fitted to both
        for first in {*places}:
            group = [i for i, place in enumerate(places) if place == first and i in found]
            shared = torch.cat([found[i].values for i in group]) if group else None
            found |= {i: found[i]._replace(shared=shared) for i in group if shared is not None}
    return found


@contextlib.contextmanager
def _emitted(
    model: nn.Module, heads: Sequence[tuple[Head, Scale | None]], places: Sequence[int], to: dict[int, list[Tensor]]
) -> Iterator[None]:
    """Keeps what the layers of those heads put out that share a place."""
    modules = dict(model.named_modules())

    def keeping(index: int, head: Head) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim():
                to.setdefault(index, []).append(head.channel_range.of(output).detach().flatten().to("cpu", copy=True))

        return keep

    hooks = [
        modules[head.path].register_forward_hook(keeping(index, head))
        for index, (head, _) in enumerate(heads)
        if places.count(places[index]) > 1 and head.path in modules and takes_hooks(modules[head.path])
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fingerprint(values: Tensor) -> bytes:
    """Of the values in whatever order and shape."""
    return values.detach().to("cpu", torch.float64).flatten().sort().values.numpy().tobytes()


def _without_constants(meter: Meter, heads: Sequence[Head]) -> list[Tensor]:
    """What was seen, but for constants of which a replaced line computes σ, too; all of it, if nothing else is left."""
    fixed = {head.found.constant[1] for head in heads if head.found is not None and head.found.constant is not None}
    seen = meter.seen
    for sigma in fixed:
        there = [meter.convention.sigma(values.double()) for values in seen]
        others = [values[~((own / sigma - 1).abs() <= _SAME)] for values, own in zip(seen, there, strict=True)]
        seen = [values for values in others if values.numel()] or seen
    return seen


def _each(seen: Sequence[Tensor], emitted: dict[int, list[Tensor]]) -> dict[int, Tensor]:
    """Of the values seen in a place those that each of its heads emitted, in one call or in all of them, stacked; empty
    unless each is of exactly one head."""
    if len(emitted) == 1:
        return {index: torch.cat([*seen]) for index in emitted}
    owners: dict[bytes, set[int]] = {}
    for index, calls in emitted.items():
        for values in (*calls, torch.cat(calls)) if calls else ():
            owners.setdefault(_fingerprint(values), set()).add(index)
    own: dict[int, list[Tensor]] = {}
    for values in seen:
        whose = owners.get(_fingerprint(values), set())
        if len(whose) != 1:
            return {}
        (head,) = whose
        own.setdefault(head, []).append(values)
    return {index: torch.cat(values) for index, values in own.items()}
