"""Numbers that the data decide, by a comparison or an index, and that are added on the way to σ."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

Added = Callable[[Tensor], Tensor]


class Host(nn.Module):
    def __init__(self, added: Added) -> None:
        super().__init__()
        self.body, self.mean, self.raw, self.out = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(3, 5)
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        mean, log_var = self.mean(h), self.raw(h)
        log_var = log_var + self.added(x)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return F.mse_loss(self.out(z), x) - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()


TABLE = torch.tensor([0.0, -1.0, -2.0, -3.0])


def label(x: Tensor) -> Tensor:
    return (2 * x[:, 0].abs()).long() % 4


DECIDED: dict[str, Added] = {
    "a comparison": lambda x: 2.0 * (x[:, :1] > 0),
    "one that holds nowhere in this batch": lambda x: 400.0 * (x[:, :1] > 50),
    "a choice of two numbers": lambda x: torch.where(x[:, :1] > 0, 1.0, -1.0),
    "a condition on a row": lambda x: (x > 1).any(1, keepdim=True).float(),
    "a count": lambda x: 0.2 * (x > 0).sum(1, keepdim=True),
    "a place": lambda x: 0.1 * x.argmax(1, keepdim=True),
    "a class of a continuous value": lambda x: torch.bucketize(x[:, :1].contiguous(), torch.tensor([-1.0, 1.0])),
    "a table": lambda x: TABLE[label(x)][:, None],
    "a table, by a one-hot vector": lambda x: (F.one_hot(label(x), 4).float() @ TABLE)[:, None],
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_the_data_decide_is_no_constant_of_the_host(name: str) -> None:
    torch.manual_seed(0)
    found = scan(Host(DECIDED[name]), torch.randn(6, 5))
    assert not found
    assert ["data are added" in miss.reason for miss in found.near_misses] == [True]


UNEVEN: dict[str, Added] = {
    "of each channel": lambda x: torch.tensor([0.0, 1.0, 0.5]),
    "of the shape of the data alone": lambda x: torch.zeros_like(x[:, :3]) + torch.tensor([0.0, 1.0, 0.5]),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_other_numbers_for_each_element_are_said_be_the_largest_a_one(name: str) -> None:
    torch.manual_seed(0)
    model, x = Host(UNEVEN[name]), torch.randn(6, 5)
    heads = scan(model, x)
    assert [h.path for h in heads] == ["raw"]
    with pytest.warns(UserWarning, match="σ has another number in it for each element, 1 for one"):
        patch(model, posterior="explin", heads=heads)


def test_an_even_number_is_the_hosts_own() -> None:
    torch.manual_seed(0)
    model, x = Host(lambda x: torch.full_like(x[:, :3], -2.0)), torch.randn(6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (head,) = patch(model, posterior="explin", heads=scan(model, x)).heads
    assert str(head.head.convention) == "exp(0.5 * (v + -2))"
