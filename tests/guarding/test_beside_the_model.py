"""What a loss computes beside the model is exchanged in a trial of other scales, or it is said that it could not be
tried: no number of another step stands for it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import vdvae_patch
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


class _VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(10, 6), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Normal]:
        mu, raw = self.enc(x).chunk(2, -1)
        posterior = Normal(mu, raw.exp())
        return self.dec(posterior.rsample()), posterior


def _by_normals(vae: nn.Module, x: Tensor) -> Tensor:
    out, posterior = vae(x)
    return (out - x).square().sum(-1).mean() + kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1).mean()


@pytest.mark.parametrize("variant", ["upbounded", "explin", "bounded(0.001, 10)"])
@pytest.mark.parametrize(
    ("make", "loss", "raw"), [(_nets, _loss, 400.0), (_VAE, _by_normals, -55.0)], ids=["a floor", "Normals"]
)
def test_a_replay_shows_the_step_with_what_a_patch_exchanges_in_a_loss_beside_the_model(
    make: Callable[[], nn.Module], loss: Callable[..., Tensor], raw: float, variant: str, tmp_path: Path
) -> None:
    model, x = make(), torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    model.get_submodule("enc").bias.data[3:] = raw
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    torch.manual_seed(2)
    with vdvae_patch.guard(model, out=tmp_path / "g", threshold=100.0, call=loss, file=io.StringIO()):
        loss(model, x).backward()
        optimizer.step()
    other = replay(read(tmp_path / "g" / "skip-0001"), make(), call=loss, variant=variant).other
    # the same by a patch of the model as it was trained, at ordinary weights, which a scan reads better
    fresh = make()
    handle = vdvae_patch.patch(fresh, variant, heads=vdvae_patch.scan(fresh, x, call=loss), verify=False)
    fresh.load_state_dict(model.state_dict())
    torch.manual_seed(2)
    assert handle.loss is not None
    value = handle.loss(fresh, x)
    value.backward()
    assert other is not None
    assert other.finite
    assert other.loss == pytest.approx(float(value.detach()), rel=1e-4)
    norm = torch.stack([p.grad.norm() for p in fresh.parameters() if p.grad is not None]).norm()
    assert other.norm == pytest.approx(float(norm), rel=1e-3)


def _patched() -> tuple[nn.Module, Tensor, Callable[..., Tensor]]:
    model, x = _nets(), torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match="the host keeps σ at 0.001 or above"):
        handle = vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x, call=_loss), verify=False)
    assert "beside the model" in str(handle)
    assert handle.loss is not None
    return model, x, handle.loss


@pytest.mark.parametrize("by_handle", [True, False], ids=["handle.loss", "the loss as it is"])
@pytest.mark.parametrize("raw", [400.0, -3.0])
def test_a_step_of_a_patched_model_is_done_again_with_the_scales_that_its_loss_had(
    raw: float, by_handle: bool, tmp_path: Path
) -> None:
    model, x, stable = _patched()
    trained = stable if by_handle else _loss
    model.get_submodule("enc").bias.data[3:] = raw
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    torch.manual_seed(2)
    with vdvae_patch.guard(model, out=tmp_path / "g", threshold=1e-3, call=trained, file=io.StringIO()):
        loss = trained(model, x)
        loss.backward()
        optimizer.step()
    replayed = replay(read(tmp_path / "g" / "skip-0001"), _nets(), call=_loss, variant="upbounded")
    assert replayed.exact
    assert replayed.compared[0].now == loss.item()
    assert replayed.other is not None


def test_a_step_that_had_scales_beside_the_model_is_said_to_have_them_where_the_loss_is_another(tmp_path: Path) -> None:
    model, x, stable = _patched()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=tmp_path / "g", threshold=1e-3, call=stable, file=io.StringIO()):
        stable(model, x).backward()
        optimizer.step()

    def another(nets: nn.ModuleDict, x: Tensor) -> Tensor:
        mu, _ = nets["enc"](x).chunk(2, -1)
        return ((nets["dec"](mu) - x) ** 2).sum(-1).mean()

    replayed = replay(read(tmp_path / "g" / "skip-0001"), _nets(), call=another)
    assert not replayed.exact
    assert "the patch has scales that are computed beside the model" in str(replayed)


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
