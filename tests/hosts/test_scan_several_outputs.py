"""A raw value that an operation gives together with the places it was taken from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import PatchError, patch, scan
from vdvae_patch.scales import UpBounded

TAKING: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda v: v.view(-1, 5, 2).max(2)[0],
    "median": lambda v: v.view(-1, 5, 2).median(2).values,
    "kthvalue": lambda v: v.view(-1, 5, 2).kthvalue(1, 2).values,
    "cummax": lambda v: v[:, :5].cummax(1)[0],
    "sort": lambda v: torch.sort(v[:, :5], 1)[0],
    "topk": lambda v: torch.topk(v, 5, 1).values,
    "aminmax": lambda v: v.view(-1, 5, 2).aminmax(dim=2).max,
}


class Taken(nn.Module):
    """A VAE whose log variance is taken from among a layer's numbers."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.encoder = nn.Linear(8, 15)
        self.decoder = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        mean, numbers = h[:, :5], h[:, 5:]
        if self.how == "max":
            raw = numbers.view(-1, 5, 2).max(2)[0]
        elif self.how == "median":
            raw = numbers.view(-1, 5, 2).median(2).values
        elif self.how == "kthvalue":
            raw = numbers.view(-1, 5, 2).kthvalue(1, 2).values
        elif self.how == "cummax":
            raw = numbers[:, :5].cummax(1)[0]
        elif self.how == "sort":
            raw = torch.sort(numbers[:, :5], 1)[0]
        elif self.how == "topk":
            raw = torch.topk(numbers, 5, 1).values
        else:
            raw = numbers.view(-1, 5, 2).aminmax(dim=2).max
        sigma = torch.exp(0.5 * raw)
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + torch.exp(raw) - 1 - raw).sum()
        return ((self.decoder(z) - x) ** 2).sum() + kl, sigma


@pytest.mark.parametrize("how", sorted(set(TAKING) - {"aminmax"}))
def test_the_values_are_the_raw_ones_and_their_scale_is_the_variants(how: str) -> None:
    torch.manual_seed(0)
    model = Taken(how)
    x = torch.randn(16, 8)
    heads = scan(model, x)
    assert [head.role for head in heads] == ["posterior"]
    patch(model, "upbounded", heads=heads, paper=True)
    raw = TAKING[how](model.encoder(x)[:, 5:])
    loss, sigma = model(x)
    assert torch.allclose(sigma, UpBounded().sigma(raw), rtol=1e-5)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_one_of_several_tensors_of_numbers_is_refused_with_what_to_do() -> None:
    model = Taken("aminmax")
    with pytest.raises(PatchError, match="aminmax gives several tensors of numbers"):
        patch(model, "upbounded", heads=scan(model, torch.randn(16, 8)))
