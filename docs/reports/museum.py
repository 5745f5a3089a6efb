"""What the exhibits share: real data, a training loop as thousands are written, and a visit to one exhibit."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vdvae_patch

digits = torch.tensor(load_digits().images, dtype=torch.float32) / 16
"""1797 handwritten digits, 8 x 8 pixels from 0 to 1."""


def batches(data: Tensor, steps: int, size: int = 32) -> Iterable[tuple[Tensor]]:
    """Whole batches in the order of the data, again and again."""
    whole = len(data) // size
    return ((data[size * (step % whole) :][:size],) for step in range(steps))


def loop(
    model: nn.Module, optimizer: Any, data: Iterable[tuple[Any, ...]], loss_of: Callable[..., Tensor] | None = None
) -> list[float]:
    """The training loop of most exhibits; nothing in it knows of this package. Gives the losses.

    Args:
        loss_of: of the model and a batch; None for a model that returns its loss.
    """
    losses = []
    for batch in data:
        loss = model(*batch) if loss_of is None else loss_of(model, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@contextmanager
def one_thread() -> Iterator[None]:
    """Faster for tensors as small as these, and sums are rounded in the same order on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def attempt(model: nn.Module, train: Callable[[Any], list[float]]) -> tuple[bool, str]:
    """Train. Gives whether all went well, and how it went, in a line."""
    try:
        losses = torch.tensor(train(model))
    except (ValueError, vdvae_patch.GuardError) as error:
        return False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    bad = (~losses.isfinite()).nonzero().flatten().tolist()
    how = f"every loss is finite, the last is {losses[-1]:.3g}"
    if bad:
        first = f"the first is {losses[bad[0]]} at step {bad[0]}"
        many = "1 loss is" if len(bad) == 1 else f"{len(bad)} losses are"
        how = f"{many} not finite ({first}), the last is {losses[-1]:.3g}"
    state = model.state_dict()
    broken = sum(not value.isfinite().all() for value in state.values())
    left = (
        f"{broken} of {len(state)} weights and buffers are not finite"
        if broken
        else "all weights and buffers are finite"
    )
    return not (bad or broken), f"{len(losses)} steps: {how}; {left}"


def visit(
    build: Callable[[], nn.Module],
    train: Callable[[Any], list[float]],
    batch: tuple[Any, ...],
    cured: Callable[[], nn.Module],
    loss_of: Callable[..., Tensor] | None = None,
) -> tuple[bool, bool, vdvae_patch.Guard]:
    """Print what the training does as it stands, what a scan says before it, what a guard says of it, what it does
    under a guard that heals, and with the cure. Gives whether the first and the last went well, and the guard."""
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's; what this package warns of is in what it prints
        vanilla, how = attempt(build(), train)
        print("vanilla:", how)
        scanned = str(vdvae_patch.scan(build(), *batch, call=loss_of))
        print("\nscan:", scanned.partition("\nthe loss as a bound")[0], sep="\n")
        model = build()
        with vdvae_patch.guard(model, file=io.StringIO()) as guard:
            print("\nguarded:", attempt(model, train)[1])
        print(guard.report())
        model = build()
        with vdvae_patch.guard(model, policy="heal", file=io.StringIO()) as healing:
            how = attempt(model, train)[1]
        if healing.healed:
            print("\nhealed:", f"{how}; {len(healing.skips)} of them skipped")
        well, how = attempt(cured(), train)
        print("\ncured:", how)
    return vanilla, well, guard
