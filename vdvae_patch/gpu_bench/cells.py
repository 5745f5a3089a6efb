"""What `bench --gpu` measures, one cell after the other, in the order of what each is worth.

The plan is made for a machine that is lent for minutes: the numbers that the goals need come first, then what tells
whether the device computes the same, then what fills the table. Cells that are compiled come after those that are not,
since each of them waits for a compiler; whoever runs the command again finds its code in the compiler's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vdvae_patch.benchmark import PLAIN

Kind = Literal["work", "steps", "evaluation", "resume", "replay", "seeds"]
Way = Literal["eager", "graph", "compiled", "deterministic", "fused", "fused-graph"]
"""`graph`: the whole step as one CUDA graph of its eager kernels; `compiled`: the same of compiled ones;
`deterministic`: eager, by algorithms that give the same bits each time; `fused` and `fused-graph`: eager and graph with
the Triton kernels of `vdvae_patch.fused`."""

GRAPHS: tuple[Way, ...] = ("graph", "fused-graph")
FUSED: tuple[Way, ...] = ("fused", "fused-graph")

Arithmetic = Literal["ieee", "tf32", "bf16"]
"""`ieee`: float32 throughout; `tf32`: float32 whose products are of 10 bits; `bf16`: autocast."""

ARITHMETICS: tuple[Arithmetic, ...] = ("ieee", "tf32", "bf16")


@dataclass(frozen=True)
class Cell:
    """One thing that is measured, and whose result is a file of its own.

    Attributes:
        contenders: of `steps`, what takes turns: variants, and `PLAIN`; the first is what the others are compared with.
        batch: images a step.
    """

    kind: Kind
    arithmetic: Arithmetic = "tf32"
    batch: int = 0
    way: Way = "eager"
    contenders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `steps-eager-tf32-batch16-of2`; the name of its file."""
        parts: list[str] = [self.kind]
        if self.kind == "resume":
            parts += [self.way]
        if self.kind in ("steps", "evaluation"):
            parts += [self.way, self.arithmetic]
        parts += [f"batch{self.batch}"] if self.batch else []
        parts += [f"of{len(self.contenders)}"] if self.contenders else []
        return "-".join(parts)


def plan(variants: Sequence[str], batches: Sequence[int], *, graphs: bool = True, kernels: bool = True) -> list[Cell]:
    """All cells, the most valuable first; no two have the same name.

    Args:
        variants: the first is what the others are compared with; with the last it is measured where time is short.
        batches: images a step; the goals are for the first, and for 64 if that is among them.
        graphs: whether the device can have a step as one graph.
        kernels: whether Triton's kernels can run on it.
    """
    first, *others = batches
    goal = 64 if 64 in others else (others[-1] if others else first)
    everything, few = tuple(variants), tuple(dict.fromkeys((variants[0], variants[-1])))

    def eager(arithmetic: Arithmetic, batch: int) -> Cell:
        # the genuine loop knows no autocast
        plain = () if arithmetic == "bf16" else (PLAIN,)
        return Cell("steps", arithmetic, batch, "eager", (*everything, *plain))

    def faster(way: Way, arithmetics: Sequence[Arithmetic], batch: int, which: tuple[str, ...]) -> list[Cell]:
        return [Cell("steps", arithmetic, batch, way, which) for arithmetic in arithmetics]

    half: tuple[Arithmetic, ...] = ("bf16", "tf32")

    rest = [batch for batch in others if batch != goal]
    cells = [
        Cell("work"),
        eager("tf32", first),
        *faster("graph", half, first, few),
        eager("bf16", first),
        eager("ieee", first),
        Cell("resume", batch=first),
        Cell("resume", batch=first, way="deterministic"),
        Cell("replay", batch=first),
        eager("bf16", goal),
        eager("tf32", goal),
        *faster("graph", half, goal, few),
        *(cell for way in FUSED for cell in faster(way, half, first, few)),
        *faster("compiled", half, first, few),
        Cell("seeds", batch=first),
        *faster("deterministic", half, first, few),
        *(Cell("evaluation", arithmetic, goal) for arithmetic in ARITHMETICS),
        *faster("compiled", half, goal, few),
        *(eager(arithmetic, batch) for batch in rest for arithmetic in half),
        *(eager("ieee", batch) for batch in (goal, *rest)),
        *(cell for batch in rest for way in ("graph", "compiled") for cell in faster(way, half, batch, few)),
        *faster("compiled", half, first, everything),
        *(cell for batch in (first, goal, *rest) for cell in faster("compiled", ("ieee",), batch, few)),
    ]
    out = {*(() if graphs else GRAPHS), *(() if kernels else FUSED)}
    return list({cell.name: cell for cell in cells if cell.way not in out}.values())
