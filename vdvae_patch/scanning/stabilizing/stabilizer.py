"""`stabilize`: scan, patch, verify and probe in one call, with an account of what holds now and what does not."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import torch
from torch import nn

from vdvae_patch import decoders
from vdvae_patch.decoders.gaussian import Shared
from vdvae_patch.errors import HostError, PatchError, tell
from vdvae_patch.heads import Role
from vdvae_patch.patching import PatchHandle
from vdvae_patch.patching.apply import refuse_patched, unpatch
from vdvae_patch.patching.record import is_patched
from vdvae_patch.patching.term import put_term
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.bound.elbo import OTHERS
from vdvae_patch.scanning.bound.exchange import CannotExchangeError, Exchange, exchanged
from vdvae_patch.scanning.finder import in_evaluation, scan
from vdvae_patch.scanning.heads.two_roles import posterior_of
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.account import told
from vdvae_patch.scanning.stabilizing.choosing import examine, keep, push_correlations, try_own_loss
from vdvae_patch.scanning.stabilizing.treatment import Asked, Scales, patched
from vdvae_patch.scanning.stabilizing.two_laws import keep_two_laws
from vdvae_patch.seams import seam_of
from vdvae_patch.trace import short


def stabilize(
    model: nn.Module,
    *inputs: Any,
    call: Callable[..., Any] | None = None,
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    decoder: str | None = None,
    exclude: str | Iterable[str] = (),
    roles: Mapping[str, Role] | None = None,
    paper: bool = False,
    probe: bool = True,
    file: TextIO | None = None,
) -> PatchHandle:
    """Find the Normal heads, give each role its scale, use stable arithmetic, verify, and print what holds now.

    Each head's raw values are then pushed to where σ² and σ leave the range of their type, and to what an optimizer's
    steps can reach; the user's own call, backward pass included, must stay finite. What is printed says CURED of a head
    where it does, and else NOT cured, with the operation that breaks and a scale with which all stays finite, if one is
    found. Where the usual scale breaks and another one does not, the other one is used: the host's own σ, if the model
    stays finite with it, since its arithmetic may need the lower bound that it has.

    A learned prior gets a constant σ of 1 unless another scale is named, the paper's choice (section 7.4): in ten seeds
    of a raised learning rate (docs/results/stress-ten-seeds.md) it had no NaN, where a prior with a learned σ had 86
    NaN steps of 1,000. The prior gets the posterior's scale instead of a constant

    - where the host computes both in one place, so that they cannot have two scales;
    - where no density and no KL shows that it is a prior;
    - where no posterior is compared with it, as with the learned base of a flow;
    - where its network computes nothing but this σ, as in an entropy model;
    - where no parameter of it is trained, as of a teacher;
    - where its layer is a posterior's, too, at other inputs, as a VampPrior's.

    A posterior's σ is never fixed.

    A model that was trained with its own σ is another model under a constant one. So the loss of the batch is measured:
    where it is finite without the patch, and a usual scale moves it by 1% or more, a role gets the host's own σ, if
    that holds, or bounds far from it, such as bounded(0.001, 1000), if these do; the account says by how much the loss
    would move, and how the usual scale is had (`prior="constant"`). The 1% are of the loss, or of a tenth of the sum of
    the magnitudes of the terms that it adds up, if that is more: so one near zero has a size, too. Both calls draw the
    same random numbers; where σ moves at all it is the mean over 4 to 20 draws, and where a loss is another one at each
    call all the same, the σ of the batch are compared, within 2% of their medians. A scale that is named stays, and its
    move is said. So it is where a host draws from one Normal and measures another, a fault that a patch mends by one σ
    for both: where that moves the loss, both stay as the host has them.

    Args:
        inputs, call: as of `scan`; give the loss as the call, so that priors are seen.
        posterior, prior, likelihood: the scale of each role, explin for a posterior if left out; a likelihood needs the
            data's range, so none is presumed. What is named is taken, whatever it does to the loss.
        decoder: the pixel likelihood of `vdvae_patch.decoders` that shall stand in the place of the reconstruction
            term, such as "optimal". A squared or absolute error, or a Bernoulli's cross-entropy on grey values, in a
            method of the model or in the plain function that is the call, is replaced by "optimal", "shared" or
            "fixed(sigma=...)" around the mean that the host computes, if the loss is then a bound with β = 1, which is
            measured; so is a mixture, such as discretized logistics, by the mean of its means, or the log likelihood of
            a distribution that has a mean. Of one in the call `handle.loss` is to be called in its place. Of any other
            the account says why not, and what to write. The KL's factor is kept either way.
        exclude: paths of heads, or of modules above them, that are left as they are.
        roles: by path, the role of heads that the scan takes for something else.
        paper: apply the formulas to the raw value as it is, see `patch`; a trained model keeps no σ and no loss then.
        probe: whether to push the raw values. It takes a forward and backward pass for each of five values, and as
            many again for each role, and for each head of few; more where something breaks.
        file: where the account goes, standard output if left out.

    Returns:
        The handle of the patch. A head that cannot be patched is left as it is, and the account says why; where a loss
        function beside the model makes Normals, or computes a σ that got another scale, `handle.loss` is to be called
        in its place.

    Raises:
        PatchError: the model is patched already; no head was found (the near misses are named), or none can be
            patched; or a scale was named for a role that no head has, or a path in `exclude` or `roles` that has no
            head.
    """
    refuse_patched(model)
    if decoder is not None:
        decoders.get(decoder)  # what is no decoder is said before anything runs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no Normal head was found")  # the error below says it
        heads = scan(model, *inputs, call=call)
    if not heads:
        raise PatchError(f"no Normal head was found in {type(model).__name__}; near misses:\n{heads.why_not()}")
    asked: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    heads = heads.corrected(exclude=exclude, roles=roles or {})
    _require_asked(heads, asked)
    scales, notes, fixed = _chosen(heads, asked)
    exchange, why_not = (None, "") if decoder is None else _exchange(model, inputs, call, heads, decoder)
    with _as_it_was_if_raised(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the account says it, of what is there in the end
        treatment = patched(model, heads, scales, asked, paper)
        treatment.notes[:0] = notes
        treatment.may_be_fixed = fixed
        examine(model, treatment, asked, probe)
        keep_two_laws(model, treatment, asked, probe)
        keep(model, treatment, asked)
        push_correlations(model, treatment)
        try_own_loss(model, treatment)
        treatment.notes += (*in_evaluation(model), *_of_this_process())
    tell(told(treatment), file or sys.stdout)
    if decoder is not None:
        said = _said(heads, decoder, exchange, why_not)
        by_seam = "" if exchange is not None else _by_seam(model, decoder)
        tell(f"decoder {decoder}: {said}{by_seam}", file or sys.stdout)
    if exchange is not None:
        exchange.term.tracking = True
        put_term(model.get_submodule(exchange.site.owner), exchange.term)
    return treatment.handle


@contextmanager
def _as_it_was_if_raised(model: nn.Module) -> Iterator[None]:
    """No patch that nobody was told of stays behind an error or an interrupt from the keyboard."""
    try:
        yield
    except BaseException:
        if is_patched(model):
            unpatch(model)
        raise


def _of_this_process() -> list[str]:
    """What is to be said where several processes train one model."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if count < 2:
        return []
    return [
        f"this is process {rank} of {count}, and chose by its own batch; another one may choose other scales, and "
        "train another model: let one choose, and give the others vdvae_patch.apply(model, text), with text = "
        "vdvae_patch.patch_json(model) of that one (docs/patch-your-code.md)"
    ]


