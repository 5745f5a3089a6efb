"""A patch as a document, and from a document the same patch again: every head with exactly the scale that it had.

{"format": "vdvae_patch", "version": 1, "made_with": {"vdvae_patch": "0.1.0", "torch": "2.13.0"},
 "patches": [{"at": "", "model": "my_vae.VAE", "variant": "explin", "arithmetic": "stable",
              "heads": [...], "normals": [...], "attachments": [["OutputAttachment", "encoder.2", "forward"]]}],
 "checksum": "0123456789abcdef"}
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from vdvae_patch.attach.attachment import Attachment, ExpressionAttachment
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.sites import LogSite, NormalSite, TermSite
from vdvae_patch.document.fields import Fields, of_kind, parse
from vdvae_patch.document.heads import Given, head_data, head_of
from vdvae_patch.document.lines import gone, lines_of
from vdvae_patch.document.places import PlaceReader, PlaceWriter
from vdvae_patch.document.seal import CHECKSUM, require_unchanged, with_checksum
from vdvae_patch.errors import InvalidValueError, PatchError, UnknownNameError
from vdvae_patch.heads import Arithmetic
from vdvae_patch.patching import plan
from vdvae_patch.patching.apply import PatchHandle, patch_exactly, unpatch
from vdvae_patch.patching.intact import check_intact
from vdvae_patch.patching.record import Owner, PatchedHead, PatchRecord, is_patched, owners, parts
from vdvae_patch.patching.term import Term, put_term, term_in
from vdvae_patch.patching.term_document import term_data, term_of
from vdvae_patch.patching.variant import Variant
from vdvae_patch.patching.wrapped import unwrapped
from vdvae_patch.reading.fields import require_shallow

FORMAT, VERSION = "vdvae_patch", 1
_MOST = 2_048  # heads, or places, of one patch; VDVAE at 1024x1024 has some hundred


def patch_document(model: nn.Module) -> dict[str, Any]:
    """What was done to a model, as data for JSON; without a checksum, since more may be added.

    Raises:
        PatchError: it is not patched, the patch is no longer in force, or a part of it cannot be written down or would
            be read as another one.
    """
    from vdvae_patch import __version__

    model = unwrapped(model)
    check_intact(model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_with": {"vdvae_patch": __version__, "torch": str(torch.__version__)},
        "patches": [_patch_data(owner) for owner in owners(model)],
    }


def patch_json(model: nn.Module) -> str:
    """`patch_document` as the text of a file, with its checksum."""
    return json.dumps(with_checksum(patch_document(model)), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _patch_data(owner: Owner) -> dict[str, Any]:
    record, places = owner.record, PlaceWriter(owner.model)
    if record.variant.decoder is not None:
        raise PatchError(
            f"a patch with decoder {record.variant.decoder} is not written down: its own parameters are no part of the "
            "model's state_dict; save vdvae_patch.patching.decoder.apart_state(model) beside it, patch the model again "
            "and load_apart_state"
        )
    if record.variant.top_prior is not None:
        raise PatchError(
            f"a patch with top prior {record.variant.top_prior} is not written down: its parameters are no part of the "
            "model's state_dict; save vdvae_patch.patching.decoder.apart_state(model) beside it, patch the model again "
            "and load_apart_state"
        )
    data: dict[str, Any] = {
        "at": owner.path,
        "model": _name(owner.model),
        "variant": _variant_text(record.variant),
        "arithmetic": record.arithmetic,
        "heads": [head_data(h.head, h.scale, places) for h in record.heads],
        "normals": [places.log(s) if isinstance(s, LogSite) else places.normal(s) for s in _normals(record)],
        "attachments": _attachments(record),
    }
    term = _term_data(owner, places)
    if term is not None:
        data["term"] = term
    _refuse_misread(owner, data)
    return data


def _refuse_misread(owner: Owner, data: dict[str, Any]) -> None:
    """What is written must be read as what is there; on this very model that can be seen."""
    known = [h.head for h in owner.record.heads]
    patched, normals, _ = _heads(data, "patch", owner.model, lambda _: known)
    planned = plan.attachments(owner.model, patched, owner.record.arithmetic == "stable", normals)
    if _named(planned) != data["attachments"]:
        raise PatchError("this patch cannot be written down: read again it would reach other places")


def _variant_text(variant: Variant) -> str:
    try:
        again: Variant | None = Variant.parse(str(variant))
    except (UnknownNameError, InvalidValueError):
        again = None
    if again != variant:
        raise PatchError(
            f"variant {variant} cannot be written down: its names do not give its scales back; register their classes "
            'with @SCALES.register("name")'
        )
    return str(variant)


def _edited(record: PatchRecord) -> list[Any]:
    return [site for a in _parts(record) if isinstance(a, ExpressionAttachment) for site, _ in a.edits]


def _normals(record: PatchRecord) -> list[NormalSite | LogSite]:
    return list(dict.fromkeys(site for site in _edited(record) if isinstance(site, NormalSite | LogSite)))


def _term_data(owner: Owner, places: PlaceWriter) -> dict[str, Any] | None:
    """A likelihood in the place of the reconstruction term; raises `PatchError` for one beside the model."""
    term = term_in(owner.model)
    site = next((site for site in _edited(owner.record) if isinstance(site, TermSite)), None)
    if term is None:
        return None
    if site is None:
        raise PatchError(
            f"decoder {term.decoder.name} stands in the place of a term that is beside the model, in the function that "
            "was given as the call, and is no part of the model that could be written down: put the loss into a method "
            "of the model and stabilize it again, or unpatch it and patch it without decoder="
        )
    return term_data(site, term, places)


def _attachments(record: PatchRecord) -> list[list[str]]:
    return _named(record.attachments)


def _named(attachments: Iterable[Attachment]) -> list[list[str]]:
    return [[type(part).__name__, part.path, part.method] for a in attachments for part in a.parts]


def _parts(record: PatchRecord) -> list[Attachment]:
    return [part for a in record.attachments for part in a.parts]


def _name(model: nn.Module) -> str:
    cls = host_class(model)
    return f"{cls.__module__}.{cls.__qualname__}"


def apply_document(
    model: nn.Module, document: str | bytes | Mapping[str, Any], given: Given, where: str
) -> PatchHandle:
    """Patch a model as a document says.

    Args:
        document: the text of a file, or its data.
        given: heads of hosts, for those that a document cannot hold.
        where: what errors call the document.

    Raises:
        PatchError: the document is damaged or foreign, or the model is not the one that it was made for; the model is
            then as it was.
    """
    data = parse(document, where) if isinstance(document, str | bytes) else _shallow(document, where)
    patches = _patches(data, where)
    model = unwrapped(model)
    leftovers = _leftovers(model, patches)
    for module, attachment in leftovers:
        attachment.remove(module)
    try:
        handles = [_apply(model, fields, given) for fields in patches]
        check_intact(model)
    except BaseException:
        if owners(model):
            unpatch(model)
        for module, attachment in leftovers:
            attachment.install(module)
        raise
    return PatchHandle.of(model, handles)


def _shallow(document: object, where: str) -> dict[str, Any]:
    data = dict(of_kind(document, Mapping, where))  # type: ignore[type-abstract]
    require_shallow(data, where, PatchError)
    return data


def _leftovers(model: nn.Module, patches: list[Fields]) -> list[tuple[nn.Module, Attachment]]:
    """Parts of the same patch that a part of the model has brought along.

    pythae keeps an encoder of the user's own as a pickle: of a patched module, while the record of the patch lies on
    the model around it.

    Raises:
        PatchError: the model is patched itself, or has a part of a patch that reaches other places.
    """
    found = list(parts(model))
    if not owners(model) and found:
        known = {
            (kind, ".".join(filter(None, (fields.get("at", str), path))), method)
            for fields in patches
            for kind, path, method in (_three(item, where) for item, where in fields.items("attachments"))
        }
        others = [f"{path}.{a.method}" for path, _, a in found if (type(a).__name__, path, a.method) not in known]
        if others:
            raise PatchError(
                f"a part of the model is patched already, at {others[0]}, as a part of another model, and this patch "
                "does not reach there; take a part that is not patched"
            )
        return list({(id(m), a.method): (m, a) for _, m, a in found}.values())
    if is_patched(model):
        raise PatchError("the model is patched already; unpatch it first")
    return []


def _patches(data: object, where: str) -> list[Fields]:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PatchError(f"{where} is no patch of vdvae_patch: its format is not {FORMAT!r}")
    fields = Fields(data, where, ("format", "version", "made_with", "patches", "weights", CHECKSUM))
    version = fields.get("version", int)
    if version != VERSION:
        raise PatchError(f"{where} has version {version} of the format, and this vdvae_patch reads version {VERSION}")
    known = ("at", "model", "variant", "arithmetic", "heads", "normals", "attachments", "term")
    made_with = Fields(fields.get("made_with", dict), fields.at("made_with"), ("vdvae_patch", "torch"))
    for name in ("vdvae_patch", "torch"):
        made_with.get(name, str)
    require_unchanged(data, where)
    found = [Fields(item, at, known) for item, at in fields.items("patches")]
    if not found:
        raise PatchError(f"{where}: patches is empty")
    return found


def _apply(model: nn.Module, fields: Fields, given: Given) -> PatchHandle:
    at = fields.get("at", str)
    modules = dict(model.named_modules(remove_duplicate=False))
    if at not in modules:
        raise PatchError(f"{fields.at('at')}: the model has no module {at!r}")
    part = modules[at]
    try:
        variant = Variant.parse(fields.get("variant", str))
    except (UnknownNameError, InvalidValueError) as error:
        raise PatchError(f"{fields.at('variant')}: {error}") from None
    arithmetic = fields.get("arithmetic", str)
    if arithmetic not in ("stable", "host"):
        raise PatchError(f"{fields.at('arithmetic')}: must be 'stable' or 'host', not {arithmetic!r}")
    own: Arithmetic = "stable" if arithmetic == "stable" else "host"
    data: dict[str, Any] = {name: fields.get(name, list) for name in ("heads", "normals")}
    if fields.any("term") is not None:
        data["term"] = fields.any("term")
    patched, normals, term = _heads(data, fields.where, part, given)
    handle = patch_exactly(part, patched, variant, own, normals)
    wanted = [_three(item, where) for item, where in fields.items("attachments")]
    if _attachments(handle.record) != wanted:
        unpatch(part)
        raise PatchError(
            f"{fields.where}: the patch would reach other places of this {_name(part)} than of the "
            f"{fields.get('model', str)} that it was made for; scan the model and patch it again"
        )
    if term is not None:
        put_term(part.get_submodule(term[0]), term[1])
    lines = lines_of(part)
    for line in filter(None, (gone(h.head, lines) for h in handle.record.heads)):
        warnings.warn(line, stacklevel=2)
    return handle


def _heads(
    data: Mapping[str, Any], where: str, model: nn.Module, given: Given
) -> tuple[list[PatchedHead], list[NormalSite | LogSite | TermSite], tuple[str, Term] | None]:
    """Heads, the places of Normals and of a term, and the term with the path of the module that it belongs to."""
    fields, places = Fields(data, where, data), PlaceReader(model)
    for name in ("heads", "normals"):
        if len(fields.get(name, list)) > _MOST:
            raise PatchError(f"{fields.at(name)}: more than {_MOST}")
    heads = [PatchedHead(*head_of(item, at, model, places, given)) for item, at in fields.items("heads")]
    seen: set[tuple[object, ...]] = set()
    for patched, (_, at) in zip(heads, fields.items("heads"), strict=True):
        head = patched.head
        own = (head.path, head.parameter, head.channel_range, head.role)
        if own in seen and not head.sites:
            raise PatchError(f"{at}: the channels {head.channel_range} of {head.path or 'the model'} are there twice")
        seen.add(own)
    normals: list[NormalSite | LogSite | TermSite] = [places.normal(i, at) for i, at in fields.items("normals")]
    if fields.any("term") is None:
        return heads, normals, None
    site, term = term_of(fields.any("term"), fields.at("term"), places)
    return heads, [*normals, site], (site.owner, term)


def _three(item: object, where: str) -> list[str]:
    found = [of_kind(part, str, where) for part in of_kind(item, list, where)]
    if len(found) != 3:
        raise PatchError(f"{where}: an attachment is its kind, a module and a method")
    return found
