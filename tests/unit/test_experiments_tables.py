"""The tables judge, compare and resume as they say."""

from __future__ import annotations

import csv
import gzip
import math
import pickle
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vdvae_patch import scales
from vdvae_patch.data import cifar10, mnist
from vdvae_patch.errors import InvalidValueError, RunError
from vdvae_patch.experiments import (
    digits,
    figure1,
    table1,
    table2,
    table2_report,
    table3,
    table3_report,
)
from vdvae_patch.experiments import table2_cells as cells2
from vdvae_patch.experiments import table3_cells as cells3
from vdvae_patch.experiments.ensemble import Ensemble, Run
from vdvae_patch.experiments.memory import runs_that_fit
from vdvae_patch.experiments.noise import normals
from vdvae_patch.experiments.options import Figure1, Table1, Table2, Table3
from vdvae_patch.experiments.report import Origin, Report, Table, publish
from vdvae_patch.experiments.session import Session
from vdvae_patch.experiments.table2_cells import Row
from vdvae_patch.train.interrupts import EXIT_RESUME

CPU = torch.device("cpu")
ORIGIN = Origin("command", "commit", "machine", "2", (0,), 1.0)


# --- table 1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", table1.PUBLISHED, ids=lambda p: f"{p.dtype} {p.form}")
def test_the_search_finds_every_published_number_of_table_1(published: table1.Published) -> None:
    p = table1.last_finite(table1.FORMS[published.form], scales.get("naiveexp"), published.dtype)
    assert p == published.p
    assert f"{math.exp(p):.2e}" == published.sigma


@pytest.mark.parametrize("dtype", table1.DTYPES)
def test_the_stable_kl_is_finite_for_every_raw_parameter_down_to_the_smallest_number(dtype: torch.dtype) -> None:
    for gradient in (False, True):
        assert table1.last_finite(table1.stable_kl, scales.get("exp"), dtype, gradient=gradient) is None


def test_the_search_goes_both_ways_and_finds_overflow_too() -> None:
    p = table1.last_finite(table1.torch_kl, scales.get("exp"), torch.float32, direction="largest")
    assert p == 44  # exp(2 · 44) is finite in float32, exp(2 · 45) is not
    assert table1.last_finite(table1.torch_kl, scales.get("upbounded"), torch.float32, direction="largest") is None


def test_table_1_is_written_and_says_that_all_eight_are_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table1.run(Table1(out=tmp_path)) == 0
    assert "8 of 8 published numbers are equal" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table1.md", "table1.json", "table1.png", "table1.svg", "table1-published.csv"} <= names
    lines = (tmp_path / "table1-scales-smallest.csv").read_text().splitlines()
    assert {line.split(",")[0].strip('"') for line in lines[1:]} >= set(scales.SCALES.names()) - {
        "bounded",
        "downbounded",
    }


# --- table 2 ----------------------------------------------------------------------------------------------------------


def row(posterior: str = "Exp", nelbo: float | None = 100.0, cause: str | None = None, seed: int = 0) -> Row:
    return Row(posterior, "Exp", 0.008, seed, 3000.0, nelbo, 5 if cause else None, cause)


def test_a_run_fails_by_nan_or_by_a_nelbo_orders_of_magnitude_above_normal() -> None:
    normal = [
        row(posterior, nelbo=-600.0 + seed, seed=seed) for posterior in ("ExpLin", "UpBounded") for seed in range(3)
    ]
    odd = [row(nelbo=-9e3), row(nelbo=2e8), row(nelbo=None, cause="nan_rate"), row(nelbo=None)]
    high = [row(nelbo=22_463.0), row(nelbo=3_765.0)]  # the untrained model is at 3,000
    limits = table2_report.Limits.of([*normal, *odd, *high])
    assert not any(map(limits.failed, normal))
    assert [limits.failed(r) for r in odd] == [False, True, True, True]
    assert [limits.failed(r) for r in high] == [True, False]
    assert limits.above_untrained == 30_000


