"""Heads of one module are told apart, in logs, on pages and in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vdvae_patch.heads import Head
from vdvae_patch.report.looks import Collector
from vdvae_patch.train.board import Board
from vdvae_patch.train.probe import head_states

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
