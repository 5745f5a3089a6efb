"""The analytic σ: what it is in training, in evaluation, at its floor, on two ranks, and after a bad step."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from ranks_of_seams import on_two_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vdvae_patch import decoders
from vdvae_patch.decoders import Optimal, PixelGrid
from vdvae_patch.errors import InvalidValueError


def make(pixels: PixelGrid | None = None) -> Optimal:
    decoder = decoders.get("optimal", pixels)
    assert isinstance(decoder, Optimal)
    return decoder


def batch(seed: int = 0, count: int = 8, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, 1, 6, 6), generator=generator) / 255
    return x, x + noise * torch.randn(x.shape, generator=generator)


def rms(x: Tensor, mean: Tensor) -> float:
    return (x.double() - mean.double()).square().mean().sqrt().item()


def sigma(decoder: Optimal) -> float:
    return decoder.log_sigma(torch.zeros(1, 1)).exp().item()


def test_no_other_sigma_makes_the_batch_more_likely() -> None:
    x, mean = batch()
    best = make().nll(x, mean).mean().item()
    for factor in (0.5, 0.99, 1.01, 2):
        assert decoders.get(f"fixed({factor * rms(x, mean)!r})").nll(x, mean).mean().item() > best
    exact = 36 * (math.log(rms(x, mean)) + 0.5 * (1 + math.log(2 * math.pi)))
    assert best == pytest.approx(exact, rel=1e-5)


def test_the_gradient_goes_through_sigma() -> None:
    x, mean = batch()
    mean = mean.double().requires_grad_()
    decoder = make().double()
    (grad,) = torch.autograd.grad(decoder.nll(x.double(), mean).mean(), mean)
    expected = (mean - x) / rms(x, mean) ** 2 / len(x)
    torch.testing.assert_close(grad, expected.detach())
    # of one image of the batch it is another than with σ held
    assert torch.autograd.gradcheck(lambda m: decoder.nll(x.double(), m), (mean,))
    (whole,) = torch.autograd.grad(decoder.nll(x.double(), mean)[0], mean)
    assert whole[1:].abs().max() > 0


@pytest.mark.parametrize("pixels", [PixelGrid(), PixelGrid(-1, 1), PixelGrid(0, 255)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-5, 5e-4])
def test_below_the_quantization_noise_sigma_stands_and_the_mean_still_learns(pixels: PixelGrid, noise: float) -> None:
    x, _ = batch()
    x = pixels.low + x * pixels.range
    floor = pixels.range / (256 * math.sqrt(12))
    mean = (
        x + noise * pixels.range * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    ).requires_grad_()
    decoder = make(pixels)
    loss = decoder.nll(x, mean).sum()
    (grad,) = torch.autograd.grad(loss, mean)
    assert decoder.batch_log_sigma(x, mean).exp().item() == pytest.approx(floor, rel=1e-5)
    torch.testing.assert_close(grad, ((mean - x) / floor**2).detach(), rtol=1e-3, atol=1e-4 / floor)
    assert grad.norm() <= math.sqrt(x.numel()) / floor
    assert loss.isfinite()


def test_above_its_floor_sigma_has_no_bias() -> None:
    for noise in (0.002, 0.0183, 0.1):
        x, mean = batch(noise=noise)
        assert make().batch_log_sigma(x, mean).exp().item() == pytest.approx(rms(x, mean), rel=1e-5)


def test_evaluation_before_training_says_what_to_do() -> None:
    decoder = make().eval()
    x, mean = batch()
    for ask in (decoder.nll, decoder.mass_nll):
        with pytest.raises(InvalidValueError, match=r"train a step, load a checkpoint.*calibrate"):
            ask(x, mean)
    with pytest.raises(InvalidValueError, match="training set"):
        decoder.sample(mean)
    with pytest.raises(InvalidValueError, match="no batch"):
        decoder.calibrate([])
    torch.testing.assert_close(decoder.mean(mean), mean)


def test_evaluation_takes_the_training_sets_sigma_and_never_the_test_batchs() -> None:
    decoder = make()
    x, mean = batch(noise=0.1)
    decoder.nll(x, mean)
    trained = rms(x, mean)
    state = copy.deepcopy(decoder.state_dict())
    decoder.eval()
    for noise in (0.01, 0.5):
        x, mean = batch(seed=1, noise=noise)
        fixed = decoders.get(f"fixed({trained!r})")
        torch.testing.assert_close(decoder.nll(x, mean), fixed.nll(x, mean), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(decoder.mass_nll(x, mean), fixed.mass_nll(x, mean), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(decoder.nll(x, mean)[:1], decoder.nll(x[:1], mean[:1]))
    assert all(torch.equal(value, state[key]) for key, value in decoder.state_dict().items())
    loaded = make()
    loaded.load_state_dict(state)
    assert torch.equal(loaded.eval().nll(x, mean), decoder.nll(x, mean))


def test_the_running_value_starts_with_the_first_and_moves_by_a_hundredth() -> None:
    decoder = make()
    expected = None
    for seed in range(20):
        x, mean = batch(seed, noise=0.05 + 0.01 * seed)
        decoder.nll(x, mean)
        decoder.step()
        error = rms(x, mean) ** 2
        expected = error if expected is None else 0.99 * expected + 0.01 * error
    assert expected is not None
    assert decoder.mean_squared_error.item() == pytest.approx(expected, rel=1e-5)
    assert decoder.updates.item() == 20


def test_calibration_is_the_exact_value_over_all_batches() -> None:
    decoder = make().eval()
    pairs = [batch(seed, count, 0.1 * (seed + 1)) for seed, count in enumerate((8, 3, 5))]
    whole = rms(torch.cat([x for x, _ in pairs]), torch.cat([mean for _, mean in pairs]))
    assert decoder.calibrate(pairs) == pytest.approx(whole, rel=1e-5)
    assert sigma(decoder) == pytest.approx(whole, rel=1e-5)
    with pytest.raises(InvalidValueError, match="is nan"):
        decoder.calibrate([(pairs[0][0], pairs[0][1] * torch.nan)])
    assert sigma(decoder) == pytest.approx(whole, rel=1e-5)


def test_a_bad_batch_before_any_other_is_no_update() -> None:
    decoder = make()
    x, mean = batch()
    decoder.nll(x, mean * torch.nan)
    assert decoder.updates.item() == 0
    with pytest.raises(InvalidValueError, match="does not know the training set's σ yet"):
        decoder.log_sigma(mean)
    decoder.step()
    decoder.nll(x, mean)
    assert decoder.updates.item() == 1
    assert sigma(decoder) == pytest.approx(rms(x, mean), rel=1e-5)


def test_a_bad_step_leaves_sigma_alone() -> None:
    decoder = make()
    decoder.nll(*batch())
    decoder.step()
    before = copy.deepcopy(decoder.state_dict())
    x, mean = batch(1)
    for bad in (torch.nan, torch.inf):
        spoiled = mean.clone()
        spoiled[0, 0, 0, 0] = bad
        assert not decoder.nll(x, spoiled).isfinite().all()
        assert torch.equal(decoder.state_dict()["mean_squared_error"], before["mean_squared_error"])
        decoder.step(skipped=True)
    for micro_batch in range(3):  # gradients of several are one update
        decoder.nll(*batch(micro_batch, noise=0.9))
    assert decoder.updates.item() == 4
    decoder.step(skipped=True)
    assert all(torch.equal(value, before[key]) for key, value in decoder.state_dict().items())
    decoder.nll(*batch(5))
    decoder.step(skipped=False)
    decoder.step(skipped=True)  # nothing has happened since
    assert decoder.updates.item() == 2


def test_masses_in_training_do_not_move_the_state() -> None:
    decoder = make()
    x, mean = batch()
    fixed = decoders.get(f"fixed({rms(x, mean)!r})")
    torch.testing.assert_close(decoder.mass_nll(x, mean), fixed.mass_nll(x, mean), rtol=1e-4, atol=1e-3)
    assert decoder.updates.item() == 0


class Shift(nn.Module):
    """A mean that is the data and one learned number, and the loss beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.decoder = make().double()

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        result: Tensor = self.decoder.nll(x, mean + self.shift).mean()
        return result


