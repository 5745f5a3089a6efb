"""Training loops in random words, each of which runs under a guard and beside the same one that skips by hand.

    python tests/long/random_loops.py --first 0 --count 300
    python tests/long/random_loops.py --first 7 --show        # the text of one

A loop is drawn at random in each of its parts: the model and what it counts, where the loss is computed, the optimizer,
accumulated gradients, where they are cleared and clipped, a schedule, an average of the weights, evaluations, a critic.
Some batches are bad: a row is NaN or huge, a raw value is pushed, or a gradient alone is NaN. The second run has the
same text but for `optimizer.step()`, in whose place stands what a careful author would write: no update, and the
buffers of before, if the loss or the squared norm is not finite. Compared, bit for bit, are

- weights, buffers, counters, states of the optimizers, averages, losses, and the generators' states at the end;
- the guard's number of steps and the skips: step, cause, loss, norm;

and of each skip that was looked at, whether what is named is what was done: the row, the head, or neither.

Runs on one processor, without a network; a number is printed for each loop that differs, and 1 is the exit status.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import random
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import vdvae_patch

B, D, Z = 6, 10, 3
LARGEST = math.sqrt(torch.finfo(torch.float32).max)
"""The norm from which a square is infinite in float32, so that Adam would never move those weights again."""

MODEL = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear({D}, 16), {norm}nn.{act}(){dropout})
        {heads}
        with torch.no_grad():
            {weight}[:, 16] = 1.0

    def forward(self, x):
        h = torch.cat([self.body(x), x], 1)
        return {outputs}


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Sequential(nn.Linear({Z}, 16), nn.{act}(), nn.Linear(16, {D}))
        {attributes}

    def forward(self, x):
        {count}
        mean, raw = self.encoder(x)
        {sigma}
        z = {draw}
        out = self.decoder(z)
        {end}
{method}
"""

SIGMAS = (
    ("std = torch.exp(0.5 * raw)", "(-0.5 * (1 + raw - mean.pow(2) - raw.exp()))"),
    ("std = raw.exp()", "(0.5 * (mean**2 + std**2 - 1) - raw)"),
    ("std = F.softplus(raw) + 1e-4", "(0.5 * (mean**2 + std**2 - 1) - std.log())"),
    ("var = raw.exp()\nstd = var.sqrt()", "(0.5 * (var + mean.square() - 1 - var.log()))"),
    ("std = torch.exp(raw)", "kl_divergence(Normal(mean, std, validate_args=False), Normal(0.0, 1.0))"),
)
DRAWS = ("mean + std * torch.randn_like(std)", "torch.randn_like(mean).mul(std).add(mean)",
         "Normal(mean, std, validate_args=False).rsample()")  # fmt: skip
TERMS = ("((out - x) ** 2)", "F.mse_loss(out, x, reduction='none')", "(out - x).pow(2).mul(0.5)")
SUMS = ("({term}.sum(1) + {kl}.sum(1)).mean()", "({term}.sum() + {kl}.sum()) / len(x)",
        "{term}.mean() + 0.1 * {kl}.mean()")  # fmt: skip
HURT = "hurt = mean[x[:, 1] > 50]\nloss = loss + (hurt - hurt.detach()).abs().sqrt().sum()"
"""Its value is 0, and its gradient a NaN, 0 · ∞, where there is such a row."""

OPTIMIZERS = (
    "torch.optim.SGD({p}, 1e-2)", "torch.optim.SGD({p}, 1e-2, momentum=0.9, nesterov=True)",
    "torch.optim.Adam({p}, 1e-2)", "torch.optim.AdamW({p}, 1e-2, weight_decay=0.1)",
    "torch.optim.RMSprop({p}, 1e-3, momentum=0.5)",
    "torch.optim.Adam({p}, 1e-2, amsgrad=True, foreach=False)", "torch.optim.Adagrad({p}, 1e-2)",
    "torch.optim.NAdam({p}, 1e-3)", "torch.optim.RAdam({p}, 1e-3)", "torch.optim.Adamax({p}, 1e-3, weight_decay=1e-3)",
    "torch.optim.AdamW({p}, 1e-2, fused=True)",
)  # fmt: skip


