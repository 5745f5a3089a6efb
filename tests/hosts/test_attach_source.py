"""A host's method that is compiled again does all that it did: decorators, globals, private names, super()."""

from __future__ import annotations

import functools
import importlib
import linecache
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import conventions, is_patched, patch, scales, scan
from vdvae_patch.attach import decorators, find
from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import Head
from vdvae_patch.patching import floors

X = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Base(nn.Module):
    """Limited, so that the expression is patched and the method compiled again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)
        self.seen: dict[str, Any] = {}

    def rest(self, mu: Tensor, sigma: Tensor) -> Tensor:
        self.seen |= {"sigma": sigma, "autocast": torch.is_autocast_enabled("cpu"), "grad": torch.is_grad_enabled()}
        z = mu + sigma * torch.randn_like(mu)
        return ((self.dec(z) - X) ** 2).sum() + 0.5 * (mu**2 + sigma**2 - 2 * torch.log(sigma) - 1).sum()

    def raw(self, x: Tensor) -> Tensor:
        return self.enc(x)[:, 4:]


def sigma_of(model: Base) -> Tensor:
    model(X)
    found: Tensor = model.seen["sigma"]
    return found.float()


def patched(model: Base, scale: str = "upbounded", convention: float = 1.0) -> Base:
    """Patched by its scan, and σ is what was promised."""
    heads = scan(model, X)
    assert [h.found.patch_at for h in heads] == ["call"]
    patch(model, posterior=scale, heads=heads, paper=True)
    expected = scales.get(scale).sigma(model.raw(X))
    torch.testing.assert_close(sigma_of(model), expected.float(), rtol=2e-2, atol=2e-2)
    return model


# --- decorators -------------------------------------------------------------------------------------------------------

calls: list[str] = []


def counting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that forgets functools.wraps, as diffusers' hook for offloading does."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(function.__name__)
        return function(self, *args, **kwargs)

    return wrapper


def named(label: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(label)
            return function(*args, **kwargs)

        return wrapper

    return decorate


class Autocast(Base):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(0.5 * (2 * lv)).clamp(1e-3, 50.0))


class NoGrad(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class Inference(Base):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class Several(Base):
    @counting
    @named("outer")
    @torch.autocast("cpu", dtype=torch.bfloat16)
    @named("inner")
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


@named("helper")
def limited(lv: Tensor) -> Tensor:
    return torch.exp(lv).clamp(1e-3, 50.0)


class DecoratedHelper(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, limited(lv))


class DecoratedMethod(Base):
    @counting
    def scale(self, lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(1e-3, 50.0)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, self.scale(lv))


class StaticHelper(Base):
    @staticmethod
    @named("static")
    def scale(lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(1e-3, 50.0)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, self.scale(lv))


@pytest.mark.parametrize(
    ("cls", "autocast", "grad", "runs"),
    [
        (Autocast, True, True, []),
        (NoGrad, False, False, []),
        (Inference, False, False, []),
        (Several, True, True, ["forward", "outer", "inner"]),
        (DecoratedHelper, False, True, ["helper"]),
        (DecoratedMethod, False, True, ["scale"]),
        (StaticHelper, False, True, ["static"]),
    ],
)
def test_a_method_keeps_its_decorators(cls: type[Base], autocast: bool, grad: bool, runs: list[str]) -> None:
    model = patched(cls())
    calls.clear()
    model(X)
    assert (model.seen["autocast"], model.seen["grad"]) == (autocast, grad)
    assert calls == runs


def keeping(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the function where nobody can exchange it."""

    class Keeper:
        def __init__(self) -> None:
            self.function = function

    keeper = Keeper()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return keeper.function(*args, **kwargs)

    return wrapper


class Kept(Base):
    @keeping
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


def test_a_decorator_that_cannot_be_kept_is_refused_by_name() -> None:
    model = Kept()
    with pytest.raises(PatchError, match=r"Kept\.forward is wrapped by keeping\.<locals>\.wrapper.*would be lost"):
        patch(model, posterior="upbounded", heads=scan(model, X), paper=True)
    assert not is_patched(model)


