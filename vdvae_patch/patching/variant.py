"""Variants: which scale each role gets, and what stands at the other seams.

`posterior/prior[/likelihood][+decoder][+objective][+top prior]`: `explin/constant+optimal+geco(kappa=0.06)+vamp(100)`.
The first part names scales; what a later part is, the registries know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from vdvae_patch import decoders, objectives, top_priors
from vdvae_patch.decoders import DECODERS, Decoder
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.heads import ROLES, Role
from vdvae_patch.objectives import OBJECTIVES
from vdvae_patch.registry import Registry, parse_nested_spec, split_top_level
from vdvae_patch.scales import SCALES, Scale, get
from vdvae_patch.top_priors import TOP_PRIORS, TopPrior

VANILLA = "vanilla"

Seam = Literal["decoder", "objective", "top_prior"]
SEAMS: dict[Seam, Registry[Any]] = {"decoder": DECODERS, "objective": OBJECTIVES, "top_prior": TOP_PRIORS}
"""What a part after the first can be, by the registry that knows its name."""


@dataclass(frozen=True)
class Variant:
    """The scale of each role; `None` leaves the role's heads as the host has them.

    Attributes:
        one_name: posterior and prior were set by one name, which a host with only one of the two may have.
        decoder, objective, top_prior: their specifications; None for the host's own likelihood, its ELBO, and its own
            prior.
    """

    posterior: Scale | None = None
    prior: Scale | None = None
    likelihood: Scale | None = None
    one_name: bool = field(default=False, compare=False)
    decoder: str | None = None
    objective: str | None = None
    top_prior: str | None = None

    @classmethod
    def parse(cls, text: str) -> Variant:
        """From `upbounded` (posterior and prior), `explin/constant`, `explin/constant/bounded(0.1, 1)`.

        Each may be followed by a decoder, an objective and a top prior, in any order: `vanilla+optimal`,
        `explin/constant+optimal+geco(kappa=0.06)`, `explin/constant+vamp(100)`.

        Raises:
            UnknownNameError: no such scale, decoder, objective or top prior; the message names the nearest.
            InvalidValueError: as `scales.get`; more than three roles; two decoders; arguments that are refused.
        """
        scales, *parts = (part.strip() for part in split_top_level(text, "+"))
        return _with_parts(cls._scales(scales), parts, text)

    @classmethod
    def _scales(cls, text: str) -> Variant:
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
        """Whether every role is left alone, likelihood and top prior are the host's; an objective is no part of it."""
        return not self.adds_modules and not self.sets_scales

    @property
    def adds_modules(self) -> bool:
        """Whether a decoder or a top prior is put into the model."""
        return self.decoder is not None or self.top_prior is not None

    @property
    def sets_scales(self) -> bool:
        """Whether a role gets a scale."""
        return any(self.for_role(role) is not None for role in ROLES)

    @property
    def of_model(self) -> Variant:
        """What of it is done to a model: all but the objective."""
        return replace(self, objective=None)

    def __str__(self) -> str:
        names = [VANILLA if scale is None else str(scale) for scale in map(self.for_role, ROLES)]
        if names[2] == VANILLA:
            names.pop()
            if names[0] == names[1]:
                names.pop()
        return "+".join(["/".join(names), *filter(None, (self.decoder, self.objective, self.top_prior))])


def with_seams(text: str, decoder: str | None, objective: str | None, top_prior: str | None = None) -> Variant:
    """A variant with what is named beside it at its other seams; what it names itself may be named again.

    Raises:
        UnknownNameError, InvalidValueError: as `Variant.parse`; or it names another one.
    """
    variant = Variant.parse(text)
    if decoder is not None:
        variant = replace(variant, decoder=_the_same("decoder", variant.decoder, decoder_spec(decoder)))
    if objective is not None:
        spec = _objective_spec(objective)
        variant = replace(variant, objective=_the_same("objective", variant.objective, spec))
    if top_prior is not None:
        spec = top_priors.get(top_prior).specification()
        variant = replace(variant, top_prior=_the_same("top_prior", variant.top_prior, spec))
    return variant


