"""Channels that a loop reads one by one are one head.

    for i in range(0, 2 * cells, 2):
        mean, log_sigma = out[:, i : i + 1], out[:, i + 1 : i + 2]
        loss = loss + (2 * log_sigma + ((y[:, i // 2] - mean) / log_sigma.exp()) ** 2).mean()

One line reads the channels 1, 3, 5, each as the log σ of a density. They are a mean and a scale that take turns, as
`out.view(n, cells, 2)` would have it. So are channels beside each other, `out[:, cells + i]`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from vdvae_patch.scanning.evidence.group import Group, Groups
from vdvae_patch.scanning.rules.stages import groupings


# after `part_of_whole`, which joins parts to a whole that a sampler reads
@groupings.rule(after=["part_of_whole"])
def one_by_one(groups: Groups) -> None:
    """Join groups of one channel each at equal distances, which the same lines read in one role, computed alike."""
    for path, role in dict.fromkeys((key[0], role) for key, role in groups):
        own = [g for (key, r), g in groups.items() if (key[0], r) == (path, role) and _is_of_one_channel(g)]
        by_line: dict[object, list[Group]] = {}
        for group in own:
            alike = group.emission.channels.dim, _lines(group), frozenset(r.steps for r in group.readings)
            by_line.setdefault(alike, []).append(group)
        for same in by_line.values():
            same.sort(key=lambda g: g.emission.channels.start)
            starts = [g.emission.channels.start for g in same]
            steps = {b - a for a, b in itertools.pairwise(starts)}
            if len(steps) != 1:
                continue
            first = min(same, key=lambda g: g.spot.node.id)
            for group in same:
                del groups[group.key, role]
                if group is not first:
                    first.readings.extend(group.readings)
                    first.sure |= group.sure
            channels = first.emission.channels._replace(start=starts[0], stop=starts[-1] + 1, step=steps.pop())
            first.emission = replace(first.emission, channels=channels)
            groups[first.key, role] = first


def _is_of_one_channel(group: Group) -> bool:
    channels = group.emission.channels
    return not group.emission.parameter and channels.stop is not None and channels.stop - channels.start == 1


def _lines(group: Group) -> frozenset[object]:
    """The lines at which densities and KLs of a group are complete, or its noise is scaled."""
    return frozenset((r.node if r.term is None else r.term.total).frames[:1] for r in group.readings)
