"""docs/top-priors.md: its blocks are one program, which prints what the page says, and its table has every prior."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vdvae_patch.top_priors import TOP_PRIORS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "top-priors.md").read_text()


def test_the_page_prints_what_it_says(page_program: Callable[[str], list[tuple[str, str, str]]]) -> None:
    for code, told, seen in page_program(PAGE):
        assert seen == told, code


def test_every_top_prior_is_in_the_table_in_a_form_that_can_be_written() -> None:
    for name in TOP_PRIORS:
        form = re.search(rf"^\| `({name}[^`]*)`", PAGE, flags=re.MULTILINE)
        assert form is not None, name
        TOP_PRIORS.get(form[1])
