"""Thousands of forged files of each kind that this package reads: each ends in a value or one line, and runs no code.

    OMP_NUM_THREADS=1 python tests/long/forged_files.py --count 2000 --seed 0 --write

A case is a valid file that a seed has changed: a bit, a byte, a cut, a field of another type, a number of another
size, a tree nested deep, or one of the attacks that are known for its kind, with checksums made anew, so that what is
behind them is reached. Each kind is read in a process of its own. A case is good if the reader gives a value, or
raises an error of `vdvae_patch.errors` whose message is one line without control characters, within 2 s of the
processor's time and 1 GB of memory beyond what the process had. An audit hook of Python's notices processes, sockets,
imports of what a file names, and files written elsewhere. Whatever else happens is printed with kind and seed;
`--kind KIND --seed N --count 1 --raise` does it again with its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import platform
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.compare import results
from vdvae_patch.data import archive, arrays, cifar10_forms, decode, mnist, pickles
from vdvae_patch.data.frey_faces import read as read_frey_faces
from vdvae_patch.document.seal import with_checksum
from vdvae_patch.errors import RunError, VdvaePatchError, visible
from vdvae_patch.guarding import skip as guard_skip
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.configuration import read_sections
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.patching import Variant
from vdvae_patch.reading.fields import require
from vdvae_patch.skips import sealed
from vdvae_patch.skips.generators import generator_states
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.config import RunFile, TrainConfig
from vdvae_patch.train.folder import read_json
from vdvae_patch.train.resumable import of_checkpoint, require_moments
from vdvae_patch.train.weight_files import read_file
from vdvae_patch.train.weights import select_weights

SECONDS, BYTES = 2.0, 10**9
PAYLOAD = "forged_payload"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "results"

Reader = Callable[[Path], object]
Forge = Callable[[random.Random, Path], Path]


@dataclass(frozen=True)
class Kind:
    """How files of a kind are forged, and what reads them."""

    forge: Forge
    read: Reader


# ---- changes ----


def other_bytes(draw: random.Random, data: bytes) -> bytes:
    """Bits, bytes, cuts, blocks that are doubled, lost or foreign, and numbers of another size."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at, block = draw.randrange(len(changed) + 1), draw.randrange(1, 9)
        match draw.randrange(8):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << draw.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = draw.randrange(256)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + block]
            case 4:
                changed[at:at] = changed[max(0, at - block * 8) : at]
            case 5:
                changed[at:at] = draw.randbytes(block)
            case 6:
                changed[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"))
            case _:
                changed[at : at + 8] = struct.pack("<Q", draw.choice((2**63, 2**40, 2**34, 10**9, 0)))
    return bytes(changed)


def nested(depth: int, kind: type = list) -> Any:
    value: Any = kind()
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def junk(draw: random.Random, extra: tuple[Callable[[], Any], ...] = ()) -> Any:
    """A value that no field expects."""
    plain: tuple[Callable[[], Any], ...] = (
        lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 10**9, lambda: 2**62, lambda: 1.5, lambda: -0.0,
        lambda: float("nan"), lambda: float("inf"), lambda: 1e308, lambda: "", lambda: "x" * draw.choice((9, 100_000)),
        lambda: "\x1b]0;owned\x07\x1b[2J", lambda: "nan", lambda: "../../../etc/passwd", lambda: "a/b(c)+d", list, dict,
        lambda: [0] * draw.choice((1, 5_000)), lambda: nested(draw.choice((3, 70, 150))), lambda: [[], {}, None],
        lambda: nested(draw.choice((3, 70, 150)), dict), lambda: {str(n): n for n in range(2_000)},
        lambda: f"{PAYLOAD}:run", lambda: "a.b." * 2_000, lambda: "((" * 500, lambda: "\u202egnp.exe",
    )  # fmt: skip
    return draw.choice(plain + extra * 2)()


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        box = waiting.pop()
        items = list(box.items()) if isinstance(box, dict) else list(enumerate(box)) if isinstance(box, list) else []
        for key, value in items:
            found.append((box, key))
            waiting.append(value)
    return found


def other_tree(draw: random.Random, tree: Any, extra: tuple[Callable[[], Any], ...] = ()) -> Any:
    """Fields that are missing, doubled, renamed, exchanged, or of another type."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        known = places(tree)
        if not known:
            break
        box, key = draw.choice(known)
        match draw.randrange(8):
            case 0:
                del box[key]
            case 1 if isinstance(box, dict):
                box[draw.choice(("forged", "\x1b[31m", "é" * 300, f"{key}_"))] = box.pop(key)
            case 2 if isinstance(box, list):
                box.extend(copy.deepcopy(box[:50]))
            case 3:
                other, at = draw.choice(known)
                if at in other if isinstance(other, dict) else at < len(other):
                    box[key] = copy.deepcopy(other[at])
            case _:
                box[key] = junk(draw, extra)
    return junk(draw) if draw.random() < 0.02 else tree


# ---- pickles ----

BATCH = {
    b"data": np.arange(5 * 3072, dtype=np.uint8).reshape(5, 3072),
    b"labels": [1, 2, 3, 4, 5],
    b"names": [b"a"] * 5,
}


def colliding(draw: random.Random, count: int) -> list[tuple[int, int]]:
    """Pairs of integers with one hash: the second number undoes what the first did."""
    mask, one, two, five = 2**64 - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261

    def turned(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) & mask

    first, goal = pow(two, -1, 2**64), draw.randrange(2**64)
    found: list[tuple[int, int]] = []
    for number in range(count * 64):
        accumulated = turned((five + number * two) & mask, 31) * one & mask
        lane = (goal - accumulated) * first & mask
        lane = lane - 2**64 if lane >= 2**63 else lane
        if abs(lane) < 2**61 - 1 and lane != -1:
            found.append((number, lane))
        if len(found) == count:
            break
    return found


def attacks(draw: random.Random) -> bytes:
    """Pickles that ask for memory, time, or code."""
    number = draw.randrange(12)
    module = draw.choice(("os", "posix", "builtins", "subprocess", PAYLOAD))
    call = f"c{module}\n{draw.choice(('system', 'exec', 'run'))}\n"
    big = struct.pack("<Q", draw.choice((2**34, 2**40, 2**62)))
    if number == 0:
        return b"\x80\x02}r" + struct.pack("<I", draw.choice((2**31, 2**32 - 1))) + b"."
    if number == 1:
        return b"\x80\x05\x96" + big + b"abc."
    if number == 2:
        return b"\x80\x04" + draw.choice((b"\x8e", b"\x8d", b"\x95")) + big + b"abc."
    if number == 3:
        pairs = colliding(draw, draw.choice((1_100, 20_000)))  # by hand: Python would build it, and take its time
        return b"\x80\x02}(" + b"".join(pickle.dumps(pair, 2)[2:-1] + b"N" for pair in pairs) + b"u."
    if number == 4:
        return b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    if number == 5:
        return b"\x80\x02(" + b"K\x01" * 3_000_000 + b"l."
    if number == 6:
        return b"\x80\x02K\x01" + b"q\x00h\x00\x86" * 5_000 + b"K\x01}h\x00K\x01s."
    if number == 7:
        text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000
        encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
        return b"\x80\x02" + text + b"q\x00(" + encode * 50_000 + b"l."
    if number == 8:
        return b"\x80\x02" + call.encode() + b"(X\x05\x00\x00\x00touchtR."
    if number == 9:
        return b"\x80\x02I" + b"9" * 4_000_000 + b"\n."
    if number == 10:
        return b"\x80\x02" + b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    return b"\x80\x04\x8f(" + b"".join(b"K" + bytes([n % 256]) for n in range(9_000)) + b"\x90."


def forge_batch(draw: random.Random, folder: Path) -> Path:
    whole = pickle.dumps(BATCH, draw.choice((2, 3, 4, 5)))
    path = folder / "data_batch_1"
    path.write_bytes(attacks(draw) if draw.random() < 0.1 else other_bytes(draw, whole))
    return path


# ---- torch ----


class Small(nn.Module):
    """A posterior, a prior and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.prior, self.decoder = nn.Linear(6, 4), nn.Linear(2, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, -1)
        return self.decoder(mean + log_sigma.exp() * torch.randn_like(mean))


def of_tensors() -> tuple[Callable[[], Any], ...]:
    return (
        lambda: torch.ones(3), lambda: torch.ones(2, 3).to_sparse(), lambda: torch.ones(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.qint8),
        lambda: torch.ones(4, 6, dtype=torch.complex64),
        lambda: torch.zeros(1).expand(10**12), lambda: torch.ones(4, 6, dtype=torch.int64),
        lambda: torch.tensor(float("nan")),
        lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), lambda: {0: torch.ones(2)},
        lambda: torch.ones(0),
        lambda: torch.full((4, 6), float("inf")), lambda: {(1, 2): 3, 1.5: None}, lambda: b"bytes",
        lambda: torch.ones(2, 3, 4, 5),
        lambda: torch.ones(4, 6, dtype=torch.bool),
    )  # fmt: skip


