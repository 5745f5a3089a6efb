"""Each head in a step that is done again: the extremes of log σ, of the mean and of the KL, and where they are.

Of the KL it is the one of a posterior's channel to its prior's, KL(N(μ_q, σ_q) ‖ N(μ_p, σ_p)) in nats, elementwise, by
this package's arithmetic in float64 and not by the host's, which may be what broke. The prior is another head, or the
two numbers that the scan read off the host's KL. What cannot be told is left out, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch import normal
from vdvae_patch.guarding import time_first
from vdvae_patch.heads import Head, Outlet
from vdvae_patch.patching.watch import each_log_sigma
from vdvae_patch.scanning.watching.outcome import batch_dim
from vdvae_patch.tables import columns
from vdvae_patch.torch_versions import takes_hooks

QUANTITIES = ("log_sigma", "mean", "kl")


@dataclass(frozen=True)
class Span:
    """Least and largest of a head's values in a step; NaN, both, if one of them is, at the first that is.

    Attributes:
        lowest, highest: where they are: the row of the batch, the channel of those that the head has, and behind these
            the place, of what has more dimensions; of what has one dimension the place alone.
    """

    low: float
    high: float
    lowest: tuple[int, ...]
    highest: tuple[int, ...]

    @property
    def is_finite(self) -> bool:
        """Whether both are."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def told(self) -> str:
        """From where to where, and behind the larger of the two magnitudes its place."""
        ends, at_high = [f"{self.low:.4g}", f"{self.high:.4g}"], abs(self.high) >= abs(self.low)
        ends[at_high] += f" ({place(self.highest if at_high else self.lowest)})"
        return f"from {ends[0]} to {ends[1]}"


@dataclass(frozen=True)
class HeadExtremes:
    """A head in a step.

    Attributes:
        log_sigma, mean, kl: None where they cannot be told, with the reason in `left_out`; `kl` is of the pair that a
            posterior or a prior belongs to, in nats a channel.
        kl_nats: that KL, summed over channels and averaged over the rows of the batch; NaN if it is not told.
        left_out: what is not told, and why.
    """

    path: str
    channels: str
    role: str
    log_sigma: Span | None = None
    mean: Span | None = None
    kl: Span | None = None
    kl_nats: float = math.nan
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def log_sigma_min(self) -> float:
        """Least log σ; NaN if it is not told."""
        return math.nan if self.log_sigma is None else self.log_sigma.low

    @property
    def log_sigma_max(self) -> float:
        """Largest log σ; NaN if it is not told."""
        return math.nan if self.log_sigma is None else self.log_sigma.high

    @property
    def extremity(self) -> float:
        """The larger magnitude of log σ: infinite if it is not finite, and 0 if it is not told."""
        ends = () if self.log_sigma is None else (self.log_sigma.low, self.log_sigma.high)
        return max((abs(end) if math.isfinite(end) else math.inf for end in ends), default=0.0)

    def record(self) -> dict[str, Any]:
        """As `skips.jsonl` has it: `log_sigma_min`, `log_sigma_max`, the same of `mean` and `kl`, and `at`, by the same
        names, where they are. What is not told has no such fields, but a reason in `left_out`."""
        values: dict[str, Any] = {"path": self.path, "channels": self.channels, "role": self.role}
        at: dict[str, list[int]] = {}
        for name in QUANTITIES:
            span = getattr(self, name)
            if span is not None:
                values |= {f"{name}_min": span.low, f"{name}_max": span.high}
                at |= {f"{name}_min": list(span.lowest), f"{name}_max": list(span.highest)}
        if self.kl is not None:
            values["kl"] = self.kl_nats
        return {**values, "at": at, "left_out": dict(self.left_out)}

    @property
    def described(self) -> str:
        """What is told, in a line; empty if nothing is."""
        parts = []
        if self.log_sigma is not None and self.log_sigma.is_finite:
            parts.append(f"log σ {self.log_sigma.told}")
        if self.mean is not None and self.mean.is_finite:
            parts.append(f"mean {self.mean.told}")
        if self.kl is not None and not math.isnan(self.kl.high):
            parts.append(f"KL of a channel up to {self.kl.high:.4g} nats ({place(self.kl.highest)})")
        text = ", ".join(parts)
        return text.replace("(row ", "(its layer's row ") if "row" in self.left_out else text


