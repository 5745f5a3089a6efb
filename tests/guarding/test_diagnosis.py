"""What a guard says of a skipped step: the head, the line, the rows, and what would hold."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from process_trees import finished
from small_vae import SmallVAE
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.cli import dispatch
from vdvae_patch.errors import CheckpointError, GuardError, InvalidValueError
from vdvae_patch.guarding.replaying import replay
from vdvae_patch.guarding.skip import read

sys.path.insert(0, str(Path(__file__).parent))
import their_vae

HERE = Path(__file__)


def line_with(text: str) -> int:
    return next(
        n for n, line in enumerate(HERE.read_text().splitlines(), 1) if text in line and "line_with" not in line
    )


class Two(nn.Module):
    """A posterior and a learned prior; far(head, by) moves one of them where training might have led it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.p, self.decoder = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mq, lq = self.q(x.nan_to_num()).chunk(2, -1)  # missing values
        mp, lp = self.p(c).chunk(2, -1)
        z = mq + torch.exp(lq) * torch.randn_like(mq)
        kl = lp - lq + (torch.exp(2 * lq) + (mq - mp) ** 2) / (2 * torch.exp(2 * lp)) - 0.5  # the rate
        return self.decoder(z), kl.sum(-1)

    def far(self, head: str, by: float) -> None:
        with torch.no_grad():
            self.get_submodule(head).bias[3:] += by  # type: ignore[index, operator]


class Ours(nn.Module):
    """Its loss is a method that calls its parts, and `torch.distributions` checks it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.ModuleDict({"encoder": nn.Linear(6, 6), "decoder": nn.Linear(3, 6)})

    def elbo(self, x: Tensor) -> Tensor:
        mean, raw = self.net["encoder"](x).chunk(2, 1)
        q = Normal(mean, raw.exp())  # checked
        recon = Normal(self.net["decoder"](q.rsample()), 1.0)
        return recon.log_prob(x).sum() - kl_divergence(q, Normal(0.0, 1.0)).sum()


def two_steps(model: Two, broken: Callable[[], None], **arguments: Any) -> vdvae_patch.Guard:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, **arguments) as guard:
        for step in range(3):
            if step == 2:
                broken()
            x, c = torch.randn(8, 6), torch.randn(8, 6)
            optimizer.zero_grad()
            recon, kl = model(x, c=c)
            loss = F.mse_loss(recon, x, reduction="sum") + kl.sum()
            loss.backward()
            optimizer.step()
    assert guard.steps == 2
    assert len(guard.skips) == 1
    return guard


@pytest.mark.parametrize(("head", "by", "holds"), [("q", 90.0, "explin"), ("p", -60.0, "explin/constant")])
def test_the_head_to_blame_is_the_one_whose_replacement_helps(head: str, by: float, holds: str) -> None:
    model = Two()
    guard = two_steps(model, lambda: model.far(head, by))
    skip = guard.skips[0]
    assert skip.head == head
    assert skip.holding[0] == holds
    assert skip.rows == tuple(range(8))
    assert skip.file == str(HERE)
    assert skip.line == line_with("# the rate") if head == "p" else line_with("z = mq")
    assert skip.diagnosis is not None
    assert skip.diagnosis.exact is True
    extremes = {h.path: h for h in skip.diagnosis.heads}
    assert abs(extremes[head].log_sigma_max - by) < 3
    assert f"patch(model, {holds!r}, heads=heads)" in guard.report()


class Sure(nn.Module):
    """A decoder that is the surer of its pixels, the larger the latent is."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.d = nn.Linear(6, 6), nn.Linear(3, 12)
        self.far = 0.0

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.q(x).chunk(2, 1)
        log_sigma = raw + self.far
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma
        pixel, sure = self.d(z.abs()).chunk(2, 1)
        return kl.sum() + (sure + 0.5 * ((x - pixel) / sure.exp()) ** 2).sum()


