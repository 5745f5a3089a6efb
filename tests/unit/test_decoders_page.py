"""docs/decoders-and-objectives.md: its blocks are one program, which prints what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vdvae_patch.decoders import DECODERS
from vdvae_patch.objectives import OBJECTIVES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "decoders-and-objectives.md").read_text()


@pytest.mark.slow
def test_the_page_prints_what_it_says(page_program: Callable[[str], list[tuple[str, str, str]]]) -> None:
    for code, told, seen in page_program(PAGE):
        assert seen == told, code


def test_every_decoder_and_objective_is_in_its_table() -> None:
    for name in (*DECODERS, *OBJECTIVES):
        assert re.search(rf"^\| `{name}[`(]", PAGE, flags=re.MULTILINE), name


def test_the_forms_in_the_tables_are_those_that_can_be_written() -> None:
    for registry in (DECODERS, OBJECTIVES):
        for name in registry:
            form = re.search(rf"^\| `({name}[^`]*)`", PAGE, flags=re.MULTILINE)
            assert form is not None
            if "..." not in form[1]:
                registry.get(form[1])
