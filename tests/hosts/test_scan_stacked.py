"""Means and raw values that lie behind each other along the first dimension: tokens, rows of features, one example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

Parts = Callable[[Tensor], tuple[Tensor, ...]]


def elbo(mean: Tensor, log_var: Tensor, decoder: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
    return (decoder(z) - x).square().mean() - 0.5 * (1 + log_var - mean**2 - log_var.exp()).mean()


class Tokens(nn.Module):
    """A sequence encoder puts out the mean as its first token and the log variance as its second one."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.queries = parts, nn.Parameter(torch.randn(2, 1, 6))
        self.mix, self.norm, self.out = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.queries.expand(2, x.shape[1], -1), x])
        tokens = self.norm(tokens + self.mix(tokens.mean(0, keepdim=True)))
        return elbo(*self.parts(tokens), self.out, x[0])


class Both(nn.Module):
    """One layer is given what becomes the mean and what becomes the log variance, stacked; it computes on rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.layer, self.out = (nn.Linear(a, b) for a, b in ((6, 5), (6, 5), (5, 3), (3, 6)))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.layer(torch.stack([self.one(x), self.two(x)]))
        return elbo(mean, log_var, self.out, x)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x


class Rows(nn.Module):
    """Features are the first dimension, examples the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.out = Product(), nn.Parameter(0.3 * torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 0)
        return elbo(mean, log_var, lambda z: self.out @ z, x)


class One(nn.Module):
    """A model of one example, without a batch."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.encoder, self.out = parts, nn.Linear(4, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return elbo(*self.parts(self.encoder(x)), self.out, x)


class OneWithAFloor(One):
    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 0)
        return elbo(mean, (nn.functional.softplus(raw) + 1e-3).log(), self.out, x)


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 0)
        return elbo(mean, log_var, self.out, x)


def steps() -> Tensor:
    return torch.randn(5, 3, 6)


SECOND_TOKEN: dict[str, Parts] = {
    "index": lambda t: (t[0], t[1]),
    "unbind": lambda t: t.unbind(0)[:2],
    "slice": lambda t: t[:2].unbind(0),
    "split": lambda t: (t.split(1)[0][0], t.split(1)[1][0]),
    "select": lambda t: (t.select(0, 0), torch.select(t, 0, 1)),
    "permute": lambda t: (t.permute(1, 0, 2)[:, 0], t.permute(1, 0, 2)[:, 1]),
    "chunk": lambda t: (t[:2].chunk(2)[0][0], t[:2].chunk(2)[1].squeeze(0)),
}
LAST_THREE: dict[str, Parts] = {
    "chunk": lambda o: o.chunk(2, 0),
    "slice": lambda o: (o[:3], o[3:]),
    "view": lambda o: tuple(o.view(2, 3)),
    "split": lambda o: o.split([3, 3]),
}
CASES = [
    *((lambda parts=parts: Tokens(parts), steps, "norm[1:2]") for parts in SECOND_TOKEN.values()),
    *((lambda parts=parts: One(parts), lambda: torch.rand(4), "encoder[3:6]") for parts in LAST_THREE.values()),
    (lambda: OneWithAFloor(LAST_THREE["chunk"]), lambda: torch.rand(4), "encoder[3:6]"),
    (Both, lambda: torch.rand(5, 6), "layer[1:2]"),
    (Rows, lambda: torch.rand(4, 5), "encoder[3:6]"),
    (Image, lambda: torch.rand(1, 5, 5), "encoder[2:4]"),
]


@pytest.mark.medium
@pytest.mark.parametrize(("build", "batch", "head"), CASES)
def test_a_head_along_the_first_dimension_is_found_and_patched(
    build: Callable[[], nn.Module], batch: Callable[[], Tensor], head: str
) -> None:
    torch.manual_seed(0)
    model, x = build(), batch()
    heads = scan(model, x)
    assert [f"{h.path}[{h.channels}]" for h in heads] == [head], f"{heads}"
    assert [h.role for h in heads] == ["posterior"]
    patch(model, posterior="downbounded(alpha=0.1)", heads=heads, paper=True).unpatch()


class LastStep(nn.Module):
    """A recurrent network, of which the last step is used: what is cut out along time is no channel."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.mean, self.raw, self.out = nn.GRU(6, 5), nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        return elbo(self.mean(h)[-1], self.raw(h)[-1], self.out, x[-1])


class EveryStep(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        means, raws = self.mean(h), self.raw(h)
        return torch.stack([elbo(means[t], raws[t], self.out, x[t]) for t in range(len(x))]).sum()


class HalvesOfTheBatch(LastStep):
    """Two views of each example go through the network as one batch."""

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(torch.cat([x, x.flip(2)], 1))
        means, raws = self.mean(h[-1]).chunk(2, 0), self.raw(h[-1]).chunk(2, 0)
        return sum(elbo(m, r, self.out, x[-1]) for m, r in zip(means, raws, strict=True))


@pytest.mark.parametrize("build", [LastStep, EveryStep, HalvesOfTheBatch])
def test_steps_and_examples_are_no_channels(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build(), steps()
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role) for h in heads] == [("raw", ":", "posterior")], f"{heads}"
    patch(model, "explin", heads=heads, paper=True).unpatch()
