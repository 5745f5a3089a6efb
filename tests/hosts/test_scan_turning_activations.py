"""An activation that falls before it rises, in σ, and one module of it for all layers: patched at its call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.composition import Step, Target
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

Activation = Callable[[Tensor], Tensor]


class Shared(nn.Module):
    head = "raw"

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.body, self.mean, self.raw, self.dec = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(3, 6)
        self.both, self.act = nn.Linear(8, 6), activation

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.act(self.mean(h)), self.act(self.raw(h))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.law(self.act(self.body(x)))
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x) - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()


class Whole(Shared):
    head = "both"

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.act(self.both(h)).chunk(2, 1)  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:head")  # of the floor that goes
@pytest.mark.parametrize("build", [Shared, Whole])
@pytest.mark.parametrize("activation", [nn.GELU(), F.silu, nn.Mish(), nn.SELU(), nn.GELU("tanh"), nn.Hardswish()])
def test_the_scale_is_put_where_the_activation_is_called_for_the_head(
    build: type[Shared], activation: Activation
) -> None:
    torch.manual_seed(0)
    model, x = build(activation), torch.randn(5, 6)
    with torch.no_grad():
        getattr(model, build.head).bias.fill_(2.0)  # where the activation is nearly a straight line
    (head,) = heads = scan(model, x)
    assert head.path == build.head
    v = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(head.convention.sigma(v), (0.5 * activation(v)).exp(), rtol=1e-2, atol=0)
    torch.manual_seed(1)
    before = model(x)
    handle = patch(model, "upbounded(omega=1000)", heads=heads, paper=False)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), before, rtol=0.05, atol=0)
    with torch.no_grad():
        getattr(model, build.head).bias[-3:] = 400.0  # exp(400) is infinite
    assert model(x).isfinite()
    handle.unpatch()
    assert not model(x).isfinite()


class InSequentials(Shared):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__(activation)
        self.body, self.raw = nn.Sequential(self.body, activation), nn.Sequential(self.raw, activation)

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(h), self.raw(h)


def test_one_activation_in_several_sequentials_is_not_replaced_for_all_of_them() -> None:
    torch.manual_seed(0)
    model, x = InSequentials(nn.GELU()), torch.randn(5, 6)
    heads = scan(model, x)
    assert [head.path for head in heads] == ["raw.0"]
    with pytest.raises(PatchError, match=r"one module for several layers.*an activation of its own"):
        patch(model, "explin", heads=heads)


class OwnReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class InALoop(Shared):
    """One line, and one activation, for the hidden layers and for the last one, whose output becomes σ."""

    def __init__(self, activation: Activation) -> None:
        super().__init__(activation)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), self.raw])

    def law(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(h)
        for layer in self.layers:
            h = self.act(layer(h))
        return mean, self.read(h)

    def read(self, h: Tensor) -> Tensor:
        return 2 * (F.softplus(h) + 1e-3).log()


class SigmaInALoop(InALoop):
    def read(self, h: Tensor) -> Tensor:
        return 2 * (h + 1e-3).log()


@pytest.mark.parametrize(
    ("build", "activation"),
    [
        (InALoop, F.relu),
        (InALoop, nn.ReLU()),
        (InALoop, OwnReLU()),
        (SigmaInALoop, F.softplus),
        (SigmaInALoop, nn.Softplus()),
    ],
)
def test_the_activations_of_the_layers_before_are_not_replaced(build: type[InALoop], activation: Activation) -> None:
    torch.manual_seed(0)
    model, x = build(activation), torch.randn(5, 6)
    heads = scan(model, x)
    assert [head.path for head in heads] == ["raw"]
    torch.manual_seed(1)
    before = model(x)
    with pytest.raises(PatchError, match=r"also serve other values, for which .* \(\d of \d\).*or a line, of its own"):
        patch(model, "explin", heads=heads)
    torch.manual_seed(1)
    assert model(x) == before


@pytest.mark.parametrize("name", ["gelu", "silu", "mish"])
def test_an_activation_that_turns_is_undone_where_it_rises(name: str) -> None:
    v = torch.linspace(-0.7, 6, 20, dtype=torch.float64)
    step = Step(name)
    torch.testing.assert_close(step.back(Target(step.forward(v), None)).value, v)
    assert step.limited
