"""What changes a layer: LoRA, parametrizations, pruning, and modules or methods that are replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from .case import Case, gradient
from .table import row


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig


def _merged(case: Case, wrapped: nn.Module, prefix: str = "") -> None:
    """Note the weights that the adapted layer stands for."""
    layer: Any = wrapped.get_submodule(prefix + case.column.emitter)
    delta = layer.get_delta_weight("default")
    case.changed(weight=layer.base_layer.weight + delta, bias=layer.base_layer.bias)


def _inject(case: Case) -> nn.Module:
    from peft import inject_adapter_in_model

    torch.manual_seed(2)
    options = {"r": 2, "target_modules": [case.column.emitter], "init_lora_weights": False}
    inject_adapter_in_model(_lora()(**options), case.model)
    _merged(case, case.model)
    return case.model


LAYER_MOVED = "unpatch, add the adapter, and patch again"


@row("peft: LoRA on the emitting layer, after patch", needs=("peft",), restores=False, note=LAYER_MOVED)
def lora(case: Case) -> Any:
    case.patch()
    return _inject(case)


@row("peft: LoRA on the emitting layer, then patch", needs=("peft",), restores=False)
def lora_first(case: Case) -> Any:
    _inject(case)
    return case.patch()


@row("peft: get_peft_model after patch", needs=("peft",), restores=False, note=LAYER_MOVED)
def peft_model(case: Case) -> Any:
    from peft import get_peft_model

    case.patch()
    torch.manual_seed(2)
    options = {"r": 2, "target_modules": [case.column.emitter], "init_lora_weights": False}
    case.subject = get_peft_model(case.model, _lora()(**options))  # type: ignore[arg-type]
    _merged(case, case.subject, "base_model.model.")
    return case.subject


@row("peft: LoRA after patch, merged and unloaded", needs=("peft",), restores=False)
def lora_merged(case: Case) -> Any:
    from peft import get_peft_model

    case.patch()
    torch.manual_seed(2)
    options = {"r": 2, "target_modules": [case.column.emitter], "init_lora_weights": False}
    wrapped = get_peft_model(case.model, _lora()(**options))  # type: ignore[arg-type]
    _merged(case, wrapped, "base_model.model.")
    case.subject = wrapped.merge_and_unload()  # type: ignore[operator]
    return case.subject


class Doubled(nn.Module):
    """A parametrization that is easily told."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _parametrized(case: Case) -> None:
    parametrize.register_parametrization(case.emitter, "weight", Doubled())
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]


@row("parametrize.register_parametrization after patch, and removing it")
def parametrized(case: Case) -> Any:
    case.patch()
    _parametrized(case)
    seen = gradient(case.model, case.batch)
    parametrize.remove_parametrizations(case.emitter, "weight")
    return seen


@row("parametrize.register_parametrization, then patch")
def parametrized_first(case: Case) -> Any:
    _parametrized(case)
    case.patch()
    seen = gradient(case.model, case.batch)
    case.unpatch()
    parametrize.remove_parametrizations(case.emitter, "weight")
    return seen


@row("register_parametrization after patch, unpatch under it", back=True)
def unpatched_under_parametrization(case: Case) -> Any:
    case.patch()
    _parametrized(case)
    case.unpatch()
    seen = gradient(case.model, case.batch)
    parametrize.remove_parametrizations(case.emitter, "weight")
    return seen


def _rescaled(case: Case) -> None:
    with torch.no_grad():
        case.emitter.parametrizations.weight.original0.mul_(1.5)  # type: ignore[union-attr]
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]


@row("parametrizations.weight_norm after patch", restores=False)
def weight_norm(case: Case) -> Any:
    case.patch()
    parametrizations.weight_norm(case.emitter)
    _rescaled(case)
    return case.model


@row("parametrizations.weight_norm, then patch", restores=False)
def weight_norm_first(case: Case) -> Any:
    parametrizations.weight_norm(case.emitter)
    _rescaled(case)
    return case.patch()


@row("the older nn.utils.weight_norm after patch", restores=False)
def old_weight_norm(case: Case) -> Any:
    case.patch()
    nn.utils.weight_norm(case.emitter)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        case.emitter.weight_g.mul_(1.5)  # type: ignore[union-attr, operator]
    case.changed(weight=1.5 * case.emitter.weight)  # type: ignore[operator]
    return case.model


@row("parametrizations.spectral_norm after patch, in eval()", restores=False)
def spectral_norm(case: Case) -> Any:
    case.patch()
    parametrizations.spectral_norm(case.emitter)
    case.model.eval()
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]
    return case.model


@row("the older nn.utils.spectral_norm after patch, in eval()", restores=False)
def old_spectral_norm(case: Case) -> Any:
    case.patch()
    nn.utils.spectral_norm(case.emitter)
    case.model.eval()
    gradient(case.model, case.batch)
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]
    return case.model


@row("prune.l1_unstructured after patch, and prune.remove")
def pruned(case: Case) -> Any:
    case.patch()
    prune.l1_unstructured(case.emitter, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]
    seen = gradient(case.model, case.batch)
    prune.remove(case.emitter, "weight")  # type: ignore[no-untyped-call]
    return seen


@row("prune.ln_structured, then patch", restores=False)
def pruned_first(case: Case) -> Any:
    prune.ln_structured(case.emitter, "weight", amount=0.5, n=2, dim=0)  # type: ignore[no-untyped-call]
    case.changed(weight=case.emitter.weight)  # type: ignore[arg-type]
    return case.patch()


@row("the emitting layer replaced by a new one after patch", restores=False, note="patch again")
def replaced(case: Case) -> Any:
    case.patch()
    fresh = case.fresh().get_submodule(case.column.emitter)
    case.model.set_submodule(case.column.emitter, fresh)
    return case.model


@row("the patched module replaced by a new one after patch", restores=False, note="patch again")
def module_replaced(case: Case) -> Any:
    case.patch()
    case.model.set_submodule(case.column.part, case.fresh().get_submodule(case.column.part))
    return case.model


@row(
    "the patched method replaced on the instance after patch",
    restores=False,
    note="take it back, or let it call the method that it stands for",
)
def method_replaced(case: Case) -> Any:
    case.patch()
    host = getattr(type(case.fresh().get_submodule(case.column.part)), case.column.method)
    part = case.part
    setattr(part, case.column.method, lambda *args, **kwargs: host(part, *args, **kwargs))
    return case.model


@row("the patched method replaced on the instance, then patch", note="remove it, patch, and put it back")
def method_replaced_first(case: Case) -> Any:
    part, host = case.part, getattr(case.part, case.column.method)
    setattr(part, case.column.method, lambda *args, **kwargs: host(*args, **kwargs))
    case.patch()
    return case.model


@row("module.__class__ set to another class after patch", restores=False)
def reclassed(case: Case) -> Any:
    case.patch()
    case.part.__class__ = type(case.fresh().get_submodule(case.column.part))
    return case.model
