"""Options of the experiments: each dataclass below `Trained` is a subcommand of `reproduce`.

`Table1` is the subcommand `table1`, run by `experiments/table1.py`, which has `run(options) -> exit status`. This file
does not import torch, and does not import these: the help must not wait for torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.reading.fields import shown


@dataclass(frozen=True)
class Common:
    """What every experiment takes.

    Attributes:
        publish: also write the report to docs/results.
        out: folder of states, results and the report; by default runs/reproduce/NAME, or NAME-quick.
    """

    publish: bool = False
    out: Path | None = None

    def folder(self, name: str) -> Path:
        """Where this experiment writes."""
        return self.out or Path("runs", "reproduce", name)

    def check(self) -> None:
        """Refuse numbers that no experiment can mean, before anything is imported or begun; each has bounds of its own.

        Raises:
            InvalidValueError: the flag, and its bounds; or what it names twice.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _check(field.name, number)
            if isinstance(value, tuple):
                _check_once(field.name, value)


_MOST_SEED = 2**63 - 1  # as `train` has it
_MOST = 2**31 - 1
_LARGEST = 1e30  # of a number that multiplies what float32 holds
_MOST_AT_ONCE = 2**20
_AT_ONCE = frozenset({"batch_size", "chunk", "components", "count"})
"""So many are in memory together."""


def _check(name: str, number: float) -> None:
    if isinstance(number, float):
        good = number >= 0 if name == "minutes" else 0 < number <= _LARGEST
        says = "a number of at least 0" if name == "minutes" else f"a positive number of at most {_LARGEST:g}"
    else:
        most = _MOST_SEED if name == "seed" else _MOST_AT_ONCE if name in _AT_ONCE else _MOST
        least = 1 if name in _AT_ONCE else 0
        good, says = least <= number <= most, f"from {least} to {most:,}"
    if not good:
        raise InvalidValueError(f"--{name.replace('_', '-')} must be {says}, not {shown(number)}")


def _check_once(name: str, values: tuple[float | str, ...]) -> None:
    """Refuse what is named twice: its runs would be counted as twice as many as there are."""
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise InvalidValueError(f"--{name.replace('_', '-')} names {shown(twice)} twice")


@dataclass(frozen=True)
class Trained(Common):
    """What every experiment that trains takes.

    Attributes:
        quick: a smaller version, of minutes on two CPU cores.
        data_root: folder of the data; without it they are downloaded to the cache folder.
        device: such as cpu or cuda:0; by default cuda where there is one.
        minutes: stop after this time with the state saved; the same command goes on from there.
    """

    quick: bool = False
    data_root: Path | None = None
    device: str | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Table1(Common):
    """The smallest raw parameter for which each form of the log ratio is finite, and the same for every scale."""


@dataclass(frozen=True)
class ScaleErrors(Common):
    """The error of every scale, its inverse and its derivatives, and of the KL, in eps of each type, by mpmath.

    Attributes:
        count: raw parameters of each scale and type.
    """

    count: int = 900


@dataclass(frozen=True)
class Table2(Trained):
    """The convolutional VAE that overfits ten images: 36 cells of 10 runs.

    Attributes:
        seeds: runs a cell; 10 unless quick.
        steps: steps a run; 20,000 unless quick.
        batch_size: images a batch, drawn from the ten; 512 unless quick.
        chunk: runs that are computed together; by default all of a pair of scales, or what fits the GPU's memory.
        seams: decoders and objectives to try beside the paper's scales, such as optimal or optimal+geco(kappa=0.12).
    """

    seeds: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    chunk: int | None = None
    seams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table3(Trained):
    """The MLP VAE on MNIST: six likelihood scales, two means.

    Attributes:
        seeds: runs a cell; 5 unless quick.
        epochs: passes over the training images; 1,000 unless quick.
        dataset: mnist or fashion-mnist, which has the same format.
    """

    seeds: int | None = None
    epochs: int | None = None
    dataset: str = "mnist"


@dataclass(frozen=True)
class Figure1(Trained):
    """The smallest likelihood scale over the iterations, going on at two learning rates.

    Attributes:
        epochs: passes over the training images before and again after the fork; 1,000 unless quick.
    """

    epochs: int | None = None


