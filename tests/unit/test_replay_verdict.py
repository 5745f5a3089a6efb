"""Which head a replayed step blames, where a look at the latents does not reach all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from vdvae_patch.trace import Event, Place
from vdvae_patch.train import verdict
from vdvae_patch.train.probe import HeadState
from vdvae_patch.train.replay import HeadReplay, Replay

NAN = math.nan
POSTERIOR = HeadReplay(HeadState("encoder", "posterior", -5275.0, 5329.0, math.inf), 2.0)
DECODER = HeadReplay(HeadState("gamma", "likelihood", NAN, NAN, NAN), 1.0)
EVENT = cast("Event", SimpleNamespace(place=Place("", "vae.py", 81, "sigma = raw.exp()"), finite=False))


def said(monkeypatch: Any, *heads: HeadReplay) -> tuple[str, str]:
    monkeypatch.setattr(verdict.telling, "values", lambda *_: [])
    found = cast(
        "Replay",
        SimpleNamespace(heads=heads, first_bad=EVENT, first_not_finite=EVENT, bad_rank=0, variant="vanilla"),
    )
    return verdict._blame(found), verdict._heads(found)


def test_a_likelihood_that_no_look_reaches_is_not_blamed_for_nan_to_nan(monkeypatch: Any) -> None:
    """It was, whatever broke: what was not looked at was NaN, and that is the most extreme log σ of all."""
    blame, table = said(monkeypatch, DECODER, POSTERIOR)
    assert [head.state.path for head in verdict.suspects(EVENT, [DECODER, POSTERIOR])] == ["encoder", "gamma"]
    assert blame.splitlines()[1:] == [
        "  head: encoder (posterior), log σ from -5275 to 5329",
        "  head: gamma (likelihood), whose log σ is not looked at here, and may be what breaks it",
    ]
    assert "nan" not in table


def test_a_head_that_was_looked_at_and_is_nan_is_blamed_as_before(monkeypatch: Any) -> None:
    broken = replace(POSTERIOR, state=replace(POSTERIOR.state, log_sigma_min=NAN, log_sigma_max=NAN, kl=NAN))
    blame, table = said(monkeypatch, DECODER, broken)
    assert "encoder (posterior), log σ from nan to nan" in blame
    assert "nan" in table
