"""The library half under another torch, by hand: its tests are run by the Python of another environment.

    python tests/long/old_torch.py OLD/bin/python

OLD is an environment with the torch to be tried, numpy, safetensors, pytest, pytest-xdist and pytest-timeout, and this
package installed in it with `pip install --no-deps --editable .`. Prints which tests passed and which did not, by file.
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = (
    "tests/unit/test_scales.py", "tests/unit/test_scales_sweep.py", "tests/unit/test_normal.py",
    "tests/unit/test_conventions.py", "tests/unit/test_heads.py", "tests/unit/test_top_priors.py",
    "tests/unit/test_decoders.py", "tests/unit/test_objectives.py", "tests/hosts/test_scan.py",
    "tests/hosts/test_scan_rules.py", "tests/hosts/test_scan_stabilize.py", "tests/hosts/test_cured_or_not.py",
    "tests/hosts/test_patching.py", "tests/hosts/test_saved_patch.py", "tests/hosts/test_baked_source.py",
    "tests/hosts/test_normals_that_carry_log_sigma.py", "tests/hosts/test_readme.py", "tests/hosts/test_scan_page.py",
    "tests/guarding/test_diagnosis.py", "tests/guarding/test_undone.py", "tests/guarding/test_page.py",
)  # fmt: skip


def main(python: str) -> int:
    """Run the tests and print the table; 1 if one failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            f"--junitxml={report}",
            *LIBRARY,
        ]
        version = [
            python,
            "-c",
            "import torch, sys; print('torch', torch.__version__, 'Python', sys.version.split()[0])",
        ]
        print(subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip())
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, check=False
        )
        cases = list(ET.parse(report).iter("testcase"))
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    failed = []
    for case in cases:
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[case.attrib["classname"].rpartition(".")[2], outcome] += 1
        if outcome == "failed":
            failed.append(f"{case.attrib['classname']}::{case.attrib['name']}")
    for name in sorted({name for name, _ in counts}):
        print(f"{name:40} " + ", ".join(f"{n} {what}" for (file, what), n in sorted(counts.items()) if file == name))
    print(*failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
