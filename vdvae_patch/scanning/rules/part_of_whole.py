"""Channels that a sampler reads together, and a KL in parts, are one head.

    log_sigma = self.enc(x)[:, 4:]
    z = mean + log_sigma.exp() * torch.randn_like(mean)
    kl = kl_of_rotation(mean[:, :1], log_sigma[:, :1]) + kl_of_rest(mean[:, 1:], log_sigma[:, 1:])

σ is computed of all four channels at once, so they have one scale. Parts that a sampler reads apart, too, are heads of
their own.
"""

from __future__ import annotations

from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.group import Groups
from vdvae_patch.scanning.rules.stages import groupings


# after `repeated_call`, which may join the whole to a call of its own that a density shows: then it is left alone here
@groupings.rule(after=["repeated_call"])
def part_of_whole(groups: Groups) -> None:
    """Join groups that densities show to the one of more channels that none shows, if all have one role."""
    for place, whole in list(groups.items()):
        path, channels = place[0]
        if whole.shown or channels.stop is None:
            continue
        own = _places(channels)
        parts = [
            other
            for other, group in groups.items()
            if other[0][0] == path and other != place and group.shown and _places(other[0][1]) < own
        ]
        if parts and len({role for _, role in parts}) == 1:
            for part in parts:
                whole.readings.extend(groups.pop(part).readings)
            whole.role, whole.sure = parts[0][1], True


def _places(channels: ChannelRange) -> set[int]:
    return set() if channels.stop is None else set(range(channels.start, channels.stop, channels.step))
