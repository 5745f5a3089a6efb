"""Normal heads: the places where a host emits a mean and a raw parameter for a scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from vdvae_patch import conventions
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import InvalidValueError

Role = Literal["posterior", "prior", "likelihood"]
"""`posterior`: encoded; `prior`: decoded in latent space; `likelihood`: decoded in data space."""

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Head:
    """The raw parameter of one Normal: a range of channels of one module's output.

    Attributes:
        path: the module's name in the model, as `named_modules` gives it; `""` is the model itself.
        role: which of the three Normals it belongs to.
        start, stop: the raw parameter's channels along `dim`; `stop=None` is the end.
        dim: the dimension the channels lie along.
        convention: how the host turns the value into σ; a name or specification is looked up.
    """

    path: str
    role: Role
    start: int = 0
    stop: int | None = None
    dim: int = 1
    convention: Convention = field(default_factory=conventions.LogSigma)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidValueError(f"head {self.path!r}: role must be one of {', '.join(ROLES)}, not {self.role!r}")
        if self.stop is not None and not 0 <= self.start < self.stop:
            raise InvalidValueError(f"head {self.path!r}: channels {self.start}:{self.stop} are empty")
        object.__setattr__(self, "convention", conventions.get(self.convention))

    @property
    def channels(self) -> str:
        """`"16:32"`, or `":"` for a whole output."""
        start = str(self.start) if self.start else ""
        return f"{start}:{'' if self.stop is None else self.stop}"

    def __str__(self) -> str:
        return f"{self.path}[{self.channels}] ({self.role}, {self.convention})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text columns, as wide as their longest cell."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)
