"""Training images that are drawn anew: a step that is done again, and a run that goes on, see what they saw."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import assert_same, final_state, metrics
from vdvae_patch.patches.large_vae import HOST

from vdvae_patch.data import mnist, mnist_labels
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.train import classifier, flight
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import replay

pytestmark = pytest.mark.medium


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig[Any]:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for name, count in ((mnist.TRAIN_FILE, 10_040), (mnist.TEST_FILE, 8)):
        header = struct.pack(">IIII", 0x803, count, 4, 4)
        pixels = random.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        (tmp_path / name).write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    return TrainConfig(
        host="large_vae", preset="hvae", variant="explin+vamp(components=3)", data="mnist-drawn-anew",
        data_root=tmp_path, out=tmp_path / "run", steps=4, device="cpu",
        architecture=replace(HOST.preset("hvae").architecture, hidden=8, latents=2),
        optimization=Optimization(lr=1e-3, batch_size=10, ema_rate=0.9, grad_clip=1e30, skip_threshold=-1),
    )  # fmt: skip


def test_a_step_is_done_again_on_the_very_images(config: TrainConfig[Any]) -> None:
    config = replace(config, optimization=replace(config.optimization, skip_threshold=1e-6))
    train(config)
    paths = flight.recordings(config.folder / "recordings")
    assert paths
    assert all(replay(config, flight.read(path)).exact for path in paths)


def test_a_run_goes_on_with_the_images_that_it_would_have_seen(config: TrainConfig[Any], tmp_path: Path) -> None:
    train(config)
    part = replace(config, steps=2, out=tmp_path / "part")
    train(part)
    train(replace(part, steps=4, resume=True))
    whole, pieces = final_state(config.folder), final_state(tmp_path / "part")
    for part_of in ("model", "ema", "optimizer", "seams"):
        assert_same(whole[part_of], pieces[part_of])
    rows = metrics(config.folder)
    assert len({row["distortion"] for row in rows}) == 4


def test_the_summary_has_bound_log_likelihood_and_active_units(config: TrainConfig[Any], tmp_path: Path) -> None:
    summary = train(replace(config, importance_samples=40, importance_images=0)).summary
    assert summary is not None
    assert summary["lower_bound_nats"] == pytest.approx(-16 * summary["test_nelbo_nats_per_dim"])
    assert (summary["log_likelihood_samples"], summary["log_likelihood_images"]) == (40, 8)
    assert summary["lower_bound_nats"] < summary["log_likelihood_nats"] < 0
    assert len(summary["active_units"]) == 2
    assert all(0 <= units <= 2 for units in summary["active_units"])
    one = train(replace(config, importance_samples=1, importance_images=0, out=tmp_path / "one")).summary
    assert one is not None  # one sample is the bound, by other draws than the evaluation's
    assert one["log_likelihood_nats"] == pytest.approx(one["lower_bound_nats"], rel=0.2)
    assert one["log_likelihood_nats"] < summary["log_likelihood_nats"]


@pytest.mark.parametrize(
    ("variant", "samples", "estimated"),
    [("explin", 0, False), ("explin+bernoulli", 5, True), ("explin+optimal", 5, False)],
)
def test_a_log_likelihood_is_of_8_bit_images_or_left_out(
    variant: str, samples: int, estimated: bool, config: TrainConfig[Any]
) -> None:
    summary = train(replace(config, variant=variant, importance_samples=samples, steps=1)).summary
    assert summary is not None
    assert ("log_likelihood_nats" in summary) is estimated
    assert {"lower_bound_nats", "active_units"} <= summary.keys()


def test_a_host_of_closed_forms_has_none_of_it(config: TrainConfig[Any]) -> None:
    from vdvae_patch.patches.mlp_vae import HOST as MLP

    paper = MLP.preset("paper").architecture
    summary = train(replace(config, host="mlp_vae", preset="paper", variant="explin", architecture=paper)).summary
    assert summary is not None
    assert not {"lower_bound_nats", "log_likelihood_nats", "active_units"} & summary.keys()


def test_the_classifier_of_a_constraint_is_shown_images_as_they_are_drawn(
    config: TrainConfig[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.data_root is not None
    labels = np.random.default_rng(1).integers(0, 10, 10_040, dtype=np.uint8)
    header = struct.pack(">II", 0x801, len(labels))
    (config.data_root / mnist_labels.LABELS_FILE).write_bytes(gzip.compress(header + labels.tobytes(), 1))
    shown: list[torch.Tensor] = []

    def fit(network: torch.nn.Module, images: torch.Tensor, *rest: object) -> float:
        shown.append(images)
        return 0.5

    monkeypatch.setattr(classifier, "fit", fit)
    classifier.of_data("mnist-drawn-anew", config.data_root, PixelGrid(0, 1))
    (images,) = shown
    assert images.unique().tolist() == [0, 1]
