"""What a training step is made of, counted without a GPU and without doing it: `bench --counts`.

The step of `train` runs once on meta tensors, which have shapes and no values, in the form that it has on an
accelerator. What is counted depends on the code and on torch, and on no clock and no processor:

    calls        operators of ATen that compute something, by the part of the step: forward, backward, update
    views        those that only look at a tensor otherwise; nothing is launched for one
    launches     kernels on a GPU, estimated: one a call, but none for an allocation, two for a convolution with a bias
                 and up to three for its gradient, and for an operation on a list one for every so many tensors or
                 blocks as torch hands to a kernel
    bytes saved  of the storages that the forward pass keeps for the backward pass, each once; parameters are not among
                 them, as they are there anyway
    bytes moved  what the calls read and write if nothing stays in a cache

Besides, in milliseconds on this machine, what the host does in a step around the model, see `host_times`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from vdvae_patch import tables
from vdvae_patch.benchmark import require_none_of
from vdvae_patch.data.batches import DeviceImages, batch_indices
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.flight import WeightsBefore
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.setup import BuffersFollow, Workload, prepare
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.weighing import Weighed
from vdvae_patch.train.world import World

Part = Literal["forward", "backward", "update"]
PARTS: tuple[Part, ...] = ("forward", "backward", "update")

META = torch.device("meta")

_ALLOCATIONS = ("empty", "new_empty")
# torch hands a kernel of its multi-tensor operations so many tensors, by how many lists there are, and so many blocks
_TENSORS_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_A_LAUNCH, _BLOCK = 320, 65536
_PARTS_OF_A_JOIN = 128


@dataclass(frozen=True)
class Tally:
    """What one part of a step is made of; see the module for the words."""

    calls: int
    views: int
    launches: int
    bytes_moved: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Counts:
    """A step of one variant.

    Attributes:
        operators: by name, how often each is called in a step.
    """

    name: str
    parts: Mapping[Part, Tally]
    bytes_saved: int
    operators: Mapping[str, int]

    @property
    def model(self) -> Tally:
        """Forward and backward together."""
        return self.parts["forward"] + self.parts["backward"]


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operators that are called while it is on, in the part that `part` names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part: Part = "forward"
        self.tallies: dict[Part, Tally] = {part: Tally(0, 0, 0, 0) for part in PARTS}
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(func, OpOverload) and func.namespace == "aten":
            self.tallies[self.part] += _tally(func, args, kwargs or {}, result)
            if not _is_view(func):
                self.operators[func.overloadpacket.__name__] += 1
        return result


def _tally(func: OpOverload[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Tally:
    if _is_view(func):
        return Tally(0, 1, 0, 0)
    name = func.overloadpacket.__name__
    if name.startswith(_ALLOCATIONS):
        return Tally(1, 0, 0, 0)
    moved = sum(t.numel() * t.element_size() for t in _tensors((args, kwargs, result)))
    return Tally(1, 0, _launches(name, args, result), moved)


def _is_view(func: OpOverload[Any, Any]) -> bool:
    if func.overloadpacket.__name__ == "_unsafe_view":
        return True
    returns = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returns)


def _launches(name: str, args: tuple[Any, ...], result: Any) -> int:
    if name == "convolution":
        return 1 + (args[2] is not None)
    if name == "convolution_backward":
        return sum(map(bool, args[-1]))
    if name == "cat":
        return math.ceil(len(args[0]) / _PARTS_OF_A_JOIN)
    if name.startswith(("_foreach_", "_fused_")):
        lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor) and a[0].dim()]
        if isinstance(result, list | tuple) and name != "_foreach_norm" and not name.endswith("_"):
            lists.append(list(result))
        if not lists:
            return 1
        tensors = math.ceil(len(lists[0]) / _TENSORS_A_LAUNCH[min(5, len(lists))])
        blocks: int = sum(math.ceil(t.numel() / _BLOCK) for t in lists[0])
        return max(tensors, math.ceil(blocks / _BLOCKS_A_LAUNCH)) + (name == "_foreach_norm")
    return 1


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextmanager
def _saved(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """What the backward pass keeps, one tensor a storage, but for the parameters and buffers of a model."""
    own = {_storage(t) for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)  # the tensor, so that nobody else gets its storage's number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def count(config: TrainConfig[Any], variants: Sequence[str]) -> list[Counts]:
    """Count a step of each variant, at the batch of the configuration; nothing is downloaded.

    Raises:
        InvalidValueError: the configuration asks for a compiled step, one in parts or another precision than fp32.
        HostError, DataError, UnknownNameError, PatchError: as `prepare` raises them.
    """
    _require_plain(config)
    found = []
    for variant in variants:
        work = on_meta(replace(config, variant=variant))
        found.append(_count(variant, work, config))
    return found


def _require_plain(config: TrainConfig[Any]) -> None:
    require_none_of(
        {
            "--compile": config.compile,
            "--cuda-graph": config.cuda_graph,
            f"--precision {config.precision}": config.precision != "fp32",
            f"--accumulate {config.accumulate}": config.accumulate > 1,
        },
        "--counts, which counts the eager step in fp32, of the whole batch",
    )


def on_meta(config: TrainConfig[Any]) -> Workload:
    """The workload of a run, its models on the meta device."""
    work = prepare(config, torch.device("cpu"), for_estimate=True)
    for model in (work.model, work.ema):
        model.to(META)
    if work.weighing is not None:
        work.weighing.objective.to(META)
    return work


def _count(name: str, work: Workload, config: TrainConfig[Any]) -> Counts:
    engine = make_engine(config, World(META), work).step
    images = DeviceImages(work.data.train, torch.device("cpu"))
    indices = batch_indices(len(images), config.optimization.batch_size, 0, config.seed)
    x, target = (part.to(META) for part in work.data.normalization.apply(images.take(indices)))
    engine.optimizer.zero_grad()
    counting = Counting()
    with counting:
        with _saved(work.model) as kept:
            loss, losses, metrics = Weighed.of(engine.loss(x, target))
        counting.part = "backward"
        loss.backward()  # type: ignore[no-untyped-call]
        counting.part = "update"
        engine.finish(0, 0.0, Losses(*(part.detach() for part in losses)), metrics=metrics)
    bytes_saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Counts(name, counting.tallies, bytes_saved, dict(counting.operators.most_common()))


HOST_PARTS = (
    "zero_grad", "buffers follow", "noise seed", "clip, update and average, on a CPU",
    "clip, update and average, gathered", "the recorder's copy",
)  # fmt: skip


class _Small(nn.Module):
    """As many parameters as a model has, of a few elements: the host has the same to do, and the processor nothing."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        own = [p for p in like.parameters() if p.requires_grad]
        self.parts = nn.ParameterList(torch.zeros(min(p.numel(), 16)) for p in own)


