"""Batch norm: one bad step stays in the running statistics, and every later step is bad."""

import torch
from museum import batches, digits, loop, visit
from torch import nn

import vdvae_patch

REPORTS = ["larsmaaloee/auxiliary-deep-generative-models#1"]
HEAD, OPERATION, CURE = "encoder.3", "aten.exp", "explin"  # what the guard names
RATE, STEPS = 3.0, 30  # a learning rate that is raised, so that it takes seconds


class NormedVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, logvar


def nelbo(model, x):
    recon, mean, logvar = model(x)
    kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
    return (recon - x).square().sum(1).mean() + kl.mean()


def build():
    torch.manual_seed(0)
    return NormedVAE()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(digits.flatten(1), STEPS), nelbo)


def cured():
    model = build()
    heads = vdvae_patch.scan(model, digits[:32].flatten(1), call=nelbo)
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, (digits[:32].flatten(1),), cured, nelbo)


if __name__ == "__main__":
    show()
