"""GECO: Algorithm 1 step by step, its limits, its constraints, two ranks, and steps that fail."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_of_seams import on_two_ranks
from torch import Tensor, nn
from torch.nn import functional as F

from vdvae_patch import decoders, objectives
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.objectives import (
    Classification,
    ConstraintWarning,
    FeatureError,
    Geco,
    LocalStatistics,
    Patches,
    ReconstructionError,
    Result,
)


def make(spec: str = "geco(kappa=0.1)", **given: Any) -> Geco:
    objective = objectives.get(spec, **given)
    assert isinstance(objective, Geco)
    return objective


def images(error: float, B: int = 4, seed: int = 0, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """Reconstructions that are off by exactly `error` of the range in every value, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(B, 1, 8, 8, generator=generator)
    sign = torch.randint(0, 2, target.shape, generator=generator) * 2 - 1
    return (low + (high - low) * (target + error * sign)).requires_grad_(), low + (high - low) * target


def run(objective: Geco, error: float, rate: float = 5.0, B: int = 4) -> Result:
    reconstruction, target = images(error, B)
    result: Result = objective(torch.full((B,), rate), reconstruction=reconstruction, target=target)
    return result


def test_algorithm_1_step_by_step() -> None:
    objective = make("geco(kappa=0.1, nu=2, alpha=0.9, start=3)")
    average, multiplier = None, 3.0
    for error in (0.3, 0.2, 0.25, 0.05, 0.01, 0.02):
        constraint = error**2 - 0.1**2
        average = constraint if average is None else 0.9 * average + 0.1 * constraint
        result = run(objective, error)
        assert result.loss.item() == pytest.approx(5 + multiplier * average, rel=1e-5)
        assert result.metrics["constraint"].item() == pytest.approx(constraint, rel=1e-4)
        assert result.metrics["constraint_average"].item() == pytest.approx(average, rel=1e-4)
        assert result.metrics["lambda"].item() == pytest.approx(multiplier, rel=1e-5)
        objective.step()
        multiplier *= min(max(math.exp(2 * average), 0.9), 1.1)
    assert objective.multipliers.item() == pytest.approx(multiplier, rel=1e-5)


def test_the_gradient_is_that_of_the_last_batch_whatever_the_average_is() -> None:
    objective = make("geco(kappa=0.1, start=7)")
    for error in (0.5, 0.4):
        run(objective, error)
        objective.step()
    reconstruction, target = images(0.2)
    rate = torch.full((4,), 5.0, requires_grad=True)
    result = objective(rate, reconstruction=reconstruction, target=target)
    result.loss.backward()
    weight = objective.multipliers.item()
    expected = weight * 2 * (reconstruction - target) / (64 * 4)
    torch.testing.assert_close(reconstruction.grad, expected.detach())
    torch.testing.assert_close(rate.grad, torch.full((4,), 0.25))


@pytest.mark.parametrize("error", [1e3, 1e18, 0.0])
def test_one_update_changes_the_multiplier_by_a_tenth_at_most(error: float) -> None:
    objective = make("geco(kappa=0.9, nu=1000)")
    run(objective, error)
    objective.step()
    assert objective.multipliers.item() == pytest.approx(1.1 if error else 0.9, rel=1e-6)
    wide = make("geco(kappa=0.9, nu=1000, most=1e30, least=0)")
    for _ in range(3):
        run(wide, error)
        wide.step()
        assert 1e-11 < wide.multipliers.item() < 1e11
    assert wide.multipliers.isfinite().all()


@pytest.mark.parametrize("pixels", [PixelGrid(), PixelGrid(-1, 1), PixelGrid(0, 255)], ids=str)
@pytest.mark.parametrize("size", [8, 32])
def test_kappa_is_a_share_of_the_range_for_any_range_and_size(pixels: PixelGrid, size: int) -> None:
    objective = make("geco(kappa=0.06)", pixels=pixels)
    target = pixels.low + pixels.range * torch.rand(2, 3, size, size)
    for error, met in ((0.05, True), (0.07, False)):
        result = objective(torch.ones(2), reconstruction=target + error * pixels.range, target=target)
        assert (result.metrics["constraint"] < 0) is not (not met)
        assert result.metrics["constraint"].item() == pytest.approx(error**2 - 0.06**2, rel=1e-3)