def test_a_head_that_another_sample_rescues_is_blamed_all_the_same() -> None:
    torch.manual_seed(0)
    model = Sure()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            if step == 1:
                model.far = 3.0
                nn.init.constant_(model.d.weight[6:], -1.0)
            x = torch.randn(8, 6)
            optimizer.zero_grad()
            model(x).backward()
            optimizer.step()
    skip = guard.skips[0]
    assert skip.diagnosis is not None
    extremes = {h.role: h.extremity for h in skip.diagnosis.heads}
    assert extremes["likelihood"] > 40 > extremes["posterior"]
    assert skip.holding[0] == "explin"  # of the posterior alone: its sample is smaller, and the decoder less sure
    assert skip.diagnosis.head is not None
    assert skip.diagnosis.head.role == "likelihood"
    cure = skip.diagnosis.cure
    assert cure is not None
    assert cure in skip.holding
    assert cure.startswith("vanilla/vanilla/")
    assert f"patch(model, {cure!r}, heads=heads)" in guard.report()


def test_a_fault_that_no_head_causes_is_said_to_be_none() -> None:
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for sign in (1.0, -1.0):
            x = torch.rand(8, 6)
            recon, kl = model(x, x)
            weight = torch.log(sign * recon.sigmoid()).mean()  # of a negative number
            loss = F.mse_loss(recon, x) + kl.sum() + weight
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    skip = guard.skips[0]
    assert skip.head is None
    assert not skip.holding
    assert skip.line == line_with("# of a negative number")
    assert "they are not what breaks it" in guard.report()
    assert "cure" not in guard.report()


def test_what_came_in_from_outside_is_said_first() -> None:
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        x = torch.rand(8, 6)
        x[3, 1] = torch.inf
        recon, kl = model(x, x)
        (F.mse_loss(recon, x) + kl.sum()).backward()
        optimizer.step()
    assert "the batch is not finite: row 3 of input 0" in guard.skips[0].outside[0]
    assert guard.skips[0].head is None


