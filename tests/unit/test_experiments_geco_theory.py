"""`reproduce geco-theory`: fixed points against what mathematics says of them, and the command on digits drawn here."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch.cli import reproduce
from vdvae_patch.data import DATASETS, mnist, mnist_labels
from vdvae_patch.errors import DataError, InvalidValueError
from vdvae_patch.experiments import geco_theory, micro_mnist
from vdvae_patch.experiments.fixed_points import (
    Lipschitz,
    circles,
    clusters,
    distances,
    iterate,
    last_transition,
    posterior,
    slopes,
    start,
    transition,
)
from vdvae_patch.experiments.geco_theory import SHOWN_BETAS, Size
from vdvae_patch.experiments.micro_mnist import Flow, FlowPosterior
from vdvae_patch.experiments.tiles import equiprobable_rate, tile
from vdvae_patch.experiments.transitions import MERGERS, bends, peaks, predicted, sweep
from vdvae_patch.train.interrupts import EXIT_RESUME

TINY = Size(side=8, betas=40, points=20, images=30, steps=3, batch=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound(data: torch.Tensor, points: torch.Tensor, weights: torch.Tensor, beta: float) -> torch.Tensor:
    """The negative bound of section 3.2 less its constants: error / 2 + β KL."""
    return (weights * distances(data, points)).mean() / 2 + beta * torch.special.xlogy(weights, weights).mean()


def test_a_posterior_is_a_density_under_the_uniform_prior_and_maximizes_the_bound() -> None:
    data, points = clusters(12, seeded()), start(4, seeded(1))
    best = posterior(data, points, 0.1)
    assert torch.allclose(best.mean(dim=1), torch.ones(12, dtype=torch.float64))
    for seed in range(5):
        other = best * torch.exp(0.1 * torch.randn(best.shape, generator=seeded(seed)).double())
        other = other / other.mean(dim=1, keepdim=True)
        assert bound(data, points, best, 0.1) < bound(data, points, other, 0.1)


def test_an_iteration_without_smoothing_never_makes_the_bound_worse() -> None:
    data, points = clusters(24, seeded()), start(6, seeded(1))
    values = []
    for _ in range(20):
        values.append(float(bound(data, points, posterior(data, points, 0.05), 0.05)))
        points = transition(data, points, 0.05)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))


def test_a_fixed_point_is_where_the_bound_has_no_gradient() -> None:
    data = clusters(24, seeded())
    found = iterate(data, start(6, seeded(1)), 0.1, close=1e-9, most=5000)
    assert found.settled
    points = found.points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(data, points, posterior(data, points, 0.1), 0.1), points)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize(("beta", "count"), [*zip(SHOWN_BETAS, (4, 3, 2, 1), strict=True)])
def test_four_clusters_become_three_and_two_and_one_as_beta_rises(beta: float, count: int) -> None:
    assert iterate(clusters(100, seeded()), start(16, seeded(1)), beta).distinct == count


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_mean_of_the_data_is_stable_above_their_largest_variance_and_not_below(factor: float) -> None:
    data = clusters(40, seeded())
    mean = data.mean(dim=0)
    begun = mean + 1e-4 * torch.randn(64, 2, generator=seeded(2)).double()
    ended = iterate(data, begun, factor * last_transition(data), close=0.0, most=300).points
    grown = float((ended - mean).norm() / (begun - mean).norm())
    assert (grown > 10) == (factor < 1)


def test_the_peaks_of_a_sweep_are_where_linear_stability_puts_the_mergers() -> None:
    swept = sweep(12, 80, 60, 0)
    for (members, _), peak in zip(MERGERS, swept.critical, strict=True):
        assert peak == pytest.approx(predicted(swept.data, members), rel=2.5 * (swept.step - 1))


def test_bends_are_second_derivatives_and_peaks_are_sorted_by_height() -> None:
    betas = torch.logspace(-2, 0, 50, dtype=torch.float64)
    assert torch.allclose(bends(betas, betas.log().square()), torch.full((48,), -2.0, dtype=torch.float64))
    assert peaks(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, -2.0, -1.0, -2.0])) == [3, 1]


@pytest.mark.parametrize("radius", [0.4, math.inf])
def test_a_lipschitz_projection_minimizes_the_error_and_the_weighted_squares_of_differences(radius: float) -> None:
    points, weights = start(6, seeded(1)), torch.rand(36, generator=seeded(2)).double() + 0.1
    projection = Lipschitz(6, 0.7, radius)
    projected = projection(points, weights).requires_grad_()
    differences = torch.cdist(projected, projected).square()
    multipliers = -(projection.laplacian - torch.diag(projection.laplacian.diagonal()))
    value = (weights[:, None] * (projected - points).square()).sum() + (multipliers * differences).sum() / 2
    (slope,) = torch.autograd.grad(value, projected)
    assert slope.abs().max() < 1e-12


def test_stronger_local_constraints_make_the_decoder_less_steep() -> None:
    data, begun = circles(60, seeded()), start(10, seeded(1))
    steepest = [
        slopes(iterate(data, begun, 0.002, Lipschitz(10, strength, 0.3)).points, 10)[0] for strength in (0, 0.5, 2)
    ]
    assert steepest[0] > steepest[1] > steepest[2]


def test_gradient_descent_finds_the_blurred_mean_and_leaves_a_hole_as_it_was() -> None:
    tiling = tile(torch.rand(4, 9, generator=seeded()).double(), 16, seeded(1))
    overlap, hole = tiling.tiles(0, 1), tiling.tiles()
    assert overlap.any()
    assert hole.any()
    assert tiling.difference(overlap) < 1e-6
    assert tiling.moved(hole) == 0
    first, second = tiling.prior[:2].tolist()
    assert tiling.shares(0, 1) == pytest.approx([second / (first + second), first / (first + second)])
    assert tiling.rate > equiprobable_rate(4)


def flow() -> Flow:
    torch.manual_seed(0)
    made = Flow().double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def test_a_flow_knows_the_density_of_what_it_draws_and_it_is_one() -> None:
    made, x = flow(), torch.rand(5, 784, dtype=torch.float64)
    noise = torch.randn(5, 2, dtype=torch.float64)
    z, log_q = made(x, noise)
    assert torch.allclose(made.log_prob(z, x), log_q, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda e: made(x[:1], e)[0][0], noise[:1])[:, 0]
    base = -(noise[0].square() / 2 + 0.5 * math.log(2 * math.pi)).sum()
    assert torch.allclose(base - jacobian.det().abs().log(), log_q[0])


def test_posteriors_that_are_the_prior_have_no_kl_and_no_marginal_kl() -> None:
    torch.manual_seed(0)
    found = micro_mnist.marginal_kl(FlowPosterior(Flow(), torch.rand(7, 784), 4), generator=seeded())
    assert found.value == pytest.approx(0, abs=1e-5)
    assert found.mean_kl == pytest.approx(0, abs=1e-5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name, count in ((mnist.TRAIN_FILE, 10_040), (mnist.TEST_FILE, 2)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / name).write_bytes(gzip.compress(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes(), 1))
    labels = rng.integers(0, 10, 10_040, dtype=np.uint8)
    (folder / mnist_labels.LABELS_FILE).write_bytes(gzip.compress(struct.pack(">II", 0x801, 10_040) + labels.tobytes()))
    return tmp_path / "data"


def test_labels_are_read_and_what_is_no_file_of_labels_is_refused(root: Path) -> None:
    labels = mnist_labels.read_labels(root)
    assert (len(labels), labels.max()) == (10_040, 9)
    assert (
        DATASETS.get("mnist-drawn-anew").labels(root).tolist() == labels[:40].tolist()
    )  # of the training images alone
    path = root / "mnist" / mnist_labels.LABELS_FILE
    for content, said in (
        (struct.pack(">IIII", 0x803, 1, 1, 1) + b"\0", "not an IDX file of labels"),
        (struct.pack(">II", 0x801, 5) + bytes(4), "5 labels, but it has 4"),
        (struct.pack(">II", 0x801, 2) + bytes([3, 77]), "a label 77"),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=said):
            mnist_labels.read_labels(root)
    path.unlink()
    with pytest.raises(DataError, match="no labels in --data-root"):
        mnist_labels.read_labels(root)


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped_and_writes_tables_and_pictures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(geco_theory, "QUICK", TINY)
    out = tmp_path / "out"
    arguments = ["geco-theory", "--quick", "--data-root", str(root), "--out", str(out)]
    assert reproduce.run([*arguments, "--minutes", "0"]) == EXIT_RESUME
    assert "1 of 4 objectives are finished" in capsys.readouterr().out
    assert reproduce.run(arguments) == 0
    report = json.loads((out / "geco-theory-quick.json").read_text())
    assert [table["name"] for table in report["tables"]] == ["tiles", "transitions", "lipschitz", "micro-mnist"]
    assert report["origin"]["seeds"] == [0]
    text = (out / "geco-theory-quick.md").read_text()
    for table in report["tables"]:
        picture = out / f"geco-theory-quick-{table['name']}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"({picture.name})" in text
        assert (out / f"geco-theory-quick-{table['name']}.csv").exists()


def test_another_device_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="float64 on the cpu"):
        reproduce.run(["geco-theory", "--device", "meta"])
