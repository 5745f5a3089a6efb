"""A step that is decided on the device comes out, bit for bit, as one that is decided by a read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vdvae_patch
from vdvae_patch.errors import GuardError
from vdvae_patch.guarding.watch import Guard

sys.path.insert(0, str(Path(__file__).parent))
from small_vae import SmallVAE, nelbo

FUSED: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1, fused=True),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, fused=True),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3, fused=True),
}
FAULTS = ("", "", "head", "", "data", "data", "", "loss", "")


class Loop:
    """A loop with an average, whose outcome is all that a step may change."""

    def __init__(self, optimizer: str, out: Path | None, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.model = SmallVAE()
        self.optimizer = FUSED[optimizer](self.model.parameters())
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.guard = vdvae_patch.guard(self.model, out=out, **arguments)
        self.waited: list[bool] = []
        self.states: list[list[Tensor]] = []

    def run(self, faults: tuple[str, ...] = FAULTS) -> None:
        with self.guard:
            for fault in faults:
                self.step(fault)

    def step(self, fault: str) -> None:
        x = torch.randn(8, 6)
        if fault == "data":
            x[5, 2] = torch.nan
        self.model.far = 400.0 if fault == "head" else 0.0
        recon, mean, logvar = self.model(x)
        loss = nelbo(recon, x, mean, logvar)
        if fault == "loss":
            loss = loss + torch.log(-loss.detach().abs())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.waited.append(self.guard._undecided is None)
        assert getattr(self.optimizer, "found_inf", None) is None
        self.average.update_parameters(self.model)
        moments = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        held = (*self.model.state_dict().values(), *self.average.state_dict().values(), *moments)
        self.states.append([t.detach().clone() for t in (*held, *(p.grad for p in self.model.parameters()))])  # type: ignore[union-attr]


def same(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return all(torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) for a, b in pairs)


@pytest.mark.medium
@pytest.mark.parametrize("optimizer", FUSED)
def test_the_outcome_is_that_of_a_read(optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Loop(optimizer, tmp_path / "read")
    read.run()
    drawn = torch.randn(3)
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    deferred = Loop(optimizer, tmp_path / "deferred")
    deferred.run()
    assert torch.equal(drawn, torch.randn(3))
    assert read.waited == [True] * len(FAULTS)
    assert deferred.waited == [True] + [False] * (len(FAULTS) - 1)
    assert same(read.states, deferred.states)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "skips.jsonl").read_text().splitlines()]
        for name in ("read", "deferred")
    ]
    for line in (*lines[0], *lines[1]):
        del line["_check"]  # of its folder, too
    assert json.dumps(lines[0]) == json.dumps(lines[1])
    assert [line["step"] for line in lines[1]] == [2, 4, 5, 7]
    assert lines[1][0]["head"] == "logvar"
    assert (read.guard.steps, read.guard.report().replace(str(tmp_path / "read"), "")) == (
        deferred.guard.steps, deferred.guard.report().replace(str(tmp_path / "deferred"), ""),
    )  # fmt: skip
    assert all(t.isfinite().all() for t in deferred.average.state_dict().values())


def test_a_first_step_is_read_since_a_skip_must_not_make_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("SGD momentum", None)
    loop.run(("data", "", ""))
    assert loop.waited == [True, True, False]
    assert loop.guard.steps == 2


def test_whoever_asks_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("AdamW", None)
    with loop.guard as guard:
        for fault in ("", "", "head"):
            loop.step(fault)
        assert guard._undecided is not None
        assert [skip.head for skip in guard.skips] == ["logvar"]
        assert guard._undecided is None
        loop.step("head")
        assert guard.state_dict()["consecutive"] == 2
        loop.step("")
        assert guard.steps == 3


@pytest.mark.medium
def test_what_is_read_of_the_running_statistics_in_between_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass without gradients, in training mode, moves them after a skipped step."""
    states = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(Guard, "_deferring", devices)
        loop = Loop("AdamW", None)
        with loop.guard:
            for fault in ("", "", "head"):
                loop.step(fault)
            with torch.no_grad():
                loop.model.far = 0.0
                loop.model(torch.randn(8, 6))
            loop.step("")
            states.append(loop.states)
    assert same(states[0], states[1])


@pytest.mark.parametrize("arguments", [{"clip": 1.0}, {"clip": "auto"}, {"policy": "raise"}, {"policy": "heal"}])
def test_what_has_to_be_known_before_the_update_is_read(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("AdamW", None, **arguments)
    loop.run(("", "", ""))
    assert all(loop.waited)


def test_a_threshold_is_decided_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("AdamW", None)
    with loop.guard as guard:
        loop.step("")
        loop.step("")
        guard.threshold = 1e-9
        loop.step("")
        assert not loop.waited[-1]
        assert [(skip.step, skip.cause) for skip in guard.skips] == [(2, "high_gradient")]
        moved = [torch.equal(a, b) for a, b in zip(loop.states[1], loop.states[2], strict=True)]
        assert all(moved[: len(loop.model.state_dict())])


def test_so_many_in_a_row_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("AdamW", None, max_consecutive=2, diagnose=False)
    with loop.guard:
        for fault in ("", "", "data", "data"):
            loop.step(fault)
        with pytest.raises(GuardError, match="2 updates in a row"):
            loop.step("")


def test_the_loss_of_another_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose loss it is shows only once it is known to be bad."""
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    torch.manual_seed(0)
    ours, other = SmallVAE(), nn.Linear(6, 1)
    optimizer = torch.optim.AdamW(ours.parameters(), 1e-3, fused=True)
    with vdvae_patch.guard(ours) as guard:
        for number in range(4):
            x = torch.randn(8, 6)
            recon, mean, logvar = ours(x)
            optimizer.zero_grad()
            nelbo(recon, x, mean, logvar).backward()
            (other(x).sum() * (torch.nan if number == 2 else 1.0)).backward()
            optimizer.step()
            assert guard._undecided is None
        assert guard.steps == 4


def test_a_second_optimizer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    torch.manual_seed(0)
    model = SmallVAE()
    encoder = [*model.encoder.parameters(), *model.mean.parameters(), *model.logvar.parameters()]
    first = torch.optim.AdamW(encoder, 1e-3, fused=True)
    second = torch.optim.AdamW(model.decoder.parameters(), 1e-3, fused=True)
    with vdvae_patch.guard(model) as guard:
        for number in range(4):
            model.far = 400.0 if number == 2 else 0.0
            x = torch.randn(8, 6)
            model.zero_grad()
            nelbo(*_with(model, x)).backward()
            first.step()
            if number > 1:  # it comes in late, behind a step that was left open
                second.step()
    assert guard._undecided is None
    assert guard.skips[0].step == 2
    assert all(p.isfinite().all() for p in model.state_dict().values())


def _with(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    recon, mean, logvar = model(x)
    return recon, x, mean, logvar


def test_a_step_that_raises_leaves_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_deferring", ("cpu",))
    loop = Loop("AdamW", None)

    def refuse(*_: Any) -> None:
        raise KeyboardInterrupt

    with loop.guard as guard:
        loop.step("")
        loop.step("")
        hook = loop.optimizer.register_step_pre_hook(refuse)
        with pytest.raises(KeyboardInterrupt):
            loop.step("")
        hook.remove()
        loop.step("")
        assert guard.steps == 3
    assert getattr(loop.optimizer, "found_inf", None) is None
