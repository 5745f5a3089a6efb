"""What a scan watches is its own thread's, what it may not change is put back, and the data of a call are found."""

from __future__ import annotations

import functools
import random
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.checkpoint import checkpoint

from vdvae_patch import patch, scan, stabilize
from vdvae_patch.errors import PatchError

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class VAE(nn.Module):
    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        time.sleep(self.pause)
        q = Normal(mu, (0.5 * lv).exp())
        z = q.rsample()
        kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu)))
        return ((self.dec(z) - x) ** 2).sum() + kl.sum()


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A started thread, and what the function returned or raised in it."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


# --- threads ----------------------------------------------------------------------------------------------------------


def test_scans_that_overlap_leave_torchs_normal_as_it_was() -> None:
    original = Normal.__init__
    scans = [in_thread(lambda pause=pause: len(scan(VAE(pause), X))) for pause in (0.2, 0.5, 0.3)]
    for thread, _ in scans:
        thread.join()
    assert [results for _, results in scans] == [[1], [1], [1]]
    assert Normal.__init__ is original


def test_another_threads_optimizer_goes_on() -> None:
    layer = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    stop = threading.Event()

    def train() -> int:
        steps = 0
        while not stop.is_set():
            optimizer.zero_grad()
            layer(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            steps += 1
        return steps

    thread, results = in_thread(train)
    scan(VAE(0.2), X)
    stop.set()
    thread.join()
    assert isinstance(results[0], int)
    assert results[0] > 0


def test_what_another_thread_makes_is_no_head_and_no_normal_of_the_scan() -> None:
    stop = threading.Event()

    def make() -> None:
        layer = nn.Linear(8, 4)
        while not stop.is_set():
            Normal(layer(X), layer(X).exp()).rsample()

    thread, _ = in_thread(make)
    heads = scan(VAE(0.2), X)
    stop.set()
    thread.join()
    assert [(h.path, h.channels, h.role) for h in heads] == [("enc", "4:8", "posterior")]
    assert len(heads.normals) == 2


def test_another_thread_may_run_a_patched_model_while_a_model_is_scanned() -> None:
    other = VAE()
    patch(other, posterior="explin", heads=scan(other, X))
    stop = threading.Event()

    def run() -> bool:
        while not stop.is_set():
            if not other(X).isfinite():
                return False
        return True

    thread, results = in_thread(run)
    for _ in range(3):
        model = VAE(0.05)
        patch(model, posterior="explin", heads=scan(model, X))
    stop.set()
    thread.join()
    assert results == [True]


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_another_threads_random_numbers_are_not_repeated() -> None:
    stop = threading.Event()

    def draw() -> list[float]:
        drawn = []
        while not stop.is_set():
            drawn.append(float(torch.rand(())))
            time.sleep(0.01)
        return drawn

    thread, results = in_thread(draw)
    for _ in range(4):
        scan(VAE(0.05), X)
    stop.set()
    thread.join()
    assert len(set(results[0])) == len(results[0])


class Draws(VAE):
    """Draws in every way that a host may."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.generator = nn.Dropout(0.5), torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 8, generator=self.generator)
        keep = torch.bernoulli(torch.full_like(x, 0.5)) * (torch.randperm(8) >= 0) * random.random() * np.random.rand()
        x = checkpoint(self.dropout, x + 0 * noise + 0 * keep, use_reentrant=False)
        loss = super().forward(x + 0 * torch.empty_like(x).uniform_())
        loss.backward()
        return loss.detach()


def test_no_random_state_moves() -> None:
    model = Draws()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), model.generator.get_state()
    python, of_numpy = random.getstate(), np.random.get_state()[1].copy()
    heads = scan(model, X)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(model.generator.get_state(), states[1])
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], of_numpy)
    patch(model, posterior="explin", heads=heads)
    assert torch.equal(torch.get_rng_state(), states[0])


def test_the_call_draws_what_it_would_have_drawn() -> None:
    seen = SimpleQueue[tuple[Tensor, ...]]()  # what a call appends to a list is taken out again

    def call(model: nn.Module, x: Tensor) -> Tensor:
        noise = torch.randn(3)
        seen.put((noise, nn.functional.dropout(torch.ones(100)), torch.rand(2)))
        loss: Tensor = model(x)
        return loss

    model = VAE()
    torch.manual_seed(7)
    scan(model, X, call=call)
    call(model, X)
    for watched, plain in zip(seen.get(), seen.get(), strict=True):
        assert torch.equal(watched, plain)


def test_a_call_that_seeds_leaves_the_seed_as_it_was() -> None:
    model = VAE()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    scan(model, X, call=lambda m, x: (torch.manual_seed(0), m(x))[1])
    assert torch.initial_seed() == 11
    assert torch.equal(torch.get_rng_state(), before)


# --- what the call changes --------------------------------------------------------------------------------------------


class Annealer:
    def __init__(self) -> None:
        self.steps = 0


class Counting(VAE):
    """As public models anneal their capacity, keep a history, move a codebook by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.num_iter, self.history, self.recent = 0, [1.0], deque([1, 2], maxlen=2)
        self.seen, self.names = {"kl": [0]}, {"a"}
        self.annealer = Annealer()
        self.codebook = torch.zeros(4)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        self.num_iter += 1
        self.annealer.steps += 1
        loss = super().forward(self.norm(x))
        self.history.append(float(loss))
        self.recent.append(3)
        self.seen["kl"].append(1)
        self.seen["more"] = [2]
        self.names.add("b")
        self.codebook += 1
        self.latest = loss
        return loss

    def state(self) -> tuple[Any, ...]:
        kept = (self.num_iter, list(self.history), list(self.recent), {k: list(v) for k, v in self.seen.items()})
        return (*kept, set(self.names), self.annealer.steps, self.codebook.tolist(), self.norm.running_mean.tolist(),
                sorted(vars(self)))  # fmt: skip


def test_counters_lists_and_tensors_of_the_host_are_put_back() -> None:
    model = Counting()
    before = model.state()
    heads = scan(model, X)
    assert model.state() == before
    own = set(vars(model))
    patch(model, posterior="constant", heads=heads)
    assert model.state()[:-1] == before[:-1]
    assert {name for name in vars(model) if "vdvae_patch" not in name} == own
    model(X)
    assert model.num_iter == 1


def test_a_batch_and_a_tensor_of_the_callers_that_the_call_writes_to_are_put_back() -> None:
    x, total = X.clone(), torch.zeros(())

    def call(model: nn.Module, batch: Tensor) -> Tensor:
        batch.add_(1)
        total.add_(1)
        loss: Tensor = model(batch)
        return loss

    scan(VAE(), x, call=call)
    assert torch.equal(x, X)
    assert not total


def test_a_call_that_raises_leaves_all_as_it_was() -> None:
    model = Counting()
    before = model.state()

    def call(m: nn.Module, x: Tensor) -> None:
        m(x)
        raise KeyError("in the host")

    with pytest.raises(KeyError, match="in the host"):
        scan(model, X, call=call)
    assert model.state() == before


def test_a_step_in_the_call_is_refused() -> None:
    model = VAE()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(m: nn.Module, x: Tensor) -> None:
        m(x).backward()
        optimizer.step()

    with pytest.raises(PatchError, match="takes a step of SGD"):
        scan(model, X, call=step)


# --- where the data are -----------------------------------------------------------------------------------------------


class Sampler(nn.Module):
    """Nothing but the sample shows the role: a posterior is what sees the data."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        out: Tensor = self.dec(mu + (0.5 * lv).exp() * torch.randn_like(mu))
        return out


class Slots:
    __slots__ = ("__x", "y")

    def __init__(self, x: Tensor) -> None:
        self.__x = x

    def get(self) -> Tensor:
        return self.__x


@dataclass(slots=True)
class SlottedData:
    x: Tensor


class Trainer:
    def __init__(self) -> None:
        self.batch = {"image": X}

    def loss(self, model: nn.Module) -> Any:
        return model(self.batch["image"])


def _with_default(m: nn.Module, x: Tensor = X) -> Any:
    return m(x)


def _generator() -> Iterator[Tensor]:
    yield X


WAYS: dict[str, tuple[tuple[Any, ...], Callable[..., Any] | None]] = {
    "an input": ((X,), None),
    "a closure": ((), (lambda x: lambda m: m(x))(X)),
    "a global": ((), lambda m: m(X)),
    "a default": ((), _with_default),
    "a partial": ((), functools.partial(lambda x, m: m(x), X)),
    "a bound method": ((), Trainer().loss),
    "slots": ((Slots(X),), lambda m, b: m(b.get())),
    "a slotted dataclass": ((SlottedData(X),), lambda m, b: m(b.x)),
    "a NumPy array": ((X.numpy(),), lambda m, b: m(torch.from_numpy(b))),
    "a copied NumPy array": ((X.numpy(),), lambda m, b: m(torch.tensor(b))),
    "a NumPy array in a closure": ((), (lambda a: lambda m: m(torch.as_tensor(a)))(X.numpy())),
    "a list of numbers": ((X.tolist(),), lambda m, b: m(torch.tensor(b))),
    "an iterator": ((iter([X]),), lambda m, b: m(next(b))),
    "a generator": ((_generator(),), lambda m, b: m(next(b))),
    "a loader": ((torch.utils.data.DataLoader(X, 5),), lambda m, b: m(next(iter(b)))),
    "a set": (({X},), lambda m, b: m(next(iter(b)))),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_sees_the_data_is_a_posterior(way: str) -> None:
    inputs, call = WAYS[way]
    heads = scan(Sampler(), *inputs, call=call)
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]


def test_a_closed_over_batch_does_not_fix_the_posterior(capsys: pytest.CaptureFixture[str]) -> None:
    handle = stabilize(Sampler(), call=lambda m: m(X))
    assert [(h.head.role, h.scale.name) for h in handle.heads] == [("posterior", "explin")]


def test_a_batch_that_no_input_holds_is_said() -> None:
    heads = scan(Sampler(), iter([X]), call=lambda m, b: m(next(b)))
    assert any("float32[5, 8] that no input held was taken for the batch" in note for note in heads.notes)
    assert "taken for the batch" in str(heads)
    assert scan(Sampler(), X).notes == ()


class LearnedPrior(nn.Module):
    """A prior on constants: a table, a position; no data for that."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.prior, self.dec = nn.Linear(8, 8), nn.Linear(3, 8), nn.Linear(4, 8)
        self.table = torch.eye(3)[:1].repeat(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        z = mu + (0.5 * lv).exp() * torch.randn_like(mu)
        pm, pl = self.prior(self.table).chunk(2, 1)
        kl = 0.5 * (pl - lv + (lv.exp() + (mu - pm) ** 2) / pl.exp() - 1).sum()
        return ((self.dec(z) - x) ** 2).sum() + kl


@pytest.mark.parametrize("call", [None, "closure"])
def test_a_constant_of_the_models_own_is_no_data(call: str | None) -> None:
    heads = scan(LearnedPrior(), X) if call is None else scan(LearnedPrior(), call=lambda m: m(X))
    assert {(h.path, h.role) for h in heads} == {("enc", "posterior"), ("prior", "prior")}


def test_a_compiled_model_is_scanned_as_it_is_written_and_patched() -> None:
    model = torch.compile(VAE(), backend="eager")
    heads = scan(model, X)
    assert [(h.path, h.role) for h in heads] == [("_orig_mod.enc", "posterior")]
    patch(model, posterior="explin", heads=heads)
    assert model(X).isfinite()


def test_a_traced_model_is_seen_and_said_to_be_out_of_reach() -> None:
    heads = scan(torch.jit.trace(Sampler(), X, check_trace=False), X)
    assert [h.found.patch_at for h in heads] == ["no"]


class Keeps(VAE):
    """What else a host may change in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.numpy, self.python = nn.Dropout(0.1), np.random.default_rng(0), random.Random(0)
        self.counts, self.slots = np.zeros(3), Slots(X)
        self.register_buffer("queue", torch.zeros(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.drop.p = 0.5
        self.numpy.random()
        self.python.random()
        self.counts += 1
        self.slots.y = x
        self.queue.data = torch.cat([self.queue, torch.ones(1, 3)])
        self.enc.weight.requires_grad_(False)
        return super().forward(x)


def test_generators_arrays_slots_flags_and_buffers_that_grow_are_put_back() -> None:
    model = Keeps()
    scan(model, X)
    assert model.drop.p == 0.1
    assert model.numpy.random() == np.random.default_rng(0).random()
    assert model.python.random() == random.Random(0).random()
    assert not model.counts.any()
    assert not hasattr(model.slots, "y") or model.slots.y is not X
    assert model.queue.shape == (2, 3)
    assert model.enc.weight.requires_grad


class LazilyMade(VAE):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "proj"):
            self.proj = nn.Linear(8, 8)
        return super().forward(self.proj(x))


def test_modules_that_a_first_call_makes_are_taken_out_again_and_said() -> None:
    model = LazilyMade()
    with pytest.raises(
        PatchError, match=r"makes modules that the model does not have yet \(proj\); run the model once"
    ):
        scan(model, X)
    assert "proj.weight" not in model.state_dict()
    model(X)
    assert len(scan(model, X)) == 1
