"""A normalizing flow: its scales are no heads of a Normal."""

import torch
from museum import batches, loop, visit
from sklearn.datasets import load_iris
from torch import nn

REPORTS = ["rosinality/glow-pytorch#25", "VincentStimper/normalizing-flows#47", "karpathy/pytorch-normalizing-flows#9"]
HEAD, OPERATION, CURE = None, "aten.exp", None  # no head is to blame
RATE, STEPS = 0.1, 20  # a learning rate that is raised, so that it takes seconds
irises = torch.tensor(load_iris().data, dtype=torch.float32)  # 150 flowers, four lengths in cm


class Flow(nn.Module):
    """Four affine couplings; each scales two lengths by the exponential of what it sees in the other two."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4)) for _ in range(4))

    def log_scale_of(self, raw):
        return raw

    def forward(self, x):
        log_det = 0
        for net in self.nets:
            seen, moved = x.chunk(2, dim=1)
            raw, shift = net(seen).chunk(2, dim=1)
            log_scale = self.log_scale_of(raw)
            x = torch.cat([moved * log_scale.exp() + shift, seen], dim=1)
            log_det = log_det + log_scale.sum(1)
        return (0.5 * x.square().sum(1) - log_det).mean()


class SoftFlow(Flow):
    def log_scale_of(self, raw):
        return 2 * torch.tanh(raw / 2)


def build():
    torch.manual_seed(0)
    return Flow()


def train(model):
    return loop(model, torch.optim.Adam(model.parameters(), lr=RATE), batches(irises, STEPS))


def cured():
    torch.manual_seed(0)
    return SoftFlow()


def show():
    return visit(build, train, (irises[:32],), cured)


if __name__ == "__main__":
    show()
