"""Places in a host's source: the expressions that compute a scale, and how a module's method leads to them.

A `Site` names one expression by the function it stands in and its exact place in the source; `written` names it by its
text, which survives edits around it. They only describe: `expression` compiles them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vdvae_patch.attach.source import Span
from vdvae_patch.conventions import Convention, Sigma
from vdvae_patch.heads import ChannelRange
from vdvae_patch.scales import Scale


class CallStep(NamedTuple):
    """A call on the way from a module's method to the function that holds the expression."""

    span: Span
    module: str
    qualname: str


class _Placed:
    """What stands in a method of a module; or, where owner and method are empty, in the call that was scanned."""

    method: str

    @property
    def in_call(self) -> bool:
        """Whether it is computed beside the model, where no method of it leads."""
        return not self.method


@dataclass(frozen=True)
class Site(_Placed):
    """An expression of the host that is computed from a raw parameter.

    Attributes:
        owner: path of the module whose method is compiled again; empty with the method's name for the call that was
            scanned, a function beside the model.
        method: that method.
        calls: from the method to the function that holds the expression; empty if the method itself holds it.
        first: the innermost expression of the chain, which has the raw parameter as an operand.
        last: the expression that is replaced.
        operand: position of the raw parameter in the first expression's operation; −1 if `last` is itself the raw
        value,
            −2 if it is the only variable of that expression; −3 for a parameter, replaced wherever the method names it;
            −4 − k if it is operand k of `last`, and is itself what is replaced.
        rest: from the value of `last` to σ; None where it lets the raw value pass, because a further site behind it
            computes the scale.
        parameter: the attribute that is the raw value, where it is a parameter; named from the model on.
        also: further first expressions with their operands, for a product of scales: log sigmas that are added up.
        reads: the convention that the others read this raw value by, where this site is one that disagrees with them
        and
            their pre-image is what it finds.
        drops: in-place operations on the way, which are left out.
        inplace: whether `last` changes its operand in place.
        channels: of the raw value in what `last` returns, where that is a call of the module that emits it: for a
            module that serves two roles, each patched where it is called. Or of the raw value in a parameter.
        beside: of the raw value in the operand of `first`, where that has means in its other channels, for which the
            host's expression stays what it is.
        wrap: for an expression in a class's `__init__`, a function of that class and the scale which gives a subclass
            with stable arithmetic; left out where the host's arithmetic is kept. At the top level of a module, so that
            models pickle.
        several: whether `last` calls a function of the host, which may return more than the scale.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    first: Span
    last: Span
    operand: int
    rest: Convention | None
    parameter: str = ""
    also: tuple[tuple[Span, int], ...] = ()
    reads: Convention | None = None
    drops: tuple[Span, ...] = ()
    inplace: bool = False
    channels: ChannelRange | None = None
    beside: ChannelRange | None = None
    wrap: Callable[[type, Scale], type] | None = None
    several: bool = False


BESIDE = Site("", "", (), (0, 0, 0, 0), (0, 0, 0, 0), -1, None)
"""A place beside the model of which a document only knows that there is one; `stable_loss` finds it again."""


@dataclass(frozen=True)
class ActivationSite:
    """A module without parameters (a Hardtanh, a Softplus) whose input is the raw parameter.

    `rest` is None where the module lets its input pass, because a further site behind it computes the scale. `beside`
    are the raw value's channels where the input has means in the others, for which the module stays what it is.
    """

    path: str
    rest: Convention | None
    beside: ChannelRange | None = None


@dataclass(frozen=True)
class NormalSite(_Placed):
    """A place where the host makes a `torch.distributions.Normal`, which shall be a stable one.

    Attributes:
        owner, method, calls: as of a `Site`.
        span: the call of `Normal`.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    span: Span


@dataclass(frozen=True)
class TermSite(_Placed):
    """The reconstruction term of a loss, in whose place a function of output and data shall stand.

    Attributes:
        owner, method, calls: as of a `Site`; owner and method are empty where the term is outside of the model.
        first: the comparison: a difference, or a call that takes output and data as its first two arguments.
        last: the expression that is replaced by reader(output, data); `first` or one around it.
        weights: of a mixture, the expression of its components' weights, which the reader is given, too; `last` then
            stands behind `first`.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    first: Span
    last: Span
    reader: Callable[..., Any]
    parameter: str = ""
    weights: Span | None = None


@dataclass(frozen=True)
class LogSite(_Placed):
    """An expression that computes the σ of a Normal, which shall carry its logarithm with it.

    Attributes:
        owner, method, calls, first, last, operand, parameter: as of a `Site`; the expression stays what it is.
        convention: from the raw value to σ; `sigma` where only a scale in the place of the expression has a logarithm
            that is better known than as that of σ.
    """

    owner: str
    method: str
    calls: tuple[CallStep, ...]
    first: Span
    last: Span
    operand: int
    convention: Convention
    parameter: str = ""

    def is_needed(self, sites: Iterable[object]) -> bool:
        """Whether it does something where these sites get a scale."""
        if type(self.convention) is not Sigma:
            return True
        own = (self.owner, self.method, self.calls, self.last)
        return any(isinstance(s, Site) and (s.owner, s.method, s.calls, s.last) == own for s in sites)


def place_of(site: object) -> object:
    """Equal for sites of one expression, wherever their raw values are read: what stands in its place is one scale."""
    if isinstance(site, Site) and site.operand > -3 and site.channels is None and site.beside is None:
        return site.owner, site.method, site.calls, site.last
    return site
