"""Where a number comes from: command, code version, machine. Written beside every result."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vdvae_patch
from vdvae_patch.train.numerics import in_force

_OURS = ("vdvae_patch", "patches", "upstream", "launch")
"""The folders of a checkout whose files make numbers."""


def provenance(device: torch.device) -> dict[str, Any]:
    """Plain values for TOML or JSON."""
    return {
        "command": command(),
        "version": vdvae_patch.__version__,
        "commit": code_commit(),
        "sources": code_sources(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        **in_force(device),
    }


def command() -> str:
    """The command line, as it can be typed again."""
    program = sys.argv[0]
    if Path(program).name == "__main__.py":
        return shlex.join(["python", "-m", "vdvae_patch", *sys.argv[1:]])
    return shlex.join([Path(program).name, *sys.argv[1:]])


def code_commit() -> str:
    """The commit of the checkout that this package runs from, `+` appended if it has changes, or files of ours that no
    commit has: a rule of the scan or a scale is found where it stands.

    `"installed"` where there is no checkout, or that of a project which the package was copied into; `"unknown"` where
    git does not say.
    """
    root = Path(vdvae_patch.__file__).resolve().parent.parent
    if not (root / ".git").exists() or not _is_ours(root):
        return "installed"
    try:
        import git
    except ImportError:  # GitPython, where there is no git: a container that the checkout was copied into
        return "unknown"

    try:
        with git.Repo(root) as repository:
            changed = repository.is_dirty() or repository.git.ls_files("--others", "--exclude-standard", "--", *_OURS)
            return repository.head.commit.hexsha[:12] + ("+" if changed else "")
    except (git.GitError, ValueError, OSError):
        # no commit yet, or a checkout of another user, which git does not read: it ends while it is written to
        return "unknown"


def _is_ours(checkout: Path) -> bool:
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError):
        return False
    return isinstance(project, dict) and project.get("name") == "vdvae-patch"


@functools.cache
def code_sources() -> str:
    """The beginning of a SHA-256 of this package's Python files: a commit says nothing of changes that are in none."""
    root = Path(vdvae_patch.__file__).resolve().parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        with contextlib.suppress(OSError):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def machine(device: torch.device) -> str:
    """`"Linux x86_64, 2 cores, cpu"`, or the name of the GPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {name}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or "cpu"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