def test_lines_that_do_something_are_not_done_twice() -> None:
    model, history, calls = Two(), [], []
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            if step:
                model.far("q", 90.0)
            x = torch.rand(8, 6)
            recon, kl = model(x, x)
            loss = F.mse_loss(recon, x) + kl.sum()
            history.append(loss.item())
            calls.append(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert guard.skips[0].head == "q"
    assert len(history) == len(calls) == 2


@pytest.mark.parametrize("chained", [False, True])
def test_the_micro_batch_that_spoils_the_sum(chained: bool) -> None:
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            for part in range(3):
                x = torch.rand(8, 6) * (1e30 if (step, part) == (1, 1) else 1.0)
                if chained:
                    (model(x, x)[1].sum() / 3).backward()
                else:
                    kl = model(x, x)[1].sum()
                    loss = kl / 3
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    skip = guard.skips[0]
    assert skip.step == 1
    assert skip.line in (line_with("z = mq"), line_with("# the rate"))
    assert skip.diagnosis is not None
    assert skip.diagnosis.exact is True


def test_a_variant_holds_only_if_it_holds_for_all_that_was_bad() -> None:
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            for part in range(2):
                if step and part:
                    model.far("q", 90.0)
                x = torch.rand(8, 6)
                recon, kl = model(x, x)
                other = torch.log(recon.detach().abs() * 0).sum() * (0 if (step, part) != (1, 0) else 1)
                loss = kl.sum() + torch.nan_to_num(other) if (step, part) != (1, 0) else kl.sum() + other
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not guard.skips[0].holding
    assert "cure" not in guard.report()


def test_a_mask_is_not_told_of_where_the_fault_is_made_elsewhere() -> None:
    model = Two()
    mask = torch.tensor([0.0, 0, 0, 0, -torch.inf, -torch.inf])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            x = torch.rand(8, 6)
            recon, kl = model(x, (x + mask).softmax(1))
            share = (recon + mask).softmax(1).amax(1)
            loss = kl.sum() + torch.log(share * (1 - step)).sum()  # of zero
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not guard.skips[0].outside
    assert guard.skips[0].line == line_with("# of zero")


@pytest.mark.parametrize("broken", [False, True])
def test_infinities_that_were_there_in_a_finite_step_are_not_to_blame(broken: bool) -> None:
    """A mask has some in every step, and a fault that is no head's carries them on; a batch has none."""
    model = Two()
    mask = torch.tensor([0.0, 0, 0, 0, -torch.inf, -torch.inf])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            x, c = torch.rand(8, 6), mask.softmax(-1).repeat(8, 1)
            if step and broken:
                c[3, 1] = torch.inf
            recon, kl = model(x, c)
            weight = (recon.mean(0) + mask).relu() if not step else (recon.mean(0) + mask) * (mask == 0)  # infinite
            loss = kl.sum() + weight.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert len(guard.skips) == 1
    if broken:
        assert "row 3 of input 1" in guard.skips[0].outside[0]
    else:
        assert not guard.skips[0].outside, guard.report()
        assert guard.skips[0].line == line_with("# infinite")


@pytest.mark.parametrize("given_up", [1, 3])
def test_a_batch_that_was_given_up_before_backward_is_no_part_of_the_step(given_up: int) -> None:
    """The loop looks at what it has, and takes the next batch; in the step after that a head is at fault."""
    torch.manual_seed(0)
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for number in range(4 + given_up):
            x = torch.rand(8, 6)
            c = torch.rand(8, 6)
            if 2 <= number < 2 + given_up:
                c[3] = torch.nan
            if number == 2 + given_up:
                with torch.no_grad():
                    model.q.bias[3:] += 90.0  # type: ignore[index]
            recon, kl = model(x, c)
            loss = F.mse_loss(recon, x) + kl.sum()
            if c.isnan().any():
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number == 2 + given_up:
                break
    (skip,) = guard.skips
    assert skip.head == "q", guard.report()
    assert not skip.outside
    assert skip.diagnosis is not None
    assert skip.diagnosis.exact is True
    assert "random state is not known" not in guard.report()


def test_a_pass_whose_result_is_detached_is_a_part_of_the_step() -> None:
    torch.manual_seed(0)
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for number in range(3):
            x, y = torch.rand(8, 6), torch.rand(8, 6)
            if number == 2:
                model.far("p", -60.0)
            target = model(y, y)[0].detach()
            recon, kl = model(x, x)
            loss = F.mse_loss(recon, target) + kl.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    (skip,) = guard.skips
    assert skip.head == "p"
    assert skip.diagnosis is not None
    assert skip.diagnosis.exact is True


def test_nan_that_stands_for_what_is_missing_is_not_to_blame() -> None:
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            if step:
                model.far("q", 90.0)
            x = torch.rand(8, 6)
            x[2, 1] = torch.nan
            recon, kl = model(x, c=x.nan_to_num())
            loss = ((recon - x.nan_to_num()) * ~x.isnan()).pow(2).sum() + kl.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert guard.skips[0].head == "q"
    assert not guard.skips[0].outside


def test_refusals_that_a_loop_catches_are_not_all_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    model = Ours()
    with vdvae_patch.guard(model) as guard:
        with torch.no_grad():
            model.net["encoder"].bias[3:] -= 400.0  # type: ignore[union-attr, operator, index]
        for _ in range(6):
            with contextlib.suppress(ValueError):
                loss = -model.elbo(torch.randn(8, 6))
                loss.backward()
    assert guard.report().count("torch.distributions raised") == 3


def test_a_loop_over_time_begins_where_it_began() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.head, self.out = nn.GRUCell(6, 8), nn.Linear(8, 6), nn.Linear(3, 6)

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            h = self.cell(x, h)
            mean, logvar = self.head(h).chunk(2, 1)
            z = mean + torch.exp(logvar / 2) * torch.randn_like(mean)  # over time
            return self.out(z), mean, logvar, h

    model = Recurrent()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(3):
            series = torch.randn(4, 8, 6)
            if step == 2:
                with torch.no_grad():
                    model.head.bias[3:] += 300
            h = torch.zeros(8, 8)
            loss: Any = 0.0
            for x in series:
                recon, mean, logvar, h = model(x, h)
                loss = loss + ((recon - x) ** 2).sum() - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    skip = guard.skips[0]
    assert skip.head == "head", guard.report()
    assert skip.line == line_with("# over time")


def test_a_method_of_the_model_is_as_good_as_its_forward() -> None:
    model = Ours()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(3):
            if step == 2:
                with torch.no_grad():
                    model.net["encoder"].bias[3:] += 70.0  # type: ignore[union-attr, operator, index]
            loss = -model.elbo(torch.randn(8, 6))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [skip.head for skip in guard.skips] == ["net.encoder"]


def test_a_loop_may_call_the_model_first_and_its_method_later() -> None:
    class Both(Ours):
        def forward(self, x: Tensor) -> Tensor:
            return -self.elbo(x)

    model = Both()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(6):
            if step == 5:
                with torch.no_grad():
                    model.net["encoder"].bias[3:] += 70.0  # type: ignore[union-attr, operator, index]
            x = torch.randn(8, 6)
            loss = model(x) if step < 3 else -model.elbo(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [skip.head for skip in guard.skips] == ["net.encoder"]


def test_what_torch_distributions_refuses_is_explained_in_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # compiling turns it off for good
    monkeypatch.chdir(HERE.parent)  # files are named from there on
    model = Ours()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        loss = -model.elbo(torch.randn(8, 6))
        loss.backward()
        optimizer.step()

    with vdvae_patch.guard(model) as guard:
        step()
        with torch.no_grad():
            model.net["encoder"].bias[3:] -= 400.0  # type: ignore[union-attr, operator, index]
        with pytest.raises(ValueError, match="Expected parameter scale") as caught:
            step()
    note = "\n".join(caught.value.__notes__)
    assert f"guard: {HERE.name}:{line_with('# checked')}: the scale of a Normal" in note
    assert "rows 0 to 7, the smallest 0" in note
    assert "head: net.encoder[3:6] (posterior), log σ from -40" in note
    assert "finite under explin" in note
    report = guard.report()
    assert "1 steps, no update was skipped" in report
    assert "step 1: torch.distributions raised: " in report
    assert "patch(model, 'explin', heads=heads)" in report


def test_an_infinity_of_half_precision_is_found_where_it_is_made() -> None:
    model = nn.Linear(6, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        x = torch.ones(2000, 6)
        with torch.autocast("cpu", dtype=torch.float16):
            total = (0 * model(x) + 100).sum()  # 1.2 million, of which float16 knows nothing
            loss = 1e-6 * total.float() + 1.0
        loss.backward()
        optimizer.step()
    event = guard.skips[0].event
    assert event is not None
    assert event.operation == "aten.sum.default"
    assert guard.skips[0].line == line_with("of which float16 knows nothing")


def test_what_a_part_is_given_by_the_loop_is_not_called_the_batch() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(6, 3), "critic": nn.Linear(3, 1)})
    optimizer = torch.optim.Adam(model["critic"].parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        with torch.no_grad():
            z = model["encoder"](torch.full((4, 6), 1e38)) * 1e38
        model["critic"](z).sum().backward()
        optimizer.step()
    assert guard.skips[0].outside[0].startswith("what critic is given is not finite: rows 0 to 3 of input 0")


def test_heal_gives_the_head_a_scale_when_it_is_to_blame_twice(tmp_path: Path) -> None:
    model = Two()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, policy="heal", out=tmp_path / "guard") as guard:
        for step in range(6):
            if step == 2:
                model.far("q", 90.0)
            x = torch.randn(8, 6)
            recon, kl = model(x, x)
            loss = F.mse_loss(recon, x, reduction="sum") + kl.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [skip.step for skip in guard.skips] == [2, 3]
    found = re.fullmatch(r"(.*): its log σ (from .*) in this step, and now (from .*)", guard.skips[1].healed)
    assert found is not None
    assert found[1] == "q[3:6] (posterior) has explin from now on"
    before, after = ([float(word) for word in found[n].split()[1::2]] for n in (2, 3))
    assert before[0] > 80
    assert after == pytest.approx([math.log1p(p) for p in before], abs=1e-3)  # what explin is above 0
    assert "was given is made in the lines" not in guard.report()
    assert vdvae_patch.is_patched(model)
    assert "posterior='explin'" in guard.report()
    assert model.state_dict()._metadata  # type: ignore[attr-defined]
    lines = [json.loads(line) for line in (tmp_path / "guard" / "skips.jsonl").read_text().splitlines()]
    assert [line["head"] for line in lines] == ["q", "q"]
    assert lines[0]["variants"]["explin"] is True


def test_a_model_that_is_patched_already_is_examined_without_its_patch() -> None:
    model = Two()
    x = torch.randn(8, 6)

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        recon, kl = model(x, x)
        return F.mse_loss(recon, x, reduction="sum") + kl.sum()

    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x, call=loss_of))
    guard = two_steps(model, lambda: model.far("p", -60.0))
    assert guard.skips[0].head == "p"
    assert guard.skips[0].holding[0] == "explin/constant"
    assert str(vdvae_patch.patched_heads(model)[0].scale) == "explin"


