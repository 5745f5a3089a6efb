"""Adversarial training with two optimizers: the critic drives σ up."""

import torch
from museum import batches, digits, visit
from torch import nn

import vdvae_patch

REPORTS = ["sinhasam/vaal#10"]
HEAD, OPERATION, CURE = "logvar", "aten.exp", "explin"  # what the guard names
RATE, STEPS = 1.0, 20  # a learning rate that is raised, so that it takes seconds


class AdversarialVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mean, self.logvar = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.critic = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return z, self.decoder(z), mean, logvar


def nelbo(model, x):
    z, recon, mean, logvar = model(x)
    kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
    return nn.functional.mse_loss(recon, x, reduction="sum") + kl - model.critic(z).sum()


def build():
    torch.manual_seed(0)
    return AdversarialVAE()


def train(model):
    of_critic = list(model.critic.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("critic")]
    first, second = torch.optim.Adam(others, lr=RATE), torch.optim.Adam(of_critic, lr=RATE)
    losses = []
    for (x,) in batches(digits.flatten(1), STEPS):
        loss = nelbo(model, x)
        first.zero_grad()
        loss.backward()
        first.step()
        with torch.no_grad():
            z = model(x)[0]
        second.zero_grad()
        (model.critic(z) - model.critic(torch.randn_like(z))).sum().backward()
        second.step()
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
