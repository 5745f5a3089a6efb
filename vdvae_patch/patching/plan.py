"""From heads and their scales to attachments: what has to stand in for which method, before anything is touched.

Heads that overlap, modules that emit for two roles what cannot be told apart, and heads that nothing reaches are
refused here, so that a refusal leaves the model as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from vdvae_patch.attach.attachment import (
    ActivationAttachment,
    Attachment,
    ExpressionAttachment,
    MethodAttachment,
    OutputAttachment,
    ReboundAttachment,
)
from vdvae_patch.attach.callers import fixed_everywhere
from vdvae_patch.attach.recompile import GIVE_ONE, Edit, with_host_arithmetic
from vdvae_patch.attach.sites import BESIDE, ActivationSite, LogSite, NormalSite, Site, TermSite
from vdvae_patch.composition import is_limited
from vdvae_patch.errors import PatchError, SharedScaleError, did_you_mean
from vdvae_patch.heads import CallSite, ChannelRange, Head, Rebinding, Role
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.patching.variant import VANILLA, Variant
from vdvae_patch.scales import Scale

_Emitted = tuple[str, ChannelRange]


def checked(model: nn.Module, heads: Iterable[Head], variant: Variant) -> list[Head]:
    """The heads, each named by the first name of its module.

    Raises:
        PatchError: there is none, one names no module or channels that there are not, two overlap, or the variant
            sets a role that none has.
    """
    found = list(heads)
    if not found:
        raise PatchError(
            "no heads to patch: the list is empty; give heads=vdvae_patch.scan(model, batch), or host.heads(model)"
        )
    scripted = [m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]
    inside = next((m for m in scripted for head in found if _reaches_into(model, head, m)), None)
    if inside is not None:
        raise PatchError(
            f"{type(inside).__name__} is TorchScript, which runs without the Python that a patch stands in for; "
            "patch the model first, and trace it then (torch.jit.trace, torch.export)"
        )
    modules = _modules(model)
    first = {id(module): path for path, module in model.named_modules()}
    found = [_by_first_name(head, modules, first) for head in found]
    _refuse_overlaps(found)
    roles = {head.role for head in found}
    asked: list[Role] = [r for r in ("posterior", "prior", "likelihood") if variant.for_role(r) is not None]
    absent = [role for role in asked if role not in roles]
    if absent and not (variant.one_name and len(absent) < len(asked)):
        raise PatchError(f"variant {variant} sets the {' and the '.join(absent)}, but no head has that role")
    return found


def _reaches_into(model: nn.Module, head: Head, outer: nn.Module) -> bool:
    """Whether a head is patched inside of a module: where an expression is replaced, that is what counts, and not the
    layer whose output it reads."""
    places = [site.owner for site in head.sites if isinstance(site, Site)]
    whole = len(places) == len(head.sites) and bool(places)
    return any(_is_inside(model, path, outer) for path in (places if whole else [head.path]))


def _is_inside(model: nn.Module, path: str, outer: nn.Module) -> bool:
    """Whether a path leads through a module, or to it."""
    names = path.split(".") if path else []
    prefixes = {".".join(names[:count]) for count in range(len(names) + 1)}
    return any(module is outer and name in prefixes for name, module in model.named_modules())


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every name of every module: one that is shared has several."""
    return dict(model.named_modules(remove_duplicate=False))


def _by_first_name(head: Head, modules: Mapping[str, nn.Module], first: Mapping[int, str]) -> Head:
    if head.parameter:
        if not head.sites and not head.calls and head.found is None:
            raise PatchError(
                f"head {head} names a parameter, which no module emits, and no place where the host reads it; let "
                "vdvae_patch.scan find it, or give it sites or calls"
            )
        return head
    for path in (head.path, *(c.owner for c in head.calls), *(r.owner for r in head.rebindings)):
        if path not in modules:
            raise PatchError(f"the model has no module {path!r}{did_you_mean(path, _emitters(modules, path))}")
    module = modules[head.path]
    size = getattr(module, "out_features", None) or (getattr(module, "out_channels", None) if head.dim == 1 else None)
    last = head.start if head.stop is None else head.stop - 1
    if isinstance(size, int) and last >= size and not head.sites and not head.calls:
        raise PatchError(f"head {head}: {type(module).__name__} emits {size} channels")
    return head if head.path == first[id(module)] else replace(head, path=first[id(module)])


def _emitters(modules: Mapping[str, nn.Module], path: str) -> list[str]:
    near = [name for name in modules if name.split(".")[-1] == path.split(".")[-1]]
    return (near or [name for name in modules if name])[:12]


