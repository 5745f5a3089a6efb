"""Micro-MNIST: "Taming VAEs", appendix E.1 and Figure 8. Seven digits, two latents, a posterior that can tile.

The posterior is a conditional real NVP (Dinh et al. 2016): z = f(ε; x), ε standard normal, of layers that scale and
shift one of the two coordinates by functions of the other and of x, so that

    log q(z | x) = log N(ε; 0, 1) − Σ s        s: the logarithms of the scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vdvae_patch import decoders, objectives
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import DataError
from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.noise import generator
from vdvae_patch.objectives import Objective, marginal_kl
from vdvae_patch.objectives.geco import Geco
from vdvae_patch.train.classifier import Classifier, fit

PIXELS = PixelGrid(0, 1)
DIGITS = 7
LAYERS = 8
HIDDEN = 64
SHOWN = 100
"""Samples of each posterior in the figure, as in the paper."""


SPECS = (
    "elbo",
    "geco(re=0.06, nu=10, most=1.01, least=0.99, hold=1)",
    "geco(re=0.2, nu=10, most=1.01, least=0.99, hold=1)",
    "geco(cla=0.9, start=10, most=1.002, least=0.998, hold=1)",
)
"""What Figure 8 compares, left to right. The text of the paper at hand has lost its κ: these are ours. With ν = 1 λ
would come down by no more than κ² an update, and without limits on one update it runs away at the start.

