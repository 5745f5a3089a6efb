"""Heads of one module are told apart, in logs, on pages and in TensorBoard."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from vdvae_patch.heads import Head
from vdvae_patch.hosts.trainable import Latent
from vdvae_patch.report.looks import Collector, stands_out
from vdvae_patch.train.board import Board
from vdvae_patch.train.probe import head_states, probe_rows

HEADS = [Head("q", "posterior", 4, 8), Head("q", "posterior", 12, 16), Head("q", "prior"), Head("p", "prior")]


def records() -> list[dict[str, object]]:
    rows = torch.arange(15.0).view(5, 3)
    return [{**state.record(), "grad_norm": 1.0} for state in head_states(HEADS, rows)]


def test_channels_are_said_where_a_role_has_two_heads_of_one_module() -> None:
    assert [row.get("channels") for row in records()] == ["4:8", "12:16", None, None]


def test_a_page_has_every_one_of_them_with_its_own_numbers() -> None:
    collector = Collector()
    collector.add(0, records(), skipped=False)
    looks = collector.looks()
    assert looks is not None
    assert [(head.text, head.role) for head in looks.heads] == [
        ("q[4:8]", "posterior"), ("q[12:16]", "posterior"), ("q", "prior"), ("p", "prior")
    ]  # fmt: skip
    assert looks.values["kl"].tolist() == [[2.0, 5.0, 8.0, 11.0]]


def test_each_has_a_curve_of_its_own_in_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path, 0, {})
    board.heads({"step": 0, "heads": records()})
    board.close()
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    tags = [tag for tag in read.Tags()["scalars"] if tag.startswith("heads_kl/")]
    assert {tag: [curve.value for curve in read.Scalars(tag)] for tag in tags} == {
        "heads_kl/q[4:8] (posterior)": [2.0], "heads_kl/q[12:16] (posterior)": [5.0],
        "heads_kl/q (prior)": [8.0], "heads_kl/p": [11.0],
    }  # fmt: skip


class Bare(nn.Module):
    """A host of which a look runs the encoder alone."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(4, 4), nn.Linear(2, 4)
        self.log_sigma = nn.Parameter(torch.tensor([-0.3, 0.25]))


class Entry:
    def latents(self, model: Bare, x: torch.Tensor) -> list[Latent]:
        mean, _ = model.enc(x).chunk(2, 1)
        return [Latent(mean, torch.full((len(x),), 1.5))]

    def latent_of(self, model: nn.Module, heads: list[Head], count: int) -> list[int | None]:
        return [0, 0, None]


OF_BARE = [
    Head("enc", "posterior", 2, 4), Head("log_sigma", "prior", parameter=True), Head("dec", "likelihood")
]  # fmt: skip


@pytest.mark.parametrize("parts", [1, 2])
def test_a_head_that_the_look_does_not_reach_has_no_extremes_and_does_not_stand_out(parts: int) -> None:
    torch.manual_seed(0)
    model, x = Bare(), torch.randn(6, 4)
    rows = probe_rows(Entry(), model, OF_BARE, x, parts)  # type: ignore[arg-type]
    encoder, prior, decoder = head_states(OF_BARE, rows)
    raw = model.enc(x)[:, 2:]
    assert (encoder.log_sigma_min, encoder.log_sigma_max) == pytest.approx((float(raw.min()), float(raw.max())))
    assert (prior.log_sigma_min, prior.log_sigma_max) == pytest.approx((-0.3, 0.25))
    assert encoder.seen
    assert prior.seen
    assert not decoder.seen
    assert decoder.record() == {
        "path": "dec",
        "role": "likelihood",
        "kl": pytest.approx(math.nan, nan_ok=True),
        "seen": False,
    }
    found = stands_out([state.record() for state in (decoder, prior, encoder)])
    assert found is not None
    assert found[0].path in ("enc", "log_sigma")


def test_a_head_whose_log_sigma_is_nan_stands_out() -> None:
    rows = torch.tensor([[math.nan, math.nan, math.nan], [-0.5, 0.5, 1.0], [math.nan] * 3])
    states = head_states([Head("q", "posterior"), Head("p", "prior")], rows)
    assert [state.seen for state in states] == [True, True]
    found = stands_out([state.record() for state in states])
    assert found is not None
    assert found[0].path == "q"
