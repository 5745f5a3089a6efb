"""A calibrated likelihood in the place of a host's own reconstruction term, where the host's expression stood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vdvae_patch.attach.sites import TermSite
from vdvae_patch.decoders import Gaussian, Optimal
from vdvae_patch.decoders.gaussian import Fixed, Shared
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.patching.decoder import TERM, Apart

Reduced = Literal["sum", "mean", "rows", "values"]
Reads = Literal["mean", "logit", "log mean"]

AROUND_A_MEAN = (Optimal, Fixed, Shared)
"""The decoders that need no more of a network than the mean of the data."""


@dataclass(frozen=True)
class Mixing:
    """How weights and means become one mean.

    Attributes:
        components: the dimension of the weights that numbers the components.
        means: the same of the means, whose further dimensions behind those of the weights share them.
        logarithmic: whether the weights are given by their logarithms.
    """

    components: int
    means: int
    logarithmic: bool

    def mean(self, weights: Tensor, means: Tensor) -> Tensor:
        """Σₖ wₖ μₖ, the shape of the means without the dimension of the components."""
        weights = (weights.exp() if self.logarithmic else weights).movedim(self.components, 0)
        means = means.movedim(self.means, 0)
        return (weights.reshape(weights.shape + (1,) * (means.dim() - weights.dim())) * means).sum(dim=0)

    def data(self, data: Tensor, rank: int) -> Tensor:
        """The data without the dimension along which they are compared with each component; `rank` is the means'."""
        return data.select(self.means, 0) if data.dim() == rank else data


class Term(Apart):
    """−log p(data) with a factor, in the shape of the expression that it stands for.

    Of output and data `[B, ...]`, alike in shape: `values` gives `[B, ...]`; `rows` their sum over each image, `[B]`;
    `sum` the sum of all and `mean` that sum over B, one number each. Nats where the factor is 1. With `images` = 2 the
    first two dimensions number images, such as draws of each, `[K, B, ...]` or `[B, K, ...]`: `rows` gives both, `mean`
    divides by both, and the data may be repeated along them as arithmetic repeats them.

    The output is the mean of the data, or that by which a host's cross-entropy has it: its logit or its logarithm. Of a
    `torch.distributions.Distribution` its mean is taken. Of a mixture it is the means of the components, compared with
    the data along a dimension of their own; with their weights they make one mean.

    As a child of the model it is trained, evaluated and moved with it, and stands apart from its `state_dict`.
    """

    def __init__(
        self,
        decoder: Gaussian,
        reduced: Reduced,
        factor: float,
        reads: Reads = "mean",
        data_first: bool = False,
        mixing: Mixing | None = None,
        images: int = 1,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.reduced: Reduced = reduced
        self.factor = factor
        self.reads: Reads = reads
        self.data_first = data_first
        self.mixing = mixing
        self.images = images
        self.tracking = True
        """Whether the σ of evaluation moves; not while a patch is tried out."""
        self.seen = math.nan
        """σ of the last batch that was tried out, in the units of what is compared."""

    def forward(self, output: Tensor | Distribution, data: Tensor, weights: Tensor | None = None) -> Tensor:
        """See the class.

        Args:
            output, data: with `data_first` the other way round.
            weights: of the components of a mixture.

        Raises:
            InvalidValueError: shapes that differ, so that values would be compared several times.
        """
        if self.data_first:
            output, data = data, output
        output = self.mean_of(output)
        if self.mixing is not None and weights is not None:
            data = self.mixing.data(data, output.dim())
            output = self.mixing.mean(weights, output)
        if self.images > 1 and output.dim() >= data.dim():
            data = _repeated(data, output)
        if output.shape != data.shape or not data.dim():
            raise InvalidValueError(
                f"decoder {self.decoder.name} in the place of a reconstruction term: output and data must have one "
                f"shape, not {list(output.shape)} and {list(data.shape)}"
            )
        # one difference and no other, so that a scan of the loss reads it as the term that it is
        error = (output - data).reshape(len(output), 1, -1)
        nats = -self.decoder._log_prob(torch.zeros_like(error), error)
        if not self.tracking:
            self.decoder.step(skipped=True)
            self.seen = float(self._log_sigma(error).exp())
        nats = nats.reshape(output.shape) * self.factor
        if self.reduced == "values":
            return nats
        rows = nats.reshape(*output.shape[: self.images], -1).sum(dim=-1)
        return rows if self.reduced == "rows" else rows.sum() if self.reduced == "sum" else rows.mean()

    def mean_of(self, output: Tensor | Distribution) -> Tensor:
        """The mean of the data that the host computes."""
        if isinstance(output, Distribution):
            mean: Tensor = output.mean
            return mean
        return output.sigmoid() if self.reads == "logit" else output.exp() if self.reads == "log mean" else output

    @torch.no_grad()
    def _log_sigma(self, error: Tensor) -> Tensor:
        if isinstance(self.decoder, Optimal):
            return self.decoder.batch_log_sigma(torch.zeros_like(error), error)
        return self.decoder.log_sigma(error)


def _repeated(data: Tensor, output: Tensor) -> Tensor:
    """The data along the dimensions in which arithmetic would repeat them beside the output; as they are, if none."""
    sizes = zip(reversed(data.shape), reversed(output.shape), strict=False)
    return data.expand_as(output) if all(own in (1, size) for own, size in sizes) else data


class TermReader:
    """What stands in the host's code, and calls the term of the module whose method that is, if it is at hand there.

    In a function that a method calls, or beside the model, it is the term that it was made with: copies of the model
    then share the σ of evaluation.
    """

    def __init__(self, term: Term) -> None:
        self.term = term

    def __call__(self, output: Tensor | Distribution, data: Tensor, *more: Any) -> Tensor:
        """`more`: the weights of a mixture, and the module whose method the term stands in."""
        mixed = self.term.mixing is not None
        own = more[mixed]._modules.get(TERM) if len(more) > mixed else None
        result: Tensor = (self.term if own is None else own)(output, data, *more[:mixed])
        return result


def term_of(site: TermSite) -> Term:
    """The term that stands at a place."""
    assert isinstance(site.reader, TermReader)
    return site.reader.term


def put_term(model: nn.Module, term: Term) -> None:
    """Make a term a child of the module that holds its expression, in its mode and on its device; `unpatch` takes it
    away."""
    like = next(model.parameters(), None)
    if like is not None and not like.is_meta:  # a model that is built there gets its values later, and the term has its
        term.to(like.device)
    model.add_module(TERM, term.train(model.training))


def term_in(model: Any) -> Term | None:
    """The term of a model or of a part of it; None without one."""
    return next((module for module in model.modules() if isinstance(module, Term)), None)
