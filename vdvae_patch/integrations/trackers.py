"""What a guard tells of a training, where an experiment is tracked.

from vdvae_patch.integrations.trackers import tensorboard, wandb

guard = vdvae_patch.guard(model, tracker=tensorboard(writer))      # a SummaryWriter of yours
guard = vdvae_patch.guard(model, tracker=wandb(run))               # what wandb.init gave

Any function that takes a dictionary of numbers is a tracker; these two give the numbers a folder of their own and leave
the step count of what you log yourself alone. A tracker that raises is not called again, and ends no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tracker = Callable[[Mapping[str, float]], object]


def tensorboard(writer: Any, prefix: str = "guard") -> Tracker:
    """Scalars `guard/loss`, `guard/grad_norm`, `guard/clip` and `guard/skipped`, by the optimizer's step.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or what has an `add_scalar(name, value, step)` like it.
    """

    def track(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name != "step":
                writer.add_scalar(f"{prefix}/{name}", value, int(values["step"]))

    return track


def wandb(run: Any, prefix: str = "guard") -> Tracker:
    """The same numbers, and `guard/step`, in the row of Weights & Biases that is logged next.

    Args:
        run: what `wandb.init` gave, or the module itself, or what has a `log(values, commit=False)` like it.
    """

    def track(values: Mapping[str, float]) -> None:
        run.log({f"{prefix}/{name}": value for name, value in values.items()}, commit=False)

    return track


__all__ = ["tensorboard", "wandb"]
