"""Train many runs of one model together: one batched computation a step, every run with its own seed and learning rate.

A run depends on its seed and its learning rate alone, not on the runs beside it: it starts from the weights of its
seed, and its batches and noise are functions of (seed, step). A run whose loss is not finite has failed; it is recorded
with its step and cause, and leaves the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.adam import AdamSettings, StackedAdam
from vdvae_patch.experiments.lowering import Lowering, choose
from vdvae_patch.experiments.noise import count_normals, normals
from vdvae_patch.experiments.stack import Stack
from vdvae_patch.skips.gradient_norm import coefficient, row_norms
from vdvae_patch.skips.rule import LARGEST
from vdvae_patch.skips.usual_norm import UsualNorm

Batch = tuple[Tensor, ...]
Batches = Callable[[Sequence[int], int], Batch]
"""From seeds and a step to what the model's forward takes, each `[len(seeds), B, ...]`."""

Cause = Literal["nan_rate", "nan_distortion", "nan_weights"]
_CAUSES: tuple[Cause, ...] = ("nan_rate", "nan_distortion", "nan_weights")


@dataclass(frozen=True)
class Run:
    """One run of an ensemble; `scale` is for models that select theirs from several (`select`)."""

    seed: int
    lr: float
    scale: int = 0


@dataclass(frozen=True)
class Failure:
    """The step, counted from 0, at which a run's loss was not finite, and which part of it was not.

    `nan_weights`: neither part was finite, which is what weights that are not finite give.
    """

    step: int
    cause: Cause


@dataclass(frozen=True)
class Rule:
    """What happens between the gradient and the update.

    Attributes:
        adam: the optimizer.
        warmup: steps over which the learning rate rises linearly from 0.
        clip: the norm that a run's gradient is clipped to, auto the usual norm of its own updates; None leaves it.
        skip: an update is skipped if its norm, before clipping, is not below this, or if rate or distortion is not
            finite; None applies every update. With it no run fails.
    """

    adam: AdamSettings = field(default_factory=AdamSettings)
    warmup: int = 0
    clip: float | Literal["auto"] | None = None
    skip: float | None = None


