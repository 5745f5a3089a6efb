"""How speed grows with processes: measured for a few, derived for many.

With N ranks and P float32 parameters, DDP's ring all-reduce moves 2 (N-1)/N · 4P bytes a rank and step. It runs beside
the backward pass, which is two thirds of a step, except for the last bucket. FSDP2 gathers the weights twice and
scatters the gradients once, 3 (N-1)/N · 4P bytes, and in exchange keeps an N-th of the 20 P bytes of weights,
gradients, EMA and Adam's two moments.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_A_VALUE = 4
STATE_BYTES_A_PARAMETER = 20
BUCKET_BYTES = 25 * 2**20
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class Network:
    """What links the ranks: bytes a second for each rank, and seconds for each hop."""

    name: str
    bandwidth: float
    latency: float = 5e-6


@dataclass(frozen=True)
class Prediction:
    """A step on `ranks` ranks; `exposed` are the seconds of exchange that nothing hides."""

    ranks: int
    exchange: float
    exposed: float
    efficiency: float


def reduced_bytes(parameters: int, ranks: int) -> float:
    """Bytes that a rank sends in one all-reduce of all gradients."""
    return 2 * (ranks - 1) / ranks * BYTES_A_VALUE * parameters


def ddp(parameters: int, step_seconds: float, network: Network, ranks: int) -> Prediction:
    """A step of DDP: the exchange, less what the backward pass hides."""
    exchange = reduced_bytes(parameters, ranks) / network.bandwidth + 2 * (ranks - 1) * network.latency
    last_bucket = min(1.0, BUCKET_BYTES / (BYTES_A_VALUE * parameters)) * exchange
    exposed = max(last_bucket, exchange - BACKWARD_SHARE * step_seconds)
    return Prediction(ranks, exchange, exposed, step_seconds / (step_seconds + exposed))


def saved_by_fsdp(parameters: int, ranks: int) -> float:
    """Bytes of memory that sharding saves on each rank."""
    return STATE_BYTES_A_PARAMETER * parameters * (1 - 1 / ranks)


def largest_with_ddp(free_bytes: float) -> float:
    """Parameters of which the whole state still fits into the memory that activations leave; FSDP2 pays from there."""
    return free_bytes / STATE_BYTES_A_PARAMETER
