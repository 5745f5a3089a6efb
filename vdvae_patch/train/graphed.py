"""A training step as one CUDA graph: forward, backward, decision, update and average, launched by the host at once.

    step 1 and 2     done as ever, on the stream that will be captured: algorithms are chosen, moments allocated
    step 3           captured, which computes nothing, and replayed
    from then on     the batch and the numbers of the step are copied to where the graph reads them; one launch

What a step says of itself stays in the rows on the device, which are written by the graph, too. Nothing of Python runs
in a replay: hooks that must, such as a look at the heads' gradients, are for a step that is not replayed, and a model
that counts its steps in an attribute is never captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_WARM_UP = 2


@dataclass(frozen=True)
class Moment:
    """What of a step is neither weights nor batch.

    Attributes:
        lr: the learning rate.
        row: where what it says of itself is written.
        stop: whether this rank was asked to stop.
    """

    lr: float | Tensor
    row: int | Tensor
    stop: bool | Tensor = False


Metrics = Mapping[str, Tensor]
Body = Callable[[Tensor, Tensor, Moment], Metrics]


class Capture(Protocol):
    """How a device records what is done, and does it again."""

    def warm_up(self, work: Callable[[], Metrics]) -> Metrics:
        """Do it where it will be captured."""
        ...

    def capture(self, work: Callable[[], Metrics]) -> Metrics:
        """Record it; nothing is computed, and what it returns has its values from the next replay on."""
        ...

    def replay(self) -> None:
        """Do what was recorded."""
        ...


class CudaCapture:
    """By `torch.cuda.CUDAGraph`. The default generator's seed of the moment is that of the replay."""

    def __init__(self, device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = device

    def warm_up(self, work: Callable[[], Metrics]) -> Metrics:
        """On the stream that will be captured: what the backward pass accumulates into is bound to a stream."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            done = work()
        here.wait_stream(self._stream)
        return done

    def capture(self, work: Callable[[], Metrics]) -> Metrics:
        """Record."""
        # other threads, such as the one that writes checkpoints, may go on
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        """Launch."""
        self._graph.replay()


class StepGraph:
    """A step that is captured when it has been done twice.

    Args:
        body: the step; everything that it reads or writes must stay where it is in memory.
        state: gives the buffers that it moves; where one of them lies elsewhere after a capture, a replay would go on
            writing to the old place.
        capture: None is a CUDA graph.
        moves: asked after the steps that were done as ever: what they have moved that no replay would, such as a count
            in an attribute; empty if nothing.
    """

    def __init__(
        self,
        body: Body,
        state: Callable[[], Iterable[Tensor]],
        device: torch.device,
        capture: Capture | None = None,
        moves: Callable[[], str] | None = None,
    ) -> None:
        self.body, self.state, self.device, self.moves = body, state, device, moves
        self._capture = CudaCapture(device) if capture is None else capture
        self._done = 0
        self._kept: tuple[Tensor, Tensor] | None = None
        self._metrics: Metrics | None = None
        # one transfer a step; the fused optimizer takes a learning rate in float32 on a GPU, and else in float64
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self._lr = torch.zeros((), dtype=kind, device=device)
        self._row = torch.zeros((), dtype=torch.int64, device=device)
        self._stop = torch.zeros((), device=device)
        self.problem = ""
        """Why the step is not replayed, if it cannot be captured."""

    def __call__(self, x: Tensor, target: Tensor, lr: float, row: int, stop: bool) -> Metrics:
        """Do the step; what it reports, in tensors of its own."""
        if self.problem:
            return self.body(x, target, Moment(lr, row, stop))
        self._take(x, target, lr, row, stop)
        assert self._kept is not None
        batch, moment = self._kept, Moment(self._lr, self._row, self._stop)

        def work() -> Metrics:
            return self.body(*batch, moment)

        if self._done < _WARM_UP:
            self._done += 1
            return _copied(self._capture.warm_up(work))
        metrics = self._metrics if self._metrics is not None else self._captured(work)
        if metrics is None:
            return self.body(x, target, Moment(lr, row, stop))
        self._capture.replay()
        return _copied(metrics)

    def _captured(self, work: Callable[[], Metrics]) -> Metrics | None:
        """None, and a problem, if it cannot be."""
        if self.moves is not None and (moved := self.moves()):
            self.problem = f"the model moves {moved} in Python in each step, and a replay runs none"
            return None
        places = _places(self.state())
        try:
            found = self._capture.capture(work)
        except RuntimeError as error:
            self.problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return None
        if _places(self.state()) != places:
            self.problem = "a buffer is put elsewhere in every step"
            return None
        self._metrics = found
        return found

    def _take(self, x: Tensor, target: Tensor, lr: float, row: int, stop: bool) -> None:
        if self._kept is None:
            kept = torch.empty_like(x)
            self._kept = kept, kept if target is x else torch.empty_like(target)
        for kept, new in zip(self._kept, (x, target), strict=True):
            kept.copy_(new)
        self._lr.fill_(lr)
        self._row.fill_(row)
        self._stop.fill_(float(stop))


def _copied(metrics: Metrics) -> Metrics:
    return {name: value.detach().clone() for name, value in metrics.items()}


def _places(tensors: Iterable[Tensor]) -> list[Any]:
    return [tensor.data_ptr() for tensor in tensors]
