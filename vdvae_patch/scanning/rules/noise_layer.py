"""A parameter that only scales noise belongs to a noise layer, as the generator of a GAN has it.

    h = h + self.strength * torch.randn_like(h)

No density and no KL measures the strength, so nothing says that it is the σ of a Normal over anything. A prior whose
scale is a parameter is measured by a KL. And beside weights that a KL or a prior measures, others that are drawn alike,
around a parameter and by a scale that cannot be negative, are a posterior, too, though the host leaves them out of its
KL:

    bias = self.bias_mean + F.softplus(self.bias_rho) * torch.randn_like(self.bias_mean)

So are weights whose mean is told in units of σ, where a KL has the square of that ratio alone:

    weight = (self.ratio + torch.randn_like(self.ratio)) * self.rho.abs()
    kl = 0.5 * torch.log(1 + self.ratio**2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.evidence.uses import are_squared, drawn_weights, of_ratios
from vdvae_patch.scanning.rules.stages import drops
from vdvae_patch.scanning.rules.unsigned import GRID


# after `bound`, because a reading which that rule drops must not count as a density that measures the parameter
@drops.rule(after=["bound"])
def noise_layer(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop parameters that multiply noise and are nowhere else read as a scale."""
    measured = {r.raw.key for r in found if r.evidence != "noise"}
    of_weights = [r for r in found if r.evidence == "noise" and _is_of_weights(graph, r)]
    bayesian = any(
        r.raw.key in measured
        or are_squared(graph, drawn_weights(graph, r.node))
        or are_squared(graph, [settle(Spot(ratio)).node for _, ratio in of_ratios(graph, r.node)])
        for r in of_weights
    )
    for reading in found:
        only_noise = reading.evidence == "noise" and reading.raw.key not in measured and not reading.parts
        if only_noise and reading.raw.node.kind == "parameter" and not (bayesian and reading in of_weights):
            reason = "a parameter scales noise, and no density or KL measures it: a noise layer"
            yield reading, NearMiss.at(reading.node, reason)


def _is_of_weights(graph: Graph, reading: Reading) -> bool:
    """Whether a layer's weights are drawn with a parameter that the host has made positive."""
    if reading.raw.node.kind != "parameter":
        return False
    expression = Expression(reading.spot)
    if expression.leaves.keys() != {reading.raw.key} or not expression.order:
        return False
    sigma = expression.value({reading.raw.key: GRID})
    for step in reading.suffix:
        sigma = step.forward(sigma)
    return bool((sigma >= 0).all()) and bool((sigma > 0).any()) and bool(drawn_weights(graph, reading.node))
