"""Clone a genuine code base into the cache, at exactly the pinned commit, and verify it. Nothing in it is run."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.manifest import Upstream
from vdvae_patch.hosts.pinned import OPT_IN, Verification, import_git, inspect_checkout
from vdvae_patch.machine import CACHE_VARIABLE, cache_folder

_CONFIGURATION = {
    "core.hooksPath": os.devnull,  # a hook of the user's template would run code on checkout
    "core.fsmonitor": "false",
    "core.autocrlf": "false",  # other line ends are other bytes, which the manifest refuses
    "core.symlinks": "false",  # a link could point out of the checkout
    "gc.auto": "0",  # a collection left in the background would hold the folder that is about to be renamed
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "30",
}
_UNREACHABLE = ("could not resolve", "unable to access", "could not read from remote", "timeout:")


def cached_path(upstream: Upstream, cache: Path | None = None) -> Path:
    """Where the fetched checkout lies, or would lie: `<cache>/upstream/<name>-<first 12 digits of the commit>`."""
    return (cache or cache_folder()).absolute() / "upstream" / f"{upstream.name}-{upstream.commit[:12]}"


def fetch(upstream: Upstream, cache: Path | None = None, *, timeout: float = 120.0) -> Verification:
    """Clone the pinned commit into the cache, unless it lies there already, and verify it.

    The checkout appears whole or not at all. Submodules are left empty, and no hook runs.

    Args:
        timeout: seconds after which one transfer is given up.

    Raises:
        HostError: the repository cannot be reached or lacks the commit, the cache cannot be written, or what lies there
            is not what the manifest pins.
    """
    destination = cached_path(upstream, cache)
    if not destination.exists():
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{upstream.name}-", dir=destination.parent) as scratch:
                checkout = Path(scratch) / "checkout"
                checkout.mkdir()
                _clone(upstream, checkout, timeout)
                _require(inspect_checkout(checkout, upstream), upstream.url, "the manifest does not fit the commit")
                _move(checkout, destination)
        except OSError as error:
            raise HostError(
                f"cache folder {destination.parent} cannot be written: {error.strerror}; set {CACHE_VARIABLE}"
            ) from None
    return verify_cached(upstream, cache)


def verify_cached(upstream: Upstream, cache: Path | None = None) -> Verification:
    """Verify what `fetch` left; raises `HostError` if nothing was fetched, or if it was changed since."""
    destination = cached_path(upstream, cache)
    again = f"run: python -m vdvae_patch upstream fetch {upstream.name}"
    if not destination.exists():
        raise HostError(f"upstream {upstream.name!r} was not fetched; {again}")
    verification = inspect_checkout(destination, upstream)
    _require(verification, str(destination), f"delete that folder and {again}, or use it anyway with {OPT_IN}")
    return verification


def instead_of(upstream: Upstream) -> str:
    """What can be used where the genuine code base cannot be had, for the end of a message."""
    if upstream.embedded:
        return f"the embedded {upstream.embedded} needs no network (leave --upstream out)"
    return "it has no embedded stand-in; give a checkout you have with --upstream PATH"


def _require(verification: Verification, where: str, remedy: str) -> None:
    if verification.differences:
        raise HostError(f"{where}: {'; '.join(map(str, verification.differences))}; {remedy}")


def _clone(upstream: Upstream, checkout: Path, timeout: float) -> None:
    git = import_git()
    command = git.Git(str(checkout))
    command.update_environment(**_environment(checkout))
    transfer: dict[str, Any] = {"kill_after_timeout": timeout}
    options = ("--quiet", "--no-tags", "--no-recurse-submodules")
    try:
        command.init("--quiet", "--template=")
        try:
            command.fetch(*options, "--depth=1", upstream.url, upstream.commit, **transfer)
        except git.GitCommandError as refusal:
            if any(phrase in refusal.stderr.lower() for phrase in _UNREACHABLE):
                raise
            # Not every server hands out a commit by its hash; then the branches and tags must hold it.
            references = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            command.fetch(*options, upstream.url, *references, **transfer)
        try:
            command.cat_file("-e", f"{upstream.commit}^{{commit}}")
        except git.GitCommandError:
            raise HostError(f"{upstream.url} has no commit {upstream.commit}; {instead_of(upstream)}") from None
        command.checkout("--quiet", "--detach", upstream.commit)
    except git.GitCommandError as error:
        where = f"{upstream.name!r} from {upstream.url}"
        raise HostError(f"cannot fetch {where} (offline?): {_reason(error.stderr)}; {instead_of(upstream)}") from None


def _environment(checkout: Path) -> dict[str, str]:
    # GIT_DIR is set for whoever calls this from a git hook: without our own, git would work on *their* repository.
    environment = {
        "GIT_DIR": str(checkout / ".git"),
        "GIT_WORK_TREE": str(checkout),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(_CONFIGURATION.items(), start=first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment | {"GIT_CONFIG_COUNT": str(first + len(_CONFIGURATION))}


def _reason(stderr: str) -> str:
    """The line of git's that says why, without the quotes and the label that GitPython puts around all of them."""
    lines = [line for text in stderr.strip().removeprefix("stderr:").splitlines() if (line := text.strip(" '"))]
    telling = [line for line in lines if re.search(r"\b(fatal|error|timeout):", line, re.IGNORECASE)]
    return (telling or lines or ["git said nothing"])[0]


def _move(checkout: Path, destination: Path) -> None:
    try:
        checkout.rename(destination)
    except OSError:
        # Another process may have fetched it meanwhile; the caller verifies whichever one lies there.
        if not destination.exists():
            raise