def test_a_normal_end_near_0_does_not_make_a_failure_of_every_run_a_little_above() -> None:
    rows = [row(nelbo=nelbo, seed=seed) for seed, nelbo in enumerate((0.5, -1.0, 0.0, 200.0, 2_000.0))]
    assert [table2_report.Limits.of(rows).failed(r) for r in rows] == [False, False, False, False, True]


def test_what_is_normal_is_so_for_a_learning_rate_and_a_decoder() -> None:
    here = [row(nelbo=-10.0, seed=seed) for seed in range(3)]
    there = [replace(row(nelbo=900.0, seed=seed), lr=0.006, decoder="Bounded") for seed in range(3)]
    limits = table2_report.Limits.of([*here, *there])
    assert not any(map(limits.failed, there))
    assert limits.failed(replace(there[0], lr=0.008, decoder="Exp"))


def every_cell() -> list[Row]:
    return [
        Row(p, d, lr, seed, 3000.0, None if p == "NaiveExp" else -1.0, 7 if p == "NaiveExp" else None,
                   "nan_rate" if p == "NaiveExp" else None)
        for p in cells2.POSTERIORS for d in cells2.DECODERS for lr in cells2.LEARNING_RATES for seed in range(2)
    ]  # fmt: skip


def test_table_2_stands_beside_the_papers_with_the_difference_and_the_threshold() -> None:
    report = table2_report.build_report(every_cell(), cells2.QUICK, Table2(quick=True), ORIGIN)
    text = report.markdown(figure=False)
    assert "above 30,000 nats per image" in report.notes[0]
    failures = {(line[0], line[1]): line[2:] for line in report.tables[0].rows}
    assert failures[0.008, "NaiveExp"] == ("2/2", "10/10", "+0 points") * 3
    assert failures[0.006, "NaiveExp"][-3:] == ("2/2", "3/10", "+70 points")
    assert failures[0.007, "Exp"][:3] == ("0/2", "4/10", "-40 points")
    assert "Failed in all: NaiveExp 18 of 18, Exp 0 of 18" in text
    high = [replace(r, nelbo=20_000.0) if r.posterior == "Exp" and r.seed == 0 else r for r in every_cell()]
    counts = table2_report.build_report(high, cells2.QUICK, Table2(quick=True), ORIGIN)
    assert counts.notes[0].startswith("Failed in all: NaiveExp 18 of 18, Exp 9 of 18, ExpLin 0 of 18")
    assert "untrained model's: NaiveExp 18 of 18, Exp 0 of 18" in counts.notes[0]
    assert {line[0]: line[5] for line in counts.tables[1].rows}["Exp"] == 9


def test_the_quick_table_2_says_what_was_cut_and_the_full_one_does_not() -> None:
    full = table2_report.build_report(every_cell(), cells2.FULL, Table2(), ORIGIN)
    quick = table2_report.build_report(every_cell(), cells2.QUICK, Table2(quick=True), ORIGIN)
    assert "batches of 512; here" in quick.introduction
    assert "here" not in full.introduction
    assert (full.name, quick.name) == ("table2", "table2-quick")


def test_table_2_says_over_how_many_steps_the_end_is_averaged_and_averages_over_these() -> None:
    for size, said in ((cells2.QUICK, "averaged over the last 20 of its steps"),
                       (cells2.FULL, "averaged over the last 1000 of its steps")):  # fmt: skip
        assert said in table2_report.build_report(every_cell(), size, Table2(), ORIGIN).introduction
    assert [cells2.last_steps(steps) for steps in (20, 160, 20_000)] == [20, 20, 1000]


def test_a_first_loss_that_is_not_finite_does_not_move_the_threshold_of_table_2() -> None:
    rows = [replace(row(seed=n), first=first) for n, first in enumerate((math.nan, 3000.0, 1000.0, math.nan, 5000.0))]
    assert table2_report.Limits.of(rows).untrained == 3_000


