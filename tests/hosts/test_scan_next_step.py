"""Densities of data that a network predicts from other data of the same tensor, and flows, which look like them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.scanning import scan


class Predictor(nn.Module):
    """The next steps of a series, of which a Normal's log density is written out."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.rnn, self.cell, self.out = nn.GRU(1, 4, batch_first=True), nn.GRUCell(1, 4), nn.Linear(4, 2)
        self.conv = nn.Conv1d(1, 2, 3)

    def nll(self, target: Tensor, out: Tensor) -> Tensor:
        mean, log_sigma = out[..., :1], out[..., 1:]
        return (log_sigma + 0.5 * (target - mean) ** 2 * torch.exp(-2 * log_sigma)).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "the output is shifted":
            return self.nll(x[:, 1:], self.out(self.rnn(x)[0])[:, :-1])
        if self.form == "the input is shifted":
            return self.nll(x[:, 1:], self.out(self.rnn(x[:, :-1])[0]))
        if self.form == "zeros go first":
            return self.nll(x, self.out(self.rnn(F.pad(x[:, :-1], (0, 0, 1, 0)))[0]))
        if self.form == "a causal convolution":
            return self.nll(x, self.conv(F.pad(x.transpose(1, 2), (3, 0))[:, :, :-1]).transpose(1, 2))
        if self.form == "the residual is squared":
            mean, log_sigma = self.out(self.rnn(x)[0])[:, :-1].chunk(2, -1)
            return (0.5 * ((x[:, 1:] - mean) / log_sigma.exp()) ** 2 + log_sigma).mean()
        state, loss = torch.zeros(len(x), 4), torch.zeros(())
        for step in range(x.shape[1] - 1):
            state = self.cell(x[:, step], state)
            loss = loss + self.nll(x[:, step + 1], self.out(state))
        return loss


FORMS = (
    "the output is shifted", "the input is shifted", "zeros go first", "a causal convolution",
    "the residual is squared", "a loop over time",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_density_of_the_next_step_is_a_likelihood(form: str) -> None:
    torch.manual_seed(0)
    (head,) = scan(Predictor(form), torch.randn(3, 8, 1))
    path = "conv" if "convolution" in form else "out"
    assert (head.path, head.channels, head.role, str(head.convention)) == (path, "1:2", "likelihood", "log_sigma")


class Horizon(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.net(x[:, :4]).chunk(2, 1)
        return 0.5 * (log_var + (x[:, 4:] - mean) ** 2 / log_var.exp()).mean()


def test_the_density_of_a_horizon_after_its_past_is_a_likelihood() -> None:
    torch.manual_seed(0)
    (head,) = scan(Horizon(), torch.randn(5, 8))
    assert (head.path, head.channels, head.role) == ("net", "4:8", "likelihood")


class Coupling(nn.Module):
    """A flow of raw data: half of them is scaled by what a network computes of the other half."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second, self.whole = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 12)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 0, 1, 0]))
        self.register_buffer("lower", torch.tril(torch.ones(6, 6), -1).repeat(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        if self.form == "masked weights":
            mean, log_s = F.linear(x, self.whole.weight * self.lower, self.whole.bias).chunk(2, 1)
            return (0.5 * ((x - mean) * torch.exp(-log_s)) ** 2 + log_s).sum(1).mean()
        if self.form == "masked data":
            mean, log_s = (part * (1 - self.mask) for part in self.whole(x * self.mask).chunk(2, 1))
            return (0.5 * ((x - mean) * torch.exp(-log_s)) ** 2 + log_s).sum(1).mean()
        log_s, mean = self.first(a).chunk(2, 1)
        b = (b - mean) * torch.exp(-log_s)
        if self.form == "two layers":
            log_t, mean = self.second(b).chunk(2, 1)
            a, log_s = (a - mean) * torch.exp(-log_t), log_s + log_t
            return (0.5 * (a**2 + b**2) + log_s).sum(1).mean()
        return (0.5 * torch.cat([a, b], 1) ** 2).sum(1).mean() + log_s.sum(1).mean()


@pytest.mark.parametrize("form", ["masked weights", "masked data", "one layer", "two layers"])
def test_a_flow_of_raw_data_has_no_head(form: str) -> None:
    torch.manual_seed(0)
    assert not list(scan(Coupling(form), torch.randn(5, 6)))
