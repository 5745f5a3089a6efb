"""One layer that gives two roles their σ: a posterior of the data, and a prior of something else.

A VampPrior is the posterior's own layer at learned inputs, a neural process's prior that at fewer points, TD-VAE's that
at an earlier time:

    q = self.law(self.encoder(x))
    p = self.law(self.encoder(self.pseudo_inputs))

Each role is a head. Where the host's lines tell the two apart, each can have a scale of its own; else one scale serves
both. A constant one would take from the prior what it is there for: that it is a posterior.

A label's σ may be a likelihood's where the label is known, and a posterior's where it is drawn and decoded. One tensor
gives both, so that it is one head, whose role is likely only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.heads import Found, Head


def told(heads: Sequence[Head]) -> Iterator[str]:
    """What is to be known of each layer that gives two roles their σ."""
    for head in heads:
        for other in of_same_layer(head, heads):
            if other.role < head.role and other.convention == head.convention:
                apart = bool(head.sites) and bool(other.sites) and set(head.sites).isdisjoint(other.sites)
                how = (
                    "each can have a scale of its own, where it is computed"
                    if apart
                    else "they are computed in one place, and one scale serves both"
                )
                yield f"{head.named} gives the σ of the {other.role} and of the {head.role}: {how}"


def told_of_labels(heads: Sequence[Head]) -> Iterator[str]:
    """What is to be known of each σ that is called a likelihood's by a density, and is drawn as well, for networks."""
    for head in heads:
        found = head.found
        if found is not None and (head.role, found.confidence) == ("likelihood", "likely") and _has_both(found):
            yield (
                f"{head.path}[{head.channels}] is in a density of the data, as a likelihood's σ, and is drawn from for "
                "a network that goes on from the draw, as a posterior's: a label, if it is known of some rows alone; "
                f'stabilize(..., roles={{"{head.path}": "posterior"}}) takes it for one'
            )


def _has_both(found: Found) -> bool:
    return any("noise" in way for way in found.evidence) and any("density" in way for way in found.evidence)


def posterior_of(prior: Head, heads: Sequence[Head]) -> Head | None:
    """The posterior whose σ the same layer gives; None if there is none."""
    return next((head for head in of_same_layer(prior, heads) if head.role == "posterior"), None)


def of_same_layer(head: Head, heads: Sequence[Head]) -> list[Head]:
    """The heads of other roles that the same channels of the same module give."""
    place = head.path, head.channel_range
    return [other for other in heads if (other.path, other.channel_range) == place and other.role != head.role]
