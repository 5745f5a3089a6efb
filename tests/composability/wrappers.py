"""Wrappers: data parallelism, sharding, checkpointing, and models in models."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel

import vdvae_patch

from .case import Case, Values, gradient, training
from .table import row

CONSTANT = "explin/constant"


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """A process group of this process alone, unless it is one of a group already."""
    if dist.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _in_ddp(case: Case, **options: Any) -> Values:
    case.patch()
    with group_of_one():
        return training(DistributedDataParallel(case.model, **options), case.batch)


@row("DistributedDataParallel, one rank, two steps", measure=training)
def alone_in_ddp(case: Case) -> Any:
    return _in_ddp(case)


@row("DistributedDataParallel, two ranks, two steps", measure=training, ranks=True, slow=True)
def in_ddp(case: Case) -> Any:
    return _in_ddp(case)


@row(
    "DistributedDataParallel, two ranks, constant prior",
    measure=training,
    ranks=True,
    slow=True,
    variant=CONSTANT,
    note="the prior's raw value has a layer of its own, which then has a gradient of zero and not none",
)
def constant_in_ddp(case: Case) -> Any:
    return _in_ddp(case)


@row("DistributedDataParallel(static_graph=True), two ranks", measure=training, ranks=True, slow=True)
def static_in_ddp(case: Case) -> Any:
    return _in_ddp(case, static_graph=True)


@row("DistributedDataParallel, then patch its module", measure=training)
def patched_in_ddp(case: Case) -> Any:
    with group_of_one():
        wrapped = DistributedDataParallel(case.model)
        case.patch(wrapped.module)
        return training(wrapped, case.batch)


def _sharded(model: nn.Module, part: nn.Module) -> nn.Module:
    fully_shard(part)
    fully_shard(model)
    return model


@row("FSDP2 fully_shard, two ranks, after patch", measure=training, ranks=True, slow=True, restores=False)
def sharded(case: Case) -> Any:
    case.patch()
    return training(_sharded(case.model, case.part), case.batch)


@row("FSDP2 fully_shard, two ranks, then patch", measure=training, ranks=True, slow=True, restores=False)
def sharded_first(case: Case) -> Any:
    _sharded(case.model, case.part)
    case.patch()
    return training(case.model, case.batch)


@row("FSDP2 fully_shard, then unpatch", measure=training, ranks=True, slow=True, restores=False, back=True)
def sharded_and_unpatched(case: Case) -> Any:
    case.patch()
    _sharded(case.model, case.part)
    case.unpatch()
    return training(case.model, case.batch)


@row("nn.DataParallel without a device")
def in_data_parallel(case: Case) -> Any:
    return DataParallel(case.patch())


def _replica(module: nn.Module) -> nn.Module:
    """What nn.parallel.replicate does for each device, on this one, with weights of its own."""
    replica: Any = module._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else 0.5 * parameter.detach())
    for name, child in module._modules.items():
        setattr(replica, name, None if child is None else _replica(child))
    return replica  # type: ignore[no-any-return]


def _with_half_the_weights(case: Case) -> Values:
    case.model.load_state_dict({name: 0.5 * p for name, p in case.model.state_dict().items()})
    return gradient(case.model, case.batch)


@row("a replica of nn.DataParallel", reference=_with_half_the_weights, note="it uses its own weights")
def replicated(case: Case) -> Any:
    return gradient(_replica(case.patch()), case.batch)


@row("checkpoint_wrapper around the patched module")
def checkpointed(case: Case) -> Any:
    case.patch()
    case.model.set_submodule(case.column.part, checkpoint_wrapper(case.part))
    assert vdvae_patch.is_patched(case.model) == case.patching
    seen = gradient(case.model, case.batch)
    if case.patching:
        vdvae_patch.check_intact(case.model)
    case.model.set_submodule(case.column.part, case.part._checkpoint_wrapped_module)  # type: ignore[arg-type]
    return seen


@row("checkpoint_wrapper around the module, then patch", note="scan the wrapped model, or patch before")
def checkpointed_first(case: Case) -> Any:
    case.model.set_submodule(case.column.part, checkpoint_wrapper(case.part))
    case.patch()
    seen = gradient(case.model, case.batch)
    case.unpatch()
    case.model.set_submodule(case.column.part, case.part._checkpoint_wrapped_module)  # type: ignore[arg-type]
    return seen


@row("a patched model inside another model")
def moved(case: Case) -> Any:
    case.patch()
    around = nn.ModuleDict({"student": case.model})
    if case.patching:
        vdvae_patch.check_intact(around)
    return around["student"]


@row(
    "the patched modules put into another model",
    variant="explin/vanilla",
    note="the patch goes with them; the record stays with the first model, which unpatches both",
)
def moved_parts(case: Case) -> Any:
    case.patch()
    other = case.fresh()
    for path, module in case.model.named_modules():
        if path and type(module) is not type(other.get_submodule(path)):
            other.set_submodule(path, module)
    return gradient(other, case.batch)


class Pair(nn.Module):
    """A teacher and a student."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one = one
        self.other = other

    def forward(self, *batch: Tensor) -> Any:
        torch.manual_seed(1)
        first = self.one(*batch)
        torch.manual_seed(1)
        second = self.other(*batch)
        if isinstance(first, dict):
            return {"elbo": first["elbo"] + 2 * second["elbo"]}
        return first + 2 * second


def _twice(case: Case) -> Values:
    return [3 * v for v in gradient(case.model, case.batch)]


@row("two patched submodels of one model", reference=_twice)
def pair(case: Case) -> Any:
    case.patch()
    both = Pair(case.model, case.patch(case.fresh()))
    if case.patching:
        assert len(vdvae_patch.patched_heads(both)) == 2 * len(vdvae_patch.patched_heads(case.model))
        vdvae_patch.check_intact(both)
    return gradient(both, case.batch)


@row("two patched submodels, unpatched together", reference=_twice, back=True)
def pair_unpatched(case: Case) -> Any:
    both = Pair(case.patch(), case.patch(case.fresh()))
    case.unpatch(both)
    return gradient(copy.deepcopy(both), case.batch)
