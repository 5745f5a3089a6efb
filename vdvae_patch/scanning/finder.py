"""`scan`: the Normal heads of a model that nobody described, and the run by which a patch of them is verified."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.attach.callers import functions_of
from vdvae_patch.attach.entry import ExchangedCall, exchanged_call
from vdvae_patch.attach.recompile import Edit
from vdvae_patch.attach.sites import LogSite, NormalSite, TermSite
from vdvae_patch.errors import PatchError
from vdvae_patch.given import call_for_loss, require_module
from vdvae_patch.heads import Head
from vdvae_patch.outcome import Outcome
from vdvae_patch.patching import plan
from vdvae_patch.patching.apply import exchanged_for, lifted
from vdvae_patch.patching.measure import HALF
from vdvae_patch.patching.record import is_patched, patch_record, patched_heads
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.bound.elbo import elbo_of
from vdvae_patch.scanning.bound.replay import Keeper
from vdvae_patch.scanning.evidence import hazards
from vdvae_patch.scanning.evidence.bystanders import Steps
from vdvae_patch.scanning.evidence.positions import Placed
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.scanning.heads import two_roles
from vdvae_patch.scanning.heads.grouping import FACTOR, SUM, heads_of
from vdvae_patch.scanning.places.calls import normal_sites, outside_sites
from vdvae_patch.scanning.places.elsewhere import with_what_did_not_run
from vdvae_patch.scanning.places.placing import log_sites, logs_of, replaceable
from vdvae_patch.scanning.readings import read
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.verify import HeadKey, Patched, check_sigma, head_key, places_of, residual_curves, rest_of
from vdvae_patch.scanning.watching.beside import brought_along
from vdvae_patch.scanning.watching.outcome import explained, from_outside, loss_of
from vdvae_patch.scanning.watching.quiet import without_collection
from vdvae_patch.scanning.watching.recording import recorded, rerun
from vdvae_patch.trace import Tracer


def scan(model: nn.Module, *inputs: Any, call: Callable[..., Any] | None = None) -> ScanResult:
    """Find every place where a network's output becomes the scale of a Normal.

    The model, or `call(model, *inputs)`, runs once and is left as it was. A scale is known because it multiplies fresh
    noise, reaches `torch.distributions.Normal`, or stands in a Gaussian density or KL; conventions are measured.

    Args:
        call: what to run instead of the model; give the loss, so that priors that are only compared are seen.

    Warns:
        UserWarning: no head was found; the near misses are in it, and in the result.

    Raises:
        PatchError: some weights have no values yet, or the model has no forward and no call was given.
        Exception: whatever the model raises on these inputs, unless a value that is not finite came before: a host
            that checks its loss is scanned up to there, and the result's outcome has the error.
    """
    require_module(model, "scan")
    with without_collection():
        graph, readings, run = _watched(model, inputs, call)
        heads = ScanResult(
            (replace(head, scan=run) for head in run.heads),
            dict.fromkeys(readings.near_misses),
            hazards.of_graph(graph),
            dict.fromkeys(
                (
                    *_patched(model),
                    *in_evaluation(model),
                    *two_roles.told(run.heads),
                    *two_roles.told_of_labels(run.heads),
                    *graph.notes,
                    *(() if run.outcome.outside else from_outside(model, ())),
                )
            ),
            run.outcome,
            elbo_of(graph, readings),
            stays=hazards.of_probabilities(graph),
            advice="" if call is not None or run.outcome.has_loss else _ADVICE.format(call_for_loss(model)),
        )
    if not heads:
        warnings.warn(f"no Normal head was found in {type(model).__name__}:\n{heads.why_not()}", stacklevel=2)
    return heads


_ADVICE = "no loss was seen: if it is computed outside of what was run, give it: call={}"


def _watched(
    model: nn.Module, inputs: tuple[Any, ...], call: Callable[..., Any] | None
) -> tuple[Graph, Readings, ScanRun]:
    """The call that is scanned, what was read of it, and what its heads are verified by."""
    graph = recorded(model, inputs, call, to_the_error=True, recorder_of=Keeper)
    outcome = graph.outcome
    if outcome.raised is not None:
        outcome = _as_symptom(model, inputs, call, outcome, outcome.raised)
    readings = read(graph)
    found = with_what_did_not_run(model, graph, list(replaceable(model, heads_of(graph, readings))))
    residual = {
        head_key(h.path, h.channel_range)
        for h in found
        if h.found is not None and h.found.reason.startswith((SUM, FACTOR))
    }
    curves = residual_curves(graph, readings.found, frozenset(residual))
    normals: list[NormalSite | LogSite | TermSite] = [*normal_sites(graph), *log_sites(readings.found)]
    run = ScanRun(model, inputs, call, curves, normals, places_of(graph, readings.found))
    run.rest = rest_of(graph, readings.found)
    run.heads = tuple(found)
    run.outside, run.places_outside = outside_sites(graph, logs_of(readings.found))
    run.outcome = outcome if outcome.finite or outcome.raised else run.explained(model, outcome)
    return graph, readings, run


def _patched(model: nn.Module) -> list[str]:
    """What is to be said of a model that is patched: its heads are no longer the host's."""
    if not is_patched(model):
        return []
    known = patched_heads(model)
    scales = ", ".join(f"{one.head} {one.scale}" for one in known[:_SHOWN]) + (" ..." if len(known) > _SHOWN else "")
    return [
        f"the model is patched ({scales or 'its parts are'}): what is read here is what the patch computes; "
        "patched_heads(model) lists it, and unpatch(model) gives the host back to be scanned"
    ]


