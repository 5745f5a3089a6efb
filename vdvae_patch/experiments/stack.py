"""Many models of one shape as one: their parameters are the rows of one matrix.

stack = Stack.of([build(seed) for seed in seeds])
losses = stack(batch, noise)          # a dict of [R]: what the model's forward returns, a value a run
losses["elbo"].sum().backward()       # row r of stack.flat.grad is the gradient of run r
stack = stack.keep(torch.tensor([0, 2]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from vdvae_patch.experiments import lowering
from vdvae_patch.experiments.lowering import Lowering
from vdvae_patch.experiments.noise import SuppliedNoise


@dataclass
class Stack:
    """R models.

    Attributes:
        template: one of them, whose code is run; it may be patched.
        flat: `[R, N]`, all parameters of a run in a row; the leaf that gradients are taken of.
        buffers: `[R, ...]` by name; batch normalization updates each run's own.
    """

    template: nn.Module
    flat: Tensor
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, models: Sequence[nn.Module], device: torch.device | str = "cpu") -> Stack:
        """Stack models that have parameters and buffers of the same names and shapes; the first is the template."""
        rows = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models]
        names = [name for name, _ in models[0].named_buffers()]
        buffers = {name: torch.stack([m.get_buffer(name) for m in models]).to(device) for name in names}
        return cls(models[0].to(device), torch.stack(rows).to(device).requires_grad_(), buffers)

    @property
    def runs(self) -> int:
        """R."""
        return self.flat.shape[0]

    def parameters(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Views `[R, *shape]` of the rows by parameter name."""
        flat = self.flat if flat is None else flat
        shapes = {name: p.shape for name, p in self.template.named_parameters()}
        parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def __call__(
        self, batch: Sequence[Tensor], noise: Tensor, how: Lowering = "grouped", flat: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The dict of scalars of every run, each `[R]`.

        Args:
            batch: what the model's forward takes, each `[R, B, ...]`.
            noise: `[R, n]`, the values that the model's calls of `randn` are answered with.
            how: the way that the runs are computed side by side.
            flat: other parameters than the stack's own, such as the best so far.
        """

        stacked = (self.parameters(flat), self.buffers, noise, tuple(batch))
        if how != "loop":
            return self._batched(how)(*stacked)
        each = [self._one(*(tree_map(lambda t, r=row: t[r], part) for part in stacked)) for row in range(self.runs)]
        return {name: torch.stack([result[name] for result in each]) for name in each[0]}

    def _batched(self, how: Lowering) -> Callable[..., dict[str, Tensor]]:
        def one(*arguments: Any) -> dict[str, Tensor]:
            with lowering.context(how):
                return self._one(*arguments)

        return vmap(one, randomness="error")

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], noise: Tensor, batch: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        with SuppliedNoise(noise):
            result: dict[str, Tensor] = functional_call(self.template, (parameters, buffers), batch)
        return result

    def keep(self, rows: Tensor) -> Stack:
        """The runs of these rows alone, their gradients dropped."""
        flat = self.flat.detach()[rows].requires_grad_()
        return Stack(self.template, flat, {name: buffer[rows] for name, buffer in self.buffers.items()})

    def load_row(self, row: int, model: nn.Module) -> nn.Module:
        """Copy one run's parameters and buffers into a model of its own."""
        with torch.no_grad():
            for name, stacked in self.parameters().items():
                model.get_parameter(name).copy_(stacked[row])
            for name, stacked in self.buffers.items():
                model.get_buffer(name).copy_(stacked[row])
        return model