def test_the_pieces_of_table_2_are_36_cells_of_10_runs() -> None:
    batches = table2.TenImages(np.zeros((20, 32, 32, 3), np.uint8), range(10), 4, CPU)
    parts = list(table2._parts(Table2(), cells2.FULL, batches, CPU))
    cells = {(part.posterior, part.decoder, run.lr) for part in parts for run in part.runs}
    assert (len(parts), len(cells), sum(len(part.runs) for part in parts)) == (12, 36, 360)
    chunked = list(table2._parts(Table2(chunk=8), cells2.FULL, batches, CPU))
    assert sum(len(part.runs) for part in chunked) == 360
    assert max(len(part.runs) for part in chunked) == 8
    assert len({part.key for part in chunked}) == len(chunked)


def test_every_seed_has_ten_images_of_its_own_whatever_it_is_beside() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    batches = table2.TenImages(pixels, range(3), 64, CPU)
    (both,), (alone,) = batches([2, 1], 4), batches([1], 4)
    assert both.shape == (2, 64, 3, 32, 32)
    assert torch.equal(both[1], alone[0])
    assert len({tuple(image.flatten().tolist()) for image in alone[0]}) == 10
    assert not torch.equal(both[0], both[1])


@pytest.mark.slow
def test_table_2_runs_in_pieces_and_reports(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    options = Table2(quick=True, data_root=tmp_path / "data", out=tmp_path / "o", seeds=1, steps=20, batch_size=4)
    assert table2.run(replace(options, minutes=0.0)) == EXIT_RESUME
    assert not (tmp_path / "o" / "table2-quick.md").exists()
    assert table2.run(options) == 0
    lines = list(csv.DictReader((tmp_path / "o" / "table2-quick-failures.csv").read_text().splitlines()))
    assert len(lines) == 12
    assert {line["decoder Exp"] for line in lines} <= {"0/1", "1/1"}
    text = (tmp_path / "o" / "table2-quick.md").read_text()
    assert str(tmp_path) not in text
    assert (tmp_path / "o" / "table2-quick.png").stat().st_size > 1000


def write_cifar10(root: Path) -> None:
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        rows = 5 if name == cifar10.TEST_FILE else 1010  # 5,000 of the five files' are for validation
        with (folder / name).open("wb") as file:
            pickle.dump({b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8)}, file, protocol=2)


@pytest.mark.slow
def test_table_2_takes_decoders_and_objectives_beside_the_papers_scales(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    options = Table2(quick=True, data_root=tmp_path / "data", out=tmp_path / "o", seeds=1, steps=20, batch_size=4)
    chosen = ("optimal", "optimal+geco(kappa=0.12)")
    assert table2.run(replace(options, seams=chosen)) == 0
    lines = list(csv.DictReader((tmp_path / "o" / "table2-quick-seams.csv").read_text().splitlines()))
    assert [line["posterior"] for line in lines] == list(cells2.POSTERIORS)
    assert all(line[name].split()[0] in ("0/3", "1/3", "2/3", "3/3") for line in lines for name in chosen)
    paper = list(csv.DictReader((tmp_path / "o" / "table2-quick-failures.csv").read_text().splitlines()))
    assert len(paper) == len(cells2.POSTERIORS) * len(cells2.LEARNING_RATES)


def test_a_size_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="batches of 2"):
        table2.run(Table2(batch_size=1))


# --- table 3 and figure 1 ---------------------------------------------------------------------------------------------


def test_a_single_value_of_table_3_has_no_deviation_where_it_is_not_known() -> None:
    def rows(values: list[float | None]) -> list[cells3.Row]:
        return [
            cells3.Row(likelihood, mean, seed, nll, 0, None if nll else 7, None if nll else "nan_rate", 1e-3, None)
            for likelihood in digits.LIKELIHOODS for mean in digits.MEANS for seed, nll in enumerate(values)
        ]  # fmt: skip

    for values, shown in (([100.0, None, None], "100.0"), ([100.0, 102.0, None], "101.0 ± 1.4")):
        table = table3_report.build_report(rows(values), cells3.QUICK, Table3(quick=True), ORIGIN).tables[0]
        assert {line[-1] for line in table.rows} == {shown}
        assert {("±" in str(line[2]), line[3]) for line in table.rows} == {
            ("±" in shown, f"{100 * values.count(None) / 3:.0f}% NaN")
        }


