"""`scan`: the Normal heads of a model that nobody described."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.patching.sites import NormalSite
from vdvae_patch.scanning import hazards
from vdvae_patch.scanning.calls import normal_sites
from vdvae_patch.scanning.grouping import SUM, heads_of
from vdvae_patch.scanning.placing import replaceable
from vdvae_patch.scanning.reading import NearMiss
from vdvae_patch.scanning.readings import read
from vdvae_patch.scanning.verify import HeadKey, check_sigma, head_key, residual_curves
from vdvae_patch.scanning.watch import watch
from vdvae_patch.tables import columns


class Heads(list[Head]):
    """The heads that a scan found, in the order in which the model computes them; prints as a table.

    Attributes:
        near_misses: what looked like a scale and was not taken, and why.
        warnings: what is numerically unsafe in the host as it is.
        normals: where the host makes a `torch.distributions.Normal`; patched with stable arithmetic, it makes one that
            carries log σ.
    """

    def __init__(self, heads: Iterable[Head] = (), near_misses: Iterable[NearMiss] = ()) -> None:
        super().__init__(heads)
        self.near_misses = tuple(near_misses)
        self.warnings: tuple[str, ...] = ()
        self.normals: tuple[NormalSite, ...] = ()
        self._run: tuple[tuple[Any, ...], Callable[..., Any] | None] | None = None
        self._residual: dict[HeadKey, list[torch.Tensor]] = {}

    def check(self, model: nn.Module, patched: Iterable[Any]) -> None:
        """Run the scanned batch through the patched model and compare the σ that it uses; see `patch`'s `verify`."""
        if self._run is not None:
            check_sigma(model, *self._run, patched, self._residual)

    def __str__(self) -> str:
        header = ("path", "channels", "role", "convention", "patched at", "sure", "where")
        if not self:
            return "no Normal head\n" + self.why_not()
        hint = f"\n{ONLY_SAMPLED}" if self.only_sampled else ""
        return columns(header, (_row(head) for head in self)) + hint

    @property
    def only_sampled(self) -> bool:
        """Whether no head was seen in a density or a KL."""
        return not any(map(_is_compared, self))

    def why_not(self) -> str:
        """The near misses, one a line."""
        return "\n".join(f"  {miss}" for miss in self.near_misses) or "  nothing multiplies noise or enters a density"


ONLY_SAMPLED = (
    "no density and no KL was seen: if the loss is computed outside of what was run, give it as the call, so that "
    "priors and likelihoods are seen, too"
)


def _is_compared(head: Head) -> bool:
    return head.found is None or any("noise" not in way for way in head.found.evidence)


def _row(head: Head) -> tuple[str, ...]:
    found = head.found
    place = "" if found is None else f"{found.file.rsplit('/', 1)[-1]}:{found.line}"
    kind = "parameter" if head.parameter else head.channels
    return (
        head.path,
        kind,
        head.role,
        str(head.convention),
        "" if found is None else found.patch_at,
        "" if found is None else found.confidence,
        place,
    )


def scan(model: nn.Module, *inputs: Any, call: Callable[..., Any] | None = None) -> Heads:
    """Find every place where a network's output becomes the scale of a Normal.

    The model, or `call(model, *inputs)`, runs once and is left as it was. A scale is known because it multiplies fresh
    noise, reaches `torch.distributions.Normal`, or stands in a Gaussian density or KL; conventions are measured.

    Args:
        call: what to run instead of the model; give the loss, so that priors that are only compared are seen.

    Warns:
        UserWarning: no head was found; the near misses are in it, and in the result.

    Raises:
        PatchError: some weights have no values yet, or the model has no forward and no call was given.
        Exception: whatever the model raises on these inputs.
    """
    if isinstance(model, type):
        raise PatchError(f"{model.__name__} is a class; give scan an instance of it")
    graph = watch(model, inputs, call)
    readings = read(graph)
    heads = Heads(replaceable(model, heads_of(graph, readings)), dict.fromkeys(readings.near_misses))
    heads.warnings = tuple(hazards.of_graph(graph))
    heads._run = (inputs, call)
    residual = {
        head_key(h.path, h.channel_range) for h in heads if h.found is not None and h.found.reason.startswith(SUM)
    }
    heads._residual = residual_curves(graph, readings.found, frozenset(residual))
    heads.normals = normal_sites(graph)
    if not heads:
        warnings.warn(f"no Normal head was found in {type(model).__name__}:\n{heads.why_not()}", stacklevel=2)
    return heads
