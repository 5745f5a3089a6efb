"""What is only compared is no part of a loss, and no KL.

A von Mises-Fisher code is drawn by rejection, from a proposal that is accepted where

    accepted = (m - 1) * t.log() - t + d >= u.log()         # t of the concentration that a network puts out

`log t - t` has the form of a KL between two Normals with one mean, log σ - σ²/2. But it decides which of two values is
kept, and no gradient comes through that. A KL that is bounded by a comparison, `torch.where(kl > floor, kl, floor)`, is
also what is kept.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.scanning.rules.stages import terms


@terms.rule()
def compared_alone(graph: Graph, term: GaussianTerm, readings: Readings) -> str | None:
    """Refuse a KL without a mean of which comparisons alone are made."""
    if not term.means and graph.given and not graph.leads_out(term.total, but=ops.COMPARING):
        return "it has the form of a KL, but is only compared with something, as where proposals are rejected"
    return None
