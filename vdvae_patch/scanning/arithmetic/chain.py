"""From a scale back to the raw value that it is computed from, and by which steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vdvae_patch.composition import Composition, Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, is_variable, settle, step_through
from vdvae_patch.scanning.arithmetic.graph import LOOKED_AT, Node

End = Literal["raw", "sum", "product", "precisions", "variances", "several", "constant"]
"""Where a chain begins. `raw`: one output of a network; `sum`, `product`: of two raw values, or of two scales;
`precisions`, `variances`: added up; `several`: an expression that reads its raw value more than once."""


@dataclass(frozen=True)
class Chain:
    """σ (or what a chain ends in) as steps of the value at `begin`.

    Attributes:
        begin: the raw value, or the join of several.
        end: what `begin` is.
        steps: first step first.
        nodes: the computed nodes of the chain, `begin` left out, first one first.
        by_node: the steps of each of those nodes.
    """

    begin: Spot
    end: End
    steps: tuple[Step, ...]
    nodes: tuple[Node, ...]
    by_node: tuple[tuple[Step, ...], ...] = ()


def descend(spot: Spot, stops: frozenset[int] = frozenset()) -> Chain:
    """Walk back from a spot as long as there is one operand that a network had a part in."""
    steps: list[Step] = []
    nodes: list[Node] = []
    by_node: list[tuple[Step, ...]] = []

    def chain(end: End) -> Chain:
        return Chain(spot, end, tuple(steps), tuple(nodes), tuple(by_node))

    while True:
        node = spot.node
        if node.id in stops:
            return chain("raw")
        back = step_through(spot)
        if back is not None:
            spot = back
            continue
        if not node.params:
            return chain("constant")
        if node.kind != "elementwise":
            return chain("raw")
        learned = [(i, n) for i, n in enumerate(node.args) if isinstance(n, Node) and n.params]
        if len(learned) != 1:
            if len(learned) == 2 and node.op == "mul" and learned[0][1] is learned[1][1]:
                step: tuple[Step, ...] | None = (Step("pow", (2.0,)),)
                learned = learned[:1]
            else:
                read = [s for s in Expression(spot).leaves.values() if s.node.params]
                if not read:
                    return chain("constant")  # a part into which no network's output was written
                once = len(read) > 1 and not is_bounded(spot)
                return chain(_join_of(node, steps) if once else "several")
        else:
            step = _steps_of(node, learned[0][0])
        if step is None:
            return chain("several")
        steps[:0] = step
        by_node.insert(0, step)
        nodes.insert(0, node)
        operand = learned[0][1]
        spot = Spot(operand, Expression.cuts_for(spot, operand))


def is_bounded(spot: Spot) -> bool:
    """Whether one network's output is read between bounds that are parameters: `high - F.softplus(high - v)`, in which
    both operands read the same parameter. A sum of an output and a parameter is a residual scale."""
    expression = Expression(spot)
    learned = [s for s in expression.leaves.values() if s.node.params]
    if sum(s.node.kind != "parameter" for s in learned) != 1:
        return False
    bounds = {s.key for s in learned if s.node.kind == "parameter"}
    sides = [set(Expression(Spot(n, Expression.cuts_for(spot, n))).leaves) & bounds for n in spot.node.inputs]
    return len(sides) == 2 and bool(sides[0] & sides[1])


def bounded_steps(end: Spot, raw: Spot) -> tuple[Step, ...] | None:
    """Steps from a raw value to a spot that is computed of it and of parameters, these as they are now; a parameter of
    several elements by its largest. None if other learned values take part, or the raw value does more than once."""
    steps: list[Step] = []
    spot = end
    while spot.key != raw.key:
        back = step_through(spot)
        if back is None:
            operands = [(i, n) for i, n in enumerate(spot.node.args) if isinstance(n, Node) and n.params]
            values = [(i, n) for i, n in operands if n.kind != "parameter"]
            step = _steps_of(spot.node, values[0][0]) if len(values) == 1 else None
            if spot.node.kind != "elementwise" or step is None:
                return None
            steps[:0] = step
            back = Spot(values[0][1], Expression.cuts_for(spot, values[0][1]))
        spot = back
    return tuple(steps)


def _join_of(node: Node, steps: Sequence[Step]) -> End:
    """What the join of two learned operands is, told from how σ depends on it."""
    if node.op in ops.MULTIPLYING:
        return "product"
    if node.op not in ops.ADDING:
        return "several"
    bare = (
        steps[1:] if steps and steps[0].name == "add" and steps[0].constants[0] > 0 else steps
    )  # of N(0, 1), or an eps
    exponent = power_of(bare)
    if node.op != "add":  # p − k p is no sum of variances, whatever root is taken
        return "sum"
    if exponent is not None and math.isclose(exponent, -0.5, rel_tol=HALF):
        return "precisions"
    if exponent is not None and math.isclose(exponent, 0.5, rel_tol=HALF):
        return "variances"
    return "sum"


HALF = 1e-6
"""How far, relatively, the exponent may be from ½ in a σ that is a root of added variances, or of added precisions. A
constant of 1e-8 that the host adds to the variance moves it by 2e-8, one of 1e-7 by 2e-7. The nearest other exponent is
1, of a sum of standard deviations."""
ONE_POWER = 1e-6
"""How far the exponent may vary over the values that are tried. A constant of 1e-7 that is added to the variance makes
it vary by 1e-7, and one of 1e-6 by too much; in v + 0.01, which is no power of v, it varies by 1e-2."""


def power_of(steps: Sequence[Step]) -> float | None:
    """The exponent k if the steps compute a multiple of v^k, measured at three points; else None."""
    v = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    logs = Composition(steps).sigma(v).log()
    slopes = logs.diff() / math.log(2)
    if not bool(torch.isfinite(slopes).all()) or float(slopes.max() - slopes.min()) > ONE_POWER:
        return None
    return float(slopes.mean())


def _steps_of(node: Node, place: int) -> tuple[Step, ...] | None:
    """The node as a function of its one learned operand."""
    rule = _RULES.get(node.op)
    return None if rule is None else rule(_Constants(node), place)


class _Constants:
    """The other operands of an operation, as numbers."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def at(self, place: int, name: str, default: float) -> float:
        value: Any = self.node.kwargs.get(name)
        if value is None and len(self.node.args) > place:
            value = self.node.args[place]
        if value is None:
            return default
        return value.value if isinstance(value, Node) else float(value)


