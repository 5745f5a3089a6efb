"""A table of texts, as columns for a terminal and as Markdown for a report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vdvae_patch.errors import visible


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text columns, as wide as their longest cell."""
    lines = [list(header), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]], *, numbers: bool = True) -> str:
    """A Markdown table, its last line ended; with `numbers`, all columns but the first are aligned to the right.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    rules = [":--", *["--:"] * (len(header) - 1)] if numbers else ["---"] * len(header)
    lines = [list(header), rules, *(list(row) for row in rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a row of {len(line)} cells under {len(header)} columns: {line}")
    return "".join(f"| {' | '.join(visible(cell).replace(chr(10), ' ') for cell in line)} |\n" for line in lines)


def literal(text: object) -> str:
    """A text from a file, for Markdown: it is shown as it is, in one line, and is no link, no code and no HTML."""
    plain = visible(str(text)).replace("\n", "\\n").replace("\t", " ")
    return re.sub(r"([`|<>\[\]*])", r"\\\1", plain)


def fenced(text: str, language: str = "") -> str:
    """A block of code; its fence is longer than any in the text."""
    shown = visible(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"
