"""AdamW as `torch.optim.AdamW(fused=True)` computes it, without the work that its `step` does for every tensor anew.

PyTorch's own step walks over all parameters in Python, keeps a count of updates for each, and starts a kernel for every
few dozen of them. Here what does not change from one step to the next is prepared once:

    on a CPU       one fused call over all tensors, in which every tensor is computed as PyTorch's step computes it
    elsewhere      the gradients are gathered into one storage, and one tensor is updated instead of a thousand

Parameters without a gradient are left alone, with their moments and their count of updates, as PyTorch leaves them.
`state_dict` has PyTorch's keys and shapes, and loads what `torch.optim.AdamW` saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vdvae_patch.train.flat import FlatWeights


class _Kind(NamedTuple):
    """What the parameters of one call have in common; a count of updates is of one kind, as a call adds one to it."""

    device: torch.device
    dtype: torch.dtype
    factor: float


@dataclass
class _Call:
    """One call of the fused operation: tensors of one type on one device, and where their gradients come from.

    Attributes:
        factor: the learning rate of these tensors is this many times the group's.
        sources: for each tensor the parameters whose gradients it needs, and the zeros between them.
        steps: for each tensor the count of updates; shared by those that have had the same ones.
        touched: parameters that are changed through another tensor than themselves.
    """

    device: torch.device
    factor: float = 1.0
    values: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    sources: list[list[int | Tensor]] = field(default_factory=list)
    touched: list[Tensor] = field(default_factory=list)

    def gradients(self, found: Sequence[Tensor | None]) -> list[Tensor]:
        """One for each tensor."""
        return [
            _gathered([found[s] if isinstance(s, int) else s for s in source], value)
            for source, value in zip(self.sources, self.values, strict=True)
        ]

    def counts(self) -> list[Tensor]:
        """The different ones among the counts of updates."""
        return list({id(step): step for step in self.steps}.values())


class FusedAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) of parameters that lie side by side.

    Args:
        weights: the parameters.
        gathers: whether gradients are copied into one storage; unless given, on every device but a CPU. There the
            copy costs more than it saves, and the last few elements of a tensor are rounded otherwise than the others.
        factors: of each parameter, what its learning rate is multiplied by, and with it its decay; 1 unless given. They
            are not in the `state_dict`, which has one group.
        settings: lr, betas, weight_decay.
    """

    def __init__(
        self,
        weights: FlatWeights,
        *,
        gathers: bool | None = None,
        factors: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        self.weights = weights
        self.gathers = gathers
        self.factors = [1.0] * len(weights.parameters) if factors is None else list(factors)
        self.found_inf: Tensor | None = None
        """1 if the next update is to leave weights, moments and counts alone, else 0."""
        kinds: dict[_Kind, int] = {}
        self._histories = [kinds.setdefault(self._kind(i), len(kinds)) for i in range(len(weights.parameters))]
        self._updates: dict[int, Tensor] = {}
        self._moments: list[tuple[Tensor, Tensor]] = []
        self._storages: list[tuple[Tensor, Tensor]] = []
        self._plans: dict[tuple[bool, ...] | None, list[_Call]] = {}
        self._given: tuple[list[_Call], list[Tensor]] | None = None
        super().__init__(weights.parameters, fused=True, **settings)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; the backward pass then hands over its own, where it would else add to zeros."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for parameter in self.weights.parameters:
            parameter.grad = None

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """The gradients of this step as the update will take them: what is done to these is done to them all.

        On a CPU they are the parameters' own, elsewhere copies in few storages, whose gaps are zero.
        """
        found = [parameter.grad for parameter in self.weights.parameters]
        plan = self._plan(found)
        given = [gradient for call in plan for gradient in call.gradients(found)]
        self._given = plan, given
        return given

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update by the last `gradients`, or by the parameters' own if nobody asked for those."""
        if closure is not None:
            raise TypeError("FusedAdamW.step takes no closure: the step's loss is known when it is called")
        if self._given is None:
            self.gradients()
        assert self._given is not None
        plan, waiting = self._given
        self._given = None
        group = self.param_groups[0]
        rising: dict[torch.device, list[Tensor]] = {}
        known: set[int] = set()
        for call in plan:  # tensors of several types may have one count, which rises once
            fresh = [step for step in call.counts() if id(step) not in known]
            known.update(map(id, fresh))
            rising.setdefault(call.device, []).extend(fresh)
        skips = {} if self.found_inf is None else {device: self.found_inf.to(device) for device in rising}
        for steps in filter(None, rising.values()):
            torch._foreach_add_(steps, 1)
        for call in plan:
            if not call.values:
                continue  # none of this type has a gradient
            gradients, waiting = waiting[: len(call.values)], waiting[len(call.values) :]
            torch._fused_adamw_(
                call.values, gradients, call.means, call.squares, [], call.steps,
                lr=group["lr"] if call.factor == 1 else group["lr"] * call.factor,
                beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"],
                amsgrad=False, maximize=False, grad_scale=None, found_inf=skips.get(call.device),
            )  # fmt: skip
            if call.touched:
                torch.autograd.graph.increment_version(call.touched)
        for device, skip in skips.items():
            if counts := rising[device]:
                torch._foreach_sub_(counts, [skip] * len(counts))

    def state_dict(self) -> dict[str, Any]:
        """What PyTorch's has, and as there each parameter with a count of updates of its own.

        Here some share one. An optimizer that steps each of them would count as often as there are parameters.
        """
        saved = super().state_dict()
        of = {index: {**state, "step": state["step"].clone()} for index, state in saved["state"].items()}
        return {**saved, "state": of}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up moments and counts of updates, ours or PyTorch's."""
        super().load_state_dict(state_dict)
        loaded = {index: dict(self.state[p]) for index, p in enumerate(self.weights.parameters) if p in self.state}
        self._plans.clear()
        self._updates.clear()
        self._make_moments()
        counted = iter(torch.stack([of["step"].detach().cpu() for of in loaded.values()]).tolist() if loaded else [])
        known: dict[tuple[float, _Kind], int] = {}
        for index, parameter in enumerate(self.weights.parameters):
            own = loaded.get(index)
            count = next(counted) if own is not None else 0.0
            history = self._histories[index] = known.setdefault((count, self._kind(index)), len(known))
            if history not in self._updates:
                self._updates[history] = torch.full((), count, dtype=torch.float32, device=parameter.device)
            for kept, name in zip(self._moments[index], ("exp_avg", "exp_avg_sq"), strict=True):
                kept.zero_() if own is None else kept.copy_(own[name])
            if own is not None:
                self._keep(index)

    def _kind(self, index: int) -> _Kind:
        parameter = self.weights.parameters[index]
        return _Kind(parameter.device, parameter.dtype, self.factors[index])

    def _plan(self, found: Sequence[Tensor | None]) -> list[_Call]:
        present = tuple(gradient is not None for gradient in found)
        pattern = None if all(present) else present
        if pattern not in self._plans:
            self._tell_apart(present)
            self._plans[pattern] = self._made(present)
        return self._plans[pattern]

    def _tell_apart(self, present: Sequence[bool]) -> None:
        """Give those that are updated now another count than those that are not, where they had one together."""
        if not self._moments:
            self._make_moments()
        mixed = {h for h, now in zip(self._histories, present, strict=True) if now} & {
            h for h, now in zip(self._histories, present, strict=True) if not now
        }
        renamed: dict[int, int] = {}
        for index, now in enumerate(present):
            history, device = self._histories[index], self.weights.parameters[index].device
            if history not in self._updates:
                self._updates[history] = torch.zeros((), dtype=torch.float32, device=device)
            if now and history in mixed:
                if history not in renamed:
                    renamed[history] = max(*self._updates, *self._histories) + 1
                    self._updates[renamed[history]] = self._updates[history].clone()
                self._histories[index] = renamed[history]
            if now:
                self._keep(index)
        if renamed:
            self._plans.clear()

    def _keep(self, index: int) -> None:
        mean, square = self._moments[index]
        count = self._updates[self._histories[index]]
        self.state[self.weights.parameters[index]] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}

    def _make_moments(self) -> None:
        if self._moments:
            return
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for flat in self.weights.flats:
            storages = torch.zeros_like(flat.values), torch.zeros_like(flat.values)
            self._storages.append(storages)
            views = zip(flat.members, *(flat.views(storage) for storage in storages), strict=True)
            found |= {member: (mean, square) for member, mean, square in views}
        for index in self.weights.apart:
            parameter = self.weights.parameters[index].detach()
            found[index] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._moments = [found[index] for index in range(len(self.weights.parameters))]

    def _made(self, present: Sequence[bool]) -> list[_Call]:
        calls: dict[_Kind, _Call] = {}
        gathered: set[int] = set()
        for flat, storages in zip(self.weights.flats, self._storages, strict=True):
            device = flat.values.device
            if not (device.type != "cpu" if self.gathers is None else self.gathers):
                continue
            gathered |= set(flat.members)
            for first, last in self._runs(flat.members, present):
                kind = self._kind(flat.members[first])
                call = calls.setdefault(kind, _Call(kind.device, kind.factor))
                begin, end = flat.starts[first], flat.starts[last] + flat.shapes[last].numel()
                call.values.append(flat.values.narrow(0, begin, end - begin))
                call.means.append(storages[0].narrow(0, begin, end - begin))
                call.squares.append(storages[1].narrow(0, begin, end - begin))
                call.steps.append(self._updates[self._histories[flat.members[first]]])
                source: list[int | Tensor] = []
                for position in range(first, last + 1):
                    source.append(flat.members[position])
                    padding = flat.paddings[position]
                    if padding is not None and position < last:
                        source.append(padding)
                call.sources.append(source)
                call.touched += [self.weights.parameters[m] for m in flat.members[first : last + 1]]
        for index, parameter in enumerate(self.weights.parameters):
            if present[index] and index not in gathered:
                kind = self._kind(index)
                call = calls.setdefault(kind, _Call(kind.device, kind.factor))
                call.values.append(parameter)
                call.means.append(self._moments[index][0])
                call.squares.append(self._moments[index][1])
                call.steps.append(self._updates[self._histories[index]])
                call.sources.append([index])
        return list(calls.values())

    def _runs(self, members: Sequence[int], present: Sequence[bool]) -> list[tuple[int, int]]:
        """Of neighbours that have a gradient and have had the same updates: the first and the last position."""
        runs: list[tuple[int, int]] = []
        for position, member in enumerate(members):
            if not present[member]:
                continue
            joins = bool(runs) and runs[-1][1] == position - 1
            if joins and self._histories[members[position - 1]] == self._histories[member]:
                runs[-1] = (runs[-1][0], position)
            else:
                runs.append((position, position))
        return runs


def _gathered(parts: list[Tensor | None], value: Tensor) -> Tensor:
    """The gradient of a tensor: of a parameter its own, of a part of a storage a copy, one behind the other."""
    found = [part for part in parts if part is not None]
    if len(found) == 1 and found[0].shape == value.shape:
        return found[0]
    return torch._C._nn.flatten_dense_tensors(found)
