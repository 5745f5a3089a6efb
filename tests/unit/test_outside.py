"""What a model keeps outside of its `state_dict` is found, written as plain values, and put back."""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from ranks_of_seams import on_two_ranks
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError
from vdvae_patch.outside import SinceBuilt, Snapshots, differences, put, settings
from vdvae_patch.train.agreement import share_constants
from vdvae_patch.train.setup import Workload
from vdvae_patch.train.world import World


class Annealer:
    def __init__(self) -> None:
        self.calls = 0


class Counting(nn.Module):
    """One of each kind that a host may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.steps, self.weight_of_kl, self.warm, self.phase = 0, 0.0, True, "warm-up"
        self.annealer, self.several = Annealer(), [Annealer(), Annealer()]
        self.mean = torch.zeros(3)
        self.last: deque[float] = deque(maxlen=2)
        self.table: dict[Any, Any] = {"a": [1, (2, 3)]}
        self.counts: Counter[str] = Counter()
        self.order: OrderedDict[int, str] = OrderedDict()
        self.shape: Any = None
        self.array = np.zeros(2)
        self.torchs, self.pythons = torch.Generator(), random.Random(0)
        self.numpys, self.olds = np.random.default_rng(0), np.random.RandomState(0)
        self.register_buffer("apart", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.weight_of_kl, self.warm, self.phase = 0.1 * self.steps, self.steps < 2, "on" if self.steps > 1 else "up"
        self.annealer.calls += 1
        self.several[1].calls += 2
        self.mean.mul_(0.9).add_(x.mean(0))
        self.last.append(float(x.sum()))
        self.table["a"].append(self.steps)
        self.counts["x"] += 1
        self.order[self.steps] = "seen"
        self.shape = x.shape
        self.array[0] += 1
        self.apart += 1
        noise = torch.randn(3, generator=self.torchs) + self.pythons.gauss(0, 1)
        noise = noise + float(self.numpys.normal()) + float(self.olds.normal())
        total = self.steps + self.weight_of_kl + self.annealer.calls + self.several[1].calls + sum(self.last)
        total += len(self.table["a"]) + self.counts["x"] + len(self.order) + self.array[0]
        return self.layer(x) + noise + total + self.mean + self.apart.sum()  # type: ignore[no-any-return]


def batch(seed: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))


def from_file(values: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def test_a_model_of_the_same_build_goes_on_to_the_same_bits() -> None:
    model = Counting()
    built = SinceBuilt(model)
    assert not built.moved().values
    for step in range(3):
        model(batch(step))
    moved = built.moved()
    assert not moved.lost
    other = Counting()
    other.load_state_dict(model.state_dict())
    put(other, from_file(moved.values), "the checkpoint")
    for step in range(3, 5):
        assert torch.equal(other(batch(step)), model(batch(step)))
    assert other.last == model.last
    assert other.shape == model.shape


def test_what_no_file_can_hold_is_named() -> None:
    model = Counting()
    built = SinceBuilt(model)
    model.law = torch.distributions.Normal(0.0, 1.0)
    model.later = Annealer()
    del model.phase
    moved = built.moved()
    assert moved.lost == {
        "law": "a Normal", "later": "an Annealer", "phase": "deleted"
    }  # fmt: skip
    assert not moved.values


def test_two_names_of_one_list_are_one_again() -> None:
    model = Counting()
    built = SinceBuilt(model)
    model.one = model.other = [1]
    other = Counting()
    put(other, from_file(built.moved().values), "the checkpoint")
    other.one.append(2)
    assert other.other == [1, 2]


def test_a_tensor_that_wants_a_gradient_wants_one_again() -> None:
    model = Counting()
    built = SinceBuilt(model)
    model.slope, model.offset = torch.ones(2, requires_grad=True), torch.ones(2)
    other = Counting()
    put(other, from_file(built.moved().values), "the checkpoint")
    assert (other.slope.requires_grad, other.offset.requires_grad) == (True, False)


def test_what_is_again_what_it_was_is_told_to_whoever_has_followed_it() -> None:
    model = Counting()
    built = SinceBuilt(model)
    model.steps = 1
    followed = built.moved().values
    model.steps = 0
    assert built.moved(also=followed).values == {"steps": 0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nowhere.steps": 1}, "'nowhere.steps' is no attribute that this model can have"),
        ({"forward": 1}, "'forward' is no attribute"),
        ({"_buffers": 1}, "'_buffers' is no attribute"),
        ({"apart": 3}, "apart must be a tensor"),
        ({"steps": {"a": 1}}, "must be a value of an attribute, not a dictionary of 1"),
        ({"steps": ["code", "print"]}, "a value of the kind 'code' is not known"),
        ({"mean": ["tensor", 3, True, False]}, "is no tensor that was saved here"),
        ({"numpys": ["generator", "numpy", ["dict", ["state", 3]]]}, "is no generator that was saved here"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_that_were_not_saved_here_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match="the file: ") as error:
        put(Counting(), values, "the file")
    assert said in str(error.value)


@pytest.mark.parametrize("become", [lambda model: None, lambda model: setattr(model, "new", 0)])
def test_a_pass_is_done_again_from_its_snapshot(become: Callable[[Counting], None]) -> None:
    model = Counting()
    snapshots = Snapshots(model)
    for step in range(3):
        become(model)
        taken = snapshots.take()
        first = model(batch(step))
        taken.put_back(model)
        assert torch.equal(model(batch(step)), first)


def test_what_is_too_large_for_a_snapshot_is_known_to_have_moved() -> None:
    model = Counting()
    model.large = torch.zeros(2**19)
    taken = Snapshots(model).take()
    assert taken.moved_unseen() == ()
    model.large += 1
    assert taken.moved_unseen() == ("large",)


def test_what_a_pass_has_made_is_in_the_next_snapshot() -> None:
    model = Counting()
    snapshots = Snapshots(model)
    snapshots.take()
    model.made_later = 1.0
    taken = snapshots.take()
    model.made_later = 2.0
    taken.put_back(model)
    assert model.made_later == 1


def test_numbers_and_tensors_that_broke_are_what_they_were_and_all_others_go_on() -> None:
    model = Counting()
    model.running = 1.0
    taken = Snapshots(model).take()
    model.steps, model.weight_of_kl, model.running = 5, 0.3, math.nan
    model.mean[0] = math.inf
    assert set(taken.put_back_spoilt()) == {"running", "mean"}
    assert (model.steps, model.weight_of_kl, model.running) == (5, 0.3, 1)
    assert torch.equal(model.mean, torch.zeros(3))


def test_of_numbers_that_differ_both_are_told_and_not_of_what_a_model_may_make_later() -> None:
    then = {"steps": "3", "gone": "1", "_mark": "1", "annealer.calls": "2", "mean": "6f1d" * 16, "same": "0.5"}
    now = {"steps": "4", "mean": "91ab" * 16, "same": "0.5", "new": "7"}
    assert differences(then, now) == ["steps (3 then, 4 now)", "gone (1 then, none now)", "mean"]


def test_a_number_that_is_named_generator_is_a_setting_and_a_generator_is_none() -> None:
    host = nn.Sequential(Counting())
    vars(host[0]).update(widths={"generator": 64}, noise={"generator": torch.Generator()}, more=[torch.Generator()])
    found = settings(host)
    assert "0.widths" in found
    assert not {"0.noise", "0.more"} & found.keys()
    vars(host[0])["widths"] = {"generator": 32}
    assert differences(found, settings(host)) == ["0.widths"]


class Slotted:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class Phase(Enum):
    WARM_UP = 1
    ON = 2


def closure() -> Callable[[], None]:
    calls = [0]

    def count() -> None:
        calls[0] += 1

    return count


def generator() -> Iterator[int]:
    yield from (1, 2, 3)


@pytest.mark.parametrize(
    ("kept", "move"),
    [
        (Slotted(), lambda model: setattr(model.kept, "calls", 1)),
        (closure(), lambda model: model.kept()),
        (itertools.count(), lambda model: next(model.kept)),
        (iter([1, 2]), lambda model: next(model.kept)),
        (generator(), lambda model: next(model.kept)),
        (defaultdict(int), lambda model: model.kept["a"]),
        ([nn.Linear(1, 1)], lambda model: model.kept[0].weight.data.fill_(3)),
        ([nn.Parameter(torch.zeros(1))], lambda model: model.kept[0].data.add_(1)),
        (functools.partial(max, 1), lambda model: setattr(model, "kept", functools.partial(max, 2))),
        (functools.partial(max, [1]), lambda model: model.kept.args[0].append(2)),
        (Phase.WARM_UP, lambda model: setattr(model, "kept", Phase.ON)),
        ([1], lambda model: model.kept.append(model.kept)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_moves_inside_of_an_object_is_seen(kept: object, move: Callable[[Any], object]) -> None:
    model = nn.Linear(2, 2)
    model.kept = kept
    built = SinceBuilt(model)
    assert not built.moved().lost
    move(model)
    moved = built.moved()
    assert list(moved.lost) == ["kept"]
    assert not moved.values
    assert Phase.WARM_UP.value == 1  # which an attribute of all models is, and not of one


def test_what_follows_the_weights_has_not_moved() -> None:
    model = Counting()
    model.all = {"weight": model.layer.weight}
    model.rows = model.layer.weight.data[:2]
    built = SinceBuilt(model)
    model.layer.weight.data.add_(1)
    model.rows = model.layer.weight.data[:2]
    assert not built.moved().lost
    assert not built.moved().values


class Drawing(nn.Module):
    """Constants that it draws when it is built, in no state_dict: one by a seed, two by a generator without one."""

    def __init__(self) -> None:
        super().__init__()
        self.order = torch.randperm(64)
        self.projection = np.random.default_rng().normal(size=3)
        self.register_buffer("mask", torch.from_numpy(np.random.default_rng().normal(size=3)), persistent=False)


def test_what_is_drawn_anew_by_each_build_is_known_and_given_to_the_other() -> None:
    torch.manual_seed(0)
    model = Drawing()
    torch.manual_seed(0)
    average = Drawing()
    built = SinceBuilt(model, average)
    assert built.drawn_anew == {"projection", "mask"}
    assert not built.moved().values
    put(average, built.moved(also=built.drawn_anew).values, "the averaged weights")
    assert np.array_equal(average.projection, model.projection)
    assert torch.equal(average.mask, model.mask)
    assert SinceBuilt(model).drawn_anew == frozenset()


def ranks_that_draw(rank: int) -> dict[str, object]:
    """One model that nobody seeds, and another number, on each of two ranks."""
    torch.manual_seed(0)
    model = Drawing()
    model.rank, model.own = rank, np.random.default_rng()  # type: ignore[assignment]
    said: list[str] = []
    again = Drawing()
    again.own = np.random.default_rng()  # type: ignore[assignment]
    work = SimpleNamespace(model=model, outside=SinceBuilt(model, again))
    share_constants(cast(Workload, work), World(torch.device("cpu"), rank, 2), said.append)
    return {"projection": torch.from_numpy(model.projection), "mask": model.mask, "said": said,
            "noise": torch.from_numpy(model.own.normal(size=2))}  # fmt: skip


@pytest.mark.medium
def test_ranks_train_one_model_where_it_draws_what_nobody_seeds_and_each_with_its_noise(tmp_path: Path) -> None:
    first, second = on_two_ranks(ranks_that_draw, tmp_path)
    assert torch.equal(first["projection"], second["projection"])
    assert torch.equal(first["mask"], second["mask"])
    assert not torch.equal(first["noise"], second["noise"])
    (said,) = first["said"]
    assert (
        "on rank 1 the model keeps, outside of its state_dict, another rank (0 on rank 0, 1 there): the ranks" in said
    )
