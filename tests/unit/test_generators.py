"""The states of the random generators, as the libraries themselves give them, however cheaply they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from vdvae_patch.skips.generators import RawStates

_CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    state, own = np.random.get_state(legacy=True), np.random.get_bit_generator()
    yield
    np.random.set_bit_generator(own)
    np.random.set_state(state)


_DRAWS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "one of a pair of Normals": lambda: np.random.randn(),
    "a number": lambda: np.random.rand(),
    "many": lambda: np.random.rand(1000),
    "a seed": lambda: np.random.seed(3),
    "an integer of the generator itself": lambda: np.random.get_bit_generator().random_raw(),
    "another generator": lambda: np.random.set_bit_generator(np.random.PCG64(1)),
    "another twister": lambda: np.random.set_bit_generator(np.random.MT19937(1)),
}


def test_the_state_of_numpy_is_that_which_numpy_gives_after_any_draws() -> None:
    orders = np.random.Generator(np.random.PCG64(0))
    names = list(_DRAWS)
    for number in orders.integers(len(names), size=300):
        _DRAWS[names[number]]()
        found = RawStates.now(_CPU).numpy_state
        if type(np.random.get_bit_generator()) is not np.random.MT19937:
            assert str(found) == str(np.random.get_state(legacy=False))
        else:
            wanted = np.random.get_state(legacy=True)
            assert found[0] == wanted[0]
            np.testing.assert_array_equal(found[1], wanted[1])
            assert found[2:] == wanted[2:]


def test_the_second_of_a_pair_of_normals_comes_again() -> None:
    np.random.seed(0)
    np.random.randn()
    RawStates.now(_CPU)
    states = RawStates.now(_CPU)
    drawn = np.random.randn(3)
    RawStates.now(_CPU)
    states.restore(_CPU)
    np.testing.assert_array_equal(np.random.randn(3), drawn)


def test_a_state_that_was_kept_does_not_change_with_later_draws() -> None:
    np.random.seed(0)
    first = RawStates.now(_CPU)
    drawn = np.random.rand(700)
    RawStates.now(_CPU)
    first.restore(_CPU)
    np.testing.assert_array_equal(np.random.rand(700), drawn)
