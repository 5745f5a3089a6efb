"""The parameters of a model that no gradient moves: if anything does, it is the model itself, as it moves buffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

Places = list[tuple[dict[str, Any], str]]
"""Where a module keeps tensors, and the name of one there: a module may put another tensor in its place."""


def places_of_untrained(modules: Iterable[nn.Module]) -> Places:
    """Where the parameters without a gradient are, if others of these modules have one. If none has, the model is an
    average, or frozen as a whole: that says nothing of what moves them.
    """
    held = [(m._parameters, name, p) for m in modules for name, p in m._parameters.items() if p is not None]
    if not any(p.requires_grad for _, _, p in held):
        return []
    return [(owner, name) for owner, name, p in held if not p.requires_grad and not is_lazy(p)]
