"""Scales in graphs: what a compiler or an exporter does with their numbers and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import scales

SPECS = [
    "exp",
    "explin",
    "upbounded(omega=2)",
    "downbounded(0.1)",
    "bounded(0.1, 0.9)",
    "softplus",
    "softclamp",
    "clamp",
    "naiveexp",
]


class TwoHeads(nn.Module):
    """Two heads that were given the same scale."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.scale = scales.get(spec)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, p: Tensor) -> Tensor:
        p = p + self.shift
        return self.scale.log_sigma(p) + self.scale.sigma(p + 1) + self.scale.log_variance(p - 1)


def value_and_gradient(call: nn.Module) -> list[Tensor]:
    p = torch.linspace(-2, 2, 7, requires_grad=True)
    value = call(p)
    return [value.detach(), *torch.autograd.grad(value.sum(), p)]


@pytest.mark.parametrize("spec", SPECS)
def test_two_heads_of_one_scale_compile_with_dynamic_numbers(spec: str) -> None:
    torch._dynamo.reset()
    model = TwoHeads(spec)
    compiled = torch.compile(model, dynamic=True, backend="eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled), value_and_gradient(model))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_an_exported_scale_has_its_gradient(spec: str, strict: bool) -> None:
    model = TwoHeads(spec)
    exported = torch.export.export(model, (torch.zeros(7),), strict=strict).module()
    torch.testing.assert_close(value_and_gradient(exported), value_and_gradient(model))