def host_times(
    config: TrainConfig[Any], *, rounds: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, float]:
    """Milliseconds of the host for each part of a step outside of any graph, medians; real tensors of a few elements.

    Of the processor's time for this thread, not of a clock's: what others do on the machine is not the step's.

    `gathered` is the update as an accelerator does it: the gradients in one storage.
    """
    _require_plain(config)
    work = on_meta(replace(config, variant="vanilla"))
    follow = BuffersFollow(work.model, work.ema)
    made = {}
    for gathers in (False, True):
        model, average = _Small(work.model), _Small(work.model)
        step = TrainingStep(model, average, work.losses, config.optimization, World(torch.device("cpu")))
        step.optimizer.gathers = gathers
        made[gathers] = step
    before = WeightsBefore(made[True].weights.storages())
    losses = Losses(*(torch.zeros(()) for _ in range(3)))
    no = torch.zeros(())

    def give(step: TrainingStep) -> None:
        for parameter in step.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def update(gathers: bool) -> None:
        made[gathers].finish(0, 0.0, losses)
        made[gathers]._pending.clear()
        made[gathers]._metrics.clear()

    does: dict[str, tuple[Callable[[], object], Callable[[], object]]] = dict(
        zip(
            HOST_PARTS,
            (
                (lambda: give(made[True]), made[True].optimizer.zero_grad),
                (lambda: None, follow),
                (lambda: None, lambda: seed_noise("train", config.seed, step=1)),
                (lambda: give(made[False]), lambda: update(False)),
                (lambda: give(made[True]), lambda: update(True)),
                (lambda: None, lambda: before(no)),
            ),
            strict=True,
        )
    )
    times: dict[str, list[float]] = {name: [] for name in does}
    for number in range(rounds + 1):
        for name, (prepared, measured) in does.items():
            prepared()
            began = clock()
            measured()
            if number:  # the first one also prepares what is kept
                times[name].append(clock() - began)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def as_record(counts: Sequence[Counts], times: Mapping[str, float], about: Mapping[str, Any]) -> dict[str, Any]:
    """For `counts.json`."""
    rows = [
        {
            "name": c.name,
            "parts": {part: vars(tally) for part, tally in c.parts.items()},
            "bytes_saved": c.bytes_saved,
            "operators": dict(c.operators),
        }
        for c in counts
    ]
    return {**about, "rows": rows, "host_ms": dict(times)}


def markdown(counts: Sequence[Counts], times: Mapping[str, float], title: str) -> str:
    """Two tables: what a step is made of, and the host's time around it."""
    header = (
        "variant", "calls forward", "backward", "update", "views", "launches", "MB saved", "MB moved",
        "calls over the first", "launches", "saved", "moved",
    )  # fmt: skip
    first = counts[0]
    rows = []
    for c in counts:
        whole = c.model + c.parts["update"]
        rows.append(
            (
                c.name, *(f"{c.parts[part].calls:,}" for part in PARTS), f"{whole.views:,}", f"{whole.launches:,}",
                f"{c.bytes_saved / 1e6:,.1f}", f"{whole.bytes_moved / 1e6:,.0f}",
                f"{c.model.calls / first.model.calls:.4f}", f"{c.model.launches / first.model.launches:.4f}",
                f"{c.bytes_saved / first.bytes_saved:.4f}", f"{c.model.bytes_moved / first.model.bytes_moved:.4f}",
            )
        )  # fmt: skip
    table = tables.markdown(header, rows)
    said = "The ratios are of forward and backward together; the update is the same for all."
    host = tables.markdown(
        ("the host, around the model", "ms of its processor"), [(name, f"{ms:.3f}") for name, ms in times.items()]
    )
    return f"{title}\n\n{table}\n\n{said}\n\n{host}"
