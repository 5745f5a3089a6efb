"""Patches of a host's expressions, for scales that no module's output can give exactly.

A `Site` names one expression by the function it stands in and its exact place in the source. The function is compiled
again from its own source with that expression replaced, and stands in for the module's method through an `Override`:
the host's file, class and other instances are not touched. Functions and classes in between (a helper, a distribution
class) are compiled again for this caller only, so that two calls of one helper can have two scales.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from vdvae_patch.composition import back
from vdvae_patch.conventions import Convention
from vdvae_patch.distributions import StableNormal
from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.patching.overrides import Override, replace_raw
from vdvae_patch.patching.rewrite import Change, LocalFunction, rewritten
from vdvae_patch.patching.source import LOCAL, Span, called, method_function, owner_of
from vdvae_patch.scales import Scale


class CallStep(NamedTuple):
    """A call on the way from a module's method to the function that holds the expression."""

    span: Span
    module: str
    qualname: str


@dataclass(frozen=True)
class Site:
    """An expression of the host that is computed from a raw parameter.

    Attributes:
        owner: path of the module whose method is compiled again.
        method: that method.
        calls: from the method to the function that holds the expression; empty if the method itself holds it.
        first: the innermost expression of the chain, which has the raw parameter as an operand.
        last: the expression that is replaced.
        operand: position of the raw parameter in the first expression's operation; −1 if `last` is itself the raw
        value,
            −2 if it is the only variable of that expression; −3 for a parameter, replaced wherever the method names it.
        rest: from the value of `last` to σ.
        parameter: the attribute that is the raw value, where it is a parameter.
        also: further first expressions with their operands, for a product of scales: log sigmas that are added up.
        reads: the convention that the others read this raw value by, where this site is one that disagrees with them
        and
            their pre-image is what it finds.
        drops: in-place operations on the way, which are left out.
        inplace: whether `last` changes its operand in place.
        channels: of the raw value in what `last` returns, where that is a call of the module that emits it: for a
            module that serves two roles, each patched where it is called. Or of the raw value in a parameter.
        wrap: for an expression in a class's `__init__`, a function of that class and the scale which gives a subclass
            with stable arithmetic; left out where the host's arithmetic is kept. At the top level of a module, so that
            models pickle.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    first: Span
    last: Span
    operand: int
    rest: Convention
    parameter: str = ""
    also: tuple[tuple[Span, int], ...] = ()
    reads: Convention | None = None
    drops: tuple[Span, ...] = ()
    inplace: bool = False
    channels: ChannelRange | None = None
    wrap: Callable[[type, Scale], type] | None = None


@dataclass(frozen=True)
class ActivationSite:
    """A module without parameters (a Hardtanh, a Softplus) whose input is the raw parameter.

    `rest` is None where the module lets its input pass, because a further site behind it computes the scale.
    """

    path: str
    rest: Convention | None


@dataclass(frozen=True)
class NormalSite:
    """A place where the host makes a `torch.distributions.Normal`, which shall be a stable one.

    Attributes:
        owner, method, calls: as of a `Site`.
        span: the call of `Normal`.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    span: Span


class Reader:
    """p to what the host must have at a site, so that its remaining steps give scale(p)."""

    def __init__(self, scale: Scale, rest: Convention, reads: Convention | None = None) -> None:
        self.scale = scale
        self.rest = rest
        self.reads = reads

    def __call__(self, p: Tensor) -> Tensor:
        if self.reads is not None:
            sigma = self.reads.sigma(p)
            return back(self.rest, sigma, sigma.log())
        return self.rest.preimage(self.scale, p)

    def same_as(self, other: Reader | OutputReader) -> bool:
        """Whether the two read alike."""
        return isinstance(other, Reader) and vars(self) == vars(other)


class OutputReader:
    """What a module returns, to the same with the pre-image of scale(p) in the raw value's channels."""

    def __init__(self, scale: Scale, rest: Convention, channels: ChannelRange) -> None:
        dim, start, stop, step = channels
        self.scale = scale
        self.head = Head("", "posterior", start, stop, dim, convention=rest, step=step)

    def __call__(self, output: Tensor) -> Tensor:
        return replace_raw(output, self.head, self.scale)

    def same_as(self, other: Reader | OutputReader) -> bool:
        """Whether the two read alike."""
        return isinstance(other, OutputReader) and vars(self) == vars(other)


def _reader(site: Site, scale: Scale) -> Reader | OutputReader:
    if site.channels is not None:
        return OutputReader(scale, site.rest, site.channels)
    return Reader(scale, site.rest, site.reads)


class ActivationOverride(Override):
    """Stands in for the forward of an activation."""

    def __init__(self, module: nn.Module, site: ActivationSite, scale: Scale) -> None:
        super().__init__(module, "forward")
        self.read = None if site.rest is None else Reader(scale, site.rest)

    def __call__(self, p: Tensor) -> Tensor:
        return p if self.read is None else self.read(p)