def _exchange(
    model: nn.Module, inputs: tuple[Any, ...], call: Callable[..., Any] | None, heads: ScanResult, decoder: str
) -> tuple[Exchange | None, str]:
    """The decoder for the reconstruction term, known to the runs of the heads from here on; or why there is none."""
    try:
        exchange = exchanged(model, inputs, call, heads.elbo, decoder)
    except CannotExchangeError as error:
        return None, str(error)
    for run in {id(head.scan): head.scan for head in heads if head.scan is not None}.values():
        if exchange.outside:
            run.outside = (*run.outside, exchange.site)
        else:
            run.normals = (*run.normals, exchange.site)
    return exchange, ""


def _by_seam(model: nn.Module, decoder: str) -> str:
    """What else puts the decoder into a model of a host by name, whatever its likelihood is."""
    try:
        seam = seam_of(model)
    except HostError:
        return ""
    if seam is None:
        return ""
    return (
        "; its host by name says where its likelihood is: with heads=host.heads(model), vdvae_patch.patch(model, ..., "
        f'decoder="{decoder}") puts it there'
    )


def _said(heads: ScanResult, decoder: str, exchange: Exchange | None, why_not: str) -> str:
    """What became of the reconstruction term."""
    elbo = heads.elbo
    if exchange is None:
        known = elbo.instead(decoder)
        return (
            f"not put in by itself: {why_not}{'' if why_not.endswith('then') else '.'} {known}"
            if why_not and why_not not in known
            else known
        )
    term = elbo.reconstruction
    assert term is not None
    where = f"in the place of `{term.expression}` at {short(term.file)}:{term.line}"
    if elbo.place is not None and elbo.place.lines is not None:
        line, at = elbo.place.lines
        where = f"in the place of {at}, around the mean of its mixture, `{line}`"
    if elbo.place is not None and (elbo.place.lines is not None or elbo.place.of_distribution):
        where += "; the components' scales are no part of the loss any more"
    by = "; compute the loss by handle.loss in the place of the call that was given" if exchange.outside else ""
    if isinstance(exchange.term.decoder, Shared):
        by = f"; its σ is a parameter of the model now, so make the optimizer after this{by}"
    others = "".join(f", but for {note}" for note in elbo.notes if note.startswith(OTHERS))
    if exchange.length is not None:
        others += (
            f", for batches whose second dimension has the length {exchange.length}: the loss averages over it, and "
            "the factor on the likelihood is fixed; of other lengths the KL counts otherwise"
        )
    return f"{where}, on this batch with σ = {exchange.sigma:.4g}: the loss is a bound with β = 1{others}{by}"


