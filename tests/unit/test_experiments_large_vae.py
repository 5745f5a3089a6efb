"""`reproduce large-vae` on a few images: it goes on where it was, and its table has what was found and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vdvae_patch.errors import InvalidValueError, RunError
from vdvae_patch.experiments.large_vae import run
from vdvae_patch.experiments.large_vae_runs import MODELS, Size
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.train.interrupts import EXIT_RESUME

SMALL = LargeVae(
    quick=True, seeds=1, epochs=1, samples=3, images=5, train=120, components=4, dataset="arrays", variant="explin"
)


@pytest.fixture
def options(tmp_path: Path) -> LargeVae:
    """Grey images of 6x6 pixels."""
    for number, (name, count) in enumerate((("train", 130), ("valid", 5), ("test", 20))):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
    return replace(SMALL, data_root=tmp_path, out=tmp_path / "out")


def test_all_four_are_trained_and_told_in_one_table(options: LargeVae, tmp_path: Path) -> None:
    assert run(replace(options, minutes=0.0)) == EXIT_RESUME
    assert len(list((tmp_path / "out").glob("*-seed0.json"))) == 1
    before = (tmp_path / "out" / "1-standard-seed0.json").read_text()
    assert run(options) == 0
    assert (tmp_path / "out" / "1-standard-seed0.json").read_text() == before
    report = json.loads((tmp_path / "out" / "large-vae-arrays-quick.json").read_text())
    (table,) = report["tables"]
    rows = [dict(zip(table["header"], row, strict=True)) for row in table["rows"]]
    assert [(row["levels"], row["prior"]) for row in rows] == [(kind.levels, kind.prior) for kind in MODELS]
    for row, name in zip(rows, ("1-standard", "1-vamp", "2-standard", "2-vamp"), strict=True):
        found = json.loads((tmp_path / "out" / f"{name}-seed0.json").read_text())["found"]
        assert float(row["lower bound"]) == pytest.approx(found["lower_bound_nats"], abs=0.01)
        assert float(row["log likelihood"]) == pytest.approx(found["log_likelihood_nats"], abs=0.01)
        assert float(row["bits/dim"]) == pytest.approx(-found["log_likelihood_nats"] / (36 * np.log(2)), abs=1e-3)
        assert found["dimensions"] == 36
        assert len(found["rates"]) == len(found["active_units"]) == row["levels"]
        assert all(0 <= count <= 40 for count in found["active_units"])
        assert (row["reference"], row["Large VAE"]) == (None, None)  # nobody has measured this data set
    with pytest.raises(RunError, match="other settings"):
        run(replace(options, lr=2e-3))


@pytest.mark.parametrize("value", [{"epochs": 0}, {"components": 0}, {"samples": -1}, {"images": -1}, {"warmup": -2}])
def test_counts_that_make_no_sense_are_refused(value: dict[str, int]) -> None:
    (name,) = value
    with pytest.raises(InvalidValueError, match=f"--{name} must"):
        Size.of(replace(SMALL, **value), 130)  # type: ignore[arg-type]
