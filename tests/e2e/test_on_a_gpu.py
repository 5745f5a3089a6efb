"""Whole runs on a stand-in for a GPU (`stand_in_cuda`): nothing of them is left on the CPU, and no step waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from imageio.v3 import imread
from runs import metrics, tiny
from stand_in_cuda import Cuda, stand_in
from test_flight import WILD

from vdvae_patch.compare.gallery import _picture
from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.doctor import Places, training
from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.contents import of_recording
from vdvae_patch.train.estimate import estimate
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import replay
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.verdict import report

pytestmark = pytest.mark.medium

NEVER_THE_SAME = ("step_time", "crc", "run")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def no_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of `train` may not wait for the device; what is between the steps may."""
    own = TrainingStep.__call__

    def watched(self: TrainingStep, *args: Any, **kwargs: Any) -> None:
        cuda: Cuda | None = getattr(torch.cuda, "stand_in", None)
        if cuda is None:
            return own(self, *args, **kwargs)
        with cuda.no_wait():
            return own(self, *args, **kwargs)

    monkeypatch.setattr(TrainingStep, "__call__", watched)


def alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """All numbers but for their last digits: on a CPU an update is rounded otherwise, see `FusedAdamW`."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            if key not in NEVER_THE_SAME:
                assert one[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), key


SEAMS = ["explin/constant", "vanilla+optimal+geco(kappa=0.2)+mixture(3)"]


@pytest.mark.medium
@pytest.mark.parametrize("variant", [SEAMS[0], pytest.param(SEAMS[1], marks=pytest.mark.slow)])
def test_a_run_on_a_gpu_gives_the_processors_numbers(tmp_path: Path, variant: str, no_step_waits: None) -> None:
    """With the processor's noise: every step, the evaluation, the samples, the likelihood and the checkpoint."""
    settings: dict[str, Any] = {
        "steps": 4, "variant": variant, "record_every": 2, "evaluate_every": 2, "samples_every": 2,
        "checkpoint_every": 2, "importance_samples": 2, "importance_images": 2, "watch_every": 2,
    }  # fmt: skip
    on_cpu = train(tiny(tmp_path / "cpu", **settings)).summary
    with stand_in(host_noise=True) as cuda:
        on_gpu = train(tiny(tmp_path / "gpu", **settings | {"device": "cuda:1"})).summary
        resumed = replace(tiny(tmp_path / "gpu", **settings | {"device": "cuda:1", "steps": 5}), resume=True)
        further = train(resumed).summary
    assert on_cpu is not None
    assert on_gpu is not None
    assert further is not None
    assert cuda.current == 1
    assert metrics(tmp_path / "gpu")[0]["elbo"] == metrics(tmp_path / "cpu")[0]["elbo"]
    alike(metrics(tmp_path / "gpu")[:4], metrics(tmp_path / "cpu"))
    assert on_gpu["test"] == pytest.approx(on_cpu["test"], rel=1e-4)
    images = [sorted(out.glob("samples/*.png")) for out in (tmp_path / "cpu", tmp_path / "gpu")]
    assert len(images[0]) == 3
    for one, other in zip(*images, strict=True):
        found, expected = imread(one), imread(other)
        # `final.png` of the GPU is that of the step behind
        assert found.shape == expected.shape
        assert one.name == "final.png" or (found != expected).mean() < 0.02
    train(replace(tiny(tmp_path / "cpu", **settings | {"steps": 5}), resume=True))
    states = [checkpoint.newest(out / "checkpoints").state for out in (tmp_path / "cpu", tmp_path / "gpu")]
    for part in ("model", "ema"):
        for key, value in states[0][part].items():
            torch.testing.assert_close(value, states[1][part][key], rtol=1e-4, atol=1e-6)
    alike(metrics(tmp_path / "gpu"), metrics(tmp_path / "cpu"))


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_neither_waits_nor_leaves_the_device(
    tmp_path: Path, precision: Any, no_step_waits: None
) -> None:
    with stand_in():
        summary = train(tiny(tmp_path, steps=4, precision=precision, device="cuda", variant="explin/constant")).summary
    assert summary is not None
    assert summary["nan_count"] == 0


@pytest.mark.medium
def test_the_record_of_a_run_says_how_float32_was_multiplied(tmp_path: Path) -> None:
    with stand_in():
        train(tiny(tmp_path, steps=1, device="cuda", matmul="ieee"))
        seen = RunFile.read(tmp_path / "config.toml").seen
        assert (seen["float32"], seen["deterministic"]) == ("ieee", False)
        train(replace(tiny(tmp_path, steps=2, device="cuda", matmul="tf32"), resume=True))
    again = RunFile.read(tmp_path / "config.toml")
    assert again.told["matmul"] == "tf32"
    assert again.seen["float32"] == "ieee"  # as it began
    assert "float32 tf32 (was ieee)" in again.seen["sessions"][-1]["changes"]


@pytest.mark.medium
def test_doctor_estimate_and_gallery_work_on_each_device(tmp_path: Path) -> None:
    with stand_in() as cuda:
        found = list(training(lambda device: tiny(tmp_path / "none", device=device))(Places()))
        assert [(one.name, one.status) for one in found] == [
            ("training on cpu", "ok"), ("training on cuda:0", "ok"), ("training on cuda:1", "ok"),
        ]  # fmt: skip
        config = tiny(tmp_path / "run", steps=1, device="cuda:1")
        assert "Stand-in" in estimate(config, measured=1).machine
        train(config)
        picture = _picture(PlannedRun(config, ()))
        assert cuda.current == 1
    assert picture.samples.shape == picture.originals.shape


