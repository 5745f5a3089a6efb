"""Ranks that would not do the same computation are refused before the first step, or made to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import RunError
from vdvae_patch.outside import differences, holds_generator, put, settings
from vdvae_patch.train.buffers import named_untrained
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.provenance import code_commit, code_sources
from vdvae_patch.train.setup import Workload
from vdvae_patch.train.world import World
from vdvae_patch.train.writer import off_device

# Where things lie, and who restarted what, may differ from machine to machine.
_MAY_DIFFER = frozenset({"data_root", "out", "patches", "resume", "upstream"})


def require_same(config: TrainConfig[Any], work: Workload, world: World) -> None:
    """Compare settings, versions, upstream commits and data of all ranks.

    Raises:
        RunError: on rank 0, naming the rank and what differs; the others exit.
    """
    prints = world.gather_objects(fingerprint(config, work))

    def compare() -> None:
        for rank, other in enumerate(prints):
            for key in sorted({*prints[0], *other}):
                ours, theirs = prints[0].get(key), other.get(key)
                if ours != theirs:
                    raise RunError(
                        f"rank {rank} differs from rank 0 in {key}: {theirs} there, {ours} on rank 0; "
                        "start all ranks with the same command, package and upstream"
                    )

    world.on_main(compare)


def fingerprint(config: TrainConfig[Any], work: Workload) -> dict[str, str]:
    """Everything that must be the same on all ranks, by name."""
    told = config.to_toml()
    settings = {**told, **told.pop("optimization"), **told.pop("architecture", {})}
    settings.pop("optimization", None)
    settings.pop("architecture", None)
    origin = work.host.origin
    return {
        **{f"--{k.replace('_', '-')}": str(v) for k, v in settings.items() if k not in _MAY_DIFFER},
        "package version": vdvae_patch.__version__,
        "package commit": code_commit(),
        "package sources": code_sources(),
        "torch version": torch.__version__,
        "upstream kind": origin.kind,
        "upstream commit": str(origin.commit),
        "upstream changes": "; ".join(origin.modified) or "none",
        "training images": str(len(work.data.train)),
        "fingerprint of the training images": work.data.provenance.fingerprint,
        "fingerprint of the other images": work.data.provenance.held_out_fingerprint,
        "fingerprint of all training images": work.data.provenance.whole_fingerprint,
        "fingerprint of all other images": work.data.provenance.held_out_whole_fingerprint,
    }


def share_constants(work: Workload, world: World, say: Callable[[str], None]) -> None:
    """Give every rank the constants that rank 0 has drawn from a generator that nobody seeds; say what still differs.

    Such a constant lies in a plain attribute, where DDP, which sends parameters and buffers, does not look: each rank
    would train a model of its own, and only the first one's would be evaluated. Generators stay what they are: ranks
    whose noise is the same train on less of it.
    """
    if world.size == 1:
        return
    drawn = work.outside.drawn_anew
    own = work.outside.moved(also=drawn).values
    constants = {name: own[name] for name in drawn if name in own and not holds_generator(own[name])}
    of_main = world.on_main(lambda: off_device(constants))
    if not world.is_main:
        put(work.model, of_main, "the constants of rank 0")
    of_ranks = world.gather_objects(settings(work.model))
    for rank, other in enumerate(of_ranks):
        if differ := differences(of_ranks[0], other, ("on rank 0", "there")):
            named = "; another ".join(differ)
            say(
                f"note: on rank {rank} the model keeps, outside of its state_dict, another {named}: the ranks train "
                "different models, unless none of it matters to the loss"
            )


@torch.no_grad()
def apart(model: nn.Module, world: World) -> list[str]:
    """The parameters without a gradient that have other values on one rank than on another.

    DDP sends them once, before the first step. Where a model then moves one by itself, such as a codebook that follows
    its codes, every rank does so by its own images, and trains with its own, unless the model averages over ranks.
    """
    places = named_untrained(model)
    if world.size == 1 or not places:
        return []
    of_ranks = world.gather(torch.stack([_moments(parameter) for _, parameter in places]))
    alike = (of_ranks == of_ranks[:1]).all(-1).all(0).tolist()
    return [name for (name, _), same in zip(places, alike, strict=True) if not same]


def _moments(values: Tensor) -> Tensor:
    # enough to tell tensors apart that were moved by different images, and the same wherever they are equal
    real = torch.view_as_real(values) if values.is_complex() else values
    flat = real.detach().double().flatten().nan_to_num()
    return torch.stack([flat.sum(), flat.square().sum()])
