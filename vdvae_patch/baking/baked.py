"""`source`: what a maintainer writes into a code base to have the σ of a patch without this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vdvae_patch.attach.attachment import (
    ActivationAttachment,
    Attachment,
    ExpressionAttachment,
    MethodAttachment,
    OutputAttachment,
)
from vdvae_patch.attach.rewrite import Change, in_place
from vdvae_patch.attach.sites import LogSite, NormalSite, Site, TermSite
from vdvae_patch.baking.functions import Function, of_output, of_scale
from vdvae_patch.baking.places import Replacement, calls_of, diff, file_of, followed
from vdvae_patch.conventions import LogSigma
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.patching.plan import exchanged_beside
from vdvae_patch.patching.record import not_patched, owners
from vdvae_patch.patching.term import term_of
from vdvae_patch.patching.wrapped import unwrapped
from vdvae_patch.scales import Scale
from vdvae_patch.trace import shown


@dataclass(frozen=True)
class Source:
    """Prints as all of it.

    Attributes:
        functions: definitions of plain torch, which run as they stand.
        diff: where the host's source calls them, as `patch` takes it; empty where no line could be told.
        notes: what no diff can say, a sentence each.
    """

    functions: str
    diff: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        notes = "\n".join(f"# {note}" for note in self.notes)
        return "\n".join(part.rstrip("\n") + "\n" for part in (self.functions, self.diff, notes) if part).rstrip("\n")


def source(model: nn.Module) -> Source:
    """The few lines that give a model the same σ without this package.

    For each head a function of plain torch, safe in float32 with its gradient, and the line of the host that calls it.

    Raises:
        PatchError: the model is not patched; or a scale or a convention is one whose formula nobody wrote down.
    """
    model = unwrapped(model)
    found = owners(model)
    if not found:
        raise PatchError(not_patched(model))
    baking = _Baking()
    for owner in found:
        modules = dict(owner.model.named_modules(remove_duplicate=False))
        for h in exchanged_beside(owner.record.heads):
            if h.scale is not None:
                baking.beside(h.head, h.scale)
        for attachment in owner.record.attachments:
            if isinstance(attachment, OutputAttachment):
                baking.output(owner.model, attachment)
            elif isinstance(attachment, ExpressionAttachment):
                baking.expressions(modules[attachment.path], attachment, [h.head for h in owner.record.heads])
            elif isinstance(attachment, ActivationAttachment):
                baking.activation(attachment, type(modules[attachment.path]).__name__)
            else:
                baking.method(attachment)
    return baking.done()


class _Baking:
    """Collects functions under names of their own, and the places that call them."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._places: list[Replacement] = []
        self._notes: list[str] = []

    def done(self) -> Source:
        definitions = "\n\n".join(function.named(name) for name, function in self._functions.items())
        header = "import torch\n\n\n" if definitions else ""
        return Source(header + definitions, diff(self._places), tuple(dict.fromkeys(self._notes)))

    def _name(self, wanted: str, function: Function) -> str:
        """The name of a function, which no variable of a host has; one that does the same is there once."""
        for name, known in self._functions.items():
            if known == function:
                return name
        name, count = wanted, 1
        while name in self._functions:
            count += 1
            name = f"{wanted}_{count}"
        self._functions[name] = function
        return name

    def _scaled(self, role: str, head: Head, scale: Scale, channels: ChannelRange | None) -> str:
        function = of_scale(scale, head.convention)
        name = self._name(f"stable_{role}_{function.kind}", function)
        if channels is None or (channels.start, channels.stop, channels.step) == (0, None, 1):
            return name
        return self._name(f"with_{name}", of_output(name, channels))

    def beside(self, head: Head, scale: Scale) -> None:
        """Places in a function that is no part of the model, of which the patch has none."""
        for site in head.sites:
            if not isinstance(site, Site) or not site.in_call:
                continue
            at = f"{head.found.file}:{head.found.line}" if head.found is not None and head.found.line else "the loss"
            if site.rest is None:
                self._notes.append(
                    f"{shown(at)}, beside the model: σ of {head} becomes scale(v), in every line that computes it of v"
                )
                continue
            of = Head("", "posterior", convention=site.rest)
            name = self._scaled(head.role, of, scale, site.channels)
            lines = (
                f"line {site.last[0]}" if site.last[0] == site.last[1] else f"lines {site.last[0]} to {site.last[1]}"
            )
            inside = site.calls[-1].qualname if site.calls else "the function that is called as the loss"
            self._notes.append(
                f"{shown(at)}, beside the model: in {inside}, {lines}, the expression that computes σ of {head.path} "
                f"becomes {name}(v), v the raw value that it reads on line {site.first[0]}"
            )

    def output(self, model: nn.Module, attachment: OutputAttachment) -> None:
        names = [self._scaled(head.role, head, scale, head.channel_range) for head, scale in attachment.heads]
        calls = list(calls_of(model, attachment.path))
        for file, span, text in calls:
            raw = text
            for name in names[:-1]:
                raw = f"{name}({raw})"
            self._places.append(Replacement(file, span, names[-1], raw))
        if not calls:
            called = "(".join((*reversed(names), "output")) + ")" * len(names)
            self._notes.append(f"the output of {attachment.path or 'the model'} becomes {called} where it is called")

    def expressions(self, module: nn.Module, attachment: ExpressionAttachment, heads: Sequence[Head]) -> None:
        for site, scale in attachment.edits:
            function, instance = followed(module, site)
            place = f"{shown(file_of(function))}, {function.__qualname__}"
            if isinstance(site, LogSite):
                continue  # for the Normal that is made of it, whose line follows
            if isinstance(site, TermSite):
                self._term(site, place)
                continue
            if not isinstance(site, Site) or scale is None:
                self._notes.append(
                    f"{place}, line {site.span[0] if isinstance(site, NormalSite) else 0}: this "  # both are one kind
                    "torch.distributions.Normal takes the log of σ itself, which is -inf where σ rounds to zero; a "
                    "density or KL that is computed from log σ does not"
                )
                continue
            if site.rest is None:
                self._notes.append(
                    f"{place}, line {site.last[0]}: the raw value passes; the scale is computed behind it"
                )
                continue
            role = next((h.role for h in heads if site in h.sites), "sigma")
            name = self._scaled(role, Head("", "posterior", convention=site.rest), scale, site.channels)
            parameter = site.parameter.removeprefix(f"{attachment.path}.") if attachment.path else site.parameter
            change = Change(site.first, site.last, site.operand, None, parameter, site.also, site.drops, site.inplace)
            self._expression(site, place, name, in_place(function, change, instance), file_of(function))

    def _term(self, site: TermSite, place: str) -> None:
        term = term_of(site)
        low, high = term.decoder.pixels.low, term.decoder.pixels.high
        output = {"logit": "sigmoid(output)", "log mean": "exp(output)"}.get(term.reads, "output")
        how = {"sum": ".sum()", "mean": ".mean()"}.get(term.reduced, "")
        made = f"vdvae_patch.decoders.get({term.decoder.specification()!r}, PixelGrid({low:g}, {high:g}))"
        values = ", before it is summed over an image" if term.reduced == "values" else ""
        self._notes.append(
            f"{place}, line {site.last[0]}: the reconstruction term becomes {term.factor:g} * "
            f"decoder.nll(data, {output}){how}, decoder = {made}{values}"
        )

    def _expression(self, site: Site, place: str, name: str, found: Sequence[tuple[object, str]], file: str) -> None:
        if site.reads is not None or not found:
            self._notes.append(
                f"{place}, line {site.last[0]}: the scale becomes {name}(v), v the raw value of line {site.first[0]}"
            )
            return
        for span, text in found:
            self._places.append(Replacement(file, span, name, text))  # type: ignore[arg-type]

    def activation(self, attachment: ActivationAttachment, kind: str) -> None:
        if attachment.read.rest is None:
            self._notes.append(f"{attachment.path} (a {kind}) lets its input pass")
            return
        head = Head("", "posterior", convention=attachment.read.rest)
        name = self._scaled("sigma", head, attachment.read.scale, None)
        part = attachment.part
        called = "is called no more; its input v" if part is None else f"is called for the means; its v{part.channels}"
        self._notes.append(f"{attachment.path} (a {kind}) {called} becomes {name}(v)")

    def method(self, attachment: Attachment) -> None:
        where = f"{attachment.path or 'the model'}.{attachment.method}"
        if not isinstance(attachment, MethodAttachment):
            self._notes.append(f"{where} calls functions of this package (vdvae_patch.normal) for its KL")
            return
        function = attachment.function
        names = []
        for role, scale in attachment.scales.items():
            written = of_scale(scale, LogSigma())
            names.append(self._name(f"stable_{role}_{written.kind}", written))
        self._notes.append(
            f"{where} is replaced as a whole by {function.__module__}.{function.__qualname__}, which computes "
            f"sample and KL from {', '.join(names) or 'its own'} and is written there"
        )


__all__ = ["Source", "source"]
