"""Hyperparameters: the presets of the VDVAE paper and the command line that chooses and changes them.

This module imports the standard library alone, so that a command line can list the presets at once.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Hyperparams(dict[str, Any]):
    """A dict whose items are attributes too; an attribute that was never set reads as `None`.

    `Hyperparams(other, lr=1e-4)` is `other` with one change, and leaves `other` as it was.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, pickle and inspect probe for such names and take None for an answer
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


_CIFAR10 = Hyperparams(
    dataset="cifar10",
    enc_blocks="32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
    dec_blocks="1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
    width=384,
    zdim=16,
    n_batch=16,
    lr=2e-4,
    wd=0.01,
    warmup_iters=100,
    ema_rate=0.9999,
)

_IMAGENET32 = Hyperparams(
    _CIFAR10,
    dataset="imagenet32",
    enc_blocks="32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6",
    dec_blocks="1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40",
    width=512,
    n_batch=8,
    lr=1.5e-4,
    ema_rate=0.999,
    grad_clip=200.0,
    skip_threshold=300.0,
    epochs_per_eval=1,
    epochs_per_eval_save=1,
)

_IMAGENET64 = Hyperparams(
    _IMAGENET32,
    dataset="imagenet64",
    enc_blocks="64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
    dec_blocks="1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
    n_batch=4,
    grad_clip=220.0,
    skip_threshold=380.0,
)

_FFHQ256 = Hyperparams(
    _IMAGENET64,
    dataset="ffhq_256",
    enc_blocks="256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
    dec_blocks="1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128",
    no_bias_above=64,
    n_batch=1,
    grad_clip=130.0,
    skip_threshold=180.0,
    num_images_visualize=2,
    num_variables_visualize=3,
    num_temperatures_visualize=1,
)

_FFHQ1024 = Hyperparams(
    _FFHQ256,
    dataset="ffhq_1024",
    data_root="./ffhq_images1024x1024",
    enc_blocks="1024x1,1024d2,512x3,512d2,256x5,256d2,128x7,128d2,64x10,64d2,32x14,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
    dec_blocks=("1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x20,64m32,64x14,128m64,128x7,256m128,256x2,512m256,1024m512"),
    width=16,
    custom_width_str="512:32,256:64,128:512,64:512,32:512,16:512,8:512,4:512,1:512",
    num_mixtures=2,
    lr=7e-5,
    grad_clip=360.0,
    skip_threshold=500.0,
    iters_per_images=25_000,
    num_images_visualize=1,
    num_variables_visualize=0,
    num_temperatures_visualize=4,
)

HPARAMS_REGISTRY: dict[str, Hyperparams] = {
    "cifar10": _CIFAR10,
    "imagenet32": _IMAGENET32,
    "imagenet64": _IMAGENET64,
    "ffhq256": _FFHQ256,
    "ffhq1024": _FFHQ1024,
}


@dataclass(frozen=True)
class _Option:
    name: str
    type: Callable[[str], Any]
    default: Any
    help: str

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        if self.type is bool:
            group.add_argument(f"--{self.name}", action="store_true", help=self.help)
        else:
            group.add_argument(f"--{self.name}", type=self.type, default=self.default, help=self.help)


