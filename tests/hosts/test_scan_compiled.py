"""A compiled model is scanned without a word from PyTorch about the hooks of the scan."""

from __future__ import annotations

import io
import warnings
from functools import partial

import pytest
import torch
from saved_models import batch, build
from torch import nn

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