def wild(out: Path, device: str, **settings: Any) -> Any:
    config = tiny(
        out, steps=400, lr=0.3, batch_size=8, warmup_iters=5, skip_threshold=-1.0, max_consecutive_skips=2,
        record_skips=3, checkpoint_every=0, limit_images=10, data="builtin", device=device, **settings,
    )  # fmt: skip
    return replace(config, architecture=WILD)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a GPU that ended in skipped updates."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("gpu")
    with stand_in(), pytest.raises(RunError, match="no longer learns"):
        train(wild(out, "cuda:1"))
    return out


def recorded(out: Path) -> Iterator[flight.Recording]:
    return (flight.read(path) for path in flight.recordings(out / "recordings"))


@pytest.mark.medium
def test_a_recording_of_a_gpu_is_done_again_on_a_gpu_bit_for_bit(on_gpu: Path) -> None:
    with stand_in(count=1):  # of another number than it had
        for recording in recorded(on_gpu):
            assert recording.kind == "cuda"
            again = replay(wild(on_gpu, "cuda:1"), recording)
            assert again.exact
            assert again.note == ""
            assert again.first_bad is not None
            assert "the same, bit for bit" in report(again, None, -1)


@pytest.mark.medium
def test_it_needs_the_generator_of_the_gpu(on_gpu: Path) -> None:
    """Where noise decides: the first of them, of which not everything is NaN already."""
    recording = next(recorded(on_gpu))
    moved = [states | {"cuda": torch.zeros(16, dtype=torch.uint8)} for states in recording.generators]
    with stand_in():
        own = replay(wild(on_gpu, "cuda:1"), recording)
        other = replay(wild(on_gpu, "cuda:1"), replace(recording, generators=moved))
    klds = [[head.state.kl for head in one.heads] for one in (own, other)]
    assert str(klds[0]) != str(klds[1])


def test_without_a_gpu_it_is_done_on_the_cpu_and_says_what_that_is_worth(on_gpu: Path) -> None:
    recording = next(recorded(on_gpu))
    again = replay(wild(on_gpu, "cuda:1"), recording)
    assert "Stand-in" in again.note
    assert "this machine has no GPU" in again.note
    text = report(again, None, -1)
    assert sum("no GPU" in line for line in text.splitlines()) == 1
    assert [head.state.path for head in again.heads]
    with pytest.raises(RunError, match="no CUDA device"):
        replay(wild(on_gpu, "cuda:1"), recording, device="cuda")


@pytest.mark.slow
def test_a_recording_of_a_cpu_stays_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no longer learns"):
        train(wild(tmp_path, "cpu"))
    recording = next(recorded(tmp_path))
    assert recording.kind == "cpu"
    with stand_in() as cuda:
        again = replay(wild(tmp_path, "cpu"), recording)
        assert again.exact
        assert not cuda.seen
        moved = replay(wild(tmp_path, "cpu"), recording, device="cuda:1")
        assert cuda.seen
    assert "recorded on the CPU" in moved.note


def test_a_recording_holds_device_generator_seed_and_offset(on_gpu: Path) -> None:
    recording = next(recorded(on_gpu))
    device = recording.device
    assert device is not None
    assert (device.kind, device.generator, device.matmul, device.deterministic) == ("cuda", "philox", "tf32", False)
    assert "Stand-in" in device.machine
    assert device.offsets == [0]
    assert device.seeds == recording.generators[0]["cuda"].view(torch.int64).tolist()[:1]


def test_recordings_of_before_are_read(on_gpu: Path) -> None:
    path = flight.recordings(on_gpu / "recordings")[0]
    info, state = checkpoint.load(path)
    before = {key: value for key, value in state.items() if key != "device"}
    assert of_recording(before, path).device is None
    checkpoint.save(path.parent, info, before, name="skip-99999999")
    old = flight.read(path.parent / "skip-99999999")
    assert (old.kind, old.device) == ("cuda", None)
    with stand_in():
        assert replay(wild(on_gpu, "cuda:1"), old).exact
    checkpoint.delete(old.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "cpu"}, "the random states are of cuda"),
        ({"seeds": []}, "a seed and an offset for each of 1 ranks"),
        ({"generator": "pcg"}, "generator"),
        ({"offsets": [-1]}, "offsets"),
    ],
)
def test_what_contradicts_itself_is_refused(on_gpu: Path, change: dict[str, Any], said: str) -> None:
    recording = next(recorded(on_gpu))
    assert recording.device is not None
    _, state = checkpoint.load(recording.path)
    with pytest.raises(CheckpointError, match=said):
        of_recording(state | {"device": asdict(recording.device) | change}, recording.path)


@pytest.mark.parametrize("damaged", [torch.zeros(15, dtype=torch.uint8), torch.zeros(16), torch.zeros(2, 8).byte()])
def test_a_damaged_generator_of_a_gpu_is_refused(on_gpu: Path, damaged: torch.Tensor) -> None:
    recording = next(recorded(on_gpu))
    _, state = checkpoint.load(recording.path)
    wrong = [states | {"cuda": damaged} for states in state["generators"]]
    with pytest.raises(CheckpointError, match=r"generators\[0\]\.cuda"):
        of_recording(state | {"generators": wrong}, recording.path)
