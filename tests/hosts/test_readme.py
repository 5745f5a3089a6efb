"""The README's blocks run as they stand, print what they say they print, and its links lead to files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MY_VAE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "my-vae-gives-nan.md").read_text(), re.DOTALL)[0]

_AGAIN = """
torch.manual_seed(0)
model, batch = VAE(), torch.randn(16, 8)
"""


def _run(program: str, folder: Path) -> str:
    (folder / "my_vae.py").write_text(MY_VAE)
    (folder / "page.py").write_text(program)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_two_lines_cure_the_model_and_print_what_the_page_says(tmp_path: Path) -> None:
    told = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0].strip().splitlines()
    seen = _run(_blocks()[0], tmp_path).strip().splitlines()
    assert told.count("...") == 2
    place = 0
    for line in told:
        if line != "...":
            assert _rounded(line) in [_rounded(other) for other in seen[place:]], line
            place = next(i for i in range(place, len(seen)) if _rounded(seen[i]) == _rounded(line))
    assert _rounded(seen[0]) == _rounded(told[0])
    assert _rounded(seen[-1]) == _rounded(told[-1])


def test_the_other_blocks_run(tmp_path: Path) -> None:
    first, guarded, steps = _blocks()
    assert "guard = vdvae_patch.guard(model)" in guarded
    head = first[: first.index("torch.manual_seed")]
    loop = """
optimizer = torch.optim.Adam(model.parameters())
for step in range(2):
    optimizer.zero_grad()
    model.encoder[-1].bias.data[4:] = 0.0 if step else -55.0
    model(batch).backward()
    optimizer.step()
"""
    printed = _run(head + _AGAIN + guarded.replace("...", loop, 1) + "guard.remove()\n" + _AGAIN + steps, tmp_path)
    assert "2 steps, 1 of them skipped" in printed
    assert "the same step is finite under explin" in printed
    assert "+        mean, log_sigma = with_stable_posterior_log_sigma(self.encoder(x)).chunk(2, dim=1)" in printed
    assert (tmp_path / "my-model").is_dir()


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    assert len(links) > 15
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120


def _rounded(text: str) -> str:
    """Numbers to four digits: another processor adds up in another order."""
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.4g}", text)
