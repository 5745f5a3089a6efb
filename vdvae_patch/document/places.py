"""Places in a host's source as data: by the text of their expressions, as a file of `scan --write` names them.

A text is compared with the source and never run. A call on the way to an expression has the module and the name of what
it calls; these must be of code that the model has loaded and refers to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.sites import BESIDE, ActivationSite, LogSite, NormalSite, Site, TermSite
from vdvae_patch.attach.source import method_function
from vdvae_patch.attach.written import Call, Places, Text, entered, text_at
from vdvae_patch.conventions import Convention
from vdvae_patch.document.fields import Fields, of_kind
from vdvae_patch.document.lines import lines_of
from vdvae_patch.document.values import convention_data, convention_of
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange

_DIMENSIONS, _CHANNELS = 32, 2**24


class PlaceWriter:
    """From the places of a model to data."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self.lines = lines_of(model)
        """Of the files of the model's own classes."""

    def site(self, site: Site | ActivationSite) -> dict[str, Any]:
        """An expression, or an activation; raises `PatchError` if its text cannot be read."""
        if isinstance(site, ActivationSite):
            return {"activation": site.path, "rest": _rest(site), **_beside(site)}
        if site.in_call:  # a patch is of the model, and holds no function beside it
            found: dict[str, Any] = {"beside": True}
            return found if site.channels is None else found | {"channels": channels_data(site.channels)}
        calls, function = self._followed(site)
        data: dict[str, Any] = {
            "owner": site.owner,
            "method": site.method,
            "calls": calls,
            "first": _written(function, site.first),
            "last": _written(function, site.last),
            "operand": site.operand,
            "rest": _rest(site),
            **_beside(site),
        }
        if site.also:
            data["also"] = [[_written(function, span), operand] for span, operand in site.also]
        if site.drops:
            data["drops"] = [_written(function, span) for span in site.drops]
        if site.parameter:
            data["parameter"] = site.parameter
        if site.inplace:
            data["inplace"] = True
        if site.channels is not None:
            data["channels"] = channels_data(site.channels)
        if site.reads is not None:
            data["reads"] = convention_data(site.reads)
        return data

    def normal(self, site: NormalSite) -> dict[str, Any]:
        """The place of a `torch.distributions.Normal`."""
        calls, function = self._followed(site)
        return {"owner": site.owner, "method": site.method, "calls": calls, "text": _written(function, site.span)}

    def log(self, site: LogSite) -> dict[str, Any]:
        """The place of a σ that carries its logarithm."""
        return self._between(site) | {
            "operand": site.operand,
            "convention": convention_data(site.convention),
            "parameter": site.parameter,
        }

    def term(self, site: TermSite) -> dict[str, Any]:
        """The place of a reconstruction term."""
        found = self._between(site)
        if site.weights is not None:
            found["weights"] = _written(self._followed(site)[1], site.weights)
        return found

    def _between(self, site: LogSite | TermSite) -> dict[str, Any]:
        calls, function = self._followed(site)
        return {
            "owner": site.owner,
            "method": site.method,
            "calls": calls,
            "first": _written(function, site.first),
            "last": _written(function, site.last),
        }

    def _followed(self, site: Site | NormalSite | LogSite | TermSite) -> tuple[list[Any], FunctionType]:
        instance: Any = self._modules[site.owner]
        function = method_function(host_class(instance), site.method)
        calls = []
        for step in site.calls:
            calls.append([_written(function, step.span), step.module, step.qualname])
            function, instance = entered(function, step, instance)
        return calls, function


