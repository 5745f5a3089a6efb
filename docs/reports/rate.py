"""Two optimizers that drive each other: a critic without a bound, at too high a learning rate."""

import torch
from museum import batches, digits, visit
from torch import nn

REPORTS = ["Stability-AI/stable-audio-tools#144"]
HEAD, OPERATION, CURE = None, "module critic", None  # no head is to blame
RATE, OF_CRITIC, STEPS = 0.02, 1.0, 20


class CriticVAE(nn.Module):
    """Its reconstructions are to please a critic, which is to tell them from data."""

    def __init__(self, of_critic=OF_CRITIC):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.critic = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.of_critic = of_critic

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
        return self.decoder(z), kl


def loss_of(model, x):
    recon, kl = model(x)
    return (recon - x).square().sum(1).mean() + 0.1 * kl.mean() - model.critic(recon).mean()


def build():
    torch.manual_seed(0)
    return CriticVAE()


def train(model):
    both = [*model.encoder.parameters(), *model.decoder.parameters()]
    first = torch.optim.SGD(both, lr=RATE)
    second = torch.optim.SGD(model.critic.parameters(), lr=model.of_critic, momentum=0.9)
    losses = []
    for (x,) in batches(digits.flatten(1), STEPS):
        loss = loss_of(model, x)
        first.zero_grad()
        loss.backward()
        first.step()
        with torch.no_grad():
            recon = model(x)[0]
        second.zero_grad()
        (model.critic(recon).mean() - model.critic(x).mean()).backward()
        second.step()
        losses.append(loss.item())
    return losses


def cured():
    torch.manual_seed(0)
    return CriticVAE(of_critic=OF_CRITIC / 10)


def show():
    return visit(build, train, (digits[:32].flatten(1),), cured, loss_of)


if __name__ == "__main__":
    show()
