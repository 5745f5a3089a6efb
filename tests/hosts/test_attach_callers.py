"""An argument that σ depends on goes with the host's expression only if all of the model's calls leave it alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Law(nn.Module):
    def forward(self, mean: Tensor, log_var: Tensor, eps: float = 1e-4, *, temperature: float = 1.0) -> Tensor:
        var = log_var.exp() * temperature + eps
        kl = 0.5 * (mean**2 + var - 1 - var.log()).sum(1).mean()
        return mean + var.sqrt() * torch.randn_like(mean), kl  # type: ignore[return-value]


class Coder(nn.Module):
    def __init__(self, call: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.law, self.call = nn.Linear(6, 6), nn.Linear(3, 6), Law(), call

    def plain(self, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = self.law(mean, log_var)
        return z, kl

    def forward(self, x: Tensor) -> Tensor:
        z, kl = self.call(self, *self.encoder(x).chunk(2, 1))
        return (self.decoder(z) - x).square().sum(1).mean() + kl


class Cooler(Coder):
    def drawn(self, mean: Tensor, log_var: Tensor, temperature: float) -> Tensor:
        return self.law(mean, log_var, temperature=temperature)[0]


class Floored(Coder):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z, kl = self.law(mean, log_var, 1e-4)
        return (self.decoder(z) - x).square().sum(1).mean() + kl


@pytest.mark.filterwarnings("ignore:head .* the host keeps σ")
@pytest.mark.parametrize("model", [Coder(Coder.plain), Floored(Coder.plain)], ids=["left out", "a constant"])
def test_a_floor_that_no_call_changes_goes_with_the_expression(model: Coder) -> None:
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.encoder.bias[3:] = -3
    torch.manual_seed(2)
    before = model(x)
    (head,) = scan(model, x)
    patch(model, posterior="explin", heads=[head], paper=False)
    torch.manual_seed(2)
    torch.testing.assert_close(model(x), before, rtol=1e-2, atol=0)


def test_an_argument_that_another_call_changes_is_not_dropped() -> None:
    model, x = Cooler(Coder.plain), torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    (head,) = scan(model, x)
    with pytest.raises(PatchError, match="σ also depends on 'temperature', an argument"):
        patch(model, posterior="explin", heads=[head])