def _refuse_overlaps(heads: Sequence[Head]) -> None:
    """Channels that two heads of one module share would be transformed twice."""
    by_path: dict[str, list[Head]] = defaultdict(list)
    for head in heads:
        if not head.parameter and not head.calls and _is_at_output(head):
            by_path[head.path].append(head)
    for path, found in by_path.items():
        for index, one in enumerate(found):
            for other in found[index + 1 :]:
                if one.channel_range != other.channel_range and _meet(one, other):
                    raise PatchError(
                        f"heads {one} and {other} overlap: channels of {path or 'the model'} would go through two "
                        "scales, one behind the other; give each head channels of its own"
                    )
                if one.channel_range == other.channel_range and one.role == other.role and one != other:
                    raise PatchError(f"heads {one} and {other} are the same channels in one role; name them once")


def _meet(one: Head, other: Head) -> bool:
    if one.dim != other.dim and one.dim >= 0 and other.dim >= 0:
        return False
    most = max(h.start if h.stop is None else h.stop for h in (one, other)) + max(one.step, other.step)
    own, others = (set(range(h.start, most if h.stop is None else h.stop, h.step)) for h in (one, other))
    return bool(own & others)


def attachments(
    model: nn.Module,
    heads: Sequence[PatchedHead],
    stable: bool,
    normals: Sequence[NormalSite | LogSite | TermSite],
    others: Sequence[Head] = (),
) -> list[Attachment]:
    """One attachment for each method that has to compute something else.

    Args:
        heads: all of them, those that are left as they are, too.
        stable: whether this package's KL and sampling stand in for the host's.
        normals: places where the host makes a Normal that shall carry log σ.
        others: heads that a scan found and that were not chosen: they are left as they are, too.

    Raises:
        SharedScaleError: one module emits for two roles with two scales, and where it is called they cannot be told
            apart.
        PatchError: a head cannot be patched; the reason is the scan's.
    """
    return [a for a in _planned(model, heads, stable, normals, others) if isinstance(a, Attachment)]


class CallEdits(NamedTuple):
    """What is to be exchanged in the call that was scanned, beside the model."""

    edits: list[Edit]


def call_edits(
    model: nn.Module,
    heads: Sequence[PatchedHead],
    stable: bool,
    outside: Sequence[NormalSite | LogSite | TermSite] = (),
    others: Sequence[Head] = (),
) -> list[Edit]:
    """What is to be exchanged beside the model, in the call by which the heads were found, for `exchanged_call`.

    Args:
        outside: places there where the host makes a Normal that shall carry log σ.
        heads, stable, others: as of `attachments`.

    Raises:
        PatchError: as `attachments`.
    """
    planned = _planned(model, heads, stable, outside, others)
    return next((p.edits for p in planned if isinstance(p, CallEdits)), [])


def is_in_call(head: Head) -> bool:
    """Whether some of a head's expressions stand beside the model."""
    return any(isinstance(site, Site) and site.in_call for site in head.sites)


def exchanged_beside(heads: Sequence[PatchedHead]) -> list[PatchedHead]:
    """The heads whose scale is put in beside the model: not those that a module's output gives theirs, and whose calls
    would only tell two roles of one module apart."""
    apart = _patched_apart(heads, {})
    return [
        h
        for h in heads
        if h.scale is not None
        and is_in_call(h.head)
        and not h.head.convention.is_identity(h.scale)
        and (not _is_alternative(h.head) or _emitted(h.head) in apart)
    ]


def settled(patched: PatchedHead) -> PatchedHead:
    """The head at the one place where its scale goes: a scale whose σ the host's own arithmetic reaches is put at the
    module's output, so that what reads it beside the model need not be exchanged."""
    head, scale = patched.head, patched.scale
    if head.found is None or not head.found.at_output or scale is None or _missed(head, scale) is not None:
        return patched
    if not bool(head.convention.preimage(scale, _FAR).isfinite().all()):
        return patched  # σ comes down to the host's own floor: of a raw value at −∞ the gradient is NaN
    return replace(patched, head=replace(head, sites=(), found=replace(head.found, patch_at="output")))


def _planned(
    model: nn.Module,
    heads: Sequence[PatchedHead],
    stable: bool,
    normals: Sequence[NormalSite | LogSite | TermSite],
    others: Sequence[Head],
) -> list[Attachment | CallEdits]:
    heads = [*heads, *(PatchedHead(head, None) for head in others)]
    changed = [h for h in heads if h.scale is not None and not h.head.convention.is_identity(h.scale)]
    _refuse_shared_expressions(heads)
    # heads that only calls can patch hand raw values on to each other: all their calls are replaced, or none
    whole = stable or any(h.head.only_at_calls for h in changed)
    modules = _modules(model)
    apart = _patched_apart(heads, modules)
    return list(_attachments(modules, heads if whole else changed, stable, normals, apart))


