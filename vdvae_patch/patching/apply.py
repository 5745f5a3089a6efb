"""Apply a variant to the Normal heads of a model, and take it back.

Patching changes no parameter and no buffer: the `state_dict` is the same before, during and after, so checkpoints go
both ways. A patched model deep-copies, pickles, compiles and is wrapped like any other.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import nn

from vdvae_patch.errors import PatchError, SharedScaleError, did_you_mean
from vdvae_patch.heads import Arithmetic, CallSite, ChannelRange, Head, Rebinding, Role
from vdvae_patch.patching import floors
from vdvae_patch.patching.overrides import CallOverride, OutputOverride, Override, RebindOverride
from vdvae_patch.patching.sites import NormalSite, site_overrides, with_host_arithmetic
from vdvae_patch.patching.variant import VANILLA, Variant, resolve
from vdvae_patch.scales import Constant, ExpLin, Scale
from vdvae_patch.tables import columns

_EXPLIN = ExpLin()

_RECORD = "_vdvae_patch_record"


@dataclass(frozen=True)
class PatchedHead:
    """A head with the scale that it was given; None where it was left as it is."""

    head: Head
    scale: Scale | None

    def row(self) -> tuple[str, str, str, str, str]:
        """Path, channels, role, convention and scale, as text."""
        scale = VANILLA if self.scale is None else str(self.scale)
        return self.head.path, self.head.channels, self.head.role, str(self.head.convention), scale


class PatchedHeads(tuple[PatchedHead, ...]):
    """The heads of a patched model; prints as a table."""

    def __str__(self) -> str:
        return columns(("path", "channels", "role", "convention", "scale"), (h.row() for h in self))


@dataclass(frozen=True)
class PatchRecord:
    """What was done to a model; lies on the model, goes into every checkpoint beside the weights."""

    variant: Variant
    arithmetic: Arithmetic
    heads: PatchedHeads
    overrides: tuple[Override, ...]


class PatchHandle:
    """Returned by `patch`; as a context manager it unpatches when the block ends."""

    def __init__(self, model: nn.Module, record: PatchRecord) -> None:
        self.model = model
        self.variant = record.variant
        self.heads = record.heads

    def unpatch(self) -> None:
        """Restore the model exactly; raises `PatchError` if that was done already."""
        unpatch(self.model)

    def __enter__(self) -> PatchHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_patched(self.model):
            self.unpatch()

    def __repr__(self) -> str:
        return f"PatchHandle({self.variant}, {len(self.heads)} heads)"

    def __str__(self) -> str:
        return str(self.heads)


def patch(
    model: nn.Module,
    variant: str | Variant | None = None,
    *,
    heads: Iterable[Head],
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    arithmetic: Arithmetic = "auto",
    verify: bool = True,
) -> PatchHandle:
    """Give every head the scale that the variant names for its role.

    Args:
        variant: `posterior/prior[/likelihood]`; one name alone sets posterior and prior, `vanilla` leaves a role
            alone. Instead of it, one keyword a role.
        heads: where the model emits its raw parameters: `host.heads(model)`, or `Head`s of your own.
        arithmetic: whose KL and sampling the model then uses, see `Arithmetic`.
        verify: for heads that a scan found, run the model once more on the scanned batch and compare the σ that it
            really uses with scale(p). A constant σ follows no p, so with one it is first done with explin in its place.
            Heads that somebody wrote down come without a batch and are taken at their word.

    Warns:
        UserWarning: the patch changes nothing, or takes away a lower bound of σ that the host's arithmetic may need.

    Raises:
        PatchError: the model is patched already, a head does not exist or cannot be patched, a role that was named has
            no head, or the verification saw another σ; the model is then as it was.
        UnknownNameError, InvalidValueError: no such scale, or arguments that it refuses.
    """
    chosen = resolve(variant, {"posterior": posterior, "prior": prior, "likelihood": likelihood})
    if is_patched(model):
        raise PatchError(f"the model is patched already (as {patch_record(model).variant}); unpatch it first")
    head_list = list(heads)
    _check_heads(model, head_list, chosen)
    check = getattr(heads, "check", None) if verify else None
    if check is not None:
        _rehearse(model, heads, chosen, arithmetic)
    patched = PatchedHeads(PatchedHead(head, chosen.for_role(head.role)) for head in head_list)
    changed = [h for h in patched if h.scale is not None and not h.head.convention.is_identity(h.scale)]
    stable = arithmetic == "stable" or (arithmetic == "auto" and bool(changed))
    if not changed and not stable and not chosen.is_vanilla:
        warnings.warn(f"variant {chosen} is what the host computes already: the patch changes nothing", stacklevel=2)
    normals = getattr(heads, "normals", ()) if stable else ()
    # heads that only calls can patch hand raw values on to each other: all their calls are replaced, or none
    whole = stable or any(h.head.only_at_calls for h in changed)
    apart = _patched_apart(patched)
    overrides = tuple(_overrides(model, patched if whole else PatchedHeads(changed), stable, normals, apart))
    _install(overrides)
    record = PatchRecord(chosen, "stable" if stable else "host", patched, overrides)
    vars(model)[_RECORD] = record
    if check is not None:
        try:
            check(model, patched)
        except PatchError:
            unpatch(model)
            raise
    for line in floors.lost(((h.head, h.scale) for h in patched), stable):
        warnings.warn(line, stacklevel=2)
    return PatchHandle(model, record)


def _rehearse(model: nn.Module, heads: Iterable[Head], chosen: Variant, arithmetic: Arithmetic) -> None:
    """Patch and verify with a scale that follows its raw parameter where the variant has one that does not."""
    given = (chosen.posterior, chosen.prior, chosen.likelihood)
    posterior, prior, likelihood = (_EXPLIN if isinstance(scale, Constant) else scale for scale in given)
    following = Variant(posterior, prior, likelihood, chosen.one_name)
    if following != chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are of scales that nobody asked for
            patch(model, following, heads=heads, arithmetic=arithmetic).unpatch()


def unpatch(model: nn.Module) -> None:
    """Restore a patched model exactly, bit for bit; raises `PatchError` if it is not patched."""
    owner = _owner(model)
    if owner is None:
        raise PatchError("the model is not patched")
    overrides = vars(owner)[_RECORD].overrides
    for override in overrides:  # all before any is removed: a refusal must leave the model as it was
        override.require_in_place()
    for override in overrides:
        override.remove()
    del vars(owner)[_RECORD]


def is_patched(model: nn.Module) -> bool:
    """Whether the model, or one that it wraps, is patched."""
    return _owner(model) is not None


def patch_record(model: nn.Module) -> PatchRecord:
    """The variant, heads and overrides of a patched model; raises `PatchError` if it is not patched."""
    owner = _owner(model)
    if owner is None:
        raise PatchError("the model is not patched")
    record: PatchRecord = vars(owner)[_RECORD]
    return record


def patched_heads(model: nn.Module) -> PatchedHeads:
    """The heads of a patched model with their scales: a tuple that prints as a table; empty for an unpatched one."""
    return patch_record(model).heads if is_patched(model) else PatchedHeads()


def _owner(model: nn.Module) -> nn.Module | None:
    # wrappers (DDP, torch.compile) hold the patched model as a submodule
    return next((module for module in model.modules() if _RECORD in vars(module)), None)


def _check_heads(model: nn.Module, heads: list[Head], variant: Variant) -> None:
    if not heads:
        raise PatchError("no heads to patch: the list is empty")
    modules = dict(model.named_modules())
    for head in heads:
        if head.parameter:
            continue
        for path in (head.path, *(c.owner for c in head.calls), *(r.owner for r in head.rebindings)):
            if path not in modules:
                raise PatchError(f"the model has no module {path!r}{did_you_mean(path, _emitters(modules, path))}")
    roles = {head.role for head in heads}
    asked: list[Role] = [r for r in ("posterior", "prior", "likelihood") if variant.for_role(r) is not None]
    absent = [role for role in asked if role not in roles]
    if absent and not (variant.one_name and len(absent) < len(asked)):
        raise PatchError(f"variant {variant} sets the {' and the '.join(absent)}, but no head has that role")


def _emitters(modules: dict[str, nn.Module], path: str) -> list[str]:
    near = [name for name in modules if name.split(".")[-1] == path.split(".")[-1]]
    return (near or [name for name in modules if name])[:12]


def _overrides(
    model: nn.Module, heads: PatchedHeads, stable: bool, normals: Sequence[NormalSite], apart: set[_Emitted]
) -> Iterator[Override]:
    """One override a method: heads that are read by the same call share it; `apart`: see `_patched_apart`."""
    modules = dict(model.named_modules())
    at_output: dict[str, list[tuple[Head, Scale]]] = defaultdict(list)
    at_call: dict[tuple[str, str], CallSite] = {}
    at_site: list[tuple[Head, Scale]] = []
    scales: dict[tuple[str, str], dict[Role, Scale]] = defaultdict(dict)
    rebound: dict[tuple[str, str], dict[str, Rebinding]] = defaultdict(dict)
    for patched in heads:
        if patched.head.calls and (stable or patched.head.only_at_calls):
            for site in patched.head.calls:
                at_call[site.owner, site.method] = site
                if patched.scale is not None:
                    scales[site.owner, site.method][patched.head.role] = patched.scale
            continue
        if patched.scale is not None and not patched.head.convention.is_identity(patched.scale):
            by_call = _emitted(patched.head) in apart
            if _has_sites(patched.head) and (by_call or not _is_alternative(patched.head)):
                at_site.append((patched.head if stable else with_host_arithmetic(patched.head), patched.scale))
            if by_call:
                continue
            if _is_at_output(patched.head) and not _is_there(at_output[patched.head.path], patched.head, patched.scale):
                at_output[patched.head.path].append((patched.head, patched.scale))
        for rebinding in patched.head.rebindings if stable else ():
            rebound[rebinding.owner, rebinding.method][rebinding.name] = rebinding
    for path, parts in at_output.items():
        yield OutputOverride(modules[path], path, parts)
    yield from site_overrides(modules, at_site, normals)
    for key, site in at_call.items():
        yield CallOverride(modules[site.owner], site, scales[key])
    for (owner, method), names in rebound.items():
        yield RebindOverride(modules[owner], method, list(names.values()))


def _is_at_output(head: Head) -> bool:
    if head.found is not None:
        return head.found.patch_at == "output"
    # sites that stand beside the output: of readings that disagree with it, or instead of it where two roles share it
    return _is_alternative(head) or all(getattr(site, "reads", None) is not None for site in head.sites)


def _has_sites(head: Head) -> bool:
    if head.found is not None and head.found.patch_at != "output" and not head.sites:
        place = f" of {head.found.file}:{head.found.line}" if head.found.line else ""
        raise PatchError(
            f"head {head}{place} cannot be patched: {head.found.reason}; write a patch file whose Head has a CallSite, "
            "a function of yours that takes the place of the method that reads it"
        )
    return bool(head.sites)


_Emitted = tuple[str, ChannelRange]


def _emitted(head: Head) -> _Emitted:
    return head.path, head.channel_range


def _is_alternative(head: Head) -> bool:
    """Whether the head's sites are calls of its module, which do what replacing its output does."""
    # those inside the module are of a layer whose output is not the module's
    known = (getattr(site, "channels", None) is not None and site.owner != head.path for site in head.sites)
    return bool(head.sites) and not head.parameter and all(known)


