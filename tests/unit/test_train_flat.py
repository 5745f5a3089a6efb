"""Parameters side by side in one storage: the update is PyTorch's AdamW, and what shares a storage keeps it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vdvae_patch.errors import RunError
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.train import flat
from vdvae_patch.train.adamw import FusedAdamW
from vdvae_patch.train.flat import Flat, FlatWeights
from vdvae_patch.train.flight import WeightsBefore
from vdvae_patch.train.noise import noise_seed, seed_noise
from vdvae_patch.train.setup import BuffersFollow
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Net(nn.Module):
    """Parameters of several sizes, some of them no multiple of what a processor computes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.unused = nn.Linear(3, 3)
        self.second = nn.Conv2d(3, 4, 3)
        self.scalar = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Losses:
        loss = (self.first(x).square().sum() + self.second(x.new_ones(1, 3, 3, 3)).sum() * self.scalar) / len(x)
        return Losses(loss, loss, torch.zeros(()))


def nets(count: int = 2, build: Callable[[], nn.Module] = Net) -> list[Any]:
    torch.manual_seed(0)
    first = build()
    others = [copy.deepcopy(first) for _ in range(count - 1)]
    return [first, *others]


def flat_of(model: nn.Module, average: nn.Module) -> FlatWeights:
    return FlatWeights(list(model.parameters()), list(average.parameters()), (model, average))


def grads(model: nn.Module, seed: int, without: Sequence[int] = ()) -> None:
    draw = torch.Generator().manual_seed(seed)
    for index, parameter in enumerate(model.parameters()):
        drawn = torch.randn(parameter.shape, generator=draw).to(parameter)
        parameter.grad = None if index in without else drawn


STEPS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((2, 3), 0.0),
    ((2, 3), 0.0),
    ((2, 3), 1.0),
    ((), 0.0),
    ((0, 6), 0.0),
    ((2, 3), 0.0),
    ((0, 6), 1.0),
    ((), 0.0),
    ((1, 2, 4), 0.0),
)
"""Of each step, the parameters without a gradient, and whether it is skipped."""


@pytest.mark.medium
@pytest.mark.parametrize("gathers", [None, False, True])
def test_the_update_is_that_of_pytorch_with_parameters_that_are_unused_now_and_then(gathers: bool | None) -> None:
    ours, average, theirs = nets(3)
    own = FusedAdamW(flat_of(ours, average), gathers=gathers, **SETTINGS)
    other = torch.optim.AdamW(theirs.parameters(), fused=True, **SETTINGS)
    for number, (without, skip) in enumerate(STEPS):
        for model, optimizer in ((ours, own), (theirs, other)):
            grads(model, number, without)
            optimizer.found_inf = torch.tensor(skip)
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            if skip:
                assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        same: Any = torch.testing.assert_close if gathers else _require_equal
        for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
            same(one, another)
        mine, reference = own.state_dict(), other.state_dict()
        assert mine["param_groups"] == reference["param_groups"]
        assert mine["state"].keys() == reference["state"].keys()
        for index, moments in reference["state"].items():
            assert mine["state"][index].keys() == moments.keys()
            assert mine["state"][index]["step"] == moments["step"]
            for name in ("exp_avg", "exp_avg_sq"):
                same(mine["state"][index][name], moments[name])


