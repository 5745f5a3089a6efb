"""What a graph of autograd is of: which parameters, and which operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def reaches(end: Any, parameters: set[int]) -> bool:
    """Whether a graph that ends here begins at one of these parameters, by their id."""
    todo, seen = [end], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if (variable is not None and id(variable) in parameters) or "Checkpoint" in type(node).__name__:
            return True  # a pass that is done again in the backward pass does not say here what is in it
        todo += [following for following, _ in node.next_functions]
    return False


def numbers_in(ends: Sequence[Any]) -> Iterator[int]:
    """Autograd's numbers of all operations of some graphs; those of their leaves are beyond any."""
    todo, seen = list(ends), set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if getattr(node, "variable", None) is None:
                yield node._sequence_nr()
            todo += [following for following, _ in node.next_functions]


def next_number() -> int:
    """That of the next operation: what comes now has no smaller one."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number
