"""Objectives: their losses, gradients and metrics, and a state that moves once an update that was not skipped."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vdvae_patch import objectives
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.objectives import BalancedRate, Objective, balanced_kl

SPECS = [
    "elbo",
    "beta",
    "beta(0.5)",
    "warmup(epochs=2)",
    "freebits(nats=0.5)",
    "balance",
    "geco",
    "geco(re=0.1, pncc=0.9)",
]
B = 6


def get(spec: str) -> Objective:
    return objectives.get(spec, steps_per_epoch=5)


def given(objective: Objective, seed: int = 0) -> dict[str, Tensor]:
    """Images beside the rate and the distortion, for objectives that need them."""
    if not objective.needs_reconstruction:
        return {}
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(B, 1, 12, 12, generator=generator)
    noise = torch.randn(target.shape, generator=generator)
    return {"target": target, "reconstruction": (target + 0.1 * noise).requires_grad_()}


def terms(objective: Objective, seed: int = 0) -> tuple[Tensor | BalancedRate, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rate = 3 * torch.rand(B, generator=generator)
    rate.requires_grad_()
    distortion = (100 * torch.rand(B, generator=generator)).requires_grad_()
    return (BalancedRate(rate, rate) if objective.name == "balance" else rate), distortion


@pytest.mark.parametrize("spec", SPECS)
def test_every_objective_gives_a_scalar_with_a_gradient_and_detached_metrics(spec: str) -> None:
    objective = get(spec)
    for train in (True, False):
        objective.train(train)
        rate, distortion = terms(objective)
        result = objective(rate, distortion, **given(objective))
        assert result.loss.shape == ()
        assert result.loss.isfinite()
        result.loss.backward()
        for name, value in result.metrics.items():
            assert value.shape == (), name
            assert not value.requires_grad, name
        plain = rate.prior if isinstance(rate, BalancedRate) else rate
        assert isinstance(plain, Tensor)
        assert result.metrics["rate"].item() == pytest.approx(plain.mean().item())
        assert result.metrics["nelbo"].item() == pytest.approx((plain + distortion).mean().item())


@pytest.mark.parametrize("spec", SPECS)
def test_groups_are_summed_and_named_objectives_are_modules(spec: str) -> None:
    objective = get(spec).eval()
    rate, distortion = terms(objective)
    plain = rate.prior if isinstance(rate, BalancedRate) else rate
    assert isinstance(plain, Tensor)
    groups = {"top": 0.25 * plain, "bottom": 0.75 * plain}
    by_group = BalancedRate(groups, groups) if isinstance(rate, BalancedRate) else groups
    images = given(objective)
    whole = objective(rate, distortion, **images).loss
    for other in (objective, copy.deepcopy(objective), pickle.loads(pickle.dumps(objective)), get(spec).eval()):
        torch.testing.assert_close(other(by_group, distortion, **images).loss, whole)
    again = objectives.get(objective.specification(), steps_per_epoch=5).eval()
    assert again.specification() == objective.specification()
    torch.testing.assert_close(again(rate, distortion, **images).loss, whole)


def test_specifications_say_what_is_not_the_default() -> None:
    for spec in ("elbo", "beta", "beta(beta=0.5)", "warmup(epochs=2)", "freebits(nats=0.5)", "balance(posterior=0.2)"):
        assert get(spec).specification() == spec
    assert get("balance(prior=1, posterior=0.1)").specification() == "balance"  # DreamerV3's
    assert get("geco").specification() == "geco(kappa=0.06)"
    assert get("geco(0.1, nu=2)").specification() == "geco(kappa=0.1, nu=2)"
    assert get("geco(pncc=0.9, re=0.1)").specification() == "geco(re=0.1, pncc=0.9)"


def test_the_losses_are_what_their_equations_say() -> None:
    rate, distortion = terms(get("elbo"))
    assert isinstance(rate, Tensor)
    expected = {"elbo": 1.0, "beta": 4.0, "beta(0.5)": 0.5}
    for spec, beta in expected.items():
        objective = get(spec)
        torch.testing.assert_close(objective(rate, distortion).loss, (beta * rate + distortion).mean())
        assert objective.is_bound is (beta == 1)
    assert get("beta(1)").is_bound


def test_half_precision_terms_are_weighed_in_single() -> None:
    rate, distortion = torch.full((B,), 60000.0).half(), torch.full((B,), 60000.0).half()
    result = get("elbo")(rate, distortion)
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == 120000


def test_the_weight_rises_with_updates_and_a_skipped_one_does_not_count() -> None:
    objective = get("warmup(epochs=2)")  # ten updates
    rate, distortion = terms(objective)
    seen = []
    for update in range(14):
        result = objective(rate, distortion)
        seen.append(result.metrics["beta"].item())
        torch.testing.assert_close(result.loss, (seen[-1] * rate + distortion).mean())
        objective.step(skipped=update in (3, 4))
    assert seen == pytest.approx([0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    state = objective.state_dict()
    resumed = get("warmup(epochs=2)")
    resumed.load_state_dict(state)
    assert resumed(rate, distortion).metrics["beta"] == 1


@pytest.mark.parametrize("spec", ["warmup(epochs=2)", "geco(kappa=0.1)"])
def test_a_rate_that_is_not_finite_leaves_the_state_alone_whether_the_loop_says_so_or_not(spec: str) -> None:
    objective = get(spec)
    rate, distortion = terms(objective)
    images = {"reconstruction": torch.full((B, 4), 0.5), "target": torch.zeros(B, 4)}
    objective(rate, distortion, **images)
    objective.step()
    before = copy.deepcopy(objective.state_dict())
    objective(rate * math.nan, distortion, **images)
    objective(rate, distortion, **images)
    objective.step(skipped=torch.tensor(False))
    objective(rate * math.inf, distortion, **images)
    objective.step()
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    objective(rate, distortion, **images)
    objective.step()
    assert not all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


def test_accumulated_batches_are_one_update() -> None:
    objective = get("warmup(epochs=2)")
    rate, distortion = terms(objective)
    for _ in range(4):
        objective(rate, distortion)
    objective.step()
    objective.step()  # nothing since
    assert objective.state_dict()["updates"] == 1


def test_evaluation_of_a_warm_up_is_the_bound_and_moves_nothing() -> None:
    objective = get("warmup(epochs=2)").eval()
    rate, distortion = terms(objective)
    torch.testing.assert_close(objective(rate, distortion).loss, (rate + distortion).mean())
    objective.step()
    assert objective.state_dict()["updates"] == 0


def test_a_warm_up_of_unknown_length_is_refused() -> None:
    objective = objectives.get("warmup")
    with pytest.raises(InvalidValueError, match=r"steps_per_epoch = len\(loader\)"):
        objective(*terms(objective))
    objective.steps_per_epoch = 7  # type: ignore[assignment]
    assert objective(*terms(objective)).metrics["beta"] == 0


def test_a_state_that_never_moves_is_reported() -> None:
    objective = get("warmup(epochs=2)")
    rate, distortion = terms(objective)
    with pytest.warns(UserWarning, match=r"objective.step\(skipped="):
        _ = [objective(rate, distortion) for _ in range(100)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            objective(rate, distortion)
            objective.step(skipped=True)


def test_free_bits_spare_the_groups_whose_mean_is_small() -> None:
    objective = get("freebits(nats=1)")
    low = torch.tensor([0.1, 1.5, 0.2], requires_grad=True)  # its mean is below, though one image is above
    high = torch.tensor([3.0, 0.5, 2.5], requires_grad=True)
    distortion = torch.tensor([10.0, 20.0, 30.0])
    result = objective({"low": low, "high": high}, distortion)
    assert result.loss.item() == pytest.approx(1 + 2 + 20)
    assert result.metrics["free_groups"] == 1
    result.loss.backward()
    assert low.grad is None or (low.grad == 0).all()
    torch.testing.assert_close(high.grad, torch.full((3,), 1 / 3))
    assert objective({"low": low * torch.nan, "high": high}, distortion).loss.isnan()
    assert objective.eval()({"low": low, "high": high}, distortion).loss.item() == pytest.approx(0.6 + 2 + 20)
    assert get("freebits(0)").is_bound


def _normals(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)]


def test_balancing_weighs_the_gradients_of_prior_and_posterior_apart() -> None:
    mean_q, log_q, mean_p, log_p = _normals()
    distortion = torch.zeros(B, dtype=torch.float64)
    exact = kl_divergence(Normal(mean_q, log_q.exp()), Normal(mean_p, log_p.exp())).sum(1).mean()
    grads = torch.autograd.grad(exact, (mean_q, log_q, mean_p, log_p))
    result = objectives.get("balance(prior=0.8, posterior=0.3)")(balanced_kl(mean_q, log_q, mean_p, log_p), distortion)
    assert result.loss.item() == pytest.approx(1.1 * exact.item())
    assert result.metrics["rate"].item() == pytest.approx(exact.item())
    weighed = torch.autograd.grad(result.loss, (mean_q, log_q, mean_p, log_p))
    for grad, seen, weight in zip(grads, weighed, (0.3, 0.3, 0.8, 0.8), strict=True):
        torch.testing.assert_close(seen, weight * grad)
    # any other objective takes it for the one KL that it is
    result = objectives.get("beta(2)")(balanced_kl(mean_q, log_q, mean_p, log_p), distortion)
    assert result.loss.item() == pytest.approx(2 * exact.item())
    for grad, seen in zip(grads, torch.autograd.grad(result.loss, (mean_q, log_q, mean_p, log_p)), strict=True):
        torch.testing.assert_close(seen, 2 * grad)


def test_balancing_refuses_a_rate_that_was_evaluated_once() -> None:
    with pytest.raises(InvalidValueError, match="balanced_kl"):
        get("balance")(torch.ones(B), torch.ones(B))
    with pytest.raises(InvalidValueError, match="other groups"):
        get("balance")(BalancedRate({"a": torch.ones(B)}, {"b": torch.ones(B)}), torch.ones(B))
    mean = torch.zeros(2, 3)
    torch.testing.assert_close(balanced_kl(mean + 1, mean).prior, torch.full((2,), 1.5))


def test_terms_that_are_no_numbers_of_images_are_refused() -> None:
    objective = get("elbo")
    for rate in (torch.ones(()), torch.ones(B, 4), torch.ones(0), {"top": torch.ones(B, 2)}):
        with pytest.raises(InvalidValueError, match="one number an image"):
            objective(rate, torch.ones(B))
    with pytest.raises(InvalidValueError, match="one number an image"):
        objective(torch.ones(B), torch.ones(B, 1, 4, 4))
    with pytest.raises(InvalidValueError, match="needs the distortion"):
        objective(torch.ones(B))
    with pytest.raises(InvalidValueError, match="6 images and the distortion of 5"):
        objective(torch.ones(B), torch.ones(5))
    with pytest.raises(InvalidValueError, match="no group"):
        objective({}, torch.ones(B))
    with pytest.raises(InvalidValueError, match="different numbers"):
        objective({"a": torch.ones(2), "b": torch.ones(3)}, torch.ones(2))


def test_unknown_names_and_arguments_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'geco'"):
        objectives.get("gecko")
    for spec, reason in (
        ("beta(-1)", "at least 0"),
        ("warmup(epochs=0)", "positive"),
        ("freebits", "nats"),
        ("freebits(nats=-1)", "at least 0"),
        ("balance(prior=-1)", "at least 0"),
    ):
        with pytest.raises(InvalidValueError, match=reason):
            objectives.get(spec)
    for number in (objectives.get("warmup(2, steps_per_epoch=5)"), objectives.get("warmup(2, 5)")):
        assert number.steps_per_epoch == 5
    with pytest.raises(InvalidValueError, match="beside the text, too"):
        objectives.get("warmup(2, steps_per_epoch=5)", steps_per_epoch=5)
    with pytest.raises(InvalidValueError, match="at least one step"):
        objectives.get("warmup", steps_per_epoch=0)


@pytest.mark.parametrize("spec", ["geco(kappa=0.1)", "warmup(epochs=2)"])
def test_a_validation_in_training_mode_moves_no_state_and_is_told(spec: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 4, 4)
    near, far = x + 0.1, 9 * x

    def state(validates: bool) -> dict[str, Tensor]:
        objective = objectives.get(spec, steps_per_epoch=5)
        objective(x.new_ones(4), x.new_ones(4), reconstruction=near, target=x)
        if validates:
            with torch.no_grad(), pytest.warns(UserWarning, match=r"training mode.*call its eval\(\)"):
                objective(x.new_ones(4), x.new_ones(4), reconstruction=far, target=x)
        objective.step()
        return objective.state_dict()

    plain, validated = state(False), state(True)
    assert all(torch.equal(plain[key], validated[key]) for key in plain)
