"""A discriminator is trained between the pass of the model and its loss, on the same pass."""

from __future__ import annotations

import sys
from io import StringIO

import torch
import torch.nn.functional as F
from small_vae import SmallVAE, nelbo
from torch import nn

import vdvae_patch


def test_a_discriminators_loss_of_a_detached_latent_does_not_hide_the_pass_from_the_step() -> None:
    torch.manual_seed(0)
    model, critic = SmallVAE(), nn.Linear(3, 1)
    own, its = torch.optim.Adam(model.parameters(), lr=1e-3), torch.optim.Adam(critic.parameters(), lr=1e-3)
    with vdvae_patch.guard(model, file=StringIO()) as guard:
        for step in range(5):
            model.far = 400.0 if step == 3 else 0.0
            x = torch.randn(8, 6)
            recon, mean, logvar = model(x)
            its.zero_grad()
            F.softplus(critic(mean.detach())).mean().backward()
            its.step()
            own.zero_grad()
            (nelbo(recon, x, mean, logvar) + F.softplus(-critic(mean)).mean()).backward()
            own.step()
    (skip,) = guard.skips
    assert (skip.step, skip.cause, skip.head) == (3, "nan_loss", "logvar")
    assert skip.file == sys.modules[SmallVAE.__module__].__file__
    assert skip.diagnosis is not None
    assert skip.diagnosis.exact
