"""The kernels of `fused` beside the eager form, in Triton's interpreter; nothing of them has run on a GPU here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vdvae_patch import fused, normal, scales

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed: pip install triton"
)

SPECS = [None, "exp", "explin", "upbounded", "upbounded(omega=3)", "constant", "constant(0.25)"]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels on, in the interpreter, which Triton chooses where a kernel is defined."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    fused.why_not.cache_clear()
    with fused.use(True):
        yield
    fused.why_not.cache_clear()


def raw_values(spread: float = 3.0, shape: tuple[int, ...] = (3, 4, 5, 6)) -> list[Tensor]:
    """Mean and raw value of both, as slices of channels of wider tensors, and noise."""
    torch.manual_seed(0)
    b, c, *rest = shape
    wide_q, wide_p = spread * torch.randn(b, 2 * c, *rest), spread * torch.randn(b, 2 * c + 3, *rest)
    parts = [*wide_q.split(c, 1), *wide_p.split([c, c, 3], 1)[:2]]
    return [*(part.requires_grad_() if part.is_leaf else part for part in parts), torch.randn(shape)]


def both(given: list[Tensor], spec_q: str | None, spec_p: str | None) -> list[list[Tensor]]:
    """Values and gradients of the kernels, and of the eager form."""
    scale_q, scale_p = (None if spec is None else scales.get(spec) for spec in (spec_q, spec_p))
    found = []
    for on in (True, False):
        inputs = [part.detach().as_strided(part.size(), part.stride()).requires_grad_() for part in given[:4]]
        with fused.use(on):
            assert fused.serves((*inputs, given[4]), scale_q, scale_p) == on
            z, kl = normal.sample_kl(*inputs, given[4], scale_q=scale_q, scale_p=scale_p)
        weight = torch.linspace(-1, 2, z.numel()).view(z.shape)
        found.append([z, kl, *torch.autograd.grad((weight * z + weight.flip(0) * kl).sum(), inputs)])
    return found


@needs_triton
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("spec_q", SPECS)
@pytest.mark.parametrize("spec_p", [None, "explin", "upbounded", "constant(0.25)"])
def test_values_and_gradients_are_those_of_the_eager_form(spec_q: str | None, spec_p: str | None) -> None:
    given = raw_values()
    assert not given[1].is_contiguous()
    for kernel, eager in zip(*both(given, spec_q, spec_p), strict=True):
        torch.testing.assert_close(kernel, eager, rtol=3e-6, atol=1e-6)


@needs_triton
@pytest.mark.usefixtures("interpreted")
def test_a_divergence_of_nearly_equal_sigmas_has_its_digits() -> None:
    shape = (2, 600)
    mean, raw = torch.zeros(shape), torch.linspace(-4, 4, 1200).view(shape)
    moved = raw + 1e-3 * torch.linspace(-1, 1, 1200).view(shape)
    with fused.use(True):
        _, kl = normal.sample_kl(mean, raw, mean, moved, torch.zeros(shape))
    exact = normal.kl_divergence(*(t.double() for t in (mean, raw, mean, moved)))
    # d² of a difference that float32 rounds to an eps of the raw values
    torch.testing.assert_close(kl.double(), exact, rtol=2e-3, atol=1e-12)


@needs_triton
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("spec", ["explin", "upbounded", None])
def test_what_is_not_finite_is_so_in_both_forms(spec: str | None) -> None:
    hard = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 104.0, -104.0, 0.0, -0.0, 1e-30])
    raw_q, raw_p = (grid.reshape(1, -1) for grid in torch.meshgrid(hard, hard, indexing="ij"))
    zeros = torch.zeros_like(raw_q)
    kernel, eager = both([zeros, raw_q, zeros, raw_p, torch.ones_like(zeros)], spec, spec)
    for one, other in zip(kernel, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=1e-6, equal_nan=True)


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vdvae_patch import fused_kernels

numbers = {"inner": "i32", "count": "i64", "constant_q": "fp32", "constant_p": "fp32", "least": "fp32", "limit": "fp32"}
for kernel in (fused_kernels._forward, fused_kernels._backward):
    for kinds in ((0, 3), (1, 1), (2, 1), (3, 2)):
        chosen = dict(zip(("KIND_Q", "KIND_P", "BLOCK"), (*kinds, 1024)))
        signature = {
            name: "constexpr" if name in chosen else numbers.get(name, "i32" if name.startswith("stride") else "*fp32")
            for name in kernel.arg_names
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=chosen)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        print(kernel.__name__, *kinds, len(made.asm["cubin"]) > 1000)
"""


@needs_triton
def test_the_kernels_are_compiled_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    # the interpreter runs what the compiler refuses, such as a name of Python's in a kernel
    surroundings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path)
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=surroundings, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        f"{kernel} {a} {b} True" for kernel in ("_forward", "_backward") for a, b in ((0, 3), (1, 1), (2, 1), (3, 2))
    ]


@needs_triton
@pytest.mark.usefixtures("interpreted")
def test_half_precision_is_computed_in_float32_as_in_the_eager_form() -> None:
    given = [t.detach().bfloat16() for t in raw_values()[:4]]
    noise = torch.randn(given[0].shape).bfloat16()
    scale = scales.get("explin")
    found = []
    for on in (True, False):
        inputs = [t.clone().requires_grad_() for t in given]
        with fused.use(on):
            z, kl = normal.sample_kl(*inputs, noise, scale_q=scale, scale_p=scale)
        assert (z.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
        assert (type(kl.grad_fn)._forward_cls is fused._SampleKL) == on  # type: ignore[union-attr]
        found.append([z, kl, *torch.autograd.grad(z.float().sum() + kl.sum(), inputs)])
    for kernel, eager in zip(*found, strict=True):
        torch.testing.assert_close(kernel, eager, rtol=1e-2 if kernel.dtype == torch.bfloat16 else 3e-6, atol=1e-5)


@needs_triton
@pytest.mark.usefixtures("interpreted")
def test_a_second_derivative_is_refused() -> None:
    given = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    _, kl = normal.sample_kl(*given, scale_q=scales.get("explin"))
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(kl.sum(), given[1], create_graph=True)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("change", "spec"),
    [
        (lambda t: t.double(), "explin"),
        (lambda t: t.half(), "explin"),
        (lambda t: t, "softplus"),
        (lambda t: t, "explin(gain=0.5)"),
        (lambda t: t[:0], "explin"),
        (lambda t: t.to("meta"), "explin"),
    ],
    ids=["float64", "float16", "another scale", "a gain", "nothing", "no values"],
)
def test_what_the_kernels_do_not_know_takes_the_eager_form(change, spec: str) -> None:  # type: ignore[no-untyped-def]
    given = tuple(change(torch.zeros(2, 3)) for _ in range(5))
    assert not fused.serves(given, scales.get(spec), None)
    z, kl = normal.sample_kl(*given, scale_q=scales.get(spec))
    assert z.shape == kl.shape == given[0].shape


def test_it_is_off_unless_asked_for_and_says_why_it_cannot_be() -> None:
    given = tuple(torch.zeros(2, 3) for _ in range(5))
    assert not fused.serves(given, None, None)
    with fused.use(True):
        assert fused.is_on()
        if importlib.util.find_spec("triton") is None:
            fused.why_not.cache_clear()
            assert fused.why_not() == "the package triton is not installed"
            assert not fused.serves(given, None, None)
    assert fused.is_on() == fused._on
