"""Is a folder the code base that the manifest pins? Its files are hashed and its HEAD is read; nothing in it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.manifest import Upstream

OPT_IN = "--allow-modified-upstream (allow_modified=True)"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as pinned: `what` is `"commit"` or a file; `seen=None` means it is not there."""

    what: str
    expected: str
    seen: str | None

    def __str__(self) -> str:
        if self.what == "commit":
            seen = f"it is at commit {self.seen}" if self.seen else "its commit cannot be read"
            return f"{seen}, expected {self.expected}"
        if self.seen is None:
            return f"{self.what} is missing"
        return f"{self.what} has SHA-256 {self.seen[:16]}, expected {self.expected[:16]}"


@dataclass(frozen=True)
class Verification:
    """What a folder was found to be.

    Attributes:
        path: the folder, resolved.
        commit: the commit its HEAD is at; None if it is no git checkout, or HEAD cannot be read.
        digests: SHA-256 of the pinned files that are there, as seen.
        differences: all that is not as pinned; empty if the folder is verified.
    """

    path: Path
    commit: str | None
    digests: Mapping[str, str]
    differences: tuple[Difference, ...]

    @property
    def verified(self) -> bool:
        return not self.differences


def inspect_checkout(path: Path | str, upstream: Upstream) -> Verification:
    """Compare a folder with the manifest and say what differs.

    Raises:
        HostError: there is no such folder, or a file cannot be read.
    """
    folder = existing_folder(path)
    commit, differences = None, []
    if (folder / ".git").exists():
        commit = head_commit(folder)
        if commit != upstream.commit:
            differences.append(Difference("commit", upstream.commit, commit))
    digests = {name: digest for name in upstream.files if (digest := file_digest(folder / name)) is not None}
    for name, expected in upstream.files.items():
        if digests.get(name) != expected:
            differences.append(Difference(name, expected, digests.get(name)))
    return Verification(folder, commit, digests, tuple(differences))


def verify(path: Path | str, upstream: Upstream) -> Verification:
    """`inspect_checkout`, and refuse a folder at another commit or with a changed or missing file.

    Raises:
        HostError: one line with every difference, what was expected and what was seen.
    """
    verification = inspect_checkout(path, upstream)
    if verification.differences:
        raise HostError(
            f"{verification.path} is not {upstream.name} as pinned: {'; '.join(map(str, verification.differences))};"
            f" check out commit {upstream.commit[:12]} or use it anyway with {OPT_IN}"
        )
    return verification


def existing_folder(path: Path | str) -> Path:
    """The folder, resolved; raises `HostError` if it is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise HostError(f"upstream checkout {str(path)!r} {what}; give the top folder of a checkout")
    return folder.resolve()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes, None if there is no such file; raises `HostError` if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from None


def head_commit(folder: Path) -> str | None:
    """The commit that HEAD of a checkout is at, read from its files; None if they do not say."""
    git = import_git()
    try:
        # No git command runs here: a checkout's own configuration can name programs that git would start.
        with git.Repo(folder) as repository:
            return str(git.SymbolicReference.dereference_recursive(repository, "HEAD"))
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, ValueError):
        return None


def import_git() -> ModuleType:
    """GitPython, imported when it is first needed; it refuses to be imported where git is not installed."""
    try:
        import git
    except ImportError as error:
        raise HostError(f"git cannot be used: {str(error).splitlines()[0]}; install git") from None
    return git
