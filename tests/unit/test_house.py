"""The layout keeps its rules: imports run downward, hosts know nothing of patches, names stay with the project."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdvae_patch.cli import demo

ROOT = Path(__file__).resolve().parents[2]

# From the top to the ground; a room may import rooms below it, and its own.
LAYERS = [
    ["cli"],
    ["report"],
    ["compare", "experiments", "benchmark", "gpu_bench", "counts", "doctor", "scaling"],
    ["train", "launch"],
    ["patches"],
    ["integrations"],
    ["guarding"],
    ["saving"],
    ["hosts", "data"],
    ["scanning"],
    ["baking", "outside"],
    ["patching"],
    ["document"],
    ["attach"],
    ["distributions"],
    ["heads", "seams"],
    ["composition"],
    ["conventions"],
    ["objectives"],
    ["decoders"],
    ["top_priors"],
    ["normal"],
    ["fused", "fused_kernels", "sampled_kl_of_sigmas"],
    ["sampled_kl"],
    ["scales"],
    ["registry", "over_ranks", "pixel_grid"],
    ["outcome", "skips"],
    ["reading"],
    ["given", "tables", "trace"],
    ["errors", "machine", "number_ranges", "own_process", "torch_versions", "untrained"],
]
# The same inside the largest of them.
SCAN = [
    ["stabilizing"],
    ["finder", "verify", "write"],
    ["result"],
    ["bound"],
    ["readings"],
    ["heads"],
    ["places"],
    ["rules"],
    ["evidence"],
    ["watching"],
    ["arithmetic"],
]
HEIGHT = {room: -depth for depth, rooms in enumerate(LAYERS) for room in rooms}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every absolute import of a file, and whether it happens when the file is imported, for types aside."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module in ("vdvae_patch", "vdvae_patch.upstream"):
                yield from ((f"{node.module}.{alias.name}", True) for alias in node.names)
            else:
                yield node.module, True


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "vdvae_patch" else parts[0]


@pytest.mark.parametrize("path", python_files("upstream"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_host_knows_nothing_of_patches(path: Path) -> None:
    assert not [name for name, _ in imported(path) if name.split(".")[0] in ("vdvae_patch", "patches", "launch")]


def test_imports_run_downward() -> None:
    wrong = []
    for path in python_files("vdvae_patch", "patches", "launch"):
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        assert room in HEIGHT, f"{path} is in a room that has no place in LAYERS"
        for name, _ in imported(path):
            parts = name.split(".")
            if parts[0] != "vdvae_patch" or len(parts) < 2 or parts[1] in ("upstream", "__version__"):
                continue
            if HEIGHT.get(parts[1], 0) > HEIGHT[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_rooms_of_the_scan_import_downward() -> None:
    height = {room: -depth for depth, rooms in enumerate(SCAN) for room in rooms}
    wrong = []
    for path in python_files("vdvae_patch/scanning"):
        room = path.relative_to(ROOT / "vdvae_patch" / "scanning").with_suffix("").parts[0]
        if room == "__init__":
            continue
        assert room in height, f"{path} is in a room that has no place in SCAN"
        for name, _ in imported(path):
            parts = name.split(".")
            if parts[:2] == ["vdvae_patch", "scanning"] and len(parts) > 2 and height[parts[2]] > height[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_nothing_below_hosts_knows_a_host_by_name() -> None:
    hosts = [path.stem for path in python_files("patches") if path.stem != "__init__"]
    below = [p for p in python_files("vdvae_patch") if HEIGHT.get(room_of(p), 0) < HEIGHT["hosts"]]
    assert hosts
    assert below
    for path in below:
        code = "\n".join(_without_docs(path))
        assert not [host for host in hosts if f"{host!r}" in code or f'"{host}"' in code], path


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for init in python_files("vdvae_patch", "upstream", "patches", "launch"):
        if init.name == "__init__.py":
            dotted = ".".join(init.parent.relative_to(ROOT).parts)
            found.add(dotted if dotted.startswith("vdvae_patch") else f"vdvae_patch.{dotted}")
    assert listed == found


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["compare", "--help"], ["bench", "--help"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys, vdvae_patch.cli\n"
        "try:\n    vdvae_patch.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert stop.code in (0, None), stop.code\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert "Attributes:" not in done.stdout  # a docstring's list, which the flags' own help repeats


def test_the_demos_help_shows_what_the_demo_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.run(["--seeds", "7", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for default in ("vanilla,upbounded,explin/constant", "7", "runs/demo"):
        assert f"(default: {default})" in text


def _without_docs(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield repr(node.value)


def test_what_the_package_offers_is_named_alike_everywhere() -> None:
    """Names are resolved when they are first used, and so stand in a table, in `__all__`, and as imports for types."""
    import vdvae_patch

    tree = ast.parse((ROOT / "vdvae_patch" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    for_types = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert for_types == set(vdvae_patch.__all__) == {*vdvae_patch._LAZY, *vdvae_patch._MODULES}


def test_every_command_and_every_experiment_has_its_module() -> None:
    from vdvae_patch.cli import commands
    from vdvae_patch.experiments.options import by_name

    assert {"scan", "train", "compare", "replay", "reproduce"} <= set(commands())
    for name in by_name():
        assert (ROOT / "vdvae_patch" / "experiments" / f"{name.replace('-', '_')}.py").exists()