The last goes on from the second's weights. From new weights it is stuck: the classifier's probability is soon 1 for the
digit that is there most often, whatever the latents are, and the gradient of the others 0."""
AFTER = {SPECS[3]: SPECS[1]}
"""The run whose weights another one begins with."""


class Flow(nn.Module):
    """q(z | x) over two latents: coupling layers that take turns, each conditioned on a code of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Sequential(nn.Linear(784, HIDDEN), nn.Tanh())
        self.couplings = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN + 1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(),
                          nn.Linear(HIDDEN, 2))
            for _ in range(LAYERS)
        )  # fmt: skip
        for coupling in self.couplings:  # the identity at first: every posterior is the prior
            nn.init.zeros_(coupling[-1].weight)  # type: ignore[index]
            nn.init.zeros_(coupling[-1].bias)  # type: ignore[index]

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z and log q(z | x), `[B, 2]` and `[B]`, of images `[B, 784]` and standard normal noise `[B, 2]`."""
        code = self.code(x)
        parts = [noise[:, :1], noise[:, 1:]]
        log_q = -(noise.square() / 2 + 0.5 * math.log(2 * math.pi)).sum(dim=1)
        for index, coupling in enumerate(self.couplings):
            given, changed = parts[index % 2], parts[1 - index % 2]
            log_scale, shift = self._of(coupling, given, code)
            parts[1 - index % 2] = changed * log_scale.exp() + shift
            log_q = log_q - log_scale.squeeze(1)
        return torch.cat(parts, dim=1), log_q

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log q(z | x), `[B]`, by the layers in the other direction."""
        code = self.code(x)
        parts = [z[:, :1], z[:, 1:]]
        total = torch.zeros_like(z[:, 0])
        for index, coupling in reversed(list(enumerate(self.couplings))):
            given, changed = parts[index % 2], parts[1 - index % 2]
            log_scale, shift = self._of(coupling, given, code)
            parts[1 - index % 2] = (changed - shift) * (-log_scale).exp()
            total = total - log_scale.squeeze(1)
        noise = torch.cat(parts, dim=1)
        return total - (noise.square() / 2 + 0.5 * math.log(2 * math.pi)).sum(dim=1)

    @staticmethod
    def _of(coupling: nn.Module, given: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = coupling(torch.cat([given, code], dim=1)).chunk(2, dim=1)
        return 2 * torch.tanh(log_scale / 2), shift


class TileVAE(nn.Module):
    """A flow for the posterior, N(0, 1) for the prior, and two hidden layers to the means of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.posterior = Flow()
        self.decoder = nn.Sequential(
            nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid()
        )

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The KL of one sample `[B]` in nats, and the means `[B, 784]`."""
        z, log_q = self.posterior(x, noise)
        log_p = -(z.square() / 2 + 0.5 * math.log(2 * math.pi)).sum(dim=1)
        return log_q - log_p, self.decoder(z)


@dataclass(frozen=True)
class FlowPosterior:
    """The posteriors of the digits, as `marginal_kl` takes them; each digit `times` over, for as many draws of it."""

    flow: Flow
    digits: Tensor
    times: int

    def __len__(self) -> int:
        return self.times * len(self.digits)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(len(self), 2, generator=generator)
        with torch.no_grad():
            z: Tensor = self.flow(self.digits.repeat(self.times, 1), noise)[0]
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            one = [self.flow.log_prob(z, digit.expand(len(z), -1)) for digit in self.digits]
        return torch.stack(one, dim=1).repeat(1, self.times)


@dataclass(frozen=True)
class Result:
    """What became of an objective; nats.

    Attributes:
        rate: the mean KL of the posteriors.
        marginal: the KL of the aggregate posterior to the prior: what of it the tiles leave empty, or cover twice.
        standard_error: of `marginal`.
        information: between z and the digit, the difference of the two, at most log 7.
        error: the root mean squared error of all reconstructions, a share of the pixels' range.
        chance: the mean probability that the classifier gives to the true digit of a reconstruction.
        multiplier: λ at the end, or None.
        skipped: updates whose gradient was not finite.
    """

    spec: str
    rate: float
    marginal: float
    standard_error: float
    information: float
    error: float
    chance: float
    multiplier: float | None
    skipped: int


def choose(count: int, seed: int) -> Tensor:
    """The rows of seven random images among `count`."""
    if count < DIGITS:
        raise DataError(f"{count} images, and Micro-MNIST needs {DIGITS}")
    return torch.randperm(count, generator=generator(CPU, seed, 0, "micro"))[:DIGITS]


def classify(images: Tensor, labels: Tensor, seed: int, epochs: int) -> tuple[nn.Module, float]:
    """A small convolutional classifier of images `[N, 784]` in [0, 1], and its accuracy on the last tenth of them."""
    torch.manual_seed(seed)
    model = Classifier(1, 28, 28, 10, PIXELS)
    return model, fit(model, images, labels, epochs, lambda epoch: generator(CPU, seed, epoch, "classifier"))


def train(
    spec: str,
    digits: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    *,
    seed: int,
    steps: int,
    batch: int,
    lr: float,
    begin: Mapping[str, Tensor] | None = None,
) -> tuple[Result, Tensor, dict[str, Tensor]]:
    """A run on digits `[7, 784]` in [0, 1], `batch` samples of each a step, from new weights or from those in `begin`.

    Returns:
        Its result, `SHOWN` samples of each posterior `[7, SHOWN, 2]`, and the weights.
    """
    torch.manual_seed(seed)
    model = TileVAE()
    if begin is not None:
        model.load_state_dict(begin)
    objective = objectives.get(spec, pixels=PIXELS, classifier=classifier)
    decoder = decoders.get("optimal", PIXELS)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, wanted, skipped = digits.repeat(batch, 1), labels.repeat(batch), 0
    for step in range(steps):
        noise = torch.randn(len(x), 2, generator=generator(CPU, seed, step, "flow"))
        rate, mean = model(x, noise)
        weighed = objective(rate, decoder.nll(x, mean), reconstruction=mean, target=x, labels=wanted)
        optimizer.zero_grad()
        weighed.loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        bad = not bool(norm.isfinite())
        if not bad:
            optimizer.step()
        skipped += bad
        decoder.step(skipped=bad)
        objective.step(skipped=bad)
        schedule.step()
    result = judge(spec, model, objective, digits, labels, classifier, seed, skipped)
    return result, shown(model, digits, seed), model.state_dict()


@torch.no_grad()
def judge(
    spec: str,
    model: TileVAE,
    objective: Objective,
    digits: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    seed: int,
    skipped: int,
) -> Result:
    """The numbers of a trained model, each of 500 samples of every posterior."""
    times = 500
    posterior = FlowPosterior(model.posterior, digits, times)
    found = marginal_kl(posterior, generator=generator(CPU, seed, 0, "marginal"))
    noise = torch.randn(times * len(digits), 2, generator=generator(CPU, seed, 0, "judged"))
    x, wanted = digits.repeat(times, 1), labels.repeat(times)
    rate, mean = model(x, noise)
    chance = classifier(mean).softmax(dim=1).gather(1, wanted[:, None]).mean()
    error = (mean - x).square().mean().sqrt()
    multiplier = float(objective.multipliers[0]) if isinstance(objective, Geco) else None
    kl = float(rate.mean())
    return Result(
        spec, kl, found.value, found.standard_error, kl - found.value, float(error), float(chance), multiplier, skipped
    )


@torch.no_grad()
def shown(model: TileVAE, digits: Tensor, seed: int) -> Tensor:
    """Samples of each posterior, `[7, SHOWN, 2]`."""
    noise = torch.randn(SHOWN * len(digits), 2, generator=generator(CPU, seed, 0, "shown"))
    z: Tensor = model.posterior(digits.repeat_interleave(SHOWN, 0), noise)[0]
    return z.view(len(digits), SHOWN, 2)
