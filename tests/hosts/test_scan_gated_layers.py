"""What a layer with a gate puts out is one raw value; one that leads to two σ in two ways is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from public import tenth_sequences
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import PatchError, patch, scan


class Gated(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.value, self.gate, self.activation = nn.Linear(6, 3), nn.Linear(6, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.value(x)) * torch.sigmoid(self.gate(x))


class VAE(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mean, self.raw, self.decoder = nn.Linear(6, 3), Gated(activation), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), self.sigma(self.raw(x)))
        kl = kl_divergence(q, Normal(torch.zeros(3), torch.ones(3))).sum(1).mean()
        return F.mse_loss(self.decoder(q.rsample()), x) + kl

    def sigma(self, raw: Tensor) -> Tensor:
        return torch.exp(0.5 * raw)


class ScalesOfTwo(VAE):
    """What the layer puts out is σ itself, a product of two positive numbers."""

    def __init__(self) -> None:
        super().__init__(F.softplus)

    def sigma(self, raw: Tensor) -> Tensor:
        return raw


@pytest.mark.parametrize("activation", [F.silu, torch.tanh, F.relu, lambda v: v])
def test_a_layer_with_a_gate_is_named_and_patched_as_one(activation: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = VAE(activation), torch.randn(5, 6)
    (head,) = scan(model, x)
    assert (head.path, head.channels, head.role, str(head.convention)) == ("raw", ":", "posterior", "log_variance")
    torch.manual_seed(1)
    before = model(x)
    with patch(model, heads=[head], posterior="upbounded(omega=100)", paper=False):
        torch.manual_seed(1)
        assert float(model(x).detach()) == pytest.approx(float(before.detach()), rel=0.02)
    assert float(head.convention.sigma(torch.tensor(2.0))) == pytest.approx(torch.e)


def test_of_a_product_of_two_scales_each_is_a_head() -> None:
    torch.manual_seed(0)
    heads = scan(ScalesOfTwo(), torch.randn(5, 6))
    assert [h.path for h in heads] == ["raw.value", "raw.gate"]


def test_one_output_that_leads_to_two_sigmas_in_two_ways_is_refused_with_what_can_be_done() -> None:
    case = next(case for case in tenth_sequences.CASES if case.name.startswith("Deconfounder"))
    model, heads = case.scanned()
    assert {h.role for h in heads if h.path.startswith("h_sigma_net")} == {"posterior", "prior"}
    with pytest.raises(PatchError, match="what stands in its place") as error:
        patch(model, heads=heads, posterior="explin", prior="explin", likelihood="explin")
    assert "give both the same" not in str(error.value)
    assert "give each a layer of its own" in str(error.value)
    with pytest.raises(PatchError, match="it leads to them in two ways") as alone:
        patch(model, "explin/vanilla", heads=heads)
    assert "give both the same" not in str(alone.value)