def test_sigma_and_equivalent_beta_are_those_of_the_gaussian_whose_bound_the_loss_is() -> None:
    pixels = PixelGrid(-1, 1)
    objective = make("geco(kappa=0.1, start=50)", pixels=pixels)
    reconstruction, target = images(0.2, low=-1, high=1)
    result = objective(torch.full((4,), 5.0), reconstruction=reconstruction, target=target)
    sigma = result.metrics["sigma"].item()
    (grad,) = torch.autograd.grad(result.loss, reconstruction)
    fixed = decoders.get(f"fixed(sigma={sigma!r})", pixels)
    (bound,) = torch.autograd.grad(fixed.nll(target, reconstruction).mean(), reconstruction)
    torch.testing.assert_close(grad, bound)
    assert result.metrics["equivalent_beta"].item() == pytest.approx((sigma / 0.4) ** 2, rel=1e-4)


def test_a_step_that_fails_leaves_everything_as_it_was() -> None:
    objective = make()
    run(objective, 0.2)
    objective.step()
    before = copy.deepcopy(objective.state_dict())
    run(objective, 0.9)
    objective.step(skipped=True)
    for bad in (math.nan, math.inf):
        assert not run(objective, bad).loss.isfinite()
        objective.step(skipped=False)  # a loop that does not know of skipping
        run(objective, bad)
        run(objective, 0.3)
        objective.step(skipped=False)  # nor is half of an update an update
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    assert run(objective, 0.2).loss.isfinite()


def test_state_moves_in_training_alone_and_goes_on_from_a_checkpoint() -> None:
    objective = make("geco(kappa=0.1, start=2)")
    for error in (0.3, 0.2):
        run(objective, error)
        objective.step()
    before = copy.deepcopy(objective.state_dict())
    objective.eval()
    result = run(objective, 0.5)
    objective.step()
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    assert result.loss.item() == pytest.approx(5 + before["multipliers"].item() * (0.25 - 0.01), rel=1e-5)
    resumed = make("geco(kappa=0.1, start=2)")
    resumed.load_state_dict(before)
    objective.train()
    for error in (0.1, 0.05):
        torch.testing.assert_close(run(resumed, error).loss, run(objective, error).loss)
        resumed.step()
        objective.step()
    assert torch.equal(resumed.multipliers, objective.multipliers)


def test_accumulated_batches_are_one_update_by_their_mean() -> None:
    objective = make()
    run(objective, 0.3)
    run(objective, 0.1)
    objective.step()
    assert objective.averages.item() == pytest.approx((0.09 + 0.01) / 2 - 0.01, rel=1e-4)
    assert objective.updates.item() == 1


def test_the_multiplier_finds_the_error_that_was_asked_for() -> None:
    # min_s rate(s) = −log s  under s² ≤ κ²: the KL falls as the error s rises, as it does in a VAE
    log_error = nn.Parameter(torch.tensor(math.log(0.2)))
    objective = make("geco(kappa=0.06)")
    optimizer = torch.optim.Adam([log_error], lr=0.01)
    target = torch.zeros(1, 1, 4, 4)
    for _ in range(4000):
        optimizer.zero_grad()
        result = objective(-log_error.view(1), reconstruction=target + log_error.exp(), target=target)
        result.loss.backward()
        optimizer.step()
        objective.step()
    assert log_error.exp().item() == pytest.approx(0.06, rel=0.05)
    assert objective.multipliers.item() == pytest.approx(1 / (2 * 0.06**2), rel=0.1)  # λ · 2 s² = 1 at the optimum


def test_a_multiplier_that_is_held_does_not_rise_while_batches_meet_the_constraint() -> None:
    free, held = make("geco(kappa=0.1)"), make("geco(kappa=0.1, hold=1)")
    for error in (0.5, 0.5, 0.05, 0.05):
        for objective in (free, held):
            run(objective, error)
            objective.step()
    assert held.averages.item() == free.averages.item() > 0
    assert held.multipliers.item() == pytest.approx(1.1**2)
    assert free.multipliers.item() == pytest.approx(1.1**4)
    for _ in range(1000):
        run(held, 0.05)
        held.step()
    assert held.averages.item() < 0
    assert held.multipliers.item() < 1.1**2  # it comes down


