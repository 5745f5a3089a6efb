"""What a guard says where nothing was skipped, where it cannot see, and where others hold a NaN."""

from __future__ import annotations

import copy
import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vdvae_patch
from vdvae_patch.cli import dispatch
from vdvae_patch.integrations import trackers
from vdvae_patch.report.guards import read_guard

sys.path.insert(0, str(Path(__file__).parent))
import their_vae
from small_vae import SmallVAE, nelbo

pytestmark = pytest.mark.medium


def step(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, far: float = 0.0) -> None:
    model.far = far  # type: ignore[assignment]
    x = torch.randn(8, 6)
    recon, mean, logvar = model(x)
    loss = nelbo(recon, x, mean, logvar)
    model.zero_grad()
    loss.backward()
    if optimizer is not None:
        optimizer.step()


def test_a_model_of_which_no_optimizer_takes_a_step_is_said_not_to_be_guarded() -> None:
    model, other = SmallVAE(), SmallVAE()
    with vdvae_patch.guard(model) as guard:
        assert guard.report() == (
            "0 steps: no optimizer that holds parameters of this SmallVAE has taken a step, and it was not called with "
            "gradients"
        )
        step(model, torch.optim.Adam(other.parameters()))
        assert guard.report() == (
            "0 steps: no optimizer that holds parameters of this SmallVAE has taken a step, though it was called with "
            "gradients; an optimizer of another copy of it, and a loop that moves the weights itself, are not guarded"
        )
    with vdvae_patch.guard(model, optimizer=torch.optim.Adam(model.parameters())) as guard:
        step(model, torch.optim.Adam(model.parameters()))
        assert guard.report() == "0 steps: no optimizer that was given as optimizer= has taken a step"


