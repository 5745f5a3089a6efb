"""Descriptions of Normal heads: what they accept, how they are shown, and that they can be kept and compared."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from vdvae_patch import conventions
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.heads import ROLES, CallSite, Head, Rebinding


def _stable(*arguments: object) -> None:
    """Stands for a function that takes the place of a host's; at the top level, so that it pickles."""


def test_a_head_reads_log_sigma_from_the_whole_output_unless_told() -> None:
    head = Head("encoder.out", "posterior")
    assert (head.start, head.stop, head.dim, head.channels) == (0, None, 1, ":")
    assert head.convention == conventions.LogSigma()
    assert (head.calls, head.rebindings) == ((), ())


@pytest.mark.parametrize(
    ("start", "stop", "channels"), [(0, None, ":"), (16, 32, "16:32"), (0, 16, ":16"), (16, None, "16:")]
)
def test_channels_are_shown_as_a_slice(start: int, stop: int | None, channels: str) -> None:
    head = Head("enc", "prior", start, stop, convention="log_variance")
    assert head.channels == channels
    assert str(head) == f"enc[{channels}] (prior, log_variance)"


def test_the_convention_is_looked_up_by_name_with_arguments() -> None:
    head = Head("enc", "likelihood", convention="softplus(beta=2)")
    assert head.convention == conventions.SoftplusOf(beta=2)
    assert Head("enc", "likelihood", convention=head.convention) == head
    with pytest.raises(UnknownNameError, match="unknown convention 'log_sigm'; did you mean 'log_sigma'"):
        Head("enc", "prior", convention="log_sigm")


def test_the_three_roles_are_those_of_a_vae() -> None:
    assert ROLES == ("posterior", "prior", "likelihood")
    assert [Head("h", role).role for role in ROLES] == list(ROLES)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(
        InvalidValueError, match="head 'enc': role must be one of posterior, prior, likelihood, not 'decoder'"
    ):
        Head("enc", "decoder")


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, 0), (4, 4), (4, 2), (0, -1)])
def test_channels_that_hold_nothing_are_refused(start: int, stop: int | None) -> None:
    with pytest.raises(InvalidValueError, match=f"head 'enc': channels {start}:{stop} are empty"):
        Head("enc", "prior", start, stop)


def test_a_head_is_frozen_hashable_and_pickles_with_its_functions() -> None:
    head = Head(
        "dec.blocks.0.prior",
        "prior",
        16,
        32,
        calls=(CallSite("dec.blocks.0", "sample", _stable),),
        rebindings=(Rebinding("dec.blocks.0", "sample", "gaussian_kl", _stable),),
    )
    twin = pickle.loads(pickle.dumps(head))
    assert twin == head
    assert hash(twin) == hash(head)
    assert (twin.calls, twin.rebindings) == (head.calls, head.rebindings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.start = 0


def test_heads_are_the_same_place_whatever_replaces_the_functions_there() -> None:
    plain = Head("enc", "posterior")
    assert plain == Head("enc", "posterior", calls=(CallSite("enc", "forward", _stable),))
    assert plain != Head("enc", "posterior", 1)
    assert plain != Head("enc", "prior")
    assert plain != Head("enc", "posterior", convention="log_variance")


@pytest.mark.parametrize(("name", "value"), [("start", "3"), ("stop", 4.0), ("dim", None), ("step", True)])
def test_a_channel_that_is_no_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=f"head 'enc': {name} must be a whole number, not {value!r}"):
        Head("enc", "posterior", **{name: value})  # type: ignore[arg-type]
