"""A value that scales a part of the same noise that it was computed of belongs to a flow.

A coupling layer scales one half of a draw by a function of the other half:

    a, b = torch.randn(len(x), 4).chunk(2, 1)
    b = b * self.net(a).exp() + a

`exp` of the net multiplies noise, but given `a` there is nothing to sample: no Normal with this σ is drawn from.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.rules.stages import noise_uses


@noise_uses.rule()
def same_noise(value: Node, noise: Node | None) -> str | None:
    """Refuse what depends on the draw that it multiplies."""
    if noise is not None and value.noise & noise.noise:
        return "it scales a part of the same noise that it depends on, as a flow does"
    return None
