"""What a loss counts beside the model (the step of a warm-up, a meter, a log) is left as it was by every pass that is
no step: of a scan, of a cure, and of a step that a guard does again."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import guard, scan, stabilize

Loss = Callable[[nn.Module, Tensor], Tensor]
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def loss_at(step: float, model: nn.Module, x: Tensor) -> Tensor:
    """At a step of a warm-up of the KL."""
    out, mean, log_variance = model(x)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return ((out - x) ** 2).sum(1).mean() + min(1.0, step / 40) * kl


STEP, TOTAL, LOG = 0, torch.zeros(()), []
METER = SimpleNamespace(count=0, of={"seen": [0]})


def by_global(model: nn.Module, x: Tensor) -> Tensor:
    global STEP
    STEP += 1
    return loss_at(STEP, model, x)


def by_tensor(model: nn.Module, x: Tensor) -> Tensor:
    TOTAL.add_(1)
    return loss_at(float(TOTAL), model, x)


def by_list(model: nn.Module, x: Tensor) -> Tensor:
    LOG.append(len(LOG))
    return loss_at(len(LOG), model, x)


def by_meter(model: nn.Module, x: Tensor) -> Tensor:
    METER.count += 1
    METER.of["seen"][0] += 1
    return loss_at(METER.of["seen"][0], model, x)


class Trainer:
    made = 0

    def __init__(self) -> None:
        self.step, self.total = 0, torch.zeros(())

    def loss(self, model: nn.Module, x: Tensor) -> Tensor:
        self.step += 1
        return loss_at(self.step, model, x)

    def by_class(self, model: nn.Module, x: Tensor) -> Tensor:
        Trainer.made += 1
        return loss_at(Trainer.made, model, x)

    def by_helper(self, model: nn.Module, x: Tensor) -> Tensor:
        self._advance()
        return loss_at(STEP, model, x)

    def _advance(self) -> None:
        global STEP
        STEP += 1

    def by_own_tensor(self, model: nn.Module, x: Tensor) -> Tensor:
        self.total += 1
        return loss_at(float(self.total), model, x)

    __call__ = loss


class Counting(VAE):
    """Its own forward counts in a global and in its class."""

    calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        global STEP
        STEP += 1
        Counting.calls += 1
        return super().forward(x)


def _closed_over() -> tuple[Loss, Callable[[], float]]:
    step = 0

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal step
        step += 1
        return loss_at(step, model, x)

    return loss, lambda: step


def _made(kind: str) -> tuple[Loss, Callable[[], float]]:
    trainer = Trainer()
    if kind == "closure":
        return _closed_over()
    return {
        "global": (by_global, lambda: STEP),
        "tensor": (by_tensor, lambda: float(TOTAL)),
        "list": (by_list, lambda: len(LOG)),
        "meter": (by_meter, lambda: METER.count),
        "method": (trainer.loss, lambda: trainer.step),
        "object": (trainer, lambda: trainer.step),
        "lambda": (lambda m, x: trainer.loss(m, x), lambda: trainer.step),
        "class": (trainer.by_class, lambda: Trainer.made),
        "helper": (trainer.by_helper, lambda: STEP),
        "own tensor": (trainer.by_own_tensor, lambda: float(trainer.total)),
    }[kind]


KINDS = (
    "closure", "global", "tensor", "list", "meter", "method", "object", "lambda", "class", "helper", "own tensor",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    global STEP
    STEP = Trainer.made = Counting.calls = METER.count = METER.of["seen"][0] = 0
    TOTAL.zero_()
    LOG.clear()


def _trained(loss: Loss, guarded: bool, call: Loss | None, model: nn.Module) -> list[float]:
    found = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    tracker = guard(model, call=call, file=io.StringIO()) if guarded else None
    for step in range(5):
        x = X.clone()
        x[0, 0] = torch.inf if step in (1, 3) else 1.0
        value = loss(model, x)
        found.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        if guarded or bool(value.isfinite()):
            optimizer.step()
    if tracker is not None:
        assert [skip.step for skip in tracker.skips] == [1, 3]
        assert all(skip.diagnosis is not None and skip.diagnosis.tried for skip in tracker.skips)
        tracker.remove()
    return found


@pytest.mark.parametrize("given", [False, True], ids=["by its lines", "by a call"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_done_again_counts_nothing(kind: str, given: bool) -> None:
    loss, counted = _made(kind)
    guarded = _trained(loss, True, loss if given else None, VAE())
    assert counted() == 5
    plain = _trained(_at_every_step(), False, None, VAE())
    assert str(guarded) == str(plain)


def _at_every_step() -> Loss:
    steps = iter(range(1, 100))
    return lambda model, x: loss_at(next(steps), model, x)


def test_nor_does_a_method_that_the_loop_calls_of_an_object() -> None:
    model, trainer = VAE(), Trainer()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with guard(model, file=io.StringIO()) as tracker:
        for step in range(3):
            value = trainer.by_helper(model, X * torch.inf if step == 1 else X)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert [skip.step for skip in tracker.skips] == [1]
    assert STEP == 3


def test_nor_does_a_model_whose_forward_counts_beside_it() -> None:
    model = Counting()
    _trained(lambda m, x: loss_at(40, m, x), True, None, model)
    assert (STEP, Counting.calls) == (5, 5)
    scan(model, X, call=lambda m, x: loss_at(40, m, x))
    assert (STEP, Counting.calls) == (5, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_nor_does_a_scan_or_a_cure_and_before_and_after_are_of_one_step(kind: str) -> None:
    loss, counted = _made(kind)
    model = VAE()
    scan(model, X, call=loss)
    assert counted() == 0
    handle = stabilize(model, X, call=loss, file=io.StringIO())
    assert counted() == 0
    assert handle.loss is not None
    assert float(handle.loss(model, X).detach()) > 0
    assert counted() == 1
