"""An evaluation: no wait on its way, its own batch size and precision, and compiled the same numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import finish, tiny
from test_compiled import traced_alone
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.skips import records
from vdvae_patch.train.compiled import KeptFunctions
from vdvae_patch.train.evaluate import evaluate
from vdvae_patch.train.loop import train
from vdvae_patch.train.setup import prepare

pytestmark = pytest.mark.medium

CPU = torch.device("cpu")
SAME = Normalization(0.0, 1.0, 0.0, 1.0)
WAITS = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__")


class Waits(TorchFunctionMode):
    """Counts what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Line(nn.Module):
    """A loss that is a product of the images and a weight, so that its precision shows."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(1, 1, bias=False)

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        assert model is self
        rate = (self.w(target.reshape(-1, 1).float()) ** 2).mean()
        return Losses(rate + target.float().mean(), target.float().mean(), rate)


def measured(values: list[int], line: Line, **options: Any) -> Any:
    images = DeviceImages(np.array(values, np.uint8).reshape(-1, 1, 1, 1), CPU)
    return evaluate(line, line, images, SAME, **({"batch_size": 4, "seed": 0} | options))  # type: ignore[arg-type]


def test_it_waits_once_whatever_the_number_of_batches() -> None:
    line = Line()
    with Waits() as few:
        measured([1] * 4, line)
    with Waits() as many:
        measured([1] * 41, line)
    assert few.seen == many.seen == {"cpu": 1, "numpy": 1}


def test_a_precision_is_that_of_the_passes_and_fp32_is_exact() -> None:
    line = Line()
    line.w.weight.data.fill_(1 / 3)
    wanted = (torch.tensor(1 / 3) * 201) ** 2
    assert measured([201] * 6, line).rate == pytest.approx(float(wanted), rel=1e-6)
    half = measured([201] * 6, line, precision="bf16").rate
    assert half != pytest.approx(float(wanted), rel=1e-5)
    assert half == pytest.approx(float(wanted), rel=2**-6)


class _Kept(KeptFunctions):
    """Compiles nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.sizes: list[int] = []

    def compiled(self, name: str, function: Any) -> Any:
        def noted(x: Tensor, target: Tensor) -> Any:
            self.sizes.append(len(x))
            return function(x, target)

        return noted


def test_a_last_batch_that_is_smaller_is_not_compiled_for() -> None:
    line, kept = Line(), _Kept()
    found = measured([1, 2, 3, 4, 5, 6, 7, 8, 90], line, compiler=kept)
    assert kept.sizes == [4, 4]
    assert found == measured([1, 2, 3, 4, 5, 6, 7, 8, 90], line)
    assert found.distortion == 126 / 9


def test_a_function_is_compiled_once_under_its_name() -> None:
    kept = KeptFunctions(CPU)
    first = kept.compiled("a", lambda x: x + 1)
    assert kept.compiled("a", lambda x: x + 2) is first
    assert kept.compiled("b", lambda x: x + 2) is not first


def test_a_run_evaluates_with_a_batch_and_a_precision_of_its_own(tmp_path: Path) -> None:
    data = "builtin(train=24, valid=5, test=4)"
    plain = tiny(tmp_path / "plain", steps=4, evaluate_every=2, data=data)
    own = replace(plain, out=tmp_path / "own", eval_batch=5, eval_precision="bf16")
    for config in (plain, own):
        train(config)
    work = prepare(plain, CPU)
    seen = [list(records.read(config.folder / "evaluations.jsonl")) for config in (plain, own)]
    assert [len(rows) for rows in seen] == [2, 2]
    for a, b in zip(*seen, strict=True):
        assert a["elbo"] != b["elbo"]
        assert a["elbo"] == pytest.approx(b["elbo"], rel=0.05)
    # the same training: an evaluation draws from streams of its own
    first, second = ((config.folder / "metrics.jsonl").read_text().splitlines() for config in (plain, own))
    assert len(first) == len(second) == 4
    assert len(work.data.valid) == 5


@pytest.mark.slow
def test_a_run_whose_evaluations_are_compiled_finds_the_same_bounds(tmp_path: Path) -> None:
    data = "builtin(train=24, valid=5, test=4)"
    for name, compiled in (("eager", False), ("compiled", True)):
        config = tiny(tmp_path / name, steps=2, evaluate_every=1, data=data, variant="explin/constant", eval_batch=2)
        finish(replace(config, eval_compile=compiled), prepare=traced_alone)
    seen = [list(records.read(tmp_path / name / "evaluations.jsonl")) for name in ("eager", "compiled")]
    assert len(seen[0]) == 2
    for a, b in zip(*seen, strict=True):
        assert a["elbo"] == pytest.approx(b["elbo"], rel=1e-5)
