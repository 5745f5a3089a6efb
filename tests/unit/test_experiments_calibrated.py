"""`reproduce calibrated-decoders`: what is compared with what, in pieces, on images that are drawn here."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch import decoders
from vdvae_patch.cli import reproduce
from vdvae_patch.data import mnist
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.experiments import calibrated_cells, calibrated_decoders
from vdvae_patch.experiments.calibrated_cells import (
    ANALYTIC,
    BETAS,
    DECODERS,
    ONE,
    Cell,
    Found,
    Size,
    cells,
    chosen,
    train,
)
from vdvae_patch.experiments.data import Photos
from vdvae_patch.experiments.options import CalibratedDecoders, by_name
from vdvae_patch.experiments.report import Origin
from vdvae_patch.train.interrupts import EXIT_RESUME

TINY = Size(seeds=1, epochs=1, batch_size=20, train=40, test=20)
ORIGIN = Origin("command", "commit", "machine", "2", (0,), 1.0)


def drawn(count: int, seed: int) -> np.ndarray:
    """Bright squares on black, with grey edges."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    for image in images:
        row, column = rng.integers(2, 16, 2)
        image[row : row + 10, column : column + 10] = rng.integers(30, 256)
    return images


@pytest.fixture
def photos() -> Photos:
    return Photos(*(torch.from_numpy(drawn(count, count)).unsqueeze(1) for count in (40, 20)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, count in ((mnist.TRAIN_FILE, 10_040), (mnist.TEST_FILE, 20)):
        images = drawn(count, count)
        path = tmp_path / "data" / "mnist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes(), 1))
    return tmp_path / "data"


def test_every_decoder_is_trained_and_every_beta_once_a_seed() -> None:
    todo = list(cells(Size(seeds=2), chosen(())))
    assert len({cell.key for cell in todo}) == len(todo) == 2 * (len(DECODERS) + len(BETAS))
    assert set(DECODERS) == set(decoders.DECODERS) - {"bernoulli"}


def test_a_part_of_the_decoders_has_the_two_that_are_compared_and_says_what_is_left_out() -> None:
    assert chosen(("per_pixel",)) == (ONE, ANALYTIC, "per_pixel")
    with pytest.raises(UnknownNameError, match="did you mean 'optimal'"):
        chosen(("optimum",))
    few = CalibratedDecoders(decoders=tuple(name for name in DECODERS if name != "categorical"))
    found = [row for row in rows(0.01) if row.decoder != "categorical"]
    report = calibrated_decoders.build_report(found, [10.0] * len(found), TINY, few, ORIGIN, "name")
    assert [line[0] for line in report.tables[0].rows] == [name for name in DECODERS if name != "categorical"]
    assert "So is categorical, by --decoders." in report.introduction


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "categorical"])
def test_a_run_gives_finite_numbers_and_pictures_and_is_the_same_again(name: str, photos: Photos) -> None:
    found, images = train(Cell(name, 1.0, 0), photos, TINY)
    again, _ = train(Cell(name, 1.0, 0), photos, TINY)
    assert found == again
    assert torch.tensor([found.rate, found.nll, found.error, *found.errors]).isfinite().all()
    assert (found.calibrated is not None) is decoders.get(name).is_density
    assert len(found.errors) == 2
    assert images.shape == (16, 1, 28, 28)
    assert 0 <= images.min() <= images.max() <= 1


def test_images_of_three_colours_are_trained_on_and_every_value_counts(photos: Photos) -> None:
    coloured = Photos(*(images.repeat(1, 3, 1, 1) for images in (photos.train, photos.test)))
    found, images = train(Cell("logistic_mixture", 1.0, 0), coloured, TINY)
    alone, _ = train(Cell("logistic_mixture", 1.0, 0), photos, TINY)
    assert images.shape == (16, 3, 28, 28)
    assert found.nll > 2 * alone.nll


def test_the_sweep_is_judged_by_the_sigma_that_its_beta_stands_for(photos: Photos) -> None:
    one, _ = train(Cell(ONE, 1.0, 0), photos, TINY)
    swept, _ = train(Cell(ONE, 0.01, 0), photos, TINY)
    assert one.calibrated is not None
    assert swept.calibrated is not None
    assert swept.error == pytest.approx(one.error, rel=0.5)
    # by the σ that it was trained with, which is a tenth of the range and no longer the range
    assert abs(swept.nll - one.nll) > 50
    analytic, _ = train(Cell(ANALYTIC, 1.0, 0), photos, TINY)
    assert analytic.nll == pytest.approx(analytic.calibrated)
    assert analytic.closed is not None
    assert analytic.closed > analytic.nll  # mass beyond black and white is lost