class Mixed(nn.Module):
    """Parameters of two types between each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.second = nn.Linear(3, 3).double()
        self.third = nn.Linear(2, 9)


@pytest.mark.medium
@pytest.mark.parametrize("gathers", [None, False, True])
@pytest.mark.parametrize("build", [Net, Mixed])
@pytest.mark.parametrize("factors", [(1.0,), (0.1, 1.0), (0.0, 1.0, 1.0, 3.0)])
def test_a_factor_of_the_learning_rate_is_a_group_of_pytorchs(
    factors: tuple[float, ...], build: Callable[[], nn.Module], gathers: bool | None
) -> None:
    ours, average, theirs = nets(3, build)
    each = [factors[index % len(factors)] for index in range(len(list(ours.parameters())))]
    own = FusedAdamW(flat_of(ours, average), gathers=gathers, factors=each, **SETTINGS)
    groups = [{"params": p, "lr": f * SETTINGS["lr"]} for p, f in zip(theirs.parameters(), each, strict=True)]
    other = torch.optim.AdamW(groups, fused=True, **SETTINGS)
    for number, (without, skip) in enumerate(STEPS):
        for model, optimizer in ((ours, own), (theirs, other)):
            grads(model, number, without)
            optimizer.found_inf = torch.tensor(skip)
            optimizer.step()
        for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, another)
    steps = [[float(state["step"]) for state in o.state_dict()["state"].values()] for o in (own, other)]
    assert steps[0] == steps[1]


def _require_equal(one: Tensor, another: Tensor) -> None:
    assert torch.equal(one, another)


@pytest.mark.medium
@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("theirs_first", [False, True])
def test_a_state_that_was_saved_is_gone_on_with_whoever_made_it(gathers: bool, theirs_first: bool) -> None:
    undisturbed, average, cut, again, other = nets(5)
    whole = FusedAdamW(flat_of(undisturbed, average), gathers=gathers, **SETTINGS)
    first: torch.optim.Optimizer = (
        torch.optim.AdamW(cut.parameters(), fused=True, **SETTINGS)
        if theirs_first
        else FusedAdamW(flat_of(cut, other), gathers=gathers, **SETTINGS)
    )
    for number, (without, _) in enumerate(STEPS[:5]):
        for model, optimizer in ((undisturbed, whole), (cut, first)):
            grads(model, number, without)
            optimizer.step()
    again.load_state_dict(cut.state_dict())
    second = FusedAdamW(flat_of(again, nets(1)[0]), gathers=gathers, **SETTINGS)
    grads(again, 99)
    saved = copy.deepcopy(first.state_dict())
    second.load_state_dict(saved)
    for number, (without, _) in enumerate(STEPS[5:], 5):
        for model, optimizer in ((undisturbed, whole), (again, second)):
            grads(model, number, without)
            optimizer.step()
    for one, another in zip(undisturbed.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, another)
        if not (theirs_first and gathers):
            assert torch.equal(one, another)
    fresh = copy.deepcopy(first.state_dict())
    for index, moments in fresh["state"].items():  # what is loaded is copied, not taken over
        assert all(torch.equal(value, saved["state"][index][name]) for name, value in moments.items())


class Mixed(nn.Module):
    """Parameters of three types on one device."""

    def __init__(self) -> None:
        super().__init__()
        types = (torch.float32, torch.float64, torch.float32, torch.bfloat16, torch.float64)
        drawn = [torch.randn(number + 3, 5).to(dtype) for number, dtype in enumerate(types)]
        self.several = nn.ParameterList(map(nn.Parameter, drawn))


@pytest.mark.medium
@pytest.mark.parametrize("gathers", [None, False, True])
def test_parameters_of_several_types_are_updated_as_often_as_there_are_updates(gathers: bool | None) -> None:
    ours, average, theirs = nets(3, Mixed)
    own = FusedAdamW(flat_of(ours, average), gathers=gathers, **SETTINGS)
    other = torch.optim.AdamW(theirs.parameters(), fused=True, **SETTINGS)
    for number, without in enumerate([(), (), (1, 4), (), (0, 1, 2, 3, 4), (2, 3), (3,), ()]):
        skip = torch.tensor(float(number == 3))
        for model, optimizer in ((ours, own), (theirs, other)):
            grads(model, number, without)
            optimizer.found_inf = skip
            optimizer.step()
        same: Any = torch.testing.assert_close if gathers else _require_equal
        for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
            same(one, another)
            assert own.state[one]["step"] == other.state[another]["step"]


@pytest.mark.parametrize("fused", [False, True])
def test_pytorch_goes_on_with_a_state_of_ours_as_if_it_were_its_own(fused: bool, tmp_path: Path) -> None:
    """Counts of updates that lie in one tensor would there rise once for each parameter."""
    ours, average, theirs, undisturbed = nets(4)
    own = FusedAdamW(flat_of(ours, average), **SETTINGS)
    reference = torch.optim.AdamW(undisturbed.parameters(), fused=True, **SETTINGS)
    for number in range(3):
        for model, optimizer in ((ours, own), (undisturbed, reference)):
            grads(model, number, (2,))
            optimizer.step()
    torch.save(own.state_dict(), tmp_path / "state.pt")
    theirs.load_state_dict(ours.state_dict())
    after = torch.optim.AdamW(theirs.parameters(), fused=fused, **SETTINGS)
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for number in range(3, 6):
        for model, optimizer in ((theirs, after), (undisturbed, reference)):
            grads(model, number, (2,))
            optimizer.step()
    for one, another in zip(theirs.parameters(), undisturbed.parameters(), strict=True):
        torch.testing.assert_close(one, another)
        assert after.state[one].get("step") == reference.state[another].get("step")


def test_all_that_is_used_alike_is_one_tensor_to_the_update_and_the_rest_in_runs() -> None:
    ours, average = nets()
    own = FusedAdamW(flat_of(ours, average), gathers=True, **SETTINGS)
    grads(ours, 0)
    assert len(own.gradients()) == 1
    own.step()
    grads(ours, 1, without=(2, 3))
    assert len(own.gradients()) == 2
    own.step()
    grads(ours, 2)
    assert len(own.gradients()) == 3  # two of another count of updates lie between the others
    assert {float(state["step"]) for state in own.state.values()} == {1.0, 2.0}


def test_what_is_done_to_the_gathered_gradients_is_done_to_the_update() -> None:
    ours, average, theirs = nets(3)
    own = FusedAdamW(flat_of(ours, average), gathers=True, **SETTINGS)
    other = torch.optim.AdamW(theirs.parameters(), fused=True, **SETTINGS)
    grads(ours, 0)
    grads(theirs, 0)
    torch._foreach_mul_(own.gradients(), torch.tensor(0.25))
    torch._foreach_mul_([p.grad for p in theirs.parameters()], torch.tensor(0.25))
    own.step()
    other.step()
    for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, another)


def test_a_graph_that_was_kept_notices_an_update_through_the_storage() -> None:
    ours, average = nets()
    own = FusedAdamW(flat_of(ours, average), gathers=True, **SETTINGS)
    loss = ours(torch.ones(2, 7, requires_grad=True)).elbo
    grads(ours, 0)
    own.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.medium
@pytest.mark.parametrize("weight", [0.0, 0.01, 0.7])
def test_the_average_is_moved_as_before_to_the_bit(weight: float) -> None:
    model, average, other = nets(3)
    for part in (average, other):
        for p in part.parameters():
            p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    flat = flat_of(model, average)
    flat.average(torch.tensor(weight))
    for p, now, before in zip(model.parameters(), average.parameters(), other.parameters(), strict=True):
        assert torch.equal(now, before + (p - before) * torch.tensor(weight))


def test_an_average_longer_than_a_piece_is_moved_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdvae_patch.train.flat._PIECE", 16)
    model, average, other = nets(3)
    for p in average.parameters():
        p.data.add_(1)
    flat_of(model, average).average(torch.tensor(0.25))
    for p, now in zip(other.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(now, p + 0.75)


class Tied(nn.Module):
    """Two that are one parameter, one that shares another's storage, one that somebody else holds, one transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.same = nn.Linear(4, 4)
        self.same.weight = self.one.weight
        self.alias = nn.Parameter(self.one.bias.data)
        self.buffered = nn.Parameter(torch.ones(3))
        self.register_buffer("view", self.buffered.data)
        self.held = nn.Parameter(torch.ones(3))
        self.hold = self.held.data
        self.transposed = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.part = nn.Parameter(torch.arange(6.0)[:3])
        self.wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.empty = nn.Parameter(torch.ones(0))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)


