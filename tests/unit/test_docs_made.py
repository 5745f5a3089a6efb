"""What the pages of the documentation are made of: messages that exist, figures that are drawn."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def _made_by(name: str) -> dict[str, Any]:
    """What a file of docs/ defines, which lies in no package."""
    return runpy.run_path(str(ROOT / "docs" / name))


def _all() -> str:
    return str(_made_by("messages.py")["page"](ROOT))


def _plain(text: str) -> str:
    text = re.sub(r"\\(.)", r"\1", text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return " ".join(text.replace("`", "").split())


def test_every_class_and_many_messages_are_listed() -> None:
    page = _all()
    for name in ("PatchError", "DataError", "CheckpointError", "RunError", "GuardError", "InvalidValueError"):
        assert f"## {name}" in page
    assert page.count("\n| ") > 400
    assert "the model is patched already; unpatch it first" in page


def test_troubleshooting_quotes_messages_that_are_raised_or_warned() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quotes = [_plain(quote) for quote in re.findall(r'\*\*"(.*?)"', text, re.DOTALL)]
    assert len(quotes) > 12
    source = _plain(_all())
    for file in (ROOT / "vdvae_patch").rglob("*.py"):
        literal = re.sub(r'"\s*\n\s*f?"', "", file.read_text())  # texts over several lines
        source += " " + _plain(literal)
    for quote in quotes:
        for part in (part.strip(" :;") for part in quote.split("...")):
            assert part in source, (quote, part)


def test_the_figure_of_scales_is_drawn(tmp_path: Path) -> None:
    _made_by("figures.py")["draw"](tmp_path / "scales.png")
    assert (tmp_path / "scales.png").read_bytes()[:8] == (ROOT / "docs" / "scales.png").read_bytes()[:8]
    assert abs((tmp_path / "scales.png").stat().st_size - (ROOT / "docs" / "scales.png").stat().st_size) < 20_000
