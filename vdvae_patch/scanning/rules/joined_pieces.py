"""Scales that were put beside each other and are used as one tensor are scales of several heads.

    log_sigma = torch.cat([self.shape_head(x), self.pose_head(x)], 1)
    z = mean + log_sigma.exp() * torch.randn_like(mean)

Each piece is emitted by its own layer. The steps of a loop that were appended to each other are pieces of one head, and
the way back goes on through these, without this rule. So are what several layers write into parts of one tensor, each
for the rows of its group, or a column:

    log_sigma = torch.empty(len(x), 4)
    for k, layer in enumerate(self.layers):
        log_sigma[group == k] = layer(x[group == k])
"""

from __future__ import annotations

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import pieces, written_pieces
from vdvae_patch.scanning.rules.stages import Merged, merges

MOST_PIECES = 16
"""A limit of work: each piece is walked back from by itself. Layers whose outputs are joined are a handful; more than
16 pieces are steps of a loop, which come from one output."""


@merges.rule()
def joined_pieces(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a `cat` or `stack`, or a tensor that was written to, apart into its pieces."""
    if chain.begin.node.op not in ops.JOINING | ops.WRITING or chain.end != "raw":
        return None
    parts = pieces(chain.begin) if chain.begin.node.op in ops.JOINING else written_pieces(chain.begin)
    return Merged(parts, (*chain.steps, *suffix)) if 1 < len(parts) <= MOST_PIECES else None
