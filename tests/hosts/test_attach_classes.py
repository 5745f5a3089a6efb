"""A class of the host whose `__init__` bounds σ stays the class that the host makes, however it is reached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import patch, scan, unpatch

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Law:
    """A mean and a log σ, bounded each time that one is made."""

    factor = 1.0

    def __init__(self, mean: Tensor, log_sigma: Tensor) -> None:
        self.mean, self.log_sigma = mean, torch.clamp(log_sigma, -10, 2)

    @classmethod
    def of(cls, both: Tensor) -> Any:
        return cls(*both.chunk(2, 1))

    def again(self) -> Any:
        return type(self)(self.mean, self.log_sigma)

    def copied(self) -> Any:
        return self.__class__(self.mean, self.log_sigma)

    def drawn(self) -> Tensor:
        return self.mean + self.log_sigma.exp() * torch.randn_like(self.mean)

    def rate(self) -> Tensor:
        kl = 0.5 * (self.mean**2 + (2 * self.log_sigma).exp() - 1) - self.log_sigma
        return self.factor * kl.sum(1).mean()


class Weighted(Law):
    """What counts is which class it is: its rate has another factor."""

    factor = 3.0

    @classmethod
    def of_both(cls, both: Tensor) -> Any:
        return super().of(both)


class Prepared(Weighted):
    def __init__(self, mean: Tensor, log_sigma: Tensor) -> None:
        super().__init__(mean, log_sigma)
        self.named = "prepared"


@dataclass
class Data:
    mean: Tensor
    log_sigma: Tensor

    factor = 2.0

    def __post_init__(self) -> None:
        self.log_sigma = torch.clamp(self.log_sigma, -10, 2)

    @classmethod
    def of(cls, both: Tensor) -> Any:
        return cls(*both.chunk(2, 1))

    drawn, rate = Law.drawn, Law.rate


class DataMore(Data):
    factor = 3.0


MADE: dict[str, Callable[[Tensor], Any]] = {
    "a class method of a base class": lambda both: Weighted.of(both),
    "its class method by super": lambda both: Weighted.of_both(both),
    "a class method, and the type of an object": lambda both: Weighted.of(both).again(),
    "a class method, and the class of an object": lambda both: Weighted.of(both).copied(),
    "a class method of an object": lambda both: Weighted(both[:, :4], both[:, :4]).of(both),
    "an own init that calls super": lambda both: Prepared(*both.chunk(2, 1)),
    "an own init by a class method": lambda both: Prepared.of(both),
    "a data class by a class method": lambda both: DataMore.of(both),
}


class Coder(nn.Module):
    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.made = nn.Linear(8, 8), nn.Linear(4, 8), made
        with torch.no_grad():
            self.encoder.bias[4:] = -1.5  # every σ is below 1, where explin is the exponential

    def forward(self, x: Tensor) -> Tensor:
        law = self.made(self.encoder(x))
        self.law = law
        return (self.decoder(law.drawn()) - x).square().sum(1).mean() + law.rate()


@pytest.mark.parametrize("name", MADE)
def test_the_class_that_is_made_is_the_hosts_and_the_loss_stays(name: str) -> None:
    model = Coder(MADE[name])
    model(X)
    made = type(model.law)
    torch.manual_seed(1)
    loss = model(X)
    patch(model, "explin", heads=scan(model, X))
    torch.manual_seed(1)
    torch.testing.assert_close(model(X), loss)
    assert isinstance(model.law, made)
    assert type(model.law).factor == 3.0
    with torch.no_grad():
        model.encoder.bias[4:] = -15  # below the host's bound: σ follows
    assert float(model(X).detach().isfinite())
    assert float(model.law.log_sigma.max()) < -12
    unpatch(model)
    model(X)
    assert type(model.law) is made
    assert float(model.law.log_sigma.max()) == -10