Rule = Callable[[_Constants, int], "tuple[Step, ...] | None"]


def _add(c: _Constants, place: int, sign: float = 1.0) -> tuple[Step, ...]:
    alpha = c.at(2, "alpha", 1.0)
    if place == 0:
        return (Step("add", (sign * alpha * c.at(1, "other", 0.0),)),)
    return (Step("mul", (sign * alpha,)), Step("add", (c.at(0, "self", 0.0),)))


def _subtract(c: _Constants, place: int) -> tuple[Step, ...]:
    return _add(c, place, -1.0)


def _subtract_from(c: _Constants, place: int) -> tuple[Step, ...]:
    return (Step("mul", (-c.at(2, "alpha", 1.0),)), Step("add", (c.at(1, "other", 0.0),)))


def _multiply(c: _Constants, place: int) -> tuple[Step, ...]:
    factor = c.at(1 - place, "other", 1.0)
    return (Step("mul", (factor if factor != 0 else 1.0,)),)  # an all-zero mask says nothing of the scale


def _divide(c: _Constants, place: int) -> tuple[Step, ...]:
    if place == 0:
        divisor = c.at(1, "other", 1.0)
        return (Step("mul", (1 / divisor if divisor != 0 else 1.0,)),)  # and what is infinite says nothing of it either
    return (Step("pow", (-1.0,)), Step("mul", (c.at(0, "self", 1.0),)))


def _power(c: _Constants, place: int) -> tuple[Step, ...] | None:
    if place == 1:  # base ** v
        return (Step("mul", (math.log(c.at(0, "self", math.e)),)), Step("exp"))
    return (Step("pow", (c.at(1, "exponent", 1.0),)),)


def _clamp(c: _Constants, place: int) -> tuple[Step, ...]:
    return (Step("clamp", (c.at(1, "min", -math.inf), c.at(2, "max", math.inf))),)


def _choice(c: _Constants, place: int) -> tuple[Step, ...] | None:
    """What a mask keeps, beside a constant: padding. A condition on the value itself is a function in two pieces."""
    condition = c.node.args[0]
    return () if place > 0 and isinstance(condition, Node) and not is_variable(condition) else None


def _elu(c: _Constants, place: int) -> tuple[Step, ...] | None:
    """scale elu(v), as selu is; celu has a scale inside of it, too."""
    alpha, scale = c.at(1, "alpha", 1.0), c.at(2, "scale", 1.0)
    if c.at(3, "input_scale", 1.0) != 1:
        return None
    return (Step("elu", (alpha,)),) if scale == 1 else (Step("elu", (alpha,)), Step("mul", (scale,)))


def _gelu(c: _Constants, place: int) -> tuple[Step, ...] | None:
    return (Step("gelu"),) if c.node.kwargs.get("approximate", "none") == "none" else None


def _fixed(*steps: Step) -> Rule:
    return lambda c, place: steps


_RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _subtract,
    "rsub": _subtract_from,
    "mul": _multiply,
    "div": _divide,
    "pow": _power,
    "abs": _fixed(Step("abs")),
    "neg": _fixed(Step("mul", (-1.0,))),
    "exp": _fixed(Step("exp")),
    "exp2": _fixed(Step("mul", (math.log(2),)), Step("exp")),
    "expm1": _fixed(Step("expm1")),
    "log": _fixed(Step("log")),
    "log2": _fixed(Step("log"), Step("mul", (1 / math.log(2),))),
    "log10": _fixed(Step("log"), Step("mul", (1 / math.log(10),))),
    "log1p": _fixed(Step("log1p")),
    "sqrt": _fixed(Step("pow", (0.5,))),
    "rsqrt": _fixed(Step("pow", (-0.5,))),
    "square": _fixed(Step("pow", (2.0,))),
    "reciprocal": _fixed(Step("pow", (-1.0,))),
    "sigmoid": _fixed(Step("sigmoid")),
    "tanh": _fixed(Step("tanh")),
    "log_sigmoid": _fixed(Step("sigmoid"), Step("log")),
    "log_sigmoid_forward": _fixed(Step("sigmoid"), Step("log")),
    "softplus": lambda c, place: (Step("softplus", (c.at(1, "beta", 1.0),)),),
    "elu": _elu,
    "gelu": _gelu,
    "silu": _fixed(Step("silu")),
    "mish": _fixed(Step("mish")),
    "leaky_relu": lambda c, place: (
        (Step("leaky", (slope,)),) if (slope := c.at(1, "negative_slope", 0.01)) > 0 else None
    ),
    "where": _choice,
    "clamp": _clamp,
    "clamp_min": lambda c, place: (Step("clamp", (c.at(1, "min", -math.inf), math.inf)),),
    "clamp_max": lambda c, place: (Step("clamp", (-math.inf, c.at(1, "max", math.inf))),),
    "hardtanh": lambda c, place: (Step("clamp", (c.at(1, "min_val", -1.0), c.at(2, "max_val", 1.0))),),
    "maximum": lambda c, place: (Step("clamp", (c.at(1 - place, "other", -math.inf), math.inf)),),
    "minimum": lambda c, place: (Step("clamp", (-math.inf, c.at(1 - place, "other", math.inf))),),
    "relu": _fixed(Step("clamp", (0.0, math.inf))),
    "masked_fill": _fixed(),
    "nan_to_num": _fixed(),
}


def shifted_noise(node: Node) -> Spot | None:
    """The noise of a sum of fresh noise and of what is made of parameters alone, `(noise + self.ratio)`; else None.

    What such a sum is multiplied by scales the mean, too, which is told in units of σ.
    """
    if node.op != "add" or len(node.inputs) != 2:
        return None  # noise less a mean is a distance, as a density of the noise has it
    for noise, mean in (node.inputs, node.inputs[::-1]):
        if mean.params and not (mean.data or mean.noise) and _is_of_parameters(mean):
            return scaled_noise(noise)
    return None


def _is_of_parameters(node: Node) -> bool:
    """Whether a value is computed of parameters by arithmetic alone, and no layer makes it of something."""
    return all(s.node.kind == "parameter" for s in Expression(Spot(node)).leaves.values() if s.node.params)


def scaled_noise(node: Node) -> Spot | None:
    """The noise itself, if a node is fresh noise, moved around or times a constant; else None."""
    spot = Spot(node)
    for _ in range(40):
        current = spot.node
        if current.kind == "noise":
            return spot
        if not current.noise or current.params:
            return None
        noisy = [n for n in current.inputs if n.noise]
        moved = current.kind == "shape" or current.op in ops.COMBINING
        scaled = current.kind == "elementwise" and current.op in ops.KEEPING_NOISE
        if len(noisy) != 1 or not (moved or scaled or _adds_zeros(current, noisy[0])):
            return None
        spot = Spot(noisy[0])
    return None


def _adds_zeros(node: Node, noise: Node) -> bool:
    """Whether noise has zeros added to it, as a draw of `Normal(torch.zeros(4), torch.ones(4))` has."""
    others = [settle(Spot(n)).node for n in node.inputs if n is not noise]
    numbers = [a for a in node.args if isinstance(a, (int, float))]
    return node.op == "add" and all(map(_is_zeros, others)) and not any(numbers)


def _is_zeros(node: Node) -> bool:
    """Whether the call has made zeros itself: a batch, or a buffer, may be zero by chance."""
    known = node.op.startswith(("zeros", "new_zeros")) or math.prod(node.shape) <= LOOKED_AT
    return known and node.kind == "constant" and not node.data and node.even and node.value == 0
