"""What the pages of the documentation are made of: messages that exist, figures that are drawn."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

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
        parts = [re.escape(part) for part in (part.strip(" :;") for part in quote.split("...")) if part]
        assert re.search(".{0,500}?".join(parts), source), quote  # its parts, in this order, in one message


def test_an_argument_that_is_described_beside_others_is_not_called_required() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: no test of its hooks")
    shown = _made_by("site.py")["on_page_content"]
    row = '<tr class="doc-section-item">\n <td>\n <code>{}</code>\n </td>\n <td>\n <em>required</em>\n </td>\n </tr>'
    page = shown(row.format("model") + row.format("posterior, prior"), None, None, None)
    assert page.count("<em>required</em>") == 1
    assert page.index("<em>required</em>") < page.index("posterior, prior") < page.index("see above")


def test_the_site_asks_no_other_host_for_its_search() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^  - offline", settings, re.MULTILINE)
    assert re.search(r"^  polyfills: \[iframe-worker\.js\]", settings, re.MULTILINE)  # else it is asked of unpkg.com
    assert (ROOT / "docs" / "iframe-worker.js").is_file()


def test_the_figure_of_scales_is_drawn(tmp_path: Path) -> None:
    _made_by("figures.py")["draw"](tmp_path / "scales.png")
    assert (tmp_path / "scales.png").read_bytes()[:8] == (ROOT / "docs" / "scales.png").read_bytes()[:8]
    assert abs((tmp_path / "scales.png").stat().st_size - (ROOT / "docs" / "scales.png").stat().st_size) < 20_000
