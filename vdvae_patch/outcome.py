"""What a call gave: is its loss finite, are its gradients, and if not, what was first or came in from outside?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vdvae_patch.trace import Event

_SHOWN = 3


@dataclass(frozen=True)
class Outcome:
    """Loss and gradients of one call.

    Attributes:
        loss: in the host's own units; NaN and infinity as they are; None if the call gave nothing that is one number.
        bad_values: what the call gave and was not finite, in words; empty if all was.
        gradients: how many parameters got a gradient.
        bad_gradients: the names of those whose gradient is not finite.
        not_differentiated: why there are no gradients; empty if there are.
        refused: what PyTorch's distributions were given and refuse, outside of a watched call with an error.
        raised: the error with which the call ended, as one that checks its loss does.
        several: the shape of what the call gave in the place of a loss, if it is one tensor of several numbers.
        outside: what was not finite before the call, in words: rows of the batch, parameters, buffers.
        norm: of all gradients together; None if there are none, or it was not looked at.
        origin: the operation that made the first value that is not finite on the way to loss and gradients; None if
            all are finite, or it was not looked for.
    """

    loss: float | None = None
    bad_values: tuple[str, ...] = ()
    gradients: int = 0
    bad_gradients: tuple[str, ...] = ()
    not_differentiated: str = ""
    refused: tuple[str, ...] = ()
    raised: Exception | None = None
    several: str = ""
    outside: tuple[str, ...] = ()
    norm: float | None = None
    origin: Event | None = None

    @property
    def finite(self) -> bool:
        """Whether all that was given, and every gradient, is finite, and no distribution refused what it was given."""
        return not (self.bad_values or self.bad_gradients or self.refused or self.raised)

    @property
    def has_loss(self) -> bool:
        """Whether the call gave one number that gradients flow from."""
        return self.loss is not None and not self.not_differentiated

    def __str__(self) -> str:
        return "; ".join([self.headline, *self.causes])

    @property
    def headline(self) -> str:
        """Loss and gradients in a line."""
        if self.raised is not None:
            text = (str(self.raised).strip().splitlines() or [""])[0]
            return f"the call ends with {type(self.raised).__name__}{': ' if text else ''}{text}"
        if self.loss is not None:
            given = f"loss {self.loss:.4g}" if math.isfinite(self.loss) else f"the loss is {_not_finite(self.loss)}"
        else:
            given = f"not finite: {', '.join(self.bad_values)}" if self.bad_values else self._no_loss
            if not self.bad_gradients:
                return given
        if self.bad_gradients:
            names = some(self.bad_gradients)
            return f"{given}, {len(self.bad_gradients)} of {self.gradients} gradients are not finite ({names})"
        if self.not_differentiated:
            return f"{given}, no gradients ({self.not_differentiated})"
        return f"{given}, {_all(self.gradients)} finite"

    @property
    def _no_loss(self) -> str:
        one = (
            f", which is one number; a tensor {self.several} was given: of losses, return the mean"
            if self.several
            else ""
        )
        return f"no loss{one}; all values are finite"

    @property
    def causes(self) -> tuple[str, ...]:
        """Why it is not finite, a line each; empty if it is."""
        lines = [*self.outside, *self.refused]
        came_in = bool(self.outside) and self.origin is not None and "nan" in self.origin.inputs
        if self.origin is not None and not came_in:
            lines.append(f"the first operation that gave one which is not finite: {self.origin}")
        return tuple(lines)


def _all(count: int) -> str:
    return "the gradient" if count == 1 else f"all {count} gradients"


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
