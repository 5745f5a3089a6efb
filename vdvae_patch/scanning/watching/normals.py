"""Note every `torch.distributions.Normal` that a watched call makes, with the tensors it is given.

Their `__init__` expands what it is given, and the operations alone would not show what was mean and what was scale.
While any thread watches, `Normal.__init__` is one that looks whether its own thread does; the first to begin puts it
there, the last to end takes it away. Distributions whose scale is no head, such as a Normal with correlations, are
noted to be named among the near misses.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Cauchy,
    Distribution,
    Gumbel,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
)

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.graph import Frame, Node, NormalSeen, OtherSeen
from vdvae_patch.scanning.watching.outcome import refusal
from vdvae_patch.scanning.watching.record import Recorder
from vdvae_patch.trace import shown

_here = threading.local()
_lock = threading.Lock()
_watching = 0
_originals: dict[type, Any] = {}


@contextmanager
def normals_watched(recorder: Recorder | None) -> Iterator[None]:
    """Note the Normals of this thread in the recorder's graph. And every `MultivariateNormal` whose `scale_tril`, or
    `covariance_matrix`, is a diagonal. Without a recorder none is noted, and as with one no argument is checked."""
    before = getattr(_here, "recorder", None), getattr(_here, "unchecked", False)
    _begin()
    _here.recorder, _here.unchecked = recorder, True
    try:
        yield
    finally:
        _here.recorder, _here.unchecked = before
        _end()


def _begin() -> None:
    global _watching
    with _lock:
        _watching += 1
        if _watching == 1:
            inits: list[tuple[Any, Any]] = [
                (Normal, _init),
                (MultivariateNormal, _init_of_many),
                (Distribution, _init_of_any),
                *_inits_of_others(),
            ]
            for cls, init in inits:
                _originals[cls] = cls.__init__
                cls.__init__ = init


def _end() -> None:
    global _watching
    with _lock:
        _watching -= 1
        if not _watching:
            for cls, init in _originals.items():
                cls.__init__ = init  # type: ignore[misc]


def _init(self: Normal, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
    recorder = getattr(_here, "recorder", None)
    if recorder is not None and isinstance(scale, Tensor):
        mean = recorder.node_of(loc) if isinstance(loc, Tensor) else recorder._new("constant", "number", ())
        frames = _made_at(recorder, self)
        recorder.graph.normals.append(NormalSeen(mean, recorder.node_of(scale), frames))
        if _is_checked(self, validate_args):
            _note_refusal(recorder, loc, scale, frames)
    _originals[Normal](self, loc, scale, validate_args)


def _init_of_any(self: Distribution, *args: Any, **kwargs: Any) -> None:
    """Without the checks of the arguments: an error that is the symptom must not hide what is to be found."""
    if getattr(_here, "unchecked", False):
        bound = inspect.signature(_originals[Distribution]).bind(self, *args, **kwargs)
        bound.arguments["validate_args"] = False
        args, kwargs = bound.args[1:], bound.kwargs
    _originals[Distribution](self, *args, **kwargs)


def _is_checked(normal: Normal, validate_args: bool | None) -> bool:
    """Whether PyTorch would check what this Normal is made of; one that carries log σ may have a σ of zero."""
    asked = Distribution._validate_args if validate_args is None else validate_args
    return bool(asked) and type(normal) is Normal


def _note_refusal(recorder: Recorder, loc: Any, scale: Tensor, frames: tuple[Frame, ...]) -> None:
    place = "PyTorch" if not frames else f"{shown(frames[0].code.co_filename)}:{frames[0].line}"
    shape = next((node.shape for node in recorder.graph.nodes if node.kind == "input" and node.shape), None)
    rows = None if shape is None else shape[0]
    for name, value in (("loc", loc), ("scale", scale)):
        if isinstance(value, Tensor) and (text := refusal(name, value, place, rows)):
            recorder.graph.refused.append(text)


def _init_of_many(self: MultivariateNormal, loc: Any, *args: Any, **kwargs: Any) -> None:
    recorder = getattr(_here, "recorder", None)
    given = {**dict(zip(("covariance_matrix", "precision_matrix", "scale_tril"), args, strict=False)), **kwargs}
    if recorder is not None:
        scale = given.get("scale_tril")
        root: tuple[Step, ...] = ()
        if isinstance(given.get("covariance_matrix"), Tensor):
            scale, root = given["covariance_matrix"], (Step("pow", (0.5,)),)
        node = recorder.node_of(scale) if isinstance(scale, Tensor) else None
        # of a diagonal that the recorder did not see made of anything, such as a constant, the graph has no scale
        if node is not None and node.op == "diag_embed" and node.inputs and isinstance(loc, Tensor):
            recorder.graph.normals.append(NormalSeen(recorder.node_of(loc), node.inputs[0], suffix=root))
        else:
            mean = recorder.node_of(loc) if isinstance(loc, Tensor) else None
            _note(recorder, "MultivariateNormal", given, ("covariance_matrix", "precision_matrix", "scale_tril"), mean)
    _originals[MultivariateNormal](self, loc, *args, **kwargs)


_OTHERS: dict[type, tuple[str, ...]] = {
    LowRankMultivariateNormal: ("cov_factor", "cov_diag"),
    Laplace: ("scale",),
    Cauchy: ("scale",),
    Gumbel: ("scale",),
    StudentT: ("scale",),
}
"""Distributions of which no head is made, and the arguments that are their scales."""


def _inits_of_others() -> Iterator[tuple[type, Any]]:
    for cls, names in _OTHERS.items():
        yield cls, functools.partialmethod(_init_of_another, cls, names)


def _init_of_another(self: Any, cls: type, names: tuple[str, ...], *args: Any, **kwargs: Any) -> None:
    recorder = getattr(_here, "recorder", None)
    original = _originals[cls]
    if recorder is not None:
        _note(recorder, cls.__name__, inspect.signature(original).bind_partial(self, *args, **kwargs).arguments, names)
    original(self, *args, **kwargs)


def _note(
    recorder: Recorder, name: str, given: Mapping[str, Any], scales: tuple[str, ...], mean: Node | None = None
) -> None:
    """Note a distribution one of whose scales a network has a part in."""
    for argument in scales:
        scale = given.get(argument)
        node = recorder.node_of(scale) if isinstance(scale, Tensor) else None
        if node is not None and node.params:
            recorder.graph.others.append(OtherSeen(name, node, recorder._walk(3), argument, mean))


def _made_at(recorder: Recorder, normal: Normal) -> tuple[Frame, ...]:
    caller = sys._getframe(2)
    if type(normal) is not Normal or caller.f_code.co_filename.startswith(os.path.dirname(torch.__file__) + os.sep):
        return ()
    return recorder._walk(3)
