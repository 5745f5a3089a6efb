"""From a host's pass to what is minimized, where a run has a decoder, an objective or a top prior of its own.

    parts = Pass(model, seam, ...)(x, target)      what DDP and the compiler are put around
    weighed = Weighing(...).weigh(parts)           the loss in nats per dimension, and what the log says of it

A run with none goes by its entry's `losses` alone, and none of this is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vdvae_patch import objectives
from vdvae_patch.decoders import Optimal, PixelGrid
from vdvae_patch.errors import HostError, InvalidValueError
from vdvae_patch.hosts.host import Host
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.objectives import BalancedRate, Objective
from vdvae_patch.patching import Variant
from vdvae_patch.patching.decoder import Likelihood, likelihood_in
from vdvae_patch.registry import parse_spec
from vdvae_patch.seams import DecoderSeam
from vdvae_patch.train.aside import aside

LOOK_EVERY = 100
"""Of how many batches a decoder looks at one on a GPU, where each look is a wait for the device."""

_CLASSIFIER = "classifier."
"""What the names of its weights begin with in a state."""


def needs_classifier(objective: str) -> bool:
    """Whether a specification has the constraint `cla`."""
    return "cla" in parse_spec(objective, "objective")[2]


class Weighed(NamedTuple):
    """What a step minimizes, and what it reports.

    Attributes:
        loss: a scalar in nats per dimension.
        losses: the bound with β = 1 and its two terms, whatever is minimized.
        metrics: of all ranks, by their names in the log.
    """

    loss: Tensor
    losses: Losses
    metrics: Mapping[str, Tensor]

    @classmethod
    def of(cls, found: Losses | Weighed) -> Weighed:
        """Of a host's own losses the bound is what is minimized."""
        return found if isinstance(found, Weighed) else cls(found.elbo, found, {})


class Measured(NamedTuple):
    """Scalars in nats per dimension; `mass_elbo` is the bound by the mass of each pixel's bin."""

    elbo: Tensor
    distortion: Tensor
    rate: Tensor
    mass_elbo: Tensor


class Pass(nn.Module):
    """The forward pass of a model in its parts: rate by groups, distortion, reconstruction, σ.

    Args:
        balanced: whether the rate's two gradients are to be told apart.
        reconstructs: whether the mean image is asked for.
    """

    def __init__(self, model: nn.Module, seam: DecoderSeam, balanced: bool = False, reconstructs: bool = False) -> None:
        super().__init__()
        self.model, self.seam, self.balanced, self.reconstructs = model, seam, balanced, reconstructs

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Any]:
        """Nats an image, `[B]`; `target` and `reconstruction` are `[B, C, ...]`."""
        terms = self.seam.terms(self.model, x, target, self.balanced)
        likelihood = likelihood_in(self.model)
        parts: dict[str, Any] = {"rates": dict(terms.rates), "target": terms.target, "distortion": terms.distortion}
        if terms.balanced is not None:
            parts |= {"prior": terms.balanced.prior, "posterior": terms.balanced.posterior}
        if likelihood is not None:
            assert terms.emitted is not None
            parameters = likelihood.parameters_of(terms.emitted)
            parts["distortion"] = likelihood.decoder.nll(terms.target, parameters)
            parts["sigma"] = likelihood.sigma(terms.target, parameters)
            if self.reconstructs:
                parts["reconstruction"] = likelihood.decoder.mean(parameters)
        return parts


