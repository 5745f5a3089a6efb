"""The log of an exponential in half precision, under autocast."""

import torch
from museum import batches, digits, visit
from torch import nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch

REPORTS = ["NVIDIA/apex#812"]
HEAD, OPERATION, CURE = "encoder.2", "aten.log", "explin"  # what the guard names
RATE, STEPS, BETA = 0.05, 250, 1e-6


class HalfVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        q = Normal(mean, log_sigma.exp())
        return self.decoder(q.rsample()), q


def nelbo(model, x):
    with torch.autocast("cpu", dtype=torch.float16):
        recon, q = model(x)
        kl = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale)))
        return (recon - x).square().sum(1).mean() + BETA * kl.sum(1).mean()


def build():
    torch.manual_seed(0)
    return HalfVAE()


def train(model):
    """With the scaler of gradients that belongs to half precision."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=RATE), []
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for (x,) in batches(digits.flatten(1), STEPS):
        loss = nelbo(model, x)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def cured():
    model = build()
    heads = vdvae_patch.scan(model, digits[:32].flatten(1), call=nelbo)
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, (digits[:32].flatten(1),), cured, nelbo)


if __name__ == "__main__":
    show()
