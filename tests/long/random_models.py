"""VAEs in random words, each of which is patched and compared with a twin that has the scales written in by hand.

    python tests/long/random_models.py --first 0 --count 400
    python tests/long/random_models.py --first 0 --count 200 --keep
    python tests/long/random_models.py --first 0 --count 60 --stabilize

A model is one of eight structures with a spelling of each of its parts drawn at random: how σ is computed of the raw
value, the draw, the KL, the reconstruction term, how both are added up, and whether the loss is beside the model. Known
by construction, and compared with what the tool says or does, are

- the heads' roles;
- the bound: σ of the Gaussian or the Laplace, or how many times the KL counts;
- loss and gradients of the patched model, near the batch and with raw values that are moved far away: those of the
  twin, the same text in which σ and log σ are those of the scales;
- with `--keep`, σ in the handle's table, and the loss of the model by its document, of a copy, saved and loaded, and
  unpatched: bit for bit;
- with `--stabilize`, that loss and gradients of what is called CURED are finite wherever the raw values are pushed.

Runs on one processor, without a network; a number is printed for each model that differs, and 1 is the exit status.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import math
import pickle
import random
import re
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from vdvae_patch import (
    PatchError,
    apply,
    load,
    patch,
    patched_heads,
    save,
    scales,
    scan,
    stabilize,
    stable_loss,
)

B, T, D = 6, 4, 12

CONVENTIONS: dict[str, tuple[str, str | None]] = {
    "log variance": ("{s} = torch.exp(0.5 * {r})", "{r}"),
    "log variance, in place": ("{s} = {r}.mul(0.5).exp_()", "{r}"),
    "root of an exponential": ("{s} = torch.sqrt(torch.exp({r}))", "{r}"),
    "power of an exponential": ("{s} = torch.exp({r}) ** 0.5", "{r}"),
    "log σ": ("{s} = {r}.exp()", "2 * {r}"),
    "softplus": ("{s} = F.softplus({r})", None),
    "softplus with a floor": ("{s} = F.softplus({r}) + 1e-4", None),
    "softplus of the variance": ("{s} = torch.sqrt(F.softplus({r}) + 1e-6)", None),
    "clamped": ("{s}_v = {r}.clamp(min=-10.0, max=5.0)\n{s} = {s}_v.mul(0.5).exp()", "{s}_v"),
    "elu": ("{s} = F.elu({r}) + 1.0 + 1e-4", None),
    "sigmoid": ("{s} = 0.01 + 1.99 * torch.sigmoid({r})", None),
    "tanh": ("{s}_v = 3 * torch.tanh({r})\n{s} = (0.5 * {s}_v).exp()", "{s}_v"),
    "log precision": ("{s} = torch.exp(-0.5 * {r})", "-{r}"),
    "shifted": ("{s} = torch.exp({r} - 1.0)", "2 * ({r} - 1.0)"),
    "power of two": ("{s} = torch.exp2({r})", None),
    "sharp softplus": ("{s} = F.softplus({r}, beta=2)", None),
    "maximum": ("{s} = torch.maximum(F.softplus({r}), torch.tensor(1e-3))", None),
    "clamped softplus": ("{s} = F.softplus({r}).clamp_min(1e-3)", None),
    "precision": ("{s} = torch.rsqrt(F.softplus({r}) + 1e-3)", None),
    "quotient": ("{s} = 1.0 / torch.sqrt(torch.exp({r}))", "-{r}"),
    "explin": ("{s} = torch.where({r} > 0, {r} + 1, torch.exp({r}))", None),
    "logaddexp": ("{s} = torch.logaddexp({r}, torch.zeros_like({r}))", None),
    "log of a sum": ("{s} = torch.log1p(torch.exp({r}))", None),
    "log sigmoid": ("{s} = -F.logsigmoid(-{r})", None),
    "variance": ("{s}_var = {r}.exp()\n{s} = {s}_var.sqrt()", "torch.log({s}_var)"),
    "variance with a floor": ("{s}_var = torch.exp({r}) + 1e-5\n{s} = torch.sqrt({s}_var)", "torch.log({s}_var)"),
    "scaled": ("{s} = 0.1 * torch.exp({r})", None),
    "hardtanh": ("{s}_v = F.hardtanh({r}, -7.0, 2.0)\n{s} = torch.exp({s}_v / 2)", "{s}_v"),
    "squareplus": ("{s} = 0.5 * ({r} + torch.sqrt({r} * {r} + 4))", None),
}
"""How hosts compute σ of a raw value, and the log variance that they have beside it."""

DRAWS = (
    "{z} = {m} + {s} * torch.randn_like({s})", "{z} = {m} + torch.randn({s}.shape) * {s}",
    "{z} = Normal({m}, {s}).rsample()", "{z} = torch.addcmul({m}, {s}, torch.randn_like({m}))",
    "eps = torch.randn_like({s})\n{z} = eps.mul({s}).add_({m})",
    "eps = torch.randn_like({s})\n{z} = {s}.mul(eps).add({m})",
)  # fmt: skip

KL_OF_LOG_VARIANCE = (
    "(-0.5 * (1 + {v} - {m}.pow(2) - {v}.exp()))", "(0.5 * ({m} ** 2 + torch.exp({v}) - {v} - 1))",
    "(0.5 * ({v}.exp().add({m}.square()).sub(1).sub({v})))",
)  # fmt: skip
KL_OF_SIGMA = (
    "(0.5 * ({m} ** 2 + {s} ** 2 - 1) - torch.log({s}))", "(-0.5 * (1 + torch.log({s} ** 2) - {m} ** 2 - {s} ** 2))",
    "kl_divergence(Normal({m}, {s}), Normal(torch.zeros_like({m}), torch.ones_like({s})))",
    "kl_divergence(Normal({m}, {s}), Normal(0.0, 1.0))",
)  # fmt: skip
KL_BY_SAMPLE = (
    "(Normal({m}, {s}).log_prob({z}) - Normal(torch.zeros_like({z}), torch.ones_like({z})).log_prob({z}))",
    "(-0.5 * (({z} - {m}) / {s}) ** 2 - {s}.log() + 0.5 * {z} ** 2)",
)
KL_TO_A_PRIOR = (
    "kl_divergence(Normal({m}, {s}), Normal({pm}, {ps}))",
    "(torch.log({ps} / {s}) + ({s} ** 2 + ({m} - {pm}) ** 2) / (2 * {ps} ** 2) - 0.5)",
    "(torch.log({ps}) - torch.log({s}) + 0.5 * ({s} ** 2 + ({m} - {pm}).pow(2)) / {ps} ** 2 - 0.5)",
)
KL_TO_A_PRIOR_BY_SAMPLE = ("(Normal({m}, {s}).log_prob({z}) - Normal({pm}, {ps}).log_prob({z}))",)

BY_HAND = {
    KL_OF_LOG_VARIANCE: "(0.5 * ({m} ** 2 + {s} ** 2 - 1) - log_{s})",
    KL_OF_SIGMA: "(0.5 * ({m} ** 2 + {s} ** 2 - 1) - log_{s})",
    KL_BY_SAMPLE: "(-0.5 * (({z} - {m}) / {s}) ** 2 - log_{s} + 0.5 * {z} ** 2)",
    KL_TO_A_PRIOR: "(log_{ps} - log_{s} + 0.5 * ({s} ** 2 + ({m} - {pm}) ** 2) / {ps} ** 2 - 0.5)",
    KL_TO_A_PRIOR_BY_SAMPLE: "(log_{ps} - log_{s} - 0.5 * (({z} - {m}) / {s}) ** 2 + 0.5 * (({z} - {pm}) / {ps}) ** 2)",
}
"""The same of the twin."""

TERMS = (
    ("squares", "((out - x) ** 2)", 1.0), ("squares", "(0.5 * (x - out).pow(2))", 0.5),
    ("squares", "F.mse_loss(out, x, reduction='none')", 1.0), ("squares", "(-Normal(out, 1.0).log_prob(x))", 0.5),
    ("squares", "((out - x) ** 2 / (2 * 0.1 ** 2))", 50.0), ("absolute", "(out - x).abs()", 1.0),
    ("Bernoulli", "F.binary_cross_entropy_with_logits(out, x, reduction='none')", 1.0),
    ("Bernoulli", "F.binary_cross_entropy(torch.sigmoid(out), x, reduction='none')", 1.0),
    ("parameter", "(0.5 * ((x - out) / self.log_sigma.exp()) ** 2 + self.log_sigma)", 1.0),
    ("parameter", "(-Normal(out, torch.exp(self.log_sigma)).log_prob(x))", 1.0),
    ("network", "(-Normal(out, so).log_prob(x))", 1.0),
    ("network", "(0.5 * ((x - out) / so) ** 2 + torch.log(so))", 1.0),
    ("network", "(0.5 * (x - out) ** 2 / so ** 2 + 0.5 * torch.log(so ** 2))", 1.0),
)  # fmt: skip
"""Kind, text, and the factor b on each value."""

SUMS = ("{e}.sum() / {n}.shape[0]", "{e}.flatten(1).sum(1).mean()", "{e}.mean()", "torch.sum({e})")


@dataclass(frozen=True)
class Structure:
    """A model without its words.

    Attributes:
        shape: of the data.
        layers: as statements of `__init__`; `OUT` is 2 where a network gives the likelihood's σ, and else 1.
        body: of the loss. `SIGMA role s r`, `DRAW z m s`, `OUT expression dim`, `TERM`, `KL z m s r`,
            `KLP z m s pm ps` and `BETA` stand for words that are drawn.
        roles: of the heads but the likelihood's.
        raw: the layer and the channels of each of their raw values.
        rows, latents, values: how many there are of which a mean is taken: of the batch, of KLs, and of data.
    """

    shape: tuple[int, ...]
    layers: str
    body: str
    roles: tuple[str, ...]
    raw: tuple[tuple[str, slice], ...]
    rows: int
    latents: int
    values: int


def _plain(split: str, channels: slice, layers: str = "self.head = nn.Linear(16, 8)", layer: str = "head") -> Structure:
    return Structure(
        (B, D),
        f"self.enc = nn.Linear(12, 16); {layers}; self.d1 = nn.Linear(4, 16); self.d2 = nn.Linear(16, 12 * OUT)",
        f"""
        h = torch.relu(self.enc(x))
        {split}
        SIGMA posterior s r
        DRAW z m s
        OUT self.d2(torch.tanh(self.d1(z))) 1
        return TERM + BETA * KL z m s r
        """,
        ("posterior",), ((layer, channels),), B, 4 * B, D * B,
    )  # fmt: skip


STRUCTURES = {
    "means first": _plain("m, r = self.head(h).chunk(2, dim=1)", slice(4, 8)),
    "raw values first": _plain("r, m = self.head(h).split(4, -1)", slice(0, 4)),
    "in turn": _plain("m, r = self.head(h).reshape(-1, 4, 2).unbind(-1)", slice(1, None, 2)),
    "two layers": _plain(
        "m, r = self.fm(h), self.fr(h)", slice(0, 4), "self.fm = nn.Linear(16, 4); self.fr = nn.Linear(16, 4)", "fr"
    ),
    "convolutions": Structure(
        (B, 1, 8, 8),
        "self.c1 = nn.Conv2d(1, 8, 3, stride=2, padding=1); self.c2 = nn.Conv2d(8, 6, 1);"
        "self.d1 = nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1); self.d2 = nn.Conv2d(8, OUT, 3, padding=1)",
        """
        m, r = self.c2(F.relu(self.c1(x))).chunk(2, dim=1)
        SIGMA posterior s r
        DRAW z m s
        OUT self.d2(F.relu(self.d1(z))) 1
        return TERM + BETA * KL z m s r
        """,
        ("posterior",), (("c2", slice(3, 6)),), B, 48 * B, 64 * B,
    ),
    "two levels": Structure(
        (B, D),
        "self.e1 = nn.Linear(12, 16); self.q1 = nn.Linear(16, 6); self.q2 = nn.Linear(16, 6);"
        "self.p1 = nn.Linear(3, 6); self.d1 = nn.Linear(6, 16); self.d2 = nn.Linear(16, 12 * OUT)",
        """
        h = torch.tanh(self.e1(x))
        m2, r2 = self.q2(h).chunk(2, 1)
        SIGMA posterior s2 r2
        DRAW z2 m2 s2
        m1, r1 = self.q1(h).chunk(2, 1)
        SIGMA posterior s1 r1
        DRAW z1 m1 s1
        pm, pr = self.p1(z2).chunk(2, 1)
        SIGMA prior ps pr
        OUT self.d2(torch.relu(self.d1(torch.cat([z1, z2], 1)))) 1
        kl = KL z2 m2 s2 r2
        return TERM + BETA * (kl + KLP z1 m1 s1 pm ps)
        """,
        ("posterior", "posterior", "prior"), (("q1", slice(3, 6)), ("q2", slice(3, 6)), ("p1", slice(3, 6))),
        B, 3 * B, D * B,
    ),
    "a loop over time": Structure(
        (B, T, 5),
        "self.cell = nn.GRUCell(8, 8); self.q = nn.Linear(13, 6); self.p = nn.Linear(8, 6);"
        "self.d1 = nn.Linear(11, 16); self.d2 = nn.Linear(16, 5 * OUT)",
        """
        h, total, xs = torch.zeros(x.shape[0], 8), 0.0, x
        for t in range(xs.shape[1]):
            x = xs[:, t]
            m, r = self.q(torch.cat([x, h], 1)).chunk(2, 1)
            SIGMA posterior s r
            DRAW z m s
            pm, pr = self.p(h).chunk(2, 1)
            SIGMA prior ps pr
            OUT self.d2(torch.relu(self.d1(torch.cat([z, h], 1)))) 1
            total = total + TERM + BETA * KLP z m s pm ps
            h = self.cell(torch.cat([x, z], 1), h)
        return total
        """,
        ("posterior", "prior"), (("q", slice(3, 6)), ("p", slice(3, 6))), B, 3 * B, 5 * B,
    ),
    "sequences": Structure(
        (B, T, 5),
        "self.gru = nn.GRU(5, 8, batch_first=True); self.m = nn.Linear(8, 3); self.r = nn.Linear(8, 3);"
        "self.d1 = nn.Linear(3, 16); self.d2 = nn.Linear(16, 5 * OUT)",
        """
        hs, _ = self.gru(x)
        m, r = self.m(hs), self.r(hs)
        SIGMA posterior s r
        DRAW z m s
        OUT self.d2(torch.relu(self.d1(z))) -1
        return TERM + BETA * KL z m s r
        """,
        ("posterior",), (("r", slice(0, 3)),), B, 3 * B * T, 5 * B * T,
    ),
}  # fmt: skip

GIVEN = ("explin", "upbounded", "bounded(0.01, 5)", "explin(gain=0.5)", "downbounded(0.01)")
MOVED = (0.0, -6.0, 3.0, -40.0)
PUSHED = (-1000.0, -102.0, -97.0, -50.0, -20.0, 20.0, 50.0, 100.0, 1000.0)


class Model:
    """A random one: its text, and that of its twin.

    Args:
        seed: of all that is drawn.
    """

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed).choice
        self.name = draw(sorted(STRUCTURES))
        self.of = STRUCTURES[self.name]
        self.sigma = {role: draw(sorted(CONVENTIONS)) for role in ("posterior", "prior", "likelihood")}
        self.draw, self.kind = draw(DRAWS), draw(("log variance", "σ", "sample"))
        self.kl = {kinds: draw(kinds) for kinds in BY_HAND}
        self.term, self.sums, self.beta = draw(TERMS), (draw(SUMS), draw(SUMS)), draw((1, 1, 0.1, 4))
        self.beside = draw((False, False, True))
        self.scales = {role: draw(GIVEN) for role in self.sigma}

    def __str__(self) -> str:
        words = {**self.sigma, "draw": self.draw, "term": self.term[1], "sums": self.sums, "beta": self.beta}
        return f"{self.name}, {', '.join(f'{key}: {value!r}' for key, value in words.items())}, beside: {self.beside}"

    @property
    def roles(self) -> list[str]:
        """Of all heads, sorted."""
        learned = self.term[0] in ("network", "parameter")
        return sorted([*self.of.roles, *(["likelihood"] if learned else [])])

    def text(self, twin: bool) -> str:
        """The module's file."""
        by_network = self.term[0] == "network"
        body = [line for before in textwrap.dedent(self.of.body).splitlines() for line in self._lines(before, twin)]
        layers = [layer.strip().replace("OUT", "2" if by_network else "1") for layer in self.of.layers.split(";")]
        head = ["def loss(self, x):"] if self.beside else ["    def forward(self, x):"]
        inner = "    " if self.beside else "        "
        return "\n".join(
            [
                "import torch", "from torch import nn", "import torch.nn.functional as F",
                "from torch.distributions import Normal, kl_divergence", "scale = {}", "class VAE(nn.Module):",
                "    def __init__(self):", "        super().__init__()",
                *(f"        {layer}" for layer in layers),
                "        self.log_sigma = nn.Parameter(torch.tensor(-0.3))",
                *(["    def forward(self, x):", "        return x"] if self.beside else []),
                *head, *(inner + line for line in body), "",
            ]
        )  # fmt: skip

    def _lines(self, line: str, twin: bool) -> Iterator[str]:
        """What a line of a structure stands for."""
        indent, words = line[: len(line) - len(line.lstrip())], line.split()
        if not words:
            return
        text = line.strip()
        if words[0] == "SIGMA":
            text = self._sigma(words[1], words[2], words[3], twin)
        elif words[0] == "DRAW":
            text = self.draw.format(z=words[1], m=words[2], s=words[3])
        elif words[0] == "OUT":
            called, dim = text[4:].rsplit(" ", 1)
            text = f"out = {called}"
            if self.term[0] == "network":
                text = f"out, ro = {called}.chunk(2, {dim})\n" + self._sigma("likelihood", "so", "ro", twin)
        else:
            text = re.sub(r"\bKLP (\w+) (\w+) (\w+) (\w+) (\w+)", lambda m: self._to_a_prior(m, twin), text)
            text = re.sub(r"\bKL (\w+) (\w+) (\w+) (\w+)", lambda m: self._to_n01(m, twin), text)
            text = text.replace("TERM", self.sums[0].format(e=self._term(twin), n="x")).replace("BETA", str(self.beta))
        yield from (indent + part for part in text.split("\n"))

    def _sigma(self, role: str, s: str, r: str, twin: bool) -> str:
        if twin:
            return f"{s}, log_{s} = scale['{role}'].sigma({r}), scale['{role}'].log_sigma({r})"
        return CONVENTIONS[self.sigma[role]][0].format(s=s, r=r)

    def _term(self, twin: bool) -> str:
        if not (twin and self.term[0] == "network"):
            return self.term[1]
        constant = 0.5 * math.log(2 * math.pi) if "Normal" in self.term[1] else 0.0
        return f"(0.5 * ((x - out) / so) ** 2 + log_so + {constant})"

    def _to_n01(self, found: re.Match[str], twin: bool) -> str:
        z, m, s, r = found.groups()
        log_variance = CONVENTIONS[self.sigma["posterior"]][1]
        kinds = KL_BY_SAMPLE if self.kind == "sample" else KL_OF_SIGMA
        v = ""
        if self.kind == "log variance" and log_variance is not None:
            kinds, v = KL_OF_LOG_VARIANCE, f"({log_variance.format(r=r, s=s)})"
        text = BY_HAND[kinds] if twin else self.kl[kinds]
        return self.sums[1].format(e=text.format(z=z, m=m, s=s, v=v), n=z)

    def _to_a_prior(self, found: re.Match[str], twin: bool) -> str:
        z, m, s, pm, ps = found.groups()
        kinds = KL_TO_A_PRIOR_BY_SAMPLE if self.kind == "sample" else KL_TO_A_PRIOR
        text = BY_HAND[kinds] if twin else self.kl[kinds]
        return self.sums[1].format(e=text.format(z=z, m=m, s=s, pm=pm, ps=ps), n=z)

    def factors(self) -> tuple[float, float]:
        """a on each element's KL, and b on each value of the reconstruction term."""

        def share(how: str, elements: int) -> float:
            return {SUMS[2]: 1 / elements, SUMS[3]: 1.0}.get(how, 1 / self.of.rows)

        return self.beta * share(self.sums[1], self.of.latents), self.term[2] * share(self.sums[0], self.of.values)


