"""What the scan makes of models that it was not tuned on."""

from __future__ import annotations

import pytest
import torch
from held_out import ALL, WITH_HEADS, Computed, Verdict, built, described, judge, table
from torch import nn
from zoo import Case

from vdvae_patch import scales

ids = {"ids": lambda case: case.name}


@pytest.mark.parametrize("case", ALL, **ids)
def test_a_held_out_model_runs_and_trains(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        torch.manual_seed(3)
        optimizer.zero_grad()
        loss = model(*case.inputs())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert torch.tensor(losses).isfinite().all()
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("case", WITH_HEADS, **ids)
def test_a_true_head_names_a_module_or_a_parameter_whose_channels_hold_its_range(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    shapes: dict[str, torch.Size] = {name: p.shape for name, p in parameters.items()}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda m, args, out, name=name: shapes.update({name: out.shape}) if isinstance(out, torch.Tensor) else None
        )
    model(*case.inputs())
    for head in case.heads:
        assert head.path in shapes
        assert head.stop is None or head.stop <= max(shapes[head.path][1:])


LONGEST = {"BayesByBackprop", "InverseFlow", "SoftActorCritic", "VariationalRnn"}


@pytest.mark.medium
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case.name in LONGEST else case for case in ALL], **ids
)
def test_exactly_the_true_heads_are_found_with_their_roles(case: Case) -> None:
    verdict = judge(case, 1)
    assert verdict.exact, (verdict.missed, verdict.false, verdict.error)


@pytest.mark.parametrize("case", WITH_HEADS, **ids)
def test_a_head_that_is_found_has_the_convention_that_the_host_computes(case: Case) -> None:
    verdict = judge(case, 1)
    assert verdict.conventions == len(verdict.found)


@pytest.mark.parametrize("case", WITH_HEADS, **ids)
def test_a_head_that_is_found_names_the_dimension_of_its_channels(case: Case) -> None:
    assert judge(case, 1).dims == ()


@pytest.mark.parametrize("case", WITH_HEADS, **ids)
def test_every_true_head_has_the_promised_sigma_after_patching_what_was_found(case: Case) -> None:
    verdict = judge(case, 1)
    assert verdict.patched == verdict.true, (verdict.missed, verdict.error)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in ALL if c.name == "BayesByBackprop"], **ids)
def test_scans_of_one_model_and_batch_agree(case: Case) -> None:
    scans = [sorted(map(described, built(case)[1])) for _ in range(6)]
    assert all(found == scans[0] for found in scans)


def test_precision_and_recall_do_not_fall() -> None:
    verdicts = [judge(case, 1) for case in ALL]
    assert sum(v.roles for v in verdicts) == sum(v.true for v in verdicts) == 40
    assert sum(len(v.false) for v in verdicts) == 0


def test_the_table_has_a_row_for_every_model_and_names_what_is_wrong() -> None:
    right = judge(next(case for case in ALL if case.name == "DepthRegression"), 1)
    hyperprior = next(case for case in ALL if case.name == "Hyperprior")
    wrong = Verdict(hyperprior, 1, (), ("h_s.2[:4] prior",), (), 0, 0, "", (), False)
    text = table([right, wrong])
    assert "| Hyperprior | 1 | 0 | 0 | 0 | 0 | 0 | missed `h_s.2[:4] prior` |" in text
    assert "recall 1/2 = 0.500" in text


class TwoScales(nn.Module):
    """A layer whose output is a log σ; the watched run shall see the scale that was put in, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        log_sigma = self.enc(x)
        z = torch.exp(log_sigma) * torch.randn_like(log_sigma)
        return z.square().mean() - log_sigma.mean()


def test_the_watched_run_tells_one_scale_from_another() -> None:
    model, x = TwoScales(), torch.randn(5, 6)
    with Computed() as computed:
        model(x)
    raw = model.enc(x).detach()
    assert computed.hold(scales.get("exp").sigma(raw))
    assert not computed.hold(scales.get("explin").sigma(raw + 0.5))
    assert not computed.hold(scales.get("upbounded").sigma(raw))