def parts(rank: int) -> tuple[Tensor, Tensor]:
    """Batches of another size and error on each rank."""
    x, mean = batch(rank, count=5 if rank else 3, noise=0.1 + 0.3 * rank)
    return x.double(), mean.double()


def two_ranks_work(rank: int) -> dict[str, float]:
    module = Shift()
    wrapped = DistributedDataParallel(module)
    x, mean = parts(rank)
    loss = wrapped(x, mean)
    loss.backward()
    good = module.decoder.mean_squared_error.item()
    module.decoder.step()
    if rank == 1:
        mean = mean * torch.nan
    module.decoder.nll(x, mean)
    module.decoder.step(skipped=True)
    after = module.decoder.mean_squared_error.item()
    exact = module.decoder.calibrate([parts(rank)])
    assert module.shift.grad is not None
    return {"loss": loss.item(), "grad": module.shift.grad.item(), "error": good, "after": after, "exact": exact}


@pytest.mark.slow
def test_two_ranks_share_one_sigma_and_have_the_gradient_of_their_common_loss(tmp_path: Path) -> None:
    seen = on_two_ranks(two_ranks_work, tmp_path)
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (x0, m0), (x1, m1) = parts(0), parts(1)
    x, mean = torch.cat([x0, x1]), torch.cat([m0, m1])
    error = (x - mean - shift).square().mean()
    log_sigma = 0.5 * error.log()

    def loss(x: Tensor, mean: Tensor) -> Tensor:
        nll = 0.5 * (x - mean - shift).square() / error + log_sigma + 0.5 * math.log(2 * math.pi)
        return nll.flatten(1).sum(1).mean()

    losses = loss(x0, m0), loss(x1, m1)
    (grad,) = torch.autograd.grad((losses[0] + losses[1]) / 2, shift)  # what DDP makes of the ranks' losses
    for rank in range(2):
        assert seen[rank]["loss"] == pytest.approx(losses[rank].item(), rel=1e-6)
        assert seen[rank]["grad"] == pytest.approx(grad.item(), rel=1e-6)
        assert seen[rank]["error"] == seen[rank]["after"] == pytest.approx(error.item(), rel=1e-6)
        assert seen[rank]["exact"] == pytest.approx(rms(x, mean), rel=1e-5)
    assert seen[0]["error"] == seen[1]["error"]


def test_a_validation_in_training_mode_is_no_part_of_the_training_sets_sigma_and_is_told() -> None:
    decoder, (x, mean) = make(), batch()
    decoder.nll(x, mean)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"training mode.*no bound; call its eval\(\)"):
        decoder.nll(*batch(seed=1, noise=0.3))
    decoder.step()
    assert sigma(decoder.eval()) == pytest.approx(rms(x, mean), rel=1e-5)
