"""The bound of a loss in which each row of the data has a factor of its own, as where it is divided by its length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vdvae_patch import scan

_T = 9
_LENGTHS = torch.tensor([9, 9, 2, 2, 3, 5])
_MASK = (torch.arange(_T) < _LENGTHS[:, None]).float()
_TAKEN_OUT = "rows of the data have factors of their own, 0.38 to 1.71 times their mean"


def _kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    return (0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(-1)


class _Sequences(nn.Module):
    """A latent at each step, or one for each sequence; `likelihood` is of the values of a step, or several."""

    def __init__(self, likelihood: str, *, one: bool = False, beta: float = 1.0) -> None:
        super().__init__()
        self.likelihood, self.one, self.beta = likelihood, one, beta
        self.encoder, self.decoder = nn.Linear(4, 6), nn.Linear(3, 8)
        self.log_sigma = nn.Parameter(torch.tensor([0.0, 0.1, -0.1, 0.2]))

    def terms(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """KL and negative log likelihood of each sequence."""
        mu, log_sigma = self.encoder(x[:, 0] if self.one else x).chunk(2, -1)
        z = mu + log_sigma.exp() * torch.randn_like(mu)
        out = self.decoder(z)[:, None].expand(-1, x.shape[1], -1) if self.one else self.decoder(z)
        kl = _kl(mu, log_sigma) if self.one else (_kl(mu, log_sigma) * mask).sum(1)
        return self.beta * kl, (self.of_a_step(out, x) * mask).sum(1)

    def of_a_step(self, out: Tensor, x: Tensor) -> Tensor:
        mean, raw = out.chunk(2, -1)
        if self.likelihood == "learned":
            return -Normal(mean, raw.exp()).log_prob(x).sum(-1)
        if self.likelihood == "shared":
            return -Normal(mean, self.log_sigma.exp()).log_prob(x).sum(-1)
        if self.likelihood == "Bernoulli":
            return binary_cross_entropy_with_logits(mean, (x > 0).float(), reduction="none").sum(-1)
        if self.likelihood == "categorical":
            return cross_entropy(out.transpose(1, 2), (x > 0).sum(-1), reduction="none")
        return (0.5 * (mean - x) ** 2).sum(-1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kl, nll = self.terms(x, mask)
        return ((kl + nll) / mask.sum(1)).mean()


class _TimeFirst(_Sequences):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = x.transpose(0, 1), mask.t()
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        out = self.decoder(mu + log_sigma.exp() * torch.randn_like(mu))
        return (((_kl(mu, log_sigma) + self.of_a_step(out, x)) * mask).sum(0) / mask.sum(0)).mean()


class _OnRows(_Sequences):
    """Layers are given steps as rows."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = x.reshape(-1, 4)
        mu, log_sigma = self.encoder(rows).chunk(2, -1)
        out = self.decoder(mu + log_sigma.exp() * torch.randn_like(mu))
        kl, nll = (value.view(len(x), -1) for value in (_kl(mu, log_sigma), self.of_a_step(out, rows)))
        return (((kl + nll) * mask).sum(1) / mask.sum(1)).mean()


class _KlByItsSquare(_Sequences):
    """Each row has another factor on its KL than on its likelihood."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kl, nll = self.terms(x, mask)
        return (kl / mask.sum(1) ** 2 + nll / mask.sum(1)).mean()


class _Weighted(_Sequences):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kl, nll = self.terms(x, mask)
        weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 5.0])
        return (weights * (kl + nll)).sum() / weights.sum()


def _scanned(host: type[_Sequences], likelihood: str, **given: object):
    torch.manual_seed(0)
    return scan(host(likelihood, **given), torch.randn(6, _T, 4), _MASK).elbo  # type: ignore[arg-type]


@pytest.mark.parametrize("one", [False, True], ids=["each step", "each sequence"])
@pytest.mark.parametrize("likelihood", ["learned", "shared", "Bernoulli", "categorical"])
def test_the_kl_counts_once_where_each_sequence_is_divided_by_its_length(likelihood: str, one: bool) -> None:
    elbo = _scanned(_Sequences, likelihood, one=one)
    assert elbo.beta == pytest.approx(1.0, rel=1e-3), str(elbo)
    assert any(note.startswith(_TAKEN_OUT) for note in elbo.notes)
    assert not any("differ between elements" in note for note in elbo.notes)


@pytest.mark.parametrize("host", [_Sequences, _TimeFirst, _OnRows])
def test_a_squared_error_of_a_half_has_a_sigma_of_one_whatever_each_row_is_divided_by(host: type[_Sequences]) -> None:
    elbo = _scanned(host, "squared")
    assert elbo.sigma == pytest.approx(1.0, rel=1e-6)
    assert any(note.startswith(_TAKEN_OUT) for note in elbo.notes)


def test_what_is_on_the_kl_alone_stays() -> None:
    assert _scanned(_Sequences, "squared", beta=4.0).sigma == pytest.approx(2.0, rel=1e-6)
    assert _scanned(_Sequences, "learned", one=True, beta=4.0).beta == pytest.approx(4.0, rel=1e-3)


def test_weights_of_rows_are_left_out() -> None:
    elbo = _scanned(_Weighted, "Bernoulli", one=True)
    assert elbo.beta == pytest.approx(1.0, rel=1e-6)
    assert any("0.462 to 2.31 times their mean" in note for note in elbo.notes)


def test_factors_that_kl_and_likelihood_do_not_share_are_said() -> None:
    elbo = _scanned(_KlByItsSquare, "Bernoulli", one=True)
    assert not any("rows of the data have factors" in note for note in elbo.notes)
    assert sum("differ between elements" in note for note in elbo.notes) == 2
