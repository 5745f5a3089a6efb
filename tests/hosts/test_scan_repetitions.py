"""Several outputs for each value of the data: draws of one posterior count together, posteriors of their own do not."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.patching.term import term_in

B, D, LATENTS = 6, 12, 3
X = (torch.rand(B, D, generator=torch.Generator().manual_seed(4)) * 255).round() / 255


class Several(nn.Module):
    """Draws from each posterior, whose errors are averaged: the bound of a Gaussian with σ = √½, however it is written.

    What is compared last is kept, for the bound by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.draws = nn.Linear(D, 2 * LATENTS), nn.Linear(LATENTS, D), 4

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, -1)
        return mean, log_var

    def drawn(self, mean: Tensor, log_var: Tensor, *front: int) -> Tensor:
        z = mean + torch.exp(0.5 * log_var) * torch.randn(*front, *mean.shape)
        self.last: Tensor = self.decoder(z)
        return self.last

    def rate(self, mean: Tensor, log_var: Tensor) -> Tensor:
        return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)


class InFront(Several):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        y = self.drawn(mean, log_var, self.draws)
        return ((y - x) ** 2).sum(-1).mean() + self.rate(mean, log_var).mean()


class Expanded(Several):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        y = self.drawn(mean, log_var, self.draws)
        error = F.mse_loss(y, x.expand_as(y), reduction="sum") / (self.draws * len(x))
        return error + self.rate(mean, log_var).mean()


class Rows(Several):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        y = self.drawn(mean, log_var, self.draws)
        error = torch.sum((x - y).pow(2), dim=2)
        return (error.mean(0) + self.rate(mean, log_var)).mean()


class Behind(Several):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        y = self.drawn(mean[:, None], log_var[:, None].expand(-1, self.draws, -1))
        return ((y - x[:, None]) ** 2).sum(-1).mean() + self.rate(mean, log_var).mean()

    def drawn(self, mean: Tensor, log_var: Tensor, *front: int) -> Tensor:
        self.last = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn(log_var.shape))
        return self.last


class RepeatedBefore(Several):
    """Each of the repeated rows has a posterior and a KL of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.draws, 0)
        mean, log_var = self.posterior(x)
        error = F.mse_loss(self.drawn(mean, log_var), x, reduction="sum") / len(x)
        return error + self.rate(mean, log_var).mean()


class Loop(Several):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        total = torch.zeros(())
        for _ in range(self.draws):
            total = total + F.mse_loss(self.drawn(mean, log_var), x, reduction="sum") / len(x)
        return total / self.draws + self.rate(mean, log_var).mean()


class LoopWithPosteriors(Several):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for _ in range(self.draws):
            mean, log_var = self.posterior(x)
            error = F.mse_loss(self.drawn(mean, log_var), x, reduction="sum") / len(x)
            total = total + error + self.rate(mean, log_var).mean()
        return total / self.draws


ALL = (InFront, Expanded, Rows, Behind, RepeatedBefore, Loop, LoopWithPosteriors)
REPLACED = (InFront, Expanded, Rows, Behind, RepeatedBefore)


@pytest.mark.parametrize("kind", ALL)
def test_draws_of_one_posterior_count_together(kind: type[Several]) -> None:
    torch.manual_seed(1)
    elbo = vdvae_patch.scan(kind(), X).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert "`decoder.nll(data" in elbo.instead()
    assert ".mean()`" in elbo.instead()


@pytest.mark.parametrize("kind", REPLACED)
def test_the_decoder_stands_in_the_place_of_all_draws_for_any_number_of_rows_and_draws(kind: type[Several]) -> None:
    torch.manual_seed(1)
    model, said = kind(), io.StringIO()
    vdvae_patch.stabilize(model, X, decoder="optimal", posterior="exp", probe=False, file=said)
    assert "the loss is a bound with β = 1" in said.getvalue()
    for rows, draws in ((B, 4), (4, 4), (B, 2), (B, 1)):
        model.draws = draws
        value = model(X[:rows])
        data = X[:rows, None] if kind is Behind else X[:rows]
        data = data.repeat_interleave(draws, 0) if kind is RepeatedBefore else data.expand_as(model.last)
        decoder = vdvae_patch.decoders.get("optimal", PixelGrid(0, 1))
        nats = decoder.nll(data.reshape(-1, D), model.last.reshape(-1, D)).mean()
        bound = nats + model.rate(*model.posterior(X[:rows])).mean()
        assert value.item() == pytest.approx(bound.item(), rel=1e-4)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_saved_patch_knows_that_draws_stand_in_front() -> None:
    torch.manual_seed(1)
    model, again = Expanded(), Expanded()
    vdvae_patch.stabilize(model, X, decoder="optimal", probe=False, file=io.StringIO())
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    again.load_state_dict(model.state_dict())
    values = []
    for each in (model, again):
        torch.manual_seed(2)
        values.append(each(X))
    assert torch.equal(*values)


def test_a_loop_over_draws_has_no_one_sigma_and_says_so() -> None:
    torch.manual_seed(1)
    model, said = Loop(), io.StringIO()
    vdvae_patch.stabilize(model, X, decoder="optimal", probe=False, file=said)
    assert "it runs 4 times in one call, and each time its σ would be that of these errors alone" in said.getvalue()
    assert term_in(model) is None
    vdvae_patch.unpatch(model)
    vdvae_patch.stabilize(model, X, decoder="fixed(sigma=0.1)", probe=False, file=said)
    assert "with σ = 0.1: the loss is a bound with β = 1" in said.getvalue()


class LearnedSigma(Loop):
    """A Gaussian with one learned σ, whose likelihood is averaged over the draws of a loop."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.log_scale = nn.Linear(LATENTS, 1) if inside else nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        total = torch.zeros(())
        for _ in range(self.draws):
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            log_scale = self.log_scale(z) if self.inside else self.log_scale
            squared = 0.5 * ((x - self.decoder(z)) / log_scale.exp()) ** 2
            total = total + (log_scale + squared).sum() / len(x)
        return total / self.draws + self.rate(mean, log_var).mean()


