"""docs/architecture.md tells the truth: its paths exist, its example runs, its layers are those that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from test_house import LAYERS

from vdvae_patch.scales import SCALES

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


def test_the_scale_of_the_example_is_one() -> None:
    code = PAGE[PAGE.index("# my_scales.py") : PAGE.index("```", PAGE.index("# my_scales.py"))]
    try:
        exec(compile(code, "my_scales.py", "exec"), {"__name__": "my_scales"})
        scale = SCALES.get("squareplus")
        p = torch.linspace(-1e4, 1e4, 2001, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(scale.sigma(p).log(), scale.log_sigma(p))
        exact = 1 / torch.sqrt(p * p + 4)
        torch.testing.assert_close(torch.autograd.grad(scale.log_sigma(p).sum(), p)[0], exact)
        near = torch.linspace(-3, 3, 13, dtype=torch.float64)
        torch.testing.assert_close(scale.inverse(scale.sigma(near)), near)
        assert scale.sigma(torch.tensor([-3e38, 3e38])).isfinite().all()
    finally:
        SCALES._classes.pop("squareplus", None)
