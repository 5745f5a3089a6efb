"""What a run and a guard say of a skipped update is said in one place."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest

from vdvae_patch.skips import telling
from vdvae_patch.skips.rule import Cause
from vdvae_patch.trace import Event, Place
from vdvae_patch.train import verdict
from vdvae_patch.train.probe import HeadState
from vdvae_patch.train.replay import HeadReplay, Replay
from vdvae_patch.train.step import BadRanks, StepRecord

ROOT = Path(__file__).resolve().parents[2] / "vdvae_patch"
TELLERS = (
    "guarding/report.py",
    "guarding/replaying.py",
    "guarding/watch.py",
    "guarding/healing.py",
    "train/verdict.py",
    "train/logbook.py",
)


def event(finite: bool, rows: tuple[int, ...] = ()) -> Event:
    place = Place("decoder", "vae.py", 3, "z.exp()")
    return Event(0, "forward", "aten.exp.default", place, "1e+08" if finite else "inf", "[0, 90]", finite, (), rows)


@pytest.mark.parametrize(
    ("cause", "loss", "norm", "said"),
    [
        ("nan_loss", float("nan"), 1.0, "the loss is NaN"),
        ("nan_loss", 2.0, 1.0, "a NaN loss"),
        ("nan_rate", float("nan"), 1.0, "the rate is not finite"),
        ("nan_distortion", float("nan"), 1.0, "the distortion is not finite"),
        ("high_gradient", 2.0, 500.0, "loss 2, gradient norm 500 is not below the threshold"),
        ("high_gradient", 2.0, float("inf"), "loss 2, gradient norm inf"),
        (
            "loss_scale",
            2.0,
            1.0,
            "the scaled gradients overflowed, which is ordinary in float16; the scaler lowers its scale",
        ),
    ],
)
def test_every_cause_is_said(cause: Cause, loss: float, norm: float, said: str) -> None:
    assert telling.skipped(7, cause, loss, norm) == f"step 7: update skipped, {said}"
    assert telling.skipped(7, cause, loss, norm, (0, 2)) == f"step 7: update skipped, {said}, on ranks 0, 2"


def test_where_it_was_not_finite_is_said_by_what_it_was() -> None:
    said = telling.skipped(1, "nan_rate", float("nan"), 1.0, sites={"rate": [1], "gradient": [0, 1], "distortion": []})
    assert said.endswith("the rate is not finite (not finite: rate on rank 1; gradient on ranks 0, 1)")


def test_the_first_value_is_said_with_what_led_to_it() -> None:
    first, before = telling.values(event(True), event(False, tuple(range(8))), rank=1)
    assert first.startswith("the first value that is not finite: aten.exp.default in the forward pass gave inf")
    assert first.endswith("vae.py:3: z.exp(), in rows 0, 1, 2, 3, 4 and 3 more of the batch, on rank 1")
    assert before.startswith("before it a value exploded: aten.exp.default in the forward pass gave 1e+08")
    assert telling.values(event(True), None)[0].startswith("a value exploded")
    assert telling.values(None, None) == []


def test_nobody_else_says_it() -> None:
    """The sentences of `telling` stand nowhere else in what tells of skipped updates."""
    own = [text for text in _texts(ROOT / "skips" / "telling.py") if len(text.split()) > 3]
    assert len(own) > 10
    for name in TELLERS:
        others = _texts(ROOT / name)
        assert "telling" in (ROOT / name).read_text()
        assert not [(name, text) for text in own for other in others if text.strip() in other], name


def _texts(path: Path) -> list[str]:
    """The strings of a file, docstrings aside."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_what_nobody_looked_at_in_a_step_of_finite_values_is_no_nan() -> None:
    record = StepRecord(3, 1.0, 0.9, 0.1, 0.5, 1e-3, "high_gradient", BadRanks())
    heads = (
        HeadReplay(HeadState("encoder", "posterior", -0.5, 0.25, 1.5), 0.2),
        HeadReplay(HeadState("decoder", "likelihood", math.nan, math.nan, math.nan), 0.3),
    )
    text = verdict.report(Replay("vanilla", record, (), heads, None, None, None), None, 0.3)
    (line,) = [line for line in text.splitlines() if line.startswith("decoder")]
    assert line.split() == ["decoder", "likelihood", "-", "-", "-", "0.3"]
