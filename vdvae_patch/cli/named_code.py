"""Code that a run's folder names: it runs only if the command line says so, too.

A folder may come from anywhere, by mail or from a bug report, and is data. Its `config.toml` has the file of
`--patches` and the checkout of `--upstream`, both of which are imported, that is, run. `replay` and `train --resume`
take all other settings from there; these have to be said again by whoever trusts them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError


def require_said_again(told: Mapping[str, Any], said: Mapping[str, Any], file: Path) -> None:
    """Refuse a run that names code which the command line does not.

    Args:
        told: what the run's `config.toml` says.
        said: what the command line says: `patches`, `upstream`, `allow_modified_upstream`.
        file: the `config.toml`.

    Raises:
        RunError: the settings that are to be said again, as they stand in the folder.
    """
    missing = {flag: value for flag, value in _named(told).items() if not _is_said(flag, value, said)}
    if missing:
        flags = " ".join(_shown(flag, value) for flag, value in missing.items())
        raise RunError(
            f"{file} names code, which would be run: {flags}. Whoever made the folder may have written anything there; "
            "if you trust that code, add these flags to the command"
        )


def _named(told: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run that name code; a switch has no value."""
    named = {}
    if told.get("patches") is not None:
        named["patches"] = str(told["patches"])
    upstream = told.get("upstream")
    if upstream is not None and upstream not in _OURS:
        named["upstream"] = str(upstream)
    if told.get("allow_modified_upstream"):
        named["allow_modified_upstream"] = ""
    return named


_OURS = ("embedded", "genuine")
"""Where `--upstream` is no path: the code of this package, and the checkout at a pinned commit that it has fetched."""


def _shown(flag: str, value: str) -> str:
    """As a command line has it; what would steer a terminal is made visible."""
    visible = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", value)
    return f"--{flag.replace('_', '-')} {shlex.quote(visible) if visible else ''}".strip()


def _is_said(flag: str, value: str, said: Mapping[str, Any]) -> bool:
    given = said.get(flag)
    if not value:
        return bool(given)
    return given is not None and Path(str(given)).expanduser().resolve() == Path(value).expanduser().resolve()