def _module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gradients(loss: Tensor, model: nn.Module) -> Tensor:
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def _move(model: nn.Module, raw: tuple[tuple[str, slice], ...], by: float) -> None:
    for name, channels in raw:
        bias = model.get_submodule(name).bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias[channels] += by


def patched(of: Model, folder: Path, name: str) -> Iterator[str]:
    """Where the scan, or the patched model, differs from what is right."""
    host, twin = _module(folder, name, of.text(twin=False)), _module(folder, f"{name}_twin", of.text(twin=True))
    model, x = host.VAE(), torch.rand(of.of.shape)
    loss: Callable[..., Tensor] = host.loss if of.beside else lambda model, x: model(x)
    by_hand: Callable[..., Tensor] = twin.loss if of.beside else twin.VAE.forward
    heads = scan(model, x, call=loss if of.beside else None)
    found = sorted(head.role for head in heads)
    if found != of.roles:
        yield f"roles {found}, not {of.roles}"
        return
    a, b = of.factors()
    kind, bound = of.term[0], heads.elbo
    if of.name == "two levels" and of.sums[1] == SUMS[2]:
        pass  # two means, over other elements each: one factor for both only where they are as many
    elif not bound:
        yield f"no bound: {bound.reason}"
    else:
        right = {"squares": math.sqrt(a / (2 * b)), "absolute": math.sqrt(2) * a / b}.get(kind, a / b)
        seen = bound.sigma if kind in ("squares", "absolute") else bound.beta
        if seen is None or not math.isclose(seen, right, rel_tol=1e-3):
            yield f"bound: {seen}, not {right}"
    chosen = {role: of.scales[role] for role in set(found) if role != "likelihood" or kind == "network"}
    twin.scale = {role: scales.get(spec) for role, spec in of.scales.items()}
    plain = copy.deepcopy(model)
    try:
        handle = patch(model, heads=heads, paper=True, **chosen)  # type: ignore[arg-type]
    except PatchError as error:
        yield f"refused: {error}"
        return
    stable = handle.loss if of.beside and handle.loss is not None else loss
    for by in MOVED:
        for one in (model, plain):
            _move(one, of.of.raw, by)
        torch.manual_seed(1)
        now = stable(model, x)
        torch.manual_seed(1)
        then = by_hand(plain, x)
        if then.isfinite():
            if not math.isclose(float(now.detach()), float(then.detach()), rel_tol=1e-3, abs_tol=1e-5):
                yield f"loss, raw values moved by {by}: {float(now.detach())}, not {float(then.detach())} ({chosen})"
                return
            own, other = _gradients(now, model), _gradients(then, plain)
            if other.isfinite().all() and float((own - other).norm()) > 5e-3 * float(other.norm()) + 1e-6:
                yield f"gradients, raw values moved by {by}: {float(own.norm())}, not {float(other.norm())} ({chosen})"
                return
        for one in (model, plain):
            _move(one, of.of.raw, -by)


