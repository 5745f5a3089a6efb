"""Guard whatever model an optimizer is made for, in scripts that nobody edits."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from vdvae_patch.errors import PatchError
from vdvae_patch.guarding.guardable import Policy, inner
from vdvae_patch.guarding.watch import Guard, guard
from vdvae_patch.patching import Variant, is_patched, patch


class Everything:
    """As a context manager: the model whose parameters an optimizer is made for gets a guard.

    It is the smallest module that has all of them; where there is none, as of an encoder and a decoder that nothing
    holds together, the largest ones that have some.

    Args:
        out: folder; of several models, each has a folder of its own in it.
        variant: each model is patched with it after its first step, in which its heads are found.
        policy, clip, threshold: as of `guard`.

    Attributes:
        guards: those that were made.
    """

    def __init__(
        self,
        *,
        out: Path | str | None = None,
        policy: Policy = "skip",
        clip: float | Literal["auto"] | None = None,
        threshold: float | None = None,
        variant: str | None = None,
    ) -> None:
        self.out = None if out is None else Path(out).expanduser().absolute()  # scripts go elsewhere
        self.arguments: dict[str, Any] = {"policy": policy, "clip": clip, "threshold": threshold}
        self.variant = None if variant is None else Variant.parse(variant)
        self.guards: list[Guard] = []
        self._said: list[str] = []
        self._tried: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._init: Any = None
        self._hook: Any = None

    def __enter__(self) -> Everything:
        self._init = init = Optimizer.__init__

        @functools.wraps(init)
        def made(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            init(optimizer, *args, **kwargs)
            self._made(optimizer)

        Optimizer.__init__ = made  # type: ignore[method-assign, assignment]
        self._hook = register_optimizer_step_post_hook(self._stepped)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Optimizer.__init__ = self._init  # type: ignore[method-assign]
        self._hook.remove()
        for one in self.guards:
            if error is not None:
                one.explain(error)
            one.remove()

    def report(self) -> str:
        """Of all guards."""
        parts = [f"{_name(one.model)}: {one.report()}" for one in self.guards]
        return "\n".join([*self._said, *parts]) or "no optimizer was made, so that no model was guarded"

    def _made(self, optimizer: Optimizer) -> None:
        wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for one in self.guards:
            if wanted <= {id(p) for p in one.model.parameters()}:
                return
        model = model_of(wanted)
        if model is None:
            self._say(f"an {type(optimizer).__name__} was made for parameters of no module; it is not guarded")
            return
        out = self.out
        if out is not None and self.guards:
            out = out / f"model-{len(self.guards) + 1}"
        self.guards.append(guard(model, out=out, **self.arguments))

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.variant is None:
            return
        for one in self.guards:
            if one.model in self._tried or is_patched(one.model) or not one.steps:
                continue
            self._tried.add(one.model)
            try:
                heads = one.find_heads()
                if not heads:
                    raise PatchError("no Normal head was found in its first step")
                patch(one.model, self.variant, heads=heads)
                self._say(f"{_name(one.model)} was patched as {self.variant} after its first step")
            except PatchError as error:
                self._say(f"{_name(one.model)} was not patched: {error}")

    def _say(self, text: str) -> None:
        self._said.append(text)
        print(f"vdvae_patch guard: {text}", file=sys.stderr)


def model_of(parameters: Iterable[int]) -> nn.Module | None:
    """The smallest module that has all these parameters, by their id; or the largest that have some, and no others,
    in a dictionary; None if no module has any."""
    wanted = set(parameters)
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]  # isinstance asks the object
    owned = {id(m): {id(p) for p in m.parameters()} for m in modules}
    whole = [m for m in modules if wanted and wanted <= owned[id(m)]]
    if whole:
        # of a model and its only part, which have the same parameters, the model; but not what wraps it
        fewest = min(len(owned[id(m)]) for m in whole)
        same = [inner(m) for m in whole if len(owned[id(m)]) == fewest]
        return max(same, key=lambda m: sum(1 for _ in m.modules()))
    parts: list[nn.Module] = []
    left = set(wanted)
    for module in sorted(modules, key=lambda m: (-len(owned[id(m)]), sum(1 for _ in m.modules()))):
        own = owned[id(module)]
        if own and own <= left:
            parts.append(module)
            left -= own
    return nn.ModuleDict(_named(parts)) if parts else None


def _named(parts: list[nn.Module]) -> dict[str, nn.Module]:
    """By the variables that hold them where the optimizer is made, or by their class and number."""
    names: dict[int, str] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for name, value in (*frame.f_locals.items(), *frame.f_globals.items()):
            if isinstance(value, nn.Module) and "." not in name and frame.f_globals.get("__name__") != __name__:
                names.setdefault(id(value), name)
        frame = frame.f_back
    return {names.get(id(part), f"{type(part).__name__}{n}"): part for n, part in enumerate(parts)}


def _name(model: nn.Module) -> str:
    if isinstance(model, nn.ModuleDict):
        return " and ".join(model)
    return type(model).__name__
