"""The notebooks run from the first cell to the last, and what they promise in words is what they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.medium

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def _printed(notebook: Any) -> str:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return "\n".join(output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout")


def _run(name: str, folder: Path) -> tuple[str, str]:
    """What a notebook prints now, and what is written in it."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    before = _printed(notebook)
    nbclient.NotebookClient(notebook, timeout=1700, resources={"metadata": {"path": str(folder)}}).execute()
    return _printed(notebook), before


@pytest.mark.slow
def test_a_diffusers_autoencoder_is_patched(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    now, before = _run("patch-a-diffusers-autoencoder", tmp_path)
    for printed in (now, before):
        clipped, patched = re.findall(r"bias 40\.0: loss +(\S+), its gradient +(\S+)", printed)
        assert float(clipped[0]) > 1e3
        assert float(clipped[1]) == 0
        assert float(patched[0]) < 1
        assert float(patched[1]) > 0
        assert "True" in printed.splitlines()
        assert "stable_posterior_log_variance" in printed


@pytest.mark.slow
def test_a_lightning_run_is_guarded(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    now, before = _run("guard-a-lightning-run", tmp_path)
    for printed in (now, before):
        counts = re.findall(r"parameters that are not finite: (\d+) of 12", printed)
        assert counts == ["12", "0", "0"]
        assert "the same step is finite under explin" in printed
        assert printed.strip().endswith("320 steps, no update was skipped")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_comparison_is_read(tmp_path: Path) -> None:
    now, before = _run("read-a-comparison", tmp_path)
    for printed in (now, before):
        assert len(re.findall(r"test NELBO \d\.\d+ nats/dim, \d+ high gradients, \d+ NaN", printed)) == 2
        assert "| vanilla |" in printed
        counts = dict(re.findall(r"(\S+)-seed0: (\d+) skipped updates", printed))
        # how many depends on the processor: that they are those of the run's own summary does not, nor whose are NaN
        lost = {name: re.findall(rf"{name}-seed0 .* (\d+) high gradients, (\d+) NaN", printed)[0] for name in counts}
        assert counts == {name: str(sum(map(int, numbers))) for name, numbers in lost.items()}
        assert int(lost["vanilla"][1]) > 0 == int(lost["explin-constant"][1])
    assert (tmp_path / "runs" / "report.md").exists()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_path_of_a_machine_is_written_in_it(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r'(?<![\w.:/"<-])/(?:home|root|tmp|work|usr|opt)/', text)