@pytest.fixture
def few_digits(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for file, count in ((mnist.TRAIN_FILE, 10_120), (mnist.TEST_FILE, 40)):
        pixels = (rng.random((count, 28, 28)) < 0.2).astype(np.uint8) * 255
        pixels[:, :4] = 0  # a border that is always black, as MNIST's is
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / file).write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    return tmp_path / "data"


def test_a_data_set_that_has_fewer_images_than_asked_for_gives_the_numbers_that_it_has(few_digits: Path) -> None:
    size = cells3.QUICK
    some = digits.Digits.load("mnist", few_digits, CPU, size.train, size.valid, size.test).sized(size)
    assert (some.train, some.valid, some.test) == (120, 2000, 40)
    nan = [
        cells3.Row(likelihood, mean, 0, None, 0, 30, "nan_rate", 1e-3, None)
        for likelihood in digits.LIKELIHOODS
        for mean in digits.MEANS
    ]
    report = table3_report.build_report(nan, some, Table3(quick=True), ORIGIN)
    assert "the first 120 images" in report.introduction
    assert "tested on 2,000 and 40 images" in report.introduction
    assert {line[3] for line in report.tables[1].rows} == {"15.0"}  # step 30, of two batches an epoch


def test_what_is_not_mnist_is_not_put_beside_the_papers_numbers_on_mnist() -> None:
    rows = [
        cells3.Row(likelihood, mean, 0, 100.0, 0, None, None, 1e-3, None)
        for likelihood in digits.LIKELIHOODS
        for mean in digits.MEANS
    ]
    report = table3_report.build_report(rows, cells3.FULL, Table3(dataset="fashion-mnist"), ORIGIN)
    assert report.name == "table3-fashion-mnist"
    assert {line[4:6] for line in report.tables[0].rows} == {(None, None)}
    assert "The paper has no table of fashion-mnist" in report.notes[0]
    assert len(table3_report.draw(rows, "fashion-mnist").axes[0].patches) == 6  # ours alone


def test_images_of_another_size_than_table_3_takes_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        np.save(tmp_path / f"{name}.npy", np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(InvalidValueError, match="'arrays' is of 8x8, and this experiment takes 28x28"):
        digits.Digits.load("arrays", tmp_path, CPU, 3, 3, 3)


def test_the_unit_of_table_3_is_bits_per_dimension_on_0_to_255() -> None:
    # a uniform density on [0, 1] is one of 1/256 on 0..256: 8 bits
    assert digits.bits_per_dimension(0.0) == pytest.approx(8)
    # one scalar scale of 0.09, its error of the same size: what the paper prints for Global
    nats = 784 * (math.log(0.09) + 0.5 * math.log(2 * math.pi) + 0.5)
    assert digits.bits_per_dimension(nats) == pytest.approx(6.57, abs=0.01)


def test_an_epoch_shows_every_image_once_in_an_order_of_each_seed() -> None:
    images = torch.arange(10, dtype=torch.uint8)[:, None].expand(10, 784)
    epochs = digits.Epochs(images, 4)
    assert epochs.per_epoch == 3
    seen = torch.cat([epochs([7, 8], step)[0][:, :, 0] for step in range(3)], dim=1) * 255
    for order in seen.round().int().tolist():
        assert sorted(order) == list(range(10))
    assert seen[0].tolist() != seen[1].tolist()
    assert torch.equal(epochs([8], 1)[0][0, :, 0] * 255, seen[1, 4:8])


def test_noise_is_added_for_evaluation_only_and_stays_inside_a_pixels_bin() -> None:
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8).repeat(1, 392)
    noisy = digits.noisy(pixels, 0, "test")
    assert torch.equal((noisy * 256).floor().to(torch.uint8), pixels)
    within = noisy * 256 - pixels
    assert within.mean().item() == pytest.approx(0.5, abs=0.05)
    assert within.std().item() == pytest.approx(12**-0.5, abs=0.05)
    (batch,) = digits.Epochs(pixels, 1)([0], 0)
    assert batch.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("how", ["loop", "grouped"])
