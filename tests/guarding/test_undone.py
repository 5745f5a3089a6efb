"""A step that is skipped was never done: weights, buffers, moments and step counts are bit for bit those of before."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vdvae_patch
from vdvae_patch.errors import GuardError
from vdvae_patch.guarding.buffers import Buffers

sys.path.insert(0, str(Path(__file__).parent))
from small_vae import SmallVAE, nelbo

BATCH = 8


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-3, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
}
PRECISIONS = ("fp32", "bf16", "fp16")
FAULTS = ("data", "head", "loss", "weight")


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    return [t.detach().clone() for t in (*model.state_dict().values(), *moments)]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    """Bit for bit: a NaN is itself, and 0 is not -0."""
    return len(before) == len(after) and all(_bytes(a) == _bytes(b) for a, b in zip(before, after, strict=True))


def _bytes(value: Tensor) -> bytes:
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Loop:
    """A loop as a user writes it, in one of three precisions."""

    def __init__(self, optimizer: str, precision: str, accumulate: int = 1, model: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.model = SmallVAE() if model is None else model
        self.called: nn.Module = self.model
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0) if precision == "fp16" else None
        self.precision, self.accumulate = precision, accumulate
        self.losses: list[Tensor] = []

    def step(self, fault_of_step: str = "") -> None:
        for number in range(self.accumulate):
            fault = fault_of_step if number == self.accumulate // 2 else ""  # one bad micro-batch spoils the sum
            x = torch.randn(BATCH, 6)
            if fault == "data":
                x[5, 2] = torch.nan
            self.model.far = 400.0 if fault == "head" else 0.0  # type: ignore[assignment]
            last = number == self.accumulate - 1
            with nullcontext() if last or self.called is self.model else self.called.no_sync():  # type: ignore[operator]
                with self.autocast():
                    recon, mean, logvar = self.called(x)
                    loss = nelbo(recon, x, mean, logvar)
                    if fault == "loss":
                        loss = loss + torch.log(1 - recon.detach().abs().clamp(1, 1)).sum() * 0
                if self.scaler is None:
                    loss.backward()
                else:
                    self.scaler.scale(loss).backward()
            self.losses.append(loss.detach())
            torch.rand(1)  # a draw behind the pass, which one that is done again must not take back
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)

    def autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast("cpu", dtype=torch.bfloat16 if self.precision == "bf16" else torch.float16)


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    yield
    assert not hasattr(torch.autograd._engine_run_backward, "__wrapped__"), "a guard was left behind"


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_step_was_never_done(optimizer: str, precision: str, fault: str, accumulate: int) -> None:
    loop = Loop(optimizer, precision, accumulate)
    with vdvae_patch.guard(loop.model, diagnose=False) as guard:
        for _ in range(3):
            loop.step()
        assert not guard.skips
        if fault == "weight":
            with torch.no_grad():
                loop.model.mean.weight[1, 2] = torch.nan  # type: ignore[union-attr, index]
        before = state_of(loop.model, loop.optimizer)
        averaged = state_of(loop.average, loop.optimizer)
        loop.step(fault)
        assert same(before, state_of(loop.model, loop.optimizer))
        assert [skip.cause for skip in guard.skips] == ["nan_loss"]
        if fault == "weight":
            assert "mean.weight" in guard.skips[0].outside[0]
            return
        loop.step()
        assert not same(before, state_of(loop.model, loop.optimizer))
        assert not same(averaged, state_of(loop.average, loop.optimizer))
        assert all(p.isfinite().all() for one in (loop.model, loop.average) for p in one.state_dict().values())
        assert guard.steps == 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loop_without_a_fault_is_the_same_loop(precision: str) -> None:
    plain, guarded = Loop("Adam", precision), Loop("Adam", precision)
    for _ in range(4):
        plain.step()
    torch.manual_seed(0)
    guarded = Loop("Adam", precision)
    with vdvae_patch.guard(guarded.model):
        for _ in range(4):
            guarded.step()
    assert same(state_of(plain.model, plain.optimizer), state_of(guarded.model, guarded.optimizer))


def test_what_is_random_goes_on_as_without_a_skip() -> None:
    """The step that is done again draws its numbers a second time, which nobody must notice."""
    drawn = []
    for diagnose in (False, True):
        loop = Loop("Adam", "fp32")
        with vdvae_patch.guard(loop.model, diagnose=diagnose):
            loop.step()
            loop.step("head")
            loop.step()
        drawn.append((torch.randn(3), state_of(loop.model, loop.optimizer)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert same(drawn[0][1], drawn[1][1])


def test_copies_and_pickles_of_a_guarded_model_are_not_guarded() -> None:
    loop = Loop("Adam", "fp32")
    with vdvae_patch.guard(loop.model) as guard:
        for twin in (copy.deepcopy(loop.model), pickle.loads(pickle.dumps(loop.model))):
            optimizer = torch.optim.SGD(twin.parameters(), lr=1e-3)
            recon, mean, logvar = twin(torch.full((BATCH, 6), torch.nan))
            nelbo(recon, torch.zeros(BATCH, 6), mean, logvar).backward()
            optimizer.step()
            assert not all(p.isfinite().all() for p in twin.parameters())
        assert not guard.skips
        assert not guard._window.passes


def test_a_loss_that_the_loop_gives_up_is_no_part_of_the_next_step() -> None:
    loop = Loop("Adam", "fp32")
    with vdvae_patch.guard(loop.model) as guard:
        for number in range(4):
            x = torch.randn(BATCH, 6)
            if number == 1:
                x[2, 2] = torch.nan
            loop.optimizer.zero_grad()
            loss = nelbo(*_with(loop.model, x))
            loss.backward()
            if loss.isfinite():
                loop.optimizer.step()
        assert guard.steps == 3
        assert not guard.skips


def test_the_loss_of_another_model_is_not_this_ones() -> None:
    torch.manual_seed(0)
    ours, other = SmallVAE(), SmallVAE()
    optimizers = [torch.optim.Adam(model.parameters()) for model in (ours, other)]
    with vdvae_patch.guard(ours) as guard:
        for number in range(3):
            x, y = torch.randn(BATCH, 6), torch.randn(BATCH, 6)
            if number == 1:
                y[0] = torch.nan
            losses = [nelbo(*_with(ours, x)), nelbo(*_with(other, y))]
            for optimizer in optimizers:
                optimizer.zero_grad()
            for loss in losses:
                loss.backward()
            optimizers[0].step()
        assert guard.steps == 3


def test_a_loss_of_other_parameters_does_not_hold_a_step_back() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    encoder = [*model.encoder.parameters(), *model.mean.parameters(), *model.logvar.parameters()]
    first, second = torch.optim.SGD(encoder, 1e-3), torch.optim.SGD(model.decoder.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for number in range(3):
            _, mean, logvar = model(torch.randn(BATCH, 6))
            rate = (mean**2 + logvar**2).sum() * (torch.nan if number == 1 else 1.0)
            first.zero_grad()
            rate.backward(retain_graph=True)
            first.step()
            second.zero_grad()
            sum(p.pow(2).sum() for p in model.decoder.parameters()).backward()
            second.step()
        assert [(skip.step, skip.optimizer) for skip in guard.skips] == [(1, "SGD")]
        assert guard.steps == 5


def test_nothing_is_taken_from_the_data_and_nothing_counted_twice() -> None:
    class Counting(SmallVAE):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            self.calls += 1
            return super().forward(x)

    class Trainer:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.model, self.steps, self.history = Counting(), 0, list[float]()
            self.optimizer = torch.optim.Adam(self.model.parameters())
            self.generator = torch.Generator().manual_seed(3)

        def loss(self, x: Tensor) -> Tensor:
            self.steps += 1
            noisy = x + 0.1 * torch.randn(x.shape, generator=self.generator)
            loss = nelbo(*_with(self.model, noisy))
            self.history.append(float(loss.detach()))
            return loss

        def fit(self, batches: Iterator[Tensor]) -> int:
            number = 0
            for number, x in enumerate(batches):
                self.model.far = 400.0 if number == 1 else 0.0
                self.optimizer.zero_grad()
                loss = self.loss(x)
                loss.backward()
                self.optimizer.step()
            return number

        def fit_taking(self, batches: Iterator[Tensor]) -> int:
            number = 0
            for number in range(4):
                self.model.far = 400.0 if number == 1 else 0.0
                self.optimizer.zero_grad()
                loss = self.loss(next(batches))
                loss.backward()
                self.optimizer.step()
            return number + len(list(batches))

    for take in (False, True):
        plain, guarded = Trainer(), Trainer()
        fits = [one.fit_taking if take else one.fit for one in (plain, guarded)]
        ends = [fits[0](iter(torch.ones(8, BATCH, 6)))]
        with vdvae_patch.guard(guarded.model) as guard:
            ends.append(fits[1](iter(torch.ones(8, BATCH, 6))))
        assert len(guard.skips) == 1
        assert ends[0] == ends[1]
        assert (plain.steps, plain.model.calls, len(plain.history)) == (
            guarded.steps, guarded.model.calls, len(guarded.history),
        )  # fmt: skip
        assert torch.equal(plain.generator.get_state(), guarded.generator.get_state())
        assert (guard.skips[0].head == "logvar") != take


def test_a_mask_of_infinities_is_not_what_broke_the_step() -> None:
    class Masked(SmallVAE):
        def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x * (x + mask).softmax(1))

    torch.manual_seed(0)
    model, mask = Masked(), torch.zeros(6)
    mask[4:] = -torch.inf
    optimizer = torch.optim.Adam(model.parameters())
    with vdvae_patch.guard(model) as guard:
        for number in range(2):
            if number == 1:
                with torch.no_grad():
                    model.logvar.bias += 400
            x = torch.randn(BATCH, 6)
            recon, mean, logvar = model(x, mask)
            loss = nelbo(recon, x, mean, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert guard.skips[0].head == "logvar"
        assert not guard.skips[0].outside


def _with(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    recon, mean, logvar = model(x)
    return recon, x, mean, logvar


def test_two_optimizers_of_one_model() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    first = torch.optim.Adam([*model.encoder.parameters(), *model.mean.parameters(), *model.logvar.parameters()])
    second = torch.optim.SGD(model.decoder.parameters(), lr=1e-3, momentum=0.9)
    with vdvae_patch.guard(model) as guard:
        for number in range(4):
            for optimizer in (first, second):
                x = torch.randn(BATCH, 6)
                model.far = 400.0 if number == 2 and optimizer is second else 0.0
                before = state_of(model, second)
                recon, mean, logvar = model(x)
                loss = nelbo(recon, x, mean, logvar)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert same(before, state_of(model, second)) == bool(model.far)
        assert [(skip.step, skip.optimizer) for skip in guard.skips] == [(2, "SGD")]
        assert guard.steps == 7
        assert guard.report().startswith("8 steps of 2 optimizers, 1 of them skipped\n")
        assert repr(guard) == "Guard(SmallVAE, 8 steps, 1 of them skipped)"


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], Any]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        recon, mean, logvar = model(x)
        loss = nelbo(recon, x, mean, logvar)
        loss.backward()
        return loss

    return closure


def test_a_closure_is_looked_at_after_it_ran() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizer = torch.optim.Adam(model.parameters())

    closure = closure_of(model, optimizer, torch.randn(BATCH, 6))
    with vdvae_patch.guard(model) as guard:
        optimizer.step(closure)
        before = state_of(model, optimizer)
        model.far = 400.0
        assert not optimizer.step(closure).isfinite()
        assert same(before, state_of(model, optimizer))
        assert guard.skips[0].head == "logvar"


def test_lbfgs() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    closure = closure_of(model, optimizer, torch.randn(BATCH, 6))
    with vdvae_patch.guard(model) as guard:
        optimizer.step(closure)
        weights = copy.deepcopy(model.state_dict())
        model.far = 400.0
        optimizer.step(closure)
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
        assert [skip.cause for skip in guard.skips] == ["nan_loss"]
        model.far = 0.0
        optimizer.step(closure)
        assert guard.steps == 2
        assert not all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_a_scale_that_is_too_high_is_ordinary() -> None:
    loop = Loop("Adam", "fp16")
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    with vdvae_patch.guard(loop.model) as guard:
        loop.step()
        assert [skip.cause for skip in guard.skips] == ["loss_scale"]
        assert "ordinary" in guard.report()


def test_a_threshold_and_a_clip() -> None:
    loop = Loop("SGD", "fp32")
    with vdvae_patch.guard(loop.model, threshold=1e-9, diagnose=False) as guard:
        before = state_of(loop.model, loop.optimizer)
        loop.step()
        assert same(before, state_of(loop.model, loop.optimizer))
        assert guard.skips[0].cause == "high_gradient"
        assert guard.skips[0].norm > 1e-9
    seen: list[Any] = []
    with vdvae_patch.guard(loop.model, clip=0.5, every=1, tracker=seen.append):
        loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=1.0)
        before = state_of(loop.model, loop.optimizer)
        weights = [p.detach().clone() for p in loop.model.parameters()]
        loop.step()
        moved = torch.stack(
            [(p.detach() - w).norm() for p, w in zip(loop.model.parameters(), weights, strict=True)]
        ).norm()
        assert abs(float(moved) - 0.5) < 1e-4
        assert seen[0]["grad_norm"] > 0.5


def test_policies_end_as_they_say() -> None:
    loop = Loop("Adam", "fp32")
    with vdvae_patch.guard(loop.model, policy="raise"), pytest.raises(GuardError, match="logvar"):
        loop.step("head")
    loop.optimizer.zero_grad()
    with vdvae_patch.guard(loop.model, max_consecutive=2, diagnose=False):
        loop.step("data")
        with pytest.raises(GuardError, match="2 updates in a row"):
            loop.step("data")


def test_a_guard_that_is_removed_leaves_nothing() -> None:
    loop = Loop("Adam", "fp32")
    hooks = len(loop.model._forward_pre_hooks)
    before = torch.autograd._engine_run_backward, torch.amp.GradScaler.step, torch.distributions.Distribution.__init__
    guard = vdvae_patch.guard(loop.model)
    with pytest.raises(GuardError, match="already"):
        vdvae_patch.guard(loop.model)
    guard.remove()
    guard.remove()
    assert len(loop.model._forward_pre_hooks) == hooks
    assert before == (
        torch.autograd._engine_run_backward,
        torch.amp.GradScaler.step,
        torch.distributions.Distribution.__init__,
    )
    loop.step("data")  # and nothing is kept out any more
    assert not all(p.isfinite().all() for p in loop.model.parameters())


def test_two_guards_of_one_optimizer_hold_the_step_back_together() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    encoder = nn.ModuleList([model.encoder, model.mean, model.logvar])
    decoder = nn.ModuleList([nn.Sequential(model.decoder, nn.BatchNorm1d(6))])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    with vdvae_patch.guard(encoder) as first, vdvae_patch.guard(decoder) as second:
        for number in range(3):
            x = torch.randn(BATCH, 6)
            before = [t.clone() for t in (*encoder.state_dict().values(), *decoder.state_dict().values())]
            mean, logvar = (head(encoder[0](x)) for head in encoder[1:])
            recon = decoder[0](mean + torch.exp(logvar / 2 + 400.0 * (number == 1)) * torch.randn_like(mean))
            loss = nelbo(recon, x, mean, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number == 1:
                assert same(before, [*encoder.state_dict().values(), *decoder.state_dict().values()])
        assert [skip.step for skip in first.skips] == [skip.step for skip in second.skips] == [1]


@pytest.mark.parametrize("strict", [0, 1])
def test_what_one_guard_holds_back_the_other_has_not_done_either(strict: int) -> None:
    """Only one of them has a threshold; the other, which comes before or after it, lets the step through."""
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))]
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()])
    guards = [
        vdvae_patch.guard(part, threshold=1e6 if n == strict else None, clip="auto", diagnose=False)
        for n, part in enumerate(parts)
    ]
    for number in range(4):
        x = torch.randn(BATCH, 6) * (1e9 if number == 2 else 1.0)
        before = [t.clone() for part in parts for t in part.state_dict().values()]
        loss = (parts[1](parts[0](x)) - x).pow(2).sum() * (1e9 if number == 2 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after = [t for part in parts for t in part.state_dict().values()]
        assert same(before, after) == (number == 2)
    for guard in guards:
        assert [(skip.step, skip.cause) for skip in guard.skips] == [(2, "high_gradient")]
        assert guard.steps == 3
        assert sum(map(len, guard.state_dict()["norms"])) == 3
        guard.remove()


def test_a_step_that_raised_holds_no_later_one_back() -> None:
    torch.manual_seed(0)
    parts = [nn.Linear(6, 8), nn.Linear(8, 6)]
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()])

    def refuse(*_: Any) -> None:
        raise KeyboardInterrupt

    with vdvae_patch.guard(parts[0], diagnose=False) as first, vdvae_patch.guard(parts[1], diagnose=False) as second:
        for number in range(4):
            x = torch.randn(BATCH, 6) * (torch.nan if number == 1 else 1.0)
            optimizer.zero_grad()
            parts[1](parts[0](x)).pow(2).sum().backward()
            hook = optimizer.register_step_pre_hook(refuse) if number == 1 else None
            try:
                optimizer.step()
            except KeyboardInterrupt:
                assert number == 1
            if hook is not None:
                hook.remove()
        assert first.steps == second.steps == 3


def test_a_model_that_is_given_up_takes_its_guard_along() -> None:
    model = SmallVAE()
    vdvae_patch.guard(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert not hasattr(torch.autograd._engine_run_backward, "__wrapped__")


def test_records_that_are_kept_do_not_keep_the_model() -> None:
    of_process = vars(sys.modules["torch.optim.optimizer"])
    hooks = [len(of_process[f"_global_optimizer_{when}_hooks"]) for when in ("pre", "post")]
    loop = Loop("Adam", "fp32")
    guard = vdvae_patch.guard(loop.model)  # which nobody removes
    for fault in ("", "head", ""):
        loop.step(fault)
    skips, gone = guard.skips, weakref.ref(loop.model)
    assert skips[0].head == "logvar"
    del loop, guard
    gc.collect()
    assert gone() is None
    assert hooks == [len(of_process[f"_global_optimizer_{when}_hooks"]) for when in ("pre", "post")]


def test_gradients_are_there_again_behind_the_step() -> None:
    loop = Loop("Adam", "fp32")
    seen: list[bool] = []
    loop.optimizer.zero_grad = lambda: seen.append(all(p.grad is not None for p in loop.model.parameters()))  # type: ignore[method-assign]
    with vdvae_patch.guard(loop.model, diagnose=False) as guard:
        loop.step("head")
    assert seen == [True]
    assert len(guard.skips) == 1


def test_a_graph_that_is_still_needed_is_not_spoilt_by_a_skip() -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizers = [torch.optim.SGD(model.decoder.parameters(), 1e-3), torch.optim.SGD(model.logvar.parameters(), 1e-3)]
    with vdvae_patch.guard(model) as guard:
        for number in range(3):
            recon, _, logvar = model(torch.randn(BATCH, 6))
            losses = [recon.pow(2).sum() * (torch.inf if number == 1 else 1.0), logvar.exp().sum()]
            for loss, optimizer in zip(losses, optimizers, strict=True):
                model.zero_grad()
                loss.backward(retain_graph=True)
                optimizer.step()
    assert [skip.step for skip in guard.skips] == [1]
    assert guard.steps == 5


def test_an_evaluation_in_another_thread_is_left_alone() -> None:
    loop = Loop("Adam", "fp32")
    stop, failed, given = threading.Event(), list[Exception](), set[int]()
    own = torch.randn(BATCH, 6)

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if threading.current_thread() is thread:
            given.add(id(args[0]))

    def evaluate() -> None:
        while not stop.is_set():
            try:
                with torch.no_grad():
                    loop.model(own)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=evaluate)
    loop.model.register_forward_pre_hook(look)
    thread.start()
    with vdvae_patch.guard(loop.model) as guard:
        for fault in ("", "data", "", "head", ""):
            loop.step(fault)
    stop.set()
    thread.join()
    assert not failed
    assert given == {id(own)}  # and none of the step that is done again
    assert len(guard.skips) == 2
    assert guard.steps == 3


@pytest.mark.parametrize("after", [False, True])
def test_a_model_that_is_compiled_whole(after: bool) -> None:
    loop = Loop("Adam", "fp32")
    plain = loop.model
    plain.far = torch.zeros(())  # type: ignore[assignment]  # a number would be compiled anew for each value
    if not after:
        loop.model = loop.called = torch.compile(plain, backend="eager", fullgraph=True)  # type: ignore[assignment]
    with vdvae_patch.guard(loop.model) as guard:
        if after:
            loop.model = loop.called = torch.compile(plain, backend="eager", fullgraph=True)  # type: ignore[assignment]
        loop.step()
        before = state_of(plain, loop.optimizer)
        loop.step("data")
        assert same(before, state_of(plain, loop.optimizer))
        loop.step()
        assert guard.steps == 2
        said = guard.report()
    torch.compiler.reset()
    assert ("guard what torch.compile gives" if after else "row 5 of input 0") in said


@pytest.mark.parametrize("after", [False, True])
def test_a_model_that_is_compiled_in_place(after: bool) -> None:
    loop = Loop("Adam", "fp32")
    plain = loop.model
    plain.far = torch.zeros(())  # type: ignore[assignment]
    if not after:
        plain.compile(backend="eager")
    with vdvae_patch.guard(plain) as guard:
        if after:
            plain.compile(backend="eager")
        loop.step()
        loop.step()
        before = state_of(plain, loop.optimizer)
        for fault in ("data", "head"):
            loop.step(fault)
            assert same(before, state_of(plain, loop.optimizer))
        loop.step()
        assert guard.steps == 3
        assert "row 5 of input 0" in guard.skips[0].outside[0]
        assert guard.skips[1].head == "logvar"
    assert not hasattr(plain._compiled_call_impl, "_of_guard")
    plain(torch.randn(BATCH, 6))
    torch.compiler.reset()


def test_a_place_to_tell_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    loop = Loop("Adam", "fp32")
    with (tmp_path / "said").open("w") as file:
        pass
    with vdvae_patch.guard(loop.model, file=file) as guard:
        loop.step("head")
    assert len(guard.skips) == 1


@pytest.mark.parametrize(("value", "fused"), [(v, f) for v in (torch.nan, torch.inf) for f in (False, True)])
def test_the_norm_of_a_step_that_the_scaler_skips_is_that_of_its_gradients(value: float, fused: bool) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) as guard:
        scaler.scale(model(torch.ones(2, 3)).sum()).backward()
        assert model.weight.grad is not None
        model.weight.grad[0, 1] = value
        scaler.step(optimizer)
        (skip,) = guard.skips
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    assert repr(skip.norm) == repr(expected)


def test_the_norm_is_infinite_where_the_loop_has_mended_what_the_scaler_skips_for() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) as guard:
        scaler.scale(model(torch.ones(2, 3)).sum()).backward()
        assert model.weight.grad is not None
        model.weight.grad[0, 1] = torch.nan
        scaler.unscale_(optimizer)
        model.weight.grad.nan_to_num_()
        scaler.step(optimizer)
        (skip,) = guard.skips
    assert skip.norm == torch.inf


@pytest.mark.parametrize("size", [2, 2**19])
def test_a_parameter_that_a_model_moves_by_itself_is_put_back_as_its_buffers_are(size: int) -> None:
    """A codebook that follows its codes took in the batch that was skipped, and every later step was NaN for it."""

    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.code = nn.Parameter(torch.zeros(size, 2), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            self.code.data.lerp_(out.detach().mean(0), 0.1)
            return (out - self.code[0]).square().mean()

    torch.manual_seed(0)
    model = Codes()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    codes = []
    with vdvae_patch.guard(model) as guard:
        for number in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 3) * (math.nan if number == 2 else 1)).backward()
            optimizer.step()
            codes.append(model.code.clone())
        assert guard.report().startswith("4 steps, 1 of them skipped")
    assert torch.equal(codes[2], codes[1])
    assert not torch.equal(codes[1], codes[0])
    assert bool(codes[3].isfinite().all())


def test_a_large_frozen_parameter_is_copied_from_the_look_on_that_finds_it_moved() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Embedding(2**19, 2), nn.Embedding(2, 2))
    model[1].requires_grad_(False)
    model[2].requires_grad_(False)
    model[1].weight.data[5] = math.nan
    buffers, taken = Buffers(model), []
    for _ in range(52):
        buffers.take()
        taken.append(set(buffers.state()))
    assert all(names == {"2.weight"} for names in taken)
    model[1].weight[7] += 1
    for _ in range(50):
        buffers.take()
    assert set(buffers.state()) == {"1.weight", "2.weight"}


class Quantized(Tensor):
    """A weight whose values cannot be picked out one by one, as those of a sharded or a quantized layer."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            raise NotImplementedError("no indexing")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2**19).as_subclass(Quantized),
        lambda: torch.zeros(2**19, device="meta"),
        lambda: torch.ones(2**9, 2**10).to_sparse(),
        torch.inference_mode()(lambda: torch.zeros(2**19)),
    ],
)
def test_a_large_frozen_parameter_that_cannot_be_looked_into_stops_no_training(make: Callable[[], Tensor]) -> None:
    model = nn.Linear(3, 2)
    model.frozen = nn.Parameter(make(), requires_grad=False)
    buffers = Buffers(model)
    for _ in range(3):
        buffers.take()
    assert not buffers.state()


def test_an_update_of_a_discriminator_is_not_undone_by_a_generators_that_is_skipped() -> None:
    """It is fixed while the generator's pass goes through it, as buffers are, and trained by the time of its step."""

    class Adversarial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.judge = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, z: Tensor) -> Tensor:
            judged: Tensor = self.judge(self.generator(z))
            return judged.mean()

    torch.manual_seed(0)
    model = Adversarial()
    model.judge.requires_grad_(False)  # when the guard looks which parameters are fixed
    generator, judge = (torch.optim.Adam(part.parameters(), 0.01) for part in (model.generator, model.judge))
    with vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) as guard:
        for number in range(3):
            generator.zero_grad()
            judge.zero_grad()
            model.judge.requires_grad_(False)
            (model(torch.randn(8, 4)) * (math.nan if number == 1 else 1)).backward()
            model.judge.requires_grad_(True)
            (model.judge(torch.randn(8, 4)).mean() - model.judge(torch.randn(8, 4)).mean()).backward()
            judge.step()
            moved = [model.judge.weight.clone(), model.generator.weight.clone()]
            generator.step()
            assert torch.equal(model.judge.weight, moved[0])
            assert torch.equal(model.generator.weight, moved[1]) == (number == 1)
        assert len(guard.skips) == 1
