"""A likelihood with a σ for each pixel, which collapses where pixels are always black."""

import torch
from museum import batches, digits, loop, visit
from torch import nn

import vdvae_patch

REPORTS = ["orybkin/sigma-vae-pytorch#10"]
HEAD, OPERATION, CURE = "decoder.2", "aten.div", "vanilla/vanilla/downbounded(0.001)"  # what the guard names
RATE, STEPS, WIDTH = 0.005, 320, 512


class SigmaVAE(nn.Module):
    """Its decoder says how sure it is of each pixel."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 128))

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
        pixel, log_sigma = self.decoder(z).chunk(2, dim=1)
        pixel = pixel.relu()
        nll = (log_sigma + 0.5 * ((x - pixel) / log_sigma.exp()) ** 2).sum(1)
        return (nll + kl).mean()


def build():
    torch.manual_seed(0)
    return SigmaVAE()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(digits.flatten(1), STEPS))


def cured():
    model = build()
    heads = vdvae_patch.scan(model, digits[:32].flatten(1))
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, (digits[:32].flatten(1),), cured)


if __name__ == "__main__":
    show()
