"""Channels that a sampler reads together, and a KL in parts, are one head.

    log_sigma = self.enc(x)[:, 4:]
    z = mean + log_sigma.exp() * torch.randn_like(mean)
    kl = kl_of_rotation(mean[:, :1], log_sigma[:, :1]) + kl_of_rest(mean[:, 1:], log_sigma[:, 1:])

σ is computed of all four channels at once, so they have one scale. Parts that a sampler reads apart, too, are heads of
their own. So is the other way round what is left to a sampler of channels that a KL has as a whole, where the rest of
its draw is overwritten, `z[:, 3] = known`.

So are two codes whose scales are all that a layer puts out, if they are computed alike; parts beside means are not:

    z1_sigma, z2_sigma = self.log_sigma(h).exp().split([4, 3], 1)

So are the parts of one parameter, as the components of a mixture that a loop goes through, if something reads it whole,
or if the parts make up all of it and none is read in another role:

    log_p = [log_normal(z, self.means[k], self.log_vars[k]) for k in range(3)]
"""

from __future__ import annotations

from dataclasses import replace

from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.evidence.group import Group, Groups
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
    for place, own_part in list(groups.items()):
        around = [] if own_part.shown else [g for g in groups.values() if g.shown and _is_within(own_part, g)]
        if len(around) == 1:
            around[0].readings.extend(groups.pop(place).readings)
    for path in {group.emission.path for group in groups.values()}:
        _join_all_of_a_layer(groups, path)
    for path in {group.emission.path for group in groups.values() if group.emission.parameter}:
        _join_parameter(groups, path)


def _is_within(part: Group, whole: Group) -> bool:
    """Whether a group is of some channels of another one's, in the same role."""
    own, around = part.emission.channels, whole.emission.channels
    if part is whole or (part.emission.path, part.role) != (whole.emission.path, whole.role) or own.dim != around.dim:
        return False
    everything = around.start == 0 and around.stop is None and around.step == 1
    return own != around and own.stop is not None and (everything or _places(own) < _places(around))


def _join_all_of_a_layer(groups: Groups, path: str) -> None:
    """Make one group of those of a module that make up all of its output, in one role and by one convention."""
    own = [g for g in groups.values() if g.emission.path == path and not g.emission.parameter]
    cuts = [next((c for c in g.spot.cuts if c.length == len(_places(g.emission.channels))), None) for g in own]
    sizes = {None if cut is None else cut.size for cut in cuts}
    alike = {(g.role, g.emission.channels.dim, g.spot.node.id, frozenset(r.steps for r in g.readings)) for g in own}
    if len(own) < 2 or len(alike) != 1 or len(sizes) != 1 or None in sizes:
        return
    places = sorted(place for group in own for place in _places(group.emission.channels))
    if places != list(range(sizes.pop() or 0)):
        return
    first = own[0]
    for group in own:
        del groups[group.key, group.role]
        if group is not first:
            first.readings.extend(group.readings)
            first.sure |= group.sure
    first.emission = replace(first.emission, channels=ChannelRange(first.emission.channels.dim))
    groups[first.key, first.role] = first


def _join_parameter(groups: Groups, path: str) -> None:
    """Make one group of those of a parameter, if they have one role and hold all of it."""
    own = {place: group for place, group in groups.items() if place[0][0] == path and group.emission.parameter}
    if len(own) < 2 or len({role for _, role in own}) > 1:
        return
    whole = next((place for place, group in own.items() if _is_whole(group.emission.channels)), None)
    if whole is None and not _are_all(list(own.values())) and not _are_of_one_line(list(own.values())):
        return
    first = own[whole] if whole is not None else next(iter(own.values()))
    for place, group in own.items():
        del groups[place]
        if group is not first:
            first.readings.extend(group.readings)
            first.sure |= group.sure
    first.emission = replace(first.emission, channels=ChannelRange(0))
    groups[first.key, first.role] = first


def _is_whole(channels: ChannelRange) -> bool:
    return channels.start == 0 and channels.stop is None and channels.step == 1


def _are_all(parts: list[Group]) -> bool:
    """Whether parts of a parameter are apart, lie along one dimension, and hold all of its places."""
    ranges = [part.emission.channels for part in parts]
    size = next((n for part in parts for n in part.spot.node.shape[ranges[0].dim : ranges[0].dim + 1]), 0)
    places = [place for own in ranges for place in range(size)[own.start : own.stop : own.step]]
    return len({own.dim for own in ranges}) == 1 and sorted(places) == list(range(size))


def _places(channels: ChannelRange) -> set[int]:
    return set() if channels.stop is None else set(range(channels.start, channels.stop, channels.step))


def _are_of_one_line(parts: list[Group]) -> bool:
    """Whether parts lie along one dimension and one line of the host reads them, in a loop of which some steps show."""
    lines = {frozenset(r.term.total.frames[:1]) for part in parts for r in part.readings if r.term is not None}
    starts = {part.emission.channels.start for part in parts}
    lengths = {(part.emission.channels.dim, part.emission.channels.step) for part in parts}
    return len(lines) == len(lengths) == 1 and len(starts) == len(parts) > 2 and frozenset() not in lines