class PlaceReader:
    """From data to the places of a model; raises `PatchError` where the model has no such text."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._places = Places(model)

    def site(self, data: object, where: str) -> Site | ActivationSite:
        """What `PlaceWriter.site` wrote."""
        if isinstance(data, dict) and "activation" in data:
            fields = Fields(data, where, ("activation", "rest", "beside"))
            return ActivationSite(fields.get("activation", str), _read_rest(fields), _read_beside(fields))
        if isinstance(data, dict) and data.get("beside") is True:
            marked = Fields(data, where, ("beside", "channels"))
            channels = marked.any("channels")
            return (
                BESIDE if channels is None else replace(BESIDE, channels=channels_of(channels, marked.at("channels")))
            )
        known = ("owner", "method", "calls", "first", "last", "operand", "rest")
        fields = Fields(data, where, (*known, "also", "drops", "parameter", "inplace", "channels", "beside", "reads"))
        more: dict[str, Any] = {
            "parameter": _attribute(fields),
            "inplace": fields.get("inplace", bool, False),
        }
        operand = _operand(fields)
        if fields.any("channels") is not None:
            more["channels"] = channels_of(fields.any("channels"), fields.at("channels"))
        if fields.any("reads") is not None:
            more["reads"] = convention_of(fields.any("reads"), fields.at("reads"))
        return self._places.site(
            fields.get("owner", str),
            self._method(fields),
            first=_text(fields.any("first"), fields.at("first")),
            last=_text(fields.any("last"), fields.at("last")),
            rest=_read_rest(fields),
            beside=_read_beside(fields),
            operand=operand,
            calls=self._calls(fields),
            also=[_also(item, at) for item, at in fields.items("also", [])],
            drops=[_text(item, at) for item, at in fields.items("drops", [])],
            **more,
        )

    def normal(self, data: object, where: str) -> NormalSite | LogSite:
        """What `PlaceWriter.normal` wrote, or `PlaceWriter.log`."""
        if isinstance(data, dict) and "convention" in data:
            return self._log(data, where)
        fields = Fields(data, where, ("owner", "method", "calls", "text"))
        text = _text(fields.any("text"), fields.at("text"))
        return self._places.normal(fields.get("owner", str), self._method(fields), text, self._calls(fields))

    def _log(self, data: dict[str, Any], where: str) -> LogSite:
        known = ("owner", "method", "calls", "first", "last", "operand", "convention", "parameter")
        fields = Fields(data, where, known)
        return self._places.log(
            fields.get("owner", str),
            self._method(fields),
            first=_text(fields.any("first"), fields.at("first")),
            last=_text(fields.any("last"), fields.at("last")),
            convention=convention_of(fields.any("convention"), fields.at("convention")),
            operand=_operand(fields),
            calls=self._calls(fields),
            parameter=_attribute(fields),
        )

    def term(self, data: object, where: str, reader: Callable[..., Any]) -> TermSite:
        """What `PlaceWriter.term` wrote, with what shall stand there."""
        fields = Fields(data, where, ("owner", "method", "calls", "first", "last", "weights"))
        weights = fields.any("weights")
        return self._places.term(
            fields.get("owner", str),
            self._method(fields),
            first=_text(fields.any("first"), fields.at("first")),
            last=_text(fields.any("last"), fields.at("last")),
            reader=reader,
            calls=self._calls(fields),
            weights=None if weights is None else _text(weights, fields.at("weights")),
        )

    def _method(self, fields: Fields) -> str:
        owner, method = fields.get("owner", str), fields.get("method", str)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        if owner not in modules:
            raise PatchError(f"{fields.at('owner')}: the model has no module {owner!r}")
        if not hasattr(host_class(modules[owner]), method):
            raise PatchError(f"{fields.at('method')}: {host_class(modules[owner]).__name__} has no method {method!r}")
        return method

    def _calls(self, fields: Fields) -> list[Call]:
        calls: list[Call] = []
        for item, at in fields.items("calls", []):
            parts = of_kind(item, list, at)
            if len(parts) != 3:
                raise PatchError(f"{at}: a call is its text, a module and a name, not {len(parts)} parts")
            module, qualname = of_kind(parts[1], str, at), of_kind(parts[2], str, at)
            self._refuse_foreign(module, qualname, [module for _, module, _ in calls], at)
            calls.append((_text(parts[0], at), module, qualname))
        return calls

    def _refuse_foreign(self, module: str, qualname: str, entered_before: Sequence[str], where: str) -> None:
        """A name in a file must not lead to code that the model has nothing to do with, nor have it imported."""
        own = {cls.__module__ for part in self._model.modules() for cls in type(part).__mro__}
        near = {*own, *entered_before}
        referred = {name for source in near for name in _referred(sys.modules.get(source))}
        is_known = module in near or (module in referred and module.split(".")[0] not in sys.stdlib_module_names)
        if module not in sys.modules or not is_known:
            raise PatchError(
                f"{where}: it leads to {module}:{qualname}, which is no code that the model has loaded and refers to; "
                "scan the model and patch it again"
            )


def _referred(module: ModuleType | None) -> set[str]:
    """The modules whose functions and classes a module has names for, and those that it imports."""
    found: set[str] = set()
    for value in list(vars(module).values()) if module is not None else ():
        if isinstance(value, ModuleType):
            found.add(value.__name__)
        elif isinstance(value, FunctionType | type):
            found.add(value.__module__)
    return found


def channels_data(channels: ChannelRange) -> dict[str, int | None]:
    """A range of channels, for `channels_of`."""
    return {"dim": channels.dim, "start": channels.start, "stop": channels.stop, "step": channels.step}


def channels_of(data: object, where: str) -> ChannelRange:
    """The range of channels of data."""
    fields = Fields(data, where, ("dim", "start", "stop", "step"))
    stop = None if fields.any("stop") is None else fields.get("stop", int)
    found = ChannelRange(fields.get("dim", int), fields.get("start", int), stop, fields.get("step", int))
    if not -_DIMENSIONS <= found.dim < _DIMENSIONS or max(found.start, stop or 0, found.step) > _CHANNELS:
        raise PatchError(f"{where}: no module has such channels: {found} of dimension {found.dim}")
    return found


def _written(function: FunctionType, span: tuple[int, int, int, int]) -> str | list[str | int]:
    """What stands at a place, for `_text`: of a text that stands there several times, which one it is."""
    text = text_at(function, span)
    return text if isinstance(text, str) else list(text)


def _text(data: object, where: str) -> Text:
    if isinstance(data, str):
        return data
    pair = of_kind(data, list, where)
    if len(pair) != 2 or of_kind(pair[1], int, where) < 0:
        raise PatchError(f"{where}: a text, or a text and which of several alike it is")
    return of_kind(pair[0], str, where), pair[1]


def _also(data: object, where: str) -> tuple[Text, int]:
    pair = of_kind(data, list, where)
    if len(pair) != 2:
        raise PatchError(f"{where}: a text and its operand, not {len(pair)} parts")
    return _text(pair[0], where), of_kind(pair[1], int, where)


def _operand(fields: Fields) -> int:
    operand = fields.get("operand", int)
    if not -64 <= operand < 64:
        raise PatchError(f"{fields.at('operand')}: {operand} is no operand")
    return operand


def _attribute(fields: Fields) -> str:
    name = fields.get("parameter", str, "")
    if name and not all(part.isidentifier() for part in name.split(".")):
        raise PatchError(f"{fields.at('parameter')}: {name!r} is no attribute")
    return name


def _rest(site: Site | ActivationSite) -> Any:
    return None if site.rest is None else convention_data(site.rest)


def _read_rest(fields: Fields) -> Convention | None:
    rest = fields.any("rest")
    return None if rest is None else convention_of(rest, fields.at("rest"))


def _beside(site: Site | ActivationSite) -> dict[str, Any]:
    return {} if site.beside is None else {"beside": channels_data(site.beside)}


def _read_beside(fields: Fields) -> ChannelRange | None:
    channels = fields.any("beside")
    return None if channels is None else channels_of(channels, fields.at("beside"))
