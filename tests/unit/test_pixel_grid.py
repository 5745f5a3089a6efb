"""The grid of pixels: levels, steps, noise, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.over_ranks import mean_over_ranks, ranks, total_over_ranks
from vdvae_patch.pixel_grid import PixelGrid

GRIDS = [PixelGrid(), PixelGrid(-1, 1), PixelGrid(0, 255), PixelGrid(-0.5, 0.5), PixelGrid(1 / 512, 511 / 512)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_evenly_spaced_and_each_is_its_own_nearest(grid: PixelGrid, dtype: torch.dtype) -> None:
    values = grid.values(torch.zeros(1, dtype=dtype))
    assert values.dtype == dtype
    assert (values[0].item(), values[-1].item()) == pytest.approx((grid.low, grid.high))
    assert torch.equal(grid.index(values), torch.arange(256))
    for off in (-0.49, 0.49):
        assert torch.equal(grid.index(values + off * grid.step), torch.arange(256))
        torch.testing.assert_close(grid.round(values + off * grid.step), values)
    assert grid.index(torch.tensor([grid.low - grid.range, grid.high + grid.range])).tolist() == [0, 255]
    grid.check(values, "test", on_grid=True)


def test_the_noise_is_that_of_rounding_as_the_paper_has_it() -> None:
    assert PixelGrid().noise == pytest.approx(1 / (256 * math.sqrt(12)))
    uniform = (torch.rand(100_000, generator=torch.Generator().manual_seed(0)) - 0.5) * PixelGrid().step
    assert uniform.std().item() == pytest.approx(PixelGrid().noise, rel=0.01)
    assert PixelGrid(-1, 1).grey_levels(0.2) == pytest.approx(25.5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_numbers_too(dtype: torch.dtype) -> None:
    x = torch.arange(256).to(dtype)
    PixelGrid(0, 255).check(x, "test", on_grid=True)
    assert torch.equal(PixelGrid(0, 255).index(x), torch.arange(256))


@pytest.mark.parametrize("grid", GRIDS[:4], ids=str)
@pytest.mark.parametrize("other", GRIDS[:4], ids=str)
def test_data_of_another_grid_are_refused_with_the_grid_that_fits(grid: PixelGrid, other: PixelGrid) -> None:
    x = other.values(torch.zeros(1))
    if other.low >= grid.low - grid.step / 2 and other.high <= grid.high + grid.step:  # half a byte is noise
        grid.check(x, "test", on_grid=False)
    else:
        with pytest.raises(InvalidValueError, match=rf"PixelGrid\({other.low:g}, {other.high:g}\)"):
            grid.check(x, "test", on_grid=False)


def test_values_without_sense_are_refused() -> None:
    for low, high in ((1, 0), (0, 0), (0, math.inf), (math.nan, 1)):
        with pytest.raises(InvalidValueError, match="low to a high"):
            PixelGrid(low, high)
    with pytest.raises(InvalidValueError, match="two levels"):
        PixelGrid(levels=1)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidValueError, match="NaN or infinite"):
            PixelGrid().check(torch.tensor([0.5, bad, 0.2]), "test", on_grid=False)
    with pytest.raises(InvalidValueError, match="no image"):
        PixelGrid().check(torch.zeros(0, 1), "test", on_grid=False)
    PixelGrid().check(torch.tensor([1 + 0.9 / 255, 0.3 / 255]), "test", on_grid=False)  # with noise of a step
    with pytest.raises(InvalidValueError, match="no bin"):
        PixelGrid().check(torch.tensor([0.3 / 255]), "test", on_grid=True)


def test_alone_a_sum_over_ranks_is_the_value_itself() -> None:
    values = torch.rand(3, 2, requires_grad=True)
    assert ranks() == 1
    assert total_over_ranks(values) is values
    mean = mean_over_ranks(values)
    torch.testing.assert_close(mean, values.detach().mean(dim=0))
    assert not mean.requires_grad
    assert mean_over_ranks(torch.full((4,), 60000.0).half()).item() == 60000
