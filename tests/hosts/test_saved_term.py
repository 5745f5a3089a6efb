"""A patch with a likelihood in the place of the host's reconstruction term, as a document, on disk, and read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cross_entropy_by_stabilize import LogLikelihood, OfADistribution, OfLogits, Softplus, WrittenOut
from test_decoder_by_stabilize import REPLACED, Small, batch, made, own, stabilized
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.document.seal import with_checksum
from vdvae_patch.errors import PatchError
from vdvae_patch.patching.term import Term, term_in

Loss = Callable[[nn.Module, Tensor], Tensor]
INSIDE: list[tuple[type[Small], Loss]] = [
    *((kind, loss) for name, (kind, loss, _) in REPLACED.items() if name not in ("outside", "helper")),
    *((kind, own) for kind in (OfLogits, WrittenOut, LogLikelihood, Softplus, OfADistribution)),
]


def trained(kind: type[Small], loss: Loss, decoder: str = "optimal") -> Small:
    model = made(kind)
    stabilized(model, loss, decoder)
    for seed in range(3):
        loss(model, batch(seed=seed))
    return model


def value_of(model: nn.Module, loss: Loss) -> Tensor:
    torch.manual_seed(0)
    return loss(model, batch(seed=9)).detach()


def term_of(model: nn.Module) -> Term:
    found = term_in(model)
    assert found is not None
    return found


@pytest.mark.medium
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("kind", "loss"), INSIDE)
def test_a_saved_model_has_its_term_and_the_sigma_of_training(
    kind: type[Small], loss: Loss, device: str, tmp_path: Path
) -> None:
    model = trained(kind, loss)
    vdvae_patch.save(model, tmp_path / "saved")
    with torch.device(device):
        built = kind()
    again = vdvae_patch.load(built, tmp_path / "saved")
    assert again.state_dict().keys() == model.state_dict().keys()
    known = {name: float(value) for name, value in term_of(model).apart().items()}
    assert {name: float(value) for name, value in term_of(again).apart().items()} == known
    assert known["decoder.updates"] == 3
    for mode in (False, True):
        assert torch.equal(value_of(again.train(mode), loss), value_of(model.train(mode), loss))
    vdvae_patch.unpatch(again)
    assert term_in(again) is None
    vanilla = kind()
    vanilla.load_state_dict(again.state_dict())
    assert torch.equal(value_of(again, loss), value_of(vanilla, loss))


@pytest.mark.medium
def test_a_document_is_applied_to_another_model_and_written_again() -> None:
    document = vdvae_patch.patch_json(trained(OfLogits, own))
    fresh = made(OfLogits)
    handle = vdvae_patch.apply(fresh, document)
    assert json.loads(handle.to_json())["patches"][0]["term"] == json.loads(document)["patches"][0]["term"]
    fixed = vdvae_patch.patch_json(trained(OfLogits, own, "fixed(sigma=0.1)"))
    term = json.loads(fixed)["patches"][0]["term"]
    assert (term["decoder"], term["state"]) == ("fixed(sigma=0.1)", {})
    vdvae_patch.apply(made(OfLogits), fixed)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder": "per_pixel"}, "optimal, shared or fixed"),
        ({"decoder": "optimall"}, "optimal"),
        ({"decoder": "fixed(sigma=-1)"}, "sigma"),
        ({"decoder": 3}, "must be a text"),
        ({"pixels": [0.0]}, "lowest and the highest"),
        ({"pixels": [1.0, 0.0]}, "from a low to a high"),
        ({"pixels": ["inf", 1.0]}, "from a low to a high"),
        ({"reduced": "median"}, "must be one of sum, mean, rows, values"),
        ({"reads": "median"}, "must be one of mean, logit, log mean"),
        ({"factor": 0}, "finite number that is not 0"),
        ({"factor": "inf"}, "finite number that is not 0"),
        ({"factor": None}, "must be a number"),
        ({"data_first": 1}, "true or false"),
        ({"state": {"mean_squared_error": -1.0, "updates": 1}}, "at least 0"),
        ({"state": {"mean_squared_error": "inf", "updates": 1}}, "at least 0"),
        ({"state": {"mean_squared_error": 1.0, "updates": -1}}, "a number of updates"),
        ({"state": {"mean_squared_error": 1.0, "updates": 2**70}}, "a number of updates"),
        ({"state": {"mean_squared_error": 1.0}}, "'updates' is missing"),
        ({"state": {"other": 1.0}}, "unknown field 'other'"),
        ({"decoder": "fixed(sigma=0.1)"}, "has no state"),
        ({"more": 1}, "unknown field 'more'"),
        ({"at": {"owner": "", "method": "forward", "calls": [], "first": "nothing", "last": "nothing"}}, "nowhere"),
        ({"at": {"owner": "other", "method": "forward", "calls": [], "first": "x", "last": "x"}}, "no module 'other'"),
        ({"at": []}, "must be an object"),
    ],
)
def test_a_damaged_term_is_refused_and_the_model_is_as_it_was(change: dict[str, Any], said: str) -> None:
    document = json.loads(vdvae_patch.patch_json(trained(OfLogits, own)))
    document["patches"][0]["term"] |= change
    model = made(OfLogits)
    value = value_of(model, own)
    with pytest.raises(PatchError, match=said):
        vdvae_patch.apply(model, json.dumps(with_checksum(document)))
    assert term_in(model) is None
    assert not vdvae_patch.is_patched(model)
    assert torch.equal(value_of(model, own), value)


@pytest.mark.medium
def test_a_place_that_leads_to_foreign_code_is_refused() -> None:
    document = json.loads(vdvae_patch.patch_json(trained(OfLogits, own)))
    document["patches"][0]["term"]["at"]["calls"] = [["F.softplus(z)", "os", "system"]]
    with pytest.raises(PatchError, match="no code that the model has loaded"):
        vdvae_patch.apply(made(OfLogits), json.dumps(with_checksum(document)))


def test_a_document_without_its_term_reaches_other_places() -> None:
    document = json.loads(vdvae_patch.patch_json(trained(OfLogits, own)))
    del document["patches"][0]["term"]
    with pytest.raises(PatchError, match="other places"):
        vdvae_patch.apply(made(OfLogits), json.dumps(with_checksum(document)))


@pytest.mark.medium
@pytest.mark.parametrize("name", ["outside", "helper"])
def test_a_term_beside_the_model_is_not_written_down_and_says_what_to_do(name: str) -> None:
    kind, loss, _ = REPLACED[name]
    handle, _, _ = stabilized(made(kind), loss)
    with pytest.raises(PatchError, match="put the loss into a method of the model"):
        handle.to_json()


@pytest.mark.medium
def test_a_sigma_that_is_not_finite_is_not_written_down() -> None:
    model = trained(OfLogits, own)
    term_of(model).decoder.mean_squared_error.fill_(torch.inf)  # type: ignore[operator]
    with pytest.raises(PatchError, match="not finite"):
        vdvae_patch.patch_json(model)


def test_the_lines_to_write_name_the_term_for_what_it_is() -> None:
    model = trained(OfLogits, own)
    notes = "\n".join(vdvae_patch.source(model).notes)
    assert "the reconstruction term becomes" in notes
    assert "decoder.nll(data, sigmoid(output)).mean(), decoder = vdvae_patch.decoders.get('optimal'" in notes
    assert "torch.distributions.Normal" not in notes