@dataclass(frozen=True)
class Stress(Trained):
    """Every remedy on a VDVAE that overfits ten images at raised learning rates.

    Attributes:
        seeds: runs a remedy and learning rate; 10 unless quick.
        steps: steps a run; 300 unless quick.
        lr: learning rates.
        remedies: names of the remedies to try; all by default.
        image_size: 32, or 16 or 8 pooled, each with a model of its own; 8 if quick.
        jobs: worker processes, each with one thread and a remedy at a time.
        upstream: a checkout of the genuine code, instead of the embedded one.
    """

    seeds: int | None = None
    steps: int | None = None
    lr: tuple[float, ...] = ()
    remedies: tuple[str, ...] = ()
    image_size: int | None = None
    jobs: int = 1
    upstream: str | None = None


@dataclass(frozen=True)
class Table4(Common):
    """VDVAE on CIFAR-10: six variants, three seeds, the paper's settings or the longest fair comparison in a time.

    Attributes:
        variants: what is compared, with commas between.
        seeds: seeds with commas between.
        preset: of VDVAE.
        data: the data set.
        data_root: folder of the data; without it CIFAR-10 is downloaded to the cache folder.
        limit_images: train on this many random images.
        epochs: of each run.
        budget: minutes for all runs; each then does as many steps as that allows, the same for all.
        lr: a learning rate instead of the preset's; a raised one shows in minutes what took the paper days.
        device: such as cpu or cuda:0; by default cuda where there is one.
        nproc: processes (GPUs) of each run.
        jobs: runs side by side.
        threads: processor threads of each run; 0 is the number of cores over --jobs.
    """

    variants: str = "vanilla,upbounded,explin,vanilla/constant,upbounded/constant,explin/constant"
    seeds: str = "0,1,2"
    preset: str = "cifar10"
    data: str = "cifar10"
    data_root: Path | None = None
    limit_images: int | None = None
    epochs: int = 300
    budget: float | None = None
    lr: float | None = None
    device: str | None = None
    nproc: int = 1
    jobs: int = 1
    threads: int = 0

    @property
    def report(self) -> str:
        """The report's name."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Figure2(Table4):
    """Training NELBO and skipped updates, vanilla beside upbounded: a part of table 4's runs."""

    variants: str = "vanilla,upbounded"


@dataclass(frozen=True)
class Figure3(Table4):
    """Originals, reconstructions and samples, vanilla beside upbounded: a part of table 4's runs."""

    variants: str = "vanilla,upbounded"


@dataclass(frozen=True)
class CalibratedDecoders(Trained):
    """Every decoder on one model and the same 8-bit images, and a sweep of beta beside the analytic sigma.

    Attributes:
        seeds: runs a decoder and a beta; 3 unless quick.
        epochs: passes over the training images; 40 unless quick.
        dataset: 8-bit images whose sides are multiples of 4, such as mnist, frey-faces or cifar10.
        decoders: those to train beside fixed and optimal, which are compared; all by default, of which categorical
            takes as long as the others together on images of three colours.
    """

    seeds: int | None = None
    epochs: int | None = None
    dataset: str = "mnist"
    decoders: tuple[str, ...] = ()


@dataclass(frozen=True)
class GecoTheory(Trained):
    """Taming VAEs without large models: blurred reconstructions, fixed points, Lipschitz constraints, Micro-MNIST.

    Attributes:
        seed: of the data, the starts, and the digits; 0 by default.
    """

    seed: int = 0


@dataclass(frozen=True)
class Geco(Trained):
    """Taming VAEs, section 4: ConvDRAW and a VAE with a flow in the information plane, by ELBO, annealing and GECO.

    Attributes:
        seeds: runs of each; 3 unless quick.
        updates: of each run; 1,000,000 unless quick.
        kappa: errors that GECO is asked for, root mean squares in shares of the pixels' range; five unless quick.
        hosts: which to train, of convdraw, conditional and nvp_vae; all by default.
        data: data sets to train on; of each host those that it has by default.
        variant: scales of all models.
    """

    seeds: int | None = None
    updates: int | None = None
    kappa: tuple[float, ...] = ()
    hosts: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    variant: str = "explin"


