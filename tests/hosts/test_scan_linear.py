"""A Linear that emits a raw parameter is patched exactly, however many dimensions come before its channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

SCALE = "upbounded(omega=2)"


class Encoder(nn.Module):
    """A mean and a log σ from one Linear, or from two; `lag` hands it a transposed sequence, as a convolution would."""

    def __init__(self, together: bool, bias: bool, lag: bool = False) -> None:
        super().__init__()
        self.together, self.lag = together, lag
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4 if together else 2, bias=bias)
        self.mean = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        if self.lag:
            h = (2 * h.transpose(-1, -2)).contiguous().transpose(-1, -2)
        mean, log_sigma = self.head(h).chunk(2, -1) if self.together else (self.mean(h), self.head(h))
        z = mean + torch.randn_like(mean) * log_sigma.exp()
        return (0.5 * ((2 * log_sigma).exp() + mean**2) - log_sigma).sum() + z.square().mean()


LEADING = [(), (5,), (5, 3), (5, 3, 2), (2, 3, 2, 2)]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("leading", "lag"), [(n, lag) for n in LEADING for lag in (False, True) if n or not lag], ids=str
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("together", [True, False], ids=["with the mean", "alone"])
def test_a_linear_head_is_patched_whatever_comes_before_its_channels(
    leading: tuple[int, ...], bias: bool, together: bool, lag: bool
) -> None:
    torch.manual_seed(0)
    model, x = Encoder(together, bias, lag), torch.randn(*leading, 6)
    heads = scan(model, x)
    assert [(h.path, h.start, h.stop, h.role) for h in heads] == [
        ("head", 2, 4, "posterior") if together else ("head", 0, None, "posterior")
    ]
    assert heads[0].dim % max(1, len(leading) + 1) == len(leading)

    h = torch.randn(*leading, 6)
    before = model.head(h)
    patch(model, posterior=SCALE, heads=heads, paper=True)
    after = model.head(h)
    start = 2 if together else 0
    torch.testing.assert_close(after[..., :start], before[..., :start], rtol=0, atol=0)
    torch.testing.assert_close(after[..., start:].exp(), scales.get(SCALE).sigma(before[..., start:]))


class Steps(nn.Module):
    """The same layer on a sequence and on its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        loss = torch.zeros(())
        for part in (x, x[:, 0]):
            mean, log_sigma = self.head(part).chunk(2, -1)
            z = mean + torch.randn_like(mean) * log_sigma.exp()
            loss = loss + (0.5 * ((2 * log_sigma).exp() + mean**2) - log_sigma).sum() + z.square().mean()
        return loss


def test_a_layer_that_is_called_on_two_and_on_three_dimensions_is_one_head() -> None:
    model = Steps()
    heads = scan(model, torch.randn(5, 3, 6))
    assert [(h.path, h.start, h.stop, h.dim) for h in heads] == [("head", 2, 4, -1)]
    x = torch.randn(5, 3, 6)
    before = model.head(x)
    patch(model, posterior=SCALE, heads=heads, paper=True)
    torch.testing.assert_close(model.head(x)[..., 2:].exp(), scales.get(SCALE).sigma(before[..., 2:]))
