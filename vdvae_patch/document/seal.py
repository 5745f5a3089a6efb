"""The checksum of a document: of what it says, and not of how its text is laid out.

It is the SHA-256 of the canonical JSON of all other fields, shortened to 64 bits: enough to notice damage, no
protection from somebody who wants to forge a document. One without it is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vdvae_patch.errors import PatchError

CHECKSUM = "checksum"
_DIGITS = 16


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum, as the last field."""
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return {**rest, CHECKSUM: _digest(rest)}


def require_unchanged(document: Mapping[str, Any], where: str, error: type[Exception] = PatchError) -> None:
    """Raise an error if a document has a checksum, and is not what it was made of."""
    if CHECKSUM in document and not _is_unchanged(document):
        raise error(
            f"{where} is damaged: its checksum does not match; delete the field {CHECKSUM!r} if you changed it yourself"
        )


def _is_unchanged(document: Mapping[str, Any]) -> bool:
    try:
        return bool(document[CHECKSUM] == with_checksum(document)[CHECKSUM])
    except (TypeError, ValueError):  # no data of JSON, which alone can be sealed
        return False


def _digest(rest: Mapping[str, Any]) -> str:
    # a surrogate alone, which JSON can name and UTF-8 cannot hold, stays escaped
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
