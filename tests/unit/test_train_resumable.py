"""States of decoder, objective and top prior in a checkpoint are those of the run, or it is not taken up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vdvae_patch.decoders.optimal import Optimal
from vdvae_patch.errors import CheckpointError
from vdvae_patch.objectives import get
from vdvae_patch.train.resumable import require_seams

RANGES = {**Optimal.state_ranges, **get("geco(kappa=0.06)").state_ranges}
State = dict[str, dict[str, Tensor]]


def written() -> State:
    """What a run with an optimal σ, GECO and a VampPrior saves, a few updates on."""
    decoder = {f"net.decoder.{name}": value for name, value in Optimal().state_dict().items()}
    decoder["net.decoder.updates"] += 3
    apart = {**decoder, "prior.raw": torch.zeros(4, 2)}
    objective = dict(get("geco(kappa=0.06)").state_dict())
    return {"model": copy.deepcopy(apart), "ema": copy.deepcopy(apart), "objective": objective}


def refused(state: dict[str, Any], known: State) -> str:
    with pytest.raises(CheckpointError) as error:
        require_seams(state, known, RANGES, Path("step-8"))
    return str(error.value)


def changed(part: str, name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    state = written()
    state[part][name] = change(state[part][name])
    return {"seams": state}


def test_what_a_run_writes_is_taken_up_also_if_its_weights_are_nan() -> None:
    require_seams({"seams": written()}, written(), RANGES, Path("step-8"))
    require_seams(changed("model", "prior.raw", lambda raw: raw * torch.nan), written(), RANGES, Path("step-8"))
    require_seams({}, {}, {}, Path("step-8"))


@pytest.mark.parametrize(
    ("part", "name", "change", "said"),
    [
        ("ema", "net.decoder.mean_squared_error", lambda v: v - 1, "must be a finite number from 0 to inf, not -1.0"),
        ("ema", "net.decoder.mean_squared_error", lambda v: v * torch.nan, "not nan"),
        ("ema", "net.decoder.mean_squared_error", lambda v: v + torch.inf, "not inf"),
        ("model", "net.decoder.mean_squared_error", lambda v: v.double(), "must be torch.float32 []"),
        ("model", "net.decoder.updates", lambda v: v - 9, "not -6"),
        ("objective", "multipliers", lambda v: v * 0, "must be a finite number from 1e-10 to 1e+10, not 0.0"),
        ("objective", "averages", lambda v: v * torch.nan, "not nan"),
        ("objective", "unmet", lambda v: v.float(), "must be torch.int64 [1]"),
        ("model", "prior.raw", lambda v: v[:3], "must be torch.float32 [4, 2]"),
    ],
)
def test_a_number_that_no_training_finds_is_refused_by_its_name(
    part: str, name: str, change: Callable[[Tensor], Tensor], said: str
) -> None:
    message = refused(changed(part, name, change), written())
    assert said in message
    assert f"step-8.seams.{part}.{name}" in message


def test_what_is_missing_or_of_another_run_is_refused() -> None:
    assert "field 'ema' is missing" in refused({}, written())
    for part, tensors in written().items():
        lacking: dict[str, Any] = {**written()}
        del lacking[part]
        assert f"field {part!r} is missing" in refused({"seams": lacking}, written())
        for name in tensors:
            one = written()
            del one[part][name]
            assert f"seams.{part}: the field {name!r} is missing" in refused({"seams": one}, written())
            assert f"the field {name!r} is of another decoder" in refused({"seams": written()}, one)
    assert "is of another decoder, objective or top prior" in refused({"seams": written()}, {})
