"""Every decoder with every objective: three updates of a small VAE, all finite."""

from __future__ import annotations

import pytest
import torch
from test_decoders import SPECS as DECODERS
from test_decoders import images
from test_objectives import SPECS as OBJECTIVES
from torch import nn

from vdvae_patch import decoders, objectives
from vdvae_patch.objectives import balanced_kl


@pytest.mark.parametrize("decoder_spec", DECODERS)
@pytest.mark.parametrize("objective_spec", [*OBJECTIVES, "geco(fre=0.1, hold=1)", "geco(re=0.1, cla=0.9)"])
def test_three_updates_are_finite_and_move_the_model(decoder_spec: str, objective_spec: str) -> None:
    torch.manual_seed(0)
    decoder = decoders.get(decoder_spec)
    more = {"classifier": nn.Sequential(nn.Flatten(), nn.Linear(300, 5))} if "cla" in objective_spec else {}
    objective = objectives.get(objective_spec, steps_per_epoch=3, **more)
    x = images(decoder, 4, 3, 10, 10)
    encoder, generator = nn.Linear(300, 8), nn.Linear(4, 100 * decoder.channels(3))
    learned = [*encoder.parameters(), *generator.parameters()]
    optimizer = torch.optim.Adam([*learned, *decoder.parameters()], lr=1e-3)
    before = [parameter.clone() for parameter in learned]
    for _ in range(3):
        mean, log_sigma = encoder(x.flatten(1)).chunk(2, dim=1)
        rate = balanced_kl(mean, log_sigma)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        parameters = generator(z).view(4, -1, 10, 10)
        result = objective(rate, decoder.nll(x, parameters), reconstruction=decoder.mean(parameters), target=x)
        optimizer.zero_grad()
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(value.isfinite() for value in result.metrics.values())
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learned)
        optimizer.step()
        decoder.step(skipped=False)
        objective.step(skipped=False)
    assert all(not torch.equal(old, new) for old, new in zip(before, learned, strict=True))