def test_tensors_that_somebody_else_looks_into_keep_their_storage() -> None:
    model, average = Tied(), Tied()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters, averages = ([p for p in m.parameters() if p.requires_grad] for m in (model, average))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat = FlatWeights(parameters, averages, (model, average))
    kept = {"alias", "one.bias", "buffered", "held", "transposed", "part", "empty"}
    assert {names[index] for index in flat.apart} == kept
    assert sorted(str(f.values.dtype) for f in flat.flats) == ["torch.float32", "torch.float64"]
    with torch.no_grad():
        for storage in flat.storages():
            storage.add_(1)
    assert model.state_dict().keys() == before.keys()
    changed = {name: value - before[name] for name, value in model.state_dict().items() if name != "frozen"}
    for name, value in changed.items():
        # the two that share one storage were raised together, twice
        torch.testing.assert_close(value, torch.full_like(value, 2.0 if name in ("one.bias", "alias") else 1.0))
    assert torch.equal(model.hold, model.held)
    assert torch.equal(model.view, model.buffered)
    assert model.same.weight is model.one.weight


def test_a_parameter_begins_where_an_allocation_of_its_own_would() -> None:
    model, average = nets()
    flat = flat_of(model, average)
    assert not flat.apart
    assert all((start * 4) % 64 == 0 for start in flat.flats[0].starts)
    assert isinstance(flat.flats[0], Flat)