def _refuse_shared_expressions(heads: Sequence[PatchedHead]) -> None:
    """An expression that computes several heads' scales cannot change one and leave another."""
    changed: dict[tuple[object, ...], PatchedHead] = {}
    for patched in heads:
        if patched.scale is not None and not _is_alternative(patched.head):
            changed |= dict.fromkeys(map(_place, patched.head.sites), patched)
    changed.pop(_place(BESIDE), None)  # of a place that is not known, no other is the same
    for patched in heads:
        for site in patched.head.sites if patched.scale is None and not _is_alternative(patched.head) else ():
            other = changed.get(_place(site))
            if other is not None:
                raise SharedScaleError(
                    f"one expression of the host computes the scales of {other.head} and of {patched.head}, which is "
                    f"left as it is; {_APART if _differ(other.head, patched.head) else GIVE_ONE}"
                )


def _differ(one: Head, other: Head) -> bool:
    """Whether two heads are different functions of one raw value."""
    return (one.path, one.channel_range) == (other.path, other.channel_range) and one.convention != other.convention


_APART = "it leads to them in two ways, so that no value is right for both: give each a layer of its own"


def _place(site: object) -> tuple[object, ...]:
    if isinstance(site, ActivationSite):
        return (site.path,)
    return tuple(getattr(site, name, None) for name in ("owner", "method", "calls", "last", "parameter"))


def _attachments(
    modules: Mapping[str, nn.Module],
    heads: Iterable[PatchedHead],
    stable: bool,
    normals: Sequence[NormalSite | LogSite | TermSite],
    apart: set[_Emitted],
) -> Iterator[Attachment | CallEdits]:
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
                _require_reached(patched.head, patched.scale)
                at_output[patched.head.path].append((patched.head, patched.scale))
        for rebinding in patched.head.rebindings if stable else ():
            rebound[rebinding.owner, rebinding.method][rebinding.name] = rebinding
    yield from _one_a_method(
        [OutputAttachment(path, parts) for path, parts in at_output.items() if parts],
        [
            *_at_sites(modules, at_site, normals),
            *(MethodAttachment(site, scales[key]) for key, site in at_call.items()),
            *(ReboundAttachment(owner, method, list(names.values())) for (owner, method), names in rebound.items()),
        ],
    )


def _one_a_method(
    at_output: Sequence[OutputAttachment], inside: Sequence[Attachment | CallEdits]
) -> Iterator[Attachment | CallEdits]:
    """What replaces a module's output runs what stands in for its `forward`, where a layer has heads in both: one
    that draws its own weights, and whose output is another head's raw value."""
    forwards = {a.path: a for a in inside if isinstance(a, Attachment) and a.method == "forward"}
    taken = {a.path for a in at_output}
    for attachment in at_output:
        yield OutputAttachment(attachment.path, attachment.heads, forwards.get(attachment.path))
    for other in inside:
        if not (isinstance(other, Attachment) and other.method == "forward" and other.path in taken):
            yield other


def _at_sites(
    modules: Mapping[str, nn.Module],
    heads: Sequence[tuple[Head, Scale]],
    normals: Sequence[NormalSite | LogSite | TermSite],
) -> Iterator[Attachment | CallEdits]:
    """One attachment a method, or an activation, for heads with sites and for `Normal`s that become stable ones."""
    scaled = [site for head, _ in heads for site in head.sites]
    normals = [site for site in normals if not isinstance(site, LogSite) or site.is_needed(scaled)]
    by_method: dict[tuple[str, str], list[Edit]] = {}
    activations: dict[str, tuple[ActivationSite, Scale]] = {}
    for head, scale in heads:
        for site in head.sites:
            if isinstance(site, ActivationSite):
                other, known = activations.setdefault(site.path, (site, scale))
                if other != site:  # given one scale they would be refused as well
                    raise PatchError(
                        f"{site.path} serves two heads, whose σ are {other.rest or 'computed further on'} and "
                        f"{site.rest or 'computed further on'} of what stands in its place; {_APART}"
                    )
                if known != scale and site.rest is not None:
                    raise SharedScaleError(
                        f"{site.path} serves two heads, which were given {known} and {scale}; {GIVE_ONE}"
                    )
            else:
                by_method.setdefault((site.owner, site.method), []).append((site, scale))
    for normal in normals:
        by_method.setdefault((normal.owner, normal.method), []).append((normal, None))
    beside = by_method.pop(_BESIDE, [])
    if beside:
        yield CallEdits(beside)
    for owner in (*activations, *(owner for owner, _ in by_method)):
        if owner not in modules:
            raise PatchError(f"the model has no module {owner!r}, in which a head's expression stands; scan it again")
    for activation, scale in activations.values():
        yield ActivationAttachment(activation, scale)
    for (owner, method), edits in by_method.items():
        yield ExpressionAttachment(owner, method, edits, fixed_everywhere(modules[""], owner, method))


