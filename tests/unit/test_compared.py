"""What is said of a step that was done again is what was compared."""

from __future__ import annotations

import math

from vdvae_patch.skips.compared import Compared, again

NAN = math.nan


def test_numbers_that_are_the_same_are_so_bit_for_bit() -> None:
    said = again([Compared("loss", (1.0, 0.5), (1.0, 0.5)), Compared("norm", 3.0, 3.0), Compared("cause", "a", "a")])
    assert said == "done again: loss, norm and cause are the same, bit for bit"
    assert again([Compared("loss", 1.0, 1.0)]) == "done again: the loss is the same, bit for bit"


def test_a_nan_that_is_a_nan_again_is_not_called_the_same_bits() -> None:
    compared = [Compared("loss", NAN, NAN), Compared("rate", 0.5, 0.5), Compared("norm", math.inf, math.inf)]
    assert again(compared) == (
        "done again: the rate is the same, bit for bit; loss and norm are NaN or inf again, of which no more can be "
        "compared"
    )
    assert again([Compared("loss", NAN, NAN)]) == (
        "done again: the loss is NaN again, of which no more can be compared"
    )


def test_of_heads_the_numbers_that_are_finite_count() -> None:
    then, now = (("a", -1.0, NAN), ("b", NAN, 2.0)), (("a", -1.0, NAN), ("b", NAN, 2.0))
    one = Compared("log σ of 2 heads", then, now)
    assert one.same
    assert one.telling
    assert not Compared("log σ of 2 heads", then, (("a", -1.0, NAN), ("b", 3.0, 2.0))).same


def test_what_differs_is_named_alone() -> None:
    compared = [Compared("loss", NAN, 2.0), Compared("norm", 3.0, 3.5), Compared("cause", "a", "a")]
    assert again(compared, "another device") == "done again: loss and norm are NOT those of the step (another device)"
    assert "the loss is NOT that of the step (another machine" in again(compared[:1])
