"""Know an expression that was read before: of the next layer, or of the next step of a loop.

A deep or a recurrent model computes one KL by the same lines hundreds of times, of other values. What a reading finds
depends on an expression's form alone: its operations, where each operand comes from, and its constants. To the form
of a part of a tensor belongs its size, and not where it begins: step 38 of a sequence is read as step 39 is. So each
form is read once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cuts
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.arithmetic.graph import Node


@dataclass(frozen=True)
class Form:
    """An expression's form, and its spots in the order in which another one of this form has them."""

    key: Hashable
    spots: tuple[Spot, ...]


def form_of(expression: Expression) -> Form | None:
    """The form; None for one with arguments that cannot be compared."""
    spots = (*expression.leaves.values(), *expression.order)
    writer = _Writer(expression, {spot.key: place for place, spot in enumerate(spots)})
    written = (
        expression.through_sums,
        writer.argument(expression._settle(expression.end)),
        *((*writer.described(spot.node), _sizes(spot.cuts)) for spot in expression.leaves.values()),
        *(writer.computed(spot) for spot in expression.order),
    )
    try:
        hash(written)
    except TypeError:
        return None
    return Form(written, spots)


def _sizes(cuts: Cuts) -> Cuts:
    """The cuts with their beginnings left out: two parts of one tensor are told apart by their places in the form."""
    return tuple(cut if cut.dim == UNKNOWN else cut._replace(start=0) for cut in cuts)


class _Writer:
    def __init__(self, expression: Expression, places: dict[SpotKey, int]) -> None:
        self._expression = expression
        self._places = places
        self._nodes: dict[int, int] = {}

    def computed(self, spot: Spot) -> Hashable:
        node = spot.node
        args, kwargs = self._expression._settled.get(spot.key) or self._expression._with_spots(spot)
        self._expression._settled[spot.key] = args, kwargs
        read = tuple(self.described(n) for n in node.inputs)
        given = tuple(self.argument(a) for a in args), tuple((k, self.argument(v)) for k, v in kwargs.items())
        return self.described(node), node.func, node.index, node.inplace, _sizes(spot.cuts), read, given

    def described(self, node: Node) -> tuple[Any, ...]:
        """What the readings ask of a node; the number tells whether two operands are one."""
        number = self._nodes.setdefault(node.id, len(self._nodes))
        stops = node.id in self._expression.stops
        return number, node.kind, node.op, node.shape, node.data, node.params, bool(node.noise), node.mask, stops

    def argument(self, value: Any) -> Hashable:
        if isinstance(value, Spot):
            place = self._places.get(value.key)
            if place is not None:
                return "spot", place
            constant = value.node.value
            kept = "NaN" if math.isnan(constant) else constant
            return "constant", kept, value.node.even, self.described(value.node)
        if isinstance(value, list | tuple):
            return tuple(self.argument(v) for v in value)
        return type(value).__name__, value  # 1, 1.0 and True are equal
