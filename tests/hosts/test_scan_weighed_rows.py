"""A KL with a number of each row beside its variance, as a precision ω that another part of the model gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def divided(squares: Tensor, log_p: Tensor, log_q: Tensor, omega: Tensor) -> Tensor:
    return 0.5 * (log_p - torch.log(omega) - log_q) + squares / (2.0 * torch.exp(log_p) / omega) - 0.5


def multiplied(squares: Tensor, log_p: Tensor, log_q: Tensor, omega: Tensor) -> Tensor:
    return 0.5 * (torch.log(omega) + log_p - log_q + squares / (omega * log_p.exp()) - 1)


def in_the_log(squares: Tensor, log_p: Tensor, log_q: Tensor, omega: Tensor) -> Tensor:
    log_p = log_p - omega.log()
    return 0.5 * (log_p - log_q + squares * torch.exp(-log_p) - 1)


class Precise(nn.Module):
    def __init__(self, kl: Callable[..., Tensor]) -> None:
        super().__init__()
        self.kl, self.habit = kl, nn.Linear(4, 2)
        self.q, self.p, self.dec = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        mean, log_q = self.q(x).chunk(2, 1)
        mean_p, log_p = self.p(before).chunk(2, 1)
        habits = F.softmax(self.habit(x), -1)
        omega = (1.5 + torch.sigmoid((habits * habits.log()).sum(1).detach())).reshape(-1, 1)
        z = mean + torch.exp(0.5 * log_q) * torch.randn_like(mean)
        kl = self.kl(log_q.exp() + (mean - mean_p) ** 2, log_p, log_q, omega)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


@pytest.mark.parametrize("kl", [divided, multiplied, in_the_log], ids=lambda kl: kl.__name__)
def test_sigma_is_what_is_left_without_it_and_both_heads_are_patched(kl: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Precise(kl), (torch.randn(5, 4), torch.randn(5, 4))
    heads = scan(model, *x)
    assert {head.path: (head.role, str(head.convention)) for head in heads} == {
        "q": ("posterior", "log_variance"),
        "p": ("prior", "log_variance"),
    }
    assert len(patch(model, heads=heads, posterior="explin", prior="explin").heads) == 2
