"""How a GPU forms the sums of float32: `--matmul` and `--deterministic`.

Tensor cores multiply float32 as TF32: ten bits of mantissa instead of 23, summed in float32. By torch's own default
cuDNN does so in every convolution, and cuBLAS in no matrix product, so that "fp32" meant two things in one model; here
one word decides both, for every kind of layer alike, and stands in the run's configuration.

The default is tf32: it is what genuine VDVAE, all of whose layers are convolutions and which sets nothing, computes on
a GPU that has it (by torch's default since 1.7). Its authors' V100 had none, where both words mean the same. On a CPU
neither changes anything.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vdvae_patch import fused
from vdvae_patch.errors import RunError
from vdvae_patch.train.config import Matmul, TrainConfig

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""The settings with which cuBLAS takes the same way each time, read by it when a process starts CUDA."""


@contextmanager
def numerics(device: torch.device, matmul: Matmul, deterministic: bool) -> Iterator[None]:
    """Set both for as long as the block runs; of a CPU there is only the second to set.

    Raises:
        RunError: deterministic, and CUDA was started by this process without cuBLAS's setting for it.
    """
    with ExitStack() as undo:
        if device.type == "cuda":
            undo.enter_context(_products(matmul))
        if deterministic:
            if device.type == "cuda":
                choose_workspace()
            undo.enter_context(_deterministic())
        yield


def before_cuda(config: TrainConfig[Any]) -> None:
    """What a run has to choose before it makes a GPU its own, which starts CUDA; raises as `choose_workspace` does."""
    if config.deterministic and config.device != "cpu":
        choose_workspace()


def choose_workspace() -> None:
    """Have cuBLAS take the same way each time.

    Raises:
        RunError: the environment has chosen another workspace, or CUDA was started without one.
    """
    if WORKSPACE not in os.environ and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        os.environ[WORKSPACE] = _WORKSPACES[0]
    found = os.environ.get(WORKSPACE)
    if found not in _WORKSPACES:
        raise RunError(
            f"--deterministic needs {WORKSPACE}={_WORKSPACES[0]} (or {_WORKSPACES[1]}) in the environment before CUDA "
            f"starts, and it is {'not set' if found is None else repr(found)}: set it and start again"
        )


def in_force(device: torch.device) -> dict[str, Any]:
    """What a device computes with, as torch says it, for the record of a run: `float32` and `deterministic`.

    The first is tf32 or ieee, of a CPU ieee; two words, of convolutions and of matrix products, where they differ.
    Beside them `fused`, where the kernels of `vdvae_patch.fused` are asked for and can run.
    """
    found: dict[str, Any] = {"float32": "ieee", "deterministic": torch.are_deterministic_algorithms_enabled()}
    if fused.is_on() and not fused.why_not():
        found["fused"] = True
    if device.type != "cuda":
        return found
    products, convolutions, *_ = (word if word != "none" else "ieee" for word in _words())
    differ = f"convolutions {convolutions}, matrix products {products}"
    return found | {"float32": products if products == convolutions else differ}


def _owners() -> list[Any]:
    """Who has the words, from torch 2.9 on: of matrix products, convolutions and recurrent layers on a GPU.

    Those of a CPU (`mkldnn`) are left alone. Before there were two flags alone.
    """
    cudnn = torch.backends.cudnn
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []


def _words() -> list[str]:
    if owners := _owners():
        return [str(owner.fp32_precision) for owner in owners]
    return ["tf32" if flag else "ieee" for flag in _flags()]


def _flags() -> list[bool]:
    return [bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)]


def _write(flags: list[bool], words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the flags are the old way
        # the flags first, though the words would do: torch refuses to be asked by the one after only the other was set,
        # and its compiler asks by both
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
        for owner, word in zip(_owners(), words, strict=False):
            owner.fp32_precision = word


@contextmanager
def _products(matmul: Matmul) -> Iterator[None]:
    words = _words()
    try:
        flags = _flags()
    except RuntimeError:  # somebody has set the words alone
        flags = [word == "tf32" for word in words[:2]]
    try:
        _write([matmul == "tf32"] * 2, [matmul] * 3)
        yield
    finally:
        _write(flags, words)


@contextmanager
def _deterministic() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        cudnn.benchmark, cudnn.deterministic = flags