def place(at: Sequence[int]) -> str:
    """In words."""
    names = ("row", "channel") if len(at) > 1 else ("position",)
    text = ", ".join(f"{name} {index}" for name, index in zip(names, at, strict=False))
    return text if len(at) <= len(names) else f"{text}, place {', '.join(map(str, at[2:]))}"


_SHOWN = 12


def table(heads: Sequence[HeadExtremes]) -> str:
    """The heads, a line each, with what is left out below; of many, those whose log σ is the most extreme."""
    every = heads
    if len(every) > _SHOWN:
        least = sorted((h.extremity for h in every), reverse=True)[_SHOWN - 1]
        heads = [h for h in every if h.extremity >= least][:_SHOWN]
    header = ("head", "role", "log σ", "mean", "KL a channel (nats)")
    rows = [
        (f"{h.path or '(the model itself)'}[{h.channels}]", h.role, *(_cell(getattr(h, name)) for name in QUANTITIES))
        for h in heads
    ]
    reasons: dict[str, list[str]] = {}
    for h in heads:
        for name, why in h.left_out.items():
            word = {"log_sigma": "log σ", "kl": "KL", "row": "the row of the batch"}.get(name, name)
            reasons.setdefault(f"left out: {word}: {why}", []).append(h.path or "(the model itself)")
    more = [f"and {len(every) - len(heads)} more, less extreme ones"] if len(every) > len(heads) else []
    said = (f"{text} ({', '.join(paths)})" for text, paths in reasons.items())
    return "\n".join([columns(header, rows), *more, *said])


def _cell(span: Span | None) -> str:
    return "-" if span is None else f"{span.low:.4g} to {span.high:.4g}"