def test_a_constraint_that_is_not_met_for_long_is_reported_with_what_was_achieved() -> None:
    objective = make("geco(kappa=0.1, patience=5)")
    for _ in range(4):
        run(objective, 0.2)
        objective.step()
    run(objective, 0.2)
    with pytest.warns(ConstraintWarning, match=r"re has not been met for 5 updates.* is 0\.2 .*2 times kappa = 0\.1"):
        objective.step()
    for _ in range(4):
        run(objective, 0.2)
        objective.step()
    objective.averages.fill_(-1)
    run(objective, 0.05)
    objective.step()
    assert objective.unmet.item() == 0


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("geco(kappa=0)", "between 0 and 1"),
        ("geco(kappa=1.5)", "root mean square error in shares of the pixels' range"),
        ("geco(kappa=-0.1)", "between"),
        ("geco(cla=1.2)", "needs a classifier"),
        ("geco(pncc=1)", "between -1 and 1"),
        ("geco(fre=2)", "between 0 and 1"),
        ("geco(0.1, re=0.1)", "two names"),
        ("geco(nu=0)", "nu"),
        ("geco(alpha=1)", "alpha"),
        ("geco(start=0)", "start"),
        ("geco(most=0.9)", "most"),
        ("geco(least=1)", "least"),
        ("geco(patience=0)", "patience"),
        ("geco(hold=2)", "hold"),
        ("geco(pixels=3)", r"PixelGrid\(low, high\)"),
        ("geco(fre=0.1, features=3)", "a network or a function"),
        ("geco(constraints=3)", "a list of constraints"),
    ],
)
def test_values_without_sense_are_refused(spec: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        objectives.get(spec)


def test_a_classifiers_kappa_is_a_probability_and_a_constraint_is_there_once() -> None:
    with pytest.raises(InvalidValueError, match="probability of the true class"):
        objectives.get("geco(cla=1.2)", classifier=nn.Flatten())
    with pytest.raises(InvalidValueError, match="twice"):
        Geco(0.1, constraints=[ReconstructionError(0.2)])


def test_images_are_needed_and_of_one_shape() -> None:
    objective = make()
    with pytest.raises(InvalidValueError, match=r"reconstruction=.*target="):
        objective(torch.ones(4))
    with pytest.raises(InvalidValueError, match="one shape"):
        objective(torch.ones(4), reconstruction=torch.ones(4, 1, 8, 8), target=torch.ones(4, 1, 9, 8))
    with pytest.raises(InvalidValueError, match="one shape"):
        objective(torch.ones(3), reconstruction=torch.ones(4, 8), target=torch.ones(4, 8))
    assert objective(torch.ones(4), reconstruction=torch.ones(4, 8), target=torch.ones(4, 8)).loss.isfinite()


@pytest.mark.parametrize("spec", ["geco(kappa=0.1)", "geco(fre=0.1)"])
def test_images_of_another_range_than_kappa_are_refused_with_what_to_write(spec: str) -> None:
    objective, (reconstruction, target) = make(spec), images(0.1, high=255)
    with pytest.raises(InvalidValueError, match=r"not from 0 to 1; say so by pixels=PixelGrid\(0, 255\)"):
        objective(torch.ones(4), reconstruction=reconstruction, target=target)
    told = make(spec, pixels=PixelGrid(0, 255))
    assert told(torch.ones(4), reconstruction=reconstruction, target=target).loss.isfinite()
    assert make("geco(fre=3)", features=nn.Identity())(torch.ones(4), reconstruction=target, target=target)


def test_the_state_of_other_constraints_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"is of 2 constraints, and geco\(kappa=0.1\) has 1"):
        make().load_state_dict(make("geco(re=0.1, pncc=0.9)").state_dict())


def test_decoders_whose_scale_would_not_learn_are_refused() -> None:
    objective = make()
    for spec in ("optimal", "fixed", "bernoulli", "categorical"):
        objective.check(decoders.get(spec))
    for spec in ("shared", "per_pixel", "per_image", "logistic", "logistic_mixture"):
        with pytest.raises(InvalidValueError, match=r"would not learn; take optimal"):
            objective.check(decoders.get(spec))
    for name in ("elbo", "beta"):
        objectives.get(name).check(decoders.get("shared"))

    class Meanless(decoders.Fixed):
        has_mean = False

    with pytest.raises(InvalidValueError, match="has none"):
        objective.check(Meanless())


