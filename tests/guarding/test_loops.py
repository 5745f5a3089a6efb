"""What a guard counts and logs of loops with several losses, models and optimizers, beside the same by hand."""

from __future__ import annotations

import io
import math
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

import vdvae_patch
from vdvae_patch.guarding.skip import read

sys.path.insert(0, str(Path(__file__).parent))
from small_vae import SmallVAE, nelbo

TURNS, BAD = 4, 2
Hand = list[tuple[float, float]]
"""Of each step, in their order, the loss and the norm."""


def norm_of(optimizer: Optimizer) -> float:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))


def noted(hand: Hand, optimizer: Optimizer, loss: Tensor | float) -> None:
    hand.append((float(torch.as_tensor(loss).detach()), norm_of(optimizer)))


def sgd(*modules: nn.Module) -> Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], 1e-3)


def loss_of(model: SmallVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    recon, mean, logvar = model(x)
    return nelbo(recon, x, mean, logvar), recon


def both_backwards_and_then_both_steps(model: SmallVAE, bad: bool, hand: Hand) -> None:
    """Of a discriminator whose loss is a hundred times that of the model."""
    other = nn.Linear(6, 1)
    of_model, of_other = sgd(model), sgd(other)
    for turn in range(TURNS):
        model.far = 400.0 if bad and turn == BAD else 0.0
        x = torch.randn(8, 6)
        loss, recon = loss_of(model, x)
        of_model.zero_grad()
        loss.backward()
        of_other.zero_grad()
        (100 * F.softplus(-other(x)).sum() + other(recon.detach()).nan_to_num().sum()).backward()
        noted(hand, of_model, loss)
        of_model.step()
        of_other.step()


def a_model_in_another_thread(model: SmallVAE, bad: bool, hand: Hand) -> None:
    other, optimizer = nn.Linear(6, 1), sgd(model)
    for turn in range(TURNS):
        model.far = 400.0 if bad and turn == BAD else 0.0
        loss, _ = loss_of(model, torch.randn(8, 6))
        optimizer.zero_grad()
        loss.backward()
        thread = threading.Thread(target=lambda: (100 * other(torch.ones(8, 6)) ** 2).sum().backward())
        thread.start()
        thread.join()
        noted(hand, optimizer, loss)
        optimizer.step()


def a_part_with_an_optimizer_of_its_own(model: SmallVAE, bad: bool, hand: Hand) -> None:
    """As in an adversarial autoencoder: what the first loss has left in the decoder's gradients stays there."""
    critic, all_of_it, of_encoder = nn.Linear(3, 1), sgd(model), sgd(model.encoder, model.mean)
    for turn in range(TURNS):
        model.far = 400.0 if bad and turn == BAD else 0.0
        x = torch.randn(8, 6)
        loss, _ = loss_of(model, x)
        all_of_it.zero_grad()
        loss.backward()
        noted(hand, all_of_it, loss)
        all_of_it.step()
        of_encoder.zero_grad()
        deceived = F.softplus(-critic(model.mean(model.encoder(x)))).sum()
        deceived.backward()
        noted(hand, of_encoder, deceived)
        of_encoder.step()


def a_loss_for_each_of_two_optimizers(model: SmallVAE, bad: bool, hand: Hand) -> None:
    first, second = sgd(model.encoder, model.mean, model.logvar), sgd(model.decoder)
    for turn in range(TURNS):
        x = torch.randn(8, 6)
        _, mean, logvar = model(x)
        of_first = (mean**2 + logvar**2).sum()
        of_second = ((model.decoder(mean.detach()) - x) ** 2).sum() * (math.nan if bad and turn == BAD else 1.0)
        first.zero_grad()
        second.zero_grad()
        of_first.backward()
        of_second.backward()
        noted(hand, first, of_first)
        noted(hand, second, of_second)
        first.step()
        second.step()


def a_loss_for_some_of_the_weights_alone(model: SmallVAE, bad: bool, hand: Hand) -> None:
    first, second = sgd(model.encoder, model.mean, model.logvar), sgd(model.decoder)
    of_encoder, of_decoder = (list(one.param_groups[0]["params"]) for one in (first, second))
    for turn in range(TURNS):
        recon, mean, logvar = model(x := torch.randn(8, 6))
        of_first = ((recon - x) ** 2).sum() + (mean**2 + logvar**2).sum()
        of_second = ((recon - x) ** 2).sum() * (math.nan if bad and turn == BAD else 1.0)
        first.zero_grad()
        second.zero_grad()
        of_first.backward(inputs=of_encoder, retain_graph=True)
        of_second.backward(inputs=of_decoder)
        noted(hand, first, of_first)
        noted(hand, second, of_second)
        first.step()
        second.step()


def a_weight_given_to_backward(model: SmallVAE, bad: bool, hand: Hand) -> None:
    optimizer = sgd(model)
    for turn in range(TURNS):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(4):
            model.far = 400.0 if bad and turn == BAD else 0.0
            loss, _ = loss_of(model, torch.randn(8, 6))
            loss.backward(torch.tensor(0.25))
            total += loss.item() / 4
        noted(hand, optimizer, total)
        optimizer.step()


LOOPS = [
    both_backwards_and_then_both_steps, a_model_in_another_thread, a_part_with_an_optimizer_of_its_own,
    a_loss_for_each_of_two_optimizers, a_loss_for_some_of_the_weights_alone, a_weight_given_to_backward,
]  # fmt: skip


def guarded(loop: Callable[[SmallVAE, bool, Hand], None], bad: bool) -> tuple[Hand, list[Mapping[str, float]], Any]:
    torch.manual_seed(0)
    model, rows, hand = SmallVAE(), list[Mapping[str, float]](), Hand()
    with vdvae_patch.guard(model, tracker=rows.append, every=1, diagnose=False, file=io.StringIO()) as guard:
        loop(model, bad, hand)
    return hand, rows, guard


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_the_loss_of_a_step_is_what_is_in_its_gradients(loop: Callable[[SmallVAE, bool, Hand], None]) -> None:
    for bad in (False, True):
        hand, rows, guard = guarded(loop, bad)
        assert [row["skipped"] for row in rows] == [float(not math.isfinite(loss)) for loss, _ in hand]
        assert [row["loss"] for row in rows] == pytest.approx([loss for loss, _ in hand], nan_ok=True)
        assert [row["grad_norm"] for row in rows] == pytest.approx([norm for _, norm in hand], nan_ok=True)
        assert [skip.cause for skip in guard.skips] == ["nan_loss"] * bad


def test_of_a_loss_that_is_in_part_no_number_none_is_said() -> None:
    model, rows = SmallVAE(), list[Mapping[str, float]]()
    optimizer = sgd(model)
    with vdvae_patch.guard(model, tracker=rows.append, every=1):
        x = torch.randn(8, 6)
        recon, mean, logvar = model(x)
        error = ((recon - x) ** 2).sum(1)
        torch.autograd.backward([error, (mean**2 + logvar**2).sum()], [torch.ones_like(error), None])
        norm = norm_of(optimizer)
        optimizer.step()
    assert math.isnan(rows[0]["loss"])
    assert rows[0]["grad_norm"] == pytest.approx(norm)


def test_another_models_backward_behind_a_step_that_was_given_up_is_let_be() -> None:
    model, other = SmallVAE(), nn.Linear(6, 1)
    optimizer = sgd(model)
    with vdvae_patch.guard(model) as guard:
        loss, _ = loss_of(model, torch.randn(8, 6))
        loss.backward()
        for p in model.parameters():
            p.grad = None
        other(torch.ones(1, 6)).sum().backward()
        loss, _ = loss_of(model, torch.randn(8, 6))
        loss.backward()
        optimizer.step()
        assert (guard.steps, guard.skips) == (1, [])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_whose_whole_pass_is_done_again_in_the_backward_pass_trains_as_without_a_guard(
    reentrant: bool,
) -> None:
    weights = []
    for guard in (False, True):
        torch.manual_seed(0)
        model = SmallVAE()
        optimizer = sgd(model)
        watch = vdvae_patch.guard(model) if guard else None
        for _ in range(TURNS):
            x = torch.randn(8, 6, requires_grad=True)
            recon, mean, logvar = checkpoint(model, x, use_reentrant=reentrant)
            optimizer.zero_grad()
            nelbo(recon, x, mean, logvar).backward()
            optimizer.step()
        if watch is not None:
            assert (watch.steps, watch.skips) == (TURNS, [])
            watch.remove()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.medium
def test_two_guards_of_a_model_and_its_part_do_not_hear_each_other_look_again() -> None:
    torch.manual_seed(0)
    model, out = SmallVAE(), io.StringIO()
    optimizer = sgd(model)
    with vdvae_patch.guard(model, file=out) as whole, vdvae_patch.guard(model.encoder, file=out) as part:
        for turn in range(TURNS):
            model.far = 400.0 if turn == BAD else 0.0
            loss, _ = loss_of(model, torch.randn(8, 6)); optimizer.zero_grad(); loss.backward(); optimizer.step()  # noqa: E702  # fmt: skip
        for guard in (whole, part):
            assert guard.steps == TURNS - 1
            assert [skip.step for skip in guard.skips] == [BAD]


class Lookahead(Optimizer):
    """Takes the steps of another optimizer, and every second one goes halfway back to where it came from."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.param_groups, self.count = base, base.param_groups, 0
        self.slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.base.step(closure)
        self.count += 1
        for p, slow in self.slow.items() if self.count % 2 else ():
            p.copy_((p + slow) / 2)


class SAM(Optimizer):
    """Steps by the gradient at weights that lie a little uphill."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.param_groups = base, base.param_groups

    @torch.no_grad()
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        own = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in own]
        for p in own:
            if p.grad is not None:
                p.add_(p.grad, alpha=1e-3)
        with torch.enable_grad():
            loss = closure()
        for p, value in zip(own, before, strict=True):
            if p.grad is not None:
                p.copy_(value)
        self.base.step()
        self.zero_grad()
        return loss


