"""Look at every head on one batch: the extremes of log σ, and the KL.

A skipped update leaves the weights alone, and the noise of a step is a function of its number. So the step that was
skipped can be looked at again, after the fact, at no cost to the steps that were not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.heads import Head
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.patching.top_prior import top_prior_in
from vdvae_patch.patching.watch import each_log_sigma
from vdvae_patch.train.aside import aside


@dataclass(frozen=True)
class HeadState:
    """One head on one batch.

    The extremes of log σ are those of every call of the head's module: a host may draw step by step, and pseudo-inputs
    of a VampPrior pass through the encoder, too. `kl` is of the latent whose posterior or prior the head is, in nats,
    averaged over the batch; NaN where there is none, or where its host does not say which
    (`TrainableEntry.latent_of`). `channels` are said where several heads of a role are of one module; else it is empty.
    `seen` is whether the look came to the head: that of a likelihood decodes behind the latents, where a look ends.
    """

    path: str
    role: str
    log_sigma_min: float
    log_sigma_max: float
    kl: float
    channels: str = ""
    seen: bool = True

    @property
    def named(self) -> str:
        """`encoder`, or `encoder[4:8]`."""
        return f"{self.path}[{self.channels}]" if self.channels else self.path

    def record(self) -> dict[str, Any]:
        """For JSON, without channels that nobody needs to know, and without a log σ that nobody saw."""
        left_out = set() if self.channels else {"channels"}
        left_out |= {"seen"} if self.seen else {"log_sigma_min", "log_sigma_max"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def probe_heads(entry: TrainableEntry, model: nn.Module, heads: list[Head], x: Tensor) -> list[HeadState]:
    """The state of every head, in the order of `heads`; the caller seeds the noise."""
    return head_states(heads, probe_rows(entry, model, heads, x))


def probe_rows(entry: TrainableEntry, model: nn.Module, heads: list[Head], x: Tensor, parts: int = 1) -> Tensor:
    """`[heads + 1, 3]` on the device: minimum and maximum of log σ, and KL. Of a head that was not seen they are ∞ and
    −∞, the extremes of nothing; a KL that is not known is NaN.

    The last row has the KL of all latents together, see `whole_kl`. In as many parts, one after the other, as the step
    computes its batch in: so they have its noise, and its memory.
    """
    rows = [_rows(entry, model, heads, part) for part in x.chunk(parts)]
    return rows[0] if parts == 1 else over_ranks(torch.stack(rows))


@torch.no_grad()
def _rows(entry: TrainableEntry, model: nn.Module, heads: list[Head], x: Tensor) -> Tensor:
    """Of one pass, which leaves running statistics and counters as they were."""
    seen: dict[int, Tensor] = {}

    def see(index: int, log_sigma: Tensor) -> None:
        extremes = torch.stack(log_sigma.float().aminmax())
        before = seen.get(index, extremes)
        seen[index] = torch.stack([torch.minimum(before[0], extremes[0]), torch.maximum(before[1], extremes[1])])

    with aside(model), each_log_sigma(model, heads, see):
        latents = entry.latents(model, x)
    kls = [latent.kl.float().sum() / len(x) for latent in latents]
    unknown = torch.full((), torch.nan, device=x.device)
    nothing = torch.tensor(_OF_NOTHING, device=x.device)
    rows = []
    bare = getattr(model, "module", model)
    unread = entry.top_prior_seam(bare).unread if top_prior_in(bare) is not None else ()
    for index, latent in enumerate(entry.latent_of(bare, heads, len(kls))):
        if heads[index].role == "prior" and heads[index].path in unread:
            rows.append(torch.stack([*nothing, unknown]))
            continue
        low, high = seen.get(index, nothing)
        rows.append(torch.stack([low, high, unknown if latent is None else kls[latent]]))
    rows.append(torch.stack([unknown, unknown, torch.stack(kls).sum() if kls else unknown]))
    return torch.stack(rows)


_OF_NOTHING = (torch.inf, -torch.inf)


def head_states(heads: list[Head], rows: Tensor) -> list[HeadState]:
    """What `probe_rows` measured, on the host; log σ is NaN, too, of a head that was not seen."""
    count = Counter((head.path, head.role) for head in heads)
    found = []
    for head, (low, high, kl) in zip(heads, rows[:-1].tolist(), strict=True):
        channels = head.channels if count[head.path, head.role] > 1 else ""
        seen = (low, high) != _OF_NOTHING
        low, high = (low, high) if seen else (torch.nan, torch.nan)
        found.append(HeadState(head.path, head.role, low, high, kl, channels, seen))
    return found


def whole_kl(rows: Tensor) -> Tensor:
    """The KL of all latents in what `probe_rows` measured, nats an image, averaged over the batch; NaN of none."""
    return rows[-1, 2]


def over_ranks(rows: Tensor) -> Tensor:
    """`[ranks, rows, 3]`, or of parts of equal size, to `[rows, 3]`: least minimum, greatest maximum, mean KL; NaN if
    one of them has it."""
    return torch.stack([rows[:, :, 0].amin(0), rows[:, :, 1].amax(0), rows[:, :, 2].mean(0)], dim=1)