# --- the commands -----------------------------------------------------------------------------------------------------


def guarded(folder: Path) -> vdvae_patch.Guard:
    torch.manual_seed(0)
    model = their_vae.VAE()
    optimizer = torch.optim.Adam(model.parameters(), 3.0)
    with vdvae_patch.guard(model, out=folder) as guard:
        for _ in range(3):
            x = torch.randn(32, 16) * 3
            loss = their_vae.loss(model, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert guard.skips
    return guard


def test_a_recorded_skip_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = guarded(tmp_path / "guard")
    told = guard.report()
    arguments = ["--model", "their_vae:VAE", "--call", "their_vae:loss", "--path", str(HERE.parent)]
    assert dispatch(["replay", str(tmp_path / "guard" / "skip-0001"), *arguments, "--variant", "explin"]) == 0
    said = capsys.readouterr().out
    assert "done again: place of the first bad value and extremes of " in said
    assert " are the same, bit for bit; the loss is " in said
    head = next(line.strip() for line in told.splitlines() if line.strip().startswith("head:"))
    assert head in said
    assert "the same step under explin: loss" in said
    assert "all 12 gradients finite" in said
    assert dispatch(["replay", str(tmp_path / "guard"), *arguments]) == 0
    with pytest.raises(InvalidValueError, match="weights of a VAE, and no code; name what makes the model"):
        dispatch(["replay", str(tmp_path / "guard")])
    other = [*arguments[:1], "torch.nn:Identity", *arguments[2:]]
    with pytest.raises(CheckpointError, match="which do not fit this Identity"):
        dispatch(["replay", str(tmp_path / "guard"), *other])
    state = tmp_path / "guard" / "skip-0001" / "state.pt"
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    state.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        dispatch(["replay", str(tmp_path / "guard"), *arguments])


def test_a_step_that_is_skipped_for_its_size_is_done_again_under_another_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = their_vae.VAE()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=tmp_path, threshold=1.0, file=io.StringIO()) as guard:
        their_vae.loss(model, torch.randn(32, 16) * 3).backward()
        optimizer.step()
    assert guard.skips[0].cause == "high_gradient"
    again = replay(read(tmp_path / "skip-0001"), their_vae.VAE(), their_vae.loss, "explin")
    norm = guard.skips[0].norm
    assert f"the step is finite, as it was; the gradient norm of this batch's loss is {norm:.4g}\n" in str(again)
    assert "what is random in it may differ" not in str(again)
    assert again.other is not None
    assert again.other.norm != norm
    assert f"the same step under explin: {again.other.headline}, gradient norm {again.other.norm:.4g}" in str(again)
    assert "logvar" in again.heads