CLIPS = ("", "", "nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
         "nn.utils.clip_grad_value_(model.parameters(), 0.5)")  # fmt: skip
SCHEDULES = (
    "", "", "torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)",
    "torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=64, cycle_momentum=False)",
)  # fmt: skip
LOADERS = {
    "list": "for x in [row.clone() for row in DATA]:",
    "loader": "for (x,) in DataLoader(TensorDataset(DATA.flatten(0, 1)), batch_size=len(DATA[0])):",
    "generator": "for x in (row.clone() for row in DATA):",
    "epochs": "for x in (row.clone() for half in DATA.chunk(2) for row in half):",
}
CRITIC = """of_critic.zero_grad()
made, real = out.detach().nan_to_num(0.0, 1.0, -1.0).clamp(-9, 9), x.nan_to_num().clamp(-9, 9)
(F.softplus(critic(made)).sum() + F.softplus(-critic(real)).sum()).backward()
of_critic.step()"""
EVALUATION = """if number % 4 == 3:
    model.eval()
    with torch.no_grad():
        losses.append(float(model.decoder(model.encoder(x.nan_to_num().clamp(-3, 3))[0]).sum()))
    model.train()"""
AVERAGE = """with torch.no_grad():
    for a, p in zip(averaged.parameters(), model.parameters()):
        a.lerp_(p, 0.1)"""


class Bad(NamedTuple):
    """A batch that spoils its step: what is done, and to which row."""

    kind: str
    row: int


