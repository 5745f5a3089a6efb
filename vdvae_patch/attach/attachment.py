"""Attachments: the ways in which a patch reaches a head, with one protocol.

| attachment | what the method does instead |
|---|---|
| `OutputAttachment` | returns the host's output with the raw channels replaced |
| `ActivationAttachment` | computes the new scale in the place of a Softplus, an Exp, a Hardtanh |
| `MethodAttachment` | is a function of a patch file |
| `ReboundAttachment` | is the host's method with some global functions bound to stable ones |
| `ExpressionAttachment` | is the host's method with some expressions replaced, torch's Normal among them |

An attachment only holds data, apart from a function that it compiles: it refers to no module, so it is shared by
copies of a model and pickles with it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vdvae_patch.attach import decorators
from vdvae_patch.attach.compiled import rebound
from vdvae_patch.attach.graft import graft, host_class, is_grafted, is_stand_in, stands_in, take_out
from vdvae_patch.attach.readers import PartReader, Reader, replace_raw
from vdvae_patch.attach.recompile import Edit, compiled
from vdvae_patch.attach.sites import ActivationSite
from vdvae_patch.attach.source import method_function
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import CallSite, Head, Rebinding, Role
from vdvae_patch.scales import Scale


class Attachment:
    """Stands in for one method of one module, between `install` and `remove`.

    Attributes:
        path: the module's name in the patched model.
        method: the method's name.
        patch: the number of the patch that it belongs to; every copy of the model has the same.
    """

    def __init__(self, path: str, method: str) -> None:
        self.path = path
        self.method = method
        self.patch = ""

    def install(self, module: nn.Module) -> None:
        """Put this in the place of the method; raises `PatchError` if that cannot be done, and changes nothing then."""
        self.prepare(module)
        graft(module, self.method, self)

    def remove(self, module: nn.Module) -> None:
        """Give the method back to the host."""
        take_out(module, self.method)

    def intact(self, module: nn.Module) -> str:
        """Empty if a call of the method still comes by here; else what is in the way."""
        name = f"{self.path or 'the model'}.{self.method}"
        if stands_in(module).get(self.method) is not self or not is_grafted(module, self.method):
            return f"{name} is no longer what the patch put there: its class is {type(module).__name__} now"
        over = vars(module).get(self.method)
        if over is not None and not _leads_to_patch(over):
            by = decorators.name_of(over)
            return f"{name} of this instance was replaced by {by}, which does not call what the patch put there"
        return ""

    def prepare(self, module: nn.Module) -> None:
        """Compile what is to be compiled; raises `PatchError` if the host is not what the patch was made for."""

    def restore(self, module: nn.Module) -> None:
        """After the module came out of a pickle."""
        # it may look up a function that the module keeps, and gets later; `run` prepares it then
        with contextlib.suppress(PatchError):
            self.prepare(module)

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the method returns now; `host` is the host's own, which takes the module first."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Attachment, ...]:
        """This, and what it runs in the place of the host's own method."""
        return (self,)

    def __copy__(self) -> Attachment:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self  # it changes no more once it is installed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.path or 'the model'}.{self.method}>"


def _leads_to_patch(function: Any) -> bool:
    """Whether a replacement put on an instance calls the patched method, as far as it shows: by what it wraps."""
    return any(is_stand_in(decorators.plain(layer)) for layer in _layers(function))


def _layers(function: Any) -> Iterator[Any]:
    yield function
    yield from decorators.chain(function)
    try:
        yield inspect.unwrap(function, stop=lambda f: is_stand_in(decorators.plain(f)))
    except ValueError:
        return


_observers: list[Callable[[nn.Module, Any], None]] = []


