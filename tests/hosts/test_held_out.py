"""What the scan makes of models that it was not tuned on."""

from __future__ import annotations

import held_out_others as others
import held_out_regressions as regressions
import held_out_sequences as sequences
import held_out_vaes as vaes
import pytest
import torch
from zoo import Case

WITH_HEADS = (*vaes.CASES, *sequences.CASES, *regressions.CASES)
ALL = (*WITH_HEADS, *others.CASES)
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
