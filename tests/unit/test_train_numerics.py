"""How a GPU multiplies float32 is one word of the configuration; what torch was told before comes back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in_cuda import stand_in

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import RunError
from vdvae_patch.train.numerics import WORKSPACE, before_cuda, choose_workspace, in_force, numerics
from vdvae_patch.train.provenance import provenance

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def told() -> list[Any]:
    """Whatever torch says of the precision of float32, by its flags and by its words, of every back end."""
    backends = torch.backends
    owners = [getattr(backends.cudnn, name, None) for name in ("conv", "rnn")]
    owners += [backends.cuda.matmul, *(getattr(backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn"))]
    words = [getattr(owner, "fp32_precision", None) for owner in owners]
    return [*words, backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]


@pytest.mark.parametrize("matmul", ["tf32", "ieee"])
def test_convolutions_and_matrix_products_are_told_the_same(matmul: Any) -> None:
    before = told()
    with numerics(GPU, matmul, False):
        assert in_force(GPU) == {"float32": matmul, "deterministic": False}
        # by the old flags as well, which torch's compiler reads
        assert torch.backends.cudnn.allow_tf32 is (matmul == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 is (matmul == "tf32")
        assert told()[3:6] == before[3:6]  # those of the processor
    assert told() == before


def test_the_words_of_whoever_set_them_come_back() -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has flags alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"  # and the flags now refuse to be asked
        with numerics(GPU, "ieee", False):
            assert in_force(GPU)["float32"] == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        matmul.fp32_precision = before


def test_what_torch_does_when_nobody_says_anything_is_named_as_it_is() -> None:
    assert in_force(GPU)["float32"] == "convolutions tf32, matrix products ieee"


def test_a_cpu_is_left_as_it_is() -> None:
    before = told()
    with numerics(CPU, "tf32", False):
        assert told() == before
    assert in_force(CPU) == {"float32": "ieee", "deterministic": False}


def test_a_deterministic_run_sets_what_torch_has_for_it_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")  # so that what the test sets does not stay
    monkeypatch.delenv(WORKSPACE)
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    with pytest.raises(ZeroDivisionError), numerics(GPU, "ieee", True):  # noqa: PT012
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert os.environ[WORKSPACE] == ":4096:8"
        assert provenance(CPU)["deterministic"] is True
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)


@pytest.mark.parametrize(("found", "accepted"), [(":4096:8", True), (":16:8", True), (":0:0", False), ("", False)])
def test_a_workspace_of_the_environment_is_kept_or_refused(
    found: str, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, found)
    if accepted:
        choose_workspace()
    else:
        with pytest.raises(RunError, match=f"{WORKSPACE}=:4096:8"):
            choose_workspace()
    assert os.environ[WORKSPACE] == found


def test_the_workspace_is_chosen_before_cuda_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WORKSPACE, "")  # so that what the test sets does not stay
    monkeypatch.delenv(WORKSPACE)
    config = parse_train(["--device", "cuda:1", "--deterministic", "--out", str(tmp_path)])
    with stand_in() as cuda:
        before_cuda(replace(config, deterministic=False))
        before_cuda(replace(config, device="cpu"))
        assert WORKSPACE not in os.environ
        cuda.started = True
        with pytest.raises(RunError, match="not set"):
            before_cuda(config)
        cuda.started = False
        before_cuda(config)
        cuda.started = True
        before_cuda(config)
    assert os.environ[WORKSPACE] == ":4096:8"


def test_the_command_line_has_both() -> None:
    config = parse_train([])
    assert (config.matmul, config.deterministic) == ("tf32", False)
    config = parse_train(["--matmul", "ieee", "--deterministic"])
    assert (config.matmul, config.deterministic) == ("ieee", True)
    assert config.to_toml()["matmul"] == "ieee"