@contextmanager
def outputs_observed(observe: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Call `observe(module, output)` with what patched modules return before it is replaced, as a hook cannot.

    It is called in every thread that runs a patched module.
    """
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


class OutputAttachment(Attachment):
    """Replaces the raw channels in what a module returns by the pre-images of their new scales.

    Args:
        inside: what stands in for the module's own `forward`, as where a layer whose weights are drawn has a head in
            its arithmetic, and another one at its output.
    """

    inside: Attachment | None = None

    def __init__(self, path: str, heads: Sequence[tuple[Head, Scale]], inside: Attachment | None = None) -> None:
        super().__init__(path, "forward")
        self.heads = tuple(heads)
        self.inside = inside

    @property
    def parts(self) -> tuple[Attachment, ...]:
        return (self,) if self.inside is None else (self, *self.inside.parts)

    def prepare(self, module: nn.Module) -> None:
        if self.inside is not None:
            self.inside.prepare(module)

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Tensor:
        if any(getattr(value, "is_quantized", False) is True for value in args):
            name = self.path or "the model"
            raise PatchError(
                f"{name} is given quantized values and was not quantized itself, since it is patched; quantize the "
                "model first, and then patch it"
            )
        inside = self.inside
        output: Tensor = host(module, *args, **kwargs) if inside is None else inside.run(module, host, *args, **kwargs)
        for observe in _observers:
            observe(module, output)
        emitter = host_class(module)
        for head, scale in self.heads:
            output = replace_raw(output, head, scale, emitter)
        return output


class ActivationAttachment(Attachment):
    """Stands in for the forward of an activation, whose input is the raw parameter."""

    def __init__(self, site: ActivationSite, scale: Scale) -> None:
        super().__init__(site.path, "forward")
        self.read = Reader(scale, site.rest)
        self.part = None if site.beside is None else PartReader(self.read, site.beside)

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Tensor:
        (p,) = (*args, *kwargs.values())
        if self.part is not None:
            raw = self.part.raw(p)
            return self.part(raw, host(module, *args, **kwargs))
        new: Tensor = self.read(p)
        return new


class MethodAttachment(Attachment):
    """Runs a function of a patch file in the place of a host's method that reads raw parameters."""

    def __init__(self, site: CallSite, scales: Mapping[Role, Scale]) -> None:
        super().__init__(site.owner, site.method)
        self.function = site.function
        self.scales = dict(scales)
        self.yields = site.yields

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self.function(module, self.scales, *args, **kwargs)


class _Compiled(Attachment):
    """Runs a function that is made of the host's source."""

    def __init__(self, path: str, method: str) -> None:
        super().__init__(path, method)
        self.function: Callable[..., Any] | None = None

    def prepare(self, module: nn.Module) -> None:
        self.function = self._compile(host_class(module), module)

    def _compile(self, host: type, module: nn.Module) -> Callable[..., Any]:
        raise NotImplementedError

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            self.prepare(module)
            assert self.function is not None
        return self.function(module, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "function": None}


class ReboundAttachment(_Compiled):
    """Runs the host's own method, as it is written, with some of its global names bound to ours."""

    def __init__(self, path: str, method: str, rebindings: Sequence[Rebinding]) -> None:
        super().__init__(path, method)
        self.names = {r.name: r.function for r in rebindings}

    def _compile(self, host: type, module: nn.Module) -> Callable[..., Any]:
        written = rebound(method_function(host, self.method), self.names)
        new: Callable[..., Any] = decorators.rewrapped(
            inspect.getattr_static(host, self.method), written, name=written.__name__
        )
        return new


class ExpressionAttachment(_Compiled):
    """Runs a method of the host compiled again, with the expressions of some sites replaced.

    Args:
        fixed: its arguments that have one value in all calls, see `fixed_everywhere`.
    """

    fixed: frozenset[str] = frozenset()

    def __init__(self, path: str, method: str, edits: Sequence[Edit], fixed: frozenset[str] = frozenset()) -> None:
        super().__init__(path, method)
        self.edits = tuple(edits)
        self.fixed = fixed

    def _compile(self, host: type, module: nn.Module) -> Callable[..., Any]:
        return compiled(host, self.method, self.path, self.edits, module, self.fixed)
