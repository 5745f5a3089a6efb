"""Hosts whose scale is computed where it is hard to reach: patched exactly, or refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import Heads, scan


class Base(nn.Module):
    """A posterior N(mean, σ) with the KL to N(0, 1); `sigma` is what the subclasses write differently."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)
        self.used: list[Tensor] = []

    def sigma(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.mean(x), self.sigma(x)
        self.used.append(sigma)
        kl = 0.5 * (mean**2 + sigma**2) - torch.log(sigma) - 0.5
        return F.mse_loss(self.dec(mean + sigma * torch.randn_like(sigma)), x) + kl.mean()


def build(cls: type[Base]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return cls(), torch.randn(5, 6)


def keeps_its_promise(cls: type[Base], convention: str | None = None) -> Heads:
    """Scan, patch (verified), compare σ with the scale of the raw values and its gradient, train, and take it back."""
    model, x = build(cls)
    heads = scan(model, x)
    assert [(h.path.split(".")[0], h.role) for h in heads] == [("raw", "posterior")], heads.why_not()
    torch.manual_seed(1)
    before = model(x)
    handle = patch(model, posterior="explin", heads=heads)
    layer = model.get_submodule(heads[0].path)
    with torch.no_grad():
        layer.bias -= 9.0  # below every floor
    raw = F.linear(x, layer.weight, layer.bias)
    model.used.clear()
    model(x)
    expected = scales.get("explin").sigma(raw)
    torch.testing.assert_close(model.used[0], expected)
    gradients = [torch.autograd.grad(s.log().sum(), layer.weight)[0] for s in (model.used[0], expected)]
    torch.testing.assert_close(*gradients)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    handle.unpatch()
    model, x = build(cls)
    torch.manual_seed(1)
    assert torch.equal(model(x), before)
    return heads


# --- a floor behind an activation -------------------------------------------------------------------------------------


class FunctionalFloor(Base):
    def sigma(self, x: Tensor) -> Tensor:
        return F.softplus(self.raw(x)) + 1e-3


class FunctionalFloorInTwoLines(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h = F.softplus(h)
        return h + 1e-3


class InSequential(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw: Any = nn.Sequential(nn.Linear(6, 4), nn.Softplus())


class ModuleFloor(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x) + 1e-3  # type: ignore[no-any-return]


class ModuleFloorInTwoLines(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        sigma = self.raw(x)
        return torch.clamp(sigma, min=1e-3)


class AddFloor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3


class FloorModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw: Any = nn.Sequential(nn.Linear(6, 4), nn.Softplus(), AddFloor())

    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x)  # type: ignore[no-any-return]


FLOORS = [FunctionalFloor, FunctionalFloorInTwoLines, ModuleFloor, ModuleFloorInTwoLines, FloorModule]


@pytest.mark.parametrize("cls", FLOORS)
def test_a_floor_wherever_it_is_written_does_not_limit_the_patched_scale(cls: type[Base]) -> None:
    keeps_its_promise(cls)


class FloorAndFeature(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        self.feature = h * 3
        return h + 1e-3  # type: ignore[no-any-return]


def test_an_activation_that_something_else_reads_is_refused_with_the_reason_and_what_to_write() -> None:
    model, x = build(FloorAndFeature)
    heads = scan(model, x)
    with pytest.raises(PatchError, match=r"what raw\.1 returns is used in another way, too; write a patch file"):
        patch(model, posterior="explin", heads=heads)


# --- in place ---------------------------------------------------------------------------------------------------------


class Augmented(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h += 0.5
        h *= 2.0
        h = F.softplus(h)
        h += 0.1
        return h


class AugmentedFloor(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = F.softplus(self.raw(x))
        h += 0.1
        return h


class Methods(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h.mul_(0.5).clamp_(-5.0, 5.0)
        return h.exp()


class OneExpression(Base):
    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x).mul_(0.5).clamp_(-5.0, 5.0).exp()


class NamedFunctions(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        torch.clamp_(h, -5.0, 5.0)
        return torch.exp(h)


class ThroughAView(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Linear(6, 4)

    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        view = h.view(-1, 2, 2)
        view.clamp_(-5.0, 5.0)
        return h.exp()


IN_PLACE = [Augmented, AugmentedFloor, Methods, OneExpression, NamedFunctions]


@pytest.mark.parametrize("cls", IN_PLACE)
def test_a_raw_value_that_is_changed_in_place_is_patched_exactly(cls: type[Base]) -> None:
    keeps_its_promise(cls)


class ReadOnTheWay(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h += 0.5
        self.feature = h * 3
        h *= 2.0
        return F.softplus(h) + 0.1


def test_a_raw_value_that_is_read_between_two_changes_is_refused_with_the_line() -> None:
    model, x = build(ReadOnTheWay)
    heads = scan(model, x)
    with pytest.raises(PatchError, match=r"in place \(line \d+\) and reads it on the way; write a patch file"):
        patch(model, posterior="explin", heads=heads)