def test_one_call_of_a_step_of_several_is_not_said_to_differ_for_the_machine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = their_vae.VAE()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=tmp_path, threshold=1.0, file=io.StringIO()):
        for _ in range(2):
            (their_vae.loss(model, torch.randn(32, 16)) / 2).backward()
        optimizer.step()
    again = str(replay(read(tmp_path / "skip-0001"), their_vae.VAE(), their_vae.loss))
    assert "the loss is NOT that of the step (that is of further calls of the model, too, which are" in again
    assert "not recorded: the inputs of 1 further call of the model in this step" in again


@pytest.mark.medium
def test_a_script_that_nobody_edits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vdvae_patch", "guard", "--out", str(tmp_path / "guard")]
    script = ["--", "python", str(HERE.with_name("their_vae.py")), "3"]
    done = finished([*command, *script], timeout=240)
    assert done.returncode == 0, done.stderr
    assert "finite at the end: True" in done.stdout
    assert "head: logvar[:] (posterior)" in done.stderr
    assert (tmp_path / "guard" / "skip-0001").is_dir()
    cured = [sys.executable, "-m", "vdvae_patch", "guard", "--variant", "explin", *script]
    done = finished(cured, timeout=240)
    assert "VAE was patched as explin after its first step" in done.stderr
    assert "no update was skipped" in done.stderr


def test_models_that_nothing_holds_together_are_found() -> None:
    from vdvae_patch.guarding.everything import Everything

    with Everything() as everything:
        encoder, decoder, other = nn.Linear(4, 4), nn.Linear(2, 4), nn.Sequential(nn.Linear(2, 2))
        torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.1)
        torch.optim.SGD(other.parameters(), lr=0.1)
        assert [sorted(dict(g.model.named_children())) for g in everything.guards] == [["decoder", "encoder"], ["0"]]
        assert everything.guards[1].model is other
    with pytest.raises(InvalidValueError, match="which script"):
        dispatch(["guard", "--"])
    with pytest.raises(InvalidValueError, match=r"nothere\.py is not there"):
        dispatch(["guard", "--", "python", "nothere.py"])


