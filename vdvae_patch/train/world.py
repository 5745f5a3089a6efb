"""The processes of a run: rank, world size, device, and the few things that ranks tell each other."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group is made: its defaults keep the one that is there, see `connect`
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from vdvae_patch.errors import RunError, VdvaePatchError
from vdvae_patch.train.buffers import can_be_copied, untrained
from vdvae_patch.train.heartbeat import Heartbeat

if TYPE_CHECKING:  # where the folder lies in the repository; installed it is a subpackage
    from launch.environment import Placement, recognise, restarts
    from launch.mpi import agree
    from launch.network import interface_towards
else:
    from vdvae_patch.launch.environment import Placement, recognise, restarts
    from vdvae_patch.launch.mpi import agree
    from vdvae_patch.launch.network import interface_towards

MEETING_SECONDS = 20
"""How long the ranks wait for each other at the start."""

PARTING_SECONDS = 3.5
"""How long a rank waits that ends because rank 0 failed.

A launcher ends rank 0 as soon as another rank is gone, and rank 0 first tells all ranks, then the user, why it failed.
It is more than Gloo's threads need to let go of the last collective, where an error keeps their group alive.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process of `size`; alone, every exchange is the identity."""

    device: torch.device
    rank: int = 0
    size: int = 1
    launcher: str = "none"
    where: str = ""
    heartbeat: Heartbeat | None = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the terminal."""
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values, `[size, *values.shape]`."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers that a model has on rank 0, and its `untrained` parameters, which are those
        that a checkpoint keeps.

        Each rank moves the running statistics of a batch norm by its own images, and DDP makes them alike before the
        next step of a training alone: until then they are those of as many models as there are ranks. A parameter that
        a model moves by itself DDP never makes alike.
        """
        if self.size == 1:
            return
        for buffer in (*model.buffers(), *(owner.get(name) for owner, name in untrained(model))):
            if buffer is not None and can_be_copied(buffer):
                of_main = buffer.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(of_main, 0)
                buffer.copy_(of_main)

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """What rank 0 gets from `work`, on every rank; its error ends all ranks, and rank 0 alone reports it.

        Raises:
            VdvaePatchError: what `work` raised, on rank 0.
            SystemExit: on the others then.
        """
        if self.size == 1:
            return work()
        answer: list[Any] = [None, None]
        failure: VdvaePatchError | None = None
        if self.is_main:
            try:
                answer[0] = work()
            except VdvaePatchError as error:
                failure, answer[1] = error, error.exit_code
        dist.broadcast_object_list(answer)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise SystemExit(answer[1])
        result: T = answer[0]
        return result

    def mark(self) -> None:
        """Tell the other ranks that this one has got on: once a step, or a batch of an evaluation."""
        if self.heartbeat is not None:
            self.heartbeat.mark()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def connect(device: str, environ: Mapping[str, str] | None = None) -> Iterator[World]:
    """Meet the other ranks, if there are any, for as long as the block runs. NCCL on GPUs, Gloo on CPUs.

    Raises:
        RunError: a rank cannot be reached, or one is lost on the way; the message has rank, address and port.
        InvalidValueError: the environment contradicts itself.
    """
    placement = recognise(os.environ if environ is None else environ)
    if placement is None or placement.size == 1:
        yield World(resolve_device(device, placement.local_rank if placement else 0))
        return
    world = _meet(placement, device)
    assert world.heartbeat is not None
    try:
        yield world
        world.barrier()
        # the store goes with the group of rank 0: before that nobody may ask it any more
        world.heartbeat.close()
        world.barrier()
    except VdvaePatchError as error:
        world.heartbeat.accuse(str(error))
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        verdict = world.heartbeat.wait_for_verdict()
        reason = str(error).splitlines()[0]
        raise RunError(f"{verdict}; rank {world.rank} ends too ({reason}); go on with --resume") from error
    except SystemExit:  # another rank says why
        world.heartbeat.close()  # it would say the same a second time
        time.sleep(PARTING_SECONDS)
        raise
    else:
        # Gloo's threads live as long as their group. One that frees the last collective's tensors while the interpreter
        # shuts down aborts the process ("terminate called without an active exception"), so nothing may keep the group:
        # neither a run, which points at itself in many places, nor `torch.distributed.nn`, whose functions have the
        # group of the time of their import for a default, and which DDP imports by way of torch._dynamo.
        dist.destroy_process_group()
        gc.collect()
    finally:
        world.heartbeat.close()


def _meet(placement: Placement, device_name: str) -> World:
    if placement.launcher in ("openmpi", "hydra") and placement.address is None:
        placement = agree(placement)
    device = resolve_device(device_name, placement.local_rank)
    where = f"{placement.address}:{placement.port}"
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = str(placement.address), str(placement.port)
    patience = timedelta(seconds=MEETING_SECONDS)
    try:
        if placement.rank != 0:
            _reach(str(placement.address), int(placement.port or 0))
        store, _, _ = next(rendezvous("env://", placement.rank, placement.size, timeout=patience))
        # torchrun keeps its store when it starts killed ranks again: what they left there must not be read
        store = PrefixStore(f"start-{restarts(os.environ)}", store)
        store.set_timeout(patience)
        heartbeat = Heartbeat(store, placement.rank, placement.size, where)
        store.set(f"vdvae_patch/here/{placement.rank}", "1")
        store.wait([f"vdvae_patch/here/{rank}" for rank in range(placement.size)], patience)
        if device.type == "cpu" and (interface := interface_towards(str(placement.address))):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        # the collectives may wait long for a slow rank: it is the heartbeat that notices one that is gone
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store, rank=placement.rank, world_size=placement.size, timeout=timedelta(minutes=30),
            device_id=device if device.type == "cuda" else None,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"rank {placement.rank} of {placement.size} could not meet the others at {where} within "
            f"{MEETING_SECONDS} s ({reason}); were all {placement.size} started, and can they reach that address?"
        ) from None
    return World(device, placement.rank, placement.size, placement.launcher, where, heartbeat)


def _reach(address: str, port: int) -> None:
    # torch tries for its time-out twice, and prints a page for each
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


_LOST = ("connection closed", "connection reset", "broken pipe", "timed out", "connection refused", "remote process")


def _is_lost_connection(error: RuntimeError) -> bool:
    # Gloo's errors have no type of their own
    return isinstance(error, dist.DistError) or any(phrase in str(error).lower() for phrase in _LOST)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is the GPU if there is one; a GPU becomes the current one of this process.

    Much of `torch.cuda` means the current device where it is told none: events, streams, memory, NCCL.

    Raises:
        RunError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(f"--device {name!r} is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise RunError(f"--device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise RunError(f"--device {name}: this machine, or this build of torch, has no CUDA device; use --device cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise RunError(f"--device cuda:{index}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
