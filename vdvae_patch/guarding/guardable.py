"""What can be guarded: arguments in their range, a model that is no flat shard, real optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from vdvae_patch.errors import GuardError, InvalidValueError
from vdvae_patch.torch_versions import takes_hooks

Policy = Literal["skip", "raise", "heal"]


def check(
    policy: str, clip: float | str | None, threshold: float | None, consecutive: int, keep: int, every: int
) -> None:
    if policy not in get_args(Policy):
        raise InvalidValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
    if isinstance(clip, str):
        if clip != "auto":
            raise InvalidValueError(f'clip must be a norm or "auto", not {clip!r}')
    elif clip is not None and not clip > 0:
        raise InvalidValueError(f"clip must be above 0, not {clip}")
    if threshold is not None and not threshold > 0:
        raise InvalidValueError(f"threshold must be above 0, not {threshold}; None for none")
    for name, value, least in (("max_consecutive", consecutive, 1), ("keep", keep, 0), ("every", every, 1)):
        if value < least:
            raise InvalidValueError(f"{name} must be at least {least}, not {value}")


def inner(model: nn.Module) -> nn.Module:
    """Without the wrappers of torch.compile, of several devices and of several processes."""
    while True:
        wrapped = getattr(model, "_orig_mod", None)
        if wrapped is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            wrapped = model.module
        if not isinstance(wrapped, nn.Module):
            return model
        model = wrapped


def refuse_flat_shards(model: nn.Module) -> None:
    """Refuse what FSDP1 has wrapped: it replaces parameters by shards of one flat vector, of which neither a layer's
    gradient nor the norm of all can be told on one rank. (FSDP2 marks its modules, too; its shards are DTensors.)"""
    managed = any(getattr(m, "_is_fsdp_managed_module", False) for m in model.modules())
    if managed and not all(hasattr(p, "full_tensor") for p in model.parameters()):
        raise GuardError(
            f"{type(model).__name__} is sharded by FullyShardedDataParallel (FSDP1), whose flat parameters hide the "
            "layers; shard it with torch.distributed.fsdp.fully_shard (FSDP2), which a guard knows"
        )


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of the model that a method of it, or a training loop, may call by themselves: its own, and theirs."""
    found: list[tuple[str, nn.Module]] = []
    todo = [(path, child, 0) for path, child in model.named_children()]
    while todo:
        path, module, depth = todo.pop()
        if not takes_hooks(module):
            continue
        listed = type(module).forward is nn.Module.forward  # a list of modules is never called
        if not listed:
            found.append((path, module))
        if listed or depth == 0:
            todo += [(f"{path}.{name}", child, depth + (not listed)) for name, child in module.named_children()]
    return found


def optimizers(given: Optimizer | Iterable[Optimizer]) -> list[Optimizer]:
    found: list[Any] = [given] if hasattr(given, "param_groups") else list(given)
    own = [getattr(one, "optimizer", one) for one in found]  # accelerate's, Lightning's
    wrong = [one for one in own if not isinstance(one, Optimizer)]
    if wrong:
        raise GuardError(
            f"{type(wrong[0]).__name__} is no torch.optim.Optimizer: an engine that owns its step cannot be guarded"
        )
    return own


def divides_by_zero(optimizer: Optimizer) -> str:
    """What is said of an optimizer whose update may not be finite although the gradients are."""
    for group in optimizer.param_groups:
        eps = group.get("eps")
        if not isinstance(eps, float) or group.get("fused"):
            continue
        for dtype in {p.dtype for p in group["params"] if p.is_floating_point()}:
            if eps > 0 and not torch.tensor(eps, dtype=dtype):
                return (
                    f"{type(optimizer).__name__} has eps={eps:g}, which is 0 in {str(dtype).removeprefix('torch.')}, "
                    "as the weights are: where the square of a gradient underflows, an update divides by 0 and spoils "
                    "the weights although loss and gradients are finite, which no look at these can show; give "
                    "eps=1e-4, or keep the weights in float32 (mixed precision) or bfloat16"
                )
    return ""