def test_bad_arguments(tmp_path: Path) -> None:
    model = Two()
    for arguments, text in (
        ({"policy": "hope"}, "policy must be one of skip, raise, heal"),
        ({"clip": "much"}, 'clip must be a norm or "auto"'),
        ({"clip": -1.0}, "clip must be above 0"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"max_consecutive": 0}, "max_consecutive must be at least 1"),
    ):
        with pytest.raises(InvalidValueError, match=text):
            vdvae_patch.guard(model, **arguments)  # type: ignore[arg-type]
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(GuardError, match="the folder of a run"):
        vdvae_patch.guard(model, out=tmp_path)


def test_a_folder_of_another_model_is_refused_and_one_of_the_same_goes_on(tmp_path: Path) -> None:
    said = io.StringIO()
    for _ in range(2):
        model = Two()
        two_steps(model, lambda model=model: model.far("q", 90.0), out=tmp_path, keep=1, file=said)  # type: ignore[misc]
    assert len((tmp_path / "skips.jsonl").read_text().splitlines()) == 2
    assert [path.name for path in tmp_path.glob("skip-*")] == ["skip-0001"]
    assert re.search(r"skip-0001 takes [\d.]+ MiB; at most 1 are kept", said.getvalue())
    assert said.getvalue().count("holds 1 recorded skips, of this training or one before; no more are kept") == 1
    with pytest.raises(GuardError, match="holds recorded skips of a Two, and this is a Linear; name another one"):
        vdvae_patch.guard(nn.Linear(2, 2), out=tmp_path)


def test_a_tracker_that_raises_is_not_called_again() -> None:
    calls: list[Any] = []

    def tracker(values: Any) -> None:
        calls.append(values)
        raise OSError("no network")

    model = Two()
    two_steps(model, lambda: model.far("q", 90.0), tracker=tracker, every=1)
    assert len(calls) == 1
    assert set(calls[0]) == {"step", "loss", "grad_norm", "clip", "skipped"}


def test_what_explodes_behind_the_first_value_that_is_not_finite_was_not_before_it() -> None:
    model = SmallVAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(3):
            if step == 2:
                with torch.no_grad():
                    model.logvar.bias += 300.0
                    model.mean.bias += 3000.0
            x = torch.randn(8, 6)
            recon, mean, logvar = model(x)
            loss = ((recon - x) ** 2).sum() - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert "the first value that is not finite: aten.exp.default" in guard.report()
    assert "before it a value exploded" not in guard.report()


def test_weights_that_an_update_before_made_large_are_named_and_a_view_of_them_is_not_what_explodes() -> None:
    model = SmallVAE()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(2):
            if step == 1:
                with torch.no_grad():
                    model.mean.weight.fill_(3e19)
            x = torch.randn(8, 6)
            recon, mean, logvar = model(x)
            loss = ((recon - x) ** 2).sum() - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    said = guard.report()
    assert "exploded: aten.addmm.default" in said
    assert "note: weights were as large before this step: mean.weight (up to 3e+19); an update before made them" in said
    assert "load an earlier checkpoint" in said


def test_of_two_heads_that_are_both_needed_the_one_that_explodes_is_to_blame_and_not_the_one_behind_it() -> None:
    """The scale of the likelihood is NaN, since the latent is; and with a finite latent it would explode, too."""

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.out, self.log_scale = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            mean, raw = self.encoder(x).chunk(2, 1)
            q = Normal(mean, raw.exp(), validate_args=False)  # first
            z = q.rsample()
            p = Normal(self.out(z), self.log_scale(z).exp(), validate_args=False)
            return (kl_divergence(q, Normal(0.0, 1.0)).sum(1) - p.log_prob(x).sum(1)).mean()

    model = Behind()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for step in range(3):
            if step == 2:
                with torch.no_grad():
                    model.encoder.bias[3:] += 400.0
                    model.log_scale.bias -= 400.0
            optimizer.zero_grad()
            model(torch.randn(8, 6)).backward()
            optimizer.step()
    assert guard.skips[0].head == "encoder", guard.report()
    assert guard.skips[0].line == line_with("# first")
