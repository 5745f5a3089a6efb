"""How far does a patch move the loss of the scanned batch?

    m = (L after − L before) / max(|L before|, S / 10),    S = Σ |terms of L|, see `loss_size.py`

Both calls draw the same random numbers, so that nothing but σ differs; where σ moves at all, m is the mean over some
more pairs of calls (`paired.py`), since a single draw may miss what most of them show. Of a loss that is another one at
each call all the same (it counts its calls, or draws from a generator that nobody knows of) m would say nothing: there
the σ of the batch are compared, m = ± max |log (σ after / σ before)| of their medians.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from vdvae_patch.attach.sites import TermSite
from vdvae_patch.heads import ROLES, Role
from vdvae_patch.patching import PatchHandle, patch
from vdvae_patch.patching.apply import lifted
from vdvae_patch.patching.fit import Spread
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.patching.variant import VANILLA
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.paired import Pairs

_ONE_PERCENT = 0.01
_NEAR_ZERO = 0.1
"""Of what a loss adds up: one that is less is near zero by cancellation, and no measure of itself."""
_REPEATS = 1e-4
"""Of the loss's size: what two calls that draw the same numbers may differ by, by sums in another order."""
_SAME_SIGMA = 0.02


@dataclass(frozen=True)
class Ruler:
    """Measures the move m of patches of one scanned batch.

    Attributes:
        loss: that of the batch with the host's own σ; of another decoder, with that.
        size: what the move is a share of, in the loss's units.
        repeats: whether the call gives the same loss twice, so that m is of the loss.
        shares: how many roles may have a part of what is allowed.
        pairs: further draws, of which m is the mean; None for that of the scan alone.
    """

    loss: float
    size: float
    repeats: bool = True
    shares: int = 1
    pairs: Pairs | None = None

    def move(self, handle: PatchHandle, roles: Collection[Role] = ROLES) -> float:
        """m; infinite where the loss with the patch is not finite, zero where nothing was measured.

        Args:
            roles: of the heads whose σ are compared where the loss says nothing.
        """
        if not self.repeats:
            return max((_by_sigma(h) for h in handle.heads if h.head.role in roles), key=abs, default=0.0)
        after = None if handle.after is None else handle.after.loss
        if after is None:
            return 0.0
        if not math.isfinite(change := after - self.loss):
            return math.inf
        size = max(self.size, 1e-12)
        if self.pairs is not None and any(map(moves_sigma, handle.heads)):
            change = self.pairs.mean(handle, change, self._bar * size)
        return change / size

    def kept(self, move: float) -> bool:
        """Whether the model's function counts as kept: m is less than 1%, of a σ 2%."""
        return abs(move) < self._bar

    @property
    def least(self) -> float:
        """What a scale must keep more than another one to be worth it."""
        return 0.5 * self._bar

    @property
    def _bar(self) -> float:
        return (_ONE_PERCENT if self.repeats else _SAME_SIGMA) / self.shares

    @property
    def what(self) -> str:
        """What is seen to move."""
        return "the loss of this batch" if self.repeats else "σ at its median (the loss is another one at each call)"

    @property
    def draws(self) -> str:
        """What a reader needs to know of a move that is a mean; empty where it is the difference of two losses."""
        if self.pairs is None or not self.repeats:
            return ""
        return ", in the mean over draws of its noise, of which the losses before and after show one"

    def percent(self, move: float) -> str:
        """The move as a number."""
        number = 100 * (move if self.repeats else math.expm1(move))
        if not number:
            return "0%"
        return f"{number:+.0f}%" if 100 <= abs(number) < math.inf else f"{number:+.2g}%"


def ruler_of(model: nn.Module, heads: ScanResult, handle: PatchHandle) -> Ruler | None:
    """What a patch of the model is measured by; None where the batch has no loss without it that is finite."""
    before = handle.before
    if before is None or before.loss is None or not before.finite:
        return None
    run = next(head.scan for head in heads if head.scan is not None)
    if any(isinstance(site, TermSite) for site in (*run.normals, *run.outside)):
        # a decoder stands in the place of a term: what σ does is to be seen beside it, and not beside the old one
        with lifted(model, handle.record):
            vanilla = patch(model, VANILLA, heads=heads, arithmetic="stable")
            after = vanilla.after
            vanilla.unpatch()
        if after is None or after.loss is None or not after.finite:
            return None
        return Ruler(after.loss, abs(after.loss))
    size = max(abs(before.loss), _NEAR_ZERO * (heads.elbo.size or 0.0))
    if not any(map(moves_sigma, handle.heads)):
        return Ruler(before.loss, size)
    with lifted(model, handle.record):
        again = run.loss(model)
    if again is None or not math.isclose(again, before.loss, rel_tol=0, abs_tol=_REPEATS * size):
        return Ruler(before.loss, size, repeats=False)
    return Ruler(before.loss, size, pairs=Pairs(model, run, lambda now: lifted(model, now.record)))


def moves_sigma(h: PatchedHead) -> bool:
    """Whether σ on the batch is another one with the patch, or may be, where it was not seen."""
    if h.scale is None:
        return False
    if h.before is None or h.after is None:
        return True
    pairs = zip(_numbers(h.before), _numbers(h.after), strict=True)
    return any(not math.isclose(one, other, rel_tol=_SAME_SIGMA) for one, other in pairs)


def roles_of(heads: Iterable[PatchedHead]) -> set[Role]:
    """The roles that some heads have."""
    return {h.head.role for h in heads}


def _numbers(spread: Spread) -> Sequence[float]:
    return spread.median, spread.low, spread.high


def _by_sigma(h: PatchedHead) -> float:
    if h.before is None or h.after is None or not (h.before.median > 0 and h.after.median > 0):
        return 0.0
    return math.log(h.after.median / h.before.median)