def test_a_multiplier_is_not_narrowed_with_the_model() -> None:
    objective = make("geco(kappa=0.1, start=1e8)").half()
    result = run(objective, 0.2)
    assert result.metrics["lambda"].item() == 1e8
    assert result.loss.isfinite()


# --- constraints


def test_several_constraints_have_a_multiplier_each() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    objective = make("geco(re=0.1, fre=0.05, cla=0.9, pncc=0.8)", classifier=classifier)
    reconstruction, target = images(0.2)
    result = objective(torch.ones(4), reconstruction=reconstruction, target=target, labels=torch.tensor([0, 1, 2, 0]))
    values = {name: result.metrics[f"constraint/{name}"].item() for name in ("re", "fre", "cla", "pncc")}
    assert result.loss.item() == pytest.approx(1 + sum(values.values()), rel=1e-5)
    result.loss.backward()
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert reconstruction.grad is not None
    objective.step()
    for index, value in enumerate(values.values()):
        assert objective.multipliers[index].item() == pytest.approx(min(max(math.exp(value), 0.9), 1.1), rel=1e-5)
    assert "sigma" in result.metrics
    assert not list(objective.parameters())


def test_feature_errors_are_taken_in_the_space_of_a_network_that_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    constraint = FeatureError(0.5, network)
    reconstruction, target = images(0.2)
    with pytest.raises(InvalidValueError, match=r"must be \[4, ...\], and are \[4, 0, 8, 8\]"):
        FeatureError(0.5, lambda x: x[:, :0]).of(reconstruction, target, None)
    with pytest.raises(InvalidValueError, match=r"call its eval\(\)"):
        constraint.of(reconstruction, target, None)
    network.eval()
    state = copy.deepcopy(network.state_dict())
    value = constraint.of(reconstruction, target, None)
    expected = (network(target) - network(reconstruction)).square().flatten(1).mean(1) - 0.25
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with pytest.raises(InvalidValueError, match=r"features does not take images \[4, 64\]"):
        constraint.of(reconstruction.flatten(1), target.flatten(1), None)


def test_local_statistics_are_means_and_deviations_of_windows() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = LocalStatistics(window=4)(x)
    assert found.shape == (2, 6, 3, 3)
    window = x[1, 2, 2:6, 4:8]
    torch.testing.assert_close(found[1, 2, 1, 2], window.mean())
    torch.testing.assert_close(found[1, 5, 1, 2], window.std(correction=0), rtol=1e-4, atol=1e-5)
    even = torch.full((1, 1, 8, 8), 0.3, requires_grad=True)
    LocalStatistics()(even).sum().backward()
    assert even.grad is not None
    assert even.grad.isfinite().all()
    blurred = FeatureError(0.05, pixels=PixelGrid(-1, 1))
    noise = torch.rand(2, 1, 16, 16) * 2 - 1
    flat = torch.full_like(noise, noise.mean().item())
    assert (blurred.of(flat, noise, None) > 0).all()
    torch.testing.assert_close(blurred.of(noise, noise, None), torch.full((2,), -(0.05**2)))
    with pytest.raises(InvalidValueError, match=r"\[B, C, H, W\]"):
        blurred.of(noise.flatten(1), noise.flatten(1), None)


def test_a_classification_is_the_probability_of_the_true_class() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    constraint = Classification(0.9, network)
    reconstruction, target = images(0.2)
    labels = torch.tensor([0, 4, 2, 2])
    with pytest.raises(InvalidValueError, match="labels go from 0 to 5, and the classifier has the classes 0 to 4"):
        constraint.of(reconstruction, target, torch.tensor([0, 5, 2, 2]))
    chances = network(reconstruction).softmax(1)
    expected = 0.9 - chances[torch.arange(4), labels]
    torch.testing.assert_close(constraint.of(reconstruction, target, labels), expected)
    torch.testing.assert_close(constraint.of(reconstruction, target, F.one_hot(labels, 5)), expected)
    given = Classification(0.9, nn.Sequential(network, nn.Softmax(dim=1)), probabilities=True)
    torch.testing.assert_close(given.of(reconstruction, target, labels), expected)
    seen = network(target).argmax(1)  # without labels the class is what the classifier makes of the image itself
    torch.testing.assert_close(constraint.of(reconstruction, target, None), 0.9 - chances[torch.arange(4), seen])
    with pytest.raises(InvalidValueError, match="one-hot"):
        constraint.of(reconstruction, target, labels[:3])
    wrong = torch.rand(4, 1, 9, 9)
    with pytest.raises(InvalidValueError, match=r"classifier does not take images \[4, 1, 9, 9\]"):
        constraint.of(wrong, wrong, labels)
    with pytest.raises(InvalidValueError, match=r"must give \[B, K\]"):
        Classification(0.9, nn.Conv2d(1, 2, 3)).of(reconstruction, target, labels)