def _patched_apart(heads: PatchedHeads) -> set[_Emitted]:
    """The channels that one module emits for two roles with two scales: these are patched where it is called."""
    first: dict[_Emitted, PatchedHead] = {}
    apart: set[_Emitted] = set()
    for patched in heads:
        head = patched.head
        if head.calls or not (_is_at_output(head) or _is_alternative(head)):
            continue
        other = first.setdefault(_emitted(head), patched)
        if other.scale == patched.scale:
            continue
        if not (_is_alternative(head) and _is_alternative(other.head)):
            given = " and ".join(VANILLA if h.scale is None else str(h.scale) for h in (other, patched))
            raise SharedScaleError(
                f"{head.path}[{head.channels}] emits the {other.head.role} and the {head.role}, and where it is called "
                f"they cannot be told apart; at its output both get one scale, not {given}"
            )
        apart.add(_emitted(head))
    return apart


def _is_there(known: list[tuple[Head, Scale]], head: Head, scale: Scale) -> bool:
    """Whether the same channels are patched already: one module that serves two roles with one scale."""
    return any(_emitted(other) == _emitted(head) and given == scale for other, given in known)


def _install(overrides: Iterable[Override]) -> None:
    done: list[Override] = []
    try:
        for override in overrides:
            override.install()
            done.append(override)
    except BaseException:
        for override in done:
            override.remove()
        raise
