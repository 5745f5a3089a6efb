"""A fresh model for one cell of the table, and what is measured of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vdvae_patch

from .models import COLUMNS

VARIANT = "explin/upbounded"

Values = list[Tensor]


class Case:
    """A model of one column from seed 0, not patched yet.

    Attributes:
        patching: whether `patch` patches; a row that fails is tried again without, to see whether vanilla fails, too.
        weights: what a row sets if the tool changes them: those that the plain model has that is compared with.
        subject: the model that `check_intact` is asked about and that is unpatched in the end.
    """

    def __init__(self, column: str, variant: str = VARIANT, patching: bool = True) -> None:
        self.column = COLUMNS[column]
        self.variant = variant
        self.patching = patching
        self.model = self.column.build()
        self.batch = self.column.batch()
        self.weights: dict[str, Tensor] | None = None
        self.subject: nn.Module = self.model

    def patch(self, model: nn.Module | None = None) -> nn.Module:
        """The model (the case's own unless given), patched."""
        model = self.model if model is None else model
        if self.patching:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the floor that the new scale does not have
                vdvae_patch.patch(model, self.variant, heads=self.column.heads(), verify=False)
        return model

    def unpatch(self, model: nn.Module | None = None) -> None:
        """Take the patch back."""
        if self.patching:
            vdvae_patch.unpatch(self.model if model is None else model)

    @property
    def part(self) -> nn.Module:
        """The module in which something is replaced."""
        return self.model.get_submodule(self.column.part)

    @property
    def emitter(self) -> nn.Module:
        """The layer that emits the posterior's raw value."""
        return self.model.get_submodule(self.column.emitter)

    def fresh(self) -> nn.Module:
        """Another model with the same weights, not patched."""
        return self.column.build()

    def changed(self, **of_emitter: Tensor) -> None:
        """Note the weights that a tool has given the emitting layer."""
        self.weights = self.fresh().state_dict()
        for name, value in of_emitter.items():
            self.weights[f"{self.column.emitter}.{name}"] = value.detach().clone()


def loss(call: Callable[..., Any], batch: tuple[Tensor, ...]) -> Tensor:
    """The loss for fixed noise; every term of it depends on the sigmas."""
    torch.manual_seed(1)
    out = call(*batch)
    result: Tensor = out["elbo"] if isinstance(out, dict) else out
    return result


def value(call: Any, batch: tuple[Tensor, ...]) -> Values:
    """The loss alone."""
    with torch.no_grad():
        return [loss(call, batch)]


def gradient(call: Any, batch: tuple[Tensor, ...]) -> Values:
    """The loss and its gradient with respect to the input."""
    x = batch[0].clone().requires_grad_()
    out = loss(call, (x, *batch[1:]))
    (slope,) = torch.autograd.grad(out, x)
    return [out.detach(), slope]


def training(model: Any, batch: tuple[Tensor, ...]) -> Values:
    """The losses of two steps of SGD, and the one after them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        out = loss(model, batch)
        out.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(out.detach())
    return [*losses, *value(model, batch)]
