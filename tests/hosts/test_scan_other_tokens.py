"""Mean and log σ² as two tokens, two steps of time or two calls of one module, or the one a feature of the other; and
pooled ones that a KL reads bare."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Host(nn.Module):
    """The loss of a sequence; `encode` gives the mean and the log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.queries, self.out = nn.Linear(6, 8), nn.Parameter(torch.randn(2, 8)), nn.LazyLinear(6)
        self.build()
        self.double()
        self(torch.randn(5, 7, 6).double())

    def build(self) -> None: ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([self.queries.expand(len(x), -1, -1), self.first(x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encode(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), -1).mean()
        return F.mse_loss(self.out(z), x.mean(1)) + 1e-2 * kl


class Transformer(Host):
    def build(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(8), enable_nested_tensor=False)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(self.tokens(x))
        return h[:, 0], h[:, 1]


class Unbound(Host):
    def build(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(self.tokens(x) + self.first(x).mean(1, keepdim=True))[:, :2].unbind(1)
        return mean, log_var


class Queries(Host):
    def build(self) -> None:
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x)
        pooled = self.norm(self.attention(self.queries.expand(len(x), -1, -1), h, h)[0])
        return pooled[:, 0], pooled[:, 1]


class LastSteps(Host):
    def build(self) -> None:
        self.rnn, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.head(self.rnn(x)[0])
        return h[:, -1], h[:, -2]


class FirstPlaces(Host):
    def build(self) -> None:
        self.conv = nn.Conv1d(6, 3, 3, padding=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv(x.transpose(1, 2))
        return h[:, :, 0], h[:, :, 1]


class OneHeadTwice(Host):
    def build(self) -> None:
        self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.mean(1)
        return self.head(self.first(h).relu()), self.head(self.second(h).relu())


class OneNormTwice(Host):
    def build(self) -> None:
        self.second, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.mean(1)
        return self.norm(self.first(h)), self.norm(self.second(h))


class OnePoolTwice(Host):
    def build(self) -> None:
        self.a, self.b, self.pool = nn.Conv1d(6, 3, 3), nn.Conv1d(6, 3, 3), nn.AdaptiveAvgPool1d(1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.transpose(1, 2)
        return self.pool(self.a(h)).flatten(1), self.pool(self.b(h)).flatten(1)


class Pooled(Host):
    """The KL reads the mean of what a layer puts out as it is, beside its exponential."""

    def build(self) -> None:
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x).mean(1), self.b(x).mean(1)


class Summed(Pooled):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x).sum(1), self.b(x).sum(1)


class OfVariances(Pooled):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x).mean(1), torch.logsumexp(self.b(x), 1)


class Weighed(Pooled):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = x[..., :1].softmax(1)
        return (weights * self.a(x)).sum(1), (weights * self.b(x)).sum(1)


class Halves(FirstPlaces):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.conv(x.transpose(1, 2))[:, :, :6].chunk(2, -1)
        return first.mean(-1), second.mean(-1)


class OfFeatures(Host):
    """What σ is computed of are features, from which a further layer makes the mean."""

    def build(self) -> None:
        self.features, self.head = nn.Linear(6, 4), nn.Linear(4, 4)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x.mean(1))
        return self.head(h.relu()), h


HOSTS = (
    Transformer, Unbound, Queries, LastSteps, FirstPlaces, OneHeadTwice, OneNormTwice, OnePoolTwice,
    Pooled, Summed, OfVariances, Weighed, Halves, OfFeatures,
)  # fmt: skip


@pytest.mark.parametrize("scale", ["explin", "bounded(0.01, 2)"])
@pytest.mark.parametrize("host", HOSTS)
def test_the_mean_stays_and_all_of_the_loss_has_the_scale(host: type[Host], scale: str) -> None:
    torch.manual_seed(0)
    model, x = host(), torch.randn(5, 7, 6).double()
    mean, log_var = (value.detach() for value in model.encode(x))
    heads = scan(model, x)
    assert [(h.role, h.found is not None and h.found.patch_at) for h in heads] == [("posterior", "call")]
    (head,) = patch(model, posterior=scale, heads=heads, paper=False).heads
    assert head.scale is not None
    log_sigma = head.scale.log_sigma(log_var)
    torch.manual_seed(1)
    loss = model(x)
    torch.manual_seed(1)
    z = mean + log_sigma.exp() * torch.randn_like(mean)
    kl = -0.5 * torch.sum(1 + 2 * log_sigma - mean**2 - (2 * log_sigma).exp(), -1).mean()
    torch.testing.assert_close(loss, F.mse_loss(model.out(z), x.mean(1)) + 1e-2 * kl, rtol=1e-12, atol=0)


def test_a_token_beside_that_is_not_in_the_loss_leaves_the_scale_at_the_output() -> None:
    class Unused(Unbound):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.encoder(self.tokens(x) + self.first(x).mean(1, keepdim=True))
            self.seen = h[:, 2:].detach().mean()
            return self.first(x).mean(1), h[:, 1]

    torch.manual_seed(0)
    heads = scan(Unused(), torch.randn(5, 7, 6).double())
    assert [h.found is not None and h.found.patch_at for h in heads] == ["output"]


class Steps(nn.Module):
    """A cell that is called at each step of time; every call gives a σ."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.out = nn.GRUCell(4, 8), nn.Linear(8, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, total = torch.zeros(len(x), 8), torch.zeros(())
        for step in x.unbind(1):
            h = self.cell(step, h)
            mean, log_var = self.head(h).chunk(2, -1)
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            kl = -0.5 * (1 + log_var - mean**2 - log_var.exp())
            total = total + (self.out(z) - step).square().sum() + kl.sum()
        return total


def test_a_module_whose_every_call_gives_a_sigma_is_patched_at_its_output() -> None:
    torch.manual_seed(0)
    heads = scan(Steps(), torch.randn(5, 3, 4))
    assert [(h.path, h.found is not None and h.found.patch_at) for h in heads] == [("head", "output")]