def rows(best: float) -> list[Found]:
    def row(name: str, beta: float, calibrated: float | None) -> Found:
        closed = None if calibrated is None else calibrated + 500
        sigma = 20.0 if calibrated else None
        return Found(name, beta, 0, 10.0, 3000.0, calibrated, closed, sigma, 25.0, 0, [60.0, 25.0])

    found = [row(name, 1.0, 2500.0 if decoders.get(name).is_density else None) for name in DECODERS]
    found = [replace(r, calibrated=2390.0, closed=2790.0) if r.decoder == ANALYTIC else r for r in found]
    return found + [row(ONE, beta, 2400.0 + 1000 * abs(beta - best)) for beta in BETAS]


@pytest.mark.parametrize(("best", "at_end"), [(0.01, False), (0.001, True)])
def test_the_report_says_what_the_sweep_found_and_what_it_cost(best: float, at_end: bool) -> None:
    found = rows(best)
    seconds = [10.0] * len(found)
    report = calibrated_decoders.build_report(found, seconds, TINY, CalibratedDecoders(), ORIGIN, "name")
    note = report.notes[0]
    assert note.startswith(f"With open bins: Of the sweep β = {best:g} is best, 2410.0 nats")
    assert "analytic σ has 2400.0, 10.0 nats fewer, in 10 s where the sweep of 7 took 70 s" in note
    assert "analytic σ has 2800.0, 110.0 nats fewer" in report.notes[1]
    assert ("end of the sweep" in note) is at_end
    assert report.notes[-1].startswith("One seed")
    again = [*found, *(replace(row, seed=1) for row in found)]
    more = calibrated_decoders.build_report(again, 2 * seconds, TINY, CalibratedDecoders(), ORIGIN, "name")
    assert more.notes[-1] == "The figures are of seed 0; the tables are of all 2 seeds."
    text = report.markdown(figure=False)
    assert [line[0] for line in report.tables[0].rows] == list(DECODERS)
    assert [line[0] for line in report.tables[1].rows] == ["1", "0.3", "0.1", "0.03", "0.01", "0.003", "0.001"]
    assert "no value of it stands here" in text


def test_a_command_that_was_stopped_goes_on_and_reports(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrated_cells, "QUICK", TINY)
    few = ("fixed", "shared", "optimal")
    for module in (calibrated_cells, calibrated_decoders):
        monkeypatch.setattr(module, "DECODERS", few)
    arguments = ["calibrated-decoders", "--quick", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert reproduce.run([*arguments, "--minutes", "0"]) == EXIT_RESUME
    assert "1 of 9 runs are finished" in capsys.readouterr().out
    first = (tmp_path / "out" / "fixed-beta1-seed0.json").read_text()
    assert reproduce.run(arguments) == 0
    assert (tmp_path / "out" / "fixed-beta1-seed0.json").read_text() == first
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stem = "calibrated-decoders-quick"
    assert {f"{stem}.md", f"{stem}.json", f"{stem}.png", f"{stem}-sweep.csv", f"{stem}-decoders.csv"} <= names
    assert json.loads((tmp_path / "out" / f"{stem}.json").read_text())["origin"]["seeds"] == [0]
    with pytest.raises(RunError, match="epochs: 1 there, 2 asked for"):
        reproduce.run([*arguments, "--epochs", "2"])
    with pytest.raises(InvalidValueError, match="at least one"):
        reproduce.run([*arguments, "--seeds", "0"])


def test_grey_images_of_other_sides_are_trained_on_and_counted_by_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrated_cells, "QUICK", TINY)
    for module in (calibrated_cells, calibrated_decoders):
        monkeypatch.setattr(module, "DECODERS", ("fixed", "shared", "optimal"))
    frames = np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    np.save(tmp_path / "freyfaces.npy", frames)
    arguments = ["calibrated-decoders", "--quick", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert reproduce.run([*arguments, "--dataset", "frey-faces"]) == 0
    report = json.loads((tmp_path / "out" / "calibrated-decoders-frey-faces-quick.json").read_text())
    row = dict(zip(report["tables"][0]["header"], report["tables"][0]["rows"][2], strict=True))
    assert float(row["bits/dim"]) == pytest.approx(float(row["bound"]) / (560 * np.log(2)), abs=1e-3)
    assert "40 training images" in report["introduction"]


def test_a_side_that_two_halvings_do_not_divide_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="multiples of 4"):
        calibrated_cells.PictureVAE(1, (1, 28, 22))


def test_names_of_several_words_have_dashes() -> None:
    assert by_name()["calibrated-decoders"] is CalibratedDecoders
    assert "table1" in by_name()
