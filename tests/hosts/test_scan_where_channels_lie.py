"""Means and scales lie where the layer has them: behind a normalization, and where a layer has one channel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import patch, scan

X = torch.linspace(-1, 1, 4 * 3 * 5).reshape(4, 3, 5)


class Encoder(nn.Module):
    """Of `[B, T, 5]`, means and log variances `[B, T, 2]` each."""

    def __init__(self, *layers: nn.Module, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.layers, self.before = nn.Sequential(*layers), before
        self.decoder = nn.Linear(2, 5)

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.layers(self.before(x)).chunk(2, dim=-1)
        return mean, log_var

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.code(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)
        return ((self.decoder(z) - self.before(x)) ** 2).sum() + kl.sum()


def pooled(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


ENCODERS: dict[str, tuple[Callable[[], Encoder], str]] = {
    "batch norm over time": (lambda: Encoder(nn.Linear(5, 4), nn.BatchNorm1d(3)), "layers.1"),
    "batch norm of one channel": (lambda: Encoder(nn.Linear(5, 4), nn.BatchNorm1d(1), before=pooled), "layers.1"),
    "a convolution with one channel": (lambda: Encoder(nn.Conv1d(1, 1, 2), before=pooled), "layers.0"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_scales_alone_are_the_head_and_the_means_stay(name: str) -> None:
    torch.manual_seed(0)
    make, path = ENCODERS[name]
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    (head,) = scan(model, X)
    assert (head.path, head.channels, head.role) == (path, "2:4", "posterior")
    assert head.dim in (2, -1)
    before = model.eval().code(X)
    patch(model, posterior="bounded(0.5, 1)", heads=[head])
    after = model.code(X)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


class Gathers(nn.Module):
    """A recurrence that begins its outputs with nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        total, state, outputs = x.new_zeros(()), x.new_zeros(len(x), 5), x.new_empty(0, len(x), 5)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            mean, log_var = self.head(state).chunk(2, dim=1)
            state = state + nn.functional.pad(mean + torch.randn_like(mean) * (0.5 * log_var).exp(), (0, 3))
            total = total - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()
            outputs = torch.cat([outputs, state[None]])
        return ((outputs.transpose(0, 1) - x) ** 2).sum() + total


def test_a_tensor_without_an_element_ends_no_scan() -> None:
    torch.manual_seed(0)
    (head,) = scan(Gathers(), X)
    assert (head.path, head.channels, head.role) == ("head", "2:4", "posterior")


def test_a_product_of_tables_ends_no_scan() -> None:
    torch.manual_seed(0)
    model = ENCODERS["batch norm over time"][0]()
    table = torch.eye(5)

    def loss(model: Encoder, x: Tensor) -> Tensor:
        return model(x @ table) + (x[0] @ table.matrix_power(2) @ x[0].T).sum()

    (head,) = scan(model, X, call=loss)
    assert head.path == "layers.1"
