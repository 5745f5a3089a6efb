"""Variants: which scale each role gets, written `posterior/prior[/likelihood]`."""

from __future__ import annotations

from dataclasses import dataclass, field

from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.heads import ROLES, Role
from vdvae_patch.registry import split_top_level
from vdvae_patch.scales import SCALES, Scale, get

VANILLA = "vanilla"


@dataclass(frozen=True)
class Variant:
    """The scale of each role; `None` leaves the role's heads as the host has them.

    `one_name`: posterior and prior were set by one name, which a host with only one of the two may have.
    """

    posterior: Scale | None = None
    prior: Scale | None = None
    likelihood: Scale | None = None
    one_name: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Variant:
        """From `upbounded` (posterior and prior), `explin/constant` or `explin/constant/bounded(0.1, 1)`.

        Raises:
            UnknownNameError, InvalidValueError: as `scales.get`, or for more than three roles.
        """
        names = [part.strip() for part in split_top_level(text, "/")]
        if len(names) > len(ROLES) or not all(names):
            raise InvalidValueError(f"variant {text!r} is not of the form posterior/prior[/likelihood]")
        chosen = [_scale_or_none(name) for name in names]
        if len(chosen) == 1:
            return cls(posterior=chosen[0], prior=chosen[0], one_name=True)
        posterior, prior, likelihood = [*chosen, None][: len(ROLES)]
        return cls(posterior, prior, likelihood)

    def for_role(self, role: Role) -> Scale | None:
        """The scale of a role's heads, or None for those left alone."""
        scale: Scale | None = getattr(self, role)
        return scale

    @property
    def is_vanilla(self) -> bool:
        """Whether every role is left alone."""
        return all(self.for_role(role) is None for role in ROLES)

    def __str__(self) -> str:
        names = [VANILLA if scale is None else str(scale) for scale in map(self.for_role, ROLES)]
        if names[2] == VANILLA:
            names.pop()
            if names[0] == names[1]:
                names.pop()
        return "/".join(names)


def resolve(variant: str | Variant | None, roles: dict[Role, str | Scale | None]) -> Variant:
    """One variant from `patch`'s two forms, a specification or one keyword a role; not both."""
    given = {role: scale for role, scale in roles.items() if scale is not None}
    if variant is None and not given:
        raise InvalidValueError("which scales? name a variant ('upbounded'), or posterior=, prior=, likelihood=")
    if variant is not None and given:
        raise InvalidValueError(f"variant {str(variant)!r} and {', '.join(given)}= are both given; choose one form")
    if isinstance(variant, Variant):
        return variant
    if variant is not None:
        return Variant.parse(variant)
    scales = {role: _scale_or_none(scale) for role, scale in given.items()}
    return Variant(scales.get("posterior"), scales.get("prior"), scales.get("likelihood"))


def _scale_or_none(name: str | Scale) -> Scale | None:
    if isinstance(name, Scale):
        return name
    if name.lower() == VANILLA:
        return None
    try:
        return get(name)
    except UnknownNameError:
        raise UnknownNameError("scale", name.split("(")[0], [VANILLA, *SCALES]) from None