def kept(of: Model, folder: Path, name: str) -> Iterator[str]:
    """Where the table, or what is written down of a patched model, differs from it."""
    host = _module(folder, name, of.text(twin=False))
    model, x = host.VAE(), torch.rand(of.of.shape)
    loss: Callable[..., Tensor] = host.loss if of.beside else lambda model, x: model(x)

    def at(model: nn.Module, loss: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(5)
        return loss(model, x).detach()

    raw: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, path=path: raw.setdefault(path, []).append(output.detach()))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    before = at(model, loss)
    for hook in hooks:
        hook.remove()
    plain = copy.deepcopy(model)
    chosen = {role: of.scales[role] for role in of.roles if role != "likelihood" or of.term[0] == "network"}
    torch.manual_seed(5)  # the numbers that the host drew when its raw values were kept
    heads = scan(model, x, call=loss if of.beside else None)
    torch.manual_seed(5)
    handle = patch(model, heads=heads, **chosen)  # type: ignore[arg-type]
    for patched_head in patched_heads(model):
        head, scale = patched_head.head, patched_head.scale
        if head.parameter or scale is None or patched_head.before is None or patched_head.after is None:
            continue
        values = torch.cat([head.channel_range.of(output).flatten() for output in raw[head.path]]).double()
        for what, said, sigma in (
            ("before", patched_head.before, head.convention.sigma(values)),
            ("after", patched_head.after, scale.sigma(values)),
        ):
            if not math.isclose(said.median, float(sigma.quantile(0.5)), rel_tol=0.02):
                yield f"σ {what} of {head}: {said.median}, not {float(sigma.quantile(0.5))}"
    stable = handle.loss if of.beside and handle.loss is not None else loss
    now = at(model, stable)

    def again(model: nn.Module) -> Callable[..., Tensor]:
        return stable_loss(model, x, call=loss) if of.beside else loss

    by_document, loaded, copied = copy.deepcopy(plain), copy.deepcopy(plain), copy.deepcopy(model)
    apply(by_document, handle.to_json())
    save(model, folder / f"{name}_saved")
    load(loaded, folder / f"{name}_saved")
    for what, one, its in (
        ("by its document", by_document, again(by_document)),
        ("copied", copied, stable),
        ("pickled", pickle.loads(pickle.dumps(model)), stable),
        ("loaded", loaded, again(loaded)),
    ):
        if not torch.equal(at(one, its), now):
            yield f"{what}: {float(at(one, its))}, not {float(now)}"
    handle.unpatch()
    if not torch.equal(at(model, loss), before):
        yield f"unpatched: {float(at(model, loss))}, not {float(before)}"


