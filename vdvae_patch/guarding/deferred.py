"""A step that is decided on the device, so that the host does not wait for it.

Fused optimizers of PyTorch read a tensor `found_inf` in their kernel, and where it is 1 they leave weights, moments and
step counts as they are: that is how a loss scaler holds a step back without a wait. The guard sets it to what its rule
says, puts the buffers back by a selection on the device, and reads what was decided at the next training pass of the
model, before anything of the step is forgotten. The weights are then still those of before, since the step was skipped.

Not every step can be decided so, and the conditions are those under which nothing comes out otherwise than by a read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from vdvae_patch.skips import rule


class Attributes:
    """What modules hold beside their tensors, such as a weight of the KL that the loop sets anew in every step."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._kept = [(vars(module), vars(module).copy()) for module in modules]

    @contextmanager
    def again(self) -> Iterator[None]:
        """As they were, while the block runs."""
        changed = [
            (own, name, own.get(name, _NOT_THERE), value)
            for own, kept in self._kept
            for name, value in kept.items()
            if not name.startswith("_") and own.get(name, _NOT_THERE) is not value
        ]
        for own, name, _, value in changed:
            own[name] = value
        try:
            yield
        finally:
            for own, name, now, _ in changed:
                if now is _NOT_THERE:
                    del own[name]
                else:
                    own[name] = now


_NOT_THERE = object()


@dataclass
class Undecided:
    """A step whose outcome the device knows.

    Attributes:
        step: its number.
        row: what was differentiated, value by value, and then the gradient norm.
        held_back: a flag, whether the update is skipped.
        threshold: by which it was decided.
        attributes: of the model's modules, as they are now.
        applied: whether the optimizer has come by.
    """

    optimizer: Optimizer
    step: int
    row: Tensor
    held_back: Tensor
    threshold: float
    attributes: Attributes
    applied: bool = False

    @classmethod
    def of(
        cls, optimizer: Optimizer, step: int, row: Tensor, threshold: float, modules: Sequence[nn.Module]
    ) -> Undecided:
        """By the skip rule of one process: a loss that is not finite, or a norm that is not below the threshold."""
        bad = ~row[:-1].isfinite().all()
        held_back = rule.code((bad,), torch.zeros_like(bad), row[-1], threshold) > 0
        optimizer.found_inf = held_back.float()  # type: ignore[attr-defined]
        return cls(optimizer, step, row, held_back, threshold, Attributes(modules))

    def over(self) -> None:
        """The optimizer has read it."""
        self.applied = True
        if hasattr(self.optimizer, "found_inf"):
            del self.optimizer.found_inf


def can_be_deferred(optimizer: Any, parameters: Sequence[Tensor], devices: Iterable[str]) -> bool:
    """Whether an optimizer's next step can be decided on the device.

    It is fused, nobody else tells it of an overflow, all that it will move lies on one device, and it has its moments
    already: a first step that is skipped would make them, which one without gradients does not, and in SGD's case with
    whatever was in memory.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False) or not parameters:
        return False
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    if any(getattr(optimizer, name, None) is not None for name in ("found_inf", "grad_scale")):
        return False
    first = parameters[0].device
    if first.type not in devices or any(p.device != first or hasattr(p, "full_tensor") for p in parameters):
        return False
    if isinstance(optimizer, SGD) and not any(group["momentum"] for group in optimizer.param_groups):
        return True
    return all(any(isinstance(v, Tensor) for v in optimizer.state.get(p, {}).values()) for p in parameters)


@torch.no_grad()
def selected(flag: Tensor, there: Tensor, otherwise: Tensor) -> None:
    """In place: `otherwise` where the flag is set; a choice of whole values, so that no arithmetic touches a NaN."""
    there.data.copy_(torch.where(flag.to(there.device), otherwise, there.data))
