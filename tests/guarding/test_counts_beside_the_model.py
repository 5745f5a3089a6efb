"""What a loss counts beside the model (the step of a warm-up, a meter, a log) is left as it was by every pass that is
no step: of a scan, of a cure, and of a step that a guard does again."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import guard, scan, stabilize

STEP, SEEN = 0, []
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


def terms(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    out, mean, log_variance = model(x)
    return ((out - x) ** 2).sum(1).mean(), -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()


def in_globals(model: nn.Module, x: Tensor) -> Tensor:
    global STEP
    STEP += 1
    error, kl = terms(model, x)
    SEEN.append(float(kl.detach()))
    return error + min(1.0, STEP / 40) * kl


class Trainer:
    def __init__(self) -> None:
        self.step, self.seen = 0, list[float]()

    def loss(self, model: nn.Module, x: Tensor) -> Tensor:
        self.step += 1
        error, kl = terms(model, x)
        self.seen.append(float(kl.detach()))
        return error + min(1.0, self.step / 40) * kl

    __call__ = loss


def _closed_over() -> tuple[Callable[..., Tensor], Callable[[], tuple[int, int]]]:
    step, seen = 0, list[float]()

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal step
        step += 1
        error, kl = terms(model, x)
        seen.append(float(kl.detach()))
        return error + min(1.0, step / 40) * kl

    return loss, lambda: (step, len(seen))


def _made(kind: str) -> tuple[Callable[..., Tensor], Callable[[], tuple[int, int]]]:
    global STEP
    STEP = 0
    SEEN.clear()
    trainer = Trainer()
    if kind == "closure":
        return _closed_over()
    if kind == "globals":
        return in_globals, lambda: (STEP, len(SEEN))
    loss = {"method": trainer.loss, "object": trainer, "lambda": lambda m, x: trainer.loss(m, x)}[kind]
    return loss, lambda: (trainer.step, len(trainer.seen))


def _trained(loss: Callable[..., Tensor], guarded: bool, call: Callable[..., Tensor] | None) -> list[float]:
    model, found = VAE(), []
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
        tracker.remove()
    return found


@pytest.mark.parametrize("given", [False, True], ids=["by its lines", "by a call"])
@pytest.mark.parametrize("kind", ["globals", "method", "object", "lambda", "closure"])
def test_a_step_that_is_done_again_counts_nothing(kind: str, given: bool) -> None:
    loss, counted = _made(kind)
    plain = _trained(loss, False, None)
    assert counted() == (5, 5)
    loss, counted = _made(kind)
    guarded = _trained(loss, True, loss if given else None)
    assert counted() == (5, 5)
    assert str(guarded) == str(plain)


@pytest.mark.parametrize("kind", ["globals", "method", "object", "lambda", "closure"])
def test_nor_does_a_scan_or_a_cure_and_before_and_after_are_of_one_step(kind: str) -> None:
    loss, counted = _made(kind)
    model = VAE()
    scan(model, X, call=loss)
    assert counted() == (0, 0)
    handle = stabilize(model, X, call=loss, file=io.StringIO())
    assert counted() == (0, 0)
    torch.manual_seed(0)
    assert float(handle.loss(model, X)) > 0  # type: ignore[misc]
    assert counted() == (1, 1)
