"""What to say, and what to leave behind, where a disk is full, or goes away."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def reason(error: OSError) -> str:
    """`"no space left"`, or what the system says."""
    return "no space left" if error.errno in _FULL else error.strerror or str(error)


def mend(error: OSError) -> str:
    """What helps."""
    return "free space" if error.errno in _FULL else "see that its disk is there and can be written to"


def discard(path: Path) -> None:
    """Delete a file that is half written, if that can be; whatever is under way says why the file is not whole."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