def _the_same(seam: Seam, there: str | None, given: str) -> str:
    if there not in (None, given):
        raise InvalidValueError(f"the variant names {_word(seam)} {there}, and beside it {given} is given; give one")
    return given


def _with_parts(variant: Variant, parts: list[str], text: str) -> Variant:
    chosen: dict[Seam, str] = {}
    for part in parts:
        seam = _seam_of(part, text)
        if seam in chosen:
            raise InvalidValueError(f"variant {text!r} names two {_word(seam)}s, {chosen[seam]} and {part}; give one")
        chosen[seam] = _SPECIFIED[seam](part)
    decoder, objective, top_prior = chosen.get("decoder"), chosen.get("objective"), chosen.get("top_prior")
    return replace(variant, decoder=decoder, objective=objective, top_prior=top_prior)


def decoder_spec(text: str) -> str:
    """A decoder's specification by its own name and without spaces, once its arguments are known to be good."""
    decoders.get(text)
    name = parse_nested_spec(text, DECODERS.kind)[0]
    return DECODERS.canonical(name) + "".join(text.strip()[len(name) :].split())


def _objective_spec(text: str) -> str:
    return objectives.get(text, classifier=_none_yet).specification()


def _none_yet(x: Tensor) -> Tensor:
    """A variant is a text; whoever weighs by its objective brings the classifier."""
    raise InvalidValueError("an objective with the constraint cla needs a classifier")


_SPECIFIED: dict[Seam, Callable[[str], str]] = {
    "decoder": decoder_spec,
    "objective": _objective_spec,
    "top_prior": lambda text: top_priors.get(text).specification(),
}


def _word(seam: Seam) -> str:
    return seam.replace("_", " ")


def _seam_of(part: str, text: str) -> Seam:
    """Which registry knows the name of a part."""
    if not part:
        raise InvalidValueError(f"variant {text!r}: nothing stands beside a '+'")
    name = parse_nested_spec(part, "part of a variant")[0]
    known: list[Seam] = []
    for seam, registry in SEAMS.items():
        try:
            registry.canonical(name)
        except UnknownNameError:
            continue
        known.append(seam)
    if not known:
        raise UnknownNameError(
            " or ".join(map(_word, SEAMS)), name, [n for registry in SEAMS.values() for n in registry]
        )
    if len(known) > 1:
        kinds = " and ".join(f"{'an' if seam == 'objective' else 'a'} {_word(seam)}" for seam in known)
        raise InvalidValueError(f"variant {text!r}: {name!r} is {kinds}; register one of them under another name")
    return known[0]


def resolve(
    variant: str | Variant | None,
    roles: dict[Role, str | Scale | None],
    decoder: str | Decoder | None = None,
    top_prior: str | TopPrior | None = None,
) -> Variant:
    """One variant from `patch`'s two forms, a specification or one keyword a role; the other seams go with both."""
    chosen = _resolved(variant, roles, decoder is not None or top_prior is not None)
    if decoder is not None:
        spec = decoder.specification() if isinstance(decoder, Decoder) else decoder_spec(decoder)
        chosen = replace(chosen, decoder=_the_same("decoder", chosen.decoder, spec))
    if top_prior is not None:
        spec = top_priors.get(top_prior).specification()
        chosen = replace(chosen, top_prior=_the_same("top_prior", chosen.top_prior, spec))
    return chosen


def _resolved(variant: str | Variant | None, roles: dict[Role, str | Scale | None], may_be_none: bool) -> Variant:
    given = {role: scale for role, scale in roles.items() if scale is not None}
    if variant is None and not given and may_be_none:
        return Variant()
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
        bare = name.split("(")[0]
        if any(bare.lower() in registry.names() for registry in SEAMS.values()):
            raise InvalidValueError(
                f"{bare!r} is no scale, and a variant names scales first: {VANILLA}+{name.strip()}"
            ) from None
        raise UnknownNameError("scale", bare, [VANILLA, *SCALES]) from None