class Seen:
    """The values of some heads in what runs while they are watched, of every call.

    Args:
        rows: how many the batch has, where it is known.
    """

    def __init__(self, model: nn.Module, heads: Sequence[Head], rows: int | None = None) -> None:
        self._model, self._heads, self._rows = model, heads, rows
        self._log_sigmas: dict[int, list[Tensor]] = {}
        self._means: dict[Outlet, list[Tensor]] = {}
        places = [(head.path, head.channels, head.parameter) for head in heads]
        self._lengths: time_first.Lengths = set()
        self._shared = {index for index, own in enumerate(places) if places.count(own) > 1}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs; what parameters hold is looked at when it begins."""
        modules = dict(self._model.named_modules())
        handles = []
        for outlet in dict.fromkeys(filter(None, map(_mean_of, self._heads))):
            if outlet.parameter:
                self._means[outlet] = [outlet.channels.of(_parameter(self._model, outlet.path)).detach()]
            elif outlet.path in modules and takes_hooks(modules[outlet.path]):
                handles.append(modules[outlet.path].register_forward_hook(partial(self._see_mean, outlet)))
        try:
            with (
                time_first.watched(self._model) as self._lengths,
                each_log_sigma(self._model, self._heads, self._see),
            ):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, index: int, log_sigma: Tensor) -> None:
        self._log_sigmas.setdefault(index, []).append(log_sigma.detach().double().cpu())

    def _see_mean(self, outlet: Outlet, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._means.setdefault(outlet, []).append(outlet.channels.of(output).detach().double().cpu())

    def extremes(self) -> list[HeadExtremes]:
        """Of every head."""
        return [self._of(index) for index in range(len(self._heads))]

    def _of(self, index: int) -> HeadExtremes:
        head = self._heads[index]
        left_out: dict[str, str] = {}
        log_sigmas, means, kls = self._values(index, left_out)
        span = partial(_span, row_of=self._row_of)
        kl = span(kls, head.dim) if kls else None
        total = math.nan if kl is None else sum(float(one.sum()) for one in kls) / self._count(kls[0])
        if log_sigmas and not head.parameter and (own := max(map(self._rows_of_its_own, log_sigmas))):
            left_out["row"] = (
                f"its layer gives {own} rows where the batch has {self._rows}, as where time is joined to the batch or "
                "packed: a row is the layer's, and a KL that is averaged over rows is over the layer's"
            )
        outlet = _mean_of(head)
        return HeadExtremes(
            head.path, head.channels, head.role,
            span(log_sigmas, head.dim) if log_sigmas else None,
            span(means, outlet.channels.dim) if means and outlet is not None else None,
            kl, total, left_out,
        )  # fmt: skip

    def _row_dim(self, values: Tensor) -> int:
        return time_first.batch_dim(values, self._lengths) or batch_dim(values.shape, self._rows)

    def _row_of(self, values: Tensor, place: Sequence[int]) -> tuple[int, int]:
        """The dimension of the batch, and the row of it that a place is in."""
        dim = self._row_dim(values)
        return dim, _row_before_draws(values.movedim(dim, 0), place[dim], self._rows)

    def _rows_of_its_own(self, values: Tensor) -> int:
        """How many rows a value has, if these are more than the batch's, and not draws of each; else 0."""
        if values.dim() < 2 or not self._rows or time_first.batch_dim(values, self._lengths):
            return 0
        rows = values.movedim(self._row_dim(values), 0)
        drawn = len(rows) % self._rows == 0 and any(_draws(rows, self._rows))
        return 0 if len(rows) <= self._rows or drawn else len(rows)

    def _count(self, values: Tensor) -> int:
        """The rows, each as often as it was drawn where draws stand in front of the batch; steps of time are summed."""
        if values.dim() < 2:
            return 1
        row = self._row_dim(values)
        drawn = 1 if time_first.batch_dim(values, self._lengths) else math.prod(values.shape[:row])
        return drawn * values.shape[row]

    def _values(self, index: int, left_out: dict[str, str]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        log_sigmas, why = self._log_sigmas_of(index)
        if why:
            left_out["log_sigma"] = why
        means, why = self._means_of(index)
        if why:
            left_out["mean"] = why
        kls: list[Tensor] = []
        if self._heads[index].role != "likelihood":
            kls, why = self._kls(index)
            if why:
                left_out["kl"] = why
        return log_sigmas, means, kls

    def _log_sigmas_of(self, index: int) -> tuple[list[Tensor], str]:
        head = self._heads[index]
        if head.found is not None and head.found.raw is None and head.found.reason:
            return [], head.found.reason
        seen = [value for value in self._log_sigmas.get(index, []) if value.numel()]
        return seen, "" if seen else "its module was not called, or gives something else than a tensor"

    def _means_of(self, index: int) -> tuple[list[Tensor], str]:
        head = self._heads[index]
        if head.found is None:
            return [], "a head that no scan has found does not say where its mean is"
        if head.found.mean is None:
            return [], "its mean is not what a module returns, or cannot be told from others"
        seen = [value for value in self._means.get(head.found.mean, []) if value.numel()]
        return seen, "" if seen else f"{head.found.mean.path} was not called, or gives something else than a tensor"

    def _kls(self, index: int) -> tuple[list[Tensor], str]:
        """The KL of the pair of a head, of each call; or why there is none."""
        head = self._heads[index]
        if head.role == "prior":
            of = [n for n, other in enumerate(self._heads) if _prior_of(other) == (head.path, head.channels)]
            if len(of) != 1:
                return [], f"{'several posteriors are' if of else 'no posterior is known to be'} compared with it"
            index, head = of[0], self._heads[of[0]]
        compared = None if head.found is None else head.found.prior
        if compared is None:
            return [], "no prior is known that it is compared with"
        pair: list[list[Tensor]] = [*self._pair(index)]
        if compared.head is not None:
            prior = next(
                (n for n, h in enumerate(self._heads) if (h.path, h.channels, h.role) == (*compared.head, "prior")),
                None,
            )
            if prior is None:
                return [], f"its prior {compared.head[0]}[{compared.head[1]}] is not among the heads"
            pair += self._pair(prior)
        if not all(pair):
            return [], "log σ or the mean of it, or of its prior, is not told"
        if len({len(values) for values in pair}) > 1 or self._shared & {index}:
            return [], "its module, or that of its prior, is called for something else, too"
        try:
            if compared.head is not None:
                return [normal.kl_divergence(*values) for values in zip(*pair, strict=True)], ""
            shift, log_sigma = compared.mean, math.log(compared.sigma)
            return [
                normal.kl_divergence(mean, own, torch.full_like(mean, shift), torch.full_like(own, log_sigma))
                for mean, own in zip(*pair, strict=True)
            ], ""
        except RuntimeError:
            return [], "its shape is not that of its prior"

    def _pair(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        return self._means_of(index)[0], self._log_sigmas_of(index)[0]


def _mean_of(head: Head) -> Outlet | None:
    return None if head.found is None else head.found.mean


def _prior_of(head: Head) -> tuple[str, str] | None:
    return None if head.found is None or head.found.prior is None else head.found.prior.head


RowOf = Callable[[Tensor, Sequence[int]], tuple[int, int]]


def _parameter(model: nn.Module, path: str) -> Tensor:
    return dict(model.named_parameters(remove_duplicate=False))[path]


def _span(calls: Sequence[Tensor], dim: int, row_of: RowOf) -> Span:
    """Over all calls; the index is that within the call that has it."""
    bad = next((value for value in calls if bool(value.isnan().any())), None)
    if bad is not None:
        where = _index(bad, int(bad.isnan().flatten().nonzero()[0]), dim, row_of)
        return Span(math.nan, math.nan, where, where)
    low = min(calls, key=lambda value: float(value.min()))
    high = max(calls, key=lambda value: float(value.max()))
    places = _index(low, int(low.argmin()), dim, row_of), _index(high, int(high.argmax()), dim, row_of)
    return Span(float(low.min()), float(high.max()), *places)


def _index(values: Tensor, flat: int, dim: int, row_of: RowOf) -> tuple[int, ...]:
    """Row, channel, and the other indices in their order."""
    own = [int(index) for index in torch.unravel_index(torch.tensor(flat), values.shape)]
    if len(own) < 2:
        return tuple(own)
    channel = dim % len(own)
    if channel == 0:  # channels in rows, and no batch in front of them
        return tuple(own)
    dim_of_row, row = row_of(values, own)
    return row, own[channel], *(index for n, index in enumerate(own) if n not in (dim_of_row, channel))


def _row_before_draws(values: Tensor, row: int, rows: int | None) -> int:
    """The row of the batch that a row is of: the same, but where each stands there several times, for a draw each, as
    by `x.repeat(K, 1)` or `x.repeat_interleave(K, 0)`, which is seen where a posterior does not depend on the draw."""
    if not rows or len(values) <= rows or len(values) % rows:
        return row
    behind, beside = _draws(values, rows)
    if behind:
        return row % rows
    return row // (len(values) // rows) if beside else row


def _draws(values: Tensor, rows: int) -> tuple[bool, bool]:
    """Whether all rows stand in a value again and again, one behind the other, or each beside itself."""
    behind, beside = values.reshape(-1, rows, *values.shape[1:]), values.reshape(rows, -1, *values.shape[1:])
    return (
        torch.allclose(behind, behind[:1].expand_as(behind), rtol=1e-4, equal_nan=True),
        torch.allclose(beside, beside[:, :1].expand_as(beside), rtol=1e-4, equal_nan=True),
    )