def steps_by(
    make: Callable[[Any], Optimizer], rows: list[Mapping[str, float]] | None, bad: bool = False, **options: Any
) -> tuple[list[Tensor], Hand, Any]:
    """Weights before each turn and behind the last, with a guard if there are rows for it; and by hand what the first
    evaluation of each turn gave."""
    torch.manual_seed(0)
    model, hand = SmallVAE(), Hand()
    optimizer, weights = make(model.parameters()), list[Tensor]()
    guard = None if rows is None else vdvae_patch.guard(model, tracker=rows.append, every=1, diagnose=False, **options)
    for turn in range(TURNS):
        x, noise = torch.randn(8, 6), torch.randn(8, 3)
        evaluations = Hand()

        def closure(x: Tensor = x, noise: Tensor = noise, turn: int = turn, by_hand: Hand = evaluations) -> Tensor:
            optimizer.zero_grad()
            h = model.encoder(x)
            mean, logvar = model.mean(h), model.logvar(h) + (400.0 if bad and turn == BAD else 0.0)
            loss = nelbo(model.decoder(mean + torch.exp(logvar / 2) * noise), x, mean, logvar)
            loss.backward()
            noted(by_hand, optimizer, loss)
            return loss

        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        if isinstance(optimizer, SAM):
            closure()
            evaluations.clear()
        optimizer.step(closure)  # type: ignore[arg-type]
        hand.append(evaluations[0])
    weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    if guard is not None:
        guard.remove()
    return weights, hand, guard


