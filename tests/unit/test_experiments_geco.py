"""`reproduce geco`: the data sets that it makes, the runs, and the report, on digits that are drawn here."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch.cli import reproduce
from vdvae_patch.data import mnist, mnist_labels
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.experiments import geco, geco_runs, geco_sets
from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.geco_runs import (
    ANNEALED,
    CONDITIONAL,
    ELBO,
    EQUAL,
    FULL,
    FULL_DATA,
    GQN,
    QUICK,
    QUICK_DATA,
    Cell,
    FlowPosterior,
    Found,
    Size,
    Trained,
    annealed,
    cells,
    objective_of,
    train,
)
from vdvae_patch.experiments.geco_sets import OF_DIGITS, Pictures, read, rotated
from vdvae_patch.experiments.options import Geco
from vdvae_patch.experiments.report import Origin
from vdvae_patch.objectives.geco import Geco as Objective
from vdvae_patch.train.interrupts import EXIT_RESUME

TINY = replace(
    QUICK, updates=(3, 3), batch=4, train=12, test=8, kappas=((0.1, 0.2), (0.1, 0.2), (0.2,)), colour=(), marginal=6,
    convdraw=(("hidden", 4), ("latents", 1), ("steps", 2), ("canvas", 2)),
    nvp_vae=(("hidden", 8), ("latents", 3), ("couplings", 2)),
)  # fmt: skip
ORIGIN = Origin("command", "commit", "machine", "2", (0,), 1.0)


def digit(label: int, shade: int) -> np.ndarray:
    """The label in the brightness of its first row, so that a test can read it off a picture."""
    image = np.zeros((28, 28), np.uint8)
    image[:14] = 20 * (label + 1)
    image[20, 5] = shade
    return image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    count = 10_060
    labels = np.arange(count, dtype=np.uint8) % 10
    images = np.stack([digit(label, i % 251) for i, label in enumerate(labels)])
    for name, part in ((mnist.TRAIN_FILE, images), (mnist.TEST_FILE, images[:5])):
        (folder / name).write_bytes(gzip.compress(struct.pack(">IIII", 0x803, *part.shape) + part.tobytes(), 1))
    text = struct.pack(">II", 0x801, count) + labels.tobytes()
    (folder / mnist_labels.LABELS_FILE).write_bytes(gzip.compress(text, 1))
    return folder.parent


def label_of(images: torch.Tensor) -> torch.Tensor:
    """Of digits `[N, 28, 28]` as `digit` draws them."""
    return images[:, 0, 0].long() // 20 - 1


def test_sets_of_digits_are_what_their_names_say(root: Path) -> None:
    made = {name: read(name, root, 40, 20, 0) for name in OF_DIGITS}
    for pictures in made.values():
        assert (len(pictures.train), len(pictures.test)) == (40, 20)
        assert pictures.train.images.dtype == torch.uint8
    shapes = {name: (p.train.images.shape[1], None if p.train.context is None else p.train.context.shape[1])
              for name, p in made.items()}  # fmt: skip
    assert shapes == {"mnist": (1, None), "color-mnist": (3, None), "mnist-triplets": (3, None), "mnist-sum": (1, 2),
                      "mnist-sum-hard": (2, 1), "mnist-rotate": (1, 2)}  # fmt: skip
    for name, parts in (("mnist-triplets", None), ("mnist-sum", "context"), ("mnist-sum-hard", "images")):
        split = made[name].train
        whole = split.images if split.context is None else (
            torch.cat([split.context, split.images] if parts == "context" else [split.images, split.context], dim=1)
        )  # fmt: skip
        a, b, c = (label_of(whole[:, i]) for i in range(3))
        assert torch.equal(c, (a + b) % 10)
        assert len(a.unique()) > 5
    again = read("mnist-sum", root, 40, 20, 0)
    other = read("mnist-sum", root, 40, 20, 1)
    assert torch.equal(again.train.images, made["mnist-sum"].train.images)
    assert not torch.equal(other.train.images, again.train.images)
    with pytest.raises(UnknownNameError, match="color-mnist"):
        read("colour-mnist", root, 4, 4, 0)


def test_rotation_is_about_the_centre_by_the_angle() -> None:
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 2:5, 13:15] = 255  # above the centre
    quarter = rotated(image, torch.tensor([90]))
    assert torch.equal(rotated(image, torch.tensor([0])), image)
    turned = quarter[0, 0].nonzero().double().mean(dim=0)
    assert abs(float(turned[0]) - 13.5) < 0.6
    assert abs(abs(float(turned[1]) - 13.5) - 10) < 0.6
    assert torch.equal(rotated(quarter, torch.tensor([-90])) > 128, image > 128)


def test_a_rotated_digit_is_another_one_of_the_first_ones_kind(root: Path) -> None:
    split = read("mnist-rotate", root, 60, 5, 0).train
    assert split.context is not None
    upright = label_of(split.context[:, 1]) == 0
    assert upright.any()
    kinds = label_of(split.images[upright, 0])
    assert torch.equal(kinds, label_of(split.context[upright, 0]))
    assert not torch.equal(split.images[upright, 0], split.context[upright, 0])


def test_every_objective_is_run_once_and_equal_errors_come_behind_the_elbo() -> None:
    todo = list(cells(replace(FULL, seeds=2), FULL_DATA))
    assert len({cell.key for cell in todo}) == len(todo)
    for cell in todo:
        if cell.method == EQUAL:
            assert cell.host != CONDITIONAL
            assert todo.index(replace(cell, method=ELBO)) < todo.index(cell)
    of_one = [cell.method for cell in todo if (cell.host, cell.data, cell.seed) == ("ConvDRAW", "mnist", 0)]
    assert of_one == [ELBO, ANNEALED, *(f"GECO {k:g}" for k in FULL.kappas[0]), EQUAL]
    for host, names in QUICK_DATA.items():
        assert set(names) <= set(FULL_DATA[host])


def test_the_hand_made_schedule_falls_in_a_tenth_of_the_updates() -> None:
    sigmas = [annealed(step, 100) for step in range(100)]
    assert sigmas[0] == GQN[0]
    assert sigmas[5] == pytest.approx((GQN[0] + GQN[1]) / 2)
    assert sigmas[10:] == [GQN[1]] * 90


def test_geco_moves_as_fast_for_every_kappa_and_starts_where_the_schedule_ends() -> None:
    for kappa in (0.1, 0.3):
        objective = objective_of(Cell("ConvDRAW", "mnist", "GECO", 0, kappa), kappa, QUICK, 784)
        assert isinstance(objective, Objective)
        assert objective.nu * kappa**2 == pytest.approx(QUICK.pace[0])
        sigma = math.sqrt(784 / (2 * float(objective.multipliers[0])))
        assert sigma == pytest.approx(GQN[1])
    assert objective_of(Cell("ConvDRAW", "mnist", ANNEALED, 0), None, QUICK, 784) is None


@pytest.mark.parametrize(
    ("host", "data"), [("ConvDRAW", "color-mnist"), (CONDITIONAL, "mnist-rotate"), ("VAE+NVP", "mnist")]
)
@pytest.mark.parametrize(("method", "kappa"), [(ELBO, None), (ANNEALED, None), ("GECO 0.2", 0.2)])
def test_a_run_is_finite_and_the_same_again(host: str, data: str, method: str, kappa: float | None, root: Path) -> None:
    pictures = read(data, root, TINY.train, TINY.test, 0)
    cell = Cell(host, data, method, 0, kappa)
    found, images = train(cell, kappa, pictures, TINY, "explin", CPU)
    assert found == train(cell, kappa, pictures, TINY, "explin", CPU)[0]
    numbers = [found.rate, found.nll, found.sigma, found.error, found.beta, *found.rates, *found.errors, *found.betas]
    assert torch.tensor(numbers).isfinite().all()
    assert found.steps == [1, 2, 3]
    assert (found.multiplier is None) is (kappa is None)
    if kappa is not None:
        assert found.beta == pytest.approx(found.dimensions / (2 * (found.multiplier or 0)) / found.sigma**2)
    assert (found.marginal is None) is (host != "VAE+NVP")
    assert images.shape == (12, *pictures.test.images.shape[1:])


def test_the_marginal_kl_of_a_flow_is_that_of_its_density(root: Path) -> None:
    pictures = read("mnist", root, TINY.train, TINY.test, 0)
    made = Trained("VAE+NVP", pictures, TINY, 0, "explin", CPU)
    x, _ = pictures.train.batch(slice(0, 4), CPU)
    posterior = FlowPosterior(made.model, x, made.model.encoder(x), made.values)
    z = posterior.sample(torch.Generator().manual_seed(1))
    table = posterior.log_prob(z)
    assert table.shape == (4, 4)
    rows = [made.model.log_posterior(z[i], made.model.encoder(x[j : j + 1])[0]) for i in range(4) for j in range(4)]
    torch.testing.assert_close(table, torch.stack(rows).view(4, 4).double())


def found(method: str, kappa: float | None, rate: float, sigma: float, host: str = "VAE+NVP") -> Found:
    marginal = [rate - 3, 0.1, rate, 6.0, 0.0] if host == "VAE+NVP" else None
    multiplier = None if kappa is None else 2000.0
    return Found(host, "color-mnist", method, 0, kappa, 2352, rate, 1.5 + sigma, sigma, sigma, multiplier, 2.0, 0,
                 [1, 2], [1.0, rate], [0.3, sigma], [1.0, 2.0], marginal)  # fmt: skip


def test_the_report_has_the_papers_numbers_beside_ours_and_says_what_was_met() -> None:
    rows = [found(ELBO, None, 100.0, 0.1), found(ANNEALED, None, 5.0, 0.3), found("GECO 0.2", 0.2, 20.0, 0.2),
            found(EQUAL, 0.1, 90.0, 0.11)]  # fmt: skip
    report = geco.build_report(rows, TINY, Geco(quick=True), ORIGIN, "geco-quick")
    tables = {table.name: [dict(zip(table.header, row, strict=True)) for row in table.rows] for table in report.tables}
    assert [row["met"] for row in tables["runs"]] == [None, None, "yes", "no"]
    (equal,) = tables["equal"]
    assert (equal["ELBO: KL, nats"], equal["GECO: KL, nats"], equal["GECO / ELBO"]) == ("100.0", "90.0", "0.90")
    assert equal["paper: squared error"] is None  # it printed ConvDRAW's on CIFAR-10 alone
    assert [row["paper"] for row in tables["marginal"]] == ["182.5", None, "10.3", None]
    assert "color-mnist 97.0 with the ELBO, 17.0 with GECO 0.2" in " ".join(report.notes)
    assert "None of the runs at the ELBO's error reached it" in " ".join(report.notes)
    assert report.notes[-1].startswith("One seed")
    idle = geco.build_report([rows[0], rows[2], found(EQUAL, 0.1, 0.3, 0.1)], TINY, Geco(quick=True), ORIGIN, "geco")
    assert "1 of 1 runs at the ELBO's error reached it up to a fiftieth, each with a KL below 2" in " ".join(idle.notes)
    alone = geco.build_report(
        [replace(row, host="ConvDRAW", marginal=None) for row in rows[:3]], TINY, Geco(), ORIGIN, "geco"
    )
    assert [table.name for table in alone.tables] == ["runs", "trajectory"]


def test_the_report_says_how_many_images_there_were_and_not_how_many_were_asked_for() -> None:
    size = replace(TINY, train=5000, test=500)
    rows = [found(ELBO, None, 100.0, 0.1), found("GECO 0.2", 0.2, 20.0, 0.2)]
    for counts, said in (
        ([(300, 500)], "300 training images"),
        ([(300, 500), (5000, 500)], "300 to 5,000 training images"),
        ([], "5,000 training images"),
    ):
        words = geco.build_report(rows, size, Geco(quick=True), ORIGIN, "geco-quick", counts).introduction
        assert f", {said}, scales" in words
        assert "measured on 500 held-out images" in words


def test_errors_that_six_digits_do_not_tell_apart_are_two_objectives() -> None:
    size = replace(TINY, kappas=((0.1, 0.10000001),) * 3, colour=())
    methods = [cell.method for cell in cells(size, {"VAE+NVP": ("mnist",)}) if cell.kappa is not None]
    assert methods == ["GECO 0.1", "GECO 0.10000001"]


def test_what_the_report_says_of_table_2_is_of_all_seeds() -> None:
    rows = [found(ELBO, None, 100.0, 0.1), found("GECO 0.2", 0.2, 20.0, 0.2), found("GECO 0.3", 0.3, 10.0, 0.3)]
    again = [
        replace(row, seed=1, rate=row.rate + 2, marginal=[row.rate - 1, 0.1, row.rate + 2, 6.0, 0.0]) for row in rows
    ]
    again[2] = replace(again[2], sigma=0.4)  # this seed did not meet its error
    notes = " ".join(geco.build_report([*rows, *again], TINY, Geco(quick=True, seeds=2), ORIGIN, "geco-quick").notes)
    assert "color-mnist 98.0 ± 1.4 with the ELBO, 18.0 ± 1.4 with GECO 0.2." in notes
    assert "The figures are of seed 0; the tables are of all 2 seeds." in notes


@pytest.mark.medium
def test_a_command_that_was_stopped_goes_on_and_reports(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(geco_runs, "QUICK", TINY)
    arguments = ["geco", "--quick", "--data-root", str(root), "--out", str(tmp_path / "out"), "--data", "mnist",
                 "mnist-rotate", "--kappa", "0.2"]  # fmt: skip
    assert reproduce.run([*arguments, "--minutes", "0"]) == EXIT_RESUME
    assert "1 of 11 runs are finished" in capsys.readouterr().out
    first = (tmp_path / "out" / "convdraw-mnist-elbo-seed0.json").read_text()
    assert reproduce.run(arguments) == 0
    assert (tmp_path / "out" / "convdraw-mnist-elbo-seed0.json").read_text() == first
    names = {path.name for path in (tmp_path / "out").iterdir()}
    ends = (".md", ".json", ".png", "-runs.png", "-runs.csv", "-equal.png", "-marginal.csv", "-trajectory.png")
    wanted = {f"geco-quick-mnist-mnist-rotate{end}" for end in ends}
    assert wanted <= names
    text = json.loads((tmp_path / "out" / "geco-quick-mnist-mnist-rotate.json").read_text())
    assert "ConvDRAW, conditional, mnist-rotate, κ = 0.2" in json.dumps(text, ensure_ascii=False)
    elbo = json.loads(first)["found"]["sigma"]
    equal = json.loads((tmp_path / "out" / "convdraw-mnist-equal-seed0.json").read_text())["found"]
    assert equal["kappa"] == elbo
    assert reproduce.run([*arguments, "--hosts", "nvp_vae"]) == 0  # a part, of the runs that are there
    assert (tmp_path / "out" / "geco-quick-nvp_vae-mnist-mnist-rotate.md").exists()
    assert (tmp_path / "out" / "convdraw-mnist-elbo-seed0.json").read_text() == first
    with pytest.raises(RunError, match="updates"):
        reproduce.run([*arguments, "--updates", "2"])


def test_color_mnist_has_errors_of_its_own_unless_some_are_named() -> None:
    quick = Size.of(Geco(quick=True))
    for host in QUICK_DATA:
        assert quick.kappas_of(host, "color-mnist") == QUICK.colour
    assert quick.kappas_of("VAE+NVP", "mnist") == QUICK.kappas[2]
    assert quick.kappas_of(CONDITIONAL, "mnist-sum") == QUICK.kappas[1]
    named = Size.of(Geco(quick=True, kappa=(0.3,)))
    assert named.kappas_of("ConvDRAW", "color-mnist") == named.kappas_of(CONDITIONAL, "mnist-sum") == (0.3,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Geco(seeds=0), "--seeds must be at least 1"),
        (Geco(updates=0), "--updates must be at least 1"),
        (Geco(kappa=(1.5,)), "between 0 and 1"),
        (Geco(kappa=(0.1, 0.1)), "twice"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: Geco, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        Size.of(options)


def test_hosts_and_data_sets_that_there_are_not_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="convdraw"):
        geco.chosen(Geco(hosts=("convdrw",)))
    with pytest.raises(UnknownNameError, match="mnist"):
        geco.chosen(Geco(data=("mnst",)))
    with pytest.raises(InvalidValueError, match="none of those"):
        geco.chosen(Geco(hosts=("nvp_vae",), data=("mnist-sum",)))
    assert geco.chosen(Geco(hosts=("conditional",), data=("mnist-sum-hard",), quick=True)) == {
        CONDITIONAL: ("mnist-sum-hard",)
    }


def test_pictures_know_their_size() -> None:
    split = geco_sets.Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert Pictures("name", split, split).dimensions == 48