@dataclass
class Weighing:
    """The objective of a run, at the seam of its host.

    Raises:
        HostError: the host has no such seam, or cannot tell the rate's gradients apart.
        InvalidValueError: the objective makes no sense beside the likelihood.
    """

    seam: DecoderSeam
    objective: Objective
    classifier: nn.Module | None = None

    @classmethod
    def of(
        cls,
        variant: Variant,
        host: Host,
        model: nn.Module,
        device: torch.device,
        classifier: Callable[[PixelGrid], nn.Module] | None = None,
    ) -> Weighing | None:
        """What a variant asks for, once its decoder is in the model; None for the host's own bound.

        Args:
            classifier: what makes one of images in these values, called if the objective needs it.
        """
        if variant.objective is None and not variant.adds_modules:
            return None
        seam = host.decoder_seam(model)
        spec = variant.objective or "elbo"
        judge = None
        if needs_classifier(spec):
            if classifier is None:
                raise InvalidValueError(f"objective {spec} needs a classifier, and there is none here")
            judge = classifier(seam.pixels).to(device)
        objective = objectives.get(spec, pixels=seam.pixels, classifier=judge).to(device)
        likelihood = likelihood_in(model)
        _check(objective, likelihood, seam, host.name)
        if isinstance(objective, objectives.Balance) and variant.top_prior is not None:
            raise InvalidValueError(
                f"objective balance weighs the two gradients of a KL apart, and of top prior {variant.top_prior} the "
                "rate is log q − log p of one draw, whose gradients are not told apart; take another objective"
            )
        return cls(seam, objective, judge)

    @torch.no_grad()
    def check_data(self, model: nn.Module, x: Tensor, target: Tensor) -> None:
        """Refuse data that the decoder is not made for; nothing of the model or of the noise is moved.

        After that it looks at few batches of a training on a GPU.

        Raises:
            InvalidValueError: with the values that were seen, and what to take.
        """
        likelihood = likelihood_in(model)
        if likelihood is None:
            return
        was_training = [module for module in model.modules() if module.training]
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            try:
                model.eval()
                with aside(model):
                    terms = self.seam.terms(model, x, target)
            finally:
                for module in was_training:
                    module.training = True
        assert terms.emitted is not None
        likelihood.decoder.check(terms.target, likelihood.parameters_of(terms.emitted))
        self.objective.look(terms.target)
        if x.device.type != "cpu":
            likelihood.decoder.look_every = LOOK_EVERY

    def module(self, model: nn.Module) -> Pass:
        """The pass of a model, for training."""
        balanced, reconstructs = self._is_balanced, self.objective.needs_reconstruction
        return Pass(model, self.seam, balanced, reconstructs)

    @property
    def _is_balanced(self) -> bool:
        return isinstance(self.objective, objectives.Balance)

    def weigh(self, parts: Mapping[str, Any]) -> Weighed:
        """The loss of a pass, and its metrics."""
        rate = BalancedRate(parts["prior"], parts["posterior"]) if "prior" in parts else parts["rates"]
        target = parts["target"]
        result = self.objective(rate, parts["distortion"], reconstruction=parts.get("reconstruction"), target=target)
        dimensions = target[0].numel()
        found = dict(result.metrics)
        rate_now, distortion = found.pop("rate") / dimensions, found.pop("distortion") / dimensions
        found.pop("nelbo")
        if parts.get("sigma") is not None:
            found.setdefault("sigma", parts["sigma"])
        return Weighed(result.loss / dimensions, Losses(rate_now + distortion, distortion, rate_now), found)

    def settle(self, model: nn.Module, skip: Tensor) -> None:
        """After an update: the states of decoder and objective move, unless it was skipped (1, else 0)."""
        likelihood = likelihood_in(model)
        if likelihood is not None:
            likelihood.decoder.step(skip)
        self.objective.step(skip)

    def set_epoch(self, steps: int) -> None:
        """Tell an objective that counts in epochs how many steps one has."""
        if isinstance(self.objective, objectives.Warmup):
            self.objective.steps_per_epoch = steps

    def buffers(self) -> list[Tensor]:
        """All of the objective's state."""
        return list(self.objective.buffers())

    def floats(self) -> list[Tensor]:
        """The part of the objective's state that its loss reads, for the recorder to follow."""
        return [buffer for buffer in self.objective.buffers() if buffer.is_floating_point()]

    def state(self) -> dict[str, Tensor]:
        """The objective's state, for a checkpoint, with the weights of its classifier if it has one."""
        state: dict[str, Tensor] = dict(self.objective.state_dict())
        if self.classifier is not None:
            state |= {_CLASSIFIER + name: value for name, value in self.classifier.state_dict().items()}
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave; that of another objective is left alone."""
        if state.keys() != self.state().keys():
            return
        if self.classifier is not None:
            parts = {name: value for name, value in state.items() if name.startswith(_CLASSIFIER)}
            self.classifier.load_state_dict({name.removeprefix(_CLASSIFIER): value for name, value in parts.items()})
            state = {name: value for name, value in state.items() if name not in parts}
        self.objective.load_state_dict(state)

    def measure(self, model: nn.Module, x: Tensor, target: Tensor) -> Measured:
        """The bound of a model in evaluation, with β = 1 and the training set's σ; density, and mass of the bins."""
        likelihood = likelihood_in(model)
        terms = self.seam.terms(model, x, target)
        dimensions = terms.target[0].numel()
        rate = torch.stack([value.mean() for value in terms.rates.values()]).sum() / dimensions
        if likelihood is None:
            assert terms.distortion is not None
            distortion = terms.distortion.mean() / dimensions
            mass = distortion if self.seam.mass is None else self._own_mass(model, terms.emitted, terms.target)
        elif isinstance(likelihood.decoder, Optimal) and not likelihood.decoder.updates:
            distortion = mass = torch.full_like(rate, torch.nan)  # no update was applied: there is no σ yet
        else:
            assert terms.emitted is not None
            parameters = likelihood.parameters_of(terms.emitted)
            distortion = likelihood.decoder.nll(terms.target, parameters).mean() / dimensions
            mass = distortion
            if likelihood.decoder.is_density:
                mass = likelihood.decoder.mass_nll(terms.target, parameters).mean() / dimensions
        return Measured(rate + distortion, distortion, rate, rate + mass)

    def _own_mass(self, model: nn.Module, emitted: Tensor | None, target: Tensor) -> Tensor:
        assert self.seam.mass is not None
        assert emitted is not None
        return self.seam.mass(model, emitted, target).mean() / target[0].numel()


def own_mass(host: Host, model: nn.Module) -> Weighing | None:
    """What measures a host's own likelihood by mass, where that is a density and the host says so; else None."""
    try:
        seam = host.decoder_seam(model)
    except HostError:
        return None
    return None if seam.mass is None else Weighing(seam, objectives.get("elbo"))


def is_density(host: Host, model: nn.Module) -> bool | None:
    """Whether a model's likelihood, its decoder's or the host's own, is a density; None where nobody says so."""
    likelihood = likelihood_in(model)
    if likelihood is not None:
        return likelihood.decoder.is_density
    try:
        return host.decoder_seam(model).mass is not None
    except HostError:
        return None


def _check(objective: Objective, likelihood: Likelihood | None, seam: DecoderSeam, host: str) -> None:
    if isinstance(objective, objectives.Balance) and seam.whole_rate:
        raise HostError(f"host {host!r} cannot be trained with objective balance: {seam.whole_rate}")
    if likelihood is not None:
        objective.check(likelihood.decoder)
    elif objective.needs_reconstruction:
        raise InvalidValueError(
            f"objective {objective.name} has no likelihood in its loss, and constrains the mean of a decoder; the "
            f"likelihood of host {host!r} has a scale of its own, which would not learn. Name a decoder, as in "
            f"--decoder optimal or vanilla+optimal+{objective.specification()}"
        )
