"""A host that draws from one Normal and measures another: each use keeps the σ that the host computes for it.

    z = mean + torch.exp(v) * noise
    kl = -0.5 * (1 + v - mean**2 - v.exp())  # of σ = exp(v / 2)

A patch that makes them one is another loss from its first step on. Where that moves the loss of the batch, `stabilize`
gives the new scale to what draws, and leaves it to the host's own arithmetic what the KL makes of it: below the scale's
bound both are what they were.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from vdvae_patch.attach.sites import Site
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.patching.apply import unpatch
from vdvae_patch.patching.record import is_patched
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.choosing import broken_roles, examine
from vdvae_patch.scanning.stabilizing.keeping import Ruler, ruler_of
from vdvae_patch.scanning.stabilizing.treatment import Asked, Treatment, patch_heads


def keep_two_laws(model: nn.Module, treatment: Treatment, asked: Asked, probe: bool) -> None:
    """Where one law in the place of two moves the loss of the batch by 1% or more, and two move it less and hold as
    well, leave the host its two."""
    ruler = ruler_of(model, treatment.heads, treatment.handle)
    apart = _apart(treatment.heads)
    if ruler is None or treatment.paper or not apart or ruler.kept(as_one := ruler.move(treatment.handle)):
        return
    before = copy.copy(treatment)
    treatment.notes = list(treatment.notes)
    treatment.handle.unpatch()
    try:
        treatment.heads = before.heads.with_heads([apart.get(id(head), head) for head in before.heads])
        treatment.handle = patch_heads(model, treatment.heads, treatment.scales, treatment.paper)
        examine(model, treatment, asked, probe)
        moved = ruler.move(treatment.handle)
        if abs(moved) < abs(as_one) and not broken_roles(treatment.verdicts or ()) - broken_roles(
            before.verdicts or ()
        ):
            treatment.notes += (_said(head, ruler, as_one) for head in apart.values())
            return
    except PatchError:
        pass  # what the host makes of the new scale's value is no σ that can be verified
    if is_patched(model):
        unpatch(model)
    vars(treatment).update(vars(before))
    treatment.handle = patch_heads(model, treatment.heads, treatment.scales, treatment.paper)


def _said(head: Head, ruler: Ruler, as_one: float) -> str:
    return (
        f"{head.path or 'the model'}: what draws and the KL keep each its own σ, as the host has them, since one for "
        f"both would move {ruler.what} by {ruler.percent(as_one)}; vdvae_patch.patch makes them one"
    )


def _apart(heads: ScanResult) -> dict[int, Head]:
    """The heads whose uses disagree, without the sites that bring them together; by the number of the head."""
    found = {}
    for head in heads:
        left = tuple(site for site in head.sites if not (isinstance(site, Site) and site.reads is not None))
        if head.found is not None and len(left) < len(head.sites):
            found[id(head)] = replace(head, sites=left, found=replace(head.found, two_laws=True))
    return found
