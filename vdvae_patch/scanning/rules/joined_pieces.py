"""Scales that were put beside each other and are used as one tensor are scales of several heads.

    log_sigma = torch.cat([self.shape_head(x), self.pose_head(x)], 1)
    z = mean + log_sigma.exp() * torch.randn_like(mean)

Each piece is emitted by its own layer. The steps of a loop that were appended to each other are pieces of one head, and
the way back goes on through these, without this rule.
"""

from __future__ import annotations

from vdvae_patch.composition import Step
from vdvae_patch.scanning import ops
from vdvae_patch.scanning.chain import Chain
from vdvae_patch.scanning.expression import pieces
from vdvae_patch.scanning.rules.stages import Merged, merges

MOST_PIECES = 16
"""A limit of work: each piece is walked back from by itself. Layers whose outputs are joined are a handful; more than
16 pieces are steps of a loop, which come from one output."""


@merges.rule()
def joined_pieces(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a `cat` or `stack` apart into its pieces."""
    if chain.begin.node.op not in ops.JOINING or chain.end != "raw":
        return None
    parts = pieces(chain.begin)
    return Merged(parts, (*chain.steps, *suffix)) if 1 < len(parts) <= MOST_PIECES else None
