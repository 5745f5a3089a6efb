"""A table that nobody normalised: σ explodes at the first step."""

import torch
from museum import batches, loop, visit
from sklearn.datasets import load_wine
from torch import nn

import vdvae_patch

REPORTS = ["vanderschaarlab/synthcity#331", "pycroscopy/atomai#85"]
HEAD, OPERATION, CURE = "encoder.2", "aten.exp", "explin"  # what the guard names
RATE, STEPS = 0.001, 40
wines = torch.tensor(load_wine().data, dtype=torch.float32)  # 178 wines; one column goes up to 1680


class TableVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 13))

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
        return nn.functional.mse_loss(self.decoder(z), x, reduction="sum") + kl


def build():
    torch.manual_seed(0)
    return TableVAE()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(wines, STEPS))


def cured():
    model = build()
    heads = vdvae_patch.scan(model, wines[:32])
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, (wines[:32],), cured)


if __name__ == "__main__":
    show()