class Ensemble:
    """R runs that are trained together.

    Args:
        runs: the runs; results are in their order.
        build: from a run to its freshly initialized model, patched or not; its forward returns scalars `elbo`,
            `distortion` and `rate`. What is minimised is `objective` if there is one, and else `elbo`.
        batches: see `Batches`.
        high_norm: a gradient norm that is counted as high.
        check_every: steps between two looks at which runs failed; each costs a synchronization with the device.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        build: Callable[[Run], nn.Module],
        batches: Batches,
        rule: Rule | None = None,
        *,
        device: torch.device | str = "cpu",
        high_norm: float = 400.0,
        check_every: int = 20,
        how: Lowering | None = None,
    ) -> None:
        if not runs:
            raise InvalidValueError("an ensemble needs at least one run")
        self.runs = tuple(runs)
        self.batches = batches
        self.rule = rule or Rule()
        self.device = torch.device(device)
        self.high_norm = high_norm
        self.check_every = check_every
        self.how = how
        self.step_count = 0
        self.alive = list(range(len(runs)))
        self.failures: dict[int, Failure] = {}
        self.stack = Stack.of([build(run) for run in runs], self.device)
        self.adam = StackedAdam.of(self.stack.flat, self.rule.adam)
        self.noise_size = count_normals(self.stack.template, *(part[0] for part in self._batch(0)))
        self._traces: dict[str, list[Tensor]] = {}
        self.nan_steps = torch.zeros(len(runs), dtype=torch.int64, device=self.device)
        self.high_steps = self.nan_steps.clone()
        self.skipped_steps = self.nan_steps.clone()
        self._first_bad = torch.full((len(runs),), -1, dtype=torch.int64, device=self.device)
        self._cause = self._first_bad.clone()
        self.usual_norm = UsualNorm(runs=len(runs), device=self.device) if self.rule.clip == "auto" else None
        self._arrange()

    @property
    def _moved_by_updates(self) -> tuple[str, ...]:
        """Buffers that the template moves once an update, so that a skipped one leaves them alone."""
        found: tuple[str, ...] = getattr(self.stack.template, "moved_by_updates", ())
        return found

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs that are alive."""
        return [self.runs[index].seed for index in self.alive]

    def train(self, steps: int, go_on: Callable[[], bool] = lambda: True) -> None:
        """Train until `steps` steps are done in all, every run has failed, or `go_on`, asked after a step, says no."""
        while self.step_count < steps and self.alive:
            self.step()
            if self.step_count % self.check_every == 0 or self.step_count == steps:
                self.drop_failed()
            if not go_on():
                break

    def step(self) -> None:
        """One step of every run that is alive."""
        if self.how is None:
            self.how = choose(self._try, self._synchronize)
        before = {name: self.stack.buffers[name].clone() for name in self._moved_by_updates}
        losses = self._gradients(self.how)
        grad = self.stack.flat.grad
        assert grad is not None
        norm, limit = row_norms(grad), torch.full((len(grad),), torch.inf, device=grad.device)
        if self.rule.clip is not None:
            limit = self._limit(norm)
        finite = torch.isfinite(losses["rate"]) & torch.isfinite(losses["distortion"])
        applied = self._judge(losses, norm, limit, finite)
        if applied is not None:
            for name, old in before.items():
                now = self.stack.buffers[name]
                now.copy_(torch.where(applied.view(-1, *[1] * (now.dim() - 1)), now, old))
        if self.rule.clip is not None:
            grad.mul_(coefficient(norm, limit)[:, None])
        if self.usual_norm is not None:
            self.usual_norm.add(norm, torch.ones_like(finite) if applied is None else applied)
        warm = min(1.0, self.step_count / self.rule.warmup) if self.rule.warmup else 1.0
        with torch.no_grad():
            self.adam.step(self.stack.flat, grad, self._lr * warm, applied)
        self._remember(losses | {"grad_norm": norm})
        self.step_count += 1

    def _judge(self, losses: dict[str, Tensor], norm: Tensor, limit: Tensor, finite: Tensor) -> Tensor | None:
        """Count what happened, and say which rows are updated; None is all of them."""
        self.nan_steps[self._rows] += ~finite
        self.high_steps[self._rows] += finite & ~(norm < self.high_norm)
        if self.rule.skip is not None:
            applied = self._applied(norm, limit, finite)
            self.skipped_steps[self._rows] += ~applied
            return applied
        first = ~finite & (self._first_bad[self._rows] < 0)
        bad_rate, bad_distortion = (~torch.isfinite(losses[name]) for name in ("rate", "distortion"))
        cause = torch.where(bad_rate & bad_distortion, 2, torch.where(bad_rate, 0, 1))
        self._first_bad[self._rows] = torch.where(first, self.step_count, self._first_bad[self._rows])
        self._cause[self._rows] = torch.where(first, cause, self._cause[self._rows])
        return None

    def _applied(self, norm: Tensor, limit: Tensor, finite: Tensor) -> Tensor:
        """Which rows are updated, where the rule skips any."""
        assert self.rule.skip is not None
        return finite & (norm < self.rule.skip) & norm.isfinite() & (torch.minimum(norm, limit) < LARGEST)

    def _limit(self, norm: Tensor) -> Tensor:
        """What each run's gradient is clipped to, `[R]`."""
        if self.usual_norm is not None:
            return self.usual_norm.limit.to(norm.dtype)
        assert isinstance(self.rule.clip, int | float)
        return torch.full_like(norm, self.rule.clip)

    def _gradients(self, how: Lowering) -> dict[str, Tensor]:
        self.stack.flat.grad = None
        noise = normals(self.seeds, self.step_count, self.noise_size, self.device)
        losses = self.stack(self._batch(self.step_count), noise, how)
        torch.autograd.backward(losses.get("objective", losses["elbo"]).sum())
        return {name: value.detach() for name, value in losses.items()}

    def _try(self, how: Lowering) -> None:
        buffers = {name: buffer.clone() for name, buffer in self.stack.buffers.items()}
        self._gradients(how)
        self.stack.buffers = buffers

    def _batch(self, step: int) -> Batch:
        return self.batches(self.seeds, step)

    def _remember(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            row = value.new_full((len(self.runs),), float("nan"))
            row[self._rows] = value
            self._traces.setdefault(name, []).append(row)

    def drop_failed(self) -> None:
        """Record the runs that failed, and go on with the others alone."""
        bad = self._first_bad.tolist()
        failed = [index for index in self.alive if bad[index] >= 0]
        if not failed:
            return
        cause = self._cause.tolist()
        self.failures |= {index: Failure(bad[index], _CAUSES[cause[index]]) for index in failed}
        rows = [row for row, index in enumerate(self.alive) if bad[index] < 0]
        self.alive = [self.alive[row] for row in rows]
        keep = torch.tensor(rows, dtype=torch.int64, device=self.device)
        self.stack, self.adam = self.stack.keep(keep), self.adam.keep(keep)
        if self.usual_norm is not None:
            self.usual_norm.keep(keep)
        self._arrange()

    def _arrange(self) -> None:
        self._rows = torch.tensor(self.alive, dtype=torch.int64, device=self.device)
        rates = [self.runs[index].lr for index in self.alive]
        self._lr = torch.tensor(rates, dtype=torch.float64, device=self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def trace(self, name: str = "elbo") -> Tensor:
        """A scalar of the model, or `grad_norm` before clipping, at every step: `[steps, R]`; NaN after a failure."""
        rows = self._traces.get(name, [])
        return torch.stack(rows).cpu() if rows else torch.empty(0, len(self.runs))

    def fork(self, state: dict[str, Any], row: int = 0) -> None:
        """Let every run start from one row of another ensemble's `state_dict`: weights, buffers and optimizer."""
        runs = len(self.runs)

        def spread(tensor: Tensor) -> Tensor:
            return tensor[row].to(self.device).expand(runs, *tensor.shape[1:]).clone()

        buffers = {name: spread(buffer) for name, buffer in state["buffers"].items()}
        self.stack = Stack(self.stack.template, spread(state["flat"]).requires_grad_(), buffers)
        mean, square, updates = (spread(tensor) for tensor in state["adam"])
        self.adam = StackedAdam(self.rule.adam, mean, square, updates)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on with the next step as if there had been no stop."""
        usual = self.usual_norm
        return {
            "runs": [astuple(run) for run in self.runs],
            "step": self.step_count,
            "alive": self.alive,
            "failures": {index: (f.step, f.cause) for index, f in self.failures.items()},
            "flat": self.stack.flat.detach().cpu(),
            "buffers": {name: buffer.cpu() for name, buffer in self.stack.buffers.items()},
            "adam": [t.cpu() for t in (self.adam.mean, self.adam.square, self.adam.updates)],
            "counts": [t.cpu() for t in (self.nan_steps, self.high_steps, self._first_bad, self._cause)],
            "skipped": self.skipped_steps.cpu(),
            "traces": {name: self.trace(name) for name in self._traces},
            "usual_norm": {name: t.cpu() for name, t in (usual.state_dict() if usual else {}).items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of an ensemble of the same runs; raises `InvalidValueError` for others."""
        if [tuple(run) for run in state["runs"]] != [astuple(run) for run in self.runs]:
            raise InvalidValueError("the saved state is of other seeds or learning rates; delete it, or ask for those")
        self.step_count, self.alive = state["step"], list(state["alive"])
        self.failures = {index: Failure(step, cause) for index, (step, cause) in state["failures"].items()}
        buffers = {name: buffer.to(self.device) for name, buffer in state["buffers"].items()}
        self.stack = Stack(self.stack.template, state["flat"].to(self.device).requires_grad_(), buffers)
        mean, square, updates = (t.to(self.device) for t in state["adam"])
        self.adam = StackedAdam(self.rule.adam, mean, square, updates)
        counts = (t.to(self.device) for t in state["counts"])
        self.nan_steps, self.high_steps, self._first_bad, self._cause = counts
        self.skipped_steps = state.get("skipped", self.nan_steps).to(self.device).clone()  # older states have no count
        self._traces = {name: list(rows.to(self.device)) for name, rows in state["traces"].items()}
        if self.usual_norm is not None:
            self.usual_norm = UsualNorm(runs=len(self.alive), device=self.device)
            self.usual_norm.load_state_dict(state["usual_norm"])
        self._arrange()