def test_runs_that_select_their_scale_are_the_runs_that_have_it(how: str) -> None:
    names = ("NaiveExp", "Exp", "UpBounded", "DownBounded", "Bounded")
    images = torch.randint(0, 256, (40, 784), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    runs = [Run(0, 1e-3, index) for index in range(5)]
    together = Ensemble(runs, digits.Builder(names, "sigmoid"), digits.Epochs(images, 10), how=how)
    together.train(4)
    for index, name in enumerate(names):
        alone = Ensemble([Run(0, 1e-3)], digits.Builder((name,), "sigmoid"), digits.Epochs(images, 10), how="loop")
        alone.train(4)
        torch.testing.assert_close(together.trace()[:, index], alone.trace()[:, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("together", [True, False])
def test_table_3_is_60_runs_one_ensemble_a_cell_or_all_decoded_scales_of_a_mean_together(together: bool) -> None:
    groups = list(table3._groups(together=together))
    assert len(groups) == (4 if together else 12)
    cells = {(likelihood, group.mean) for group in groups for likelihood in group.likelihoods}
    assert cells == set(cells3.PAPER)


def test_cells_that_are_trained_together_are_reported_apart(few_digits: Path, tmp_path: Path) -> None:
    size = cells3.size_of(True, 1, 1)
    data = digits.Digits.load("mnist", few_digits, CPU, size.train, size.valid, size.test)
    together = digits.Builder(("NaiveExp", "Exp", "UpBounded", "DownBounded", "Bounded"), "identity")
    alone = digits.Builder(("Bounded",), "identity")
    rows = []
    for name, builder in (("together", together), ("alone", alone)):
        result = table3._train(Session(tmp_path / name, {}), builder, data, size, "1/1")
        assert result is not None
        rows.append(result["rows"])
    assert [row["likelihood"] for row in rows[0]] == list(together.likelihoods)
    assert rows[0][-1]["nll"] == pytest.approx(rows[1][0]["nll"], rel=1e-3)
    assert rows[0][0]["nll"] != pytest.approx(rows[1][0]["nll"], rel=1e-3)


def test_a_scale_that_is_not_selected_cannot_give_nan() -> None:
    names = ("NaiveExp", "Bounded")
    builder = digits.Builder(names, "identity")
    models = [builder(Run(0, 1e-3, index)) for index in (0, 1)]
    raw = torch.tensor([500.0, -500.0], requires_grad=True)
    sigma, log_sigma = models[1].likelihood_scale(raw)  # type: ignore[operator]
    (sigma.sum() + log_sigma.sum()).backward()
    assert torch.isfinite(sigma).all()
    assert torch.isfinite(raw.grad).all()
    assert not torch.isfinite(models[0].likelihood_scale(raw)[1]).any()  # type: ignore[operator]


def test_the_best_validation_model_is_kept_and_tested() -> None:
    images = torch.randint(0, 256, (30, 784), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    valid, test = digits.noisy(images, 0, "validation"), digits.noisy(images, 0, "test")
    builder = digits.Builder(("Bounded",), "identity")
    ensemble = Ensemble([Run(0, 1e-3), Run(1, 0.5)], builder, digits.Epochs(images, 10))
    best = table3.BestOnValidation(valid, 3, 12, 2)
    values = []
    while ensemble.step_count < 12:
        ensemble.step()
        best(ensemble)
        if ensemble.step_count % 3 == 0:
            values.append(digits.evaluate(ensemble, valid))
    assert best.best == torch.stack(values).min(0).values.tolist()
    assert best.step == [3 * (i + 1) for i in torch.stack(values).argmin(0).tolist()]
    rows = table3.judge(ensemble, builder, best, test)
    kept = torch.stack([best.flat[0], best.flat[1]])
    assert [r.nll for r in rows] == digits.evaluate(ensemble, test, kept).tolist()


def test_the_evaluation_is_the_models_own_negative_elbo() -> None:
    images = torch.rand(7, 784, generator=torch.Generator().manual_seed(0))
    ensemble = Ensemble([Run(3, 1e-3)], digits.Builder(("Exp",), "identity"), lambda seeds, step: (images[None],))
    noise = normals([-1], 0, 7 * 128, CPU)
    alone = ensemble.stack((images[None],), noise, "loop")["elbo"]
    assert digits.evaluate(ensemble, images).item() == pytest.approx(alone.item(), rel=1e-6)


def test_the_arrival_is_where_the_line_through_log_gamma_meets_underflow() -> None:
    falling = torch.exp(-0.01 * torch.arange(300.0))
    assert table3.arrival_step(falling) == pytest.approx(-table3.LOG_UNDERFLOW / 0.01, rel=1e-4)
    assert table3.arrival_step(torch.full((300,), 0.1)) is None
    assert {name for name in digits.LIKELIHOODS if not table3.may_underflow(name)} == {"DownBounded", "Bounded"}
    # the definition of the limit: half of the smallest float32, rooted
    just_above, just_below = (torch.tensor(math.exp(table3.LOG_UNDERFLOW + d)) for d in (0.01, -0.01))
    assert (just_above**2).item() > 0
    assert (just_below**2).item() == 0


@pytest.mark.slow
def test_table_3_runs_in_pieces_and_ends_as_if_in_one(few_digits: Path, tmp_path: Path) -> None:
    def options(out: str, minutes: float | None) -> Table3:
        return Table3(quick=True, data_root=few_digits, out=tmp_path / out, seeds=1, epochs=1, minutes=minutes)

    assert table3.run(options("whole", None)) == 0
    # a piece without any time still gets something done, the same on every machine
    statuses = [table3.run(options("pieces", 0.0))]
    while statuses[-1] == EXIT_RESUME and len(statuses) < 100:
        statuses.append(table3.run(options("pieces", 0.0)))
    assert statuses[-1] == 0
    assert len(statuses) > 12  # of twelve ensembles, none in one piece
    whole, pieces = ((tmp_path / name / "table3-quick-nll.csv").read_text() for name in ("whole", "pieces"))
    assert whole == pieces
    assert whole.count("\n") == 13
    rows = list(csv.DictReader(whole.splitlines()))
    assert all(row["bits/dim on 0..255"] for row in rows if row["failed"] == "0% NaN")


def test_a_folder_with_results_of_other_settings_is_refused(few_digits: Path, tmp_path: Path) -> None:
    table3.run(Table3(quick=True, data_root=few_digits, out=tmp_path / "o", seeds=1, epochs=1, minutes=0.0))
    with pytest.raises(RunError, match=r"other settings \(epochs: 1 there, 2 asked for\)"):
        table3.run(Table3(quick=True, data_root=few_digits, out=tmp_path / "o", seeds=1, epochs=2))


def test_figure_1_goes_on_from_one_model_at_two_learning_rates(few_digits: Path, tmp_path: Path) -> None:
    assert figure1.run(Figure1(quick=True, data_root=few_digits, out=tmp_path / "f", epochs=4)) == 0
    assert (tmp_path / "f" / "figure1-quick.svg").stat().st_size > 1000
    state = torch.load(tmp_path / "f" / "pretrained-weights.pt", weights_only=True)
    assert state["step"] == 8
    text = (tmp_path / "f" / "figure1-quick.md").read_text()
    assert "after, lr 5e-05" in text
    assert "Here 4 epochs of 120 images, 8 iterations, at 0.0005" in text
    half = figure1.build_report(
        {"last_median": [1e-3]}, {"last_median": [1e-3, 2e-3]}, replace(cells3.FULL, seeds=1, epochs=1), 30,
        (1e-4, 1e-5), Figure1(epochs=1), ORIGIN,
    )  # fmt: skip
    assert "Here 1 epoch of 50,000 images, 30 iterations" in half.introduction


def test_the_median_of_figure_1_is_the_mean_of_the_middle_two_of_an_even_count() -> None:
    class Ended:
        def __init__(self) -> None:
            self.failures: dict[int, Any] = {}

        def trace(self, name: str) -> torch.Tensor:
            return torch.cat([torch.ones(18, 2), torch.tensor([[1.0, 1.0], [4.0, math.nan]])])

    assert figure1._curves(Ended())["last_median"] == [2.5, None]  # type: ignore[arg-type]


def test_a_fork_starts_where_its_origin_stopped() -> None:
    images = torch.randint(0, 256, (20, 784), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    builder, batches = digits.Builder(("NaiveExp",), "identity"), digits.Epochs(images, 10)
    origin = Ensemble([Run(0, 1e-3)], builder, batches, how="loop")
    origin.train(4)
    fork = Ensemble([Run(0, 1e-3), Run(0, 1e-4)], builder, figure1._Later(batches, 4), how="loop")
    fork.fork(origin.state_dict())
    assert torch.equal(fork.stack.flat[0], fork.stack.flat[1])
    assert torch.equal(fork.stack.flat[0], origin.stack.flat[0])
    assert fork.adam.updates.tolist() == [4, 4]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_as_many_runs_as_fit_the_memory_stay_within_it() -> None:
    # 2 GiB of fixed cost, 1 GiB a run, of 20 GiB: 16 are used, 14 runs
    gib = 2**30
    assert runs_that_fit(20 * gib, 3 * gib, 4 * gib) == 14
    with pytest.raises(RunError, match="choose a smaller batch"):
        runs_that_fit(2 * gib, 3 * gib, 4 * gib)


@pytest.mark.parametrize("commit", ["fedcba987654+", "installed", "unknown"])
def test_numbers_of_code_that_no_commit_has_are_not_published(tmp_path: Path, commit: str) -> None:
    table = Table("cells", "Cells", ("a",), ((1,),))
    dirty = Origin("command", f"0123456789ab, {commit}", "machine", "2", (0,), 1.0)
    docs = tmp_path / "docs"
    with pytest.raises(RunError, match=rf"no commit is known \({re.escape(commit)}\)"):
        publish(Report("found", "Found", "What was done.", (table,), dirty), tmp_path, None, to_docs=True, docs=docs)
    assert (tmp_path / "found.md").exists()
    assert not docs.exists()
    publish(Report("found", "Found", "What was done.", (table,), ORIGIN), tmp_path, None, to_docs=True, docs=docs)
    assert (docs / "found.md").exists()


def test_table_3_validates_and_tests_on_images_with_noise(few_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = cells3.size_of(True, 1, 1)
    data = digits.Digits.load("mnist", few_digits, CPU, size.train, size.valid, size.test)
    seen: dict[str, torch.Tensor] = {}

    class Looking:
        def train(self, key: str, make: object, steps: int, summarize: Any, observer: Any, place: str) -> None:
            seen["valid"] = observer.images
            summarize(None)

    def judge(ensemble: object, builder: object, best: object, test: torch.Tensor) -> list[object]:
        seen["test"] = test
        return []

    monkeypatch.setattr(table3, "judge", judge)
    table3._train(Looking(), digits.Builder(("Exp",), "identity"), data, size, "1/1")  # type: ignore[arg-type]
    for name, pixels in (("valid", data.valid), ("test", data.test)):
        added = 256 * seen[name].double() - pixels
        assert float(added.min()) >= 0
        assert float(added.max()) <= 1  # float32 rounds some to the next number
        assert float(added.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(added.std()) == pytest.approx(12**-0.5, abs=0.01)
    rows = min(len(data.valid), len(data.test))
    drawn = [256 * seen[name][:rows] - getattr(data, name)[:rows] for name in ("valid", "test")]
    assert not torch.equal(*drawn)