class Loop:
    """What a seed draws."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.batches = draw.randint(8, 16)
        self.accumulated = draw.choice((1, 1, 1, 2, 3))
        kinds = draw.choices(("row", "huge", "push", "gradient"), k=draw.randint(1, 4))
        self.bad = {
            at: Bad(kind, draw.randrange(B))
            for at, kind in zip(draw.sample(range(self.batches), len(kinds)), kinds, strict=True)
        }
        self.two_heads = draw.random() < 0.5
        self.norm = draw.choice(("", "", "nn.BatchNorm1d(16), ", "nn.LayerNorm(16), "))
        self.dropout = draw.choice(("", "", ", nn.Dropout(0.2)"))
        self.act = draw.choice(("Tanh", "ReLU", "SiLU"))
        self.sigma, self.kl = draw.choice(SIGMAS)
        self.drawn, self.term, self.sum = draw.choice(DRAWS), draw.choice(TERMS), draw.choice(SUMS)
        self.loss_in = draw.choice(("model", "method", "function", "loop", "object", "lambda"))
        self.optimizer = draw.choice(OPTIMIZERS)
        self.groups = draw.random() < 0.3
        self.clear = draw.choice(("before", "before backward", "after", "by hand", "to zero"))
        self.clip, self.schedule = draw.choice(CLIPS), draw.choice(SCHEDULES)
        self.average = draw.choice(("", "", "averaged", "by hand"))
        self.evaluates = draw.random() < 0.4
        self.critic = draw.random() < 0.25
        self.counts = draw.random() < 0.5
        self.logs = draw.choice(("loss.item()", "loss.detach()", "float(loss)"))
        self.loader = draw.choice(tuple(LOADERS))
        self.anneals = draw.random() < 0.3
        self.leaves = draw.random() < 0.15
        self.backward = draw.choice(("loss", "loss", "loss", "parts", "autograd", "closure", "by hand"))
        self.two_optimizers = (
            draw.random() < 0.2 and not self.groups and not self.schedule and self.backward != "closure"
        )
        self.autocast = draw.random() < 0.15
        if self.backward == "closure":
            self.accumulated, self.leaves, self.clip = 1, False, ""

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if v not in ("", False)}
        return ", ".join(f"{k} {v}" for k, v in shown.items())

    def _loss(self, model: str) -> str:
        """Lines from `out`, `x`, `mean`, `raw`, `std` on."""
        kl = self.kl if not self.anneals else f"({model}.weight * {self.kl})"
        return f"loss = {self.sum.format(term=self.term, kl=kl)}\n{HURT}"

    def model(self) -> str:
        heads = (
            f"self.mean, self.raw = nn.Linear({16 + D}, {Z}), nn.Linear({16 + D}, {Z})"
            if self.two_heads
            else f"self.both = nn.Linear({16 + D}, {2 * Z})"
        )
        weight = "self.raw.weight" if self.two_heads else f"self.both.weight[{Z}:]"
        outputs = "self.mean(h), self.raw(h)" if self.two_heads else "self.both(h).chunk(2, 1)"
        attributes = "self.weight, self.calls = 1.0, 0"
        if self.counts:
            attributes += "\n        self.usual = torch.zeros(())"
        end, method = "", ""
        usual = "\nself.usual = 0.9 * self.usual + 0.1 * loss.detach()" if self.counts else ""
        if self.loss_in == "model":
            end = f"{self._loss('self')}{usual}\nreturn loss, out"
        else:
            end = "return out, mean, raw, std" if "var" not in self.sigma else "return out, mean, raw, var"
            if self.loss_in == "method":
                body = f"{self._unpacked()}\n{self._loss('self')}{usual}\nreturn loss, out"
                method = "\n    def loss(self, x, outputs):\n" + textwrap.indent(body, 8 * " ")

        def indented(text: str) -> str:
            return textwrap.indent(text, 8 * " ").lstrip()

        return MODEL.format(
            D=D, Z=Z, norm=self.norm, dropout=self.dropout, act=self.act, heads=heads, weight=weight, outputs=outputs,
            count="self.calls += 1", attributes=attributes, sigma=indented(self.sigma),
            draw=self.drawn, end=indented(end), method=method,
        )  # fmt: skip

    def _unpacked(self) -> str:
        last = "var" if "var" in self.sigma else "std"
        more = "\nstd = var.sqrt()" if last == "var" else ""
        return f"out, mean, raw, {last} = outputs{more}"

    def _computed(self) -> tuple[str, str]:
        """What stands beside the loop, and the lines in it that give `loss` and `out`."""
        usual = "\nmodel.usual = 0.9 * model.usual + 0.1 * loss.detach()" if self.counts else ""
        body = f"{self._unpacked()}\n{self._loss('model')}{usual}"
        if self.loss_in == "model":
            return "", "loss, out = model(x)"
        if self.loss_in == "method":
            return "", "loss, out = model.loss(x, model(x))"
        if self.loss_in == "function":
            inner = f"outputs = model(x)\n{body}\nreturn loss, out"
            code = f"def loss_of(model, x):\n{textwrap.indent(inner, '    ')}\n"
            return code, "loss, out = loss_of(model, x)"
        if self.loss_in == "object":
            inner = f"{body}\nreturn loss, out"
            code = (
                "class Criterion(nn.Module):\n    def forward(self, model, x, outputs):\n"
                f"{textwrap.indent(inner, 8 * ' ')}\n\n\ncriterion = Criterion()\n"
            )
            return code, "loss, out = criterion(model, x, model(x))"
        if self.loss_in == "lambda":
            code = (
                f"def measured(model, x, outputs):\n{textwrap.indent(body, '    ')}\n    return loss, out\n\n\n"
                "loss_of = lambda model, x: measured(model, x, model(x))\n"
            )
            return code, "loss, out = loss_of(model, x)"
        return "", f"outputs = model(x)\n{body}"

    def text(self, *, by_hand: bool) -> str:
        beside, computed = self._computed()
        k = self.accumulated
        none = "False" if self.clear == "to zero" else "True"
        names = ("optimizer", "second") if self.two_optimizers else ("optimizer",)
        clear = "\n".join(f"{name}.zero_grad(set_to_none={none})" for name in names)
        if self.clear == "by hand":
            clear = "for p in model.parameters():\n    p.grad = None"
        if by_hand:
            clear += "\nLOSSES.clear()"
        first = f"if number % {k} == 0:\n{textwrap.indent(clear, '    ')}" if k > 1 else clear
        body = ["spoil(number, x)"]
        if self.anneals:
            body.append("model.weight = min(1.0, (number + 1) / 6)")
        if self.clear not in ("before backward", "after"):
            body.append(first)
        if self.autocast:
            computed = f"with torch.autocast('cpu', torch.bfloat16):\n{textwrap.indent(computed, '    ')}"
            computed += "\nloss, out = loss.float(), out.float()"
        if self.backward == "parts":
            computed += "\nhalf = 0.5 * loss"
        body.append(computed)
        if self.critic:
            body.append(CRITIC)
        if self.clear == "before backward":
            body.append(first)
        if self.leaves:
            body.append("if loss.isnan():\n    left += 1\n    number += 1\n    continue")
        share = f" / {k}" if k > 1 else ""
        body.append({
            "loss": f"({'loss' + share}).backward()",
            "parts": f"({'half' + share}).backward(retain_graph=True)\n({'half' + share}).backward()",
            "autograd": f"torch.autograd.backward([{'loss' + share}])",
            "closure": "loss.backward()",
            "by hand": "for p, g in zip(model.parameters(), torch.autograd.grad("
            f"{'loss' + share}, list(model.parameters()))):\n    p.grad = g if p.grad is None else p.grad + g",
        }[self.backward])  # fmt: skip
        update = [self.clip] if self.clip else []
        update += [f"by_hand(model, {name}, LOSSES)" if by_hand else f"{name}.step()" for name in names]
        if by_hand:
            update.append("LOSSES.clear()\nremember(model)")
        if self.schedule:
            update.append("schedule.step()")
        if self.average == "averaged":
            update.append("averaged.update_parameters(model)")
        elif self.average == "by hand":
            update.append(AVERAGE)
        if self.clear == "after":
            update.append(clear)
        lines = "\n".join(update)
        body.append(f"if (number + 1) % {k} == 0:\n{textwrap.indent(lines, '    ')}" if k > 1 else lines)
        body.append(f"losses.append({self.logs})")
        if self.evaluates:
            body.append(EVALUATION)
        body.append("number += 1")
        if by_hand:
            at = next(
                i
                for i, line in enumerate(body)
                if ("backward(" in line or "autograd.grad" in line) and "critic" not in line
            )
            body.insert(at, f"LOSSES.append(float(loss) / {k})")
        if self.backward == "closure" and not by_hand:
            body = self._with_closure(body)
        loop = "\n".join(body)
        if self.two_optimizers:
            optimizer, second = (
                self.optimizer.format(p=f"model.{part}.parameters()") for part in ("encoder", "decoder")
            )
        groups = "[{'params': model.encoder.parameters()}, {'params': model.decoder.parameters(), 'lr': 5e-3}]"
        if not self.two_optimizers:
            optimizer, second = self.optimizer.format(p=groups if self.groups else "model.parameters()"), "None"
        over = LOADERS[self.loader]
        made = [f"optimizer, second = {optimizer}, {second}"]
        if self.schedule:
            made.append(f"schedule = {self.schedule}")
        if self.average:
            made.append(
                "averaged = AveragedModel(model)" if self.average == "averaged" else "averaged = copy.deepcopy(model)"
            )
        else:
            made.append("averaged = None")
        made.append(
            "critic = nn.Linear(10, 1)\nof_critic = torch.optim.Adam(critic.parameters(), 1e-3)"
            if self.critic
            else "of_critic = None"
        )
        end = (
            "return {'optimizer': optimizer, 'second': second, 'averaged': averaged, 'critic': of_critic, "
            "'losses': losses, 'left': left}"
        )
        setup = "\n".join([*made, "losses, number, left = [], 0, 0"])
        if by_hand:
            setup += "\nremember(model)"
        train = f"{setup}\n{over}\n{textwrap.indent(loop, '    ')}\n{end}"
        return f"""import copy
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

