"""A report lies in docs/results as text, tables and JSON; a number that was changed in one of them alone is noticed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from vdvae_patch.compare.results import spread
from vdvae_patch.experiments.report import Origin, Report, Table
from vdvae_patch.skips.whole import json_record

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def _reports() -> list[Path]:
    found = []
    for path in sorted(RESULTS.rglob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and {"title", "tables", "origin"} <= content.keys():
            found.append(path)
    return found


REPORTS = _reports()
COMPARISONS = sorted(RESULTS.rglob("comparison.json"))


def _read(path: Path) -> dict[str, Any]:
    return json_record(path.read_bytes(), path)[0]  # which refuses one whose checksum does not match


def _name(path: Path) -> str:
    return str(path.relative_to(RESULTS))


def test_there_are_reports_and_comparisons() -> None:
    assert len(REPORTS) > 12
    assert len(COMPARISONS) > 1


@pytest.mark.parametrize("path", [path for path in REPORTS if path.with_suffix(".md").exists()], ids=_name)
def test_the_text_of_a_report_is_that_of_its_json(path: Path) -> None:
    content = _read(path)
    tables = tuple(
        Table(t["name"], t["caption"], tuple(t["header"]), tuple(map(tuple, t["rows"]))) for t in content["tables"]
    )
    origin = Origin(**{**content["origin"], "seeds": tuple(content["origin"]["seeds"])})
    report = Report(content["name"], content["title"], content["introduction"], tables, origin, tuple(content["notes"]))
    pictures = [t.name for t in tables if path.with_name(f"{path.stem}-{t.name}.png").exists()]
    written = path.with_suffix(".md").read_text()
    assert written == report.markdown(figure=path.with_suffix(".png").exists(), of_tables=pictures)


@pytest.mark.parametrize("path", REPORTS, ids=_name)
def test_the_tables_of_a_report_are_those_of_its_json(path: Path) -> None:
    for table in _read(path)["tables"]:
        with path.with_name(f"{path.stem}-{table['name']}.csv").open(newline="") as file:
            found = list(csv.reader(file))
        assert found == [
            ["" if cell is None else str(cell) for cell in row] for row in [table["header"], *table["rows"]]
        ]


@pytest.mark.parametrize("path", COMPARISONS, ids=_name)
def test_the_means_of_a_comparison_are_those_of_its_runs(path: Path) -> None:
    content = _read(path)
    names = {
        "high_gradient": "high_gradient_count", "nan": "nan_count",
        "test_nelbo_nats_per_dim": "test_nelbo_nats_per_dim", "test_nelbo_bits_per_dim": "test_nelbo_bits_per_dim",
    }  # fmt: skip
    for row in content["rows"]:
        runs = [run for run in content["runs"] if run["variant"] == row["variant"]]
        ended = [run for run in runs if run["outcome"] in ("finished", "stopped")]
        for name, of_run in names.items():
            found = spread([run[of_run] for run in ended], row["seeds"])
            assert (found.mean, found.std, found.count) == tuple(row[name][part] for part in ("mean", "std", "count"))
    for run in content["runs"]:
        if (nats := run["test_nelbo_nats_per_dim"]) is not None:
            assert run["test_nelbo_bits_per_dim"] == pytest.approx(nats / math.log(2))
