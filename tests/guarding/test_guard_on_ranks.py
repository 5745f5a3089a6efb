"""Two ranks, one of which has the bad batch: both keep the update out, and name that rank."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from process_trees import finished

from vdvae_patch.cli import dispatch
from vdvae_patch.errors import CheckpointError, InvalidValueError

pytestmark = pytest.mark.medium

SCRIPT = Path(__file__).with_name("two_ranks.py")


MATRIX = Path(__file__).with_name("matrix_on_ranks.py")


def trained(*arguments: str, script: Path = SCRIPT) -> tuple[list[Any], str]:
    """What each rank has seen, and what was said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master-port", str(port)]
    done = finished([*command, str(script), *arguments], timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def test_the_matrix_on_two_ranks_is_bit_for_bit() -> None:
    """{SGD, Adam, AdamW fused, Adamax} x {fp32, bf16, fp16 with a scaler} x {NaN in data, head, loss, weight} x {one
    batch, three with one that is bad}, with a batch norm and an average of the weights in each."""
    seen, _ = trained(script=MATRIX)
    assert sorted(one["rank"] for one in seen) == [0, 1]
    for one in seen:
        assert one["wrong"] == {}
        assert one["cells"] == 96


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize("fault", ["nan", "large"])
def test_all_ranks_decide_together(wrapper: str, fault: str) -> None:
    seen, said = trained(wrapper, fault)
    assert sorted(one["rank"] for one in seen) == [0, 1]
    for one in seen:
        assert one["finite"]
        assert one["kept"] == [False, False, True, False]
        assert [(skip["step"], skip["ranks"], skip["cause"]) for skip in one["skips"]] == [(2, [1], "nan_loss")]
    if wrapper == "ddp":
        assert seen[0]["sum"] == seen[1]["sum"]
    assert "on rank 1" in said
    assert ("rows 1, 2, 3, 4, 6, 7 of input 0" in said) == (fault == "nan")


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize("fault", ["large", "high"])
def test_the_share_of_a_rank_is_done_again(
    wrapper: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told = trained(wrapper, fault, str(tmp_path / "guard"))
    folder = tmp_path / "guard" / "skip-0001"
    own = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 2**20
    assert f"skip-0001 takes {own:.3g} MiB, beside the shares of the other ranks; at most 1 are kept" in told
    arguments = ["replay", str(folder), "--model", "two_ranks:VAE", "--path", str(SCRIPT.parent)]
    losses = []
    for chosen in ([], ["--rank", "0"], ["--rank", "1"]):
        assert dispatch([*arguments, *chosen]) == 0
        said = capsys.readouterr().out
        rank = int(chosen[1]) if chosen else int(fault == "large")
        how = "inf again, of which no more can be compared" if fault == "large" and rank else "the same, bit for bit"
        assert f"done again: the loss is {how}" in said, said
        assert "2 ranks did it, shares are recorded on ranks 0, 1" in said
        assert f"done again is that on rank {rank}, " in said
        blame = "which was to blame" if rank else "which was not to blame"
        assert (blame if fault == "large" else "none was known to be to blame") in said
        assert ("exploded" in said or "not finite" in said.split("done again: ")[1]) == (fault == "large" and rank == 1)
        losses.append(
            json.loads((folder / ("rank-0001" if rank else "") / "manifest.json").read_text())["info"]["loss"]
        )
    assert losses[1] != losses[2]  # each its own
    with pytest.raises(CheckpointError, match=r"no share of rank 2: there are those of ranks 0, 1$"):
        dispatch([*arguments, "--rank", "2"])
    with pytest.raises(CheckpointError, match=r"that is .*skip-0001, with --rank 1"):
        dispatch(["replay", str(folder / "rank-0001"), *arguments[2:]])
    (folder / "rank-0001").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="there are those of ranks 0; where ranks share no disk"):
        dispatch([*arguments, "--rank", "1"])


def test_a_rank_of_a_run_of_ours_cannot_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InvalidValueError, match="whose ranks are all done again"):
        dispatch(["replay", str(tmp_path), "--rank", "1"])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("parameters", ["flat", "original"])
def test_the_flat_shards_of_fsdp1_are_refused(when: str, parameters: str) -> None:
    """Whether the model was wrapped before the guard was put on, or afterwards."""
    seen, _ = trained(f"fsdp1-{when}-{parameters}", "nan")
    assert sorted(one["rank"] for one in seen) == [0, 1]
    for one in seen:
        assert re.search(r"is sharded by FullyShardedDataParallel \(FSDP1\).*fully_shard \(FSDP2\)", one["refused"])
        assert one["steps"] == 0
