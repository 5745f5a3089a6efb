"""How a variant looks in the figures: vanilla in blue, every other in a red of its own, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VANILLA = "#1f5fa8"
_REDS = ("#d62728", "#f28e2b", "#8c1d40", "#e377a2", "#7f3b08", "#c9a227")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


@dataclass(frozen=True)
class Look:
    """A line's colour and matplotlib line style."""

    color: str
    dashes: Any = "-"


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """One look a variant; a single modified one is plain red."""
    modified = [variant for variant in variants if variant != "vanilla"]
    chosen = {
        variant: Look(_REDS[index % len(_REDS)], _DASHES[index // len(_REDS) % len(_DASHES)])
        for index, variant in enumerate(modified)
    }
    return chosen | {"vanilla": Look(VANILLA)}