def cured(of: Model, folder: Path, name: str) -> Iterator[str]:
    """Where what is called CURED is not finite."""
    host = _module(folder, name, of.text(twin=False))
    model, x = host.VAE(), torch.rand(of.of.shape)
    loss: Callable[..., Tensor] = host.loss if of.beside else lambda model, x: model(x)
    said = io.StringIO()
    with redirect_stdout(said):
        handle = stabilize(model, x, call=loss if of.beside else None)
    if "CURED" not in said.getvalue() or "NOT cured" in said.getvalue():
        return
    stable = handle.loss if of.beside and handle.loss is not None else loss
    for level in PUSHED:
        for raw in (*((one,) for one in of.of.raw), of.of.raw):
            kept = copy.deepcopy(model.state_dict())
            _move(model, raw, level)
            value = stable(model, x)
            if not (value.isfinite() and _gradients(value, model).isfinite().all()):
                layers = ", ".join(layer for layer, _ in raw)
                yield f"CURED, and not finite with {layers} moved by {level}: {float(value.detach())}"
                return
            model.load_state_dict(kept)


def main() -> int:
    """Try some of them, and say which differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stabilize", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    began, differing = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.first, arguments.first + arguments.count):
            of = Model(seed)
            torch.manual_seed(seed)
            checked = cured if arguments.stabilize else kept if arguments.keep else patched
            problems = list(checked(of, Path(folder), f"model_{seed}"))
            if problems:
                differing += 1
                print(f"{seed}: {of}", *problems, sep="\n    ", flush=True)
    print(f"{arguments.count} models, {differing} differ, {time.monotonic() - began:.0f} s")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
