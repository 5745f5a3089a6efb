"""A conditional VAE whose prior is learned: the KL of two Normals explodes."""

import torch
from museum import batches, digits, loop, visit
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

import vdvae_patch

REPORTS = [
    "stefanknegt/Probabilistic-Unet-Pytorch#3",
    "stefanknegt/Probabilistic-Unet-Pytorch#14",
    "stefanknegt/Probabilistic-Unet-Pytorch#21",
]
HEAD, OPERATION, CURE = "posterior.layers.2", "aten.div", "explin"  # what the guard names
RATE, STEPS = 0.2, 30  # a learning rate that is raised, so that it takes seconds


class Gaussian(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 12))

    def forward(self, x):
        mean, log_sigma = self.layers(x).chunk(2, dim=1)
        return Independent(Normal(mean, log_sigma.exp()), 1)


class Segmenter(nn.Module):
    """The upper half of an image is seen, the lower half is what to draw."""

    def __init__(self):
        super().__init__()
        self.prior, self.posterior = Gaussian(32), Gaussian(64)
        self.decoder = nn.Sequential(nn.Linear(38, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        seen, drawn = x[:, :4].flatten(1), x[:, 4:].flatten(1)
        q, p = self.posterior(x.flatten(1)), self.prior(seen)
        error = (self.decoder(torch.cat([seen, q.rsample()], dim=1)) - drawn).square().sum(1)
        return (error + kl_divergence(q, p)).mean()


def build():
    torch.manual_seed(0)
    return Segmenter()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(digits, STEPS))


def cured():
    model = build()
    heads = vdvae_patch.scan(model, digits[:32])
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, (digits[:32],), cured)


if __name__ == "__main__":
    show()
