"""The stand-in for a GPU is held to a GPU's rules: what it lets pass would pass there."""

from __future__ import annotations

import pytest
import torch
from stand_in_cuda import OnCuda, WaitError, numbers, stand_in
from torch import nn


def test_a_model_trains_on_it_with_the_processors_numbers() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)), torch.randn(5, 3)
    expected = _losses(model, x, "cpu")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1))
    with stand_in():
        found = _losses(model, x, "cuda:1")
        assert {p.device for p in model.parameters()} == {torch.device("cuda", 1)}
        assert all(isinstance(p, nn.Parameter) and p.grad is not None and p.grad.is_cuda for p in model.parameters())
    assert found == expected
    assert found[-1] < found[0]


def _losses(model: nn.Module, x: torch.Tensor, device: str) -> list[float]:
    model, x = model.to(device), x.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_parameter_that_is_laid_into_a_storage_moves_with_it() -> None:
    with stand_in():
        layer, storage = nn.Linear(2, 2, bias=False).to("cuda:1"), torch.arange(4.0).to("cuda:1")
        kept = layer.weight
        layer.weight.data = storage.view(2, 2)
        storage.add_(1)
        assert numbers(layer.weight).tolist() == [[1, 2], [3, 4]]
        layer.weight.data.mul_(2)
        assert numbers(storage).tolist() == [2, 4, 6, 8]
        layer(torch.ones(1, 2, device="cuda:1")).sum().backward()
        assert layer.weight is kept
        assert numbers(kept.grad).tolist() == [[1, 1], [1, 1]]


def test_tensors_of_two_places_do_not_meet() -> None:
    with stand_in():
        x, y = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
        for wrong in (
            lambda: x + y,
            lambda: x + torch.ones(3),
            lambda: torch.ones(3).add_(x),
            lambda: torch.stack([x.sum(), torch.zeros(())]),
            lambda: torch.ones(()).add_(x.sum()),
            lambda: torch.ones(3)[torch.zeros(1, dtype=torch.int64, device="cuda:0")],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        assert (x + torch.ones(())).device == x.device  # a number of the processor is taken along
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            x.numpy()


def test_what_waits_for_the_device_is_noticed() -> None:
    with stand_in() as cuda:
        x, inside = torch.arange(4.0, device="cuda:0"), torch.tensor([True, False, True, False]).to("cuda:0")
        cuda.waits.clear()
        for wait in (
            x.sum().item, x.tolist, x.cpu, lambda: bool((x > 1).all()), lambda: x[inside], x.nonzero,
            lambda: torch.ones(2).to("cuda:0"), lambda: torch.tensor(1.0, device="cuda:0"),
            lambda: x[torch.tensor([0])], lambda: torch.equal(x, x), lambda: float(x[0]),
            lambda: torch.empty(4, pin_memory=True).copy_(x),
        ):  # fmt: skip
            with cuda.no_wait(), pytest.raises(WaitError):
                wait()
        with cuda.no_wait():
            y = torch.where(x > 1, 0.0, x) * 2 + torch.zeros_like(x).normal_()
            y += torch.ones(4).pin_memory().to("cuda:0", non_blocking=True)
            torch.empty(4, pin_memory=True).copy_(y, non_blocking=True)
        assert len(cuda.waits) == 12
        assert "test_stand_in_cuda.py" in cuda.waits[0]


def test_a_copy_that_nobody_waited_for_has_not_arrived() -> None:
    with stand_in() as cuda:
        x, target = torch.arange(4.0, device="cuda:1"), torch.empty(4, pin_memory=True)
        target.copy_(x, non_blocking=True)
        x.zero_()  # behind the copy
        wrong, right = torch.cuda.Event(), torch.cuda.Event()
        wrong.record()  # on the current device, which is another one
        wrong.synchronize()
        assert target.tolist() != [0, 1, 2, 3]
        torch.cuda.synchronize()
        assert target.tolist() != [0, 1, 2, 3]
        right.record(torch.cuda.current_stream(1))
        right.synchronize()
        assert target.tolist() == [0, 1, 2, 3]
        assert cuda.log == [("copy", 1), ("record", 0), ("wait", 0), ("wait", 0), ("record", 1), ("wait", 1)]


def test_each_device_draws_from_a_generator_of_its_own() -> None:
    with stand_in():
        torch.manual_seed(7)
        first, host = torch.randn(4, device="cuda:0"), torch.randn(4)
        state = torch.cuda.get_rng_state("cuda:0")
        assert state.view(torch.int64).tolist() == [7, 4]
        second = torch.randn(4, device="cuda:0")
        torch.cuda.set_rng_state(state, "cuda:0")
        assert numbers(torch.randn(4, device="cuda:0")).equal(numbers(second))
        assert not numbers(first).equal(host)
        torch.manual_seed(7)
        assert torch.randn(4).equal(host)
        assert numbers(torch.randn(4, device="cuda:0")).equal(numbers(first))


def test_half_precision_is_chosen_as_on_a_gpu() -> None:
    layer = nn.Linear(3, 3)
    with stand_in():
        layer.to("cuda:0")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = layer(torch.ones(2, 3, device="cuda:0"))
        assert out.dtype == torch.bfloat16
        assert isinstance(out, OnCuda)
    with pytest.raises(AssertionError, match="outside"):
        _ = out + 1
