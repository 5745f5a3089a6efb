"""Watching: every head's log σ, KL and gradient, looked at once in many steps and written to `heads.jsonl`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.heads import Head
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.skips.gradient_norm import gradient_norm
from vdvae_patch.train.probe import HeadState, head_states, over_ranks, probe_rows, whole_kl
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World


class HeadWatch:
    """One more forward pass before a step, and the norms of the gradients that the step then has.

    Everything stays on the device until `take`. `kls` has the KL of all latents together of the looks that were taken
    last, nats an image, by their steps.
    """

    def __init__(
        self, entry: TrainableEntry, model: nn.Module, heads: list[Head], engine: TrainingStep, world: World
    ) -> None:
        self.entry, self.model, self.heads, self.engine, self.world = entry, model, heads, engine, world
        modules = dict(model.named_modules())
        self._layers = [last_layer(modules.get(head.path)) for head in heads]
        self._looks: list[tuple[int, Tensor, Tensor]] = []
        self.kls: dict[int, float] = {}

    def look(self, step: int, x: Tensor) -> None:
        """Look at the heads on the batch of the next step; the caller seeds the noise, now and then again."""
        with self.engine.autocast():
            rows = over_ranks(self.world.gather(probe_rows(self.entry, self.model, self.heads, x, self.engine.parts)))

        def before_clip() -> None:
            self._looks.append((step, rows, torch.stack([norm_of(layer, x.device) for layer in self._layers])))
            self.engine.before_clip = None

        self.engine.before_clip = before_clip

    def take(self) -> list[dict[str, Any]]:
        """The records since the last call."""
        looks, self._looks = self._looks, []
        self.kls = {step: float(whole_kl(rows)) for step, rows, _ in looks}
        return [
            {"step": step, "heads": [_record(s, g) for s, g in zip(states, norms.tolist(), strict=True)]}
            for step, states, norms in ((step, head_states(self.heads, rows), norms) for step, rows, norms in looks)
        ]


def last_layer(module: nn.Module | None) -> list[nn.Parameter]:
    """The parameters of the last layer inside a module: the one that emits the raw parameter."""
    if module is None:
        return []
    layers = [list(m.parameters(recurse=False)) for m in module.modules()]
    return next((parameters for parameters in reversed(layers) if parameters), [])


def norm_of(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    """Of their gradients together, float32; NaN where there is none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return gradient_norm(gradients).float() if gradients else torch.full((), torch.nan, device=device)


def _record(state: HeadState, grad_norm: float) -> dict[str, Any]:
    return {**state.record(), "grad_norm": grad_norm}