LOSSES = []
DATA = None
{self.model()}

{beside}

def train(model):
{textwrap.indent(train, "    ")}
"""

    @staticmethod
    def _with_closure(body: list[str]) -> list[str]:
        """The lines from the loss to its backward pass in a function that the optimizer calls."""
        first = next(i for i, line in enumerate(body) if "loss" in line and "=" in line and "model" in line)
        last = body.index("loss.backward()")
        inner = "\n".join([*body[first : last + 1], "found.append((loss, out))\nreturn loss"])
        closure = f"found = []\n\ndef closure():\n{textwrap.indent(inner, '    ')}\n"
        rest = [
            line.replace("optimizer.step()", "optimizer.step(closure)\nloss, out = found[-1]")
            for line in body[last + 1 :]
        ]
        return [*body[:first], closure, *rest]

    def data(self) -> Tensor:
        return torch.randn(self.batches, B, D, generator=torch.Generator().manual_seed(self.seed))

    def spoil(self, number: int, x: Tensor) -> None:
        """Make a batch bad."""
        bad = self.bad.get(number)
        if bad is None:
            return
        if bad.kind == "row":
            x[bad.row] = math.nan
        elif bad.kind == "huge":
            x[bad.row, 2:] = 1e25
        else:
            x[bad.row, 0 if bad.kind == "push" else 1] = 400.0


class Skipped(NamedTuple):
    step: int
    cause: str
    loss: float
    norm: float


class ByHand:
    """What a careful author writes in the place of `optimizer.step()`."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.applied, self.skipped = 0, list[Skipped]()
        self.buffers: dict[str, Tensor] = {}
        self.usual: Tensor | None = None

    def remember(self, model: nn.Module) -> None:
        self.buffers = {name: b.clone() for name, b in model.named_buffers()}
        self.usual = getattr(model, "usual", None)

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients)) if gradients else 0.0
        loss, number = sum(losses), self.numbers.get(id(optimizer), 0)
        if math.isfinite(loss) and norm < LARGEST:
            optimizer.step()
            self.applied += 1
        else:
            cause = "high_gradient" if math.isfinite(loss) else "nan_loss"
            self.skipped.append(Skipped(number, cause, loss, norm))
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = None
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(self.buffers[name])
            if self.usual is not None and not bool(model.usual.isfinite()):  # type: ignore[operator]
                model.usual = self.usual  # type: ignore[assignment]
        self.numbers[id(optimizer)] = number + 1


