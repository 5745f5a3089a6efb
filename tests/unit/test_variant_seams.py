"""Variants with a decoder and an objective: what their text means, and what is refused."""

from __future__ import annotations

import pytest

from vdvae_patch.decoders import DECODERS
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.objectives import OBJECTIVES, Elbo
from vdvae_patch.patching import Variant
from vdvae_patch.patching.variant import with_seams
from vdvae_patch.scales import ExpLin
from vdvae_patch.train.config import TrainConfig, slug


def test_each_part_is_what_its_registry_says() -> None:
    variant = Variant.parse("explin/constant + optimal + geco(kappa=0.06)")
    assert (variant.decoder, variant.objective) == ("optimal", "geco(kappa=0.06)")
    assert isinstance(variant.posterior, ExpLin)
    assert str(variant) == "explin/constant+optimal+geco(kappa=0.06)"
    assert Variant.parse("explin/constant+geco(kappa=0.06)+optimal") == variant
    assert Variant.parse(str(variant)) == variant


@pytest.mark.parametrize("text", ["vanilla", "explin", "upbounded(omega=2)/bounded(1e-1,1e+0)", "vanilla+beta"])
def test_what_is_not_named_stays_the_hosts(text: str) -> None:
    assert Variant.parse(text).decoder is None


def test_a_decoder_is_done_to_a_model_and_an_objective_is_not() -> None:
    variant = Variant.parse("vanilla+per_pixel(scale=bounded(0.001, 1))+warmup(epochs=2)")
    assert not variant.is_vanilla
    assert not variant.sets_scales
    assert str(variant.of_model) == "vanilla+per_pixel(scale=bounded(0.001,1))"
    assert Variant.parse("vanilla+beta").is_vanilla


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vanilla+optimal+fixed(sigma=1)", "two decoders, optimal and fixed"),
        ("vanilla+beta+elbo", "two objectives, beta and elbo"),
        ("vanilla+", "beside a '\\+'"),
        ("optimal", "vanilla\\+optimal"),
        ("geco(kappa=0.06)+optimal", "names scales first: vanilla\\+geco"),
        ("vanilla+geco(kappa=2)", "kappa must be between 0 and 1"),
        ("vanilla+fixed(sigma=-1)", "sigma must be a positive number"),
        ("vanilla+optimal(3)(4)", "not of the form"),
    ],
)
def test_a_variant_that_means_nothing_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        Variant.parse(text)


def test_a_name_that_no_registry_has_is_answered_with_the_nearest_of_all() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown decoder or objective or top prior 'optimall'; did you mean 'optimal'"
    ):
        Variant.parse("vanilla+optimall")


def test_a_name_that_two_registries_have_is_refused() -> None:
    @OBJECTIVES.register("shared")
    class Twice(Elbo):
        pass

    try:
        with pytest.raises(InvalidValueError, match="'shared' is a decoder and an objective"):
            Variant.parse("vanilla+shared")
    finally:
        del OBJECTIVES._classes["shared"]
    assert "shared" in DECODERS.names()


def test_flags_and_the_text_of_a_variant_are_two_spellings() -> None:
    flags = TrainConfig[None](variant="explin/constant", decoder="optimal", objective="geco( kappa = 0.06 )")
    assert flags == TrainConfig[None](variant="explin/constant+optimal+geco(kappa=0.06)")
    assert TrainConfig[None](variant="vanilla+optimal", decoder="optimal").variant == "vanilla+optimal"
    assert flags.folder.name == "vdvae-cifar10-" + slug(flags.variant) + "-seed0"
    with pytest.raises(InvalidValueError, match="names decoder optimal, and beside it fixed"):
        TrainConfig[None](variant="vanilla+optimal", decoder="fixed")


@pytest.mark.parametrize(
    ("one", "other"),
    [("softplus(1e6)", "softplus(1e-6)"), ("constant(1e20)", "constant(1e-20)"), ("clamp(-5,-1)", "clamp(-5,1)")],
)
def test_variants_that_differ_have_folders_of_their_own(one: str, other: str) -> None:
    folders = {TrainConfig[None](variant=str(Variant.parse(text))).folder for text in (one, other)}
    assert len(folders) == 2


def test_a_flag_takes_names_of_its_own_kind() -> None:
    with pytest.raises(UnknownNameError, match="unknown decoder 'geco'"):
        with_seams("vanilla", "geco(kappa=0.06)", None)
    with pytest.raises(UnknownNameError, match="unknown objective 'optimal'"):
        TrainConfig[None](objective="optimal")
