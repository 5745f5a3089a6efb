"""An image drawn in several steps, each with latents of its own on a coarse grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class ConvLSTM(nn.Module):
    """An LSTM whose state is a grid of vectors, and whose gates are convolutions."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, state: State) -> State:
        output, memory = state
        keep, write, read, new = self.gates(torch.cat([x, output], dim=1)).chunk(4, dim=1)
        memory = torch.sigmoid(keep + 1) * memory + torch.sigmoid(write) * torch.tanh(new)
        return torch.sigmoid(read) * torch.tanh(memory), memory

    def start(self, like: Tensor) -> State:
        """Zeros on the grid of `like`, `[B, ..., h, w]`."""
        zeros = like.new_zeros(len(like), self.hidden, *like.shape[-2:])
        return zeros, zeros


class PixelScale(nn.Module):
    """One learned number, the log sigma of every pixel of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self) -> Tensor:
        return self.raw


class ConvDRAW(nn.Module):
    """p(x|z) ∏ p(z_t|z_<t), with q(z_t|z_<t, x).

    Args:
        channels: of an image `[B, channels, size, size]`.
        size: rows and columns, a multiple of 4.
        context: channels of the images that x depends on, `[B, context, size, size]`; 0 for none.
        hidden: channels of both recurrent states, on a grid of a quarter of the size.
        latents: channels of z_t on that grid.
        steps: how often there is drawn.
        canvas: channels of the canvas, which has the size of the image.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        context: int = 0,
        hidden: int = 64,
        latents: int = 4,
        steps: int = 6,
        canvas: int = 16,
    ) -> None:
        super().__init__()
        if size % 4:
            raise ValueError(f"images of {size}x{size}: the size must be a multiple of 4")
        self.channels, self.size, self.context, self.steps, self.latents = channels, size, context, steps, latents
        self.canvas = canvas
        self.look = _quarter(channels + canvas, hidden)
        self.look_around = _quarter(context, hidden) if context else None
        around = hidden if context else 0
        self.infer_state = ConvLSTM(2 * hidden + around, hidden)
        self.draw_state = ConvLSTM(latents + around, hidden)
        self.posterior = nn.Conv2d(hidden, 2 * latents, 3, padding=1)
        self.prior = nn.Conv2d(hidden, 2 * latents, 3, padding=1)
        self.paint = nn.Sequential(nn.Conv2d(hidden, 16 * canvas, 1), nn.PixelShuffle(4))
        self.emit = nn.Sequential(nn.Conv2d(canvas, canvas, 3, padding=1), nn.ReLU(), nn.Conv2d(canvas, channels, 1))
        self.pixel_scale = PixelScale()

    def forward(self, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """The negative ELBO and its two parts; nats an image, averaged over the batch."""
        _, rates, canvas = self.infer(x, context)
        distortion = gaussian_nll(x, self.emit(canvas), self.pixel_scale()).sum(dim=(1, 2, 3)).mean()
        rate = torch.stack(list(rates.values())).sum(dim=0).mean()
        return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}

    def infer(self, x: Tensor, context: Tensor | None = None) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """Draws of the latents, their KL by step in nats an image `[B]`, and the canvas at the end."""
        around = self._around(context)
        canvas, infer, draw = self._start(len(x), x)
        drawn, rates = [], {}
        for step in range(self.steps):
            seen = self.look(torch.cat([x, canvas], dim=1))
            infer = self.infer_state(torch.cat([seen, draw[0], *around], dim=1), infer)
            mean_q, log_sigma_q = self.posterior(infer[0]).chunk(2, dim=1)
            mean_p, log_sigma_p = self.prior(draw[0]).chunk(2, dim=1)
            z = mean_q + torch.exp(log_sigma_q) * torch.randn_like(mean_q)
            rates[f"z{step + 1}"] = normal_kl(mean_q, log_sigma_q, mean_p, log_sigma_p).sum(dim=(1, 2, 3))
            draw = self.draw_state(torch.cat([z, *around], dim=1), draw)
            canvas = canvas + self.paint(draw[0])
            drawn.append(z)
        return drawn, rates, canvas

    def generate(
        self, n: int, temperature: float = 1.0, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> Tensor:
        """The canvas of latents drawn from the prior, its standard deviations multiplied by the temperature.

        The latents of the first steps may be given, as `infer` draws them.
        """
        around = self._around(context)
        canvas, _, draw = self._start(n, self.pixel_scale.raw)
        for step in range(self.steps):
            mean, log_sigma = self.prior(draw[0]).chunk(2, dim=1)
            z = mean + temperature * torch.exp(log_sigma) * torch.randn_like(mean)
            if step < len(given):
                z = given[step]
            draw = self.draw_state(torch.cat([z, *around], dim=1), draw)
            canvas = canvas + self.paint(draw[0])
        return canvas

    def sample(self, n: int, temperature: float = 1.0, context: Tensor | None = None) -> Tensor:
        """`n` mean images of latents drawn from the prior, `[n, channels, size, size]`."""
        return self.emit(self.generate(n, temperature, context))

    def _around(self, context: Tensor | None) -> list[Tensor]:
        if (context is None) is not (self.look_around is None):
            raise ValueError("a model with context=0 takes no context, and any other needs one")
        return [] if self.look_around is None or context is None else [self.look_around(context)]

    def _start(self, count: int, like: Tensor) -> tuple[Tensor, State, State]:
        canvas = like.new_zeros(count, self.canvas, self.size, self.size)
        grid = canvas[:, :, ::4, ::4]
        return canvas, self.infer_state.start(grid), self.draw_state.start(grid)


def normal_kl(mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor, log_sigma_p: Tensor) -> Tensor:
    """KL(N(mean_q, sigma_q) ‖ N(mean_p, sigma_p)) elementwise, in nats."""
    ratio = (torch.exp(2 * log_sigma_q) + (mean_q - mean_p) ** 2) / torch.exp(2 * log_sigma_p)
    return log_sigma_p - log_sigma_q + 0.5 * ratio - 0.5


def gaussian_nll(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(x; mean, sigma) elementwise, in nats."""
    return 0.5 * ((x - mean) * torch.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)


def _quarter(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 4, 2, 1))
