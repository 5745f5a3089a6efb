"""Which latent a head is of: by order where a role has a head for each, and unknown where it has fewer."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from vdvae_patch.heads import Head, Role
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import TrainableEntry, trainable


def heads(*roles: Role) -> list[Head]:
    return [Head(f"layer{index}", role) for index, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "count", "told"),
    [
        (("posterior",), 1, [0]),
        (("posterior", "likelihood"), 1, [0, None]),
        (("posterior", "prior", "posterior", "prior"), 2, [0, 0, 1, 1]),  # a block after another
        (("posterior", "posterior", "prior", "prior"), 2, [0, 1, 0, 1]),  # all encoders first
        (("posterior", "posterior", "prior"), 2, [0, 1, None]),  # which of the two is N(0, 1)?
        (("posterior", "prior", "prior"), 2, [None, 0, 1]),
        (("posterior", "posterior"), 1, [None, None]),  # two heads of one latent, or one that is not told
        ((), 1, []),
    ],
)
def test_by_order_only_where_order_tells(roles: tuple[Role, ...], count: int, told: list[int | None]) -> None:
    entry: Any = trainable(load_host("mlp_vae").entry)
    assert TrainableEntry.latent_of(entry, nn.Module(), heads(*roles), count) == told
