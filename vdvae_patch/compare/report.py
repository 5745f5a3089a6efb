"""`report.md`: the table, what it says, the figures, and where every number comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import tomli_w

from vdvae_patch.compare.plan import Comparison
from vdvae_patch.compare.results import Row, RunResult, by_mass
from vdvae_patch.compare.table import CURVES_BY_LIKELIHOOD, cells, convention, headings, notes, number
from vdvae_patch.errors import visible
from vdvae_patch.tables import fenced, literal, markdown
from vdvae_patch.train.sessions import VERSIONS, last_process

CURVES = "curves.png"
GALLERY = "images.png"

_RUN_HEADINGS = (
    "run", "outcome", "steps", "high gradients", "NaN", "test NELBO (nats/dim)", "over finite batches", "images/s",
    "peak memory (MiB)",
)  # fmt: skip


def report(
    comparison: Comparison,
    rows: Sequence[Row],
    results: Sequence[RunResult],
    sentences: Sequence[str],
    gallery: str,
    command: str,
) -> str:
    """The whole document; `gallery` is the caption of the images, or why there are none."""
    parts = [
        "# Variants side by side",
        markdown(headings(rows), [map(literal, cells(row, by_mass(rows))) for row in rows]) + "\n" + convention(rows),
        _bullets(notes(rows, results)),
        "## What it says",
        _bullets(sentences),
        "## Training",
        f"![training NELBO and skipped updates]({CURVES})",
        "Every line is a run; a cross marks where one ended because it no longer learned. The NELBO is that of the "
        "training batches, averaged over neighbouring steps, of the applied updates alone."
        + (CURVES_BY_LIKELIHOOD if by_mass(rows) else ""),
        "## Images",
        gallery,
        "## Runs",
        markdown(_RUN_HEADINGS, [_run_cells(result) for result in results]),
        "## Settings",
        "Shared by all runs; with one seed, all variants start from the same weights and see the same batches and the "
        "same noise.",
        fenced(_settings(comparison), "toml"),
        "## Where it comes from",
        f"Made by:\n\n{fenced(command)}",
        _bullets(_provenance(results)),
        "Each run can be done again by its own command:",
        fenced("\n".join(_one_line(result.seen.get("command", "")) for result in results)),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def gallery_section(caption: str) -> str:
    """The image and its caption."""
    return f"![originals, reconstructions and samples]({GALLERY})\n\n{caption}"


def _run_cells(result: RunResult) -> tuple[str, ...]:
    memory = result.summary.get("peak_memory_bytes")
    trusted = result.outcome != "refused"
    return (
        f"[{literal(result.label)}]({quote(result.folder.name)})",
        result.outcome if result.outcome != "stopped" else "stopped: no longer learns",
        str(result.steps) if trusted else "-",
        str(result.high_gradient) if trusted else "-",
        str(result.nan) if trusted else "-",
        number(result.nelbo, 4),
        number(result.filtered, 4),
        number(result.summary.get("images_per_second"), 1),
        "-" if memory is None else f"{memory / 2**20:.0f}{last_process(result.seen)}",
    )


def _settings(comparison: Comparison) -> str:
    own = {"variant", "seed", "out", "resume"}
    table = {key: value for key, value in comparison.base.settings().items() if key not in own}
    return tomli_w.dumps(table)


def _provenance(results: Sequence[RunResult]) -> list[str]:
    lines = []
    for key in VERSIONS:
        lines.append(f"{key}: {_distinct(result.seen.get(key) for result in results)}")
    lines.append(f"host: {_distinct(_host(result.seen.get('host', {})) for result in results)}")
    lines.append(f"data: {_distinct(_data(result).get('source') for result in results)}")
    for seed in dict.fromkeys(result.seed for result in results):
        prints = _distinct(str(_data(result).get("fingerprint", ""))[:16] for result in results if result.seed == seed)
        lines.append(f"training images of seed {seed}: SHA-256 {prints}")
    return lines


def _host(host: Mapping[str, Any]) -> str:
    known = host if isinstance(host, Mapping) else {}
    return " ".join(str(known[key]) for key in ("kind", "commit") if key in known)


def _one_line(text: object) -> str:
    return str(text).replace("\n", "\\n")


def _data(result: RunResult) -> Mapping[str, Any]:
    found = result.seen.get("data", {})
    return found if isinstance(found, Mapping) else {}


def _distinct(values: Any) -> str:
    texts = list(dict.fromkeys(literal(value) for value in values))
    return texts[0] if len(texts) == 1 else f"DIFFERENT between runs: {', '.join(texts)}"


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"- {visible(line).replace(chr(10), ' ')}\n" for line in lines)
