"""What the documentation's site needs beside its pages: the repository's files that they link to, and all messages.

A page may link to a patch file, an example or the CHANGELOG, as readers of the repository want it. On the site each
such file becomes a page of its own below `source/`, so that no link leads out of the site, and a strict build notices a
link to a file that is not there. MkDocs calls the functions that begin with `on_` (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_messages = runpy.run_path(str(ROOT / "docs" / "messages.py"))["page"]  # it lies beside this file and in no package
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_ROW = re.compile(r'<tr class="doc-section-item">\s*<td>\s*<code>([^<]*)</code>.*?</tr>', re.DOTALL)
_REQUIRED = "<em>required</em>"
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".sbatch": "bash", ".yml": "yaml", ".cff": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file outside of docs/ that a page links to, or one that is added."""
    todo = [(ROOT / "docs" / file.src_uri).resolve() for file in files.documentation_pages()]
    todo += [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "vdvae_patch" / "scanning" / "README.md"]
    done = set(todo[-3:])
    while todo:
        page = todo.pop()
        for target in _outside(page):
            if target in done:
                continue
            done.add(target)
            if target.suffix == ".md":
                todo.append(target)
    files.append(File.generated(config, "messages.md", content=_messages(ROOT)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, pictures = _of_notebook(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    for target in sorted(done):
        files.append(File.generated(config, _uri(target), content=_shown(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where their targets are on the site."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    return _led(markdown, ROOT / "docs" / page.file.src_uri, page.file.src_uri)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say of arguments that a docstring describes in one row nothing of their defaults, which are in the signature.

    mkdocstrings looks a row up in the signature by its name, finds no argument `posterior, prior, likelihood`, and
    would call it required.
    """
    return _ROW.sub(lambda row: row[0].replace(_REQUIRED, "see above") if ", " in row[1] else row[0], content)


def _of_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page, with what it printed and drew when it was last run."""
    parts, pictures = [], dict[str, bytes]()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif picture := output.get("data", {}).get("image/png"):
                name = f"{path.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode(picture)
                parts.append(f"![what the notebook drew]({name})")
    parts.append(f"This page is [{path.name}]({path.name}), a notebook that the tests run.")
    return "\n\n".join(parts) + "\n", pictures


def _links(text: str, beside: Path) -> Iterator[tuple[re.Match[str], Path]]:
    """The links of a text to files of the repository that exist; not those in blocks of code."""
    blocks = [match.span() for match in re.finditer(r"^ *```.*?^ *```", text, re.DOTALL | re.MULTILINE)]
    for match in _LINK.finditer(text):
        target = (beside.parent / match[1]).resolve()
        if target.is_relative_to(ROOT) and target.exists() and not any(a < match.start() < b for a, b in blocks):
            yield match, target


def _outside(page: Path) -> Iterator[Path]:
    for _, target in _links(page.read_text(encoding="utf-8"), page):
        if not target.is_relative_to(ROOT / "docs"):
            yield target


def _uri(target: Path) -> str:
    """Where a file of the repository is on the site."""
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix()
    name = target.relative_to(ROOT).as_posix()
    return f"source/{name}" if target.suffix == ".md" else f"source/{name}.md"


def _led(text: str, beside: Path, uri: str) -> str:
    parts, end = [], 0
    for match, target in _links(text, beside):
        parts += [text[end : match.start()], posixpath.relpath(_uri(target), posixpath.dirname(uri)), match[2] or ""]
        end = match.end()
    return "".join(parts) + text[end:]


def _shown(target: Path) -> str:
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        inside = sorted(
            item.name + "/" * item.is_dir() for item in target.iterdir() if not item.name.startswith(("_", "."))
        )
        return f"# {name}/\n\n" + "\n".join(f"- `{item}`" for item in inside)
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return _led(text, target, _uri(target))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"# {name}\n\n{fence}{_LANGUAGES.get(target.suffix, 'text')}\n{text.rstrip()}\n{fence}\n" + os.linesep
