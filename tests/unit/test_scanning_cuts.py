"""Parts of a tensor, followed back through what only moves elements, are compared with the elements themselves."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cuts
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.watching.record import Recorder, run_watched


class Numbered(nn.Module):
    """One parameter, every element of which is its own number."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.arange(float(torch.Size(shape).numel())).reshape(shape))


def cuts_of(shape: tuple[int, ...], move: Callable[[Tensor], Tensor]) -> tuple[Cuts, set[int], set[int]]:
    """The cuts of what is left after some moves, the elements that these keep, and the elements that are left."""
    model = Numbered(*shape)
    recorder = Recorder(model, [])
    with torch.no_grad():
        result = run_watched(recorder, move, (model.numbers,))
    spot = settle(Spot(recorder.node_of(result)))
    assert spot.node.name == "numbers"
    kept = model.numbers.detach()
    for cut in spot.cuts:
        if cut.dim != UNKNOWN:
            before = (slice(None),) * cut.dim
            kept = kept[(*before, torch.tensor(list(cut.places)))]
    return spot.cuts, set(kept.flatten().int().tolist()), set(result.flatten().int().tolist())


def random_move(x: Tensor, choose: random.Random) -> Tensor:
    """One of the ways in which a host takes a part, or turns it."""
    kind = choose.choice(["slice", "stride", "select", "chunk", "permute", "view", "unsqueeze", "squeeze", "expand"])
    dim = choose.randrange(x.dim())
    size = x.shape[dim]
    if kind == "slice" and size > 1:
        start = choose.randrange(size - 1)
        return x.narrow(dim, start, choose.randrange(1, size - start + 1))
    if kind == "stride" and size > 2:
        return x[(*(slice(None),) * dim, slice(choose.randrange(2), None, 2))]
    if kind == "select" and x.dim() > 1:
        return x.select(dim, choose.randrange(size))
    if kind == "chunk" and size % 2 == 0:
        return x.chunk(2, dim)[choose.randrange(2)]
    if kind == "permute":
        order = list(range(x.dim()))
        choose.shuffle(order)
        return x.permute(order)
    if kind == "view" and size % 2 == 0 and size > 2:
        shape = list(x.shape)
        shape[dim : dim + 1] = choose.choice([[2, size // 2], [size // 2, 2]])
        return x.reshape(shape)
    if kind == "view" and x.dim() > 1 and dim > 0:
        return x.flatten(dim - 1, dim)
    if kind == "unsqueeze" and x.dim() < 5:
        return x.unsqueeze(dim)
    if kind == "squeeze":
        return x.squeeze(dim) if x.dim() > 1 else x
    if kind == "expand":
        return x.expand(3, *x.shape) if x.dim() < 5 else x
    return x


@pytest.mark.parametrize("seed", range(200))
def test_cuts_keep_just_the_elements_that_are_left(seed: int) -> None:
    choose = random.Random(seed)
    steps = choose.randrange(1, 7)

    def move(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = random_move(x, choose)
        return x

    cuts, kept, left = cuts_of((4, 8, 6), move)
    if any(cut.dim == UNKNOWN for cut in cuts):
        assert left <= kept
    else:
        assert kept == left


def test_most_parts_are_known_as_ranges() -> None:
    unknown = 0
    for seed in range(200):
        choose = random.Random(seed)
        steps = choose.randrange(1, 7)
        cuts, _, _ = cuts_of(
            (4, 8, 6), lambda x, c=choose, n=steps: [x := random_move(x, c) for _ in range(n)][-1]
        )  # fmt: skip
        unknown += any(cut.dim == UNKNOWN for cut in cuts)
    assert unknown < 10


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (lambda x: x.view(4, 4, 2).select(-1, 1), [(1, 1, 4, 8, 2)]),
        (lambda x: x.view(4, 4, 2).unbind(-1)[0], [(1, 0, 4, 8, 2)]),
        (lambda x: x[:, 1::2], [(1, 1, 4, 8, 2)]),
        (lambda x: x.unsqueeze(1).chunk(2, -1)[1], [(1, 4, 4, 8, 1)]),
        (lambda x: x.t().split(4)[1].t(), [(1, 4, 4, 8, 1)]),
        (lambda x: x[:, 2:8][:, 2:4], [(1, 4, 2, 8, 1)]),
        (lambda x: x.expand(3, 4, 8).chunk(2, 2)[0], [(1, 0, 4, 8, 1)]),
        (lambda x: torch.stack([x[:, :4], x[:, 4:]])[1], [(1, 4, 4, 8, 1)]),
        (lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)[:, :4], [(1, 4, 4, 8, 1)]),
        (lambda x: torch.cat([x, x[:, 7:].repeat(1, 3)], 1)[:, 7:], [(1, 7, 1, 8, 1)]),
    ],
)
def test_equal_parts_have_equal_cuts(
    move: Callable[[Tensor], Tensor], expected: list[tuple[int, int, int, int, int]]
) -> None:
    cuts, kept, left = cuts_of((4, 8), move)
    assert [tuple(cut) for cut in cuts] == expected
    assert kept == left
