"""`source`: what a maintainer writes into a code base to have the σ of a patch without this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FunctionType

from torch import nn

from vdvae_patch.attach.attachment import (
    ActivationAttachment,
    Attachment,
    ExpressionAttachment,
    MethodAttachment,
    OutputAttachment,
)
from vdvae_patch.attach.by_hand import Apart, apart, in_part, in_place, operand_within
from vdvae_patch.attach.change import Change
from vdvae_patch.attach.recompile import meet
from vdvae_patch.attach.sites import LogSite, NormalSite, Site, TermSite
from vdvae_patch.attach.source import Span
from vdvae_patch.baking.functions import Function, of_output, of_scale, of_sigma
from vdvae_patch.baking.places import Caller, Replacement, called_alike, calls_of, diff, file_of, followed
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
        for attachment in (part for a in owner.record.attachments for part in a.parts):
            if isinstance(attachment, OutputAttachment):
                baking.output(owner.model, attachment)
            elif isinstance(attachment, ExpressionAttachment):
                baking.expressions(modules[attachment.path], attachment, [h.head for h in owner.record.heads])
            elif isinstance(attachment, ActivationAttachment):
                baking.activation(attachment, type(modules[attachment.path]).__name__)
            else:
                baking.method(attachment)
        baking.normals_beside(owner.record.beside)
    return baking.done()


class _Baking:
    """Collects functions under names of their own, and the places that call them."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._places: list[Replacement] = []
        self._notes: list[str] = []
        self._lines: dict[tuple[str, Span], _Line] = {}
        self._outputs: dict[tuple[nn.Module, str], tuple[str, ...]] = {}

    def done(self) -> Source:
        for line in self._lines.values():
            self._settle(line)
        for (model, path), names in self._outputs.items():
            self._settle_output(model, path, names)
        if not (self._functions or self._places or self._notes):
            self._notes.append("every σ is the host's own, so that nothing is to be written")
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

    def _scaled(self, role: str, head: Head, scale: Scale, channels: ChannelRange | None, beside: bool = False) -> str:
        function = of_scale(scale, head.convention)
        name = self._name(f"stable_{role}_{function.kind}", function)
        if channels is None or (channels.start, channels.stop, channels.step) == (0, None, 1):
            return name
        return self._name(f"with_{name}", of_output(name, channels, beside))

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

    def normals_beside(self, places: Sequence[str]) -> None:
        """Normals in a function that is no part of the model, which `handle.loss` makes stable ones."""
        if places:
            self._notes.append(f"{', '.join(places)}, beside the model: torch.distributions.Normal{TAKES_LOG}")

    def output(self, model: nn.Module, attachment: OutputAttachment) -> None:
        names = tuple(
            self._scaled(head.role, head, scale, head.channel_range) for head, scale in reversed(attachment.heads)
        )
        self._outputs[model, attachment.path] = names

    def _settle_output(self, model: nn.Module, path: str, names: tuple[str, ...]) -> None:
        """A line may call a layer of many modules, each with a scale of its own or none: then it stays as it is."""
        calls = list(calls_of(model, path))
        known = {own.get_submodule(at): given for (own, at), given in self._outputs.items()}
        alike = all(known.get(called) == names for called in called_alike(model, path))
        if calls and alike and all(self._is_free(file, span) for file, span, _ in calls):
            for file, span, text in calls:
                inner = "".join(f"{name}(" for name in names[1:])
                self._places.append(Replacement(file, span, names[0], f"{inner}{text}{')' * (len(names) - 1)}"))
            return
        called = "(".join((*names, "output")) + ")" * len(names)
        lines = ", ".join(dict.fromkeys(f"{shown(file)}:{span[0]}" for file, span, _ in calls))
        only = f", and no other that {lines} calls" if calls and not alike else ""
        self._notes.append(
            f"the output of {path or 'the model'} becomes {called} where it is called{only}{HOOKED}"
            f"{_hook(path, called)}"
        )

    def expressions(self, module: nn.Module, attachment: ExpressionAttachment, heads: Sequence[Head]) -> None:
        for site, scale in attachment.edits:
            function, instance, calls = followed(module, site)
            place = f"{shown(file_of(function))}, {function.__qualname__}"
            if isinstance(site, LogSite):
                continue  # for the Normal that is made of it, whose line follows
            if isinstance(site, TermSite):
                self._term(site, place)
                continue
            if not isinstance(site, Site) or scale is None:
                self._notes.append(
                    f"{place}, line {site.span[0] if isinstance(site, NormalSite) else 0}: this "  # both are one kind
                    f"torch.distributions.Normal{TAKES_LOG}"
                )
                continue
            parameter = site.parameter.removeprefix(f"{attachment.path}.") if attachment.path else site.parameter
            change = Change(
                site.first, site.last, site.operand, None, parameter, site.also, site.drops, site.inplace, site.several
            )
            if site.rest is None:
                self._passing(site, place, operand_within(function, change, instance), file_of(function))
                continue
            role = next((h.role for h in heads if site in h.sites), "sigma")
            beside = site.beside is not None and site.operand != -1
            if site.reads is not None:
                name = self._name(f"stable_{role}_again", of_sigma(site.reads, site.rest))
            else:
                of = Head("", "posterior", convention=site.rest)
                # of a sum some channels, as of a module's output
                name = self._scaled(role, of, scale, site.beside or site.channels, beside)
            line = self._lines.setdefault((file_of(function), site.last), _Line(place, site))
            line.heads.setdefault(name, []).extend(h.path for h in heads if site in h.sites)
            known = line.calls.get(name)
            if known is not None:
                known += calls
                continue  # it stands there already
            line.calls[name] = list(calls)
            if beside:
                found, outside = in_part(function, change, instance, _new_name(function, len(self._places))), None
            else:
                found = in_place(function, change, instance)
                outside = None if found or site.channels is not None else apart(function, change, instance)
            before = len(self._places)
            if outside is None:
                self._expression(site, place, name, found, file_of(function))
            else:
                self._apart(site, place, name, outside, function)
            line.places += self._places[before:]

    def _settle(self, line: _Line) -> None:
        """Take a line out of the diff that calls lead to which shall not have its σ, or another one."""
        calls = [call for own in line.calls.values() for call in own]
        known = {call.place for call in calls}
        others = {other for call in calls for other in call.others()} - known
        if not others and len(line.calls) == 1:
            return
        self._places = [one for one in self._places if one not in line.places]
        for name, own in line.calls.items():
            first, last = line.site.first[0], line.site.last[0]
            of = ", ".join(path or "the model" for path in dict.fromkeys(line.heads[name]))
            at = ", ".join(dict.fromkeys(str(call.span[0]) for call in own))
            by = f", by the call of line {at}," if at else ""
            also = f"; line {', '.join(str(span[0]) for _, span in sorted(others))} calls it, too" if others else ""
            self._notes.append(
                f"{line.place}, line {last}: for {of}{by} the scale becomes {name}(v), v the raw value of line "
                f"{first}, and for no other{also}: write what has the line once more, for it alone"
            )

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

    def _expression(self, site: Site, place: str, name: str, found: Sequence[tuple[Span, str]], file: str) -> None:
        if not found or not all(self._is_free(file, span) for span, _ in found):
            self._notes.append(
                f"{place}, line {site.last[0]}: the scale becomes {name}(v), v the raw value of line {site.first[0]}"
            )
            return
        for span, text in found:
            self._places.append(Replacement(file, span, name, text))

    def _passing(self, site: Site, place: str, raw: Span | None, file: str) -> None:
        """An expression that becomes its operand, in which more may be changed."""
        if raw is not None and site.beside is None:
            (first, last, start, end), (begin, stop, left, right) = site.last, raw
            around = [(first, begin, start, left), (stop, last, right, end)]
            if all(self._is_free(file, span) for span in around):
                self._places += [Replacement(file, span, None, text) for span, text in zip(around, "()", strict=True)]
                return
        self._notes.append(f"{place}, line {site.last[0]}: the raw value passes; the scale is computed behind it")

    def _apart(self, site: Site, place: str, name: str, raw: Apart, function: FunctionType) -> None:
        """A raw value that is read before the expression which becomes the scale: by its name, or by one that it
        gets."""
        file = file_of(function)
        kept = raw.text if raw.is_name else _new_name(function, len(self._places))
        spans = [site.last] if raw.is_name else [raw.span, site.last]
        if not all(self._is_free(file, span) for span in spans):
            self._expression(site, place, name, [], file)
            return
        if not raw.is_name:
            self._places.append(Replacement(file, raw.span, "", f"{kept} := {raw.text}"))
        self._places.append(Replacement(file, site.last, name, kept))

    def _is_free(self, file: str, span: Span) -> bool:
        """Whether no other change of the file shares text with one at a span; the same one may come again."""
        known = (one.span for one in self._places if one.file == file and one.span != span)
        return not any(meet(span, other) for other in known)

    def activation(self, attachment: ActivationAttachment, kind: str) -> None:
        if attachment.read.rest is None:
            self._notes.append(
                f"{attachment.path} (a {kind}) lets its input pass{HOOKED}{_hook(attachment.path, 'given[0]')}"
            )
            return
        head = Head("", "posterior", convention=attachment.read.rest)
        name = self._scaled("sigma", head, attachment.read.scale, None)
        part = attachment.part
        called = "is called no more; its input v" if part is None else f"is called for the means; its v{part.channels}"
        whole = f"{name}(*given)"
        after = f"{HOOKED}{_hook(attachment.path, whole)}" if part is None else ""
        self._notes.append(f"{attachment.path} (a {kind}) {called} becomes {name}(v){after}")

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


@dataclass
class _Line:
    """An expression that becomes a scale.

    Attributes:
        calls: of each function that stands in its place, the calls that lead there for it.
        heads: of each function, the heads whose σ it is.
        places: its part of the diff.
    """

    place: str
    site: Site
    calls: dict[str, list[Caller]] = field(default_factory=dict)
    heads: dict[str, list[str]] = field(default_factory=dict)
    places: list[Replacement] = field(default_factory=list)


TAKES_LOG = (
    " takes the log of σ itself, which is -inf where σ rounds to zero; a density or KL that is computed from log σ "
    "does not"
)
"""What is to be said of a Normal of the host's own."""

HOOKED = "; or after the model is built: "
"""What follows in a note is a statement that does it, with the model in `model`."""


def _hook(path: str, computed: str) -> str:
    return f"model.get_submodule({path!r}).register_forward_hook(lambda module, given, output: {computed})"


def _new_name(function: FunctionType, count: int) -> str:
    """A name that a function does not have."""
    known = {*function.__code__.co_varnames, *function.__code__.co_names, *function.__code__.co_freevars}
    names = (f"raw{number or ''}" for number in range(count, count + len(known) + 1))
    return next(name for name in names if name not in known)


__all__ = ["Source", "source"]
