"""An error that PyTorch, or the loop itself, raises because of a value that is not finite has the guard's note."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.guarding import raised, signals

HERE = Path(__file__)


def line_with(text: str) -> int:
    return next(
        n for n, line in enumerate(HERE.read_text().splitlines(), 1) if text in line and "line_with" not in line
    )


class VAE(nn.Module):
    """Its decoder gives what a Bernoulli likelihood needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.mean, self.logvar = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 3)
        self.decoder = nn.Linear(3, 8)

    def sample(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.encoder(x))
        mean, logvar = self.mean(h), self.logvar(h)
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean), mean, logvar  # sampled

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mean, logvar = self.sample(x)
        return torch.sigmoid(self.decoder(z) - self.decoder(z)[:, :1]), mean, logvar  # inf - inf

    def spoil(self) -> None:
        with torch.no_grad():
            self.logvar.bias += 300.0


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()


def by_bce(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl(mean, logvar)


def by_bce_module(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    rate = kl(mean, logvar)
    return nn.BCELoss(reduction="sum")(recon, x) + rate


def by_bernoulli(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    flips = torch.bernoulli(recon.detach())
    return F.mse_loss(recon, flips * x) + kl(mean, logvar)


def by_multinomial(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    chosen = torch.multinomial(recon.softmax(1), 1)
    return -recon.gather(1, chosen).sum() + kl(mean, logvar)


def by_cholesky(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    root = torch.linalg.cholesky(recon.T @ recon + 0.1 * torch.eye(8))
    return root.diagonal().log().sum() + kl(mean, logvar)


def by_assertion(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
    assert not torch.isnan(loss), "the loss is NaN"
    return loss


def by_raise(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
    if not loss.isfinite():
        raise ArithmeticError("loss")
    return loss


def by_number(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
    _ = int(loss)  # cannot convert float NaN to integer
    return loss


LOSSES: list[Callable[[nn.Module, Tensor], Tensor]] = [
    by_bce, by_bce_module, by_bernoulli, by_multinomial, by_cholesky, by_assertion, by_raise, by_number,
]  # fmt: skip


def train(model: Any, loss_of: Callable[[nn.Module, Tensor], Tensor], steps: int = 3, broken: int = 2) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        if step == broken:
            model.spoil()
        x = torch.rand(6, 8)
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()


def note_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def check(note: str, line: str = "# sampled") -> None:
    assert f"{HERE.name}:{line_with(line)}: " in note, note
    assert "rows 0, 1, 2, 3, 4 and 1 more of the batch" in note
    assert "head: logvar[:] (posterior), log σ from 1" in note
    assert "the same step is finite under explin" in note


@pytest.mark.medium
@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("broken", [2, 0])
def test_an_error_of_a_loss_beside_the_model_is_explained(
    loss_of: Callable[[nn.Module, Tensor], Tensor], broken: int
) -> None:
    """Also in the first step, before anything is known of the loop."""
    model = VAE()
    with pytest.raises(Exception) as caught, vdvae_patch.guard(model) as guard:  # noqa: PT011 (of many kinds)
        train(model, loss_of, broken=broken)
    note = note_of(caught.value)
    assert f"step {broken}, seen by vdvae_patch.guard: not all values were finite before this was raised" in note
    assert note.count("seen by vdvae_patch.guard") == 1
    check(note)
    assert f"{type(caught.value).__name__} was raised" in guard.report()
    assert "patch(model, 'explin', heads=heads)" in guard.report()


class WithLoss(VAE):
    """The loss is in the model."""

    def __init__(self, loss_of: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss_of = loss_of

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.loss_of(super().forward, x)  # type: ignore[arg-type]


@pytest.mark.medium
@pytest.mark.parametrize("loss_of", LOSSES)
def test_an_error_in_the_model_is_explained_whoever_catches_it(loss_of: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = WithLoss(loss_of)
    guard = vdvae_patch.guard(model)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of many kinds)
        train(model, lambda model, x: model(x))  # type: ignore[no-any-return]
    check(note_of(caught.value))
    guard.remove()


def test_a_loop_that_catches_its_errors_asks() -> None:
    model = VAE()
    guard = vdvae_patch.guard(model)
    seen: list[Any] = []
    for _ in range(2):
        try:
            train(model, by_bce)
        except RuntimeError as error:
            seen += [note_of(error), guard.explain(error), note_of(error)]
    assert (seen[0], seen[3]) == ("", "")  # it does not know of what is caught elsewhere
    assert seen[1] is seen[4] is True
    check(seen[2])
    check(seen[5])
    guard.remove()


@pytest.mark.medium
@pytest.mark.parametrize("error", [ValueError("shape"), RuntimeError("1x2 and 3x4"), OSError("no space"), KeyError()])
@pytest.mark.parametrize("masked", [False, True])
def test_an_error_of_another_kind_is_left_alone(error: Exception, masked: bool) -> None:
    """Also where each step has an infinity that leads nowhere."""
    model, steps = VAE(), iter(range(9))

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        recon, mean, logvar = model(x)
        if masked:
            recon = torch.zeros_like(x).log().exp() + recon
        if next(steps) == 2:
            raise error
        return F.mse_loss(recon, x) + kl(mean, logvar)

    with pytest.raises(type(error)) as caught, vdvae_patch.guard(model) as guard:
        train(model, loss_of, broken=99)
    assert not note_of(caught.value)
    assert guard.report() == "2 steps, no update was skipped"


def test_what_came_in_from_outside_is_said() -> None:
    steps = iter(range(3))

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        if next(steps) == 2:
            x[4, 1] = torch.nan
        return by_bce(model, x)

    model = VAE()
    with pytest.raises(RuntimeError, match="between 0 and 1") as caught, vdvae_patch.guard(model):
        train(model, loss_of, broken=99)
    assert "from outside: the batch is not finite: row 4 of input 0" in note_of(caught.value)


class Normalized(VAE):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.encoder(x))
        q = torch.distributions.Normal(self.mean(h), torch.exp(0.5 * self.logvar(h)))
        return (
            F.mse_loss(self.decoder(q.rsample()), x)
            + torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
        )


class Loop:
    """A script's functions around an evaluation, each of which writes down that it was called."""

    def __init__(self, path: Path, model: nn.Module) -> None:
        self.path, self.model = path, model

    def note(self, what: str) -> None:
        with self.path.open("a") as file:  # what a guard does not take back
            file.write(f"{what} ")

    def evaluate(self, x: Tensor) -> float:
        self.note("evaluate")
        return float(self.model(x).detach())

    def of_batches(self, x: Tensor) -> list[float]:
        self.note("batches")
        found = []
        for batch in x.split(2):
            found.append(self.evaluate(batch))
        return found

    def epochs(self, x: Tensor) -> None:
        self.note("epochs")
        for _ in range(1):
            self.of_batches(x)

    def in_loops(self) -> None:
        self.note("script")
        self.epochs(torch.full((4, 8), torch.nan))

    def validated(self, x: Tensor) -> None:
        self.note("epochs")
        self.model.eval()
        for batch in x.split(2):
            self.evaluate(batch)

    def in_a_validation(self) -> None:
        self.note("script")
        self.validated(torch.full((4, 8), torch.nan))

    def with_a_guard(self) -> None:
        self.note("script")
        with vdvae_patch.guard(self.model, file=io.StringIO()):
            self.evaluate(torch.full((4, 8), torch.nan))


@pytest.mark.parametrize("how", ["in_loops", "in_a_validation", "with_a_guard"])
def test_what_is_more_than_a_step_is_not_run_again_for_an_error(how: str, tmp_path: Path) -> None:
    """A function that does steps in a loop, and one that was running before there was a guard, are no part of a step:
    their callers' lines, which call them, are left alone."""
    loop = Loop(tmp_path / "called", Normalized())
    beside = vdvae_patch.guard(loop.model, file=io.StringIO()) if how != "with_a_guard" else None
    with pytest.raises(ValueError, match="loc") as caught:
        getattr(loop, how)()
    if beside is not None:
        beside.remove()
    assert "from outside: the batch is not finite" in note_of(caught.value)
    called = loop.path.read_text().split()
    assert [called.count(name) for name in ("script", "epochs")] == [1, int(how != "with_a_guard")]
    assert called.count("batches") in (0, 1, 2)
    assert called.count("evaluate") > 1 or how == "with_a_guard"  # the step itself was done again


class Drawing(VAE):
    """Its posterior is a Normal, which refuses a σ of zero."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.encoder(x))
        mean, logvar = self.mean(h), self.logvar(h)
        z = torch.distributions.Normal(mean, torch.exp(0.5 * logvar)).rsample()
        return torch.sigmoid(self.decoder(z)), mean, logvar

    def spoil(self) -> None:
        with torch.no_grad():
            self.logvar.bias -= 3000.0


def in_a_comprehension(model: nn.Module, x: Tensor) -> Tensor:
    """Python 3.11 runs it as a function of its own, with a loop in it."""
    parts = x.split(3)
    outputs = [model(part) for part in parts]
    losses = [F.mse_loss(y[0], part) + kl(y[1], y[2]) for y, part in zip(outputs, parts, strict=True)]
    return torch.stack(losses).sum()


def in_a_loop(model: nn.Module, x: Tensor) -> Tensor:
    outputs, parts = [], x.split(3)
    for part in parts:
        outputs.append(model(part))
    total = torch.zeros(())
    for y, part in zip(outputs, parts, strict=True):
        total = total + F.mse_loss(y[0], part) + kl(y[1], y[2])
    return total


@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize("step_in_parts", [in_a_comprehension, in_a_loop])
def test_a_sum_over_the_parts_of_a_batch_is_one_step(
    step_in_parts: Callable[[nn.Module, Tensor], Tensor], broken: int
) -> None:
    model = Drawing()
    with pytest.raises(ValueError, match="scale") as caught, vdvae_patch.guard(model):
        train(model, step_in_parts, broken=broken)
    note = note_of(caught.value)
    assert "head: logvar[:] (posterior)" in note
    assert "the same step is finite under" in note


@pytest.mark.parametrize("where", ["in the loop", "in a function of the loop's"])
def test_what_a_loop_does_about_its_error_is_done_once(where: str, tmp_path: Path) -> None:
    """The lines of a step are run again, and not those of an `except` around it."""
    model = Normalized()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    mended = tmp_path / "mended"

    def mend() -> None:
        with mended.open("a") as file:
            file.write("x")
        with torch.no_grad():
            model.logvar.bias += 2000

    def step(x: Tensor) -> Tensor | None:
        try:
            return model(x)  # type: ignore[no-any-return]
        except ValueError:
            mend()
            return None

    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        for number in range(4):
            optimizer.zero_grad()
            x = torch.rand(6, 8, generator=torch.Generator().manual_seed(number))
            if number == 2:
                with torch.no_grad():
                    model.logvar.bias -= 2000  # σ of zero, which torch.distributions refuses
            if where == "in the loop":
                try:
                    loss = model(x)
                except ValueError:
                    mend()
                    continue
            elif (loss := step(x)) is None:
                continue
            loss.backward()
            optimizer.step()
            assert bool(loss.isfinite())
    assert float(model.logvar.bias.detach().abs().max()) < 10
    assert guard.steps == 3
    if where == "in the loop":
        assert mended.read_text() == "x"


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_error_of_a_batch_is_not_put_down_to_the_running_statistics_that_it_has_spoilt(
    value: float, quantized: bool
) -> None:
    model, said = Normalized(), io.StringIO()
    if quantized:  # which cannot be asked whether it is finite
        model.register_buffer("eight", torch.zeros(4).to(torch.float8_e4m3fn))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    guard = vdvae_patch.guard(model, file=said)
    notes = []
    for step in range(4):
        x = torch.randn(8, 8)
        if step == 2:
            x[3, 2] = value
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        try:
            loss = model(x)
        except ValueError as error:  # as a loop does that goes on without this batch
            notes.append(note_of(error))
            assert torch.equal(model.norm.running_mean, before["norm.running_mean"])
            assert torch.equal(model.norm.running_var, before["norm.running_var"])
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.remove()
    (note,) = notes
    assert "the loc of a Normal is NaN" in note
    assert "from outside: the batch is not finite: row 3 of input 0" in note
    assert "buffers" not in note
    assert "norm.running_mean, norm.running_var of the model was no longer finite" in said.getvalue()


def test_an_error_after_the_step_says_what_was_skipped() -> None:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loop() -> None:
        for step in range(3):
            if step == 2:
                model.spoil()
            x = torch.rand(6, 8)
            recon, mean, logvar = model(x)
            loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not loss.isfinite():
                raise ArithmeticError("NaN in the loss")  # as trainers do behind the step

    with pytest.raises(ArithmeticError) as caught, vdvae_patch.guard(model):
        loop()
    assert "seen by vdvae_patch.guard: step 2: update skipped" in note_of(caught.value)
    assert "head: logvar[:]" in note_of(caught.value)


def test_a_skip_of_an_earlier_step_does_not_explain_a_later_error() -> None:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loop() -> None:
        for step in range(3):
            x = torch.rand(6, 8)
            recon, mean, logvar = model(1e30 * x if step == 1 else x)
            loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        raise ArithmeticError("of something else")

    with pytest.raises(ArithmeticError) as caught, vdvae_patch.guard(model) as guard:
        loop()
    assert [skip.step for skip in guard.skips] == [1]
    assert "seen by vdvae_patch.guard" not in note_of(caught.value)


def test_an_error_that_was_raised_from_one_that_was_told_of_is_not_told_of_again() -> None:
    first = ValueError("the first")
    assert not raised.is_told(first)
    raised.tell(first, "seen")
    assert first.__notes__ == ["seen"]
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("the second") from first
    assert raised.is_told(caught.value)
    assert not raised.may_be_of_a_value(caught.value)
    assert raised.may_be_of_a_value(RuntimeError("another"))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0])
def test_a_loss_that_is_not_finite_is_seen_among_the_variables_of_what_ran(value: float) -> None:
    def step(loss: Tensor) -> None:
        raise AssertionError(f"a loss of shape {loss.shape}")

    with pytest.raises(AssertionError) as caught:
        step(torch.tensor(value))
    assert raised.names_a_number(raised.running(caught.value)) == (not math.isfinite(value))


@pytest.mark.parametrize("kind", ["norm", "anomaly"])
def test_an_error_behind_or_in_the_backward_pass_is_explained(kind: str) -> None:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loop() -> None:
        for step in range(3):
            if step == 2:
                model.spoil()
            x = torch.rand(6, 8)
            recon, mean, logvar = model(x)
            loss = F.mse_loss(recon, x, reduction="sum") + kl(mean, logvar)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()

    anomaly = torch.autograd.set_detect_anomaly(kind == "anomaly")
    with pytest.raises(RuntimeError, match=r"non-finite|nan values") as caught, vdvae_patch.guard(model), anomaly:
        loop()
    check(note_of(caught.value))


def test_the_batch_that_is_done_again_is_the_one_that_raised() -> None:
    """A loop that goes on with the next batch leaves the passes of those before behind."""
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    notes = []
    with vdvae_patch.guard(model) as guard:
        for step in range(4):
            x = torch.rand(6, 8)
            if step >= 2:
                x[step] = torch.nan
            try:
                loss = by_bce(model, x)
            except RuntimeError as error:
                guard.explain(error)
                notes.append(note_of(error))
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert ["row 2 of input 0" in notes[0], "row 3 of input 0" in notes[1]] == [True, True], notes


SCRIPT = """
    import torch, torch.nn.functional as F
    from torch import nn
    import vdvae_patch

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.logvar, self.decoder = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(3, 8)

        def forward(self, x):
            mean, logvar = self.encoder(x), self.logvar(x)
            z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            return torch.softmax(self.decoder(z), 1), mean, logvar

    torch.manual_seed(0)
    model = VAE()
    GUARD
    optimizer = torch.optim.Adam(model.parameters(), lr=300.0)
    for _ in range(20):
        x = torch.rand(16, 8)
        recon, mean, logvar = model(x)
        loss = F.binary_cross_entropy(recon, x, reduction="sum") - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.medium
@pytest.mark.parametrize("how", ["a line", "command", "notebook"])
def test_an_uncaught_error_of_a_script_or_a_notebook_has_the_note(how: str, tmp_path: Path) -> None:
    script = tmp_path / "their_train.py"
    script.write_text(dedent(SCRIPT).replace("GUARD", "" if how == "command" else "guard = vdvae_patch.guard(model)"))
    command = [str(script)]
    if how == "command":
        command = ["-m", "vdvae_patch", "guard", "--", "python", str(script)]
    if how == "notebook":
        pytest.importorskip("IPython")
        command = ["-m", "IPython", "--no-banner", "--colors=NoColor", str(script)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "all elements of input should be between 0 and 1" in said, said
    assert "seen by vdvae_patch.guard: not all values were finite" in said
    assert "head: logvar[:] (posterior)" in said, said
    assert "their_train.py:13: z = mean + torch.exp(0.5 * logvar)" in said, said


def test_what_shows_errors_is_itself_again() -> None:
    before = sys.excepthook
    guard = vdvae_patch.guard(VAE())
    assert sys.excepthook is not before
    assert signals._listeners
    guard.remove()
    assert sys.excepthook is before


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)


@pytest.mark.parametrize("when", ["after the step", "before it", "beside the model"])
def test_what_torch_distributions_refuses_is_told_of_a_step_that_it_is_of(when: str) -> None:
    """A validation batch with a NaN was told as the step before, which was applied, and "finite when done again"."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 4), torch.randn(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def loss(x: Tensor) -> Tensor:
        mean, raw = model(x).chunk(2, 1)
        return -torch.distributions.Normal(mean, raw.exp()).rsample().mean()

    with vdvae_patch.guard(model) as guard:
        loss(x).backward()
        if when != "before it":
            optimizer.step()
        beside = when == "beside the model"
        with pytest.raises(ValueError, match="Normal") as refused, torch.set_grad_enabled(beside):
            torch.distributions.Normal(torch.zeros(()), -torch.ones(())) if beside else loss(
                torch.full_like(x, math.nan)
            )
        assert not getattr(refused.value, "__notes__", [])
        assert "seen by" not in guard.report()
        assert "raised" not in guard.report()
        optimizer.step()
        optimizer.zero_grad()
        with pytest.raises(ValueError, match="Normal") as refused:
            loss(torch.full_like(x, math.nan))
        assert "seen by vdvae_patch.guard" in refused.value.__notes__[0]
