"""Loops that do not write `loss.backward()` in the function that calls the model: the head and its line are named in
all of them, what the loop holds is as without a guard, and nothing that is done again is done twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import backward as backward_by_name
from torch.autograd import grad as grad_by_name
from torch.optim import Adam, Optimizer

import vdvae_patch

sys.path.insert(0, str(Path(__file__).parent))
from small_vae import nelbo

SIZE, BATCH, UPDATES = 16, 32, 4
LR = 3.0  # at which the log variance runs away in the first update


class VAE(nn.Module):
    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(SIZE, 64), nn.BatchNorm1d(64) if norm else nn.Identity(), nn.ReLU())
        self.mean, self.logvar = nn.Linear(64, 4), nn.Linear(64, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, SIZE))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        return self.decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)), mean, logvar


def batches() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return iter([3 * torch.randn(BATCH, SIZE, generator=generator) for _ in range(UPDATES)])


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    return nelbo(recon, x, mean, logvar)


def assigned(parameters: list[nn.Parameter], gradients: Any) -> None:
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


def by_grad(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = model(x)
        loss = nelbo(recon, x, mean, logvar)
        assigned(parameters, torch.autograd.grad(loss, parameters))
        optimizer.step()


def by_a_grad_that_was_imported_by_name(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        assigned(parameters, [g.clone() for g in grad_by_name(loss_of(model, x), parameters)])
        optimizer.step()


def cleared_behind_grad(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        loss = loss_of(model, x)
        gradients = torch.autograd.grad(loss, parameters)
        optimizer.zero_grad()
        assigned(parameters, gradients)
        optimizer.step()


def one_grad_a_loss(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = model(x)
        error, rate = F.mse_loss(recon, x, reduction="sum"), -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
        of_error = torch.autograd.grad(error, parameters, retain_graph=True)
        of_rate = torch.autograd.grad(rate, parameters, allow_unused=True, materialize_grads=True)
        assigned(parameters, [a + b for a, b in zip(of_error, of_rate, strict=True)])
        optimizer.step()


def one_backward_a_loss_and_combined_by_hand(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = model(x)
        losses, kept = [nelbo(recon, x, mean, logvar), (mean**2).sum()], []
        for loss in losses:
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            kept.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        assigned(parameters, [sum(of_one) for of_one in zip(*kept, strict=True)])
        optimizer.step()


def by_torch_func(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        recon, mean, logvar = torch.func.functional_call(model, parameters, (x,))
        return nelbo(recon, x, mean, logvar)

    for x in batches():
        given = {name: p.detach() for name, p in model.named_parameters()}
        gradients, _ = torch.func.grad_and_value(loss)(given, x)
        for name, p in model.named_parameters():
            p.grad = gradients[name]
        optimizer.step()


def by_functional_call(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = torch.func.functional_call(model, dict(model.named_parameters()), (x,))
        loss = nelbo(recon, x, mean, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_a_gradient_of_each_row(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = model(x)
        losses = ((recon - x) ** 2).sum(1) - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
        optimizer.zero_grad()
        losses.backward(torch.full_like(losses, 0.5))
        optimizer.step()


def with_gradients_of_the_outputs(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)
    for x in batches():
        recon, mean, logvar = model(x)
        optimizer.zero_grad()
        by_hand = [(recon - x).detach(), mean.detach(), 0.5 * (logvar.detach().exp() - 1)]
        backward_by_name([recon, mean, logvar], by_hand)
        optimizer.step()


def with_a_penalty_on_gradients(model: nn.Module) -> None:
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=LR)
    for x in batches():
        loss = loss_of(model, x)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        penalty = 1e-12 * sum((g**2).sum() for g in gradients)
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()


class InAttributes:
    """All is left in attributes, and a discriminator takes its step in between, as image translators do it."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.discriminator = model, nn.Linear(SIZE, 1)
        self.optimizer = Adam(model.parameters(), lr=LR)
        self.of_discriminator = torch.optim.SGD(self.discriminator.parameters(), lr=1e-3)
        self.calls = self.stepped = 0

    def forward(self) -> None:
        self.recon, self.mean, self.logvar = self.model(self.x)
        self.calls += 1

    def backward_discriminator(self) -> None:
        loss = F.softplus(self.discriminator(self.recon.detach().nan_to_num().clamp(-5, 5))).mean()
        loss.backward()

    def backward(self) -> None:
        self.loss = nelbo(self.recon, self.x, self.mean, self.logvar) - self.discriminator(self.recon).mean()
        self.loss.backward()

    def update(self) -> None:
        self.forward()
        self.of_discriminator.zero_grad()
        self.backward_discriminator()
        self.of_discriminator.step()
        self.stepped += 1
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def train(self) -> None:
        for self.x in batches():
            self.update()
        assert (self.calls, self.stepped) == (UPDATES, UPDATES)


class InStages(InAttributes):
    def compute_loss(self) -> None:
        self.loss = nelbo(self.recon, self.x, self.mean, self.logvar)

    def update(self) -> None:
        self.forward()
        self.stepped += 1
        self.compute_loss()
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()


