"""Normal heads: the places where a host emits a mean and a raw parameter for a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from vdvae_patch import conventions
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

    class _ConventionField:
        """A head takes the name of a convention and has the convention; for type checkers alone."""

        def __get__(self, head: Head | None, owner: type[Head] | None = None) -> Convention: ...

        def __set__(self, head: Head, value: Convention | str) -> None: ...


Role = Literal["posterior", "prior", "likelihood"]
"""`posterior`: encoded; `prior`: decoded in latent space; `likelihood`: decoded in data space."""

ROLES: tuple[Role, ...] = get_args(Role)

THE_MODEL = "the model"
"""How sentences name a head that is computed in the model's own `forward`, whose path is empty."""

Arithmetic = Literal["auto", "stable", "host"]
"""Whose KL and sampling a patched model uses. `stable`: this package's `normal`, where the head names the host's
functions; `host`: the host's own; `auto`: stable, unless the variant changes no scale at all."""


class ChannelRange(NamedTuple):
    """Which channels of a module's output are meant: `start:stop:step` along `dim`, as a slice has them.

    A step of 2 is that of a mean and a scale which take turns, as in `output.view(n, latents, 2)`.
    """

    dim: int = 1
    start: int = 0
    stop: int | None = None
    step: int = 1

    def of(self, output: Tensor) -> Tensor:
        """These channels of an output, as a view of it; of a single number, which has no dimension, that number."""
        if not output.dim():
            return output
        before = (slice(None),) * (self.dim % output.dim())
        return output[(*before, slice(self.start, self.stop, self.step))]

    def __str__(self) -> str:
        stop = "" if self.stop is None else self.stop
        return f"{self.start or ''}:{stop}{f':{self.step}' if self.step > 1 else ''}"


@dataclass(frozen=True)
class CallSite:
    """A method of the host that reads the raw parameter, and the function that takes its place.

    Attributes:
        owner: path of the module whose method it is.
        method: the method's name.
        function: called as `function(module, scales, *args)`, `scales` being a mapping from role to `Scale`; a role
            that is left as it is has none. A function at the top level of a module, so that models pickle.
        yields: whether a decoder or a top prior that replaces the same method goes before it; what stands there then
            reads the head by its other calls.
    """

    owner: str
    method: str
    function: Callable[..., Any]
    yields: bool = False


@dataclass(frozen=True)
class Rebinding:
    """A function that a host's method looks up by a global name, and the stable one that it shall find instead."""

    owner: str
    method: str
    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Outlet:
    """Where a value leaves a network: channels of what the module at a path returns, or of a parameter of that name."""

    path: str
    channels: ChannelRange
    parameter: bool = False

    def __str__(self) -> str:
        return f"{self.path or '(the model itself)'}[{self.channels}]"


@dataclass(frozen=True)
class Compared:
    """What a posterior is compared with in its KL: the Normal of another head, or one of two numbers.

    Attributes:
        head: path and channels of the prior's head; None for N(mean, σ²).
    """

    head: tuple[str, str] | None = None
    mean: float = 0.0
    sigma: float = 1.0


@dataclass(frozen=True)
class Correlation:
    """The correlation ρ of two values, of a density that a head is the scale of.

    Attributes:
        raw: where the value that ρ is computed of leaves the network; None where it is computed in passing.
        file, line: where the host computes ρ of it.
        reaches_one: whether ρ comes to ±1 as far as the type can tell, where 1 − ρ² is zero and the density none.
    """

    raw: Outlet | None
    file: str
    line: int
    reaches_one: bool


@dataclass(frozen=True)
class Found:
    """What a scan saw of a head; for information, two heads that differ only here are equal.

    Attributes:
        confidence: `sure` if a density, a KL or a `Normal` showed it; `likely` if only a multiplication by noise did,
            or if these show two roles.
        shape: the shape of the raw parameter in the scanned batch.
        file, line: where the host turns the raw value into σ.
        patch_at: `output`: the module's output is replaced; `call`: the host's expressions are; `no`: neither can be.
        reason: why it is not the output, or why not at all.
        evidence: in which ways it was known for a scale.
        warnings: what is unsafe in the host as it is.
        alone: of a prior, what would be lost if its σ were fixed, which is all that its network is there for; or empty.
        at_output: of a head that is patched at the call, whether its module's output is replaced instead by a scale
            whose σ the host's own arithmetic reaches; so it is where that arithmetic stands beside the model.
        raw: where its raw value leaves the network as it is; None where it is computed in passing, or of several.
        mean: where its mean does; None where that is computed of what leaves, or several are.
        prior: what a posterior is compared with in its KL; None where that is not known, and for other roles.
        correlation: of the density of two correlated values, whose scale it is; None for any other.
        two_laws: whether the host draws from one Normal and measures another, and a patch leaves it both.
        factor: what the host's density or KL has of the σ that is drawn with, which a patch keeps: √2 of a KL that
            counts σ² twice, 1 / T of a draw at temperature T.
        uneven: a line about what takes part in σ beside the raw value and is not one number, such as a factor of each
            example's own, of which tables show the largest; or empty.
        elsewhere: of a head whose expressions are replaced, a line about another one like them that did not run; or
            empty.
        constant: of such a head, where one of the expressions also ran for a constant, as for a fixed prior, and the
            host's own σ of that; or None.
    """

    confidence: Literal["sure", "likely"]
    shape: tuple[int, ...]
    file: str
    line: int
    patch_at: Literal["output", "call", "no"] = "output"
    reason: str = ""
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    alone: str = ""
    at_output: bool = False
    raw: Outlet | None = None
    mean: Outlet | None = None
    prior: Compared | None = None
    correlation: Correlation | None = None
    two_laws: bool = False
    factor: float = 1.0
    uneven: str = ""
    elsewhere: str = ""
    constant: tuple[str, float] | None = None


