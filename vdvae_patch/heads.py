"""Normal heads: the places where a host emits a mean and a raw parameter for a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vdvae_patch import conventions
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import InvalidValueError

Role = Literal["posterior", "prior", "likelihood"]
"""`posterior`: encoded; `prior`: decoded in latent space; `likelihood`: decoded in data space."""

ROLES: tuple[Role, ...] = get_args(Role)

Arithmetic = Literal["auto", "stable", "host"]
"""Whose KL and sampling a patched model uses. `stable`: this package's `normal`, where the head names the host's
functions; `host`: the host's own; `auto`: stable, unless the variant changes no scale at all."""


@dataclass(frozen=True)
class CallSite:
    """A method of the host that reads the raw parameter, and the function that takes its place.

    Attributes:
        owner: path of the module whose method it is.
        method: the method's name.
        function: called as `function(module, scales, *args)`, `scales` being a mapping from role to `Scale`; a role
            that is left as it is has none. A function at the top level of a module, so that models pickle.
    """

    owner: str
    method: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Rebinding:
    """A function that a host's method looks up by a global name, and the stable one that it shall find instead."""

    owner: str
    method: str
    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Found:
    """What a scan saw of a head; for information, two heads that differ only here are equal.

    Attributes:
        confidence: `sure` if a density, a KL or a `Normal` showed it; `likely` if only a multiplication by noise did.
        shape: the shape of the raw parameter in the scanned batch.
        file, line: where the host turns the raw value into σ.
        patch_at: `output`: the module's output is replaced; `call`: the host's expressions are; `no`: neither can be.
        reason: why it is not the output, or why not at all.
        evidence: in which ways it was known for a scale.
        warnings: what is unsafe in the host as it is.
    """

    confidence: Literal["sure", "likely"]
    shape: tuple[int, ...]
    file: str
    line: int
    patch_at: Literal["output", "call", "no"] = "output"
    reason: str = ""
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """The raw parameter of one Normal: a range of channels of one module's output.

    Attributes:
        path: the module's name in the model, as `named_modules` gives it; `""` is the model itself.
        role: which of the three Normals it belongs to.
        start, stop: the raw parameter's channels along `dim`; `stop=None` is the end.
        dim: the dimension the channels lie along.
        convention: how the host turns the value into σ; a name or specification is looked up.
        calls: the host's methods that read it, with functions that do the same from the new scale by stable
            arithmetic. Without any, and always when the host's arithmetic is kept, the module's output is patched.
        only_at_calls: whether replacing the module's output would not be exact, so that `calls` are used even when
            the host's arithmetic is kept.
        rebindings: for hosts that are patched at the output, the functions whose arithmetic is at fault.
        sites: the host's expressions that are replaced where replacing the module's output is not exact.
        parameter: whether `path` names a parameter (a learned global scale) and not a module.
        found: what a scan saw; None for a head that somebody wrote down.
    """

    path: str
    role: Role
    start: int = 0
    stop: int | None = None
    dim: int = 1
    convention: Convention = field(default_factory=conventions.LogSigma)
    calls: tuple[CallSite, ...] = field(default=(), repr=False, compare=False)
    rebindings: tuple[Rebinding, ...] = field(default=(), repr=False, compare=False)
    sites: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    parameter: bool = False
    only_at_calls: bool = False
    found: Found | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidValueError(f"head {self.path!r}: role must be one of {', '.join(ROLES)}, not {self.role!r}")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InvalidValueError(f"head {self.path!r}: channels {self.start}:{self.stop} are empty")
        object.__setattr__(self, "convention", conventions.get(self.convention))

    @property
    def channels(self) -> str:
        """`"16:32"`, or `":"` for a whole output."""
        start = str(self.start) if self.start else ""
        return f"{start}:{'' if self.stop is None else self.stop}"

    def __str__(self) -> str:
        return f"{self.path}[{self.channels}] ({self.role}, {self.convention})"
