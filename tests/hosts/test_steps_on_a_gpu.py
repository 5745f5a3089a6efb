"""The training step of every host, variant, decoder, objective and top prior on a stand-in for a GPU.

Nothing of it is made or left on the CPU, the host waits for nothing, and the numbers are those of the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from stand_in_cuda import Cuda, OnCuda, numbers, on_the_host, stand_in

from vdvae_patch import sampled_kl_of_sigmas
from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.decoders import DECODERS
from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.hosts.trainable import TrainableEntry, trainable
from vdvae_patch.objectives import OBJECTIVES
from vdvae_patch.patching import Variant
from vdvae_patch.scales import SCALES
from vdvae_patch.top_priors import TOP_PRIORS
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.engine import Engine, make_engine
from vdvae_patch.train.evaluate import evaluate
from vdvae_patch.train.head_watch import HeadWatch
from vdvae_patch.train.latent_summary import of_latents
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.numerics import WORKSPACE, numerics
from vdvae_patch.train.samples import sample_grid
from vdvae_patch.train.setup import Workload, prepare
from vdvae_patch.train.step import StepRecord
from vdvae_patch.train.weighing import own_mass
from vdvae_patch.train.world import World, resolve_device

PRESETS = [
    (name, preset)
    for name in HOSTS.names()
    if isinstance(HOSTS.get(name), TrainableEntry)
    for preset in trainable(HOSTS.get(name)).presets()
    if name != "vdvae" or preset == "small"  # the same layers, more of them
]
SMALL = {"hidden": 8, "latents": 3, "width": 8, "zdim": 2, "steps": 2, "couplings": 2, "components": 3}
SMALL_TEXT = {"enc_blocks": "8x1,8d8,1x1", "dec_blocks": "1x1,8m1", "custom_width_str": ""}
SIDES = {"conv_vae": (32, 3), "vdvae": (8, 3)}
ARGUMENTS = {"bounded": "bounded(0.1,1)", "clamp": "clamp(-7,2)", "downbounded": "downbounded(0.1)"}
STEPS = 2


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config(folder: Path, host: str, preset: str = "", variant: str = "vanilla", **other: Any) -> TrainConfig[Any]:
    """A tiny run on drawn images of two values, which every likelihood takes."""
    entry = trainable(HOSTS.get(host))
    chosen = entry.presets()[preset or next(iter(entry.presets()))]
    names = [field.name for field in fields(chosen.architecture)]
    small = {key: value for key, value in (SMALL | SMALL_TEXT).items() if key in names}
    side, channels = SIDES.get(host, (28, 1))
    drawn = np.random.default_rng(0)
    for part, count in (("train", 8), ("valid", 2), ("test", 3)):
        np.save(folder / f"{part}.npy", drawn.integers(0, 2, (count, side, side, channels), dtype=np.uint8) * 255)
    optimization = Optimization(lr=1e-3, batch_size=2, ema_rate=0.9, warmup_iters=2)
    settings: dict[str, Any] = {"record_every": STEPS, "data": "arrays", "device": "cpu", "importance_samples": 2}
    return TrainConfig(
        host=host, preset=preset or next(iter(entry.presets())), variant=variant, data_root=folder,
        architecture=replace(chosen.architecture, **small), **settings | {"optimization": optimization} | other,
    )  # fmt: skip


def batch_of(work: Workload, images: DeviceImages, step: int) -> ModelBatch:
    return work.data.normalization.apply(images.take(np.arange(2) + 2 * step), step)


def steps(told: TrainConfig[Any], device: str, cuda: Cuda | None = None) -> tuple[Workload, Engine, list[StepRecord]]:
    """As `train` does them; none of them waits for the device."""
    world = World(resolve_device(device))
    work = prepare(told, world.device)
    engine = make_engine(told, world, work)
    images = DeviceImages(work.data.train, world.device)
    if cuda is not None:
        assert images.placement == "device"
    with numerics(world.device, told.matmul, told.deterministic):
        for step in range(STEPS):
            seed_noise("train", told.seed, step=step)
            if cuda is None:
                engine.step(step, *batch_of(work, images, step))
                continue
            cuda.waits.clear()
            with cuda.no_wait():
                engine.step(step, *batch_of(work, images, step))
            assert cuda.waits == []
    return work, engine, engine.step.drain()


def left_behind(work: Workload, engine: Engine) -> list[str]:
    """What of a run is in main memory that should be on the device."""
    step = engine.step
    found = on_the_host(work.model) + on_the_host(work.ema)
    found += [f"gradient of {name}" for name, p in work.model.named_parameters() if on_the_host(p.grad)]
    found += [f"{n}.{key}" for n, state in enumerate(step.optimizer.state.values()) for key in _of(state)]
    if work.weighing is not None:
        found += on_the_host(work.weighing.objective)
    if step.scaler is not None:
        found += _of(step.scaler.state_dict())
    if step.usual_norm is not None:
        found += _of(step.usual_norm.state_dict())
    return found


def _of(state: Mapping[str, Any]) -> list[str]:
    return [key for key, value in state.items() if isinstance(value, torch.Tensor) and not isinstance(value, OnCuda)]


def same(records: list[StepRecord], others: list[StepRecord]) -> None:
    """The first step digit for digit. An update is rounded otherwise: the optimizer goes over one storage on a device,
    and over each tensor on a CPU, whose last elements are computed in another way (`FusedAdamW`, `FlatWeights`)."""
    for one, other in zip(records, others, strict=True):
        for name in ("elbo", "distortion", "rate"):
            found, expected = getattr(one, name), getattr(other, name)
            assert found == (expected if one.step == 0 else pytest.approx(expected, rel=1e-4, nan_ok=True)), name
        assert (one.cause, one.sites) == (other.cause, other.sites)
        # the norm is summed in float32 on a CPU, and in float64 elsewhere
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4, nan_ok=True)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, nan_ok=True)


def compared(told: TrainConfig[Any]) -> tuple[Workload, Engine]:
    """Done on both; raises if anything differs. The workload is that on the GPU."""
    # a device makes sample and KL from the logarithms, and a CPU from the sigmas, which is equal to rounding alone
    with patch.object(sampled_kl_of_sigmas, "can_look_at", return_value=False):
        _, _, on_cpu = steps(told, "cpu")
    with stand_in(host_noise=True) as cuda:
        work, engine, on_gpu = steps(told, "cuda:1", cuda)
        assert left_behind(work, engine) == []
    same(on_gpu, on_cpu)
    return work, engine


@pytest.mark.medium
@pytest.mark.parametrize(("host", "preset"), PRESETS)
@pytest.mark.parametrize("variant", [pytest.param("vanilla", marks=pytest.mark.slow), "explin"])
def test_every_host(tmp_path: Path, host: str, preset: str, variant: str) -> None:
    """Its steps, and what a run does between and after them."""
    told = config(tmp_path, host, preset, variant)
    work, engine = compared(told)
    results = []
    cpu_work, cpu_engine, _ = steps(told, "cpu")
    results.append(around(told, cpu_work, cpu_engine, World(torch.device("cpu"))))
    with stand_in(host_noise=True):
        results.append(around(told, work, engine, World(resolve_device("cuda:1"))))
        assert left_behind(work, engine) == []
    for name, value in results[0].items():
        found = results[1][name]
        if name == "picture":
            assert found.shape == value.shape
            assert (found != value).mean() < 0.02
        elif name == "extremes":
            for one, other in zip(found, value, strict=True):
                assert one == pytest.approx(other, rel=1e-3, nan_ok=True)
        else:
            assert found == pytest.approx(value, rel=1e-4, nan_ok=True), name


def around(told: TrainConfig[Any], work: Workload, engine: Engine, world: World) -> dict[str, Any]:
    """The look at the heads, the evaluation, the picture and the likelihood."""
    images = DeviceImages(work.data.test, world.device)
    found: dict[str, Any] = {}
    watch = HeadWatch(work.entry, work.model, work.latent_heads, engine.step, world)
    seed_noise("train", 0)
    watch.look(0, work.entry.read(batch_of(work, DeviceImages(work.data.train, world.device), 0)))
    found["extremes"] = [
        {k: v for k, v in h.items() if "grad" not in k} for look in watch.take() for h in look["heads"]
    ]
    own = own_mass(work.host, work.ema) if work.weighing is None else None
    result = evaluate(
        work.entry, work.ema, images, work.data.normalization, batch_size=2, seed=0, world=world,
        weighing=work.weighing or own, only_mass=work.weighing is None,
    )  # fmt: skip
    found |= result.record()
    grid = sample_grid(work.entry, work.ema, images.take(np.arange(2)), work.data.normalization, seed=0)
    found["picture"] = grid
    return found | of_latents(work, told, world, result.elbo)


@pytest.mark.medium
@pytest.mark.parametrize("scale", sorted(SCALES))
def test_every_scale(tmp_path: Path, scale: str) -> None:
    told = config(tmp_path, "vdvae", "small", f"{ARGUMENTS.get(scale, scale)}/{ARGUMENTS.get(scale, scale)}")
    compared(told)


@pytest.mark.medium
@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_every_decoder(tmp_path: Path, decoder: str) -> None:
    compared(config(tmp_path, "conv_vae", "paper", f"vanilla+{decoder}"))


@pytest.mark.medium
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective(tmp_path: Path, objective: str) -> None:
    chosen = {"geco": "geco(re=0.2)", "beta": "beta(beta=4)", "freebits": "freebits(0.1)"}.get(objective, objective)
    compared(config(tmp_path, "vdvae", "small", f"explin/constant+optimal+{chosen}"))


@pytest.mark.medium
@pytest.mark.parametrize("prior", sorted(TOP_PRIORS))
@pytest.mark.parametrize("host", ["vdvae", "large_vae"])
def test_every_top_prior(tmp_path: Path, host: str, prior: str) -> None:
    chosen = {"mixture": "mixture(3)", "vamp": "vamp(3)"}.get(prior, prior)
    variant = Variant.parse(f"vanilla+{chosen}")
    compared(config(tmp_path, host, "small" if host == "vdvae" else "standard", str(variant)))


@pytest.mark.medium
@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
@pytest.mark.parametrize(("host", "preset"), PRESETS)
def test_half_precision(tmp_path: Path, host: str, preset: str, precision: Any) -> None:
    told = config(tmp_path, host, preset, "explin", precision=precision)
    with stand_in() as cuda:
        work, engine, records = steps(told, "cuda", cuda)
        assert left_behind(work, engine) == []
    assert all(np.isfinite(record.elbo) for record in records)


@pytest.mark.medium
@pytest.mark.parametrize("clip", ["auto", 1e-3])
def test_a_limit_of_the_norm(tmp_path: Path, clip: Any) -> None:
    told = config(tmp_path, "vdvae", "small")
    compared(replace(told, optimization=replace(told.optimization, grad_clip=clip)))


SETTINGS: list[dict[str, Any]] = [
    {"accumulate": 2},
    {"accumulate": 2, "variant": "explin/constant", "precision": "bf16"},
    {"deterministic": True, "variant": "upbounded"},
    {"matmul": "ieee"},
    {"arithmetic": "host", "variant": "explin"},
    {"arithmetic": "stable"},
    {"record_skips": 0},
]


@pytest.mark.medium
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_other_setting_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv(WORKSPACE, ":4096:8")
    told = config(tmp_path, "vdvae", "small", **settings)
    if told.precision == "fp32":
        compared(told)
        return
    with stand_in() as cuda:
        work, engine, records = steps(told, "cuda", cuda)
        assert left_behind(work, engine) == []
    assert all(np.isfinite(record.elbo) for record in records)


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_evaluation_of_its_own_precision_and_batch_stays_on_the_device(tmp_path: Path, precision: Any) -> None:
    told = config(tmp_path, "vdvae", "small", "explin/constant")
    with stand_in():
        work, _, _ = steps(told, "cuda")
        found = evaluate(
            work.entry, work.ema, DeviceImages(work.data.test, resolve_device("cuda")), work.data.normalization,
            batch_size=1, seed=0, precision=precision,
        )  # fmt: skip
        assert on_the_host(work.ema) == []
    assert np.isfinite(found.elbo)


def test_a_skipped_update_leaves_everything_as_it_was_without_a_wait(tmp_path: Path) -> None:
    told = config(tmp_path, "vdvae", "small", "explin/constant+optimal+geco(re=0.2)")
    told = replace(told, optimization=replace(told.optimization, skip_threshold=1e-9))
    work, engine = compared(told)
    with stand_in():
        for parameter, average in zip(work.model.parameters(), work.ema.parameters(), strict=True):
            assert torch.equal(numbers(parameter), numbers(average))
        assert engine.before is not None
        with engine.before.restored():
            assert on_the_host(work.model) == []
