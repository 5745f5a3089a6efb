"""What is given in the place of a model or a loss, as a stranger may, is answered with what to give."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import vdvae_patch
from vdvae_patch.errors import GuardError, PatchError

X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), nn.functional.softplus(self.scale(x))


class Sampling(Encoder):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, scale = super().forward(x)
        return Normal(mean, scale).rsample()


class Stepped(Sampling):
    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self(batch).square().mean()


class Trainer:
    def __init__(self) -> None:
        self.encoder, self.decoder = Encoder(), nn.Linear(4, 8)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (Encoder, "Encoder is a class; give .* an instance of it"),
        ((Encoder(), nn.Linear(4, 8)), r"takes one torch.nn.Module, and a tuple was given; give torch.nn.ModuleList"),
        ({"enc": Encoder()}, r"a dict was given; give torch.nn.ModuleDict\(...\) of its modules"),
        (Trainer(), r"not a Trainer; of its modules, torch.nn.ModuleDict\({'encoder': it.encoder, 'decoder': it.dec"),
        (X, "takes a torch.nn.Module, and not a Tensor"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_give(given: Any, answer: str) -> None:
    for taker in (vdvae_patch.scan, vdvae_patch.stabilize):
        with pytest.raises(PatchError, match=answer):
            taker(given, X)
    with pytest.raises(PatchError, match=answer):
        vdvae_patch.patch(given, "explin", heads=[])
    with pytest.raises(GuardError, match=answer):
        vdvae_patch.guard(given)


def test_two_modules_without_one_that_holds_them_are_reached_through_a_list() -> None:
    encoder, decoder = Encoder(), nn.Linear(4, 8)

    def loss(_: nn.Module, x: Tensor) -> Tensor:
        mean, scale = encoder(x)
        kl = (0.5 * (scale**2 + mean**2 - 1) - scale.log()).mean()
        out: Tensor = (decoder(mean + scale * torch.randn_like(mean)) - x).square().mean()
        return out + kl

    heads = vdvae_patch.scan(nn.ModuleList([encoder, decoder]), X, call=loss)
    assert [head.path for head in heads] == ["0.scale"]


def test_where_no_head_and_no_loss_was_seen_the_loss_is_asked_for() -> None:
    with pytest.warns(UserWarning, match=r"no loss was seen: .* give it: call=lambda model, batch: your_loss\(model"):
        heads = vdvae_patch.scan(Encoder(), X)
    assert "no loss was seen" in str(heads)
    with pytest.raises(PatchError, match="no loss was seen"):
        vdvae_patch.stabilize(Encoder(), X)
    with pytest.warns(UserWarning, match="no Normal head was found") as caught:
        vdvae_patch.scan(Encoder(), X, call=lambda model, x: model(x)[0].mean())  # a loss was seen
    assert "no loss was seen" not in str(caught[0].message)


def test_a_model_with_a_training_step_is_to_be_called_by_it() -> None:
    out = io.StringIO()
    vdvae_patch.stabilize(Stepped(), X, file=out)
    assert "call=lambda model, batch: model.training_step(batch, 0)" in out.getvalue()


class OtherWhenItTrains(Stepped):
    def forward(self, x: Tensor) -> Tensor:
        mean, scale = Encoder.forward(self, x)
        kl = (0.5 * (scale**2 + mean**2 - 1) - scale.log()).mean()
        return (mean + scale * torch.randn_like(mean) if self.training else mean).square().mean() + kl


def test_a_model_in_evaluation_mode_is_told_of_where_its_own_code_asks_for_it() -> None:
    model, out = OtherWhenItTrains(), io.StringIO()
    said = "in evaluation mode, and OtherWhenItTrains.forward asks for the mode"
    assert said not in str(vdvae_patch.scan(model, X))
    assert said in str(vdvae_patch.scan(model.eval(), X))
    vdvae_patch.stabilize(model, X, file=out)
    assert f"note: the model is {said}" in out.getvalue()
    with_dropout = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(8), Sampling()).eval()
    assert "evaluation mode" not in str(vdvae_patch.scan(with_dropout, X))


def test_why_nothing_could_be_tried_is_said_of_what_was_given() -> None:
    def tried(call: Any) -> str:
        out = io.StringIO()
        vdvae_patch.stabilize(Sampling(), X, call=call, file=out)
        return out.getvalue()

    said = tried(lambda model, x: model(x).square().mean().item())
    assert "NOT tested: the call that was given returned no loss: one number, as a tensor with gradients" in said
    said = tried(lambda model, x: model(x).square().mean().detach())
    assert "NOT tested: the loss that was seen has no gradients (nothing that it gave depends on a parameter)" in said
    assert "give your loss" not in said.partition("NOT tested")[2].splitlines()[0]


def test_a_patch_without_heads_says_where_to_have_them_from() -> None:
    with pytest.raises(PatchError, match=r"list is empty; give heads=vdvae_patch.scan\(model, batch\)"):
        vdvae_patch.patch(Sampling(), "explin")


def test_a_training_step_that_optimizes_by_hand_is_not_given_as_the_loss() -> None:
    class ByHand(Stepped):
        automatic_optimization = False

    out = io.StringIO()
    vdvae_patch.stabilize(ByHand(), X, file=out)
    assert "call=lambda model, batch: your_loss(model, batch)" in out.getvalue()
    assert "training_step" not in out.getvalue()


def test_code_that_was_made_on_the_spot_is_said_to_have_no_source() -> None:
    names: dict[str, Any] = {"nn": nn, "torch": torch}
    text = """
class Made(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(8, 8)
    def forward(self, x):
        mean, raw = self.enc(x).chunk(2, 1)
        sigma = raw.exp()
        z = mean + sigma * torch.randn_like(mean)
        return z.square().mean() + (0.5 * (sigma**2 + mean**2 - 1) - sigma.log()).mean()
"""
    exec(text, names)
    heads = vdvae_patch.scan(names["Made"](), X)
    assert len(heads) == 1
    row = next(line for line in str(heads).splitlines() if line.startswith("enc "))
    assert row.endswith("no source")
