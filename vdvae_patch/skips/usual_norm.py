"""Clip near the usual norm, which nobody knows beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError

WARM_UP = 20
"""How many updates go by before anything is clipped."""


class UsualNorm:
    """A limit that follows the norms of the updates that were applied: a multiple of the median of the last of them.

    Of n norms the median is the ⌈n/2⌉-th smallest. Exploding norms come in bursts: a high quantile is one of them as
    soon as a tenth of the window is, and then clips nothing; the median stands half. Norms enter as they were after
    clipping, so that a burst of any length doubles the limit in half a window and no faster, and norms that grow for
    good are followed. Everything is a tensor on the device, and nothing waits for it.

    Args:
        multiple: of the median; above 1, or the norms that enter would only ever get smaller.
        window: how many norms it is of.
        runs: of how many runs it is, each with a window of its own; None for one, whose norm and limit are scalars.
        device: where the norms are.

    Raises:
        InvalidValueError: a multiple that is not above 1, or a window shorter than the warm-up.
    """

    def __init__(
        self,
        multiple: float = 2.0,
        window: int = 100,
        *,
        runs: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not multiple > 1 or window < WARM_UP:
            raise InvalidValueError(
                f"multiple must be above 1, not {multiple:g}, and window at least {WARM_UP}, not {window}"
            )
        self.multiple, self.window = multiple, window
        shape = () if runs is None else (runs,)
        # a ring; what is not written yet is infinite, and so sorted behind all that is
        self._norms = torch.full((*shape, window), torch.inf, dtype=torch.float64, device=device)
        self._count = torch.zeros(shape, dtype=torch.int64, device=device)

    @property
    def limit(self) -> Tensor:
        """The norm to clip at, float64, `[]` or `[runs]`; infinity while it warms up."""
        known = self._count.clamp(max=self.window)
        middle = ((known - 1).clamp(min=0) // 2).unsqueeze(-1)
        median = self._norms.sort(dim=-1).values.gather(-1, middle).squeeze(-1)
        return torch.where(known < WARM_UP, torch.inf, self.multiple * median)

    def add(self, norm: Tensor, applied: Tensor) -> None:
        """Take in the norms of a step where its update was `applied` (bool); both have the shape of the limit.

        What is above the limit, to which it was clipped, enters as the limit.
        """
        norm = norm.to(self._norms)
        taken = applied & norm.isfinite()
        slot = (self._count % self.window).unsqueeze(-1)
        kept = self._norms.gather(-1, slot)
        self._norms.scatter_(
            -1, slot, torch.where(taken, torch.minimum(norm, self.limit), kept.squeeze(-1)).unsqueeze(-1)
        )
        self._count += taken

    def keep(self, rows: Tensor) -> None:
        """Go on with these runs alone."""
        self._norms, self._count = self._norms[rows], self._count[rows]

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs, as it is now."""
        return {"norms": self._norms.clone(), "count": self._count.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave; raises `InvalidValueError` for another number of runs or window."""
        count = state["count"]
        if (
            count.shape != self._count.shape
            or count.is_floating_point()
            or count.is_complex()
            or bool((count < 0).any())
        ):
            raise InvalidValueError(f"the saved count must be how many norms there were, not {count}")
        if state["norms"].shape != self._norms.shape or not state["norms"].is_floating_point():
            raise InvalidValueError(
                f"the saved norms have the shape {tuple(state['norms'].shape)}, not {tuple(self._norms.shape)}"
            )
        self._norms = state["norms"].to(self._norms).clone()
        self._count = state["count"].to(self._count).clone()

    def norms(self) -> list[float]:
        """Of one run, the norms that it remembers, the oldest first."""
        count = int(self._count)
        known: list[float] = self._norms[: min(count, self.window)].tolist()
        oldest = count % self.window if count > self.window else 0
        return known[oldest:] + known[:oldest]

    def remember(self, norms: Sequence[float]) -> None:
        """Of one run: forget all, and take these, the oldest first, as `norms` gave them."""
        last = list(norms)[-self.window :]
        self._norms.fill_(torch.inf)
        self._norms[: len(last)] = torch.tensor(last, dtype=torch.float64)
        self._count.fill_(len(last))

    def forget_last(self) -> None:
        """Of one run: the update of the last norm was not applied after all. The one that it displaced is gone."""
        self.remember(self.norms()[:-1])