_BESIDE = ("", "")
"""Owner and method of what stands in the call."""


def _is_at_output(head: Head) -> bool:
    if head.found is not None:
        return head.found.patch_at == "output"
    # sites that stand beside the output: of readings that disagree with it, or instead of it where two roles share it
    return _is_alternative(head) or all(getattr(site, "reads", None) is not None for site in head.sites)


def term_attachments(model: nn.Module, sites: Sequence[TermSite]) -> list[Attachment]:
    """What puts decoders in the place of reconstruction terms alone, as it is tried out.

    Raises:
        PatchError: a module that is not there.
    """
    planned = _at_sites(dict(model.named_modules(remove_duplicate=False)), [], sites)
    return [a for a in planned if isinstance(a, Attachment)]


_RAW = torch.linspace(-40, 40, 161, dtype=torch.float64)
_FAR = torch.tensor([-700.0, 700.0], dtype=torch.float64)


def _require_reached(head: Head, scale: Scale) -> None:
    """Refuse a σ beyond the host's own floor or bound, where what computes it stands outside of the model.

    Raises:
        PatchError: some raw value has a σ that the host's arithmetic, which stays, makes of no output of the module.
    """
    worst = _missed(head, scale)
    if head.found is None or worst is None:
        return
    wanted = scale.sigma(_RAW)
    low, high = sorted(head.convention.sigma(_FAR).tolist())
    raise PatchError(
        f"head {head} of {head.found.file}:{head.found.line} cannot be given {scale}: {head.found.reason}; write a "
        "patch file whose Head has a CallSite, a function of yours that takes the place of the method that reads it. "
        f"Without it the host's own arithmetic stays, whose σ is between {low:.3g} and {high:.3g}, and of {scale} "
        f"σ({float(_RAW[worst]):g}) is {float(wanted[worst]):.3g}: name a scale that stays inside, such as "
        "downbounded or bounded"
    )


def _missed(head: Head, scale: Scale) -> int | None:
    """The number of a raw value whose σ the host's own arithmetic, which stays, makes of no output of the module."""
    if head.found is None or not is_limited(head.convention):
        return None
    wanted = scale.sigma(_RAW)
    seen = head.convention.sigma(head.convention.preimage(scale, _RAW))
    missed = ~torch.isclose(seen, wanted, rtol=1e-3)
    return int(missed.nonzero()[0]) if bool(missed.any()) else None


def _has_sites(head: Head) -> bool:
    if head.found is not None and head.found.patch_at != "output" and not head.sites:
        place = f" of {head.found.file}:{head.found.line}" if head.found.line else ""
        raise PatchError(
            f"head {head}{place} cannot be patched: {head.found.reason}; write a patch file whose Head has a CallSite, "
            "a function of yours that takes the place of the method that reads it"
        )
    return bool(head.sites)


def _emitted(head: Head) -> _Emitted:
    return head.path, head.channel_range


def _is_alternative(head: Head) -> bool:
    """Whether the head's sites are calls of its module, which do what replacing its output does."""
    # those inside the module are of a layer whose output is not the module's
    known = (
        getattr(site, "channels", None) is not None and (site.in_call or site.owner != head.path) for site in head.sites
    )
    return bool(head.sites) and not head.parameter and all(known)


def _patched_apart(heads: Iterable[PatchedHead], modules: Mapping[str, nn.Module]) -> set[_Emitted]:
    """The channels that are patched where their module is called: those of one that emits two roles with two scales,
    or of TorchScript, whose output nothing stands in for."""
    first: dict[_Emitted, PatchedHead] = {}
    apart: set[_Emitted] = set()
    for patched in heads:
        head = patched.head
        if head.calls or not (_is_at_output(head) or _is_alternative(head)):
            continue
        if _is_alternative(head) and isinstance(modules.get(head.path), torch.jit.ScriptModule):
            apart.add(_emitted(head))
        other = first.setdefault(_emitted(head), patched)
        if other.scale == patched.scale:
            continue
        if not (_is_alternative(head) and _is_alternative(other.head)):
            given = " and ".join(VANILLA if h.scale is None else str(h.scale) for h in (other, patched))
            raise SharedScaleError(
                f"{head.named} emits the {other.head.role} and the {head.role}, and where it is called "
                f"they cannot be told apart; at its output both get one scale, not {given}: name one for both"
            )
        apart.add(_emitted(head))
    return apart


def _is_there(known: list[tuple[Head, Scale]], head: Head, scale: Scale) -> bool:
    """Whether the same channels are patched already: one module that serves two roles with one scale."""
    return any(_emitted(other) == _emitted(head) and given == scale for other, given in known)
