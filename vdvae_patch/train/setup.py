"""From a configuration to everything a run needs: host, data, models, patch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.data import load
from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import CheckpointError
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS, Host, load_entry_file, load_host
from vdvae_patch.hosts.trainable import TrainableEntry, trainable
from vdvae_patch.patching import VANILLA, Variant, check_intact, is_patched, patch, patch_record
from vdvae_patch.train import checkpoint
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.noise import seed_noise


@dataclass(frozen=True)
class Workload:
    """A host with its data, the model that is trained and the one that holds the moving average; both patched."""

    host: Host
    entry: TrainableEntry
    data: ImageData
    model: nn.Module
    ema: nn.Module
    heads: list[Head]

    @property
    def latent_heads(self) -> list[Head]:
        """The heads that a pass through the latents computes: posteriors and priors."""
        return [head for head in self.heads if head.role != "likelihood"]

    def check_patch(self) -> None:
        """Make sure that the patch of the model and of its average is in force, see `check_intact`."""
        for model in (self.model, self.ema):
            if is_patched(model):
                check_intact(model)

    def checkpoint_info(self, step: int, *, finite: bool, nelbo: float | None) -> CheckpointInfo:
        """What a checkpoint says about itself."""
        record = patch_record(self.model) if is_patched(self.model) else None
        return CheckpointInfo(
            step=step,
            host=self.host.name,
            variant=str(record.variant) if record else VANILLA,
            arithmetic=record.arithmetic if record else "host",
            heads=tuple(patched.row() for patched in record.heads) if record else (),
            finite=finite,
            nelbo=nelbo,
        )


def find_entry(config: TrainConfig[Any]) -> TrainableEntry:
    """The host's entry, a patch file of the user's loaded first."""
    if config.patches is not None:
        load_entry_file(config.patches)
    return trainable(HOSTS.get(config.host))


def prepare(config: TrainConfig[Any], device: torch.device) -> Workload:
    """Import the host, read the data, build the models with the seed's weights, and patch them.

    The patch is the only thing that differs between variants; it draws no random number.

    Raises:
        HostError, DataError, UnknownNameError, InvalidValueError, PatchError: as the parts raise them.
    """
    variant = Variant.parse(config.variant)
    entry = find_entry(config)
    host = load_host(config.host, config.upstream, allow_modified=config.allow_modified_upstream)
    name = config.data or entry.preset(config.preset).data
    data = load(name, config.data_root, seed=config.seed, limit_images=config.limit_images)
    hparams = entry.hyperparameters(
        config.architecture, image_size=data.image_size, image_channels=data.channels, data=data.name
    )
    seed_noise("init", config.seed)
    model = host.build(hparams)
    # built, not deep-copied: a host may hold references to its own modules that a copy would share
    ema = host.build(hparams)
    if config.weights is not None:
        load_weights(model, read_weights(config, str(variant)), config.weights)
    ema.load_state_dict(model.state_dict())
    model.to(device)
    ema.to(device).eval().requires_grad_(False)
    heads = host.heads(model)
    if not variant.is_vanilla or config.arithmetic == "stable":
        for module in (model, ema):
            patch(module, variant, heads=heads, arithmetic=config.arithmetic)
    return Workload(host, entry, data, model, ema, heads)


def read_weights(config: TrainConfig[Any], variant: str) -> dict[str, Tensor]:
    """The weights in a checkpoint folder of ours, or in a `state_dict` file such as VDVAE's `-model.th`.

    A file says nothing about variants: it is taken for what the host's own script saves, vanilla.

    Raises:
        CheckpointError: damaged, not a `state_dict`, or saved under another variant or host.
    """
    path = config.weights
    assert path is not None
    if path.is_dir():
        info, state = checkpoint.load(path)
        if not config.allow_other_variant:
            require_variant(info, variant, path)
        require_host(info, config.host, path)
        weights: dict[str, Tensor] = state["ema"]
        return weights
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"weights file {path} does not exist") from None
    except Exception as error:  # torch raises half a dozen types for a damaged file, pickle's among them
        raise CheckpointError(f"weights file {path} cannot be read as a state_dict: {type(error).__name__}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"weights file {path} does not hold a state_dict")
    if variant != VANILLA and not config.allow_other_variant:
        raise CheckpointError(
            f"weights file {path} is a plain state_dict, of a vanilla model as far as anyone can tell; "
            f"train it as {variant} with --allow-other-variant"
        )
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Strictly; raises `CheckpointError` if names or shapes are not the model's."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in weights.items()}
    if own != theirs:
        missing, unknown = sorted(own.keys() - theirs), sorted(theirs.keys() - own)
        other = [key for key in own.keys() & theirs if own[key] != theirs[key]]
        first = next(iter([*missing, *unknown, *sorted(other)]))
        raise CheckpointError(
            f"checkpoint {path} does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown, "
            f"{len(other)} of another shape (such as {first!r}); is it of another preset or host?"
        )
    model.load_state_dict(weights)


def require_variant(info: CheckpointInfo, variant: str, path: Path) -> None:
    """Refuse weights that were trained under another variant: they mean something else there."""
    if info.variant != variant:
        raise CheckpointError(
            f"checkpoint {path} was saved under variant {info.variant}, not {variant}; "
            f"train with --variant {info.variant}, or accept it with --allow-other-variant"
        )


def require_host(info: CheckpointInfo, host: str, path: Path) -> None:
    """Refuse weights of another host."""
    if info.host != host:
        raise CheckpointError(f"checkpoint {path} is of host {info.host}, not {host}; train with --host {info.host}")


def buffers_follow(source: nn.Module, target: nn.Module) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of buffers, which a moving average copies as they are."""
    return zip(source.buffers(), target.buffers(), strict=True)
