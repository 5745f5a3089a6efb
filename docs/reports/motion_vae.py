"""A σ that underflows to zero: torch.distributions raises."""

import torch
from museum import batches, digits, loop, visit
from torch import nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch

REPORTS = ["Dai-Wenxun/MotionLCM#33", "WanluLiuLab/scAtlasVAE#16", "nghorbani/human_body_prior#70"]
HEAD, OPERATION, CURE = "to_var", "torch.distributions raised", "explin"  # what the guard names
RATE, STEPS = 0.3, 30  # a learning rate that is raised, so that it takes seconds


class MotionVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
        self.to_mean, self.to_var = nn.Linear(128, 4), nn.Linear(128, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        h = self.encoder(x.flatten(1))
        q = Normal(self.to_mean(h), self.to_var(h).exp().sqrt())
        kl = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale)))
        error = (self.decoder(q.rsample()) - x.flatten(1)).square().sum(1) / (2 * 0.05**2)
        return error.mean() + kl.sum(1).mean()


def build():
    torch.manual_seed(0)
    return MotionVAE()


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
