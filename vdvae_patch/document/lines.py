"""The line of a host by which σ is computed of a head whose module's output is patched.

Such a patch reads no line of the host, so that it fits another version, in which σ is another function of the same
output, just as well. A file has the line's text, and whoever reads the file is told where it is gone.
"""

from __future__ import annotations

import inspect
import linecache

from torch import nn

from vdvae_patch.attach.graft import host_class
from vdvae_patch.heads import Head


def line_of(head: Head) -> str:
    """The text of the line, without the blanks around it; empty where none is known."""
    if head.line or head.found is None or not head.found.file:
        return head.line
    return linecache.getline(head.found.file, head.found.line).strip()


def told_apart(head: Head) -> bool:
    """Whether nothing else of a head says what its host computes: no expression of it is replaced."""
    return not (head.sites or head.calls or head.parameter)


def lines_of(model: nn.Module) -> frozenset[str]:
    """The lines of the files in which the classes of a model stand, PyTorch's left out."""
    files: set[str] = set()
    for cls in {host_class(module) for module in model.modules()}:
        if not cls.__module__.startswith("torch."):
            try:
                files.add(inspect.getsourcefile(cls) or "")
            except (OSError, TypeError):  # of a notebook, or built in
                continue
    return frozenset(line.strip() for file in files for line in linecache.getlines(file))


def gone(head: Head, lines: frozenset[str]) -> str:
    """What is to be said of a head that was read, if its line is nowhere in the model's files; or empty."""
    if not (head.line and lines and told_apart(head)) or head.line in lines:
        return ""
    return (
        f"head {head}: the line by which σ was computed of it, {head.line!r}, is nowhere in the model's files now. If "
        "they compute another function of that output, σ is not the scale's: scan the model, and patch it again"
    )
