"""`clip="auto"` in a loop of somebody else's: a limit for each optimizer, of the updates that were applied."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_vae import SmallVAE
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.skips.records import read_log
from vdvae_patch.skips.usual_norm import WARM_UP, UsualNorm


class Two(nn.Module):
    """Two parts, each with an optimizer of its own; the gradient of each is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.first + self.second) * x).sum()


class Loop:
    """Plain gradient descent with a learning rate of 1, so that a step is as long as the gradient that was applied."""

    def __init__(self, **arguments: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        self.model = Two()
        self.guard = vdvae_patch.guard(
            self.model, clip="auto", every=1, tracker=self.seen.append, diagnose=False, **arguments
        )
        self.optimizers = [torch.optim.SGD([p], lr=1.0) for p in self.model.parameters()]

    def step(self, norm: float, which: int = 0) -> float:
        """A step whose gradient has that norm; how far the weights have moved."""
        parameter = list(self.model.parameters())[which]
        before = parameter.detach().clone()
        self.model.zero_grad()
        self.model(torch.full((4,), norm / 2)).backward()
        self.optimizers[which].step()
        return float((parameter.detach() - before).norm())


def norms(count: int, seed: int = 0) -> list[float]:
    return (1 + torch.rand(count, generator=torch.Generator().manual_seed(seed))).tolist()


def usual(known: list[float]) -> float:
    found = UsualNorm()
    for norm in known:
        found.add(torch.tensor(norm, dtype=torch.float64), torch.tensor(True))
    return found.limit.item()


def test_a_step_is_clipped_at_the_usual_norm_of_those_before() -> None:
    loop, sizes = Loop(), norms(WARM_UP + 10)
    with loop.guard:
        moved = [loop.step(size) for size in sizes]
        assert moved[:WARM_UP] == pytest.approx(sizes[:WARM_UP], rel=1e-5)
        limits = [usual(sizes[:step]) for step in range(len(sizes))]
        assert moved == pytest.approx([min(*pair) for pair in zip(sizes, limits, strict=True)], rel=1e-4)
        assert [row["clip"] for row in loop.seen] == pytest.approx(limits, rel=1e-5)
        assert loop.step(1e4) == pytest.approx(usual(sizes), rel=1e-4)


@pytest.mark.parametrize("bad", [1e6, math.inf, math.nan])
def test_a_skipped_step_does_not_move_the_limit(bad: float) -> None:
    loop, sizes = Loop(threshold=1000.0), norms(WARM_UP)
    with loop.guard:
        for size in sizes:
            loop.step(size)
        for _ in range(5):
            assert loop.step(bad) == 0
        assert len(loop.guard.skips) == 5
        assert loop.step(100.0) == pytest.approx(usual(sizes), rel=1e-4)


def test_two_optimizers_of_a_model_have_each_a_limit_of_its_own() -> None:
    loop, sizes = Loop(), norms(WARM_UP)
    with loop.guard:
        for size in sizes:
            loop.step(size, 0)
            loop.step(100 * size, 1)
        limits = [loop.step(1e4, which) for which in (0, 1)]
    assert limits == pytest.approx([usual(sizes), 100 * usual(sizes)], rel=1e-4)


def test_a_guard_goes_on_with_the_norms_of_its_checkpoint() -> None:
    whole, sizes = Loop(), norms(WARM_UP + 5)
    with whole.guard:
        for size in sizes:
            whole.step(size, 0)
            whole.step(100 * size, 1)
        kept = whole.guard.state_dict()
        again = [whole.step(norm, which) for norm, which in ((1e4, 0), (1e4, 1), (1.5, 0))]
    resumed = Loop()
    with resumed.guard:
        resumed.guard.load_state_dict(kept)
        assert resumed.guard.state_dict() == kept  # before the optimizers have been seen
        assert [resumed.step(norm, which) for norm, which in ((1e4, 0), (1e4, 1), (1.5, 0))] == pytest.approx(
            again, rel=1e-5
        )
    of_one_list = Loop()
    with of_one_list.guard:
        of_one_list.guard.load_state_dict({"steps": 25, "consecutive": 0, "norms": kept["norms"][0]})
        assert of_one_list.step(1e4) == pytest.approx(again[0], rel=1e-5)


def test_a_guard_that_does_not_clip_keeps_no_norms() -> None:
    model = SmallVAE()
    with vdvae_patch.guard(model) as guard:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        model(torch.randn(8, 6))[0].sum().backward()
        optimizer.step()
        assert guard.state_dict() == {"steps": 1, "consecutive": 0, "norms": [], "counts": [1], "skipped": {}}


def test_a_guard_that_is_taken_up_again_counts_on(tmp_path: Path) -> None:
    def steps(guard: vdvae_patch.Guard, model: SmallVAE, scales: list[float]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for scale in scales:
            optimizer.zero_grad()
            (scale * model(torch.randn(8, 6))[0].sum()).backward()
            optimizer.step()

    model, nan = SmallVAE(), float("nan")
    with vdvae_patch.guard(model, out=tmp_path, diagnose=False, file=io.StringIO()) as first:
        steps(first, model, [1, nan, 1, nan])
        kept = first.state_dict()
    with vdvae_patch.guard(model, out=tmp_path, diagnose=False, file=io.StringIO()) as guard:
        guard.load_state_dict(kept)
        assert guard.state_dict() == kept
        assert guard.report().startswith("4 steps, 2 of them skipped (2 before the training was taken up again)")
        steps(guard, model, [1, 1, nan])
        assert [skip.step for skip in guard.skips] == [6]
        assert guard.report().startswith("7 steps, 3 of them skipped (2 before the training was taken up again)")
        assert repr(guard) == "Guard(SmallVAE, 7 steps, 3 of them skipped)"
        guard.load_state_dict(kept)  # in the process that has seen what came behind that state
        assert guard.report().startswith(
            "4 steps, 2 of them skipped (2 before the training was taken up again), and 1 in steps behind"
        )
    assert [row["step"] for row in read_log(tmp_path / "skips.jsonl").records] == [1, 3, 6]


def test_skips_behind_a_state_that_is_taken_up_in_the_same_process_are_no_negative_number(tmp_path: Path) -> None:
    """A loop that goes back to its last good checkpoint."""
    model = SmallVAE()
    with vdvae_patch.guard(model, diagnose=False, file=io.StringIO()) as guard:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

        def steps(scales: list[float]) -> None:
            for scale in scales:
                optimizer.zero_grad()
                (scale * model(torch.randn(8, 6))[0].sum()).backward()
                optimizer.step()

        steps([1, float("nan"), 1])
        kept = guard.state_dict()
        steps([float("nan")] * 2)
        guard.load_state_dict(kept)
        first = "3 steps, 1 of them skipped, and 2 in steps behind the state that was taken up again"
        assert guard.report().splitlines()[0] == first
        assert repr(guard) == "Guard(SmallVAE, 3 steps, 1 of them skipped)"


@pytest.mark.parametrize(
    ("own", "arguments", "said"),
    [
        (0.01, {"threshold": 400.0}, "so that threshold=400 has nothing to do"),
        (0.01, {"threshold": 400.0, "clip": "auto"}, "so that threshold=400 and clip='auto' have nothing to do"),
        (0.01, {"clip": 0.001}, ""),
        (0.01, {}, ""),
        (1e9, {"threshold": 1e6}, ""),
    ],
)
def test_a_loop_that_clips_before_the_guard_is_told_that_the_guard_sees_what_is_left(
    own: float, arguments: dict[str, Any], said: str
) -> None:
    torch.manual_seed(0)
    model, file, norms = SmallVAE(), io.StringIO(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    tracked = {"tracker": lambda values: norms.append(values["grad_norm"]), "every": 1}
    with vdvae_patch.guard(model, file=file, **tracked, **arguments):
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.randn(8, 6))[0].sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), own)
            optimizer.step()
    assert (max(norms) == pytest.approx(0.01, rel=1e-3)) == (own == 0.01)
    assert (said in file.getvalue()) if said else not file.getvalue()