def _module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module | torch.optim.Optimizer):
        yield from _tensors(value.state_dict())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _tensors(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, int | float):
        yield torch.tensor(float(value), dtype=torch.float64)


def _alike(one: Any, other: Any) -> bool:
    ours, theirs = list(_tensors(one)), list(_tensors(other))
    if len(ours) != len(theirs):
        return False
    return all(
        a.shape == b.shape and torch.equal(a.nan_to_num(1.5), b.nan_to_num(1.5)) and torch.equal(a.isnan(), b.isnan())
        for a, b in zip(ours, theirs, strict=True)
    )


def _run(loop: Loop, module: ModuleType, guarded: bool, out: Path | None) -> tuple[dict[str, Any], Any]:
    torch.manual_seed(loop.seed)
    np.random.seed(loop.seed)
    random.seed(loop.seed)
    model = module.VAE()
    module.DATA, module.spoil = loop.data(), loop.spoil
    hand = ByHand()
    module.by_hand, module.remember = hand, hand.remember
    guard = vdvae_patch.guard(model, out=out, file=io.StringIO()) if guarded else None
    seen = module.train(model)
    seen |= {"model": model, "calls": model.calls, "usual": getattr(model, "usual", None)}
    seen |= {"torch": torch.get_rng_state(), "numpy": np.random.random(), "random": random.random()}
    if guard is not None:
        guard.remove()
    return seen, guard if guarded else hand