def test_a_wrappers_state_is_shared_with_the_copy() -> None:
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            nonlocal count
            count += 1
            return function(*args)

        return wrapper

    @counted
    def f(x: int) -> int:
        return x

    def g(x: int) -> int:
        return 2 * x

    again = decorators.rewrapped(f, g, name="f")  # type: ignore[arg-type]
    assert (again(1), f(1), count) == (2, 1, 2)


# --- globals ----------------------------------------------------------------------------------------------------------

LOWEST = 1e-3
history: list[int] = []
steps = 0


class ReadsGlobals(Base):
    def forward(self, x: Tensor) -> Tensor:
        global steps
        steps += 1
        mu, lv = self.enc(x).chunk(2, 1)
        self.factor = FACTOR
        return self.rest(mu, torch.exp(lv).clamp(LOWEST, 50.0))


FACTOR = 1


def test_later_changes_of_the_modules_globals_are_seen_and_what_is_written_there_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = patched(ReadsGlobals())
    before = steps
    model(X)
    assert steps == before + 1
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2)
    model(X)
    assert model.factor == 2


# --- names with two underscores, base classes -------------------------------------------------------------------------


class Private(Base):
    def __init__(self) -> None:
        super().__init__()
        self.__latents = 4

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).split(self.__latents, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class _Underscored(Base):
    def __init__(self) -> None:
        super().__init__()
        self.__latents = 4

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).split(self.__latents, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class PrivateMethod(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, self.__scale(lv))

    def __scale(self, lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(1e-3, 50.0)


class Outer:
    class Nested(Base):
        def __init__(self) -> None:
            super().__init__()
            self.__latents = 4

        def forward(self, x: Tensor) -> Tensor:
            mu, lv = self.enc(x).split(self.__latents, 1)
            return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class Derived(Private):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Mixin:
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)  # type: ignore[misc]


class ByMixin(Mixin, Derived):
    pass


class ExplicitSuper(Private):
    def forward(self, x: Tensor) -> Tensor:
        return super(ExplicitSuper, self).forward(x)  # noqa: UP008


def _local() -> type[Base]:
    class Local(Base):
        def __init__(self) -> None:
            super().__init__()
            self.__latents = 4

        def forward(self, x: Tensor) -> Tensor:
            mu, lv = self.enc(x).split(self.__latents, 1)
            return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))

    return Local


@pytest.mark.parametrize(
    "cls", [Private, _Underscored, PrivateMethod, Outer.Nested, Derived, ByMixin, ExplicitSuper, _local()]
)
def test_private_names_and_base_classes_mean_what_they_did(cls: type[Base]) -> None:
    model = cls()
    torch.manual_seed(1)
    before = model(X)
    patched(model)
    from vdvae_patch import unpatch

    unpatch(model)
    torch.manual_seed(1)
    assert torch.equal(model(X), before)


class Settings(Base):
    LIMIT: ClassVar[float] = 50.0

    def forward(self, x: Tensor) -> Tensor:
        """Documented."""
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, __class__.LIMIT))  # type: ignore[name-defined]


def test_the_hosts_class_is_found_from_within() -> None:
    assert patched(Settings()).forward.__doc__ == "Documented."


# --- a name that is local and global, as in a notebook ----------------------------------------------------------------

logvar = mu = sigma = x = z = None
ln = None


