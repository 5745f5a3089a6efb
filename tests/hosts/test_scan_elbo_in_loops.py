"""How often the KL counts beside a density that is written in a loop: over the columns of a table, or over time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.scanning import scan

COLUMNS = 5


class Table(nn.Module):
    """Twice the negative log density of each column, whose σ is a part of one value, beside the KL."""

    def __init__(self, of: str, groups: Sequence[slice], weights: Sequence[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of, self.groups, self.weights = of, groups, weights
        self.enc, self.dec = nn.Linear(COLUMNS, 6), nn.Linear(3, 2 * COLUMNS)
        self.sigma = nn.Parameter(torch.full((COLUMNS,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        m, v = self.enc(x).chunk(2, 1)
        mean, raw = self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m)).chunk(2, 1)
        total = torch.zeros(())
        for group, weight in zip(self.groups, self.weights, strict=True):
            sigma = raw[:, group].exp() if self.of == "the network" else self.sigma[group]
            error = x[:, group] - mean[:, group]
            total = total + 2 * weight * (error**2 / 2 / sigma**2 + sigma.log()).sum()
        return (total + 0.5 * (m**2 + v.exp() - 1 - v).sum()) / len(x)


SINGLE = [slice(n, n + 1) for n in range(COLUMNS)]
UNEQUAL = [slice(0, 2), slice(2, COLUMNS)]


@pytest.mark.parametrize("of", ["the network", "parameters"])
@pytest.mark.parametrize("groups", [SINGLE, UNEQUAL])
def test_columns_that_each_have_a_part_of_one_value_for_their_sigma_count_once(of: str, groups: list[slice]) -> None:
    elbo = scan(Table(of, groups, [1.0] * len(groups)), torch.randn(8, COLUMNS)).elbo
    assert elbo.beta == pytest.approx(0.5, rel=1e-6)
    assert not elbo.notes


def test_columns_that_have_a_sigma_by_groups_of_unequal_size_count_once() -> None:
    class Groups(Table):
        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            m, v = self.enc(x).chunk(2, 1)
            mean, total = self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m)), torch.zeros(())
            for column in range(COLUMNS):
                log_sigma = self.sigma[0 if column < 2 else 1]
                density = (x[:, column] - mean[:, column]) ** 2 / 2 * torch.exp(-2 * log_sigma) + log_sigma
                total = total + 2 * (density * seen[:, column]).sum()
            return (total + 0.5 * (m**2 + v.exp() - 1 - v).sum()) / len(x)

    seen = torch.ones(8, COLUMNS)
    for missing in (0, 3):
        seen[:missing, 1] = seen[1 : 1 + missing, 4] = 0
        batch = (torch.randn(8, COLUMNS), seen)
        elbo = scan(Groups("parameters", [], []), batch, call=lambda model, batch: model(*batch)).elbo
        assert elbo.beta == pytest.approx(0.5, rel=1e-6)
        assert elbo.notes == (("15% of the values have no part in it: masked",) if missing else ())


@pytest.mark.parametrize("of", ["the network", "parameters"])
def test_columns_with_different_weights_are_said_to_have_them(of: str) -> None:
    elbo = scan(Table(of, SINGLE, [1, 1, 1, 1, 4]), torch.randn(8, COLUMNS)).elbo
    assert any("differ between elements" in note for note in elbo.notes)


def test_of_more_columns_than_are_read_it_is_said_how_many_were() -> None:
    class Sums(nn.Module):
        """As TVAE has it: the squared errors and the logarithms are terms of their own."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enc, self.dec = nn.Linear(9, 6), nn.Linear(3, 9)
            self.sigma = nn.Parameter(torch.full((9,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            m, v = self.enc(x).chunk(2, 1)
            mean, terms = self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m)), []
            for column in range(9):
                error = x[:, column] - torch.tanh(mean[:, column])
                terms += [(error**2 / 2 / self.sigma[column] ** 2).sum(), self.sigma[column].log() * len(x)]
            return (2 * sum(terms) + (m**2 + v.exp() - 1 - v).sum() / 2) / len(x)

    elbo = scan(Sums(), torch.rand(10, 9) - 0.5).elbo
    assert elbo.beta == pytest.approx(0.5, rel=1e-6)
    (note,) = elbo.notes
    assert re.fullmatch(r"of the 9 comparisons in a loop the factors of \d alone were read, and are taken", note)


@pytest.mark.parametrize(("discount", "told"), [(1.0, False), (0.5, True)])
def test_a_density_that_is_discounted_over_time_is_said_to_be(discount: float, told: bool) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enc, self.dec, self.cell = nn.Linear(6, 4), nn.Linear(4, 4), nn.GRUCell(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            h, loss = x.new_zeros(len(x), 4), torch.zeros(len(x))
            for t in range(x.shape[1]):
                m, v = self.enc(torch.cat([x[:, t], h], 1)).chunk(2, 1)
                h = self.cell(m + torch.exp(0.5 * v) * torch.randn_like(m), h)
                mean, raw = self.dec(h).chunk(2, 1)
                density = ((x[:, t] - mean) ** 2 * (-2 * raw).exp() / 2 + raw).sum(1)
                loss = loss + discount**t * density + 0.5 * (m**2 + v.exp() - 1 - v).sum(1)
            return loss.mean()

    elbo = scan(Series(), torch.randn(5, 4, 2)).elbo
    assert any("differ between elements" in note for note in elbo.notes) == told
    assert told or elbo.beta == pytest.approx(1, rel=1e-6)


def test_one_sigma_of_all_steps_counts_once_where_sequences_end_before_others() -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enc, self.dec, self.cell = nn.Linear(6, 4), nn.Linear(4, 2), nn.GRUCell(2, 4)
            self.log_sigma = nn.Parameter(torch.tensor(-0.2))

        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            h, loss = x.new_zeros(len(x), 4), torch.zeros(len(x))
            for t in range(x.shape[1]):
                m, v = self.enc(torch.cat([x[:, t], h], 1)).chunk(2, 1)
                h = self.cell(m + torch.exp(0.5 * v) * torch.randn_like(m), h)
                density = (x[:, t] - self.dec(h)) ** 2 / 2 * torch.exp(-2 * self.log_sigma) + self.log_sigma
                kl = 0.5 * (m**2 + v.exp() - 1 - v)
                loss = loss + (density.sum(1) + 0.3 * kl.sum(1)) * seen[:, t]
            return loss.mean()

    seen = (torch.arange(4) < torch.tensor([[4], [3], [2], [1], [1]])).float()
    batch = (torch.randn(5, 4, 2), seen)
    elbo = scan(Series(), batch, call=lambda model, batch: model(*batch)).elbo
    assert elbo.beta == pytest.approx(0.3, rel=1e-6)
    assert "45% of the values have no part in it: masked" in elbo.notes


@pytest.mark.parametrize("spread", [(2.0, 2.0, 2.0), (0.5, 10.0, 1000.0)])
def test_columns_that_are_standardized_one_by_one_are_in_no_one_unit_of_the_data(spread: tuple[float, ...]) -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enc, self.dec = nn.Linear(3, 4), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            m, v = self.enc(x / torch.tensor(spread)).chunk(2, 1)
            output, total = self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m)), torch.zeros(())
            for column, deviation in enumerate(spread):
                total = total + ((output[:, column] - x[:, column] / deviation) ** 2).sum()
            return (total + 0.5 * (m**2 + v.exp() - 1 - v).sum()) / len(x)

    elbo = scan(Columns(), torch.randn(16, 3) * torch.tensor(spread)).elbo
    unit = 2.0 if len(set(spread)) == 1 else 1.0  # else of what is compared
    assert elbo.sigma == pytest.approx(0.5**0.5 * unit, rel=1e-6)
    assert elbo.data is not None
    assert elbo.data.words.startswith("standardized") == (unit == 1)