@pytest.mark.parametrize("inside", [True, False])
def test_a_density_with_a_learned_sigma_counts_each_draw_of_a_loop(inside: bool) -> None:
    torch.manual_seed(0)
    elbo = vdvae_patch.scan(LearnedSigma(inside), X).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "Gaussian density"
    assert elbo.beta == pytest.approx(1, rel=1e-3)


class Best(InFront):
    """The best of several draws alone has a part in the loss."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        errors = ((self.drawn(mean, log_var, self.draws) - x) ** 2).sum(-1)
        return errors.amin(0).mean() + self.rate(mean, log_var).mean()


class BestOfALoop(InFront):
    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        errors = torch.stack([((self.drawn(mean, log_var) - x) ** 2).sum(-1) for _ in range(self.draws)])
        return errors.min(0)[0].mean() + self.rate(mean, log_var).mean()


class Neighbours(Several):
    """Clouds of four points, each of which is compared with its nearest one: the Chamfer distance."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        points = self.drawn(mean, log_var).view(-1, 4, 3)
        squared = ((points[:, :, None] - x.view(-1, 4, 3)[:, None]) ** 2).sum(-1)
        chamfer = squared.amin(1).mean(1) + squared.amin(2).mean(1)
        return (chamfer + self.rate(mean, log_var)).mean()


class InFrontOfAMask(InFront):
    """What is masked has no part in it in any draw, and the other half has it in all."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.posterior(x)
        errors = ((self.drawn(mean, log_var, self.draws) - x) ** 2) * (torch.arange(D) % 2)
        return errors.sum(-1).mean() + self.rate(mean, log_var).mean()


@pytest.mark.parametrize("kind", [Best, BestOfALoop, Neighbours])
def test_of_outputs_of_which_the_loss_takes_the_nearest_no_bound_is_told(kind: type[Several]) -> None:
    torch.manual_seed(0)
    elbo = vdvae_patch.scan(kind(), X).elbo
    assert not elbo
    assert "of the outputs with which the squared error" in elbo.reason


def test_draws_behind_one_mask_count_as_those_without() -> None:
    torch.manual_seed(0)
    elbo = vdvae_patch.scan(InFrontOfAMask(), X).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5), rel=1e-5)
