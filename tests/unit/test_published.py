"""The papers' numbers: each held against what the papers print, written here a second time by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdvae_patch.errors import DataError
from vdvae_patch.experiments import large_vae, table1, table2_cells, table3_cells, table4
from vdvae_patch.experiments.published import FILE, published

TABLE_2 = """
0.008 NaiveExp  10 10 10
0.008 Exp       10  7  8
0.008 ExpLin     0  0  0
0.008 UpBounded  0  0  0
0.007 NaiveExp  10  8  9
0.007 Exp        4  7  3
0.007 ExpLin     0  0  0
0.007 UpBounded  0  0  0
0.006 NaiveExp   7  9  3
0.006 Exp        5  6  2
0.006 ExpLin     0  0  0
0.006 UpBounded  0  0  0
"""

TABLE_3 = """
NaiveExp     5.35 0.05   -    -
Exp          5.36 0.06   -    -
UpBounded    5.25 0.02   -    -
DownBounded  5.30 0.06   4.56 0.07
Bounded      5.05 0.07   4.56 0.05
Global       6.67 0.004  6.06 0.02
"""

TABLE_4 = """
vanilla               22    9  13   3  2.014 0.009
upbounded              0    0   0   0  2.020 0.006
explin                47   61   0   0  2.030 0.011
vanilla/constant      37   43  14  16  2.009 0.003
upbounded/constant  2645 2063   0   0  2.028 0.007
explin/constant        1    1   0   0  2.006 0.008
"""

LARGE_VAE = """
mnist-thresholded   -276.18  -544.73  -458.72
frey-faces         -2344.96 -2279.22 -1975.06
fashion-mnist      -3190.18 -3348.91 -2765.41
"""

EXEMPLAR_VAE = """
mnist-drawn-anew           -84.45 0.12   -82.43 0.06   -82.39 0.11   -81.56 0.09
fashion-mnist-drawn-anew  -228.70 0.15  -227.35 0.05  -227.37 0.1   -226.72 0.08
"""


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_table_1_has_its_eight_numbers() -> None:
    found = {(str(row.dtype), row.form): (row.p, row.sigma) for row in table1.PUBLISHED}
    assert found == {
        ("torch.float32", "log ratio"): (-103, "1.85e-45"),
        ("torch.float32", "PyTorch"): (-51, "7.10e-23"),
        ("torch.float16", "log ratio"): (-17, "4.14e-08"),
        ("torch.float16", "PyTorch"): (-8, "3.35e-04"),
    }


def test_table_2_has_its_36_counts() -> None:
    assert {(float(lr), name): tuple(map(int, n)) for lr, name, *n in _rows(TABLE_2)} == table2_cells.PAPER


def test_table_3_has_its_twelve_cells() -> None:
    wanted = {}
    for name, *cells in _rows(TABLE_3):
        for mean, (value, deviation) in zip(("identity", "sigmoid"), (cells[:2], cells[2:]), strict=True):
            wanted[name, mean] = None if value == "-" else (float(value), float(deviation))
    assert wanted == table3_cells.PAPER


def test_table_4_has_its_36_numbers() -> None:
    wanted = {}
    for name, *cells in _rows(TABLE_4):
        a, b, c, d, e, f = map(float, cells)
        wanted[name] = ((a, b), (c, d), (e, f))
    assert wanted == table4.PAPER


def test_the_tables_of_large_vae_and_exemplar_vae_have_their_numbers() -> None:
    assert {name: (*map(float, cells), None) for name, *cells in _rows(LARGE_VAE)} == large_vae.LARGE_VAE
    wanted = {}
    for name, *cells in _rows(EXEMPLAR_VAE):
        wanted[name] = tuple(f"{a} ± {b}" for a, b in zip(cells[::2], cells[1::2], strict=True))
    assert wanted == large_vae.REFERENCES


def test_every_table_of_the_file_is_tested_here() -> None:
    assert set(published()) == {"table1", "table2", "table3", "table4", "large_vae", "exemplar_vae"}


def test_a_changed_number_is_noticed_before_it_is_compared_with(tmp_path: Path) -> None:
    changed = tmp_path / "published.toml"
    changed.write_text(FILE.read_text().replace("2.014", "2.041"))
    with pytest.raises(DataError, match=r"the published numbers were changed .* put the file back"):
        published(changed)
    changed.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        published(changed)
    changed.write_bytes(FILE.read_bytes().replace(b"\n", b"\r\n"))  # as a checkout on Windows has it
    assert published(changed) == published()


def test_no_module_of_the_experiments_writes_a_published_number_of_its_own() -> None:
    shown = {"2645", "2063", "2.014", "6.67", "-2344.96", "-544.73", "-84.45", "1.85e-45", "7.10e-23"}
    for file in FILE.parent.glob("*.py"):
        lines = file.read_text().split('"""')[2:]  # a docstring of a module may tell of them
        assert not {number for number in shown if number in "".join(lines[::2])}, file.name
