"""Rules of clipping side by side on the stress test, those of the product and others that are known.

    OMP_NUM_THREADS=1 python tests/long/clipping_rules.py 8 5e-2 fixed:5 usual:2:100:20 agc:0.01 --data-root DATA

The protocol is that of `reproduce stress`: ten seeds, explin/constant, an update skipped for NaN alone. Each rule is a
name and its numbers:

    fixed:LIMIT                          the gradient norm is clipped to a number
    usual:MULTIPLE:WINDOW:WARM_UP        to a multiple of the median of the last norms, each as it was clipped
    quantile:Q:WINDOW:WARM_UP            to a quantile of the last norms
    zclip:DECAY:Z:WARM_UP                to the running mean + Z² / z standard deviations, if it is z > Z of them away
    adagc:RATIO:DECAY:WARM_UP:LIMIT      each tensor's to a multiple of its running mean; all to LIMIT in the warm-up
    agc:RATIO                            each output channel's to a share of its weights' norm (Brock et al. 2021)

and with `/beta2=0.99` or `/rms=0.5` behind it Adam's second decay, or updates whose root mean square, in units of the
learning rate, is brought down to that, tensor by tensor.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from vdvae_patch.experiments import stress, stress_protocol
from vdvae_patch.experiments.adam import AdamSettings
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.experiments.remedies import find
from vdvae_patch.skips.gradient_norm import coefficient, row_norms


class Clipping:
    """What is done to the gradients `[R, N]` of a step whose norms are `[R]`; the limit of each, for the record."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers
        self.steps = 0

    def __call__(self, ensemble: Ensemble, grad: Tensor, norm: Tensor) -> Tensor:
        limit = self.limit(norm)
        grad.mul_(coefficient(norm, limit)[:, None])
        return limit

    def limit(self, norm: Tensor) -> Tensor:
        raise NotImplementedError


class Fixed(Clipping):
    def limit(self, norm: Tensor) -> Tensor:
        return torch.full_like(norm, self.numbers[0])


class Window(Clipping):
    """Of the finite norms of before, a run's own."""

    as_clipped = False

    def __init__(self, first: float, window: float, warm_up: float) -> None:
        super().__init__(first)
        self.window, self.warm_up = int(window), int(warm_up)
        self.known: list[list[float]] = []

    def limit(self, norm: Tensor) -> Tensor:
        self.known = self.known or [[] for _ in norm]
        found = [self.of(sorted(one)) if len(one) >= self.warm_up else math.inf for one in self.known]
        for one, value, most in zip(self.known, norm.tolist(), found, strict=True):
            if math.isfinite(value):
                one.append(min(value, most) if self.as_clipped else value)
                del one[: -self.window]
        return norm.new_tensor(found)

    def of(self, norms: list[float]) -> float:
        raise NotImplementedError


class Usual(Window):
    as_clipped = True

    def of(self, norms: list[float]) -> float:
        return self.numbers[0] * norms[math.ceil(len(norms) / 2) - 1]


class Quantile(Window):
    def of(self, norms: list[float]) -> float:
        return norms[math.ceil(self.numbers[0] * len(norms)) - 1]


class ZClip(Clipping):
    def __init__(self, decay: float, z: float, warm_up: float) -> None:
        super().__init__(decay, z)
        self.first: list[Tensor] = []
        self.warm_up = int(warm_up)
        self.mean = self.variance = torch.zeros(())

    def limit(self, norm: Tensor) -> Tensor:
        self.steps += 1
        decay, most = self.numbers
        if self.steps <= self.warm_up:
            self.first.append(norm.clone())
            if self.steps == self.warm_up:
                known = torch.stack(self.first)
                self.mean, self.variance = known.mean(0), known.var(0)
            return torch.full_like(norm, math.inf)
        deviation = self.variance.sqrt() + 1e-6
        z = (norm - self.mean) / deviation
        limit = torch.where(z > most, self.mean + most**2 / z * deviation, norm)
        new = torch.minimum(norm, limit)
        new = torch.where(new.isfinite(), new, self.mean)
        self.variance = decay * self.variance + (1 - decay) * (new - self.mean) ** 2
        self.mean = decay * self.mean + (1 - decay) * new
        return limit


class AdaGC(Clipping):
    def __init__(self, ratio: float, decay: float, warm_up: float, limit: float) -> None:
        super().__init__(ratio, decay, warm_up, limit)
        self.usual: dict[str, Tensor] = {}

    def __call__(self, ensemble: Ensemble, grad: Tensor, norm: Tensor) -> Tensor:
        ratio, decay, warm_up, limit = self.numbers
        self.steps += 1
        if self.steps <= warm_up:
            grad.mul_((limit / (norm + 1e-6)).clamp(max=1)[:, None])
        for name, part in ensemble.stack.parameters(grad).items():
            own = part.flatten(1).norm(dim=1)
            if self.steps == 1:
                self.usual[name] = own
            elif self.steps <= warm_up:
                self.usual[name] = torch.minimum(self.usual[name], own)
            else:
                factor = (ratio * self.usual[name] / (own + 1e-12)).clamp(max=1)
                part.mul_(factor.view(-1, *[1] * (part.dim() - 1)))
                self.usual[name] = decay * self.usual[name] + (1 - decay) * torch.nan_to_num(own * factor)
        return row_norms(grad)


