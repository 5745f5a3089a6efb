"""Writes docs/composability.md, or shows one row of it.

python -m tests.composability --write        run every row, write the page
python -m tests.composability --row NAME     run the rows whose name has NAME in it, and print their cells
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import torch

from .models import COLUMNS
from .page import PAGE, computed, load_rows, written
from .table import ROWS


def main() -> int:
    """0, or 1 if a row failed, in which case nothing is written."""
    parser = argparse.ArgumentParser(prog="python -m tests.composability", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--row", default="", help="a part of the names of the rows to run")
    options = parser.parse_args()
    if options.write == bool(options.row):
        parser.error("either --write or --row NAME")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    load_rows()
    cells: dict[str, dict[str, str]] = {}
    failed = 0
    for row in [row for row in ROWS.values() if options.row in row.name]:
        started = time.perf_counter()
        if row.missing:
            print(f"{row.name}: not installed: {', '.join(row.missing)}", file=sys.stderr)
            return 1
        cells[row.name] = {}
        for column in COLUMNS:
            try:
                cells[row.name][column] = computed(row, column)
            except Exception as error:
                cells[row.name][column] = f"FAILED: {type(error).__name__}: {error}"
                failed += 1
        print(f"{time.perf_counter() - started:6.1f} s  {row.name}: {cells[row.name]}", flush=True)
    if failed:
        print(f"{failed} cells failed; nothing is written", file=sys.stderr)
        return 1
    if options.write:
        PAGE.write_text(written(cells), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