class SiteOverride(Override):
    """Runs a method of the host compiled again, with the expressions of some sites replaced."""

    def __init__(self, module: nn.Module, method: str, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)
        super().__init__(module, method)

    def _bind_original(self) -> Any:
        function = method_function(type(self.module), self.method)
        # deduplicated: several sites may lead through one call
        return types.MethodType(_compile(function, list(self.edits), 0, self.module), self.module)

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            super().__setstate__(state)
        except PatchError:
            self.original = None  # a function kept in the module, which a copy fills after its overrides

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.original is None:
            self.original = self._bind_original()
        return self.original(*args, **kwargs)


_GIVE_ONE = 'give both the same, such as posterior="explin", prior="explin"'

Edit = tuple[Site, Scale] | tuple[NormalSite, None]


def site_overrides(
    modules: Mapping[str, nn.Module], heads: Sequence[tuple[Head, Scale]], normals: Sequence[NormalSite] = ()
) -> Iterator[Override]:
    """One override a method, or an activation, for heads with sites and for `Normal`s that become stable ones."""
    by_method: dict[tuple[str, str], list[Edit]] = {}
    activations: dict[str, tuple[ActivationSite, Scale]] = {}
    for head, scale in heads:
        for site in head.sites:
            if isinstance(site, ActivationSite):
                other, known = activations.setdefault(site.path, (site, scale))
                if other != site or (known != scale and site.rest is not None):
                    raise SharedScaleError(
                        f"{site.path} serves two heads, which were given {known} and {scale}; {_GIVE_ONE}"
                    )
            else:
                by_method.setdefault((site.owner, site.method), []).append((site, scale))
    for normal in normals:
        by_method.setdefault((normal.owner, normal.method), []).append((normal, None))
    for path, (activation, scale) in activations.items():
        yield ActivationOverride(modules[path], activation, scale)
    for (owner, method), edits in by_method.items():
        yield SiteOverride(modules[owner], method, edits)


def _compile(function: types.FunctionType, edits: list[Edit], level: int, instance: Any) -> types.FunctionType:
    return rewritten(function, *_plan(function, edits, level, instance))


def _plan(
    function: types.FunctionType, edits: list[Edit], level: int, instance: Any
) -> tuple[list[Change], dict[Span, Any]]:
    """The changes of a function, and what it shall call at some spans."""
    changes: list[Change] = []
    inner: dict[CallStep, list[Edit]] = {}
    replaced: dict[Span, Any] = {}
    for edit in edits:
        site, scale = edit
        if len(site.calls) > level:
            inner.setdefault(site.calls[level], []).append(edit)
        elif isinstance(site, NormalSite) or scale is None:
            replaced[site.span] = StableNormal  # type: ignore[union-attr]
        else:
            reader = _reader(site, scale)
            change = Change(
                site.first, site.last, site.operand, reader, site.parameter, site.also, site.drops, site.inplace
            )
            known = next((c for c in changes if c.last == change.last), None)
            if known is None:
                changes.append(change)
            elif not known.reader.same_as(change.reader):
                raise SharedScaleError(
                    f"{function.__qualname__} line {site.last[0]} computes two heads' scales, which were given "
                    f"different ones ({known.reader.scale} and {scale}); {_GIVE_ONE}"
                )
    for step, below in inner.items():
        target = called(function, step.span, step.module, step.qualname, instance)
        if target is LOCAL:
            replaced[step.span] = LocalFunction(*_plan(function, below, level + 1, instance))
        elif isinstance(target, classmethod):
            written: Any = target.__func__
            inner_function = _compile(written, below, level + 1, None)
            replaced[step.span] = types.MethodType(inner_function, owner_of(step.module, step.qualname))
        elif isinstance(target, type):
            init = _compile(method_function(target, "__init__"), below, level + 1, None)
            made = type(target.__name__, (target,), {"__init__": init, "__module__": target.__module__})
            replaced[step.span] = _wrapped(made, below, level + 1)
        else:
            own = instance if isinstance(getattr(type(instance), target.__name__, None), types.FunctionType) else None
            replaced[step.span] = _compile(target, below, level + 1, own)
    return changes, replaced


def _wrapped(made: type, edits: list[Edit], level: int) -> type:
    for site, scale in edits:
        if isinstance(site, Site) and site.wrap is not None and scale is not None and len(site.calls) == level:
            return site.wrap(made, scale)
    return made


def with_host_arithmetic(head: Head) -> Head:
    """The head with sites that change σ and nothing else."""
    return replace(head, sites=tuple(replace(s, wrap=None) if isinstance(s, Site) else s for s in head.sites))
