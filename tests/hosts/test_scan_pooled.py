"""What an encoder of a set or a sequence pools is its raw value: masked means, attention, gates, readouts of graphs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Sets(nn.Module):
    """Sets of up to five vectors; `mask` has ones where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.raw = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.gate, self.dec = nn.Linear(6, 1), nn.Linear(3, 6)

    def pool(self, h: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return (h * mask).sum(1) / mask.sum(1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.body(x).relu()
        mean, log_var = self.pool(self.mean(h), x, mask), self.pool(self.raw(h), x, mask)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        return F.mse_loss(self.dec(z), (x * mask).sum(1)) + kl


class Filled(Sets):
    def pool(self, h: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return h.masked_fill(mask == 0, 0.0).sum(1) * mask.sum(1).clamp(min=1).reciprocal()


class Attention(Sets):
    def pool(self, h: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return (self.gate(x).masked_fill(mask == 0, -1e9).softmax(1) * h).sum(1)


class Gated(Sets):
    def pool(self, h: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid() * mask
        return (gate * h).sum(1) / (gate.sum(1) + 1e-6)


class Readout(Sets):
    """Of the nodes of several graphs, by the number of the graph that each is of."""

    def pool(self, h: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        there = mask.flatten() > 0
        graph = torch.arange(len(x)).repeat_interleave(x.shape[1])[there]
        total = torch.zeros(len(x), 3).index_add(0, graph, h.flatten(0, 1)[there])
        return total / graph.bincount(minlength=len(x))[:, None]


class Joined(Sets):
    """One layer's output is pooled and then split."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        both = torch.cat([self.mean(self.body(x).relu()), self.raw(self.body(x).relu()).tanh()], -1)
        mean, log_var = self.pool(both, x, mask).chunk(2, -1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x.sum(1)) - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()


class OfResiduals(Sets):
    """A σ that is measured, by a masked mean of squares, is no head."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.dec(self.mean(self.body(x)))
        log_var = (((x - y) ** 2 * mask).sum(1) / mask.sum(1)).log()
        return (0.5 * ((x - y) ** 2 / log_var.exp()[:, None] + log_var[:, None])).mean()


def sets() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([5, 3, 2, 4])
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    return x, (torch.arange(5) < lengths[:, None]).float()[..., None]


@pytest.mark.parametrize("build", [Sets, Filled, Attention, Gated, Readout, Joined])
def test_what_is_pooled_is_the_raw_value_and_is_patched_for_sets_of_every_size(build: type[Sets]) -> None:
    torch.manual_seed(0)
    model, batch = build(), sets()
    with torch.no_grad():
        model.raw.bias += torch.tensor([-6.0, 0.0, 3.0])
    heads = scan(model, *batch)
    assert [(head.role, str(head.convention)) for head in heads] == [("posterior", "log_variance")], heads.why_not()
    torch.manual_seed(1)
    before = model(*batch)
    handle = patch(model, "upbounded(omega=1000)", heads=heads)  # the exponential itself, where σ is far from 1000
    torch.manual_seed(1)
    torch.testing.assert_close(model(*batch), before, rtol=0.01, atol=0)
    handle.unpatch()
    torch.manual_seed(1)
    assert torch.equal(model(*batch), before)


def test_a_masked_mean_of_squared_residuals_is_a_statistic() -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="no Normal head"):
        assert not scan(OfResiduals(), *sets())


class PooledHere(Sets):
    """Pooled in the model's own `forward`, whose path is empty."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.cat([self.mean(x2 := self.body(x).relu()), self.raw(x2)], -1)
        mean, log_var = (h.masked_fill(mask == 0, 0.0).sum(1) / mask.sum(1)).chunk(2, -1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        error = (self.dec(z)[:, None] - x).square() * mask
        return error.sum((1, 2)).mean() - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()


def test_what_is_pooled_in_the_models_own_forward_is_named_and_is_no_term_of_the_loss() -> None:
    torch.manual_seed(0)
    heads = scan(PooledHere(), *sets())
    assert [str(head) for head in heads] == ["the model[3:6] (posterior, log_variance)"]
    assert "warning: the model: σ grows exponentially" in str(heads)
    assert heads.elbo.sigma == pytest.approx(0.5**0.5)
    assert not [note for note in heads.elbo.notes if "other terms" in note or "no KL" in note]
