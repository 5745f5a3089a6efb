"""Every block of code of README and docs: what it is, where it stands, and what stands below it as its output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "vdvae_patch/scanning/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
SHELL = ("sh", "bash", "shell", "console")
_OURS = r"(?:vdvae-patch|python -m vdvae_patch)"


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        kind: the word behind the fence; `indented` for one without a fence.
        output: the text block right below it, as what it prints; None without one.
        above: whether it is such an output itself.
    """

    page: str
    line: int
    kind: str
    text: str
    output: str | None = None
    above: bool = False

    @property
    def first(self) -> str:
        """Its first line, by which the tables name it."""
        return self.text.strip("\n").partition("\n")[0].strip()

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block: without comments, and lines that go on joined."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ") for line in joined.splitlines())
        return [" ".join(line.split()) for line in lines if line.strip()]


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"(\s*)```+\s*([\w-]*)", lines[number])
        begin = number
        if fence:
            number += 1
            while not re.match(r"\s*```+\s*$", lines[number]):
                number += 1
            text = "\n".join(lines[begin + 1 : number]) + "\n"
            right_below = bool(found) and re.match(r"\s*```", lines[begin - 1]) is not None
            is_output = fence[2] == "text" and right_below and found[-1].kind in ("python", *SHELL)
            if is_output:
                last = found[-1]
                found[-1] = Block(last.page, last.line, last.kind, last.text, text)
            found.append(Block(page, begin + 1, fence[2], text, above=is_output))
        elif _begins_indented(lines, number):
            while number + 1 < len(lines) and (lines[number + 1].startswith("    ") or not lines[number + 1].strip()):
                number += 1
            found.append(Block(page, begin + 1, "indented", "\n".join(lines[begin : number + 1]) + "\n"))
        number += 1
    return found


def _begins_indented(lines: list[str], number: int) -> bool:
    """Whether a block without a fence begins: four spaces after an empty line, and not within a list or a remark."""
    if not lines[number].startswith("    ") or (number and lines[number - 1].strip()):
        return False
    above = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return not re.match(r"\s*([-*+]|\d+\.|!!!)\s|    ", above)


def inline_commands(page: str) -> Iterator[str]:
    """The commands of ours that stand within a sentence."""
    text = re.sub(r"^\s*```.*?^\s*```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for found in re.findall(rf"`({_OURS}\s[^`]+)`", text):
        yield " ".join(found.split())


def without_program(command: str) -> list[str] | None:
    """The arguments of a command of ours; None for another program."""
    words = re.sub(rf"^(?:\w+=\S+\s+)*{_OURS}\b", "vdvae-patch", command).split()
    return words[1:] if words[0] == "vdvae-patch" else None
