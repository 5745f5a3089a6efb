"""A posterior relative to its prior whose KL is written in the differences alone: σ_p stands in it as a ratio, and its
logarithm as a difference alone. And a table says where a bare parameter is compared."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch


class Level(nn.Module):
    """q = N(μ_p + Δμ, σ_p exp(Δ))."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.delta, self.merge = nn.Linear(8, 6), nn.Linear(16, 6), nn.Linear(3, 8)

    def forward(self, h: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        prior_mean, prior_log_sigma = self.prior(h).chunk(2, 1)
        mean, delta = self.delta(torch.cat([h, code], 1)).chunk(2, 1)
        log_sigma = prior_log_sigma + delta
        z = prior_mean + mean + log_sigma.exp() * torch.randn_like(mean)
        ratio = (mean / prior_log_sigma.exp()) ** 2
        kl = prior_log_sigma - log_sigma + 0.5 * ((2 * delta).exp() + ratio - 1)
        return h + torch.tanh(self.merge(z)), kl.sum(1)


class Levels(nn.Module):
    """Two levels of these, from a learned beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.begin = nn.ModuleList([Level(), Level()]), nn.Parameter(torch.zeros(8))
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        code, h = torch.relu(self.encoder(x)), self.begin.expand(len(x), -1)
        kl = x.new_zeros(len(x))
        for level in self.levels:
            h, more = level(h, code)
            kl = kl + more
        return (((self.decoder(h) - x) ** 2).sum(1) + 0.1 * kl).mean()


class Weighting(nn.Module):
    """Two tasks, weighed by two log variances that are read as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.log_vars = nn.Linear(6, 2), nn.Linear(6, 1), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.mse_loss(self.one(x), x[:, :2].sin()), F.mse_loss(self.two(x), x[:, 2:3].cos())
        a, b = self.log_vars
        return torch.exp(-a) * first + a + torch.exp(-b) * second + b


def test_what_a_posteriors_draw_is_relative_to_is_its_prior() -> None:
    torch.manual_seed(0)
    model, x, out = Levels(), torch.randn(5, 8), io.StringIO()
    heads = vdvae_patch.scan(model, x)
    roles = {head.path: head.role for head in heads}
    assert roles == {f"levels.{i}.{n}": r for i in (0, 1) for n, r in (("prior", "prior"), ("delta", "posterior"))}
    assert not any("differ between elements" in note for note in heads.elbo.notes)
    vdvae_patch.stabilize(model, x, file=out)
    assert "NOT cured" not in out.getvalue()


def test_a_parameter_that_is_read_as_it_is_has_the_line_that_compares_it() -> None:
    torch.manual_seed(0)
    heads = vdvae_patch.scan(Weighting(), torch.randn(5, 6))
    assert heads
    assert all(head.found is not None and head.found.line > 0 for head in heads)
