"""torch.compile, tracers and exporters."""

from __future__ import annotations

import io
from typing import Any

import torch
import torch._inductor.config
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from .case import Case, Values, gradient, value
from .table import row


@row("torch.compile(fullgraph=True, backend='eager')")
def compiled(case: Case) -> Any:
    return torch.compile(case.patch(), fullgraph=True, backend="eager")


@row("torch.compile(fullgraph=True, backend='aot_eager')")
def compiled_by_autograd(case: Case) -> Any:
    return torch.compile(case.patch(), fullgraph=True, backend="aot_eager")


def _inductor(case: Case, **options: Any) -> Values:
    """With torch's noise instead of Inductor's own; without vector instructions, which take long to compile."""
    with torch._inductor.config.patch({"fallback_random": True, "cpp.simdlen": 1}):
        return gradient(torch.compile(case.patch(), **options), case.batch)


@row("torch.compile, Inductor", slow=True)
def by_inductor(case: Case) -> Any:
    return _inductor(case, fullgraph=True)


@row("torch.compile(mode='reduce-overhead')", slow=True, note="on a CPU")
def reduced_overhead(case: Case) -> Any:
    return _inductor(case, mode="reduce-overhead")


@row("torch.compile(dynamic=True)", note="two batch sizes, backend='eager'")
def dynamic(case: Case) -> Any:
    call = torch.compile(case.patch(), dynamic=True, backend="eager", fullgraph=True)
    value(call, tuple(torch.cat([t, t]) for t in case.batch))
    return call


@row("model.compile() in place")
def in_place(case: Case) -> Any:
    case.patch()
    case.model.compile(fullgraph=True, backend="eager")
    return case.model


@row("torch.compile, then patch")
def compiled_first(case: Case) -> Any:
    call = torch.compile(case.model, backend="eager", fullgraph=True)
    case.patch()
    return call


@row("torch.compile, run, then patch", note="compiled again: the graph asks for the class of each module")
def compiled_and_run_first(case: Case) -> Any:
    call = torch.compile(case.model, backend="eager", fullgraph=True)
    gradient(call, case.batch)
    case.patch()
    return call


@row("torch.compile, run, then unpatch", back=True)
def compiled_and_unpatched(case: Case) -> Any:
    call = torch.compile(case.patch(), backend="eager", fullgraph=True)
    gradient(call, case.batch)
    case.unpatch()
    return call


@row("torch.compile of the patched module alone")
def part_compiled(case: Case) -> Any:
    case.patch()
    case.part.compile(backend="eager")
    return case.model


def _traced(case: Case) -> Any:
    return torch.jit.trace(case.patch(), case.batch, strict=False, check_trace=False)  # type: ignore[no-untyped-call]


@row("torch.jit.trace")
def traced(case: Case) -> Any:
    return _traced(case)


@row("torch.jit.trace, save and load")
def traced_and_saved(case: Case) -> Any:
    file = io.BytesIO()
    torch.jit.save(_traced(case), file)  # type: ignore[no-untyped-call]
    file.seek(0)
    return torch.jit.load(file)  # type: ignore[no-untyped-call]


@row("torch.jit.script", note="use torch.jit.trace, torch.export or torch.compile")
def scripted(case: Case) -> Any:
    return torch.jit.script(case.patch())


def _exported(case: Case, strict: bool) -> Any:
    return torch.export.export(case.patch(), case.batch, strict=strict)


@row("torch.export.export(strict=True)")
def exported_strictly(case: Case) -> Any:
    return _exported(case, True).module()


@row("torch.export.export(strict=False)")
def exported(case: Case) -> Any:
    return _exported(case, False).module()


@row("torch.export, run_decompositions, save and load")
def exported_and_saved(case: Case) -> Any:
    file = io.BytesIO()
    torch.export.save(_exported(case, False).run_decompositions(), file)
    file.seek(0)
    return torch.export.load(file).module()


@row("torch.fx.symbolic_trace")
def symbolically_traced(case: Case) -> Any:
    return torch.fx.symbolic_trace(case.patch())


@row("make_fx", measure=value)
def proxied(case: Case) -> Any:
    model: nn.Module = case.patch()
    return make_fx(lambda *batch: model(*batch))(*case.batch)