def in_evaluation(model: nn.Module) -> list[str]:
    """What is to be said of a model in evaluation mode whose own code, and not that of a library, asks for the mode:
    another branch is what trains."""
    functions = {f for m in model.modules() for f in functions_of(m) if f.__name__ not in ("train", "eval")}
    own = [f for f in functions if "site-packages" not in Path(f.__code__.co_filename).parts]
    asking = sorted(f.__qualname__ for f in own if "training" in f.__code__.co_names)
    if model.training or not asking:
        return []
    return [
        f"the model is in evaluation mode, and {asking[0]} asks for the mode (self.training): what was seen here may "
        "not be what training computes; call model.train() first"
    ]


_SHOWN = 3


def stable_loss(model: nn.Module, *inputs: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """A loss beside the model with the scales of a patch in the place of its own, and with Normals that
    carry log σ in the place of those that it makes.

    It is what `stabilize` gives as `handle.loss`, for a model that is patched already, such as one that was loaded: a
    saved patch is of the model, and holds no function of yours. The call runs once on these inputs, to be watched.

    Returns:
        What is to be called as `call` is; `call` itself where nothing in it is to be exchanged.

    Raises:
        PatchError: it makes Normals in code that cannot be compiled again; or a head of the patch has its σ beside the
            model, and this call does not compute it, or it cannot be exchanged there, or is then not the one that was
            promised.
    """
    record = patch_record(model) if is_patched(model) else None
    own = [] if record is None else plan.exchanged_beside(record.heads)
    with nullcontext() if record is None else lifted(model, record), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no Normal head was found")
        _, _, run = _watched(model, inputs, call)
    found = {(h.path, h.channel_range, h.role): h for h in run.heads}
    missing = [h.head for h in own if not _is_seen_beside(found.get((h.head.path, h.head.channel_range, h.head.role)))]
    if missing:
        raise PatchError(
            f"σ of {', '.join(map(str, missing[:_SHOWN]))} has its scale in the call that the patch was made with, and "
            "this call does not compute it; give that one, or one that computes the same"
        )
    if own:
        assert record is not None
        known = [replace(found[h.head.path, h.head.channel_range, h.head.role], scan=run) for h in own]
        patched = [replace(h, head=head) for h, head in zip(own, known, strict=True)]
        loss = exchanged_for(model, patched, record.arithmetic == "stable", run)
        run.verify(model, patched, loss)
        assert loss is not None
        return loss
    if not run.places_outside:
        return call
    needed = [site for site in run.outside if not isinstance(site, LogSite) or site.is_needed(())]
    loss = run.exchanged(model, [(site, None) for site in needed])
    if loss is None:
        raise PatchError(
            f"{', '.join(run.places_outside)}: what makes Normals there is no plain function that can be compiled "
            "again; make them vdvae_patch.distributions.StableNormal(mean, σ, log_scale=log σ) there"
        )
    return loss


def _is_seen_beside(head: Head | None) -> bool:
    return head is not None and plan.is_in_call(head)


def _as_symptom(
    model: nn.Module, inputs: tuple[Any, ...], call: Callable[..., Any] | None, outcome: Outcome, error: Exception
) -> Outcome:
    """An outcome that is an error, if a value that is not finite came before it: a host may check its loss. Else that
    error is raised."""

    def run(tracer: Tracer | None) -> Outcome:
        return recorded(model, inputs, call, tracer, to_the_error=True).outcome

    # a mask of −∞ in front of another error is no symptom
    if not isinstance(error, AssertionError | ArithmeticError) and not _SYMPTOM.search(str(error)):
        raise error
    found = explained(outcome, model, run, (inputs, brought_along(call)))
    if found.origin is None and not found.outside:
        raise error
    return replace(found, raised=error.with_traceback(None))  # whose frames would keep the call's tensors


_SYMPTOM = re.compile(r"\b(nan|inf|infinite|infinity)\b|finite|constraint|diverge|explod", re.IGNORECASE)


class ScanRun:
    """The scanned call, by which heads are verified; every head of a scan refers to it.

    It keeps the batch alive for as long as one of its heads lives. A pickle is without batch and call, which may not
    pickle, and cannot verify.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        call: Callable[..., Any] | None,
        residual: Mapping[HeadKey, list[Tensor]],
        normals: Iterable[NormalSite | LogSite | TermSite],
        places: Mapping[HeadKey, list[Placed]],
    ) -> None:
        self.inputs = inputs
        self.call = call
        self.residual = dict(residual)
        self.normals = tuple(normals)
        self.heads: tuple[Head, ...] = ()
        self.outcome = Outcome()
        self.outside: tuple[NormalSite | LogSite | TermSite, ...] = ()
        self.places_outside: tuple[str, ...] = ()
        self.places = dict(places)
        self.rest: Steps = Counter()
        self.can_verify = True
        self._place = _place(model)

    def with_heads(self, heads: Iterable[Head]) -> ScanRun:
        """The same run, that is said to have found other heads."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), heads=tuple(heads))
        return new

    @property
    def has_term_outside(self) -> bool:
        """Whether a decoder is to stand in the place of a reconstruction term of the call."""
        return any(isinstance(site, TermSite) for site in self.outside)

    def exchanged(self, model: nn.Module, edits: Sequence[Edit]) -> ExchangedCall | None:
        """The scanned call with what is to be exchanged in it beside the model; None if that is nothing, or only
        Normals, in code that cannot be compiled again.

        Raises:
            PatchError: a scale cannot be exchanged there.
        """
        if not edits or self.call is None:
            return None
        try:
            return exchanged_call(self.call, edits, model)
        except PatchError:
            if any(scale is not None for _, scale in edits):
                raise
            return None

    @without_collection()
    def run_again(
        self,
        model: nn.Module,
        tracer: Tracer | None = None,
        call: Callable[..., Any] | None = None,
        *,
        to_the_error: bool = False,
    ) -> Outcome:
        """The scanned call, or another one, on this model, and its outcome; whatever it raises, or with `to_the_error`
        an outcome that has the error."""
        inputs = moved(self.inputs, self._place, _place(model))
        call = self.call if call is None else call
        return recorded(model, inputs, call, tracer, to_the_error=to_the_error).outcome

    @without_collection()
    def loss(self, model: nn.Module, call: Callable[..., Any] | None = None) -> float | None:
        """The loss that the scanned call, or another one, gives on this model; None where that gives none, or raises.
        No gradients are computed."""
        inputs = moved(self.inputs, self._place, _place(model))
        try:
            found, is_loss = loss_of(rerun(model, inputs, self.call if call is None else call))
        except Exception:  # whatever the host's code raises at another draw: it has no loss there, and None says so
            return None
        return float(found.detach().double()) if is_loss and found is not None else None

    def has_other_loss(self, model: nn.Module, loss: float | None, *, half: bool = False) -> bool:
        """Whether a loss, computed with the host's own σ at another place, is another one than the scanned call's.

        Not where that cannot be told: the scan had no finite loss, the model is elsewhere or of another type now, a
        decoder stands in the place of a term, or the host draws noise that nobody can repeat.

        Args:
            half: whether raw values are bfloat16 or float16, as under autocast; those of such a model are anyway.
        """
        own = self.outcome.loss
        if own is None or loss is None or not math.isfinite(own) or self.has_term_outside:
            return False
        half = half or (self._place is not None and self._place[1] in HALF)
        if _place(model) != self._place or _is_same(own, loss, half):
            return False
        again = self.loss(model)
        return again is not None and _is_same(own, again, half)

    def explained(self, model: nn.Module, outcome: Outcome, call: Callable[..., Any] | None = None) -> Outcome:
        """An outcome that is not finite, with where the first such value was made and what came in from outside."""
        data = (self.inputs, brought_along(self.call))
        return explained(outcome, model, lambda tracer: self.run_again(model, tracer, call), data)

    @without_collection()
    def verify(self, model: nn.Module, patched: Iterable[Patched], call: Callable[..., Any] | None = None) -> Outcome:
        """Run the scanned batch through the patched model and compare the σ that it uses; see `patch`'s `verify`.

        The batch follows the model to another device and floating type. Gives the outcome of this run.

        Args:
            call: what to run in the place of the scanned call, which computes a σ beside the model.

        Raises:
            PatchError: a σ is another one, or the call cannot be run again.
        """
        if not self.can_verify:
            raise PatchError("these heads come from a pickle, without the scanned batch; scan the model again")
        inputs = moved(self.inputs, self._place, _place(model))
        try:
            return check_sigma(
                model, inputs, self.call if call is None else call, patched, self.residual, self.places, self.rest
            )
        except PatchError:
            raise
        except Exception as error:
            hint = ""
            if _place(model) != self._place:
                hint = f"; the model was {_text(self._place)} when it was scanned and is {_text(_place(model))} now"
            raise PatchError(
                f"the scanned call cannot be run again, so that nothing can be verified: {type(error).__name__}: "
                f"{_first_line(error)}{hint}. Scan the model as it is now, or patch it with verify=False"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "inputs": (), "call": None, "places": {}, "outside": (), "can_verify": False}


_ROUNDING, _OF_HALF = 1e-3, 2e-2
"""Relative, of a loss whose σ are computed in another way, such as one that is known by points; and with half types:
neighbouring numbers of bfloat16 are up to 0.8% apart, and a σ that is rounded once is not one that is at each step."""


def _is_same(one: float, other: float, half: bool) -> bool:
    return abs(one - other) <= (_OF_HALF if half else _ROUNDING) * max(abs(one), abs(other))


# --- a batch follows its model ----------------------------------------------------------------------------------------

DeviceAndType = tuple[torch.device, torch.dtype]


def _place(model: nn.Module) -> DeviceAndType | None:
    """Device and type of the model's first floating parameter."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if first is None else (first.device, first.dtype)


def _text(place: DeviceAndType | None) -> str:
    return "without parameters" if place is None else f"{str(place[1]).removeprefix('torch.')} on {place[0]}"


def moved(value: Any, before: DeviceAndType | None, now: DeviceAndType | None) -> Any:
    """A batch that was where the model was, where the model is now: tensors of its device and floating type, in nested
    sequences, mappings and dataclasses."""
    if before is None or now is None or before == now:
        return value
    if isinstance(value, Tensor):
        device = now[0] if value.device == before[0] else value.device
        return value.to(device, now[1] if value.dtype == before[1] else value.dtype)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(item, before, now) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(moved(item, before, now) for item in value)
    if isinstance(value, dict):
        new = copy.copy(value)
        new.update((key, moved(item, before, now)) for key, item in value.items())
        return new
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{k: moved(v, before, now) for k, v in vars(value).items()})
    if hasattr(value, "to"):
        return value.to(now[0])
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
