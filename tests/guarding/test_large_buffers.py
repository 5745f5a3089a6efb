"""A large buffer is copied when somebody writes to it, whoever that is; and a skipped step leaves it bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.guarding.buffers import _AGAIN, Buffers

SIZE = (600, 600)  # 1.4 MB


class Queue(nn.Module):
    """A table that the forward pass writes to, in the way that it is told."""

    def __init__(self, write: Callable[[Queue], object] = lambda model: None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("table", torch.zeros(SIZE))
        self.write = write
        self.table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.write(self)
        return self.linear(x).sum() + self.table[0, 0]  # type: ignore[no-any-return]


def batch_norm(model: Queue) -> None:
    """Its kernel does not count what it writes."""
    nn.functional.batch_norm(torch.randn(2, SIZE[0]), model.table[0], torch.ones(SIZE[0]), training=True)


def by_numpy(model: Queue) -> None:
    model.table.numpy()[0] += 1


def exchanged(model: Queue) -> None:
    model.table = model.table + 1


WRITES: dict[str, Callable[[Queue], object]] = {
    "nothing": lambda model: None,
    "in place": lambda model: model.table.add_(1),
    "a row": lambda model: model.table[3].copy_(torch.randn(SIZE[1])),
    ".data": lambda model: model.table.data.add_(1),
    "a kernel": batch_norm,
    "numpy": by_numpy,
    "another tensor": exchanged,
}


def is_shared(model: Queue) -> bool:
    return bool(torch._C._is_cow_tensor(model.table))


def step(model: Queue, optimizer: torch.optim.Optimizer, value: float = 1.0) -> None:
    optimizer.zero_grad()
    model(torch.full((3, 4), value)).backward()
    optimizer.step()


@pytest.mark.parametrize("sound", [0, 1, 3, _AGAIN + 3])
@pytest.mark.parametrize("name", list(WRITES))
def test_a_skipped_step_puts_it_back_bit_for_bit(name: str, sound: int) -> None:
    model = Queue(WRITES[name])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with vdvae_patch.guard(model, diagnose=False) as guard:
        for _ in range(sound):
            step(model, optimizer)
        before = model.table.detach().numpy().copy() if sound % 2 else torch.stack([*model.table]).numpy()
        for _ in range(2):
            step(model, optimizer, math.nan)
            assert (torch.from_numpy(before) == model.table).all()
        assert len(guard.skips) == 2
    after, expected = Queue(WRITES[name]), Queue(WRITES[name])
    after.load_state_dict(model.state_dict())
    expected.load_state_dict(model.state_dict())
    for one in (after, expected):
        torch.manual_seed(0)
        step(one, torch.optim.SGD(one.parameters(), lr=1e-3))
    assert torch.equal(after.table, expected.table)


@pytest.mark.parametrize("hold", [lambda t: t.numpy(), lambda t: t.detach().numpy(), lambda t: t[0], lambda t: t])
def test_what_somebody_else_may_write_to_is_copied_at_once(hold: Callable[[Tensor], object]) -> None:
    model = Queue()
    held = hold(model.table)
    buffers = Buffers(model)
    buffers.take()
    assert not is_shared(model)
    held[0] = 7.0  # type: ignore[index]
    assert float(model.table[0, 0]) == 7
    buffers.put_back()
    assert not model.table.any()
    assert float(held[0].max() if hasattr(held[0], "max") else held[0]) == 0  # type: ignore[index]


def test_one_that_nobody_writes_to_is_not_copied() -> None:
    model = Queue()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    address = torch._C._data_address(model.table)
    with vdvae_patch.guard(model, diagnose=False) as guard:
        for value in (1.0, 1.0, math.nan, 1.0):
            step(model, optimizer, value)
            kept = guard._buffers.state()["table"]
            assert torch._C._data_address(kept) == torch._C._data_address(model.table) == address


def test_one_that_is_written_to_is_copied_in_every_step_for_a_while_and_then_asked_again() -> None:
    model = Queue()
    buffers = Buffers(model)
    buffers.take()
    assert is_shared(model)
    for rest in (1, 2, 4, 8, 16, 32, _AGAIN, _AGAIN):  # as long as each attempt is followed by a write
        model.table.add_(1)
        for _ in range(rest):
            buffers.take()
            assert not is_shared(model)
        buffers.take()
        assert is_shared(model)
    buffers.take()  # nobody has written to it
    model.table.add_(1)
    buffers.take()
    buffers.take()
    assert is_shared(model)


def test_memory_that_is_not_pytorchs_own_is_copied() -> None:
    model = Queue()
    model.table = model.table.share_memory_()
    buffers = Buffers(model)
    buffers.take()
    model.table.add_(1)
    buffers.put_back()
    assert not model.table.any()
    assert model.table.is_shared()
