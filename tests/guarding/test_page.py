"""docs/guard-your-loop.md: its blocks are one program, which prints what the page says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import vdvae_patch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guard-your-loop.md").read_text()


def test_the_page_prints_what_it_says(page_program: Callable[[str], list[tuple[str, str, str]]]) -> None:
    for code, told, seen in page_program(PAGE):
        assert _rounded(seen) == _rounded(told), code


def _rounded(text: str) -> str:
    """Numbers with two digits: a processor may round the last ones in another way."""
    return re.sub(r"-?\d+\.?\d*", lambda found: f"{float(found[0]):.2g}", text)


def test_the_table_has_every_argument() -> None:
    for name in inspect.signature(vdvae_patch.guard).parameters:
        assert name == "model" or f"`{name}`" in PAGE, name
