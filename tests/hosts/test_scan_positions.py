"""Hosts that pick or move the elements of a raw value on the way to σ, and whose steps to σ go over its mean, too."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import scales
from vdvae_patch.errors import PatchError
from vdvae_patch.hosts import load_entry_file
from vdvae_patch.patching import is_patched, patch
from vdvae_patch.scanning import scan
from vdvae_patch.scanning.places import cutting, placing
from vdvae_patch.scanning.write import entry_file

EXPLIN = scales.get("explin")


class Rows(nn.Module):
    """A likelihood's σ has a row for each batch of cells; `used` is the σ that the host computes."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.std, self.out, self.net = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 4)
        self.raw = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        q = Normal(self.loc(x), F.softplus(self.std(x)))
        self.used = self.sigma(x, rows)
        kl = kl_divergence(q, Normal(torch.zeros(1), torch.ones(1)))
        return kl.sum(1).mean() - Normal(self.out(q.rsample()), self.used).log_prob(x).sum(1).mean()

    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        """The raw value's elements as they stand in σ."""
        return raw[rows]

    def emitted(self, x: Tensor) -> Tensor:
        return self.raw


class Index(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.raw[rows]) + 1e-7


class IndexOfAVariable(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        raw = self.raw
        chosen = raw[rows]
        return F.softplus(chosen) + 1e-7


class IndexBehind(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.raw)[rows] + 1e-7


class IndexLast(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return (F.softplus(self.raw) + 1e-7)[rows]


class Gathered(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        table = torch.exp(self.raw)
        return table.gather(0, rows[:, None].expand(-1, 4)).clamp(min=1e-3)


class Selected(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return torch.index_select(F.softplus(self.net(x)), 0, rows) + 1e-4

    def emitted(self, x: Tensor) -> Tensor:
        return self.net(x)


class Flipped(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.net(x)).flip(0) + 1e-4

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.flip(0)

    def emitted(self, x: Tensor) -> Tensor:
        return self.net(x)


class Transposed(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.raw.t()) + 1e-7

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.t()


class TransposedBehind(Transposed):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        sigma = F.softplus(self.raw).clamp(max=50)
        return sigma.t() + 1e-7


class Rolled(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return torch.exp(self.raw).roll(1, 0) + 1e-7

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.roll(1, 0)


class Embedded(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(F.embedding(rows, self.raw)) + 1e-7


class TakenAlong(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        table = F.softplus(self.raw)
        return torch.take_along_dim(table, rows[:, None].expand(-1, 4), 0).add(1e-7)


class InFloat64(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return (F.softplus(self.raw.double()) + 1e-7)[rows].float()


class Turned(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.raw).rot90(1, (0, 1)) + 1e-7

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.rot90(1, (0, 1))


class Permuted(Rows):
    """In an order that is a constant of the model's."""

    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return (F.softplus(self.net(x)) + 1e-4)[:, torch.tensor([2, 0, 3, 1])]

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw[:, torch.tensor([2, 0, 3, 1])]

    def emitted(self, x: Tensor) -> Tensor:
        return self.net(x)


class Swapped(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return (F.softplus(self.raw.swapaxes(0, 1)) + 1e-7).contiguous()

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.t()


class Viewed(Rows):
    def sigma(self, x: Tensor, rows: Tensor) -> Tensor:
        return F.softplus(self.raw).view(2, 2, 4).permute(1, 0, 2).reshape(4, 4) + 1e-7

    def moved(self, raw: Tensor, rows: Tensor) -> Tensor:
        return raw.view(2, 2, 4).permute(1, 0, 2).reshape(4, 4)


MOVING = [
    Index, IndexOfAVariable, IndexBehind, IndexLast, Gathered, Selected, Flipped, Transposed, TransposedBehind, Rolled,
    Embedded, TakenAlong, InFloat64, Turned, Permuted, Swapped, Viewed,
]  # fmt: skip


def cells() -> tuple[Tensor, Tensor]:
    # as many cells as rows, so that a σ without the index fits, too
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([2, 0, 3, 3])


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("build", MOVING)
def test_every_element_of_sigma_is_the_scale_of_the_element_that_it_came_from(build: type[Rows], verify: bool) -> None:
    torch.manual_seed(0)
    model, inputs = build(), cells()
    heads = scan(model, *inputs)
    assert sorted(head.role for head in heads) == ["likelihood", "posterior"], f"{heads}"
    with patch(model, posterior="explin", likelihood="explin", heads=heads, verify=verify, paper=True):
        model(*inputs)
        want = EXPLIN.sigma(model.moved(model.emitted(inputs[0]), inputs[1]))
        torch.testing.assert_close(model.used, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [IndexBehind, Gathered, Selected, Flipped, TransposedBehind, Rolled])
def test_a_patch_that_loses_an_index_is_taken_back(build: type[Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (placing, cutting):
        monkeypatch.setattr(module, "stays", lambda before, after: True)
    torch.manual_seed(0)
    model, inputs = build(), cells()
    heads = scan(model, *inputs)
    with pytest.raises(
        PatchError, match=r"elements of σ of other elements of the raw value|σ also depends on 'rows', an argument"
    ):
        patch(model, likelihood="explin", heads=heads, paper=True)
    assert not is_patched(model)


@pytest.mark.parametrize("build", [IndexBehind, Flipped])
def test_a_patch_file_keeps_the_index_too(build: type[Rows], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = build(), cells()
    file = tmp_path / "entry.py"
    file.write_text(entry_file(f"{__name__}:{build.__name__}", scan(model, *inputs), model))
    patch(model, likelihood="explin", heads=load_entry_file(file).heads(model), paper=True)
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    model(*inputs)
    want = EXPLIN.sigma(model.moved(model.emitted(inputs[0]), inputs[1]))
    torch.testing.assert_close(model.used, want, rtol=1e-4, atol=1e-6)


class Augmented(nn.Module):
    """An activation over the whole output, before it is split into means and raw values."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.fc, self.decoder, self.activation = nn.Linear(4, 6), nn.Linear(3, 4), activation

    def forward(self, x: Tensor) -> Tensor:
        self.mean, self.used = self.posterior(x)
        z = self.mean + self.used * torch.randn_like(self.mean)
        kl = 0.5 * (self.mean**2 + self.used**2 - 1) - self.used.log()
        return (self.decoder(z) - x).square().mean() + kl.mean()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.activation is not None
        mean, log_var = self.activation(self.fc(x)).chunk(2, 1)
        return mean, (0.5 * log_var).exp()


class OfAFunction(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x)
        h = torch.tanh(h)
        return h[:, :3], (0.5 * h[:, 3:]).exp()


class OfTheLayersOwnLine(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = F.elu(self.fc(x)).split(3, 1)
        return mean, torch.exp(0.5 * log_var)


class WithAFloorBehind(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, sigma = F.softplus(self.fc(x)).chunk(2, 1)
        return mean, sigma + 1e-3


class Called(Augmented):
    """An activation that is a function of PyTorch's, or of the host's, kept as an attribute."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def posterior(this, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N805  not every host says self
        mean, log_var = this.function(this.fc(x)).chunk(2, 1)
        return mean, torch.exp(0.5 * log_var)


class InPlaceInALine(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x)
        mean, log_var = h.clamp_(-3, 3).chunk(2, 1)
        return mean, (0.5 * log_var).exp()


class InSteps(Augmented):
    """A soft clamp: several steps before the split, in one line."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x)
        mean, log_var = (3 * torch.tanh(h / 3)).unflatten(1, (2, 3)).unbind(1)
        return mean, (0.5 * log_var).exp()


class OfConstants(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x)
        h = torch.maximum(torch.minimum(h, torch.tensor(5.0)), torch.tensor(-5.0))
        return h[..., :3], (0.5 * h[..., 3:]).exp()


class Picked(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.fc(x))
        return h.index_select(1, torch.arange(3)), (0.5 * h[:, torch.tensor([3, 4, 5])]).exp()


class InFloat64(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.sigmoid(self.fc(x).double()).float()
        mean, log_var = h.tensor_split(2, 1)
        return mean, (0.5 * log_var).exp()


ACTIVATIONS: dict[str, Callable[[], Augmented]] = {
    "ReLU": lambda: Augmented(nn.ReLU()),
    "ReLU in place": lambda: Augmented(nn.ReLU(inplace=True)),
    "Tanh": lambda: Augmented(nn.Tanh()),
    "ELU": lambda: Augmented(nn.ELU()),
    "Hardtanh": lambda: Augmented(nn.Hardtanh()),
    "Softplus": lambda: Augmented(nn.Softplus()),
    "Sigmoid": lambda: Augmented(nn.Sigmoid()),
    "function": OfAFunction,
    "line": OfTheLayersOwnLine,
    "floor": WithAFloorBehind,
    "LeakyReLU": lambda: Augmented(nn.LeakyReLU(0.2)),
    "leaky function": lambda: Called(functools.partial(F.leaky_relu, negative_slope=0.1)),
    "torch.tanh": lambda: Called(torch.tanh),
    "F.relu": lambda: Called(F.relu),
    "clamp": lambda: Called(functools.partial(torch.clamp, min=-5, max=5)),
    "in place in a line": InPlaceInALine,
    "in steps": InSteps,
    "of constants": OfConstants,
    "picked": Picked,
    "float64": InFloat64,
}


def patched(model: Augmented, heads: Any, x: Tensor) -> None:
    with torch.no_grad():
        model(x)
        mean, raw = model.mean, model.fc(x)[:, 3:]
        patch(model, "explin", heads=heads, paper=True)
        model(x)
    torch.testing.assert_close(model.mean, mean, rtol=0, atol=0)
    torch.testing.assert_close(model.used, EXPLIN.sigma(raw), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*the host keeps σ")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_means_and_raw_values_keeps_the_means(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ACTIVATIONS[name](), torch.randn(5, 4)
    heads = scan(model, x)
    assert [(h.path, h.start, h.stop, h.role) for h in heads] == [("fc", 3, 6, "posterior")]
    file = tmp_path / "entry.py"
    file.write_text(entry_file(f"{__name__}:Augmented_{name.replace(' ', '_')}", heads, model))
    again = copy.deepcopy(model)
    patched(model, heads, x)
    patched(again, load_entry_file(file).heads(again), x)
    pickle.loads(pickle.dumps(model))(x)


class InPlace(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x)
        h.relu_()
        mean, log_var = h.chunk(2, 1)
        return mean, (0.5 * log_var).exp()


def test_where_the_means_cannot_be_kept_the_remedy_is_named() -> None:
    torch.manual_seed(0)
    model, x = InPlace(), torch.randn(5, 4)
    heads = scan(model, x)
    with pytest.raises(PatchError, match="move it behind the split"):
        patch(model, "explin", heads=heads, paper=True)


class WithoutAnInverse(Augmented):
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = F.silu(self.fc(x)).chunk(2, 1)
        return mean, (0.5 * log_var).exp()


def test_an_activation_without_an_inverse_over_the_whole_output_is_patched_where_it_stands() -> None:
    torch.manual_seed(0)
    model, x = WithoutAnInverse(), torch.randn(5, 4)
    mean, raw = model.fc(x).chunk(2, 1)
    patch(model, "explin", heads=scan(model, x), paper=True)
    seen = model.posterior(x)
    torch.testing.assert_close(seen[0], F.silu(mean), rtol=0, atol=0)
    torch.testing.assert_close(seen[1], EXPLIN.sigma(raw))
