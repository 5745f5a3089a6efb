"""docs/reports.md: each exhibit breaks as it stands, is explained as the page says, and trains with its cure."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reports"
PAGE = (ROOT / "docs" / "reports.md").read_text()
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "museum")
LONGEST = {"flow", "half", "ldm", "rate", "sigma_vae", "speech", "vaal", "vrnn"}
"""Most of the time of all; the other six have heads and none, refused Normals, bad data and bad gradients."""
SECTIONS = {found[1]: text for text in re.split("\n### ", PAGE) if (found := re.search(r"\n\[(\w+)\.py\]", text))}


@pytest.fixture
def exhibit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports an exhibit, from the top of the repository, where the page runs it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # compiling turns it off for good

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"exhibit_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONGEST else name for name in NAMES]
)
def test_an_exhibit_breaks_and_is_explained_and_cured(
    name: str, exhibit: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = exhibit(name)
    capsys.readouterr()
    vanilla_is_well, cured_is_well, guard = shown.show()
    printed, report = capsys.readouterr().out, guard.report()
    assert not vanilla_is_well
    assert cured_is_well
    explained = [skip for skip in guard.skips if skip.diagnosis is not None]
    assert all(skip.file is None or Path(skip.file).name == f"{name}.py" for skip in explained)
    assert shown.OPERATION in report
    if shown.OPERATION.startswith("aten."):
        assert explained[0].operation.startswith(shown.OPERATION)
    if shown.HEAD is None:
        assert not any(skip.head for skip in guard.skips)
        assert "head: " not in report
        assert "the cure" not in report
        assert "healed:" not in printed
    else:
        assert f"  head: {shown.HEAD}[" in report
        assert f"patch(model, {shown.CURE!r}, heads=heads)" in report
        assert {skip.head for skip in explained} <= {shown.HEAD}
        assert "healed: " in printed or "torch.distributions raised" in report
    for line in printed.splitlines():
        if line.startswith("healed: "):
            assert "all weights and buffers are finite" in line
    assert str(ROOT) not in printed  # lines are named from the current folder on
    assert _scanned(printed) == _scanned(SECTIONS[name])


def _scanned(text: str) -> list[str]:
    """The heads and the warnings of the scan; what the batch gave differs in its digits from processor to processor."""
    lines = text.partition("\nscan:\n")[2].partition("\n\n")[0].splitlines()
    assert lines
    return [line for line in lines if not line.startswith(("this batch", "the first operation"))]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_of_an_exhibit_what_it_declares(name: str, exhibit: Callable[[str], ModuleType]) -> None:
    shown, section = exhibit(name), SECTIONS[name]
    links = re.findall(r"\[(\S+)#(\d+)\]\(https://github.com/(\S+)/issues/(\d+)\)", section)
    assert [f"{repository}#{number}" for repository, number, _, _ in links] == shown.REPORTS
    assert all((repository, number) == (of, at) for repository, number, of, at in links)
    told = section.partition("```text\n")[2]
    assert shown.OPERATION in told
    row = next(line for line in PAGE.splitlines() if line.startswith("|") and f"(reports/{name}.py)" in line)
    source = (FOLDER / f"{name}.py").read_text()
    code = section.partition("```python\n")[2].partition("```")[0]
    if shown.HEAD is None:
        assert "  head: " not in told
    else:
        assert f"head `{shown.HEAD}` | `{shown.CURE}`" in row
        assert f"  head: {shown.HEAD}[" in told
        assert f"patch(model, {shown.CURE!r}, heads=heads)" in told
        assert code.count("\n") == 2
        for line in code.splitlines():
            assert line.replace(f'"{shown.CURE}"', "CURE") in source
    assert re.search(r"^vanilla: (\w+Error|.*not finite)", told, flags=re.MULTILINE)
    assert re.search(r"^cured: .*every loss is finite.*all weights and buffers are finite$", told, flags=re.MULTILINE)
    if "a learning rate that is raised" in source:
        assert "raised" in section.partition("```")[0]


def test_the_page_has_every_exhibit() -> None:
    assert sorted(SECTIONS) == NAMES
    cured = PAGE.partition("\n## Cured\n")[2].partition("\n## What this package cannot cure\n")[0]
    assert cured.count("\n### ") >= 10
    for page in (ROOT / "README.md", ROOT / "docs" / "guard-your-loop.md"):
        assert "reports.md)" in page.read_text(), page


@pytest.mark.medium
def test_an_exhibit_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "docs/reports/data.py"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "from outside: the batch is not finite: rows 6, 11 of input 0" in done.stdout
