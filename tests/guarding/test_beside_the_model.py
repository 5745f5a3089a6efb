"""What a loss computes beside the model, which a trial of other scales does not exchange: it is said, and no number of
another step stands for it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vdvae_patch
from vdvae_patch.errors import PatchError
from vdvae_patch.guarding.diagnosis import Diagnosis, Tried
from vdvae_patch.guarding.replaying import replay
from vdvae_patch.guarding.report import lines
from vdvae_patch.guarding.skip import read
from vdvae_patch.outcome import Outcome
from vdvae_patch.report.skipped import of_guard


def _nets() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"enc": nn.Linear(10, 6), "dec": nn.Linear(3, 10)})


def _loss(nets: nn.ModuleDict, x: Tensor) -> Tensor:
    mu, raw = nets["enc"](x).chunk(2, -1)
    std = F.softplus(raw) + 1e-3
    z = mu + std * torch.randn_like(mu)
    kl = (0.5 * (mu**2 + std**2 - 1) - std.log()).sum(-1)
    return (((nets["dec"](z) - x) ** 2).sum(-1) + kl).mean()


def test_a_replay_refuses_a_scale_that_stands_beside_the_model_and_shows_no_number(tmp_path: Path) -> None:
    nets, x = _nets(), torch.randn(8, 10)
    nets["enc"].bias.data[3:] = 400.0
    optimizer = torch.optim.SGD(nets.parameters(), 1e-3)
    with vdvae_patch.guard(nets, out=tmp_path / "g", threshold=100.0, file=io.StringIO()):
        _loss(nets, x).backward()
        optimizer.step()
    recorded = read(tmp_path / "g" / "skip-0001")
    with pytest.raises(
        PatchError, match=r"upbounded is not tried: σ of enc.*beside_the_model\.py:\d+.*beside the model"
    ):
        replay(recorded, _nets(), call=_loss, variant="upbounded")
    other = replay(recorded, _nets(), call=_loss, variant="bounded(0.001, 10)").other  # at the output: it is exchanged
    assert other is not None
    assert other.loss is not None
    assert other.loss < 1e4


def test_the_heads_are_not_acquitted_while_a_scale_was_not_tried() -> None:
    fallen = Tried("explin", Outcome(bad_values=("the loss is NaN",)))
    all_tried = "\n".join(lines(Diagnosis(tried=(fallen,))))
    assert "they are not what breaks it" in all_tried
    missed = "\n".join(lines(Diagnosis(tried=(fallen, Tried("bounded(0.001, 10)", None, "it is a parameter")))))
    assert "they are not what breaks it" not in missed
    assert "not tried: bounded(0.001, 10): it is a parameter" in missed


def test_a_page_tells_what_was_not_tried_from_what_did_not_help(tmp_path: Path) -> None:
    row = json.loads('{"step": 1, "variants": {"explin": false, "upbounded": null}}')
    skip = of_guard(row, tmp_path, {})
    assert skip is not None
    assert skip.said == ("not finite under explin either", "not tried: upbounded")