def differences(loop: Loop, folder: Path) -> Iterator[str]:
    """Where the guarded loop is not the one by hand."""
    name = f"loop_{loop.seed}"
    theirs, hand = _run(loop, _module(folder, f"{name}_hand", loop.text(by_hand=True)), False, None)
    out = folder / f"{name}_guard" if loop.seed % 2 else None
    ours, guard = _run(loop, _module(folder, name, loop.text(by_hand=False)), True, out)
    for what in theirs:
        if not _alike(ours[what], theirs[what]):
            yield f"{what} is another"
    if guard.steps != hand.applied:
        yield f"{guard.steps} steps, not {hand.applied}"
    said = [(s.step, s.cause) for s in guard.skips]
    right = [(s.step, s.cause) for s in hand.skipped]
    if said != right:
        yield f"skips {said}, not {right}"
        return
    exploded = False  # a step without a bad batch was skipped: from there on the weights are to blame as well
    for ours_, theirs_ in zip(guard.skips, hand.skipped, strict=True):
        known = [("norm", ours_.norm, theirs_.norm)]
        if (
            loop.backward != "by hand" or loop.accumulated == 1
        ):  # of `grad`'s losses that a loop adds up, the last one's
            known.append(("loss", ours_.loss, theirs_.loss))
        for what, a, b in known:
            same = math.isclose(a, b, rel_tol=1e-5) if math.isfinite(b) and math.isfinite(a) else str(a) == str(b)
            if not same:
                yield f"step {ours_.step}: {what} {a}, not {b}"
        first = ours_.step * loop.accumulated
        exploded |= not any(n in loop.bad for n in range(first, first + loop.accumulated))
        if not exploded:
            yield from _blamed(loop, ours_)


def _blamed(loop: Loop, skip: Any) -> Iterator[str]:
    """Where what is named is not what was done."""
    if skip.diagnosis is None or loop.leaves:
        return
    first = skip.step * loop.accumulated
    done = [loop.bad[n] for n in range(first, first + loop.accumulated) if n in loop.bad]
    if len(done) != 1:
        return
    (bad,) = done
    raw = "encoder.raw" if loop.two_heads else "encoder.both"
    said = f"step {skip.step} ({bad.kind}, row {bad.row}): head {skip.head}, outside {skip.outside}, rows {skip.rows}"
    if bad.kind == "row" and not (f"row {bad.row} " in " ".join(skip.outside) and skip.head is None):
        yield said
    if bad.kind == "huge" and (skip.head is not None or (skip.rows and bad.row not in skip.rows)):
        yield said
    if bad.kind == "push" and skip.head != raw:
        yield said
    if bad.kind == "gradient" and skip.head is not None:
        yield said


def main() -> int:
    """Try some of them, and say which differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--show", action="store_true", help="print the text of the first, and do nothing")
    arguments = parser.parse_args()
    if arguments.show:
        print(Loop(arguments.first).text(by_hand=False))
        return 0
    warnings.simplefilter("ignore")
    began, differing, skips = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.first, arguments.first + arguments.count):
            loop = Loop(seed)
            skips += len(loop.bad)
            if problems := list(differences(loop, Path(folder))):
                differing += 1
                print(f"{seed}: {loop}", *problems, sep="\n    ", flush=True)
    print(f"{arguments.count} loops with {skips} bad batches, {differing} differ, {time.monotonic() - began:.0f} s")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