MAKERS = {
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "Lookahead": lambda p: Lookahead(torch.optim.SGD(p, 1e-3, momentum=0.9)),
    "SAM": lambda p: SAM(torch.optim.SGD(p, 1e-3, momentum=0.9)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_optimizer_that_is_not_a_plain_one_is_counted_once_a_turn_and_undone(name: str) -> None:
    rows = list[Mapping[str, float]]()
    plain, _, _ = steps_by(MAKERS[name], None)
    watched, hand, guard = steps_by(MAKERS[name], rows)
    assert all(map(torch.equal, plain, watched))
    assert (guard.steps, guard.skips) == (TURNS, [])
    assert [(row["loss"], row["grad_norm"]) for row in rows] == [pytest.approx(one) for one in hand]
    rows.clear()
    with_skip, _, guard = steps_by(MAKERS[name], rows, bad=True, file=io.StringIO())
    assert [row["skipped"] for row in rows] == [float(turn == BAD) for turn in range(TURNS)]
    assert guard.report().startswith(f"{TURNS} steps, 1 of them skipped")
    assert torch.equal(with_skip[BAD], with_skip[BAD + 1])
    assert with_skip[-1].isfinite().all()
    assert not torch.equal(with_skip[-1], with_skip[-2])


class Falling(torch.optim.SGD):
    """Halves its learning rate in every step, as schedule-free optimizers count theirs in their groups."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        found = super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5
        return found


def test_what_an_optimizer_keeps_for_itself_and_in_its_groups_is_undone_with_the_step() -> None:
    ended = []
    for guarded in (False, True):
        torch.manual_seed(0)
        model = SmallVAE()
        optimizer = Falling(model.parameters(), 1e-3, momentum=0.9)
        guard = vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) if guarded else None
        for turn in range(TURNS):
            loss, _ = loss_of(model, torch.randn(8, 6))
            optimizer.zero_grad()
            (loss * (math.nan if turn == BAD else 1.0)).backward()
            if guarded or turn != BAD:
                optimizer.step()
        if guard is not None:
            guard.remove()
        ended.append((optimizer.param_groups[0]["lr"], torch.cat([p.detach().flatten() for p in model.parameters()])))
    (alone, weights), (watched, others) = ended
    assert alone == watched == 1e-3 * 0.5 ** (TURNS - 1)
    assert torch.equal(weights, others)


def test_what_does_not_clip_says_so_and_what_is_wrapped_is_clipped_once() -> None:
    said, rows = io.StringIO(), list[Mapping[str, float]]()
    steps_by(MAKERS["LBFGS"], rows, clip=1.0, file=said)
    assert said.getvalue().count("clip=1.0 does nothing in a step of LBFGS") == 1
    assert all(math.isinf(row["clip"]) for row in rows)
    rows.clear()
    watched, _, _ = steps_by(lambda p: Lookahead(torch.optim.SGD(p, 1e-3)), rows, clip=1.0, file=said)
    assert [row["clip"] for row in rows] == [1.0] * TURNS
    assert float((watched[2] - watched[1]).norm()) == pytest.approx(1e-3, rel=1e-3)  # the first turn goes half back


def test_a_step_that_raised_leaves_the_next_one_guarded() -> None:
    model = SmallVAE()
    optimizer = sgd(model)

    def closure(turn: int) -> Tensor:
        if turn == 1:
            raise MemoryError("as data may raise it, before the model is called")
        loss, _ = loss_of(model, torch.randn(8, 6))
        optimizer.zero_grad()
        (loss * (math.nan if turn == 2 else 1.0)).backward()
        return loss

    with vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) as guard:
        for turn in range(TURNS):
            try:
                optimizer.step(lambda turn=turn: closure(turn))  # type: ignore[misc]
            except MemoryError:
                continue
        assert (guard.steps, [skip.step for skip in guard.skips]) == (2, [1])
    assert all(p.isfinite().all() for p in model.parameters())


class Loss(SmallVAE):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        recon, mean, logvar = super().forward(x)
        return nelbo(recon, x, mean, logvar)


def evaluated(model: nn.Module, batches: int) -> float:
    """As many do it, with gradients on."""
    model.eval()
    total = sum(model(torch.randn(8, 6)).item() for _ in range(batches))
    model.train()
    return total


@pytest.mark.parametrize("batches", [1, 7])
@pytest.mark.parametrize("when", ["before", "behind", "between"])
def test_the_batch_that_is_recorded_is_that_of_the_loss_and_not_of_an_evaluation(
    tmp_path: Path, when: str, batches: int
) -> None:
    torch.manual_seed(0)
    model = Loss()
    optimizer = sgd(model)
    with vdvae_patch.guard(model, threshold=1000.0, out=tmp_path / "guard", file=io.StringIO()) as guard:
        for turn in range(TURNS):
            x = torch.randn(8, 6) * (100.0 if turn == BAD else 1.0)
            if when == "before":
                evaluated(model, batches)
            optimizer.zero_grad()
            loss = model(x)
            loss.backward()
            if when == "between":
                evaluated(model, batches)
            if turn == BAD:
                batch, by_hand = x, loss.item()
            optimizer.step()
            if when == "behind":
                evaluated(model, batches)
    (skip,) = guard.skips
    assert (skip.step, skip.loss) == (BAD, by_hand)
    assert skip.folder is not None
    recorded = read(skip.folder)
    assert torch.equal(recorded.args[0], batch)
    model.load_state_dict(recorded.weights)
    recorded.generators.restore(torch.device("cpu"))
    assert model.train(recorded.training)(*recorded.args).item() == recorded.loss == by_hand


def test_of_a_loss_of_two_passes_that_the_next_turn_differentiates_the_first_is_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Loss()
    optimizer, loss = sgd(model), None
    with vdvae_patch.guard(model, threshold=1000.0, out=tmp_path / "guard", file=io.StringIO()) as guard:
        for turn in range(TURNS):
            if loss is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            x = torch.randn(8, 6) * (100.0 if turn == BAD else 1.0)
            loss = model(x) + model(torch.randn(5, 6))
            if turn == BAD:
                batch = x
    (skip,) = guard.skips
    assert skip.folder is not None
    assert torch.equal(read(skip.folder).args[0], batch)


@pytest.mark.medium
def test_a_step_behind_an_evaluation_is_done_again_by_its_own_lines() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizer = sgd(model)
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        for turn in range(TURNS):
            with torch.no_grad():
                model.logvar.bias += 400.0 * (turn == BAD)  # type: ignore[operator]
            x = torch.randn(8, 6)
            loss, _ = loss_of(model, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logvar.bias -= 400.0 * (turn == BAD)  # type: ignore[operator]
            for _ in range(7):
                loss_of(model, torch.randn(5, 6))
    (skip,) = guard.skips
    assert skip.head == "logvar"
    assert skip.rows == tuple(range(8))


@pytest.mark.medium
def test_a_part_that_is_called_by_itself_behind_the_loss_has_no_part_in_what_is_done_again() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizer = sgd(model)
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        x, other = torch.randn(8, 6), torch.randn(8, 6)
        for turn in range(2):
            model.far = 400.0 * turn
            optimizer.zero_grad()
            loss_of(model, x)[0].backward()
            model.encoder(other)  # as to log what it gives for a batch that is the same in all steps
            optimizer.step()
    (found,) = guard.skips[0].diagnosis.heads
    with torch.no_grad():
        logvar = model(x)[2]
    assert found.log_sigma_max == pytest.approx(float(logvar.max()) / 2, rel=1e-6)


def test_an_optimizer_that_is_made_anew_is_one_more_also_when_the_one_before_is_gone() -> None:
    model, said = SmallVAE(), io.StringIO()
    with vdvae_patch.guard(model, diagnose=False, file=said) as guard:
        for part in range(3):
            optimizer = sgd(model)
            for _ in range(2):
                loss, _ = loss_of(model, torch.randn(8, 6))
                optimizer.zero_grad()
                (loss * (math.nan if part == 2 else 1.0)).backward()
                optimizer.step()
            del optimizer
        assert guard.report().startswith("6 steps of 3 optimizers, 2 of them skipped")
        assert said.getvalue().count("note: 3 optimizers have taken steps so far, and each counts its own from 0") == 1
