"""Is a host's function, token for token, the one that a patch file was written for?"""

from __future__ import annotations

import hashlib
import inspect
import io
import tokenize
from collections.abc import Callable, Collection
from typing import Any

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}


def is_one_of(function: Callable[..., Any] | None, known: Collection[str]) -> bool:
    """Whether the function's fingerprint is among those; False for none, without a source, or that wraps another."""
    if function is None or hasattr(function, "__wrapped__"):  # its source would be that of the other
        return False
    try:
        return fingerprint(function) in known
    except (OSError, TypeError):  # defined at a prompt, or not in Python
        return False


def fingerprint(function: Callable[..., Any]) -> str:
    """SHA-256 over the tokens of a function's source; comments and the width of indentation do not count.

    Raises:
        OSError, TypeError: the function has no source.
    """
    written = getattr(function, "_torchdynamo_inline", function)  # what TorchScript was made from
    source = inspect.cleandoc("\n" + inspect.getsource(written))
    tokens = (t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in _LAYOUT)
    text = " ".join(tokenize.tok_name[t.type] if t.string.isspace() or not t.string else t.string for t in tokens)
    return hashlib.sha256(text.encode()).hexdigest()
