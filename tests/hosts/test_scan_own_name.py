"""A method may call what it belongs to by any name: its settings are settings, whatever that is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.attach.source import is_method
from vdvae_patch.errors import PatchError

# ruff: noqa: N805, N804  the first arguments are named otherwise: that is what is tested


class Base(nn.Module):
    def __init__(s) -> None:
        super().__init__()
        s.encoder, s.prior, s.decoder = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 8)
        s.floor = 1e-3

    def loss(s, x: Tensor, mean: Tensor, sigma: Tensor, prior_mean: Tensor, prior_sigma: Tensor) -> Tensor:
        z = mean + sigma * torch.randn_like(mean)
        ratio = (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2)
        kl = torch.log(prior_sigma) - torch.log(sigma) + ratio - 0.5
        return F.mse_loss(s.decoder(z), x) + kl.mean()

    def sigma(s, raw: Tensor) -> Tensor:
        return F.softplus(raw) + s.floor

    def forward(s, x: Tensor) -> Tensor:
        mean, raw = s.encoder(x).chunk(2, -1)
        prior_mean, prior_raw = s.prior(x.roll(1, 0)).chunk(2, -1)
        return s.loss(x, mean, s.sigma(raw), prior_mean, s.sigma(prior_raw))


class OnlyTheHelper(Base):
    def sigma(model, raw: Tensor) -> Tensor:
        return F.softplus(raw) + model.floor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class BySuper(Base):
    def sigma(s, raw: Tensor) -> Tensor:
        return super().sigma(raw)


class Formula:
    def __init__(this, floor: float) -> None:
        this.floor = floor

    def sigma(this, raw: Tensor) -> Tensor:
        return F.softplus(raw) + this.floor


class InAnObject(Base):
    def __init__(s) -> None:
        super().__init__()
        s.formula = Formula(1e-3)

    def sigma(s, raw: Tensor) -> Tensor:
        return s.formula.sigma(raw)


class InAVariable(Base):
    def sigma(s, raw: Tensor) -> Tensor:
        formula = Formula(1e-3)
        return formula.sigma(raw)


class Posterior:
    def __init__(q, raw: Tensor) -> None:
        q.raw, q.floor = raw, 1e-3

    def sigma(q) -> Tensor:
        return F.softplus(q.raw) + q.floor


class OfAnObject(Base):
    def sigma(s, raw: Tensor) -> Tensor:
        q = Posterior(raw)
        return q.sigma()


class OfAClass(Base):
    FLOOR = 1e-3

    @classmethod
    def sigma(model, raw: Tensor) -> Tensor:  # type: ignore[override]
        return F.softplus(raw) + model.FLOOR


ALL = [Base, OnlyTheHelper, BySuper, InAnObject, InAVariable, OfAnObject, OfAClass]


@pytest.mark.parametrize("kind", ALL)
def test_a_setting_of_what_the_method_belongs_to_is_no_argument(kind: type[Base]) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(16, 8)
    host = copy.deepcopy(model)
    heads = vdvae_patch.scan(model, x)
    assert [(h.path, h.role) for h in heads] == [("encoder", "posterior"), ("prior", "prior")]
    vdvae_patch.patch(model, "downbounded(0.01)", heads=heads, paper=True)
    for one in (model, host):
        with torch.no_grad():
            one.encoder.bias[4:] = -80.0
            one.prior.bias[4:] = -80.0
    # the host's σ is its floor of 0.001 then, of posterior and prior; the patch's is 0.01
    assert _sigma_of(host, x) == pytest.approx(1e-3, rel=1e-4)
    assert _sigma_of(model, x) == pytest.approx(1e-2, rel=1e-4)


def _sigma_of(model: Base, x: Tensor) -> float:
    seen: list[Tensor] = []
    original = Base.loss

    def loss(self: Base, x: Tensor, mean: Tensor, sigma: Tensor, *rest: Tensor) -> Tensor:
        seen.append(sigma)
        return original(self, x, mean, sigma, *rest)

    model.loss = loss.__get__(model)  # type: ignore[method-assign]
    model(x)
    return float(seen[0].detach().max())


class AnArgument(Base):
    @staticmethod
    def sigma(floor: Tensor, raw: Tensor) -> Tensor:  # type: ignore[override]
        return F.softplus(raw) + floor

    def forward(s, x: Tensor) -> Tensor:
        mean, raw = s.encoder(x).chunk(2, -1)
        prior_mean, prior_raw = s.prior(x.roll(1, 0)).chunk(2, -1)
        return s.loss(x, mean, s.sigma(x.abs().mean(), raw), prior_mean, s.sigma(x.abs().mean(), prior_raw))


def test_the_first_argument_of_a_static_method_is_an_argument() -> None:
    torch.manual_seed(0)
    model, x = AnArgument(), torch.randn(16, 8)
    with pytest.raises(PatchError, match="σ also depends on 'floor', an argument"):
        vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))


def test_what_is_a_method() -> None:
    class Local:
        def own(s: Any) -> Any:
            def inner(v: Any) -> Any:
                return v

            return inner

    assert is_method(Base.sigma)
    assert is_method(Local.own)
    assert is_method(OfAClass.sigma.__func__)  # type: ignore[attr-defined]
    assert not is_method(AnArgument.sigma)
    assert not is_method(Local().own())
    assert not is_method(_sigma_of)
