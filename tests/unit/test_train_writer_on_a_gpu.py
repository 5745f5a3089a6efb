"""Copies of a checkpoint from a GPU are read when they have arrived, on whichever device the run is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from stand_in_cuda import Cuda, stand_in

from vdvae_patch.train.world import connect, resolve_device
from vdvae_patch.train.writer import BackgroundWriter, begin_copy, off_device


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    with stand_in(count=3) as devices:
        yield devices


def state(*devices: str) -> dict[str, Any]:
    return {"model": {d: torch.arange(4.0).to(d) for d in devices}, "steps": [torch.tensor(5), 7], "none": None}


def test_a_run_makes_its_device_the_current_one(cuda: Cuda) -> None:
    with connect("cuda:1", environ={}) as world:
        assert world.device == torch.device("cuda", 1)
        assert cuda.current == 1
    assert resolve_device("cuda", local_rank=2) == torch.device("cuda", 2)
    assert cuda.current == 2


@pytest.mark.parametrize("current", [0, 1, 2])
def test_nothing_is_read_before_it_has_arrived(cuda: Cuda, current: int) -> None:
    cuda.current = current
    original = state("cuda:1", "cpu")
    cuda.log.clear()
    copy = off_device(original)
    assert cuda.log == [("copy", 1), ("record", 1), ("wait", 1)]
    assert cuda.current == current
    for name, value in copy["model"].items():
        assert value.device.type == "cpu", name
        assert value.tolist() == [0, 1, 2, 3]
    assert copy["steps"][0] == 5
    assert copy["steps"][0] is not original["steps"][0]
    assert copy["none"] is None


def test_each_device_that_tensors_come_from_is_waited_for_and_no_other(cuda: Cuda) -> None:
    copy = begin_copy(state("cuda:2", "cuda:0"))
    assert [entry for entry in cuda.log if entry[0] != "copy"] == [("record", 0), ("record", 2)]
    assert copy.arrived()["model"]["cuda:2"].tolist() == [0, 1, 2, 3]
    assert [entry for entry in cuda.log if entry[0] == "wait"] == [("wait", 0), ("wait", 2)]


def test_the_training_goes_on_while_the_copy_is_under_way(cuda: Cuda) -> None:
    """The writing thread waits, not the one that trains, which may change the weights at once."""
    weights, written, wrote = torch.arange(4.0).to("cuda:1"), [], threading.Event()
    writer = BackgroundWriter(beside=True)

    def write(copied: Mapping[str, Any]) -> None:
        written.append((copied["w"].tolist(), cuda.log[-1], threading.current_thread().name))
        wrote.set()

    cuda.waits.clear()
    with cuda.no_wait():
        writer.submit({"w": weights}, write)
        weights.zero_()
    assert wrote.wait(20)
    writer.close()
    values, last, name = written[0]
    assert values == [0, 1, 2, 3]
    assert last == ("wait", 1)
    assert name.startswith("checkpoint")
    assert cuda.waits == []


def test_what_fails_to_arrive_is_raised_where_the_next_write_waits(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BackgroundWriter(beside=True)

    def lost(self: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(type(torch.cuda.Event()), "synchronize", lost)
    writer.submit(state("cuda:1"), lambda copied: None)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        writer.wait()
    writer.close()
