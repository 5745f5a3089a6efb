"""From a configuration to everything a run needs: host, data, models, patch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch import top_priors
from vdvae_patch.data import load
from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.images import ImageData
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import CheckpointError, InvalidValueError
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS, Host, load_entry_file, load_host
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.hosts.trainable import TrainableEntry, trainable
from vdvae_patch.outside import SinceBuilt
from vdvae_patch.outside import put as put_outside
from vdvae_patch.patching import VANILLA, Variant, check_intact, is_patched, patch, patch_record
from vdvae_patch.patching.decoder import apart_state, likelihood_in, load_apart_state
from vdvae_patch.patching.top_prior import prepared
from vdvae_patch.reading.fields import checked, require, short
from vdvae_patch.seams import Normalized, TopPriorSeam
from vdvae_patch.top_priors import TopPrior
from vdvae_patch.train import checkpoint
from vdvae_patch.train import classifier as classifiers
from vdvae_patch.train.aside import aside
from vdvae_patch.train.buffers import averaged_by, can_be_copied, untrained
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.contents import require_tensors, taking_up
from vdvae_patch.train.noise import noise_seed, seed_noise
from vdvae_patch.train.weighing import Weighed, Weighing
from vdvae_patch.train.weight_files import WeightsFile, read_file, split_choice
from vdvae_patch.train.weights import select_weights

_STARTS = 1000
"""Training images that a top prior is started from, or more where it has more pseudo-inputs."""

_LOOKED_AT = 8
"""Training images that a decoder is shown before a run begins."""

LossFunction = Callable[[Tensor, Tensor], Losses | Weighed]


@dataclass(frozen=True)
class Workload:
    """A host with its data, the model that is trained and the one that holds the moving average; both patched.

    `notes` says where the weights came from that it begins with, if they were chosen from several; `remarks` what else
    is to be said at the start.
    """

    host: Host
    entry: TrainableEntry
    data: ImageData
    model: nn.Module
    ema: nn.Module
    heads: list[Head]
    notes: tuple[str, ...] = ()
    variant: Variant = field(default_factory=Variant)
    weighing: Weighing | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def outside(self) -> SinceBuilt:
        """What the model keeps outside of its `state_dict`, as `prepare` has built it."""
        return SinceBuilt(self.model, self.ema)

    @cached_property
    def _followed(self) -> set[str]:
        return set(self.outside.drawn_anew)

    def moved_in_python(self) -> str:
        """The names of what the model has moved outside of its `state_dict`; not what a pass has computed with its
        graph, which is none of the next one's."""
        moved = self.outside.moved()
        return ", ".join([*(moved.values.keys() - moved.computed), *moved.lost])

    def let_average_follow(self) -> None:
        """Give the averaged weights what the model keeps outside of its `state_dict`, as it is now.

        No average is taken of it: a step that is counted, or the weight that comes of it, is the model's at this
        moment, as its buffers are. A pass of the averaged weights counts for nothing, see `Aside`.
        """
        moved = self.outside.moved(also=self._followed)
        self._followed.update(moved.values)
        put_outside(self.ema, moved.values, "the averaged weights")

    def losses(self, x: Tensor, target: Tensor) -> Losses | Weighed:
        """What a step minimizes of the model as it is, without a wrapper."""
        return self.loss_of(self.passed())(x, target)

    def passed(self) -> nn.Module:
        """The module whose forward pass a step runs, for DDP and the compiler to be put around."""
        return self.model if self.weighing is None else self.weighing.module(self.model)

    def loss_of(self, run: nn.Module) -> LossFunction:
        """The loss of a batch by that module, or by what was put around it."""
        weighing = self.weighing
        if weighing is None:
            return partial(self.entry.losses, run)
        return lambda x, target: weighing.weigh(run(x, target))

    def seams_state(self) -> dict[str, Any]:
        """What a decoder and an objective add to a checkpoint; empty without them."""
        if self.weighing is None:
            return {}
        parts = {"model": apart_state(self.model), "ema": apart_state(self.ema), "objective": self.weighing.state()}
        return {"seams": parts}

    def seams_ranges(self) -> dict[str, tuple[float, float]]:
        """Between what the numbers of these states lie, by the last part of their names."""
        likelihood = likelihood_in(self.model)
        return {
            **(likelihood.decoder.state_ranges if likelihood is not None else {}),
            **(self.weighing.objective.state_ranges if self.weighing is not None else {}),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the weights of a checkpoint, and the states of decoder and objective."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.load_seams(state.get("seams", {}))

    def load_seams(self, state: Mapping[str, Any]) -> None:
        """The states of decoder and objective, as `seams_state` has them; one of another kind is left as it begins."""
        if self.weighing is None or not state:
            return
        for part, model in (("model", self.model), ("ema", self.ema)):
            if apart_state(model).keys() == state[part].keys():
                load_apart_state(model, state[part])
        self.weighing.load(state["objective"])

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
            variant=str(self.variant),
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


def prepare(config: TrainConfig[Any], device: torch.device, *, for_estimate: bool = False) -> Workload:
    """Import the host, read the data, build the models with the seed's weights, and patch them.

    The patch is the only thing that differs between variants; it draws no random number.

    Args:
        for_estimate: download nothing, and do with blank images where the data are not here.

    Raises:
        HostError, DataError, UnknownNameError, InvalidValueError, PatchError: as the parts raise them.
    """
    variant = Variant.parse(config.variant)
    entry = find_entry(config)
    host = load_host(config.host, config.upstream, allow_modified=config.allow_modified_upstream)
    name = config.data or entry.preset(config.preset).data
    data = load(
        name, config.data_root, seed=config.seed, limit_images=config.limit_images, download=not for_estimate,
        or_blank=for_estimate,
    )  # fmt: skip
    hparams = entry.hyperparameters(config.architecture, **_sizes(entry, data))
    seed_noise("init", config.seed)
    model = _build(host, hparams, data)
    # built, not deep-copied: a host may hold references to its own modules that a copy would share; of the same draws,
    # since a permutation or a projection in a plain attribute is in no state_dict
    seed_noise("init", config.seed)
    ema = host.build(hparams)
    notes: tuple[str, ...] = ()
    drawn = ""
    if config.weights is not None and not goes_on(config):
        notes = load_weights(model, read_weights(config, str(variant)), config.weights)
        seed_noise("init", config.seed + 1)
        drawn = drawn_constants(model, host.build(hparams))
    ema.load_state_dict(model.state_dict())
    model.to(device)
    ema.to(device).eval().requires_grad_(False)
    heads = host.heads(model)
    if not variant.is_vanilla or config.arithmetic == "stable":
        _patch(host, model, ema, heads, variant, config, data)
    if variant.adds_modules and config.weights is not None and not goes_on(config):
        notes = (*notes, *filter(None, [load_apart(model, config.weights)]))
    if variant.adds_modules:
        load_apart_state(ema, apart_state(model))
    remarks = [drawn] if drawn else []

    def classifier(grid: PixelGrid) -> nn.Module:
        if for_estimate or goes_on(config):  # of a checkpoint that will be loaded
            return classifiers.of_data(name, config.data_root, grid, epochs=0)[0]
        made, right = classifiers.of_data(name, config.data_root, grid)
        remarks.append(
            f"constraint cla: classifier of the labels of {name}, right on {right:.1%} of images kept from it"
        )
        return made

    weighing = Weighing.of(variant, host, model, device, classifier)
    pixels = DeviceImages(data.train, device).take(np.arange(min(_LOOKED_AT, len(data.train))))
    looked_at = data.normalization.apply(pixels)
    averaged_by(model, ema)
    made = Workload(host, entry, data, model, ema, heads, notes, variant, weighing, tuple(remarks))
    made.outside  # noqa: B018  as it is before its first pass
    if variant.decoder is None:
        with aside(model):
            entry.check_data(model, looked_at.target)
    if weighing is not None:
        weighing.check_data(model, *looked_at)
    return made


def _sizes(entry: TrainableEntry, data: ImageData) -> dict[str, Any]:
    """What `hyperparameters` is told of the images.

    Raises:
        InvalidValueError: they are not square, and the host takes no others.
    """
    sizes: dict[str, Any] = {"image_size": data.image_size, "image_channels": data.channels, "data": data.name}
    height, width = data.sides
    if width == height:
        return sizes
    if not entry.takes_rectangles:
        raise InvalidValueError(f"host {entry.name!r} takes square images; those of {data.name} are {height}x{width}")
    return sizes | {"image_width": width}


def _patch(
    host: Host,
    model: nn.Module,
    ema: nn.Module,
    heads: list[Head],
    variant: Variant,
    config: TrainConfig[Any],
    data: ImageData,
) -> None:
    if variant.decoder is not None:
        seed_noise("decoder", config.seed)  # of the weights that it adds; the host's are drawn already
    seam = None if variant.decoder is None else host.decoder_seam(model)
    scaled = heads if variant.sets_scales or config.arithmetic == "stable" else []
    top_seam = None if variant.top_prior is None else host.top_prior_seam(model)
    if top_seam is not None and isinstance(top_seam.encode, Normalized):
        of_data = data.normalization
        top_seam = replace(top_seam, encode=replace(top_seam.encode, shift=of_data.shift, scale=of_data.scale))
    top_prior = None if top_seam is None else _top_prior(top_seam, variant, config, data)
    for module in (model, ema):
        patch(
            module,
            variant.of_model,
            heads=scaled if variant.adds_modules else heads,
            arithmetic=config.arithmetic,
            seam=seam,
            top_prior=top_prior,
            top_prior_seam=top_seam,
        )


def _top_prior(seam: TopPriorSeam, variant: Variant, config: TrainConfig[Any], data: ImageData) -> TopPrior:
    """The top prior of a run, made by its seed from some training images."""
    assert variant.top_prior is not None
    seed = noise_seed("top_prior", config.seed)
    wanted = max(_STARTS, int(getattr(top_priors.get(variant.top_prior), "components", 1)))
    chosen = np.random.RandomState(seed % 2**32).permutation(len(data.train))[:wanted]
    pixels = torch.from_numpy(np.asarray(data.train[np.sort(chosen)]))
    images = seam.read(data.normalization.apply(pixels, seed).target)
    return prepared(variant.top_prior, seam, images.clamp(0, 1), torch.Generator().manual_seed(seed))


def drawn_constants(model: nn.Module, of_another_seed: nn.Module) -> str:
    """That weights alone are not the model that they were trained in, where a seed decides more; empty where not."""
    names = sorted(SinceBuilt(model, of_another_seed).drawn_anew)
    if not names:
        return ""
    return (
        f"note: the model draws {short(', '.join(names))} by --seed when it is built, and no state_dict has it: "
        "weights that were trained under another seed are those of another model; give --seed as they had it"
    )


def load_apart(model: nn.Module, path: Path) -> str:
    """Take up decoder and top prior of a checkpoint of ours whose weights a run begins with, if it has the same.

    They are of the state that the weights are of: of the moving average, unless `FOLDER:model` was asked for. What is
    to be said where the checkpoint has others, or none; empty where they were taken, and for a file of weights.
    """
    folder, chosen = split_choice(path)
    folder = folder.parent if folder.name == checkpoint.STATE else folder
    if not (folder / checkpoint.MANIFEST).exists():
        return ""
    _, state = checkpoint.load(folder)
    part = chosen or "ema"
    seams = require(state, {"seams": dict[str, Any] | None}, f"checkpoint {folder}", CheckpointError).get("seams") or {}
    found = checked(seams.get(part, {}), dict[str, Tensor], f"checkpoint {folder}.seams.{part}", CheckpointError)
    known = apart_state(model)
    if known.keys() == found.keys() and all(known[name].shape == found[name].shape for name in known):
        with taking_up(f"checkpoint {folder}.seams.{part}"):
            load_apart_state(model, found)
        return ""
    return (
        f"decoder and top prior begin anew: those of checkpoint {folder} are others"
        if found
        else (f"decoder and top prior begin anew: checkpoint {folder} has none")
    )


def _build(host: Host, hparams: Mapping[str, Any], data: ImageData) -> nn.Module:
    """The host's model; what it says of images with another number of channels is completed by what to do."""
    try:
        return host.build(hparams)
    except InvalidValueError as error:
        if data.channels != 1 or "channels" not in str(error):
            raise
        raise InvalidValueError(
            f"{error}; {data.name} is grey: take --host mlp_vae --preset paper (28x28), or save the images with three "
            "channels, np.repeat(x, 3, axis=-1), and read them with --data arrays"
        ) from error


def goes_on(config: TrainConfig[Any]) -> bool:
    """Whether a checkpoint of the run itself will be loaded, so that what it began with is no longer asked for."""
    return config.resume and bool(checkpoint.checkpoints(config.folder / "checkpoints"))


def read_weights(config: TrainConfig[Any], variant: str) -> WeightsFile:
    """What a checkpoint folder of ours holds, or a file of weights such as VDVAE's `-model.th`; not yet chosen from.

    A file says nothing about variants: it is taken for what the host's own script saves, vanilla.

    Raises:
        CheckpointError: damaged, something else, or saved under another variant or host.
    """
    assert config.weights is not None
    path, chosen = split_choice(config.weights)
    if path.name == checkpoint.STATE and (path.parent / checkpoint.MANIFEST).exists():
        path = path.parent  # the file of a checkpoint of ours, whose manifest says what it is
    if path.is_dir() and (path / checkpoint.MANIFEST).exists():
        info, state = checkpoint.load(path)
        if not config.allow_other_variant:
            require_variant(info, variant, path)
        require_host(info, config.host, path)
        require_tensors(state, path, "model", "ema")
        return WeightsFile(path, {key: state[key] for key in ("model", "ema")}, chosen or "ema")
    file = read_file(path)
    if (made := file.variant()) is not None:
        if made != variant and not config.allow_other_variant:
            raise CheckpointError(_of_variant(f"weights file {path}", made, variant))
    elif variant != VANILLA and not config.allow_other_variant:
        raise CheckpointError(
            f"weights file {path} is a plain state_dict, of a vanilla model as far as anyone can tell; "
            f"train it as {variant} with --allow-other-variant"
        )
    return replace(file, chosen=chosen)


def load_weights(model: nn.Module, file: WeightsFile, path: Path) -> tuple[str, ...]:
    """Strictly: every tensor of the model, of its shape, finite. Gives what there is to say about the choice.

    Raises:
        CheckpointError: the file at `path` has nothing that fits the model; see `select_weights`.
    """
    selection = select_weights(replace(file, path=path if file.chosen is None else file.path), model.state_dict())
    model.load_state_dict(selection.tensors)
    return selection.notes


def require_variant(info: CheckpointInfo, variant: str, path: Path) -> None:
    """Refuse weights that were trained under another variant: they mean something else there."""
    if info.variant != variant:
        raise CheckpointError(_of_variant(f"checkpoint {path}", info.variant, variant))


def _of_variant(what: str, made: str, variant: str) -> str:
    return (
        f"{what} was saved under variant {made}, not {variant}; "
        f"train with --variant {made}, or accept it with --allow-other-variant"
    )


def require_host(info: CheckpointInfo, host: str, path: Path) -> None:
    """Refuse weights of another host."""
    if info.host != host:
        raise CheckpointError(f"checkpoint {path} is of host {info.host}, not {host}; train with --host {info.host}")


class BuffersFollow:
    """Buffers of a model that its moving average takes over as they are, in one operation, and untrained parameters.

    What is kept is where they are and not the tensors: a module may put another tensor in place of its buffer.

    Args:
        source, target: two models of the same build.
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        pairs = list(zip(source.modules(), target.modules(), strict=True))
        self._owners = [(one._buffers, other._buffers) for one, other in pairs if one._buffers]
        others = {id(one._parameters): other._parameters for one, other in pairs}
        self._untrained = [(own, others[id(own)], name) for own, name in untrained(source)]

    @torch.no_grad()
    def __call__(self) -> None:
        """Copy them."""
        if not self._owners and not self._untrained:
            return
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        for one, average, name in self._untrained:
            moved, kept = one.get(name), average.get(name)
            if moved is not None and kept is not None and kept.shape == moved.shape and can_be_copied(kept):
                sources.append(moved)
                targets.append(kept)
        for own, other in self._owners:
            for name, source in own.items():
                target = other[name]
                if source is None or target is None:
                    continue
                if target.shape == source.shape and can_be_copied(target):
                    sources.append(source)
                    targets.append(target)
                else:  # nothing is to be spread over it, and what repeats one number cannot be written to
                    other[name] = source.detach().clone()
        if sources:
            torch._foreach_copy_(targets, sources)