@pytest.mark.parametrize("kind", ["an AveragedModel", pytest.param("a copy", marks=pytest.mark.slow)])
def test_an_average_that_holds_a_nan_is_named(kind: str) -> None:
    torch.manual_seed(0)
    model, said = SmallVAE(), io.StringIO()
    held: list[Any] = [copy.deepcopy(model).requires_grad_(False)]
    if kind == "an AveragedModel":
        held = [AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    other = SmallVAE()  # trained elsewhere, which is no average
    optimizer = torch.optim.Adam(model.parameters())
    text = f"{kind} of a SmallVAE holds values that are not finite (mean.weight)"
    with vdvae_patch.guard(model, file=said) as guard:
        with torch.no_grad():
            other.mean.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
        for far in (0.0, 400.0):
            step(model, optimizer, far=far)
        assert "holds values" not in said.getvalue() + guard.report()
        with torch.no_grad():
            next(p for name, p in held[0].named_parameters() if name.endswith("mean.weight"))[0, 0] = torch.nan
        for far in (400.0, 400.0):
            step(model, optimizer, far=far)
        assert said.getvalue().count(text) == 1
        assert text in guard.report()
        held.clear()
        assert "holds values" not in guard.report()


def test_a_buffer_that_is_copied_into_an_average_is_not_said_to_stay_in_it() -> None:
    model, optimizer = (model := SmallVAE()), torch.optim.Adam(model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.module.encoder[1].running_mean.fill_(torch.nan)
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        step(model, optimizer, far=400.0)
        assert "(encoder.1.running_mean), and has them until its next update_parameters" in guard.report()
        average.update_parameters(model)
        assert "holds values" not in guard.report()


def test_half_precision_in_which_an_update_divides_by_zero_is_told_of() -> None:
    model, said = nn.Linear(4, 4).half(), io.StringIO()
    with vdvae_patch.guard(model, file=said):
        for optimizer in (torch.optim.Adam(model.parameters()), torch.optim.SGD(model.parameters(), 1e-3)):
            for _ in range(2):
                optimizer.zero_grad()
                (model(torch.ones(2, 4, dtype=torch.float16)) * 1e-6).sum().backward()
                optimizer.step()
            if isinstance(optimizer, torch.optim.Adam):
                assert not model.weight.isfinite().all()  # what it is warned of is so
                model.weight.data.fill_(0.1)
                model.bias.data.fill_(0.1)
    assert said.getvalue().count("Adam has eps=1e-08, which is 0 in float16") == 1
    for sound in (torch.float32, torch.bfloat16):
        said = io.StringIO()
        model = nn.Linear(4, 4).to(sound)
        with vdvae_patch.guard(model, file=said):
            model(torch.ones(2, 4, dtype=sound)).sum().backward()
            torch.optim.Adam(model.parameters()).step()
        assert said.getvalue() == ""


class Loss(SmallVAE):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        recon, mean, logvar = super().forward(x)
        return nelbo(recon, x, mean, logvar)


def recorded(folder: Path) -> Path:
    torch.manual_seed(0)
    model = Loss()
    optimizer = torch.optim.Adam(model.parameters())
    with vdvae_patch.guard(model, out=folder):
        for number in range(2):
            with torch.no_grad():
                model.logvar.bias += 400.0 * number  # type: ignore[operator]
            optimizer.zero_grad()
            model(torch.randn(8, 6)).backward()
            optimizer.step()
    return folder / "skip-0001"


def test_a_replay_under_other_versions_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded(tmp_path)
    arguments = ["replay", str(folder), "--model", "test_said:Loss", "--path", str(Path(__file__).parent)]
    assert dispatch(arguments) == 0
    assert "recorded with" not in capsys.readouterr().out
    then = vdvae_patch.__version__
    monkeypatch.setattr(vdvae_patch, "__version__", "99.1")
    assert dispatch(arguments) == 0
    assert f"note: recorded with vdvae_patch {then} (here 99.1)" in capsys.readouterr().out


def refusing(model: nn.Module, x: Tensor) -> Tensor:
    raise TypeError("this loss wants a label")


def test_a_replay_whose_call_raises_something_else_says_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(tmp_path)
    code = "--model", "test_said:Loss", "--call", "test_said:refusing", "--path", str(Path(__file__).parent)
    dispatch(["replay", str(folder), *code])
    said = capsys.readouterr().out
    assert "TypeError: this loss wants a label" in said
    assert "head:" not in said


def trained(tracker: Any) -> None:
    torch.manual_seed(0)
    model = SmallVAE()
    optimizer = torch.optim.Adam(model.parameters())
    with vdvae_patch.guard(model, tracker=tracker, every=2, diagnose=False):
        for number in range(5):
            step(model, optimizer, far=400.0 if number == 3 else 0.0)


def test_tensorboard_gets_the_numbers_by_step(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = tensorboard.SummaryWriter(str(tmp_path))
    trained(trackers.tensorboard(writer))
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["guard/clip", "guard/grad_norm", "guard/loss", "guard/skipped"]
    assert [(e.step, e.value) for e in events.Scalars("guard/skipped")] == [(0, 0.0), (2, 0.0), (3, 1.0), (4, 0.0)]


def test_weights_and_biases_gets_them_in_the_row_that_is_logged_next() -> None:
    rows: list[tuple[dict[str, float], bool]] = []

    class Run:
        def log(self, values: Mapping[str, float], commit: bool) -> None:
            rows.append((dict(values), commit))

    trained(trackers.wandb(Run()))
    assert [row["guard/step"] for row, _ in rows] == [0, 2, 3, 4]
    assert [row["guard/skipped"] for row, _ in rows] == [0, 0, 1, 0]
    assert not any(commit for _, commit in rows)
    assert set(rows[0][0]) == {f"guard/{n}" for n in ("step", "loss", "grad_norm", "clip", "skipped")}


def test_the_micro_batch_that_is_recorded_is_the_one_to_blame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three that are accumulated, the second."""
    model = Loss()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=tmp_path / "guard", file=io.StringIO()) as guard:
        for step in range(2):
            optimizer.zero_grad()
            for micro in range(3):
                x = torch.randn(8, 6)
                model(1e30 * x if (step, micro) == (1, 1) else x).backward()
            optimizer.step()
    (skip,) = guard.skips
    assert skip.folder is not None
    assert skip.record()["part"] == [2, 3]
    assert "note: values, rows and heads are those of backward 2 of the 3 in this step" in str(guard.report())
    assert "the heads in backward 2 of the 3 in this step:" in str(guard.report())
    (shown,) = read_guard(tmp_path / "guard").skips
    assert "values, rows and heads are those of backward 2 of the 3 in this step" in shown.said
    state = torch.load(skip.folder / "state.pt", weights_only=True)
    assert float(state["args"][0].abs().max()) > 1e29
    assert (
        dispatch(["replay", str(skip.folder), "--model", "test_said:Loss", "--path", str(Path(__file__).parent)]) == 0
    )
    said = capsys.readouterr().out
    assert "done again: place of the first bad value and extremes of 1 head are the same, bit for bit; " in said
    assert "; the loss is inf again, of which no more can be compared" in said
    assert "the first value that is not finite" in said


def test_after_some_skips_it_is_said_that_few_are_told_from_there_on() -> None:
    model, said = their_vae.VAE(), io.StringIO()
    with torch.no_grad():
        model.logvar.bias.fill_(200.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, file=said, diagnose=False) as guard:
        for _ in range(8):
            optimizer.zero_grad()
            their_vae.loss(model, torch.randn(8, 16)).backward()
            optimizer.step()
    assert len(guard.skips) == 8
    assert said.getvalue().count("update skipped") == 5
    assert said.getvalue().count("from here on few skips are told; the guard's report() has all of them") == 1


def test_a_loss_that_was_not_seen_is_told_to_be_no_nan_of_the_loop() -> None:
    torch.manual_seed(0)
    model, rows, file = SmallVAE(), list[Any](), io.StringIO()
    compiled, optimizer = torch.compile(model, backend="eager"), torch.optim.Adam(model.parameters())
    with vdvae_patch.guard(model, tracker=rows.append, every=1, diagnose=False, file=file):
        for _ in range(2):
            step(compiled, optimizer)
    assert [math.isnan(row["loss"]) for row in rows] == [True, True]
    assert file.getvalue().count("is not your loop's, but was not seen: no call of the model") == 1


@pytest.mark.medium
def test_an_average_that_was_made_before_a_head_was_healed_is_said_to_have_other_scales() -> None:
    torch.manual_seed(0)
    model, said = SmallVAE(), io.StringIO()
    average, optimizer = AveragedModel(model), torch.optim.Adam(model.parameters())
    text = "an AveragedModel of a SmallVAE was made before and has not the scales of now"
    with vdvae_patch.guard(model, policy="heal", file=said) as guard:
        for far in (0.0, 400.0):
            step(model, optimizer, far=far)
        assert text not in said.getvalue()
        step(model, optimizer, far=400.0)
        assert vdvae_patch.is_patched(model)
        assert said.getvalue().count(text) == 1
        vdvae_patch.apply(average.module, vdvae_patch.patch_json(model))  # what it says to do
        assert text not in guard.report()
