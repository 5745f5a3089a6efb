"""Log variances that are written where indices or a mask say, and read back: banks, tables of a class, columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan

PLACES, CLASSES, WIDTH = 20, 2, 3


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(PLACES, generator=generator)[:9]
    return torch.randn(9, 6, generator=generator), index, torch.randint(CLASSES, (9,), generator=generator)


def kl_to_standard(mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()


class Banked(nn.Module):
    """What the log variance becomes between its layer and the draw is the case's."""

    def __init__(self, between: Callable[..., Tensor], layers: int = 1, width: int = WIDTH) -> None:
        super().__init__()
        self.between = between
        self.mean, self.dec = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 6)
        self.log_var = nn.ModuleList([nn.Linear(6, width) for _ in range(layers)])
        self.register_buffer("bank", torch.zeros(PLACES, WIDTH))

    def forward(self, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.between(self, x, index, label)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return (self.dec(z) - x).square().mean() + kl_to_standard(mean, log_var)


def assigned(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    bank = model.bank.clone()
    bank[index] = model.log_var[0](x)
    return bank[index]


def assigned_under_autocast(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = model.log_var[0](x)
    bank = model.bank.clone()
    bank[index] = raw.float()
    return bank[index]


def copied(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    return model.bank.index_copy(0, index, model.log_var[0](x))[index]


def scattered(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    where = index[:, None].expand(-1, WIDTH)
    return model.bank.scatter(0, where, model.log_var[0](x)).gather(0, where)


def masked(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    log_var = torch.zeros(len(x), WIDTH)
    log_var[label == 1] = model.log_var[0](x[label == 1])
    return log_var


def one_after_another(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    log_var, raw = torch.zeros(CLASSES, len(x), WIDTH), model.log_var[0](x)
    for row, group in enumerate(label.tolist()):
        log_var[group, row] = raw[row]
    return log_var[label, torch.arange(len(x))]


def columns_by_number(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    both = torch.zeros(len(x), 2 * WIDTH)
    both[:, [0, 2, 4]], both[:, [1, 3, 5]] = x[:, :3], model.log_var[0](x)
    return both[:, 1::2]


WRITTEN = [assigned, assigned_under_autocast, copied, scattered, masked, one_after_another, columns_by_number]


@pytest.mark.parametrize("between", WRITTEN)
def test_a_log_variance_that_is_written_into_a_bank_and_read_back_is_its_layers(between: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = Banked(between)
    heads = scan(model, *batch())
    assert found(heads) == [("log_var.0", ":", "posterior")]
    assert str(heads[0].convention) == "log_variance"
    patch(model, heads=heads, posterior="explin")


def rows_of_groups(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    log_var = torch.empty(len(x), WIDTH)
    for group, layer in enumerate(model.log_var):
        log_var[label == group] = layer(x[label == group])
    return log_var


def columns(model: Banked, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
    log_var = torch.empty(len(x), WIDTH)
    for place, layer in enumerate(model.log_var):
        log_var[:, place] = layer(x)[:, 0]
    return log_var


@pytest.mark.parametrize(
    ("between", "layers", "width"), [(rows_of_groups, CLASSES, WIDTH), (columns, WIDTH, 1)], ids=["rows", "columns"]
)
def test_of_several_layers_that_write_into_one_tensor_each_is_a_head(
    between: Callable[..., Tensor], layers: int, width: int
) -> None:
    torch.manual_seed(0)
    model = Banked(between, layers, width)
    heads = scan(model, *batch())
    assert found(heads) == [(f"log_var.{number}", ":", "posterior") for number in range(layers)]
    patch(model, heads=heads, posterior="explin")


class ClassTable(nn.Module):
    """The prior of a class is a row of a table of buffers, which are zeros at first: σ_q / σ_p is σ_q by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_var, self.dec = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 6)
        self.register_buffer("means", torch.zeros(CLASSES, WIDTH))
        self.register_buffer("log_vars", torch.zeros(CLASSES, WIDTH))

    def forward(self, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        p_mean, p = self.means[label], self.log_vars[label]
        kl = 0.5 * (torch.exp(log_var - p) + (mean - p_mean) ** 2 / p.exp() + p - log_var - 1)
        return (self.dec(z) - x).square().mean() + kl.sum(1).mean()


def test_a_table_of_priors_that_is_zero_does_not_hide_a_posterior() -> None:
    torch.manual_seed(0)
    model = ClassTable()
    heads = scan(model, *batch())
    assert found(heads) == [("log_var", ":", "posterior")]
    assert str(heads[0].convention) == "log_variance"
    patch(model, heads=heads, posterior="explin")


class Remembered(nn.Module):
    """A marginal over the batch's posteriors and those that a bank keeps, the batch's own among them."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_var, self.dec = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 6)
        self.register_buffer("means", torch.zeros(PLACES, WIDTH))
        self.register_buffer("log_vars", torch.zeros(PLACES, WIDTH))

    def forward(self, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        with torch.no_grad():
            self.means[index], self.log_vars[index] = mean, log_var
        means, log_vars = torch.cat([mean, self.means]), torch.cat([log_var, self.log_vars])
        density = -0.5 * (log_vars + (z[:, None] - means) ** 2 / log_vars.exp())
        marginal = torch.logsumexp(density.sum(2), 1).mean()
        return (self.dec(z) - x).square().mean() + kl_to_standard(mean, log_var) + 0.1 * marginal


def test_posteriors_of_a_batch_and_of_a_bank_are_of_one_layer() -> None:
    torch.manual_seed(0)
    model = Remembered()
    heads = scan(model, *batch())
    assert found(heads) == [("log_var", ":", "posterior")]
    patch(model, heads=heads, posterior="explin")
