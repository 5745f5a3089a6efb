"""The page "Your own host, scale, convention, data set" runs as it stands; entry points need no decorator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL)


def _run(program: str, folder: Path) -> str:
    (folder / "page.py").write_text(program)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_of_the_page_runs_and_prints_what_stands_below_it(tmp_path: Path) -> None:
    files = {code.splitlines()[0].removeprefix("# "): code for code, output in BLOCKS if not output}
    assert set(files) == {"my_vae.py", "my_host.py"}
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    shown = [(code, output) for code, output in BLOCKS if output]
    assert len(shown) == 4
    printed = _run("\n".join(f"{code}\nprint('@@@@')" for code, _ in shown), tmp_path).split("@@@@\n")
    for (_, expected), seen in zip(shown, printed, strict=False):
        assert seen.strip("\n") == expected.strip("\n")


def test_a_class_of_an_entry_point_gets_its_name_without_a_decorator(tmp_path: Path) -> None:
    classes = ("Hyperbola", "Square", "Dots")
    code = "\n".join(re.sub(r"@\w+\.register\(.*?\)\n", "", block) for block, output in BLOCKS if output)
    kept = [part for part in re.split(r"\n(?=\S)", code) if part.startswith(("import", "from", "class"))]
    assert all(any(part.startswith(f"class {name}") for part in kept) for name in classes)
    (tmp_path / "mine.py").write_text("import vdvae_patch\n" + "\n".join(kept) + "\n")
    (tmp_path / "my_host.py").write_text(
        next(c for c, _ in BLOCKS if "HOST = " in c).replace('    name = "my_vae"\n', "")
    )
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vdvae_patch.scales]\nhyperbola = mine:Hyperbola\n[vdvae_patch.conventions]\nsquare = mine:Square\n"
        "[vdvae_patch.datasets]\ndots = mine:Dots\n[vdvae_patch.hosts]\nmy_vae = my_host:HOST\n"
    )
    said = _run(
        "import vdvae_patch\n"
        "from vdvae_patch import conventions\n"
        "from vdvae_patch.data.catalog import load\n"
        "from vdvae_patch.hosts import HOSTS\n"
        "print(vdvae_patch.scales.get('hyperbola'), conventions.get('square'), HOSTS.get('my_vae').name)\n"
        "print(len(load('dots(train=16)', None).train))\n",
        tmp_path,
    )
    assert said == "hyperbola square my_vae\n16\n"


def test_the_flags_of_train_take_the_host_of_the_patch_file(tmp_path: Path) -> None:
    file = tmp_path / "my_host.py"
    file.write_text(next(code for code, _ in BLOCKS if "HOST = " in code).replace('"my_vae"', '"of_a_patch_file"'))
    said = _run(
        "from vdvae_patch.cli.arguments import host_of\n"
        f"print(host_of(['--patches', {str(file)!r}]), host_of(['--patches', {str(file)!r}, '--host', 'vdvae']))\n"
        "print(host_of([]))\n",
        tmp_path,
    )
    assert said == "of_a_patch_file vdvae\nvdvae\n"