@dataclass(frozen=True)
class LargeVae(Trained):
    """Gated dense VAEs with one and two levels, each with N(0, 1) and with a VampPrior: bounds and log likelihoods.

    Attributes:
        quick: a smaller version, of a few minutes on two CPU cores; without it they take about half an hour.
        night: the settings that aim at the references' values, for a night or more.
        seeds: runs a model; 1 unless given.
        epochs: passes over the training images, at most; unless given 10,000 updates' (quick 500, night 200,000, and
            never more than 2,000 passes).
        warmup: the weight of the rate is epoch / warmup until it is 1, epochs counted from 1; a tenth of the epochs
            unless given, and 100 at night.
        patience: stop after this many epochs, past the warm-up, without a better bound of the validation images, and
            test the weights that had the best; 0 goes on to the last epoch, and tests its weights.
        samples: of the posterior for each image of the log likelihood; 500, and 5,000 at night.
        images: test images of the log likelihood, evenly spread; 0 is all. 500, quick 100, at night 1,000.
        train: training images, the first ones; 0 is all, as it is unless quick.
        components: pseudo-inputs; 100, at night 500.
        models: which of the four, as the presets of the host are called; another command may add the others.
        pseudo_inputs: what they start from: training images, or noise about the images' mean.
        lr: learning rate of Adam; 3e-3, and 5e-4 at night.
        vamp_lr: the same of models with a VampPrior; lr unless given.
        pseudo_lr: learning rate of pseudo-inputs, a multiple of the model's.
        decay: of learning rates: cosine to 0 over all epochs, or none; cosine, and none at night.
        unit_gradients: divide each tensor's gradient by its norm before Adam, as the VampPrior's authors do.
        variant: scales of all models.
        dataset: mnist-drawn-anew, mnist-drawn-once, mnist-thresholded, frey-faces, fashion-mnist, ...
    """

    night: bool = False
    seeds: int | None = None
    epochs: int | None = None
    warmup: int | None = None
    patience: int = 50
    samples: int | None = None
    images: int | None = None
    train: int | None = None
    components: int | None = None
    models: tuple[Literal["standard", "vamp", "hvae", "hvae-vamp"], ...] = ("standard", "vamp", "hvae", "hvae-vamp")
    pseudo_inputs: Literal["images", "noise"] = "images"
    lr: float | None = None
    vamp_lr: float | None = None
    pseudo_lr: float = 1.0
    decay: Literal["cosine", "none"] | None = None
    unit_gradients: bool = False
    variant: str = "explin"
    dataset: str = "mnist-drawn-anew"


@dataclass(frozen=True)
class VampStress(Trained):
    """The VampPrior at rising learning rates, by scale: which updates are not finite, and what a run then is worth.

    Attributes:
        seeds: runs a cell; 3 unless quick, which takes 1.
        train: training images, the first ones; a run goes over them `epochs` times in batches of 100.
        epochs: passes over them; 5, quick 2.
        components: pseudo-inputs.
        levels: of latents, 1 or 2.
        variants: scales to compare.
        lrs: learning rates of the model, constant.
        pseudo_lrs: learning rates of the pseudo-inputs, multiples of the model's.
        dataset: mnist-drawn-anew, mnist-drawn-once, mnist-thresholded, frey-faces, ...
    """

    seeds: int | None = None
    train: int = 3000
    epochs: int | None = None
    components: int = 50
    levels: Literal[1, 2] = 1
    variants: tuple[str, ...] = ("vanilla", "explin", "upbounded")
    lrs: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 1e-1)
    pseudo_lrs: tuple[float, ...] = (1.0, 0.1)
    dataset: str = "mnist-drawn-anew"


def by_name() -> dict[str, type[Common]]:
    """Every experiment's options, by the name of its subcommand: `CalibratedDecoders` is `calibrated-decoders`."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Common)]
    return {_dashed(kind.__name__): kind for kind in kinds if kind not in (Common, Trained)}


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
