"""Threads and processes of one machine."""

from __future__ import annotations

import functools
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from .case import Case, Values, gradient, loss, training
from .table import row

_seeding = threading.Lock()


def _in_turn(model: nn.Module, case: Case) -> Values:
    """The forward pass with its seed by one thread at a time, for the generator is shared; backward passes overlap."""
    x = case.batch[0].clone().requires_grad_()
    with _seeding:
        out = loss(model, (x, *case.batch[1:]))
    return [out.detach(), *torch.autograd.grad(out, x)]


@row("four threads call a patched model")
def threads(case: Case) -> Any:
    case.patch()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: _in_turn(case.model, case), range(16)))
    assert all(torch.allclose(a, b) for result in results for a, b in zip(result, results[0], strict=True))
    return results[0]


@row("patching in one thread while another trains a vanilla model")
def patched_meanwhile(case: Case) -> Any:
    other = case.fresh()
    with _seeding:
        expected = training(case.fresh(), case.batch)
    started, stop, wrong = threading.Event(), threading.Event(), []

    def train() -> None:
        while not stop.is_set():
            case_loss = _in_turn(other, case)[0]
            started.set()
            if not torch.equal(case_loss, expected[0]):
                wrong.append(case_loss)

    worker = threading.Thread(target=train)
    worker.start()
    started.wait(30)
    for _ in range(5):
        case.patch()
        case.unpatch()
    case.patch()
    stop.set()
    worker.join()
    assert not wrong
    return case.model


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _elsewhere(model: nn.Module, batch: Any) -> Any:
    torch.set_num_threads(1)
    return [value.tolist() for value in gradient(model, batch)]


@row("multiprocessing, spawn: the model as an argument", slow=True)
def spawned(case: Case) -> Any:
    case.patch()
    return [torch.tensor(v) for v in _process().submit(_elsewhere, case.model, case.batch).result(120)]


@row("model.share_memory()")
def shared(case: Case) -> Any:
    return case.patch().share_memory()