def test_what_lies_side_by_side_is_copied_saved_and_loaded_like_any_other_model(tmp_path: Any) -> None:
    model, average, other = nets(3)
    flat_of(model, average)
    clone = copy.deepcopy(model)
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in clone.parameters())
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for one, another, third in zip(model.parameters(), clone.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)
        assert torch.equal(one, third)


def step_of(model: nn.Module, average: nn.Module) -> TrainingStep:
    world = World(torch.device("cpu"))
    return TrainingStep(model, average, lambda x, _: model(x), Optimization(lr=0.1, skip_threshold=-1), world)


def test_a_parameter_that_was_put_elsewhere_is_an_error_and_not_a_model_that_no_longer_learns() -> None:
    model, average = nets()
    step = step_of(model, average)
    step(0, torch.ones(2, 7), torch.zeros(0))
    step.drain()
    model.first.weight.data = model.first.weight.data.clone()
    step(1, torch.ones(2, 7), torch.zeros(0))
    with pytest.raises(RunError, match="lies in another storage"):
        step.drain()


def test_two_that_are_one_storage_keep_it_even_where_torch_does_not_count_who_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flat, "_holders", lambda _: 0)
    one, alone = torch.zeros(4), torch.zeros(4)
    seen = Counter(flat._key(tensor) for tensor in (one, one.view(2, 2), alone))
    assert not flat._may_move(one, seen)
    assert flat._may_move(alone, seen)


def test_the_copy_of_before_follows_the_storages() -> None:
    model, average = nets()
    flat = flat_of(model, average)
    before = WeightsBefore(flat.storages())
    start = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        before(torch.tensor(1.0))
        for p in model.parameters():
            p.fill_(torch.nan)
    before(torch.tensor(0.0))
    with before.restored():
        assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))
    assert all(bool(p.isnan().all()) for p in model.parameters())


class OnACard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.empty(4, 5, device="cuda"))
        self.two = nn.Parameter(torch.empty(7, device="cuda"))


def test_on_a_gpu_that_is_not_there_all_is_of_one_tensor() -> None:
    with FakeTensorMode():
        model, average = OnACard(), OnACard()
        flat = flat_of(model, average)
        assert not flat.apart
        assert [storage.device.type for storage in flat.storages()] == ["cuda"]
        optimizer = FusedAdamW(flat, **SETTINGS)
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        assert [g.shape for g in optimizer.gradients()] == [(32 + 7,)]  # up to the end of the second
        skip = torch.empty((), device="cuda")
        optimizer.found_inf = skip
        optimizer.step()
        flat.average(skip)
        flat.require_in_place()
        before = WeightsBefore(flat.storages())
        before(skip)
        assert all(moment.device.type == "cuda" for state in optimizer.state.values() for moment in state.values())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("none", None)

    def forward(self) -> None:
        self.count = self.count + 1  # another tensor each time
        self.norm.running_mean.add_(1)  # type: ignore[union-attr]


def test_an_average_takes_over_buffers_that_are_other_tensors_by_then() -> None:
    model, average = Counting(), Counting()
    follow = BuffersFollow(model, average)
    for number in range(1, 4):
        model()
        follow()
        assert average.count == number
        assert torch.equal(average.norm.running_mean, model.norm.running_mean)  # type: ignore[arg-type]
    assert average.count is not model.count
    BuffersFollow(nn.Linear(2, 2), nn.Linear(2, 2))()


def test_the_noise_of_a_step_is_what_seeding_all_of_torch_gives() -> None:
    seed_noise("train", 3, rank=1, step=7)
    drawn = torch.randn(5)
    torch.manual_seed(noise_seed("train", 3, rank=1, step=7))
    assert torch.equal(drawn, torch.randn(5))