def in_attributes(model: nn.Module) -> None:
    InAttributes(model).train()


def in_stages(model: nn.Module) -> None:
    InStages(model).train()


def in_a_dictionary(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)

    def run(state: dict[str, Any]) -> None:
        state["recon"], state["mean"], state["logvar"] = model(state["x"])

    def judge(state: dict[str, Any]) -> None:
        state["loss"] = nelbo(state["recon"], state["x"], state["mean"], state["logvar"])

    for x in batches():
        state = {"x": x}
        run(state)
        judge(state)
        optimizer.zero_grad()
        state["loss"].backward()
        optimizer.step()


def behind_a_step_of_another_model(model: nn.Module, *, to_none: bool = True) -> None:
    """The function that calls the model trains a discriminator, too."""
    discriminator = nn.Linear(SIZE, 1)
    theirs, optimizer = Adam(discriminator.parameters(), lr=1e-3), Adam(model.parameters(), lr=LR)
    judges: Any = discriminator if to_none else [discriminator]  # which is then not known to be a model of the lines

    def first(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        recon, mean, logvar = model(x)
        judge = judges if to_none else judges[0]
        loss = F.softplus(judge(recon.detach().nan_to_num().clamp(-5, 5))).mean()
        theirs.zero_grad(set_to_none=to_none)
        loss.backward()
        theirs.step()
        return recon, mean, logvar

    for x in batches():
        recon, mean, logvar = first(x)
        loss = nelbo(recon, x, mean, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert discriminator.bias.grad is not None
        assert discriminator.bias.grad.abs().sum() > 0 or not to_none  # which one in the same place would lose
    assert {float(state["step"]) for state in theirs.state.values()} == {UPDATES}


def behind_a_step_of_another_model_with_gradients_of_zero(model: nn.Module) -> None:
    behind_a_step_of_another_model(model, to_none=False)


def going_on_after_an_error(model: nn.Module) -> None:
    optimizer = Adam(model.parameters(), lr=LR)
    for x in batches():
        try:
            recon, mean, logvar = model(x)
        except RuntimeError:
            continue
        loss = nelbo(recon, x, mean, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Sharp(Optimizer):
    """Sharpness-aware: the gradient is that of weights a little further up."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.base = Adam(self.param_groups, lr=LR)
        self.before: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def up(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.before[p] = p.detach().clone()
                p.add_(p.grad, alpha=1e-6)
        self.zero_grad()

    @torch.no_grad()
    def down(self) -> None:
        for p, before in self.before.items():
            p.copy_(before)
        self.base.step()
        self.zero_grad()


def sharpness_aware(model: nn.Module) -> None:
    optimizer = Sharp(model.parameters())
    for x in batches():
        loss_of(model, x).backward()
        optimizer.up()
        loss_of(model, x).backward()
        optimizer.down()


LOOPS: list[Callable[[Any], None]] = [
    by_grad, by_a_grad_that_was_imported_by_name, cleared_behind_grad, one_grad_a_loss,
    one_backward_a_loss_and_combined_by_hand, by_torch_func, by_functional_call, with_a_gradient_of_each_row,
    with_gradients_of_the_outputs, with_a_penalty_on_gradients, in_attributes, in_stages, in_a_dictionary,
    behind_a_step_of_another_model, behind_a_step_of_another_model_with_gradients_of_zero,
    going_on_after_an_error, sharpness_aware,
]  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_the_head_and_its_line_are_named(loop: Callable[[Any], None]) -> None:
    ends = []
    for diagnose in (False, True):
        model = VAE(norm=loop is not by_torch_func)  # whose running statistics torch.func does not write
        torch.manual_seed(1)
        with vdvae_patch.guard(model, diagnose=diagnose) as guard:
            loop(model)
        ends.append([torch.rand(3), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True)), "what explains a step has changed the training"
    assert all(t.isfinite().all() for t in ends[1])
    first = guard.skips[0]
    assert first.step == 1
    assert first.head == "logvar", guard.report()
    assert first.holding == ("explin", "bounded(0.001, 10)")
    assert first.file == __file__
    text = Path(__file__).read_text().splitlines()[(first.line or 0) - 1]
    assert "logvar" in text
    assert "exp(" in text
    assert "loss 0" not in guard.report()
    if loop in (with_a_gradient_of_each_row, with_gradients_of_the_outputs):
        assert "the loss was not seen, gradient norm NaN" in guard.report()
    else:
        assert first.diagnosis is not None
        assert first.diagnosis.exact or loop in (one_backward_a_loss_and_combined_by_hand, sharpness_aware)


def test_the_loops_break_without_a_guard() -> None:
    for loop in LOOPS:
        model = VAE(norm=loop is not by_torch_func)
        torch.manual_seed(1)
        loop(model)
        assert not all(p.isfinite().all() for p in model.parameters()), loop.__name__


def test_a_gradient_with_respect_to_something_else_is_no_loss() -> None:
    """That of a critic with respect to its input is infinite, and no part of any step."""
    model = VAE()
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=1e-3)
    with vdvae_patch.guard(model) as guard:
        for x in batches():
            x.requires_grad_()
            recon, mean, logvar = model(x)
            loss = nelbo(recon, x.detach(), mean, logvar)
            torch.autograd.grad(mean.sum() * torch.inf, x, retain_graph=True)
            assigned(parameters, torch.autograd.grad(loss, parameters))
            optimizer.step()
        assert guard.steps == UPDATES


def test_a_gradient_that_is_only_looked_at_does_not_hold_a_step_back() -> None:
    model = VAE()
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=1e-3)
    with vdvae_patch.guard(model) as guard:
        for x in batches():
            recon, mean, logvar = model(x)
            loss = nelbo(recon, x, mean, logvar)
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            torch.autograd.grad(mean.sum() * torch.inf, parameters, allow_unused=True)
            optimizer.step()
        assert guard.steps == UPDATES


def test_a_loss_of_grad_that_the_loop_gives_up_is_no_part_of_the_next_step() -> None:
    model = VAE()
    parameters, optimizer = list(model.parameters()), Adam(model.parameters(), lr=1e-3)
    with vdvae_patch.guard(model) as guard:
        for number, x in enumerate(batches()):
            loss = loss_of(model, x) * (torch.nan if number == 1 else 1.0)
            gradients = torch.autograd.grad(loss, parameters)
            if loss.isfinite():
                assigned(parameters, gradients)
                optimizer.step()
        assert guard.steps == UPDATES - 1
        assert not guard.skips


@pytest.mark.medium
def test_of_losses_of_grad_that_are_added_up_one_that_is_not_finite_is_seen() -> None:
    model = VAE(norm=False)
    parameters, optimizer = list(model.parameters()), torch.optim.SGD(model.parameters(), 1e-4)
    before = [p.detach().clone() for p in parameters]
    guard = vdvae_patch.guard(model)
    for part in range(3):
        x = torch.randn(BATCH, SIZE)
        x[1, 0] = float("nan") if part == 1 else 0.0
        for p, gradient in zip(parameters, torch.autograd.grad(loss_of(model, x) / 3, parameters), strict=True):
            p.grad = gradient if p.grad is None else p.grad + gradient
    optimizer.step()
    guard.remove()
    assert [(skip.step, skip.cause) for skip in guard.skips] == [(0, "nan_loss")]
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))


def test_a_model_beside_it_that_is_not_guarded_is_named() -> None:
    """The discriminator's weights are NaN after its step; the heads are looked at all the same."""

    class Unguarded(InAttributes):
        def backward_discriminator(self) -> None:
            self.discriminator(self.recon.detach()).mean().backward()

    model = VAE()
    torch.manual_seed(1)
    with vdvae_patch.guard(model) as guard:
        Unguarded(model).train()
    first = guard.skips[0]
    assert first.head == "logvar"
    assert "a Linear that the loss uses, too, has weights that are not finite (weight" in guard.report()
    model = VAE()
    trainer = InAttributes(model)
    with torch.no_grad():
        trainer.discriminator.bias.fill_(torch.nan)
    with vdvae_patch.guard(model) as guard:
        trainer.train()
    assert guard.skips[0].head is None
    assert guard.skips[0].holding == ()
    assert "vdvae_patch.guard(it)" in guard.report()
    assert trainer.discriminator.bias.isnan().all()


def test_gradients_of_another_model_are_left_alone_by_a_step_that_is_done_again() -> None:
    """Those of a discriminator are summed over two steps of the model."""
    model = VAE()
    torch.manual_seed(1)
    trainer = InAttributes(model)
    kept: list[Tensor] = []
    update = trainer.update

    def watched() -> None:
        update()
        gradient = trainer.discriminator.weight.grad
        assert gradient is not None
        kept.append(gradient.clone())

    trainer.update = watched  # type: ignore[method-assign]
    trainer.of_discriminator.zero_grad = lambda: None  # type: ignore[method-assign, assignment]
    with vdvae_patch.guard(model, diagnose=False):
        trainer.train()
    first, kept[:] = list(kept), []
    model = VAE()
    torch.manual_seed(1)
    trainer.__init__(model)  # type: ignore[misc]
    trainer.of_discriminator.zero_grad = lambda: None  # type: ignore[method-assign, assignment]
    with vdvae_patch.guard(model) as guard:
        trainer.train()
    assert guard.skips[0].head == "logvar"
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, kept, strict=True))
    assert not all(torch.equal(a, b) for a, b in pairwise(kept))


def test_a_gradient_that_is_given_is_a_part_of_what_is_done_again() -> None:
    """All outputs are finite, and the sum of them has a finite gradient; that which is given overflows."""
    model = VAE()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with vdvae_patch.guard(model) as guard:
        for number, x in enumerate(batches()):
            _, mean, _ = model(x)
            optimizer.zero_grad()
            mean.backward(torch.full_like(mean, 1e38 if number == 1 else 1.0))
            optimizer.step()
    assert [skip.step for skip in guard.skips] == [1]
    diagnosis = guard.skips[0].diagnosis
    assert diagnosis is not None
    assert diagnosis.reproduced