def saved(content: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def repacked(whole: bytes, change: Callable[[bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with another pickle in it, and checksums that are right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w", method) as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item.filename, change(data) if item.filename.endswith("data.pkl") else data)
    return made.getvalue()


def larger(draw: random.Random, data: bytes) -> bytes:
    """Another number of elements, or another size, offset or stride."""
    spots = [at for at in range(len(data) - 1) if data[at : at + 1] == b"K"]
    if not spots:
        return data
    at = draw.choice(spots)
    number = draw.choice((255, 65_535, 2**31 - 1, -1, 10**11))
    coded = pickle.dumps(number, 2)[2:-1]
    return data[:at] + coded + data[at + 2 :]


def forge_torch(draw: random.Random, state: Any) -> bytes:
    """A file of torch.save whose content, pickle or bytes are others."""
    match draw.randrange(6):
        case 0 | 1:
            return saved(other_tree(draw, state, of_tensors()), legacy=draw.random() < 0.2)
        case 2:
            return repacked(saved(state), lambda data: other_bytes(draw, data))
        case 3:
            method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            return repacked(
                saved(state), lambda data: attacks(draw) if draw.random() < 0.5 else larger(draw, data), method
            )
        case 4:
            whole = saved(state, legacy=True)
            return larger(draw, whole) if draw.random() < 0.5 else other_bytes(draw, whole)
        case _:
            return other_bytes(draw, saved(state))


OWN = Small().state_dict()
PLAIN = {name: value.clone() for name, value in OWN.items()}


def forge_weights(draw: random.Random, folder: Path) -> Path:
    path = folder / "weights.pt"
    kind = draw.randrange(10)
    if kind < 6:
        contents = (
            PLAIN,
            {"model": PLAIN, "ema": PLAIN, "epoch": 3},
            {"state_dict": {f"net.{k}": v for k, v in PLAIN.items()}},
        )
        path.write_bytes(forge_torch(draw, dict(draw.choice(contents))))
    elif kind < 9:
        path = path.with_suffix(".safetensors")
        save_file(PLAIN, path, metadata={"format": "pt"})
        path.write_bytes(other_safetensors(draw, path.read_bytes()))
    else:
        path.write_bytes(draw.choice((attacks(draw), draw.randbytes(300), b"", b"PK\x03\x04" + draw.randbytes(100))))
    return path


def other_safetensors(draw: random.Random, whole: bytes) -> bytes:
    """Another header, or other bytes."""
    size = int.from_bytes(whole[:8], "little")
    if draw.random() < 0.3:
        return other_bytes(draw, whole)
    text = json.dumps(other_tree(draw, json.loads(whole[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def read_weights(path: Path) -> object:
    return select_weights(read_file(path), OWN).notes


# ---- sealed folders ----


def seal(folder: Path, draw: random.Random, info: Any, state: Any) -> Path:
    """A folder whose checksums are right, whatever is in it."""
    data = forge_torch(draw, state) if draw.random() < 0.7 else saved(state)
    if draw.random() < 0.4:
        info = other_tree(draw, info)
    folder.mkdir(parents=True)
    (folder / sealed.STATE).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    manifest: Any = {
        "format": sealed.FORMAT, "torch": torch.__version__, "info": info,
        "files": {sealed.STATE: {"sha256": digest, "bytes": len(data)}},
    }  # fmt: skip
    if draw.random() < 0.1:
        manifest = other_tree(draw, manifest)
    with contextlib.suppress(Exception):
        whole = sealed._manifest_bytes(sealed.encode(manifest))
        (folder / sealed.MANIFEST).write_bytes(other_bytes(draw, whole) if draw.random() < 0.05 else whole)
    return folder


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(torch.ones(2, 6)).sum().backward()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


INFO = vars(CheckpointInfo(3, "vdvae", "vanilla", "host", (("encoder", "2:4", "posterior"),), True, 1.5))
_TRAINED = Small()
OPTIMIZER = optimizer_of(_TRAINED)
STATE = {
    "model": dict(PLAIN), "ema": dict(PLAIN), "optimizer": OPTIMIZER.state_dict(),
    "counters": {"high_gradient": 1, "nan": 2, "loss_scale": 0, "consecutive_skips": 0, "images": 9, "seconds": 0.5,
                 "clipped": 0, "last_clip": float("inf"), "last_finite": True, "nelbo": None},
    "generators": [generator_states(torch.device("cpu"))], "position": {"step": 3, "global_batch": 3, "ranks": 1},
    "schedule": {"lr": 1e-3}, "usual_norm": {"norms": torch.ones(100), "count": torch.tensor(3)},
}  # fmt: skip


def forge_checkpoint(draw: random.Random, folder: Path) -> Path:
    seal(
        folder / "checkpoints" / f"step-{draw.choice(('00000003',) * 8 + ('3', 'foo', '9' * 30, '-1'))}",
        draw,
        INFO,
        STATE,
    )
    return folder / "checkpoints"


def read_checkpoint(path: Path) -> object:
    found = checkpoint.newest(path)
    contents = of_checkpoint(found.state, found.path, found.info.step)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    require_moments(found.state["optimizer"], optimizer, found.path)
    with contents.of("model"):
        model.load_state_dict(found.state["model"])
    with contents.of("optimizer"):
        optimizer.load_state_dict(found.state["optimizer"])
    checkpoint.prune(path)
    return contents.position


RECORDING = {
    "record": {"step": 3, "elbo": 1.0, "distortion": 0.5, "rate": 0.5, "grad_norm": 2.0, "lr": 1e-3,
               "cause": "nan_rate",
               "sites": [[0], [], [0]], "metrics": {"sigma": 1.0}, "clip": float("inf")},
    "model": PLAIN, "indices": torch.arange(4), "generators": [generator_states(torch.device("cpu"))], "threads": 1,
    "loss_scale": None, "optimization": vars(Optimization()), "precision": "fp32",
}  # fmt: skip


def forge_recording(draw: random.Random, folder: Path) -> Path:
    name = draw.choice((*["skip-00000003"] * 8, "skip-foo", "skip-", "skip-00000003.png", f"skip-{'9' * 60}"))
    seal(folder / "recordings" / name, draw, INFO, RECORDING)
    return folder / "recordings"


def read_recording(path: Path) -> object:
    flight.drop_from(path, 10**9) if not flight.recordings(path) else None
    return flight.read(flight.choose(path, 1)).threads


GUARDED = {
    "args": [torch.ones(2, 6)], "kwargs": {}, "buffers": {}, "generators": generator_states(torch.device("cpu")),
    "autocast": ["cpu", False, "bfloat16"], "training": True, "threads": 1, "missing": [], "model": PLAIN, "patch": "",
}  # fmt: skip
LINE = {
    "step": 3, "cause": "nan_loss", "ranks": [0], "elbo": float("nan"), "grad_norm": 1.0, "rank": 0, "world": 2,
    "loss": 1.0, "model_class": "Small", "torch": "2", "heads": [],
}  # fmt: skip


def forge_guarded(draw: random.Random, folder: Path) -> Path:
    return seal(folder / "skip-0001", draw, LINE, GUARDED)


def read_guarded(path: Path) -> object:
    found = guard_skip.read(path)
    return vdvae_patch.apply(Small(), found.patch).variant if found.patch else found.threads


# ---- texts ----

ENTRY: Any = HOSTS.get("conv_vae")
CONFIG = TrainConfig(host="conv_vae", preset="paper", data_root=Path("data"), architecture=ENTRY.architecture())
TOLD = CONFIG.to_toml() | {
    "run": {"global_batch": 4, "command": "x", "weights": ["note"], "host": {"kind": "embedded"}}
}


def forge_toml(draw: random.Random, folder: Path) -> Path:
    path = folder / "config.toml"
    kind = draw.randrange(8)
    if kind == 0:
        depth = draw.choice((100, 1_000, 20_000))
        path.write_text(draw.choice(("a = " + "[" * depth + "]" * depth, "[" + ".".join("a" * depth) + "]\nb = 1")))
    elif kind == 1:
        path.write_text(f"steps = {'9' * draw.choice((30, 5_000))}\n")
    elif kind < 4:
        path.write_bytes(other_bytes(draw, tomli_w.dumps(TOLD).encode()))
    else:
        try:
            path.write_text(tomli_w.dumps(other_tree(draw, TOLD)))
        except Exception:  # JSON's nothing, which TOML cannot say
            path.write_text(tomli_w.dumps({**TOLD, "steps": draw.choice(("x", 1.5, True, [1]))}))
    return path


def read_toml(path: Path) -> object:
    return RunFile.read(path).config(ENTRY.architecture).folder


def patched() -> nn.Module:
    model = Small()
    heads = [Head("encoder", "posterior", 2, 4, -1), Head("prior", "prior", 2, 4, -1)]
    vdvae_patch.patch(model, "explin/constant", heads=heads, verify=False)
    return model


DOCUMENT = vdvae_patch.patch_json(patched())


def forge_document(draw: random.Random, folder: Path) -> Path:
    vdvae_patch.save(patched(), folder / "model")
    path = folder / "model" / "patch.json"
    whole = json.loads(path.read_text())
    kind = draw.randrange(7)
    if kind == 0:
        depth = draw.choice((70, 900, 10_000))
        path.write_text(draw.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))
    elif kind == 1:
        path.write_bytes(other_bytes(draw, path.read_bytes()))
    elif kind == 2:  # weights that are others, and their checksum made anew
        weights = folder / "model" / "model.safetensors"
        weights.write_bytes(other_safetensors(draw, weights.read_bytes()))
        whole["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        path.write_text(json.dumps(with_checksum(whole)))
    else:
        changed = other_tree(draw, whole)
        path.write_text(json.dumps(with_checksum(changed) if isinstance(changed, dict) else changed))
    return folder / "model"


def read_document(path: Path) -> object:
    text = (path / "patch.json").read_bytes()
    with contextlib.suppress(VdvaePatchError):
        vdvae_patch.apply(Small(), text)
    with contextlib.suppress(ValueError, RecursionError, VdvaePatchError):
        vdvae_patch.apply(Small(), json.loads(text))
    with contextlib.suppress(VdvaePatchError):
        read_file(path / "model.safetensors").variant()
    return type(vdvae_patch.load(Small, path))


SUMMARY = {
    "variant": "vanilla", "seed": 0, "steps": 3, "high_gradient_count": 0, "nan_count": 0, "images_per_second": 2.0,
    "test_nelbo_nats_per_dim": 1.5, "test": {"filtered_elbo": "nan", "bad_batches": 1}, "peak_memory_bytes": 5,
}  # fmt: skip


def forge_summary(draw: random.Random, folder: Path) -> Path:
    path = folder / "summary.json"
    depth = draw.choice((70, 900, 10_000))
    path.write_bytes(
        draw.choice(
            (
                json.dumps(other_tree(draw, SUMMARY)).encode(),
                other_bytes(draw, json.dumps(SUMMARY).encode()),
                b"[" * depth + b"]" * depth,
                b'{"a":' * depth + b"1" + b"}" * depth,
            )
        )
    )
    return path


def read_summary(path: Path) -> object:
    return require(read_json(path), results._SUMMARY, str(path), RunError)["steps"]


def forge_sections(draw: random.Random, folder: Path) -> Path:
    path = folder / "hparams.cfg"
    values = (
        "1 / 0", "[3] * 10**9", "[[1] * 9000] * 9000", "-" * 5_000 + "1", "(" * 300 + "1" + ")" * 300, "1e308 * 1e308",
        "'a' + 1", "[3] * 30 + [1]", "9" * 5_000, "1 // 0.0", "x.y", "__import__('os')", "3 * 'a'", "[1, 2, None]",
        "0x" + "f" * 9,
    )  # fmt: skip
    text = "[model]\n" + "".join(f"n{n} = {draw.choice(values)}\n" for n in range(draw.choice((1, 3))))
    path.write_bytes(other_bytes(draw, text.encode()) if draw.random() < 0.5 else text.encode())
    return path


def forge_variant(draw: random.Random, folder: Path) -> Path:
    whole = draw.choice(("upbounded(omega=2)/bounded(0.1, 1)", "explin/constant+optimal+geco(kappa=0.06)+vamp(100)"))
    text = other_bytes(draw, whole.encode()).decode("latin-1")
    path = folder / "variant.txt"
    path.write_text(
        draw.choice((text, text * 500, "(" * 20_000, "bounded(" + "1," * 9_000 + ")", f"upbounded({'9' * 400})"))
    )
    return path


# ---- arrays, archives, images ----


def forge_npy(draw: random.Random, folder: Path) -> Path:
    path = folder / draw.choice(("train.npy", "freyfaces.npy"))
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (4, 8, 8, 3)}
    key = draw.choice(tuple(header))
    sizes = (
        (10**30, 8, 8, 3),
        (2**62, 2**62),
        (-1, 8, 8, 3),
        (2**40, 1, 1, 1),
        (4,) * 70,
        (),
        (0, 0),
        ("a", 1),
        (1.5, 2),
        (True, 8, 8, 3),
        3,
    )
    kinds = (
        "|O",
        "|V999999999999",
        "<f8",
        [("a", "|u1", 10**9)],
        "|S4294967295",
        "zz",
        None,
        ("|u1", (2**40,)),
        nested(40),
        "<U99999999",
    )
    if draw.random() < 0.1:
        key = "none"
    odd = {
        "none": 0,
        "shape": draw.choice(sizes),
        "descr": draw.choice(kinds),
        "fortran_order": draw.choice((None, 1, "yes", [], True)),
    }
    text = repr(header | ({} if key == "none" else {key: odd[key]}))
    if draw.random() < 0.2:
        text = draw.choice(
            (
                "(" * 9_000,
                "{'shape': " + "-" * 5_000 + "1}",
                "[" * 3_000 + "]" * 3_000,
                "{" * 200,
                "\x00" * 9,
                "lambda: 1",
            )
        )
    data = text.encode("latin-1", "replace") + b"\n"
    whole = b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(data), 65_535)) + data + bytes(4 * 8 * 8 * 3)
    path.write_bytes(other_bytes(draw, whole) if draw.random() < 0.3 else whole)
    return path


def read_npy(path: Path) -> object:
    return read_frey_faces(path.parent).split if path.name == "freyfaces.npy" else arrays.open_array(path).shape


def forge_tar(draw: random.Random, folder: Path) -> Path:
    made = io.BytesIO()
    kind = draw.randrange(9)
    with tarfile.open(fileobj=made, mode="w", format=draw.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        names = {
            0: [f"cifar/{'a' * 100_000}"], 1: [f"cifar/{n}" for n in range(20_000 if draw.random() < 0.03 else 1_500)],
            2: ["../outside"], 3: ["cifar/../../outside"], 4: ["/etc/outside"], 5: ["cifar/\x1b[2J"],
        }.get(kind, ["cifar/a", "cifar/b"])  # fmt: skip
        for name in names:
            item = tarfile.TarInfo(name)
            item.size = 3 if kind > 5 else 0
            item.type = (
                draw.choice((tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE)) if kind == 8 else tarfile.REGTYPE
            )
            item.linkname = "/etc/passwd"
            tar.addfile(item, io.BytesIO(b"abc"))
    whole = made.getvalue()
    if kind == 6:
        whole = bytes(tarfile.TarInfo("pax").tobuf()[:124]) + b"77777777777\0" + bytes(20) + b"x" + whole[157:]
    if kind == 7:
        whole = other_bytes(draw, whole)
    path = folder / "cifar.tar.gz"
    path.write_bytes(other_bytes(draw, gzip.compress(whole, 1)) if draw.random() < 0.1 else gzip.compress(whole, 1))
    return path


def read_tar(path: Path) -> object:
    return archive.extract_folder(path, path.parent, "cifar", max_bytes=2**20).name


def forge_zip(draw: random.Random, folder: Path) -> Path:
    made = io.BytesIO()
    kind = draw.randrange(6)
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(made, "w", method) as out:
        batch = pickle.dumps(BATCH, 2)
        for name in (*cifar10_forms.TRAIN_FILES, cifar10_forms.TEST_FILE):
            out.writestr(name, attacks(draw) if kind == 0 and name == cifar10_forms.TRAIN_FILES[0] else batch)
        if kind == 1 and draw.random() < 0.05:
            out.writestr("test_batch", bytes(2**28), zipfile.ZIP_DEFLATED, 1)
        for n in range(5_000 if kind == 2 and draw.random() < 0.1 else 0):
            out.writestr(f"empty/{n}", b"")
        if kind == 3:
            out.writestr("a" * 60_000, b"")
    path = folder / "cifar.zip"
    path.write_bytes(other_bytes(draw, made.getvalue()) if kind > 3 else made.getvalue())
    return path


def forge_image(draw: random.Random, folder: Path) -> Path:
    format, suffix = draw.choice(
        (
            ("PNG", "png"),
            ("JPEG", "jpg"),
            ("GIF", "gif"),
            ("BMP", "bmp"),
            ("TIFF", "tif"),
            ("WEBP", "webp"),
            ("PPM", "ppm"),
        )
    )
    made = io.BytesIO()
    mode = draw.choice(("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK", "LA"))
    try:
        Image.new(mode, (9, 7)).save(made, format)
    except (OSError, KeyError, ValueError):
        made = io.BytesIO()
        Image.new("RGB", (9, 7)).save(made, format)
    whole = made.getvalue()
    path = folder / f"image.{suffix}"
    if draw.random() < 0.15:
        mark = folder / "ghost"
        whole = draw.choice(
            (
                f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile\n".encode(),
                b"P6 60000 60000 255\n",
                b"P3 9 9 255\n" + b"9" * 10**6,
                whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:],
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            )
        )
    else:
        whole = other_bytes(draw, whole)
    path.write_bytes(whole)
    return path


def forge_idx(draw: random.Random, folder: Path) -> Path:
    count = draw.choice((2, 0, 2**31, 2**32 - 1))
    whole = struct.pack(">IIII", 0x803, count, draw.choice((28, 0, 2**31)), 28) + bytes(2 * 784)
    whole = other_bytes(draw, whole) if draw.random() < 0.5 else whole
    packed = gzip.compress(whole, 1) if draw.random() < 0.99 else gzip.compress(bytes(2**28 + 9), 1)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(other_bytes(draw, packed) if draw.random() < 0.3 else packed)
    return path


def forge_parquet(draw: random.Random, folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    made = io.BytesIO()
    Image.new("RGB", (32, 32)).save(made, "PNG")
    cells = (
        [{"bytes": made.getvalue(), "path": "x"}] * 2
        if draw.random() < 0.7
        else draw.choice(([1, 2], ["a", "b"], [None, None]))
    )
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({draw.choice(("img", "img", "image", "\x1b[2J")): cells}), out)
    path = folder / "train.parquet"
    path.write_bytes(other_bytes(draw, out.getvalue()) if draw.random() < 0.8 else out.getvalue())
    return path


KINDS: dict[str, Kind] = {
    "batch of CIFAR-10 (pickle)": Kind(forge_batch, pickles.read_arrays),
    "weights (torch, safetensors)": Kind(forge_weights, read_weights),
    "checkpoint": Kind(forge_checkpoint, read_checkpoint),
    "recorded skip of a run": Kind(forge_recording, read_recording),
    "recorded skip of a guard": Kind(forge_guarded, read_guarded),
    "config.toml": Kind(forge_toml, read_toml),
    "saved model (patch.json)": Kind(forge_document, read_document),
    "summary.json": Kind(forge_summary, read_summary),
    "sections of a host": Kind(forge_sections, read_sections),
    "text of a variant": Kind(forge_variant, lambda path: str(Variant.parse(path.read_text()))),
    "array (.npy)": Kind(forge_npy, read_npy),
    "archive (.tar.gz)": Kind(forge_tar, read_tar),
    "archive (.zip)": Kind(forge_zip, lambda path: cifar10_forms.read_other_form(path)),
    "image": Kind(forge_image, decode.read_image),
    "MNIST (IDX)": Kind(forge_idx, lambda path: mnist.read_images(path).shape),
    "parquet": Kind(forge_parquet, lambda path: cifar10_forms._parquet_images(path).shape),
}


# ---- the watch ----


@dataclass
class Tally:
    """What became of the files of a kind."""

    cases: int = 0
    values: int = 0
    errors: int = 0
    slowest: float = 0.0
    largest: int = 0
    failures: list[str] = field(default_factory=list)


class Watch:
    """Notices code that is run, through Python's audit events; a hook stays for the life of the process."""

    _RUN = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
            "subprocess.Popen", "socket.connect", "socket.bind", "pty.spawn", "code.__new__")  # fmt: skip

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in self._RUN or (event == "import" and str(args[0]).split(".")[0] in (PAYLOAD, "subprocess", "pty")):
            self.seen.append(f"{event} {str(args)[:80]}")
        if event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            inside = Path(os.path.abspath(args[0])).is_relative_to(self.folder) or args[0].startswith(
                ("/proc/", "/dev/")
            )
            if writes and not inside and not args[0].endswith((".pyc", ".lock")) and "__pycache__" not in args[0]:
                self.seen.append(f"writes {args[0][:80]}")


def resident(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    return 0


class TooSlowError(BaseException):
    """The alarm of a case that does not end."""


def _alarm(*_: object) -> None:
    raise TooSlowError


def run(name: str, seeds: Iterator[int] | range, *, again: bool = False) -> Tally:
    """Forge and read the files of a kind in this process."""
    kind, tally, watch = KINDS[name], Tally(), Watch()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as top:
        (Path(top) / f"{PAYLOAD}.py").write_text("raise SystemExit('code was run')\n")
        sys.path.insert(0, top)
        with contextlib.suppress(VdvaePatchError):  # what is imported when it is first needed
            kind.read(kind.forge(random.Random(0), Path(tempfile.mkdtemp(dir=top))))
        limit = resident("VmSize") + BYTES
        for seed in seeds:
            folder = Path(tempfile.mkdtemp(dir=top))
            path = kind.forge(random.Random(f"{name} {seed}"), folder)
            _one(kind, path, f"{name}, seed {seed}", tally, watch, limit, again)
            shutil.rmtree(folder)
        sys.path.remove(top)
    return tally


def _one(kind: Kind, path: Path, label: str, tally: Tally, watch: Watch, limit: int, again: bool) -> None:
    tally.cases += 1
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    before, wrong = resident("VmRSS"), ""
    resource.setrlimit(resource.RLIMIT_AS, (limit + 2**30, resource.RLIM_INFINITY))
    signal.alarm(60)
    watch.seen.clear()
    watch.folder = path.parent
    begun = time.process_time()
    try:
        kind.read(path)
        tally.values += 1
    except VdvaePatchError as error:
        tally.errors += 1
        text = str(error)
        if "\n" in text or text != visible(text) or len(text) > 10_000:
            wrong = f"is no single plain line: {text[:200]!r}"
    except TooSlowError:
        wrong = "did not end within a minute"
    except BaseException as error:
        if again:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        wrong = f"{type(error).__name__}: {str(error)[:120]!r} at {where.filename.rpartition('/')[2]}:{where.lineno}"
    finally:
        spent = time.process_time() - begun
        watch.folder = None
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    grown = max(0, resident("VmHWM") - before)
    tally.slowest, tally.largest = max(tally.slowest, spent), max(tally.largest, grown)
    faults = [wrong] if wrong else []
    if spent > SECONDS:
        faults.append(f"took {spent:.1f} s")
    if grown > BYTES:
        faults.append(f"took {grown / 1e6:,.0f} MB")
    if watch.seen or (path.parent / "ghost").exists():
        faults.append(f"ran code: {(watch.seen or ['ghostscript'])[0]}")
    if faults:
        tally.failures.append(f"{label}: {'; '.join(faults)}")


def apart(name: str, seed: int, count: int) -> Tally:
    """The same in a process of its own; one that dies is a failure of the case that it was at."""
    command = [sys.executable, __file__, "--kind", name, "--seed", str(seed), "--count", str(count), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode not in (0, 1) or not done.stdout:
        return Tally(count, failures=[f"{name}: the process ended with {done.returncode}: {done.stderr[-300:]}"])
    return Tally(**json.loads(done.stdout.splitlines()[-1]))


def page(tallies: dict[str, Tally], command: str, seed: int) -> str:
    """The results, for docs/results."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=DOCS).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, cwd=DOCS
    ).stdout.strip()
    rows = [
        f"| {name} | {t.cases:,} | {t.values:,} | {t.errors:,} | {len(t.failures)} | {t.slowest:.2f} | "
        f"{t.largest / 1e6:,.0f} |"
        for name, t in tallies.items()
    ]
    total, bad = sum(t.cases for t in tallies.values()), sum(len(t.failures) for t in tallies.values())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    machine += f", torch {torch.__version__}"
    state = f"commit {commit[:12]}{' with changes' if dirty else ''}"
    last = seed + max(t.cases for t in tallies.values()) - 1
    failures = "".join(f"- {line}\n" for t in tallies.values() for line in t.failures[:5])
    return f"""# Forged files

Files of each kind that this package reads, changed by a seed: bits, cuts, fields of other types, numbers of other
sizes, trees nested deep, and the attacks that are known for a kind, with checksums made anew. Each has to end in a
value or in an error of this package of one line, within 2 s of the processor's time and 1 GB of memory, and run no
code. Of {total:,} files {bad} did not.

| kind | files | a value | one line | neither, or beyond the bounds | slowest (s) | most memory (MB) |
|:--|--:|--:|--:|--:|--:|--:|
{chr(10).join(rows)}

{failures}
Seeds {seed} to {last} of each kind; {state}; {machine}. Made by
`{command}`.
What the kinds are, and what is done to them, is in [the script](../../tests/long/forged_files.py). Memory is the growth
of the resident set while a file is read. Logs of runs (`metrics.jsonl` and the like) are not among them.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=list(KINDS), help="one kind alone, in this process")
    parser.add_argument("--together", action="store_true", help="all kinds in this process, and print the tallies")
    parser.add_argument("--json", action="store_true", help="print the tally")
    parser.add_argument("--raise", dest="again", action="store_true", help="let an error through")
    parser.add_argument("--keep", type=Path, help="a folder for the tallies: what is in it is not done again")
    parser.add_argument("--write", action="store_true", help="write docs/results/forged-files.md")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.count)
    if options.together:
        print(json.dumps({name: vars(run(name, seeds)) for name in KINDS}))
        return 0
    if options.kind:
        tally = run(options.kind, seeds, again=options.again)
        print(json.dumps(vars(tally)) if options.json else "\n".join([str(vars(tally)), *tally.failures]))
        return bool(tally.failures)
    tallies = {}
    for name in KINDS:
        kept = options.keep and options.keep / f"{name.replace(' ', '-')}-{options.seed}-{options.count}.json"
        if kept and kept.exists():
            tallies[name] = t = Tally(**json.loads(kept.read_text()))
        else:
            tallies[name] = t = apart(name, options.seed, options.count)
        if kept:
            kept.write_text(json.dumps(vars(t)))
        print(f"{name}: {t.cases} files, {t.values} values, {t.errors} errors, {len(t.failures)} failures, "
              f"{t.slowest:.2f} s, {t.largest / 1e6:,.0f} MB", flush=True)  # fmt: skip
        for failure, times in Counter(t.failures).most_common(20):
            print(f"    {failure} ({times})", flush=True)
    if options.write:
        command = f"OMP_NUM_THREADS=1 python tests/long/forged_files.py --count {options.count} --seed {options.seed}"
        (DOCS / "forged-files.md").write_text(page(tallies, command, options.seed))
    return any(t.failures for t in tallies.values())


if __name__ == "__main__":
    sys.exit(main())
