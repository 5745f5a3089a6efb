"""A skipped update leaves running statistics alone, too: what is not finite must not stay in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_of_seams import on_two_ranks
from torch import Tensor, nn

from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.train.agreement import apart
from vdvae_patch.train.aside import aside
from vdvae_patch.train.buffers import BuffersBefore, averaged_by
from vdvae_patch.train.setup import BuffersFollow
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Puts another tensor in place of its buffer in every pass, and has one that repeats a number."""

    total: Tensor
    ones: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("ones", torch.ones(1).expand(4))
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.detach().mean(0)
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), Counting(), nn.Linear(3, 1))

    def forward(self, x: Tensor) -> Losses:
        loss = self.layers(x).square().mean()
        return Losses(loss, loss, torch.zeros(()))


def batches(count: int, bad: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    drawn = [torch.randn(6, 5, generator=draw) for _ in range(count)]
    return [x * torch.nan if number in bad else x for number, x in enumerate(drawn)]


def trained(inputs: list[Tensor], threshold: float = -1, parts: int = 1) -> tuple[Any, Any, list[bool]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Net()
    average = copy.deepcopy(model)
    step = TrainingStep(
        model, average, lambda x, _: model(x), Optimization(lr=1e-2, ema_rate=0.5, skip_threshold=threshold),
        World(CPU), parts=parts,
    )  # fmt: skip
    follow = BuffersFollow(model, average)
    skipped = []
    for x in inputs:
        step(0, x, x)
        follow()
        skipped.append(step.drain()[0].skipped)
    return model, average, skipped


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_that_is_not_finite_leaves_no_trace_in_weights_averages_or_statistics(parts: int) -> None:
    bad = (0, 3, 4, 9)
    inputs = batches(10, bad)
    model, average, skipped = trained(inputs, parts=parts)
    assert [number for number, was in enumerate(skipped) if was] == [*bad]
    clean, clean_average, none = trained([x for number, x in enumerate(inputs) if number not in bad], parts=parts)
    assert not any(none)
    for one, another in ((model, clean), (average, clean_average)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, another.state_dict()[name]), name
    average.eval()
    assert bool(average(batches(1, ())[0]).elbo.isfinite())


def test_an_update_of_too_high_a_gradient_was_not_done_either() -> None:
    torch.manual_seed(0)
    before = Net().state_dict()
    model, _, skipped = trained(batches(4, ()), threshold=1e-9)
    assert all(skipped)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_average_follows_a_buffer_that_got_another_shape() -> None:
    source, target = Counting(), Counting()
    source.total = torch.arange(3.0).repeat(2, 1)
    source.ones = torch.full((4,), 2.0)
    BuffersFollow(source, target)()
    assert torch.equal(target.total, source.total)
    assert torch.equal(target.ones, source.ones)
    target.total = torch.zeros(4, 2, 3)
    BuffersFollow(source, target)()
    assert target.total.shape == (2, 3)
    assert target.total is not source.total


def test_what_is_put_back_is_what_was_taken_last_and_once() -> None:
    model = nn.BatchNorm1d(2)
    assert model.running_mean is not None
    kept = BuffersBefore(model)
    kept.take()
    place = kept._copies[0].data_ptr()
    model.running_mean.fill_(1.0)
    kept.take()
    assert kept._copies[0].data_ptr() == place  # a graph that was captured writes where it wrote before
    model.running_mean.fill_(torch.nan)
    kept.put_back(torch.ones(()))
    assert model.running_mean.tolist() == [1.0, 1.0]
    model.running_mean.fill_(2.0)
    kept.put_back(torch.ones(()))  # of a step that took nothing
    assert model.running_mean.tolist() == [2.0, 2.0]


class Codebook(nn.Module):
    """A parameter that no optimizer moves, which follows what comes by, as the codes of a VQ-VAE do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.code = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Losses:
        out = self.layer(x)
        self.code.data.lerp_(out.detach().mean(0), 0.1)
        loss = (out - self.code).square().mean()
        return Losses(loss, loss, torch.zeros(()))


def test_a_parameter_that_a_model_moves_by_itself_is_treated_as_its_buffers_are() -> None:
    """The average kept the initial one: a test NELBO of 8.93 was told of a model whose own is 1.03."""
    torch.manual_seed(0)
    model = Codebook()
    average = copy.deepcopy(model).requires_grad_(False)
    step = TrainingStep(model, average, lambda x, _: model(x), Optimization(lr=1e-2, ema_rate=0.5), World(CPU))
    follow = BuffersFollow(model, average)
    seen, skipped = [], []
    for x in batches(4, bad=(2,)):
        step(0, x, x)
        follow()
        skipped.append(step.drain()[0].skipped)
        seen.append(model.code.clone())
        assert torch.equal(average.code, model.code)
    assert skipped == [False, False, True, False]
    assert torch.equal(seen[2], seen[1])
    assert not torch.equal(seen[1], seen[0])
    with aside(model):
        model(batches(1, ())[0])
    assert torch.equal(model.code, seen[3])


def test_a_pass_of_the_average_moves_no_parameter_that_its_model_moves_by_itself() -> None:
    """It went on from batch to batch of an evaluation, whose bound was then of as many models as there are batches."""
    torch.manual_seed(0)
    model = Codebook()
    average = copy.deepcopy(model).requires_grad_(False)
    averaged_by(model, average)
    with aside(average):
        average(batches(1, ())[0])
        assert bool(average.code.any())
    assert not bool(average.code.any())


def an_average_on(rank: int) -> dict[str, Any]:
    """Codes, and weights that are averages, which are another one's on each of two ranks."""
    torch.manual_seed(0)
    model = Codebook()
    average = copy.deepcopy(model).requires_grad_(False)
    averaged_by(model, average)
    average.code.fill_(rank + 1.0)
    average.layer.bias.fill_(rank + 1.0)
    world = World(CPU, rank, 2)
    names = apart(average, world)
    world.share_buffers(average)
    left = apart(average, world)
    return {"code": average.code.detach(), "bias": average.layer.bias.detach(), "apart": names, "left": left}


@pytest.mark.medium
def test_ranks_evaluate_with_the_untrained_parameters_of_the_first_and_send_no_averages(tmp_path: Path) -> None:
    found = on_two_ranks(an_average_on, tmp_path)
    assert [float(one["code"][0]) for one in found] == [1.0, 1.0]
    assert [float(one["bias"][0]) for one in found] == [1.0, 2.0]
    assert [one["apart"] for one in found] == [["code"], ["code"]]
    assert [one["left"] for one in found] == [[], []]
