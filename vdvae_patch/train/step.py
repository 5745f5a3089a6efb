"""One training step, the same for every variant: forward, backward, clip, skip rule, update, EMA.

An update is applied, and the EMA moved, only if the distortion and the rate are finite on every rank and the gradient
norm, before clipping, is below the threshold; a norm that is not finite never is. Else the step counts as one skipped
update, and weights, EMA, optimizer moments and the model's buffers (running statistics) stay bit for bit.

All of it is decided on the device: the optimizer reads a `found_inf` tensor, the EMA is moved by a weight that is zero,
and what the log needs goes into one row of a buffer there. Nothing waits for the host until the rows are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.patching.top_prior import lr_factors
from vdvae_patch.skips import rule
from vdvae_patch.skips.gradient_norm import clip_gradients, gradient_norm
from vdvae_patch.skips.rule import CAUSES, Cause
from vdvae_patch.skips.usual_norm import UsualNorm
from vdvae_patch.train.accumulate import Context, backward
from vdvae_patch.train.adamw import FusedAdamW
from vdvae_patch.train.buffers import BuffersBefore
from vdvae_patch.train.config import Precision
from vdvae_patch.train.flat import FlatWeights
from vdvae_patch.train.graphed import Capture, Moment, StepGraph
from vdvae_patch.train.ranks import LocalGradient
from vdvae_patch.train.weighing import Weighed
from vdvae_patch.train.world import World

_FLAGS = 7
"""Where the flags of the ranks begin in the row of a step."""

LossFunction = Callable[[Tensor, Tensor], Losses | Weighed]


@dataclass(frozen=True)
class BadRanks:
    """The ranks whose rate, distortion or own gradient (before it was averaged over ranks) was not finite."""

    rate: tuple[int, ...] = ()
    distortion: tuple[int, ...] = ()
    gradient: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepRecord:
    """One step as the log has it; losses in nats per dimension, averaged over ranks.

    Attributes:
        grad_norm: global norm before clipping.
        cause: why the update was skipped; None if it was applied.
        sites: where values were not finite, and on which ranks.
        metrics: what a decoder and an objective report, by name.
        clip: the norm that the gradient was clipped to; infinity for none, as while the usual norm is not known yet.
    """

    step: int
    elbo: float
    distortion: float
    rate: float
    grad_norm: float
    lr: float
    cause: Cause | None
    sites: BadRanks
    metrics: dict[str, float] = field(default_factory=dict)
    clip: float = math.inf

    @property
    def skipped(self) -> bool:
        """Whether the update was skipped."""
        return self.cause is not None

    @property
    def clipped(self) -> bool:
        """Whether the update was applied with a gradient that was scaled down."""
        return not self.skipped and self.grad_norm > self.clip

    @property
    def bad_ranks(self) -> tuple[int, ...]:
        """The ranks on which anything was not finite."""
        return tuple(sorted({*self.sites.rate, *self.sites.distortion, *self.sites.gradient}))


class TrainingStep:
    """The optimizer, the EMA and the skip rule around one model.

    Args:
        model: the model that is updated; `loss` runs it, or a compiled or distributed wrapper of it.
        ema: a model of the same build, whose parameters become the moving average. The parameters of both are moved
            side by side, see `FlatWeights`: who holds a parameter holds it still, who holds its `.data` does not.
        capacity: how many steps may go by between two calls of `drain`.
        parts: a batch is computed in so many of equal size, one after the other.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: nn.Module,
        loss: LossFunction,
        optimization: Optimization,
        world: World,
        *,
        precision: Precision = "fp32",
        capacity: int = 1,
        parts: int = 1,
    ) -> None:
        self.loss, self.optimization, self.world = loss, optimization, world
        pairs = [(p, e) for p, e in zip(model.parameters(), ema.parameters(), strict=True) if p.requires_grad]
        self.parameters: list[Tensor] = [p for p, _ in pairs]
        self.ema_parameters: list[Tensor] = [e for _, e in pairs]
        self.weights = FlatWeights(self.parameters, self.ema_parameters, (model, ema))
        others = lr_factors(model)
        factors = [others.get(p, 1.0) for p, _ in pairs] if others else None
        self.optimizer = FusedAdamW(self.weights, factors=factors, lr=optimization.lr, **self._settings())
        self.buffers = BuffersBefore(model)
        self.precision = precision
        self.scaler = LossScale(world.device) if precision == "fp16" else None
        self.usual_norm = UsualNorm(device=world.device) if optimization.grad_clip == "auto" else None
        """What the limit is taken from with `grad_clip` auto; the same on all ranks, and part of a checkpoint."""
        self._threshold = optimization.skip_threshold if optimization.skip_threshold > 0 else torch.inf
        # per step: elbo, distortion, rate, norm, cause, whether a rank was asked to stop, clip, then three flags a rank
        dtype = torch.float32 if world.device.type == "mps" else torch.float64
        self._rows = torch.zeros(capacity, _FLAGS + 3 * world.size, device=world.device, dtype=dtype)
        self._pending: list[tuple[int, float]] = []
        self._metrics: list[Mapping[str, Tensor]] = []
        self.stop_agreed = False
        """Whether any rank had been asked to stop by the last step that was drained; the same on all ranks."""
        self.before_clip: Callable[[], None] | None = None
        """Called once in every step, when the gradients are there and nothing was clipped."""
        self.before_update: Callable[[Tensor], None] | None = None
        """Called once in every step with 1 if the update will be skipped, else 0, while the weights are still old."""
        self.after_update: Callable[[Tensor], None] | None = None
        """Called once in every step with the same, when weights and average have been moved or not."""
        self.parts = parts
        self.alone: Context = nullcontext
        """The context of a part of a batch behind which ranks do not exchange gradients yet."""
        self.graph: StepGraph | None = None
        """Set where the step is one graph."""
        self._captured = False
        self.local_gradient: LocalGradient | None = None
        """Set where the gradients are averages over ranks."""

    def __call__(self, step: int, x: Tensor, target: Tensor, *, stop: bool = False) -> None:
        """Do step number `step` (from 0) on one batch; its record waits on the device until `drain`.

        `stop` says that this rank was asked to stop; all ranks then know from `stop_agreed` after the same step.
        """
        lr, row = self.optimization.learning_rate(step), len(self._pending)
        self._set_lr(lr)
        if self.graph is not None and self.before_clip is None:
            metrics = self.graph(x, target, lr, row, stop)
        else:
            metrics = self._body(x, target, Moment(lr, row, stop))
        self._note(step, lr, metrics)

    def _body(self, x: Tensor, target: Tensor, moment: Moment) -> Mapping[str, Tensor]:
        """All that a step does on the device; what its loss reports."""
        self.optimizer.zero_grad(set_to_none=True)
        self.buffers.take()
        losses, metrics = backward(
            self.loss, x, target, parts=self.parts, precision=self.autocast,
            scale=None if self.scaler is None else self.scaler.scale, alone=self.alone,
        )  # fmt: skip
        self._update(losses, moment)
        return metrics

    def as_graph(
        self,
        state: Callable[[], Iterable[Tensor]],
        capture: Capture | None = None,
        moves: Callable[[], str] | None = None,
    ) -> StepGraph:
        """Capture the step as one graph, which is replayed from its third time on; see `StepGraph`.

        Args:
            state: gives the buffers of the model and of its objective.
            moves: what the steps have moved in Python, see `StepGraph`.
        """
        own = [] if self.scaler is None else [self.scaler.value, self.scaler.good_steps]
        self._captured = True
        self.graph = StepGraph(self._body, lambda: [*state(), *own], self.world.device, capture, moves)
        return self.graph

    def drain(self) -> list[StepRecord]:
        """The records since the last call; on an accelerator this is where the host waits for the device.

        Raises:
            RunError: the model's parameters are no longer the ones that are trained, see `require_in_place`.
        """
        if not self._pending:
            return []
        self.weights.require_in_place()
        rows = self._rows[: len(self._pending)].tolist()
        metrics = _read(self._metrics)
        records = [
            self._record(step, lr, row, said)
            for (step, lr), row, said in zip(self._pending, rows, metrics, strict=True)
        ]
        self._pending.clear()
        self._metrics.clear()
        self.stop_agreed = any(row[5] for row in rows)
        return records

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Take up the moments of a checkpoint; betas and weight decay are what this run was told, not that one."""
        self.optimizer.load_state_dict(state)
        for group in self.optimizer.param_groups:
            group.update(self._settings())

    def _settings(self) -> dict[str, Any]:
        optimization = self.optimization
        betas = (optimization.adam_beta1, optimization.adam_beta2)
        return {"betas": betas, "weight_decay": optimization.wd}

    @torch.no_grad()
    def finish(
        self, step: int, lr: float, losses: Losses, stop: bool = False, metrics: Mapping[str, Tensor] | None = None
    ) -> None:
        """From the gradients on: clip, decide with all ranks, update; `losses` are of this rank, float32."""
        self._set_lr(lr)
        self._update(losses, Moment(lr, len(self._pending), stop))
        self._note(step, lr, metrics or {})

    def _set_lr(self, lr: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _note(self, step: int, lr: float, metrics: Mapping[str, Tensor]) -> None:
        self._pending.append((step, lr))
        self._metrics.append(metrics)

    @torch.no_grad()
    def _update(self, losses: Losses, moment: Moment) -> None:
        if self.scaler is not None:
            self.scaler.unscale_([p.grad for p in self.parameters if p.grad is not None])
        if self.before_clip is not None:
            self.before_clip()
        own_norm, limit = self._clip(self.optimizer.gradients())
        finite = own_norm.isfinite() if self.local_gradient is None else self.local_gradient.take()
        bad = torch.stack([~losses.rate.isfinite(), ~losses.distortion.isfinite(), ~finite]).float()
        said = torch.stack([losses.elbo, losses.distortion, losses.rate]).to(own_norm)
        stop = moment.stop
        asked = stop.to(own_norm) if isinstance(stop, Tensor) else torch.full_like(own_norm, stop)
        everyone = self.world.gather(torch.cat([said, own_norm[None], asked[None], bad.to(own_norm)]))
        norm, flags = everyone[0, 3], everyone[:, 5:]
        cause = self._cause(flags.amax(0), norm, limit)
        skip = (cause != 0).float()
        if self.usual_norm is not None:
            self.usual_norm.add(norm, cause == 0)  # of rank 0, so that all have the same limit
        if self.before_update is not None:
            self.before_update(skip)
        # the fused optimizer leaves weights, moments and step counts alone where found_inf is 1
        self.optimizer.found_inf = skip
        number = self.optimizer.param_groups[0]["lr"]
        self._set_lr(moment.lr)
        self.optimizer.step()
        self._set_lr(number)  # a checkpoint has a number, which is what a graph's step was given, too
        self.weights.average((1 - self.optimization.ema_rate) * (1 - skip))
        self.buffers.put_back(skip)
        if self.after_update is not None:
            self.after_update(skip)
        shared = torch.stack([norm, cause, everyone[:, 4].amax(), limit])
        said_of_all = torch.cat([everyone[:, :3].float().mean(0), shared, flags.flatten()])
        if isinstance(moment.row, Tensor):
            self._rows.index_copy_(0, moment.row[None], said_of_all[None].to(self._rows))
        else:
            self._rows[moment.row] = said_of_all

    def _clip(self, gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scale the gradients down to the limit; their norm of before, and the limit, which nothing waits for."""
        fixed, norm = (
            self.optimization.grad_clip,
            gradient_norm(gradients, self.world.device, may_wait=not self._captured),
        )
        if isinstance(fixed, str):
            assert self.usual_norm is not None
            limit = self.usual_norm.limit.to(norm)
        else:
            limit = torch.full_like(norm, fixed)
        clip_gradients(gradients, norm, limit)
        return norm, limit

    def _cause(self, any_rank: Tensor, norm: Tensor, limit: Tensor) -> Tensor:
        """The code of the cause (see `CAUSES`); `any_rank` flags a bad rate, distortion and gradient on some rank."""
        found = rule.code((any_rank[0], any_rank[1]), any_rank[2], norm, self._threshold, limit)
        if self.scaler is not None:
            overflow = ~norm.isfinite()
            found = torch.where(overflow & (found == 3), 4.0, found)
            self.scaler.update_(overflow & (any_rank[:2].amax() == 0))
        return found

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the forward pass."""
        return autocast(self.precision, self.world.device)

    def _record(self, step: int, lr: float, row: list[float], metrics: dict[str, float]) -> StepRecord:
        elbo, distortion, rate, norm, cause, _, clip = row[:_FLAGS]
        flags = row[_FLAGS:]
        sites = BadRanks(*(tuple(r for r in range(self.world.size) if flags[3 * r + site]) for site in range(3)))
        return StepRecord(step, elbo, distortion, rate, norm, lr, CAUSES[int(cause)], sites, metrics, clip)


def _read(pending: list[Mapping[str, Tensor]]) -> list[dict[str, float]]:
    """Metrics that wait on the device as numbers, in one transfer."""
    waiting = [value.detach().double().reshape(()) for metrics in pending for value in metrics.values()]
    if not waiting:
        return [{} for _ in pending]
    values = iter(torch.stack(waiting).tolist())
    return [{name: next(values) for name in metrics} for metrics in pending]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in `precision`; fp32 needs none."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


class LossScale:
    """Dynamic loss scaling for fp16, without a wait for the device.

    The scale is halved by an overflow and doubled after `interval` steps without one (Micikevicius et al. 2018).
    """

    def __init__(self, device: torch.device, initial: float = 2.0**16, interval: int = 2000) -> None:
        self.value = torch.full((), initial, device=device)
        self.good_steps = torch.zeros((), device=device)
        self.interval = interval

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale, in float32."""
        return loss.float() * self.value

    def unscale_(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale."""
        torch._foreach_mul_(gradients, self.value.reciprocal())

    def update_(self, overflow: Tensor) -> None:
        """Choose the next scale."""
        self.good_steps.copy_(torch.where(overflow, 0.0, self.good_steps + 1))
        grow = self.good_steps >= self.interval
        self.value.mul_(torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0)))
        self.good_steps.mul_(~grow)

    def state_dict(self) -> dict[str, Tensor]:
        """Scale and counter."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.value.copy_(state["value"])
        self.good_steps.copy_(state["good_steps"])
