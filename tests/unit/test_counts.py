"""What a step is made of: exact, the same on every machine, and never more than it was without a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import counts
from vdvae_patch.cli import main
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.counts import META, Counting, Counts

pytestmark = pytest.mark.medium

PAPER = ["vanilla", "upbounded", "explin", "vanilla/constant", "upbounded/constant", "explin/constant"]

COUNTED = json.loads((Path(__file__).parent / "step_counts.json").read_text())
"""Of each variant at the preset `small`, with the torch that is named: what the commit before had."""

AGAIN = "python -m vdvae_patch bench --counts --preset small, and write its figures into tests/unit/step_counts.json"


@pytest.fixture(scope="module")
def small() -> list[Counts]:
    torch.set_num_threads(1)
    return counts.count(parse_train(["--preset=small"]), PAPER)


@pytest.mark.skipif(
    torch.__version__.split("+")[0] != COUNTED["torch"], reason=f"the figures are of torch {COUNTED['torch']}"
)
def test_the_step_has_as_many_operator_calls_as_before(small: list[Counts]) -> None:
    said = []
    for found in small:
        known = COUNTED["variants"][found.name]
        for part, tally in found.parts.items():
            for what in ("calls", "views", "launches"):
                grown = getattr(tally, what) - known[part][what]
                if grown:
                    word = "grew" if grown > 0 else "shrank"
                    said.append(f"{found.name}: the step's {part} {word} by {abs(grown)} {what}")
        if found.bytes_saved != known["bytes_saved"]:
            said.append(f"{found.name}: the forward pass keeps {found.bytes_saved - known['bytes_saved']:+,} bytes")
    assert not said, f"{'; '.join(said)}. If that is meant: {AGAIN}"


def test_no_variant_of_vdvae_has_more_than_vanilla_to_do_or_to_keep(small: list[Counts]) -> None:
    vanilla, *others = small
    for found in others:
        assert found.model.calls <= vanilla.model.calls, found.name
        assert found.model.launches <= vanilla.model.launches, found.name
        assert found.bytes_saved <= vanilla.bytes_saved, found.name


@pytest.mark.parametrize("host", ["conv_vae", pytest.param("mlp_vae", marks=pytest.mark.slow)])
def test_no_variant_of_a_small_host_has_more_than_vanilla_to_do_or_to_keep(host: str) -> None:
    vanilla, *others = counts.count(parse_train([f"--host={host}"]), ["vanilla", "upbounded", "explin", "constant"])
    for found in others:
        assert found.model.calls < vanilla.model.calls, found.name
        assert found.model.launches < vanilla.model.launches, found.name
        assert found.bytes_saved <= vanilla.bytes_saved, found.name
        assert found.model.bytes_moved < vanilla.model.bytes_moved, found.name


OTHERS = ["softplus", "softclamp", "bounded(0.01,1)", "downbounded(0.01)"]
"""Scales that no paper trains a posterior with."""


@pytest.mark.parametrize("host", [pytest.param("conv_vae", marks=pytest.mark.slow), "mlp_vae"])
def test_nor_has_any_other_scale(host: str) -> None:
    vanilla, *others = counts.count(parse_train([f"--host={host}"]), ["vanilla", *OTHERS])
    assert len(others) == len(OTHERS)
    for found in others:
        assert found.model.calls <= vanilla.model.calls, found.name
        assert found.model.launches <= vanilla.model.launches, found.name
        assert found.bytes_saved <= vanilla.bytes_saved, found.name


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).exp().t().sum()


def test_calls_views_and_bytes_of_a_function_that_can_be_counted_by_hand() -> None:
    model = Two().to(META)
    x = torch.empty(2, 8, device=META)
    counting = Counting()
    with counting, counts._saved(model) as kept:
        model(x)
    tally = counting.tallies["forward"]
    assert dict(counting.operators) == {"addmm": 1, "exp": 1, "sum": 1}
    assert (tally.calls, tally.launches) == (3, 3)
    assert tally.views == 2  # of the weight and of the result
    #                            x    W    b    out   exp      sum
    assert tally.bytes_moved == (16 + 32 + 4 + 8 + 8 + 8 + 8 + 1) * 4
    # x for the weight's gradient, and exp(·) for its own; the weight is a parameter
    assert sum(t.untyped_storage().nbytes() for t in kept.values()) == (16 + 8) * 4


def test_an_operation_on_a_list_is_launched_once_for_every_so_many_tensors_or_blocks() -> None:
    few, many, large = (
        [torch.empty(size, device=META) for _ in range(count)] for size, count in ((4, 110), (4, 111), (2**26, 1))
    )
    launched = []
    for tensors in (few, many, large):
        counting = Counting()
        with counting:
            torch._foreach_mul_(tensors, 2.0)
        launched.append(counting.tallies["forward"].launches)
    assert launched == [1, 2, 4]  # of 2^26 elements there are 1,024 blocks, 320 a launch


def test_the_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--host=mlp_vae", "--variants=vanilla,upbounded", "--rounds=2", f"--out={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--counts", *flags])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "counts.md").read_text().strip()
    record = json.loads((tmp_path / "counts.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["vanilla", "upbounded"]
    assert set(record["host_ms"]) == set(counts.HOST_PARTS)
    assert all(ms > 0 for ms in record["host_ms"].values())
    assert {"command", "commit", "machine"} <= set(record["run"])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--compile"], "--compile means nothing with --counts"),
        (["--precision=bf16"], "--precision bf16 means nothing with --counts"),
        (["--accumulate=2"], "--accumulate 2 means nothing with --counts"),
    ],
)
def test_what_cannot_be_counted_is_refused(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--counts", "--preset=demo", *flags])
    assert stop.value.code not in (0, None)
    assert told in capsys.readouterr().err


def test_a_host_that_is_not_trained_here_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--counts", "--host=pythae"])
    assert "is not trained here" in capsys.readouterr().err
