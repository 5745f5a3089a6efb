"""Types, memory formats and quantization."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization

from .case import Case, Values, gradient, loss, training, value
from .table import row


def _autocast(case: Case, dtype: torch.dtype) -> Values:
    case.patch()
    with torch.autocast("cpu", dtype=dtype):
        return gradient(case.model, case.batch)


@row("autocast(bfloat16)", tolerance=0.1)
def autocast_bfloat16(case: Case) -> Any:
    return _autocast(case, torch.bfloat16)


@row("autocast(float16)", tolerance=0.1)
def autocast_float16(case: Case) -> Any:
    return _autocast(case, torch.float16)


@row("GradScaler('cpu'), two steps", reference=lambda case: training(case.model, case.batch), tolerance=1e-3)
def scaled(case: Case) -> Any:
    case.patch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        out = loss(case.model, case.batch)
        scaler.scale(out).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(out.detach())
    return [*losses, *value(case.model, case.batch)]


def _in(case: Case, dtype: torch.dtype) -> Values:
    """The noise is drawn in float32, as for the model that this is compared with."""
    case.patch()
    case.model.to(dtype)
    return value(_noise_of_float32(case.model, dtype), tuple(t.to(dtype) for t in case.batch))


def _noise_of_float32(model: nn.Module, dtype: torch.dtype) -> Any:
    drawn, drawn_like = torch.randn, torch.randn_like

    def call(*batch: Tensor) -> Any:
        torch.randn = lambda *size, **options: drawn(*size).to(options.get("dtype", dtype))  # type: ignore[assignment]
        torch.randn_like = lambda t, **_: drawn(t.shape).to(t.dtype)  # type: ignore[assignment]
        try:
            return model(*batch)
        finally:
            torch.randn, torch.randn_like = drawn, drawn_like

    return call


@row("model.double() after patch", measure=value)
def doubled(case: Case) -> Any:
    return _in(case, torch.float64)


@row("model.half() after patch", measure=value, tolerance=0.05, restores=False)
def halved(case: Case) -> Any:
    return _in(case, torch.float16)


@row("model.bfloat16() after patch", measure=value, tolerance=0.1, restores=False)
def brain_floats(case: Case) -> Any:
    return _in(case, torch.bfloat16)


@row("model.to(memory_format=torch.channels_last)")
def channels_last(case: Case) -> Any:
    return case.patch().to(memory_format=torch.channels_last)


@row("built on the meta device, patched, then to_empty and load_state_dict")
def from_meta(case: Case) -> Any:
    weights = case.model.state_dict()
    case.model = case.subject = case.model.to("meta")
    case.patch()
    case.model.to_empty(device="cpu")
    case.model.load_state_dict(case.fresh().state_dict())
    assert weights.keys() == case.model.state_dict().keys()
    return case.model


_INTEGERS = 0.1


@row(
    "quantize_dynamic of Linear, after patch",
    measure=value,
    tolerance=_INTEGERS,
    restores=False,
    note="a layer whose output is patched stays in float32; VDVAE has no Linear",
)
def quantized(case: Case) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantization.quantize_dynamic(case.patch(), {nn.Linear}, torch.qint8)
    case.subject = model
    return model


@row("quantize_dynamic of Linear, then patch", measure=value, tolerance=_INTEGERS, restores=False)
def quantized_first(case: Case) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantization.quantize_dynamic(case.model, {nn.Linear}, torch.qint8)
    case.subject = model
    return case.patch(model)


def _statically(case: Case, patch_first: bool) -> nn.Module:
    """The emitting layer in a QuantWrapper, observed on the batch and converted."""
    if patch_first:
        case.patch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = quantization.QuantWrapper(case.emitter)
        wrapped.qconfig = quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
        case.model.set_submodule(case.column.emitter, wrapped)
        case.model.eval()
        quantization.prepare(case.model, inplace=True)
        value(case.model, case.batch)
        quantization.convert(case.model, inplace=True)
    if not patch_first:
        case.patch()
    return case.model


@row(
    "torch.ao static quantization (prepare, convert), after patch",
    measure=value,
    tolerance=_INTEGERS,
    restores=False,
    note="quantize first, then patch",
)
def static(case: Case) -> Any:
    return _statically(case, patch_first=True)


@row("torch.ao static quantization (prepare, convert), then patch", measure=value, tolerance=_INTEGERS, restores=False)
def static_first(case: Case) -> Any:
    return _statically(case, patch_first=False)