@dataclass(frozen=True)
class Head:
    """The raw parameter of one Normal: a range of channels of one module's output.

    Attributes:
        path: the module's name in the model, as `named_modules` gives it; `""` is the model itself.
        role: which of the three Normals it belongs to.
        start, stop: the raw parameter's channels along `dim`; `stop=None` is the end.
        dim: the dimension the channels lie along.
        step: every how many channels one is meant; 2 where means and scales take turns.
        convention: how the host turns the value into σ; a name or specification is looked up.
        calls: the host's methods that read it, with functions that do the same from the new scale by stable
            arithmetic. Without any, and always when the host's arithmetic is kept, the module's output is patched.
        only_at_calls: whether replacing the module's output would not be exact, so that `calls` are used even when
            the host's arithmetic is kept.
        rebindings: for hosts that are patched at the output, the functions whose arithmetic is at fault.
        sites: the host's expressions that are replaced where replacing the module's output is not exact.
        parameter: whether `path` names a parameter (a learned global scale) and not a module.
        found: what a scan saw; None for a head that somebody wrote down.
        paper: whether a scale always takes the raw value as it is, as the paper's formulas do, even with `keep`; for
            hosts of the paper, whose runs are named by these formulas.
        scan: the scan that found it, by which `patch` verifies; a copy or a pickle of the head is without it.
        size: how many channels the module's output has along `dim`, where only some are meant and it is known; an
            output of another size is refused, since means and scales would lie elsewhere in it.
        line: of a head that was read from a file, the host's line by which σ was computed; or empty.
        host: the name of the host whose entry gave it, by which a saved patch finds its functions again; or empty.
    """

    path: str
    role: Role
    start: int = 0
    stop: int | None = None
    dim: int = 1
    convention: _ConventionField = field(default_factory=cast(Any, conventions.LogSigma))
    calls: tuple[CallSite, ...] = field(default=(), repr=False, compare=False)
    rebindings: tuple[Rebinding, ...] = field(default=(), repr=False, compare=False)
    sites: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    parameter: bool = False
    only_at_calls: bool = False
    found: Found | None = field(default=None, repr=False, compare=False)
    step: int = 1
    paper: bool = field(default=False, repr=False, compare=False)
    scan: Any = field(default=None, repr=False, compare=False)
    host: str = field(default="", repr=False, compare=False)
    size: int | None = field(default=None, repr=False, compare=False)
    line: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidValueError(f"head {self.path!r}: role must be one of {', '.join(ROLES)}, not {self.role!r}")
        for name in ("start", "stop", "dim", "step"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (value is None and name == "stop"):
                raise InvalidValueError(f"head {self.path!r}: {name} must be a whole number, not {value!r}")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InvalidValueError(f"head {self.path!r}: channels {self.start}:{self.stop} are empty")
        if self.step < 1:
            raise InvalidValueError(f"head {self.path!r}: step must be 1 or more, not {self.step}")
        object.__setattr__(self, "convention", conventions.get(self.convention))

    @property
    def channel_range(self) -> ChannelRange:
        """Where the raw parameter lies in the module's output."""
        return ChannelRange(self.dim, self.start, self.stop, self.step)

    @property
    def channels(self) -> str:
        """`"16:32"`, `"1:8:2"` for every second one, or `":"` for a whole output."""
        return str(self.channel_range)

    @property
    def named(self) -> str:
        """The path and the channels, as sentences have them; the path of the model itself is empty."""
        return f"{self.path or THE_MODEL}[{self.channels}]"

    def __str__(self) -> str:
        return f"{self.named} ({self.role}, {self.convention})"