_OPTIONS: dict[str, tuple[_Option, ...]] = {
    "run": (
        _Option("desc", str, "test", "name of the run"),
        _Option("save_dir", str, "./saved_models", "where runs are kept"),
        _Option("seed", int, 0, "seed of weights, noise and the order of the data"),
        _Option("port", int, 29500, "where the processes of a run meet"),
        _Option("test_eval", bool, False, "evaluate on the test set instead of training"),
        _Option("restore_path", str, None, "weights to start from"),
        _Option("restore_ema_path", str, None, "averaged weights to start from"),
        _Option("restore_optimizer_path", str, None, "optimizer state to start from"),
        _Option("restore_log_path", str, None, "log of the run that is continued"),
    ),
    "data": (
        _Option("dataset", str, "cifar10", "cifar10, imagenet32, imagenet64, ffhq_256 or ffhq_1024"),
        _Option("data_root", str, "./", "where the data set lies"),
    ),
    "model": (
        _Option("enc_blocks", str, None, "encoder layers, such as 32x11,32d2,16x6"),
        _Option("dec_blocks", str, None, "decoder layers, such as 1x1,4m1,4x2"),
        _Option("width", int, 512, "channels of the trunk"),
        _Option("custom_width_str", str, "", "channels at single resolutions, such as 512:32,256:64"),
        _Option("bottleneck_multiple", float, 0.25, "inner width of a block over its width"),
        _Option("zdim", int, 16, "latent channels of a decoder block"),
        _Option("num_mixtures", int, 10, "logistics in the likelihood of a pixel"),
        _Option("no_bias_above", int, 64, "highest resolution that starts at a learned bias"),
        _Option("scale_encblock", bool, False, "accepted and without effect"),
        _Option("temperature", float, 1.0, "accepted and without effect"),
    ),
    "optimizer": (
        _Option("n_batch", int, 32, "images a rank and step"),
        _Option("num_epochs", int, 10_000, "passes over the data"),
        _Option("lr", float, 1.5e-4, "learning rate of AdamW"),
        _Option("wd", float, 0.0, "weight decay of AdamW"),
        _Option("lr_prior", float, 1.5e-4, "accepted and without effect"),
        _Option("wd_prior", float, 0.0, "accepted and without effect"),
        _Option("adam_beta1", float, 0.9, "decay of the mean gradient"),
        _Option("adam_beta2", float, 0.9, "decay of the mean squared gradient"),
        _Option("warmup_iters", float, 0, "steps over which the learning rate rises"),
        _Option("ema_rate", float, 0.999, "decay of the averaged weights"),
        _Option("grad_clip", float, 200.0, "gradient norm above which a gradient is cut"),
        _Option("skip_threshold", float, 400.0, "gradient norm from which an update is skipped; -1 skips none"),
    ),
    "intervals": (
        _Option("iters_per_print", int, 1_000, "steps between two lines of the log"),
        _Option("iters_per_save", int, 10_000, "steps between two saves of the newest state"),
        _Option("iters_per_ckpt", int, 25_000, "steps between two checkpoints that are kept"),
        _Option("iters_per_images", int, 10_000, "steps between two image grids"),
        _Option("epochs_per_eval", int, 10, "epochs between two evaluations"),
        _Option("epochs_per_eval_save", int, 20, "epochs between two saves of an evaluated state"),
        _Option("epochs_per_probe", int, None, "accepted and without effect"),
        _Option("num_images_visualize", int, 8, "images in a grid"),
        _Option("num_variables_visualize", int, 6, "reconstructions in a grid, each from more latents"),
        _Option("num_temperatures_visualize", int, 3, "rows of samples in a grid, each at a lower temperature"),
    ),
}


def add_vae_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add every hyperparameter to `parser`, with its default, and return `parser`."""
    parser.add_argument(
        "--hparam_sets", "--hps", type=str, help=f"presets, comma separated: {', '.join(HPARAMS_REGISTRY)}"
    )
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            option.add_to(group)
    return parser


def parse_args_and_update_hparams(
    H: Hyperparams, parser: argparse.ArgumentParser, s: Sequence[str] | None = None
) -> None:
    """Read the command line `s` (the process's own if None) into `H`.

    A preset of `--hps` changes the parser's defaults, a later one those of an earlier one; an option that is given
    always wins.

    Raises:
        ValueError: a preset is unknown, or sets a name that `parser` does not know.
    """
    known = vars(parser.parse_args(s))
    for name in filter(None, (known["hparam_sets"] or "").split(",")):
        preset = _preset(name)
        strangers = sorted(set(preset) - set(known))
        if strangers:
            raise ValueError(f"preset {name!r} sets {', '.join(strangers)}, which this command line does not have")
        parser.set_defaults(**preset)
    H.update(vars(parser.parse_args(s)))


def _preset(name: str) -> Hyperparams:
    if name in HPARAMS_REGISTRY:
        return HPARAMS_REGISTRY[name]
    near = difflib.get_close_matches(name, HPARAMS_REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint} (known: {', '.join(HPARAMS_REGISTRY)})")
