"""`vdvae-patch upstream list | fetch NAME | verify NAME`: the genuine code bases that hosts were written for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from vdvae_patch.cli.arguments import one_line_errors
from vdvae_patch.errors import visible
from vdvae_patch.hosts import fetch as fetching
from vdvae_patch.hosts.manifest import Upstream, get_upstream, upstreams
from vdvae_patch.hosts.pinned import Verification, inspect_checkout, verify
from vdvae_patch.tables import columns

ABOUT = "list, fetch and verify the genuine code bases"

_WIDTH = 80

_Name = Annotated[str, tyro.conf.arg(metavar="NAME", help="a name of `upstream list`")]
_Checkout = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help="a checkout of yours, not the fetched one")]

_app = tyro.extras.SubcommandApp()


def run(argv: Sequence[str]) -> int:
    """Run `upstream` with its arguments; 0, or an error of `vdvae_patch.errors` is raised."""
    description = "The genuine code bases that hosts were written for, each pinned to a commit."
    with one_line_errors():
        _app.cli(prog="vdvae-patch upstream", description=description, args=list(argv))
    return 0


@_app.command(name="list")
def show() -> None:
    """Show every pinned code base: commit, licence, embedded stand-in, and where it lies if it was fetched."""
    known = list(upstreams().values())
    rows = [(one.name, one.commit[:12], "yes" if one.embedded else "no", _is_fetched(one)) for one in known]
    print(visible(columns(("name", "commit", "embedded", "fetched"), rows)))
    for upstream in known:
        about = [
            upstream.note,
            f"licence: {upstream.license}",
            *([f"embedded: {upstream.embedded}"] if upstream.embedded else []),
        ]
        print()
        for line in about:
            print(visible(textwrap.fill(f"{upstream.name}: {line}", _WIDTH, subsequent_indent="    ")))
        if (path := fetching.cached_path(upstream)).is_dir():
            changed = " (changed)" if _is_fetched(upstream) == "changed" else ""
            print(visible(f"{upstream.name}: {path}{changed}"))  # a path stays on one line, for whoever searches it


@_app.command(name="fetch")
def fetch(name: _Name, /) -> None:
    """Clone one at exactly the pinned commit into the cache, verify it and say where it lies."""
    upstream = get_upstream(name)
    _report(upstream, fetching.fetch(upstream))
    print(f'use it with --upstream genuine, or load_host("{upstream.name}", "genuine")')


@_app.command(name="verify")
def check(name: _Name, /, upstream: _Checkout = None) -> None:
    """Compare what was fetched, or a checkout of your own, with the pinned commit and files."""
    pinned = get_upstream(name)
    _report(pinned, fetching.verify_cached(pinned) if upstream is None else verify(upstream, pinned))


def _report(upstream: Upstream, found: Verification) -> None:
    commit = f"commit {found.commit}" if found.commit else f"the files of commit {upstream.commit} (no git checkout)"
    print(f"{upstream.name}: {commit}, {len(upstream.files)} files verified")
    print(found.path)


def _is_fetched(upstream: Upstream) -> str:
    folder = fetching.cached_path(upstream)
    if not folder.is_dir():
        return "no"
    return "yes" if inspect_checkout(folder, upstream).verified else "changed"
