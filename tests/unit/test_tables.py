"""Tables of texts, for a terminal and for Markdown."""

from __future__ import annotations

import pytest

from vdvae_patch.tables import columns, markdown


def test_columns_line_up_without_trailing_blanks() -> None:
    text = columns(("head", "role"), [("encoder.out", "prior"), ("d", "posterior")])
    assert text.splitlines() == [
        "head         role",
        "-----------  ---------",
        "encoder.out  prior",
        "d            posterior",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert columns(("head",), []).splitlines() == ["head", "----"]
    assert markdown(("head",), []).splitlines() == ["| head |", "| :-- |"]


def test_rows_of_another_length_are_refused() -> None:
    for write in (columns, markdown):
        with pytest.raises((ValueError, IndexError)):
            write(("a", "b"), [("1",)])
        with pytest.raises((ValueError, IndexError)):
            write(("a", "b"), [("1", "2", "3")])


def test_numbers_are_aligned_to_the_right_of_a_name_in_markdown() -> None:
    rows = [("vanilla", "1.0"), ("explin", "")]
    assert markdown(("variant", "NaN"), rows) == "| variant | NaN |\n| :-- | --: |\n| vanilla | 1.0 |\n| explin |  |\n"
    assert markdown(("a", "b"), [("x", "y")], numbers=False) == "| a | b |\n| --- | --- |\n| x | y |\n"
