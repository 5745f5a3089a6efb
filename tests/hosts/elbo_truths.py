"""Which bound the losses of our small models of public styles are, worked out by hand, and what the scan says of them.

Each truth was written from reading the model and its loss, and committed before any of these losses was scanned for its
bound. a is the factor on each element's KL, b the one on each value of the reconstruction term; B rows of a batch.
`PYTHONPATH=tests/hosts python -m elbo_truths` prints the table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import held_out_vaes
import torch
from public import third_images, third_sequences
from torch import nn
from zoo import deep, likelihoods, plain

from vdvae_patch.scanning import scan
from vdvae_patch.scanning.bound.elbo import LossElbo


@dataclass(frozen=True)
class Truth:
    """What the bound of a loss is.

    Attributes:
        file, name: where the case stands.
        kind: of the reconstruction term; None where the loss is no bound with one reconstruction term and one KL.
        sigma: of a squared error (√(a / 2b)) or an absolute one (√2 a / b, a Laplace's), in units of the data.
        beta: a / b of any other likelihood.
        why: the two factors, or why there is none.
    """

    file: str
    name: str
    kind: str | None
    sigma: float | None = None
    beta: float | None = None
    why: str = ""


BERNOULLI, LOGITS = "Bernoulli cross-entropy", "Bernoulli cross-entropy with logits"
CATEGORICAL, GAUSSIAN = "categorical cross-entropy", "Gaussian density"
SQUARED, ABSOLUTE = "squared error", "absolute error"

TRUTHS = (
    # --- zoo: rows are 5 x 6, images 2 x 3 x 8 x 8 ---
    Truth("zoo.plain", "SeparateLayers", BERNOULLI, beta=1, why="both summed"),
    Truth("zoo.plain", "LyingName", SQUARED, sigma=0.5, why="a = 1/2, mean over 2 images; b = 1"),
    Truth("zoo.plain", "ThreeWays", SQUARED, sigma=math.sqrt(0.75), why="a = 1/20, b = 1/30, both means"),
    Truth("zoo.plain", "ClampedLogVariance", ABSOLUTE, sigma=math.sqrt(2) * 0.192, why="a = 0.001/2, b = 1/384"),
    Truth("zoo.plain", "OnlySampled", None, why="no loss"),
    Truth("zoo.plain", "Masked", SQUARED, sigma=math.sqrt(1.8), why="a = 1/10, the unmasked frames; b = 1/36"),
    Truth("zoo.plain", "Scripted", SQUARED, sigma=math.sqrt(3), why="a = 1/5, b = 1/30; in TorchScript"),
    Truth("zoo.deep", "ResidualSum", ABSOLUTE, sigma=math.sqrt(2), why="a = b = 1/5"),
    Truth("zoo.deep", "ResidualProduct", SQUARED, sigma=math.sqrt(15), why="a = 1, b = 1/30"),
    Truth("zoo.deep", "Ladder", SQUARED, sigma=math.sqrt(3), why="a = 1/5, b = 1/30"),
    Truth("zoo.deep", "Recurrent", SQUARED, sigma=1, why="a = 1/15, mean over 3 steps and 5 rows; b = 1/30 a step"),
    Truth("zoo.deep", "Vamp", SQUARED, sigma=math.sqrt(3), why="a = 1/5, of a sample; b = 1/30"),
    Truth("zoo.deep", "SharedHead", SQUARED, sigma=math.sqrt(15), why="a = 1, b = 1/30"),
    Truth("zoo.likelihoods", "NormalDecoder", GAUSSIAN, beta=1, why="a = b = 1/5"),
    Truth("zoo.likelihoods", "GlobalScale", GAUSSIAN, beta=1, why="a = b = 1/5; one learned σ"),
    Truth("zoo.likelihoods", "Disagreeing", SQUARED, sigma=math.sqrt(0.5), why="a = b = 1/5"),
    Truth("zoo.likelihoods", "MonteCarlo", SQUARED, sigma=math.sqrt(0.5), why="a = b = 1/5"),
    Truth("zoo.likelihoods", "Squashed", None, why="log q(z) and no prior: an entropy, no KL"),
    Truth("zoo.likelihoods", "GaussianLoss", GAUSSIAN, beta=6, why="a = 1/5, b = 1/30"),
    Truth("zoo.likelihoods", "Functional", SQUARED, sigma=math.sqrt(0.5), why="a = b = 1/5"),
    # --- held out ---
    Truth("held_out_vaes", "SingleCell", "log likelihood", beta=1, why="negative binomial; a = b = 1/6"),
    Truth("held_out_vaes", "LadderOfThree", LOGITS, beta=0.2, why="a = 1/5, a mean; b = 1, the sum is not divided"),
    Truth("held_out_vaes", "AudioAutoencoder", None, why="two: of spectra and of waves"),
    Truth("held_out_vaes", "NeuralProcess", GAUSSIAN, beta=1, why="a = b = 1/27"),
    Truth("held_out_vaes", "TotalCorrelation", None, why="the KL in three parts, of which one counts 6 times"),
    Truth("held_out_vaes", "PixelDecoder", CATEGORICAL, beta=1, why="both summed, mean over images"),
    Truth("held_out_vaes", "GraphVae", LOGITS, beta=1, why="a = 1/49, b = 1/49"),
    Truth("held_out_vaes", "Hyperprior", None, why="noise is uniform: no σ of a posterior"),
    Truth("held_out_vaes", "ProbabilisticUnet", LOGITS, beta=5, why="a = 10/2, b = 1"),
    Truth("held_out_vaes", "InverseFlow", SQUARED, sigma=1, why="a = 1/5, of a sample behind a flow; b = 1/10"),
    # --- the third look's images: in our own words, of public code ---
    Truth("third_images", "TCVAE, normal", None, why="the KL in three parts, of which one counts 6 times"),
    Truth("third_images", "TCVAE, laplace", None, why="a Laplace posterior"),
    Truth("third_images", "SPADE with an encoder", ABSOLUTE, sigma=math.sqrt(2) * 2.88, why="a = 0.05, b = 10/576"),
    Truth("third_images", "DRIT", None, why="two: of both domains' images"),
    Truth("third_images", "AAE", None, why="no KL: an adversary"),
    Truth("third_images", "BetaVAE", BERNOULLI, beta=4, why="a = 4/4, b = 1/4"),
    Truth("third_images", "HierarchicalVAE", LOGITS, beta=1, why="a = b = 1/6"),
    Truth("third_images", "VaDE", BERNOULLI, beta=1, why="b = 16/96, a = 1/6"),
    Truth("third_images", "VQ-VAE notebook", None, why="no KL: codes"),
    Truth("third_images", "Glow (chaiyujin)", None, why="a flow"),
    Truth("third_images", "RealNVP (nflib)", None, why="a flow"),
    Truth("third_images", "HiFiC hyperprior", None, why="noise is uniform: no σ of a posterior"),
    Truth("third_images", "QmapCompression", None, why="noise is uniform: no σ of a posterior"),
    Truth("third_images", "WHAT, combined uncertainty", None, why="a regression: no KL"),
    Truth("third_images", "Concrete dropout", None, why="a regression: no KL of a Normal"),
    Truth("third_images", "MDN (tonyduan)", None, why="a regression: no KL"),
    Truth("third_images", "Automatic weighted loss", None, why="a regression: no KL"),
    Truth("third_images", "BBBLinear", None, why="posterior and prior have each other's place in the KL"),
    Truth("third_images", "Bayes by Backprop notebook", CATEGORICAL, beta=0.1, why="a = 1/10, b = 1; of labels"),
    Truth("third_images", "LinearGroupNJ", CATEGORICAL, beta=0.07, why="a = 1/100, b = 1/7; of labels"),
    Truth("third_images", "MoFlow", None, why="a flow"),
    Truth("third_images", "GraphRNN with a VAE", BERNOULLI, beta=1, why="a = b = 1/120"),
    Truth("third_images", "TabSyn", None, why="two: of numbers and of a category"),
)
"""The first look."""

SECOND = (
    Truth("third_sequences", "RAVE", ABSOLUTE, sigma=0.8 * math.sqrt(2), why="a = 0.2/24, no half; b = 1/96"),
    Truth("third_sequences", "ClariNet teacher", None, why="no KL"),
    Truth("third_sequences", "PolyDis", LOGITS, beta=0.6, why="a = 0.1/20 of both codes, b = 1/120"),
    Truth("third_sequences", "HiFi-GAN", None, why="no KL: adversaries"),
    Truth("third_sequences", "Grad-TTS", None, why="no KL: a diffusion"),
    Truth("third_sequences", "Improved VRNN", SQUARED, sigma=math.sqrt(0.5), why="a = b = 1/3, of a sample"),
    Truth("third_sequences", "Motion VAE", SQUARED, sigma=math.sqrt(0.125), why="a = 0.2/24, b = 1/30"),
    Truth("third_sequences", "HuMoR", SQUARED, sigma=math.sqrt(0.001), why="a = 0.0004/6, b = 1/30"),
    Truth("third_sequences", "ACTOR", SQUARED, sigma=math.sqrt(5.4e-4), why="a = 1e-5, b = 1/108, unmasked frames"),
    Truth("third_sequences", "AgentFormer", SQUARED, sigma=math.sqrt(0.5), why="a = b, one over the agents"),
    Truth("third_sequences", "RVAE (kefirski)", BERNOULLI, beta=1.5, why="a = 0.3/5, b = 1/25; of softmax and one-hot"),
    Truth(
        "third_sequences", "VAE with a pretrained encoder", CATEGORICAL, beta=0.5, why="a = 0.5/5, b = 1/5, two draws"
    ),
    Truth("third_sequences", "Optimus", CATEGORICAL, beta=0.5, why="a = 0.5/5 above the threshold, b = 1/5"),
    Truth("third_sequences", "MOSES VAE", CATEGORICAL, beta=0.4, why="a = 0.1/4, b = 1/16, 16 tokens are no padding"),
    Truth("third_sequences", "ProdLDA with learned priors", CATEGORICAL, beta=1, why="both summed"),
    Truth("third_sequences", "ETM", CATEGORICAL, beta=1, why="a = b = 1/6"),
    Truth("third_sequences", "SVAE for recommendation", CATEGORICAL, beta=0.1, why="a = 0.2/6, b = 1/3"),
    Truth("third_sequences", "MacridVAE", CATEGORICAL, beta=0.2, why="a = 0.2/6 of three codes, b = 1/6"),
    Truth(
        "third_sequences",
        "trVAE",
        SQUARED,
        sigma=math.sqrt(5e-4),
        why="a = 0.001/6, b = 1/6; beside a kernel's distance",
    ),
    Truth("third_sequences", "scMM, RNA", None, why="a Laplace posterior"),
    Truth("third_sequences", "Latent ODE example", SQUARED, sigma=0.3, why="a density of that σ"),
)
"""The second look, at models that the scan was not mended for."""

_ZOO = {"zoo.plain": plain, "zoo.deep": deep, "zoo.likelihoods": likelihoods, "held_out_vaes": held_out_vaes}
_CLOSE = 1e-3


def case_of(truth: Truth) -> tuple[nn.Module, tuple[Any, ...], Any]:
    """Model from seed 0, inputs and call of a truth's case."""
    torch.manual_seed(0)
    if truth.file in ("third_images", "third_sequences"):
        module = third_images if truth.file == "third_images" else third_sequences
        public = next(c for c in module.CASES if c.name == truth.name)
        return public.made(), public.inputs(), public.call
    case = next(c for c in _ZOO[truth.file].CASES if c.name == truth.name)
    return case.build(), case.inputs(), case.call


def scanned(truth: Truth) -> LossElbo:
    """What the scan says."""
    model, inputs, call = case_of(truth)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scan(model, *inputs, call=call).elbo


def verdict(truth: Truth, elbo: LossElbo) -> str:
    """`right`, or what is wrong."""
    if truth.kind is None:
        return "right" if not elbo else f"says {elbo.reconstruction}, σ {elbo.sigma}, β {elbo.beta}"
    if not elbo:
        return f"not found: {elbo.reason}"
    assert elbo.reconstruction is not None
    if elbo.reconstruction.kind != truth.kind:
        return f"is called {elbo.reconstruction.kind}"
    value, true = (elbo.sigma, truth.sigma) if truth.sigma is not None else (elbo.beta, truth.beta)
    assert true is not None
    if value is None or not math.isclose(value, true, rel_tol=_CLOSE):
        return f"says {value}"
    return "right"


def rows(truths: Sequence[Truth]) -> Iterator[tuple[Truth, str]]:
    for truth in truths:
        try:
            yield truth, verdict(truth, scanned(truth))
        except Exception as problem:
            yield truth, f"scan raised {type(problem).__name__}: {problem}"


def table(truths: Sequence[Truth]) -> str:
    """A row a model in Markdown, and how many are right."""
    lines = ["| model | reconstruction term | σ or β by hand | the scan |", "| :-- | :-- | --: | :-- |"]
    right = {True: 0, False: 0}
    for truth, said in rows(truths):
        value = "" if truth.kind is None else f"σ {truth.sigma:.4g}" if truth.sigma else f"β {truth.beta:.4g}"
        lines.append(f"| {truth.file} {truth.name} | {truth.kind or f'none ({truth.why})'} | {value} | {said} |")
        right[truth.kind is not None] += said == "right"
    with_one = sum(truth.kind is not None for truth in truths)
    without = len(truths) - with_one
    return "\n".join(
        [*lines, "", f"Right: {right[True]} of {with_one} with a bound, {right[False]} of {without} without."]
    )


if __name__ == "__main__":
    for look in (TRUTHS, SECOND):
        print(table(look), end="\n\n")
