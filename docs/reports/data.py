"""Holes in the data: a NaN that no scale of the model can mend."""

import torch
from museum import batches, digits, loop, visit
from torch import nn

REPORTS = ["prs-eth/Marigold#111", "keras-team/keras#12371"]
HEAD, OPERATION, CURE = None, "rows 6, 11 of input 0", None  # no head is to blame
RATE, STEPS = 0.001, 30
depths = digits.flatten(1).clone()
depths[70, 20] = depths[75, 3] = torch.nan  # two holes, as a depth camera leaves them


class DepthVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def error(self, recon, x):
        return nn.functional.mse_loss(recon, x, reduction="sum")

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
        return self.error(self.decoder(z), x) + kl


class WithHoles(DepthVAE):
    """A hole is read as zero, and its pixel is left out of the error."""

    def error(self, recon, x):
        return (recon - x)[self.seen].square().sum()

    def forward(self, x):
        self.seen = x.isfinite()
        return super().forward(x.nan_to_num())


def build():
    torch.manual_seed(0)
    return DepthVAE()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(depths, STEPS))


def cured():
    torch.manual_seed(0)
    return WithHoles()


def show():
    return visit(build, train, (depths[:32],), cured)


if __name__ == "__main__":
    show()
