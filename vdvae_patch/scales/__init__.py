"""Scale parameterizations: from a raw parameter p, what a network emits, to σ and to log σ.

    scale = scales.get("upbounded(omega=2)")
    scale.sigma(p), scale.log_sigma(p), scale.inverse(sigma), scale.codomain

log σ is computed directly, never as the log of an exponential (`naiveexp` apart, the fault on show). Every other scale
is finite, monotone and inside its codomain for every finite p of every floating dtype, 0 and infinity appearing only
where the true value rounds to them; half precision is computed in float32 and returned in the input's dtype.

Each scale writes down four formulas: σ(p), log σ(p) and the derivative of each. The derivatives are explicit because
automatic ones lose them where it matters: for large p the derivative of log(2 − exp(−p)) through `expm1` is
1 − (1 − 0) = 0 and not exp(−p). It also means that one tensor is kept for the backward pass, p itself.

Source: "Re-parameterizing VAEs for stability" (Dehaene and Brossard), sections 3 and 4, unless said otherwise.
"""

from __future__ import annotations

from vdvae_patch.scales.argument import Shifted
from vdvae_patch.scales.others import Clamp, SoftClamp, Softplus
from vdvae_patch.scales.paper import Bounded, Constant, DownBounded, Exp, ExpLin, NaiveExp, UpBounded
from vdvae_patch.scales.scale import SCALES, Scale, Written, get

__all__ = [
    "SCALES",
    "Bounded",
    "Clamp",
    "Constant",
    "DownBounded",
    "Exp",
    "ExpLin",
    "NaiveExp",
    "Scale",
    "Shifted",
    "SoftClamp",
    "Softplus",
    "UpBounded",
    "Written",
    "get",
]