class Shadowed(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.enc(x).chunk(2, 1)
        sigma = logvar.exp().clamp(1e-3, 50.0)
        return self.rest(mu, sigma)


class ShadowedInLambda(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.enc(x).chunk(2, 1)
        scale = lambda ln: ln.exp().clamp(1e-3, 50.0)  # noqa: E731
        return self.rest(mu, scale(logvar))


@pytest.mark.parametrize("cls", [Shadowed, ShadowedInLambda])
def test_a_variable_with_the_name_of_a_global_is_a_variable(cls: type[Base]) -> None:
    patched(cls())


CELL = """
import torch
from torch import nn
import torch.nn.functional as F
from vdvae_test_notebook_base import Base

logvar = None

def to_sigma(logvar):
    return torch.exp(logvar).clamp(1e-3, 50.0)

class VAE(Base):
    def forward(self, x):
        mu, logvar = self.enc(x).chunk(2, 1)
        return self.rest(mu, to_sigma(logvar))
"""


def test_helper_functions_of_a_notebooks_cell_are_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's module has no file, and each cell a name of its own, under which `linecache` has the text."""
    notebook, base = types.ModuleType("notebook_main"), types.ModuleType("vdvae_test_notebook_base")
    base.Base = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "notebook_main", notebook)
    monkeypatch.setitem(sys.modules, "vdvae_test_notebook_base", base)
    name = "<ipython-input-1-0123456789ab>"
    monkeypatch.setitem(linecache.cache, name, (len(CELL), None, CELL.splitlines(keepends=True), name))
    exec(compile(CELL, name, "exec"), notebook.__dict__)
    patched(notebook.VAE())


# --- parameters -------------------------------------------------------------------------------------------------------


class Part(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.full((4,), value))


class TwoOfOneName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.q, self.p = nn.Linear(8, 4), Part(1.0), Part(2.0)

    def forward(self, x: Tensor) -> Tensor:
        mu = self.enc(x)
        sq, sp = self.q.log_sigma.exp(), self.p.log_sigma.exp()
        self.sigmas = sq, sp
        kl = self.p.log_sigma - self.q.log_sigma + (sq**2 + mu**2) / (2 * sp**2)
        return (mu + sq * torch.randn_like(mu)).sum() + kl.sum()


class OneOfAnother(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.extra = nn.Linear(8, 4), Part(3.0)
        self.log_sigma = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        mu = self.enc(x)
        sigma = self.log_sigma.exp()
        self.sigma, self.other = sigma, self.extra.log_sigma + 0
        return (mu + sigma * torch.randn_like(mu)).sum() + 0.5 * (mu**2 + sigma**2 - 2 * self.log_sigma - 1).sum()


def test_parameters_of_one_name_in_two_modules_are_told_apart() -> None:
    model = TwoOfOneName()
    patch(model, "upbounded/downbounded(0.1)", heads=scan(model, X), paper=True)
    model(X)
    for sigma, scale, p in zip(model.sigmas, ("upbounded", "downbounded(0.1)"), (1.0, 2.0), strict=True):
        torch.testing.assert_close(sigma, scales.get(scale).sigma(torch.full((4,), p)))


def test_another_modules_parameter_of_the_same_name_is_left_alone() -> None:
    model = OneOfAnother()
    patch(model, posterior="upbounded", heads=scan(model, X), paper=True)
    model(X)
    torch.testing.assert_close(model.sigma, scales.get("upbounded").sigma(torch.full((4,), 2.0)))
    assert torch.equal(model.other, torch.full((4,), 3.0))


# --- ways to call -----------------------------------------------------------------------------------------------------


class Limit:
    """An object that is called, and has numbers of its own."""

    def __init__(self, low: float) -> None:
        self.low = low

    def __call__(self, lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(self.low, 50.0)


class CalledObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.limit = Limit(1e-3)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, self.limit(lv))


@dataclass
class Parameters:
    mu: Tensor
    lv: Tensor

    def __post_init__(self) -> None:
        self.sigma = torch.exp(self.lv).clamp(1e-3, 50.0)


class DataClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        q = Parameters(*self.enc(x).chunk(2, 1))
        return self.rest(q.mu, q.sigma)


class WithStatic:
    @staticmethod
    def limited(lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(1e-3, 50.0)

    @classmethod
    def by_class(cls, lv: Tensor) -> Tensor:
        return cls.limited(lv)


class StaticOfAnother(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, WithStatic.by_class(lv))


def _written_elsewhere(self: Base, x: Tensor) -> Tensor:
    mu, lv = self.enc(x).chunk(2, 1)
    return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


class Alias(Base):
    forward = _written_elsewhere


class Lambda(Base):
    forward = lambda self, x: self.rest(self.enc(x)[:, :4], torch.exp(self.enc(x)[:, 4:]).clamp(1e-3, 50.0))  # noqa: E731


class CompiledHelper(Base):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))


@pytest.mark.parametrize("cls", [CalledObject, DataClass, StaticOfAnother, Alias, Lambda])
def test_the_function_is_found_however_it_is_called(cls: type[Base]) -> None:
    patched(cls())


@functools.lru_cache
def cached(lv: Tensor) -> Tensor:
    return torch.exp(lv).clamp(1e-3, 50.0)


class CachedHelper(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, cached(lv))


def test_a_cached_helper_is_refused_by_name() -> None:
    model = CachedHelper()
    with pytest.raises(PatchError, match="cached is wrapped by _lru_cache_wrapper"):
        patch(model, posterior="upbounded", heads=scan(model, X), paper=True)


def test_a_scripted_model_is_refused_by_name() -> None:
    from vdvae_patch.heads import Head

    model = torch.jit.script(nn.Sequential(nn.Linear(8, 8)))
    with pytest.raises(PatchError, match=r"TorchScript.*patch the model first"):
        patch(model, posterior="upbounded", heads=[Head("0", "posterior", 4, 8)], paper=True)
    with pytest.raises(PatchError, match=r"TorchScript.*patch the model first"):
        patch(nn.Sequential(model), posterior="upbounded", heads=[Head("0.0", "posterior", 4, 8)], paper=True)


# --- ordinary code that was refused, or patched where it must not be --------------------------------------------------


class NamesItself(Base):
    made: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        NamesItself.made += 1
        mu, lv = self.enc(x).chunk(2, 1)
        return super(NamesItself, self).rest(mu, torch.exp(lv).clamp(1e-3, 50.0))  # noqa: UP008


def limited_again(lv: Tensor, times: int = 1) -> Tensor:
    return torch.exp(lv).clamp(1e-3, 50.0) if times == 0 else limited_again(lv, 0)


class SeveralLines(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        sigma = (
            torch.exp(
                lv,
            )
            .clamp(
                1e-3, 50.0
            )
        )  # fmt: skip
        return self.rest(mu, sigma)


def _made_in_a_function() -> type[Base]:
    def helper(lv: Tensor) -> Tensor:
        return torch.exp(lv).clamp(1e-3, 50.0)

    class InFunction(Base):
        def forward(self, x: Tensor) -> Tensor:
            mu, lv = self.enc(x).chunk(2, 1)
            return self.rest(mu, helper(lv))

    return InFunction


class Annotated(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        scale: Callable[[Tensor], Tensor] = lambda v: torch.exp(v).clamp(1e-3, 50.0)  # noqa: E731
        return self.rest(mu, scale(lv))


@pytest.mark.parametrize("cls", [NamesItself, SeveralLines, _made_in_a_function(), Annotated])
def test_ordinary_code_is_patched(cls: type[Base]) -> None:
    patched(cls())


class Temperature(Base):
    def forward(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return self.rest(mu, torch.clamp(torch.exp(lv) * temperature, 1e-3, 50.0))


class InABranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        if self.training:  # noqa: SIM108
            h = torch.exp(lv)
        else:
            h = torch.exp(lv - 3)
        return self.rest(mu, h.clamp(1e-3, 50.0))


def both(lv: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(lv).clamp(1e-3, 50.0), lv


class Several2(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        h = 0.5 * (2 * lv)
        return self.rest(mu, both(h)[0])


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Temperature, r"also depends on 'temperature', an argument"),
        (InABranch, "read in a branch or a loop"),
        (Several2, "returns several values"),
    ],
)
def test_what_would_be_lost_is_refused_with_the_reason(cls: type[Base], reason: str) -> None:
    model = cls()
    with pytest.raises(PatchError, match=reason):
        patch(model, posterior="upbounded", heads=scan(model, X), paper=True)
    assert not is_patched(model)


class Loop(Base):
    """One expression computes the scales of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        loss = torch.zeros(())
        for layer in self.layers:
            mu, lv = layer(x).chunk(2, 1)
            loss = loss + self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))
        return loss


def test_an_expression_of_several_heads_cannot_be_patched_for_one() -> None:
    model = Loop()
    heads = scan(model, X)
    assert len(heads) == 3
    with pytest.raises(SharedScaleError, match=r"computes the scales of layers\.0.* and of layers\.1.*left as it is"):
        patch(model, posterior="upbounded", heads=heads[:1], paper=True)
    patch(model, posterior="upbounded", heads=heads, paper=True)


def test_a_penalty_on_a_parameter_is_of_the_parameter() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.log_sigma = nn.Linear(8, 4), nn.Parameter(torch.full((4,), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            mu = self.enc(x)
            self.sigma, self.penalty = self.log_sigma.exp(), (self.log_sigma**2).sum()
            kl = 0.5 * (mu**2 + self.sigma**2 - 2 * self.log_sigma - 1).sum()
            return (mu + self.sigma * torch.randn_like(mu)).sum() + kl + 1e-2 * self.penalty

    model = Own()
    try:
        patch(model, posterior="upbounded", heads=scan(model, X), paper=True)
    except PatchError:
        return  # said, and nothing is changed
    model(X)
    assert float(model.penalty) == 16


def test_a_file_that_was_edited_after_its_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import torch\nfrom vdvae_test_edited_base import Base\n\n\nclass VAE(Base):\n    def forward(self, x):\n"
        "        mu, lv = self.enc(x).chunk(2, 1)\n"
        "        loss = 1.0 * self.rest(mu, torch.exp(lv).clamp(1e-3, 50.0))\n        return loss\n"
    )
    base = types.ModuleType("vdvae_test_edited_base")
    base.Base = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vdvae_test_edited_base", base)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "vdvae_test_edited.py").write_text(text)
    module = importlib.import_module("vdvae_test_edited")
    monkeypatch.setitem(sys.modules, "vdvae_test_edited", module)
    patched(module.VAE())
    (tmp_path / "vdvae_test_edited.py").write_text(text.replace("1.0 *", "9.00 *"))
    linecache.checkcache()
    model = module.VAE()
    with pytest.raises(PatchError, match="edited after it was imported"):
        patch(model, posterior="upbounded", heads=scan(model, X), paper=True)


def repeat(x: Tensor) -> Tensor:
    return x


class Calls(Base):
    def forward(self, x: Tensor) -> Tensor:
        first = repeat(self.enc(x))
        return self.repeat(first) + repeat(x) + torch.exp(x)

    def repeat(self, x: Tensor) -> Tensor:
        return x


def test_calls_are_found_by_the_plain_name_alone() -> None:
    lines = Path(__file__).read_text().splitlines()
    written = [lines[line - 1][start:end] for line, _, start, end in find.calls(Calls, "forward", "repeat")]
    assert sorted(written) == ["repeat(self.enc(x))", "repeat(x)"]
    with pytest.raises(PatchError, match="abs"):
        find.calls(Calls, "forward", "abs")


def test_a_host_that_bounds_sigma_is_told_if_the_scale_does_not() -> None:
    convention = conventions.get("softplus(floor=0.01)")
    head = Head("enc", "posterior", convention=convention)
    (line,) = floors.lost([(head, scales.get("explin"))], stable=False)
    assert "the host keeps σ at 0.01 or above, explin does not, and what computes it there stays" in line
    (found,) = scan(Private(), X)
    (other,) = floors.lost([(found, scales.get("explin"))], stable=False)
    assert "what computes it there stays" not in other
    assert "if the host takes log σ or 1/σ² itself" in other
    assert not list(floors.lost([(head, scales.get("downbounded(0.01)")), (head, None)], stable=False))
    assert not list(floors.lost([(Head("enc", "posterior"), scales.get("explin"))], stable=False))


def test_a_warning_that_is_made_an_error_leaves_the_model_as_it_was() -> None:
    model = Private()
    heads = scan(model, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="the host keeps σ at"):
            patch(model, posterior="explin", heads=heads, paper=True)
    assert not is_patched(model)
