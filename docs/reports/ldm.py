"""A latent-diffusion autoencoder that is fine-tuned in float16: the sum of its KL overflows, in the loss."""

import torch
from museum import batches, digits, loop, visit
from torch import nn

REPORTS = ["CompVis/latent-diffusion#176"]
HEAD, OPERATION, CURE = None, "aten.sum", None  # no head is to blame
RATE, STEPS = 0.001, 4


class Autoencoder(nn.Module):
    """Convolutions, a latent image of half the size, a log variance that is clamped to -30 ... 20."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(16, 8, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4, 16, 4, stride=2, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return self.decoder(z), 0.5 * (mean**2 + logvar.exp() - 1 - logvar)


class InFloat(Autoencoder):
    """Its KL is summed in float32."""

    def forward(self, x):
        recon, kl = super().forward(x)
        return recon, kl.float()


def loss_of(model, x):
    recon, kl = model(x)
    return (recon - x).abs().sum() / len(x) + 1e-6 * kl.sum() / len(x)


def in_half(model, x):
    with torch.autocast("cpu", dtype=torch.float16):
        return loss_of(model, x)


def pictures(steps):
    return batches(digits[:, None], steps, size=512)


def build(kind=Autoencoder):
    """What is published, trained in float32."""
    torch.manual_seed(0)
    model = kind()
    loop(model, torch.optim.AdamW(model.parameters(), lr=0.01), batches(digits[:, None], 60), loss_of)
    return model


def train(model):
    return loop(model, torch.optim.AdamW(model.parameters(), lr=RATE), pictures(STEPS), in_half)


def cured():
    return build(InFloat)


def show():
    return visit(build, train, (digits[:512, None],), cured, in_half)


if __name__ == "__main__":
    show()
