"""A compiled model is scanned without a word from PyTorch about the hooks of the scan."""

from __future__ import annotations

import io
import warnings
from functools import partial

import pytest
import torch
from saved_models import batch, build
from torch import Tensor, nn

import vdvae_patch

compiled = partial(torch.compile, backend="eager")


def _whole() -> nn.Module:
    model: nn.Module = compiled(build("AtOutput"))
    return model


def _part() -> nn.Module:
    model = build("AtOutput")
    model.encoder = compiled(model.encoder)
    return model


@pytest.mark.parametrize("made", [_whole, _part])
def test_no_warning_of_global_hooks_is_shown_and_others_are(made: object) -> None:
    assert callable(made)
    model = made()

    def call(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        warnings.warn("the host's own", stacklevel=1)
        loss: torch.Tensor = model(x)
        return loss

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vdvae_patch.stabilize(model, batch(), call=call, file=io.StringIO())
    told = {str(w.message).split(" (e.g.")[0] for w in caught}
    assert "the host's own" in told
    assert not [text for text in told if "global hooks" in text]


def test_a_compiled_loss_runs_as_it_is_written_and_is_not_compiled_for_a_scan() -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        compiled.append(graph)
        return graph.forward

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        mean, log_variance = model(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return z.square().mean() - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()

    out = io.StringIO()
    vdvae_patch.stabilize(nn.Linear(8, 8), batch(), call=torch.compile(loss, backend=backend), file=out)
    assert "CURED: the model[4:8] (posterior" in out.getvalue()
    assert not compiled


def test_nothing_is_written_past_pythons_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            mean, raw = self.out(x).unbind(-1)
            return nn.functional.gaussian_nll_loss(mean, x[:, 0], raw.exp())

    vdvae_patch.scan(Regression(), batch())
    assert capfd.readouterr().err == ""
