"""A recurrent world model: a prior whose σ becomes tiny while the posterior moves away from it."""

import torch
from museum import batches, digits, loop, visit
from torch import nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch

REPORTS = ["emited/VariationalRecurrentNeuralNetwork#2"]
HEAD, OPERATION, CURE = "prior.2", "aten.mul", "explin/constant"  # what the guard names
RATE, STEPS = 0.2, 6  # a learning rate that is raised, so that it takes seconds


class RecurrentWorld(nn.Module):
    """An image in four strips: what comes next, before and after it is seen."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
        self.posterior = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder, self.cell = nn.Linear(36, 16), nn.GRUCell(20, 32)

    def forward(self, x):
        h, total = x.new_zeros(len(x), 32), 0
        for strip in x.view(-1, 4, 16).unbind(1):
            mean, raw = self.prior(h).chunk(2, dim=1)
            p = Normal(mean, nn.functional.softplus(raw))
            mean, raw = self.posterior(torch.cat([h, strip], dim=1)).chunk(2, dim=1)
            q = Normal(mean, nn.functional.softplus(raw))
            z = q.rsample()
            error = (self.decoder(torch.cat([h, z], dim=1)) - strip).square().sum(1) / (2 * 0.05**2)
            total = total + error + kl_divergence(q, p).sum(1)
            h = self.cell(torch.cat([strip, z], dim=1), h)
        return total.mean()


def build():
    torch.manual_seed(1)
    return RecurrentWorld()


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
