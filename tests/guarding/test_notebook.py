"""A training loop in a notebook's cell, which IPython compiles by statements, is explained like one of a file."""

from __future__ import annotations

import ast
import io
import linecache
import sys
import types
from pathlib import Path

import pytest
import torch

import vdvae_patch

sys.path.insert(0, str(Path(__file__).parent))
import their_vae

FILE = "/tmp/ipykernel_1/123.py"
CELL = """\
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for x in batches:
    recon, mu, logvar = model(x)
    loss = ((recon - x) ** 2).sum() - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def run_cell(text: str, variables: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(linecache.cache, FILE, (len(text), None, text.splitlines(keepends=True), FILE))
    for statement in ast.parse(text).body:
        code = compile(ast.Module([statement], []), FILE, "exec")
        exec(code.replace(co_name=f"<cell line: {statement.lineno}>"), variables)


@pytest.mark.medium  # the compiler is imported
def test_the_lines_of_a_cell_are_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = their_vae.VAE()
    with torch.no_grad():
        model.logvar.bias.fill_(200.0)
    variables: dict[str, object] = {"torch": torch, "model": model, "batches": [torch.randn(8, 16)]}
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        run_cell(CELL, variables, monkeypatch)
    assert guard.skips[0].head == "logvar"
    assert "is not what is running" not in str(guard.report())


def test_a_cell_that_is_another_now_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = their_vae.VAE()
    with torch.no_grad():
        model.logvar.bias.fill_(200.0)
    variables: dict[str, object] = {"torch": torch, "model": model, "batches": [torch.randn(8, 16)]}
    other = "# another\n" + CELL.replace("optimizer.zero_grad()", "optimizer.zero_grad();\\\n")
    change = f"linecache.cache[{FILE!r}] = (1, None, {other!r}.splitlines(keepends=True), {FILE!r})"
    text = CELL.replace("    loss.backward()", f"    import linecache; {change}\n    loss.backward()")
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        run_cell(text, variables, monkeypatch)
    assert "is not what is running" in str(guard.report())


def test_places_are_named_by_their_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str) -> tuple[str, str] | None:
        return ("Cell", "In[3]") if name == FILE else None

    shell = types.SimpleNamespace(compile=types.SimpleNamespace(format_code_name=named))
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    from vdvae_patch.trace import short, shown

    assert shown(FILE) == short(FILE) == "Cell In[3]"
    assert short("/home/me/my_vae.py") == "my_vae.py"


def test_a_scan_at_the_end_of_a_cell_is_shown_as_its_table() -> None:
    pretty = pytest.importorskip("IPython.lib.pretty")
    heads = vdvae_patch.scan(their_vae.VAE(), torch.randn(8, 16), call=their_vae.loss)
    assert pretty.pretty(heads) == str(heads)