class Agc(Clipping):
    def __call__(self, ensemble: Ensemble, grad: Tensor, norm: Tensor) -> Tensor:
        weights = ensemble.stack.parameters(ensemble.stack.flat.detach())
        for name, part in ensemble.stack.parameters(grad).items():
            inner = tuple(range(2, part.dim()))
            sizes = [t.pow(2).sum(inner, keepdim=True).sqrt() if inner else t.abs() for t in (weights[name], part)]
            part.mul_((self.numbers[0] * sizes[0].clamp(min=1e-3) / sizes[1].clamp(min=1e-6)).clamp(max=1))
        return row_norms(grad)


RULES = {"fixed": Fixed, "usual": Usual, "quantile": Quantile, "zclip": ZClip, "adagc": AdaGC, "agc": Agc}


class Clipped(Ensemble):
    """An ensemble whose step has such a rule in the place of its own."""

    clipping: Clipping
    rms: float | None = None

    def step(self) -> None:
        losses = self._gradients("grouped")
        grad = self.stack.flat.grad
        assert grad is not None
        norm = row_norms(grad)
        finite = torch.isfinite(losses["rate"]) & torch.isfinite(losses["distortion"])
        with torch.no_grad():
            limit = self.clipping(self, grad, norm)
        applied = self._judge(losses, norm, limit, finite)
        warm = min(1.0, self.step_count / self.rule.warmup)
        with torch.no_grad():
            before = self.stack.flat.detach().clone() if self.rms else None
            self.adam.step(self.stack.flat, grad, self._lr * warm, applied)
            if before is not None:
                self._bound_update(before, warm)
        self._remember(losses | {"grad_norm": norm, "limit": limit})
        self.step_count += 1

    def _bound_update(self, before: Tensor, warm: float) -> None:
        assert self.rms is not None
        update = self.stack.flat.detach() - before
        for part in self.stack.parameters(update).values():
            size = part.flatten(1).pow(2).mean(1).sqrt() / (self._lr.float() * warm + 1e-12)
            part.div_((size / self.rms).clamp(min=1).view(-1, *[1] * (part.dim() - 1)))
        self.stack.flat.detach().copy_(before + update)


def prepared(size: int, lr: float, spec: str, root: Path, seeds: int, steps: int) -> Clipped:
    """The runs of a rule, at their beginning."""
    rule, *settings = spec.split("/")
    name, *numbers = rule.split(":")
    options = dict(setting.split("=") for setting in settings)
    protocol = replace(stress_protocol.SIZES[size], steps=steps, seeds=seeds, lr=(lr,))
    runs = [Run(seed, lr) for seed in range(seeds)]
    cpu = torch.device("cpu")
    update = Rule(AdamSettings(0.9, float(options.get("beta2", 0.9)), wd=0.01), protocol.warmup, None, math.inf)
    remedy = replace(find("explin/constant"), skip=math.inf)
    batches = stress._Batches(root, [run.seed for run in runs], protocol, cpu)
    ensemble = Clipped(runs, stress._Builder(remedy, protocol, None), batches, update, high_norm=stress.HIGH_NORM)
    ensemble.clipping = RULES[name](*map(float, numbers))
    ensemble.rms = float(options["rms"]) if "rms" in options else None
    return ensemble


def measure(size: int, lr: float, spec: str, root: Path, seeds: int, steps: int) -> dict[str, object]:
    """Counts and NELBO of a rule, as `reproduce stress` has them, and what the norm was before each explosion."""
    ensemble = prepared(size, lr, spec, root, seeds, steps)
    ensemble.train(steps)
    rows = stress.summarize(ensemble, steps)["runs"]
    nelbo = [math.inf if row["nelbo"] is None else row["nelbo"] for row in rows]
    norms, limits = ensemble.trace("grad_norm"), ensemble.trace("limit")
    high = norms >= stress.HIGH_NORM
    # an explosion is the first high norm in ten steps
    begun = [(t, r) for t, r in high.nonzero().tolist() if t and not high[max(0, t - 10) : t, r].any()]
    return {
        "rule": spec,
        "clean": sum(not row["nan"] and not row["high"] for row in rows),
        "nan": sum(row["nan"] for row in rows),
        "high": sum(row["high"] for row in rows),
        "nelbo": {"median": median(nelbo), "least": min(nelbo), "greatest": max(nelbo)},
        "explosions": len(begun),
        "norm": norms.nanmedian().item(),
        "norm of the step before": median([norms[t - 1, r].item() for t, r in begun] or [math.nan]),
        "steps clipped": (norms > limits).float().mean().item(),
        "steps before that were clipped": sum(bool(norms[t - 1, r] > limits[t - 1, r]) for t, r in begun),
        "greatest limit after 20 steps": limits[20:].nan_to_num(0).max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=int, choices=stress_protocol.SIZES)
    parser.add_argument("lr", type=float)
    parser.add_argument("rules", nargs="+")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for spec in given.rules:
        print(json.dumps(measure(given.size, given.lr, spec, given.data_root, given.seeds, given.steps)), flush=True)


if __name__ == "__main__":
    main()
