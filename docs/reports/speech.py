"""A speech model with masks: the text's prior has a tiny σ, and the frames are far from its mean."""

import torch
from museum import digits, loop, visit
from torch import nn

import vdvae_patch

REPORTS = ["jaywalnut310/vits#57", "LEEYOONHYUNG/BVAE-TTS#8"]
HEAD, OPERATION, CURE = "text.2", "aten.exp", "explin/constant"  # what the guard names
RATE, STEPS = 0.5, 40  # a learning rate that is raised, so that it takes seconds


class Speech(nn.Module):
    """An image is an utterance of eight frames, of which some are padding; the text knows every second one."""

    def __init__(self):
        super().__init__()
        self.text = nn.Sequential(nn.Conv1d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 16, 1))
        self.frames = nn.Sequential(nn.Conv1d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 16, 1))
        self.decoder = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x, mask):
        seen = x * mask
        text = seen * torch.tensor([1.0, 0.0]).repeat(4)
        m_p, logs_p = (self.text(text) * mask).chunk(2, dim=1)
        m_q, logs_q = (self.frames(seen) * mask).chunk(2, dim=1)
        z = (m_q + logs_q.exp() * torch.randn_like(m_q)) * mask
        kl = logs_p - logs_q - 0.5 + 0.5 * (z - m_p) ** 2 * (-2 * logs_p).exp()
        error = (self.decoder(z) * mask - seen).square() / (2 * 0.05**2)
        return (error.sum() + (kl * mask).sum()) / mask.sum()


def utterances(step):
    x = digits[32 * (step % 56) :][:32]
    lengths = torch.arange(len(x)) % 7 + 2
    return x, (torch.arange(8) < lengths[:, None])[:, None].float()


def build():
    torch.manual_seed(0)
    return Speech()


def train(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.8, 0.99))
    return loop(model, optimizer, map(utterances, range(STEPS)))


def cured():
    model = build()
    heads = vdvae_patch.scan(model, *utterances(0))
    vdvae_patch.patch(model, CURE, heads=heads)
    return model


def show():
    return visit(build, train, utterances(0), cured)


if __name__ == "__main__":
    show()