def _chosen(heads: ScanResult, asked: Asked) -> tuple[Scales, list[str], bool]:
    """The scale of each role that has heads, why a prior's is not the usual one, and whether it may be constant."""
    posterior, prior = asked["posterior"] or "explin", asked["prior"]
    notes: list[str] = []
    own = [h for h in heads if h.role == "prior" and h.found is not None]
    compared = any(h.role == "posterior" for h in heads)
    guessed = next((h for h in own if h.found and h.found.confidence == "likely"), None)
    alone = next((h for h in own if h.found and h.found.alone), None)
    both = next((h for h in own if posterior_of(h, heads) is not None), None)
    if prior is None:
        prior = "constant" if compared and not guessed and not alone and not both else posterior
        why = ""
        if guessed is not None:
            why = f"that {guessed.path} is a prior is a guess, since no density and no KL reads it"
        elif own and not compared:
            why = f"no posterior is compared with {own[0].path}, so that a small σ makes no KL explode"
        elif alone is not None and alone.found is not None:
            why = f"of {alone.path}, {alone.found.alone}"
        elif both is not None:
            why = f"{both.path} gives the posterior's, too, whose scale it gets where both hold with it"
        if why:
            notes.append(f"the prior's σ is not fixed: {why}")
    wanted: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": asked["likelihood"]}
    present = {head.role for head in heads}
    scales = {role: scale for role, scale in wanted.items() if scale is not None and role in present}
    return scales, notes, compared and not (guessed or alone or both)


def _require_asked(heads: ScanResult, asked: Asked) -> None:
    """Refuse a scale for a role that was not found: whoever names it would take it for in force."""
    absent = [role for role, scale in asked.items() if scale is not None and role not in {h.role for h in heads}]
    if absent:
        named = ", ".join(f"{role}={str(asked[role])!r}" for role in absent)
        raise PatchError(
            f"{named} was asked for, but no head has that role; found were {', '.join(map(str, heads))}. If the loss "
            "is computed outside of what was run, give it: call=lambda model, batch: ..."
        )