def test_patches_are_compared_by_their_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 16, 16, generator=generator)
    y = torch.rand(2, 3, 16, 16, generator=generator)
    constraint = Patches(0.7)
    torch.testing.assert_close(constraint.of(x, x, None), torch.full((2,), -0.3), atol=1e-4, rtol=0)
    # neither brightness nor contrast counts
    torch.testing.assert_close(constraint.of(0.5 * x + 0.2, x, None), torch.full((2,), -0.3), atol=1e-4, rtol=0)
    total = 0.0
    for row in (0, 4, 8):
        for column in (0, 4, 8):
            a, b = (image[0, :, row : row + 8, column : column + 8].flatten() for image in (x, y))
            total += F.cosine_similarity(a - a.mean(), b - b.mean(), dim=0).item() / 9
    assert constraint.of(x, y, None)[0].item() == pytest.approx(0.7 - total, abs=1e-4)


def test_even_patches_have_a_correlation_and_a_gradient() -> None:
    even = torch.full((1, 1, 16, 16), 0.3)
    constraint = Patches(0.7)
    torch.testing.assert_close(constraint.of(even, 0 * even, None), torch.full((1,), -0.3), atol=1e-4, rtol=0)
    drawn = even.clone()
    drawn[..., ::2] = 1.0
    drawn.requires_grad_()
    value = constraint.of(drawn, even, None)
    assert value.item() > 0.69
    value.backward()
    assert drawn.grad is not None
    assert drawn.grad.isfinite().all()
    with pytest.raises(InvalidValueError, match="larger than its patches"):
        constraint.of(even[..., :4], even[..., :4], None)


# --- two ranks


def two_ranks_work(rank: int) -> dict[str, Tensor]:
    objective = make()
    losses = []
    for error in (0.2, 0.3):
        # of other size and error on each rank
        losses.append(run(objective, error + 0.1 * rank, B=2 + 4 * rank).loss.detach())
        objective.step()
    good = objective.multipliers.clone()
    run(objective, math.nan if rank else 0.1)
    objective.step(skipped=False)
    run(objective, 0.1, rate=math.inf if rank else 5.0)
    objective.step(skipped=False)
    free = objectives.get("freebits(nats=1)")
    rate = torch.full((2,), 0.5 + rank, requires_grad=True)  # 0.5 and 1.5: together not below 1
    spared = free(rate, torch.zeros(2))
    spared.loss.backward()
    assert rate.grad is not None
    return {
        "losses": torch.stack(losses), "good": good, "after": objective.multipliers.clone(),
        "average": objective.averages.clone(), "free": spared.metrics["free_groups"], "grad": rate.grad,
    }  # fmt: skip


@pytest.mark.medium
def test_two_ranks_have_one_state(tmp_path: Path) -> None:
    seen = on_two_ranks(two_ranks_work, tmp_path)
    first = (2 * 0.2**2 + 6 * 0.3**2) / 8 - 0.01
    second = 0.99 * first + 0.01 * ((2 * 0.3**2 + 6 * 0.4**2) / 8 - 0.01)
    multiplier = math.exp(first)
    for rank in range(2):
        assert seen[rank]["average"].item() == pytest.approx(second, rel=1e-4)
        assert seen[rank]["losses"].tolist() == pytest.approx([5 + first, 5 + multiplier * second], rel=1e-5)
        assert torch.equal(seen[rank]["good"], seen[rank]["after"])  # NaN on one is NaN on both
        assert seen[rank]["free"] == 0
        assert (seen[rank]["grad"] > 0).all()
    assert torch.equal(seen[0]["after"], seen[1]["after"])
