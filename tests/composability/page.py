"""docs/composability.md: written from cells, and read again for the test."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import ranks
from .models import COLUMNS
from .table import NOT_APPLICABLE, ROWS, Row, SilentlyWrongError, cell

PAGE = Path(__file__).resolve().parents[2] / "docs" / "composability.md"
COMMAND = "python -m tests.composability --write"
THEMES = {
    "copies": "Copies and checkpoints",
    "compilers": "Compilers, tracers and exporters",
    "wrappers": "Parallelism and wrappers",
    "autodiff": "Derivatives, checkpointing and hooks",
    "precision": "Types, memory and quantization",
    "adapters": "Adapters, parametrizations and replaced parts",
    "frameworks": "Frameworks",
    "processes": "Threads and processes",
    "python": "Python",
}
PACKAGES = ("torch", "lightning", "accelerate", "peft", "transformers", "diffusers", "pythae")

_INTRODUCTION = """\
# What a patched model can be put through

Rows are what people do to a model; columns are the three kinds of patch. *output*: a head at the output of a layer.
*expression*: a head in the host's own lines, with a floor or a clamp behind the exponential. *named host*: VDVAE's
block, whose method a patch file replaces. A cell is what a test saw with a small model of each kind, patched with
`explin` for the posterior and `upbounded` for the prior unless the row says otherwise:

- **works**: loss and gradient (or what the row is about) are those of the eager patched model with the same weights, to
  rounding, and not those of the vanilla model; `check_intact` is content; and unpatching gives the vanilla model bit
  for bit where the tool lets go of it.
- **refused**: an error says what is the matter and what to do; the cell has its beginning.
- **said by check_intact**: the tool goes around the patch, and `vdvae_patch.check_intact(model)` raises; call it after
  anything that changes a model.
- **vanilla fails, too**: the same does not work with the model that is not patched.

A cell that was silently wrong would be a failing test, and stands nowhere here. Nothing below is typed by hand:
`{command}` runs every row and writes this page, and the tests compare each cell with it.

Versions: {versions}.
"""

_LEFT_OUT = """\
## Left out

`torch.onnx.export` needs the packages `onnx` and `onnxscript`, and what it writes needs a runtime to be compared with;
what it is given, the program of `torch.export`, is above. NCCL, several machines and GPUs are not in this table.
"""


def load_rows() -> None:
    """Import the files of rows, in the order of the page."""
    for theme in THEMES:
        importlib.import_module(f".{theme}", __package__)


def computed(row: Row, column: str) -> str:
    """The cell, whether this process runs it or two ranks; raises what a failed cell is."""
    if column not in row.columns:
        return NOT_APPLICABLE
    if not row.ranks:
        return cell(row, column)
    said = ranks.cells()[row.name][column]
    if said.startswith("!"):
        raise SilentlyWrongError(said[1:])
    return said


def versions() -> str:
    """The packages of the rows, with their versions."""
    known = []
    for name in PACKAGES:
        try:
            known.append(f"{name} {version(name).partition('+')[0]}")
        except PackageNotFoundError:
            known.append(f"{name} missing")
    return ", ".join(known)


def written(cells: Mapping[str, Mapping[str, str]]) -> str:
    """The page, of the cells of every row."""
    parts = [_INTRODUCTION.format(command=COMMAND, versions=versions())]
    for theme, title in THEMES.items():
        lines = [f"## {title}\n", f"| what is done | {' | '.join(COLUMNS)} | note |", "|---" * (len(COLUMNS) + 2) + "|"]
        for row in ROWS.values():
            if row.theme == theme:
                lines.append(f"| {row.name} | {' | '.join(cells[row.name][c] for c in COLUMNS)} | {row.note} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, _LEFT_OUT])


def recorded() -> dict[str, dict[str, str]]:
    """The cells of the page, by row and column."""
    found: dict[str, dict[str, str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else ():
        if line.startswith("| ") and not line.startswith("| what is done"):
            name, *cells, _ = (part.strip() for part in line.strip("|").split(" | "))
            found[name.removeprefix("| ")] = dict(zip(COLUMNS, cells, strict=True))
    return found
