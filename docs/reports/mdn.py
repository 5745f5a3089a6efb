"""A mixture density network: one Normal of the mixture falls on a single value."""

import torch
from museum import batches, digits, loop, visit
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

import vdvae_patch

REPORTS = ["hardmaru/WorldModelsExperiments#3", "sagelywizard/pytorch-mdn#6"]
HEAD, OPERATION, CURE = "log_std", "aten.div", "vanilla/vanilla/downbounded(0.001)"  # what the guard names
RATE, STEPS = 0.01, 60


class MDN(nn.Module):
    """The lower half of an image out of a mixture of five Normals a pixel, given the upper half."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 128), nn.ReLU())
        self.logits, self.mean, self.log_std = nn.Linear(128, 160), nn.Linear(128, 160), nn.Linear(128, 160)

    def forward(self, x):
        h = self.body(x[:, :4].flatten(1))
        logits, mean, log_std = (layer(h).view(-1, 32, 5) for layer in (self.logits, self.mean, self.log_std))
        mixture = MixtureSameFamily(Categorical(logits=logits), Normal(mean.relu(), log_std.exp()))
        return -mixture.log_prob(x[:, 4:].flatten(1)).sum(1).mean()


def build():
    torch.manual_seed(0)
    return MDN()


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
