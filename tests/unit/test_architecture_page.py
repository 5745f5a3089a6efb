"""docs/architecture.md tells the truth: its paths exist, its layers are those that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_house import LAYERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = [ROOT, ROOT / "vdvae_patch", ROOT / "tests"]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w./]+(?:\.py|\.md|\.toml|/))`", PAGE))))
def test_every_file_that_is_named_exists(name: str) -> None:
    path = name.replace("NAME", "*")
    assert any(list(room.glob(path.rstrip("/"))) for room in ROOMS), name


def test_every_layer_is_in_the_table() -> None:
    table = PAGE[PAGE.index("## The layers") : PAGE.index("`upstream/` holds hosts")]
    for room in (room for rooms in LAYERS for room in rooms):
        assert re.search(rf"`{room}(/|\.py)`", table), room
