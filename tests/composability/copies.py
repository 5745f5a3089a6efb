"""Copies, pickles and checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import vdvae_patch

from .case import Case, training
from .table import row


@row("copy.deepcopy", note="the copy is patched; unpatching it leaves the original patched")
def deepcopied(case: Case) -> Any:
    case.patch()
    other = copy.deepcopy(case.model)
    case.unpatch(other)
    assert vdvae_patch.is_patched(case.model) == case.patching
    return copy.deepcopy(case.model)


@row("copy.copy of a patched module")
def copied(case: Case) -> Any:
    case.patch()
    case.model.set_submodule(case.column.part, copy.copy(case.part))
    return case.model


@row("pickle")
def pickled(case: Case) -> Any:
    return pickle.loads(pickle.dumps(case.patch()))


def _saved(thing: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@row("torch.save, torch.load(weights_only=False) of the whole model")
def saved_whole(case: Case) -> Any:
    return torch.load(_saved(case.patch()), weights_only=False)


@row("torch.save, torch.load of the whole model, weights_only", note="torch loads no classes so; save the state_dict")
def saved_whole_weights_only(case: Case) -> Any:
    return torch.load(_saved(case.patch()), weights_only=True)


@row("vdvae_patch.save, vdvae_patch.load", note="weights and patch in a folder; the named host is found by its name")
def saved_with_its_patch(case: Case) -> Any:
    case.patch()
    with tempfile.TemporaryDirectory() as folder:
        case.model = vdvae_patch.load(case.fresh, vdvae_patch.save(case.model, Path(folder) / "saved"))
    case.subject = case.model
    return case.model


@row("state_dict of a patched model into a vanilla one, strict", back=True, note="weights are weights: patch again")
def to_vanilla(case: Case) -> Any:
    case.patch()
    vanilla = case.fresh()
    for parameter in vanilla.parameters():
        nn.init.zeros_(parameter)
    vanilla.load_state_dict(torch.load(_saved(case.model.state_dict())), strict=True)
    return vanilla


@row("state_dict of a vanilla model into a patched one, strict")
def to_patched(case: Case) -> Any:
    case.patch()
    for parameter in case.model.parameters():
        nn.init.zeros_(parameter)
    case.model.load_state_dict(torch.load(_saved(case.fresh().state_dict())), strict=True)
    return case.model


@row("load_state_dict(assign=True)")
def assigned(case: Case) -> Any:
    case.patch()
    case.model.load_state_dict(case.fresh().state_dict(), assign=True)
    return case.model


@row("torch.optim.swa_utils.AveragedModel", note="of a patched model: the average is patched, too")
def averaged(case: Case) -> Any:
    average = AveragedModel(case.patch())
    average.update_parameters(case.model)
    return average


@row("AveragedModel first, then patch its module")
def averaged_first(case: Case) -> Any:
    average = AveragedModel(case.model)
    case.patch(average.module)
    average.update_parameters(case.model)
    return average


@row("a training step of a copy leaves the original alone")
def independent(case: Case) -> Any:
    case.patch()
    training(copy.deepcopy(case.model), case.batch)
    return case.model
