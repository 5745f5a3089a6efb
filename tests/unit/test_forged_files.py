"""Forged files of each kind end in a value or in one line, and none runs code."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "long"))

import forged_files as forged  # noqa: E402

import vdvae_patch  # noqa: E402
from vdvae_patch.cli import main, replay  # noqa: E402
from vdvae_patch.data import archive, arrays, cifar10_forms, decode, frey_faces, pickles  # noqa: E402
from vdvae_patch.errors import CheckpointError, DataError, HostError, PatchError, RunError, VdvaePatchError  # noqa: E402
from vdvae_patch.guarding import skip as guard_skip  # noqa: E402
from vdvae_patch.hosts.configuration import read_sections  # noqa: E402
from vdvae_patch.skips import sealed  # noqa: E402
from vdvae_patch.train import checkpoint, flight  # noqa: E402
from vdvae_patch.train.checkpoint import CheckpointInfo  # noqa: E402
from vdvae_patch.train.config import RunFile  # noqa: E402
from vdvae_patch.train.folder import read_json  # noqa: E402
from vdvae_patch.train.resumable import of_checkpoint, require_moments  # noqa: E402
from vdvae_patch.train.setup import read_weights  # noqa: E402
from vdvae_patch.train.weight_files import WeightsFile, read_file  # noqa: E402
from vdvae_patch.train.weights import select_weights  # noqa: E402


@pytest.mark.medium
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
def test_forged_files_end_in_a_value_or_in_one_line() -> None:
    command = [sys.executable, forged.__file__, "--together", "--seed", "10000", "--count", "15"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    tallies = json.loads(done.stdout.splitlines()[-1])
    assert tallies.keys() == forged.KINDS.keys()
    # how long one takes is for an idle machine to say, and so for the long version
    failures = [line for tally in tallies.values() for line in tally["failures"] if ": took " not in line]
    assert failures == [], done.stderr
    assert {tally["cases"] for tally in tallies.values()} == {15}
    assert all(tally["errors"] for tally in tallies.values())


@pytest.mark.medium
def test_the_watch_notices_what_it_is_for(tmp_path: Path) -> None:
    code = """
import os, pickle, subprocess, sys, time
from pathlib import Path
import forged_files as forged

def forge(draw, folder):
    path = folder / "file"
    path.write_bytes(b"cos\\nsystem\\n(S'true'\\ntR.")
    return path

def slow(path):
    end = time.process_time() + 2.2
    while time.process_time() < end:
        pass

def large(path):
    return len(bytearray(1_200_000_000))

def own(path):
    raise forged.RunError("one\\nand two")

readers = {"code": lambda path: pickle.loads(path.read_bytes()), "slow": slow, "large": large, "own": own,
           "other": lambda path: 1 / 0, "writes": lambda path: Path("/tmp/forged-elsewhere").write_text("x")}
for name, read in readers.items():
    def of(path, read=read, calls=[]):
        calls.append(path)  # the first call is for what is imported late
        return read(path) if len(calls) > 1 else None
    forged.KINDS[name] = forged.Kind(forge, of)
    print(name, forged.run(name, [1]).failures)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests/long")},
    )
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert "ran code: os.system" in said["code"], done.stderr
    assert "took " in said["slow"]
    assert "MB" in said["large"] or "MemoryError" in said["large"]
    assert "no single plain line" in said["own"]
    assert "ZeroDivisionError" in said["other"]
    assert "writes /tmp/forged-elsewhere" in said["writes"]


class TestPickles:
    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02}r\xff\xff\xff\xff.",  # Python's own machine makes room for 2**32 entries
            b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
            b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        ],
        ids=["memo", "bytearray", "bytes", "call"],
    )
    def test_one_that_asks_for_gigabytes_gets_none(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "data_batch_1"
        path.write_bytes(content)
        before = forged.resident("VmHWM")
        try:
            assert pickles.read_arrays(path) == {}
        except DataError as error:
            assert "data_batch_1" in str(error)  # noqa: PT017
        assert forged.resident("VmHWM") - before < 100_000_000

    def test_keys_of_one_hash_are_refused_after_the_first_thousand(self, tmp_path: Path) -> None:
        pairs = forged.colliding(forged.random.Random(0), 3_000)
        assert len({hash(pair) for pair in pairs}) == 1
        path = tmp_path / "data_batch_1"
        path.write_bytes(pickle.dumps({b"data": dict.fromkeys(pairs)}, 2))
        with pytest.raises(DataError, match=r"more than 1,000 keys .* neither texts nor small integers"):
            pickles.read_arrays(path)
        weights = tmp_path / "weights.pt"
        torch.save({"model": forged.PLAIN, "more": dict.fromkeys(pairs)}, weights)
        with pytest.raises(CheckpointError, match="more than 1,000 keys"):
            read_file(weights)

    def test_very_many_operations_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "data_batch_1"
        path.write_bytes(b"\x80\x02(" + b"K\x01" * 2_100_000 + b"l.")
        with pytest.raises(DataError, match="more operations than data of this kind need"):
            pickles.read_arrays(path)


def of_a_kind(value: Tensor) -> dict[str, Tensor]:
    return forged.PLAIN | {"encoder.weight": value}


class TestWeights:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (torch.ones(4, 6).to_sparse(), "sparse_coo"),
            (torch.ones(4, 6).to_sparse_csr(), "sparse_csr"),
            (torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.qint8), "quantized torch.qint8"),
            (torch.ones(4, 6, device="meta"), "without values"),
            (torch.ones(4, 6, dtype=torch.complex64), "torch.complex64"),
            (torch.ones(4, 6, dtype=torch.int64), "torch.int64"),
            (torch.ones(4, 6, dtype=torch.bool), "torch.bool"),
            (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested"),
        ],
        ids=["coo", "csr", "quantized", "meta", "complex", "integers", "bool", "nested"],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_a_tensor_without_plain_numbers_is_named_with_what_it_is(self, value: Tensor, said: str) -> None:
        with pytest.raises(CheckpointError) as error:
            select_weights(WeightsFile(Path("w.pt"), of_a_kind(value)), forged.OWN)
        assert "'encoder.weight' is " in str(error.value)
        assert said in str(error.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_finite_are_refused(self, tmp_path: Path, value: float) -> None:
        path = tmp_path / "w.pt"
        torch.save(of_a_kind(torch.full((4, 6), value)), path)
        with pytest.raises(CheckpointError, match=r"not finite are 1 of 6 tensors, such as 'encoder.weight'"):
            select_weights(read_file(path), forged.OWN)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_floating_point_numbers_of_another_size_are_taken(self, dtype: torch.dtype) -> None:
        content = {name: value.to(dtype) for name, value in forged.PLAIN.items()}
        assert select_weights(WeightsFile(Path("w.pt"), content), forged.OWN).tensors.keys() == forged.OWN.keys()

    @pytest.mark.parametrize(
        "content", [{0: torch.ones(2)}, {0: forged.PLAIN, 1: forged.PLAIN}, {(1, 2): torch.ones(1)}]
    )
    def test_integer_keys_are_no_names(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / "w.pt"
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="does not hold a state_dict; it holds"):
            select_weights(read_file(path), forged.OWN)

    def test_one_mapping_under_many_names_is_looked_at_once(self) -> None:
        inner: dict[str, Any] = {}
        for _ in range(3):
            inner = {str(n): inner for n in range(3_000)}
        file = WeightsFile(Path("w.pt"), {**inner, "model": forged.PLAIN})
        assert file.variant() is None
        assert "its 'model'" in select_weights(file, forged.OWN).notes[0]

    def test_a_name_of_100_000_characters_is_refused(self) -> None:
        with pytest.raises(CheckpointError, match="100,000 characters long") as error:
            select_weights(WeightsFile(Path("w.pt"), forged.PLAIN | {"a." * 50_000: torch.ones(1)}), forged.OWN)
        assert len(str(error.value)) < 500

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("number", [10**11, 2**31 - 1, 65_535])
    def test_a_storage_is_no_larger_than_what_is_there(self, tmp_path: Path, legacy: bool, number: int) -> None:
        """torch takes the number of elements from the pickle, whatever there is to read."""
        whole = forged.saved({"w": torch.arange(24.0)}, legacy=legacy)

        def change(data: bytes) -> bytes:
            at = data.index(b"K\x18")  # 24 elements
            return data[:at] + pickle.dumps(number, 2)[2:-1] + data[at + 2 :]

        path = tmp_path / "w.pt"
        path.write_bytes(change(whole) if legacy else forged.repacked(whole, change))
        with pytest.raises(CheckpointError, match=r"asks for storage '.*' of .* bytes, of which .* are there"):
            read_file(path)

    def test_a_tensor_does_not_reach_behind_its_storage(self, tmp_path: Path) -> None:
        def change(data: bytes) -> bytes:
            at = data.rindex(b"K\x18\x85")  # the size
            return data[:at] + b"M\xff\xff" + data[at + 2 :]

        path = tmp_path / "w.pt"
        path.write_bytes(forged.repacked(forged.saved({"w": torch.arange(24.0)}), change))
        with pytest.raises(CheckpointError, match=r"asks for a tensor \[65535\] of a storage of 24 elements"):
            read_file(path)

    def test_a_packed_archive_does_not_unpack_to_gigabytes(self, tmp_path: Path) -> None:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("archive/data.pkl", pickle.dumps({}, 2))
            out.writestr("archive/version", "3\n")
            for n in range(5):
                out.writestr(f"archive/data/{n}", bytes(2**26))
        path = tmp_path / "w.pt"
        path.write_bytes(made.getvalue())
        with pytest.raises(CheckpointError, match="asks for members of 335,544,"):
            read_file(path)

    def test_what_people_have_is_read_as_before(self, tmp_path: Path) -> None:
        for legacy in (False, True):
            path = tmp_path / f"{legacy}.pt"
            shared = torch.arange(24.0).reshape(4, 6)
            content = forged.PLAIN | {"encoder.weight": shared.t().contiguous().t(), "prior.bias": shared[0, :4]}
            path.write_bytes(
                forged.saved({"model": content, "optimizer": forged.OPTIMIZER.state_dict()}, legacy=legacy)
            )
            taken = select_weights(read_file(path), forged.OWN).tensors
            assert torch.equal(taken["encoder.weight"], shared)
            assert torch.equal(taken["prior.bias"], shared[0, :4])


def sealed_checkpoint(folder: Path, state: Any, info: dict[str, Any] | None = None) -> Path:
    path = folder / "step-00000003"
    sealed.write(path, forged.INFO if info is None else info, state, what="checkpoint", remedy="")
    return path


def changed(*at: Any, value: Any = None, gone: bool = False) -> dict[str, Any]:
    state = copy.deepcopy(forged.STATE)
    box: Any = state
    for key in at[:-1]:
        box = box[key]
    if gone:
        del box[at[-1]]
    else:
        box[at[-1]] = value
    return state


def taken_up(path: Path) -> None:
    info, state = checkpoint.load(path)
    of_checkpoint(state, path, info.step)
    require_moments(state["optimizer"], torch.optim.AdamW(forged.Small().parameters(), fused=True), path)


FIELDS: list[tuple[dict[str, Any], str]] = [
    (changed("position", "global_batch", value=0), r"position\.global_batch: must be from 1 to 1,048,576, not 0"),
    (changed("position", "global_batch", value=10**9), r"position\.global_batch: must be from 1 to 1,048,576"),
    (changed("position", "ranks", value=0), r"position\.ranks: must be from 1"),
    (changed("position", "step", value=4), r"position\.step: must be 3, as its manifest says, not 4"),
    (changed("position", value=[1, 2]), r"position: must be a dictionary, not a list of 2"),
    (changed("position", gone=True), "the field 'position' is missing"),
    (changed("model", gone=True), "the field 'model' is missing"),
    (changed("model", value=[torch.ones(1)]), r"model: must be a dictionary, not a list of 1"),
    (changed("model", "prior.bias", value=3), r"model\.prior\.bias: must be a tensor, not 3"),
    (changed("ema", "prior.bias", value=torch.ones(4).to_sparse()), r"ema\.prior\.bias: must be a tensor with values"),
    (changed("ema", "prior.bias", value=torch.ones(4, device="meta")), "of the meta device"),
    (changed("counters", "nan", value=-1), r"counters\.nan: must be from 0"),
    (changed("counters", "nan", value="x"), r"counters\.nan: must be an integer, not 'x'"),
    (changed("counters", "extra", value=1), "unknown field 'extra'"),
    (changed("generators", value=[]), r"generators: must be those of 1 ranks, not of 0"),
    (changed("generators", 0, "torch", value=torch.ones(3)), r"generators\[0\]: is no state of torch"),
    (changed("generators", 0, "numpy", 2, value=10**6), r"generators\[0\]\.numpy: is no state"),
    (changed("generators", 0, "python", 1, value=[1]), r"generators\[0\]\.python: is no state"),
    (changed("optimizer", value=[]), r"optimizer: must be a dictionary"),
    (changed("optimizer", "param_groups", value=[]), r"optimizer\.param_groups: must be 1 of them, not 0"),
    (changed("optimizer", "param_groups", 0, "maximize", value=True), r"maximize: must be False, not True"),
    (changed("optimizer", "state", 0, "exp_avg", value=torch.ones(2)), r"state\.0\.exp_avg: must be .* \[4, 6\]"),
    (changed("optimizer", "state", 99, value={}), r"state: has parameter 99, and there are 6"),
    (changed("usual_norm", value=3), r"usual_norm: must be a dictionary"),
]  # fmt: skip


class TestCheckpoints:
    def test_the_state_that_is_changed_below_is_good(self, tmp_path: Path) -> None:
        taken_up(sealed_checkpoint(tmp_path, forged.STATE))

    @pytest.mark.parametrize(("state", "said"), FIELDS, ids=[said[:40] for _, said in FIELDS])
    @pytest.mark.filterwarnings("ignore")
    def test_contents_that_no_run_writes_are_named_with_their_field(
        self, tmp_path: Path, state: dict[str, Any], said: str
    ) -> None:
        path = sealed_checkpoint(tmp_path, state)
        with pytest.raises(CheckpointError, match=said) as error:
            taken_up(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("info", "said"),
        [
            ({"step": "3"}, r"info\.step: must be an integer, not '3'"),
            ({"step": -1}, r"info\.step: must be from 0"),
            ({"host": 3}, r"info\.host: must be a text, not 3"),
            ({"heads": 5}, r"info\.heads: must be a list or a tuple, not 5"),
            ({"nelbo": "low"}, r"info\.nelbo: must be a number, not 'low'"),
            ({"more": 1}, "info: unknown field 'more'"),
        ],
    )
    def test_a_manifest_of_other_types_is_refused(self, tmp_path: Path, info: dict[str, Any], said: str) -> None:
        path = sealed_checkpoint(tmp_path, forged.STATE, {**forged.INFO, **info})
        for read in (checkpoint.load, checkpoint.read_manifest):
            with pytest.raises(CheckpointError, match=said):
                read(path)
        checkpoint.prune(tmp_path)  # it does not count, and is left
        assert path.exists()

    @pytest.mark.parametrize(
        "data", [b"", b"no tensor file", b"\x80\x02}q\x00.", pickle.dumps([1, 2]), forged.saved([1, 2]), b"PK\x03\x04"]
    )
    def test_a_state_that_is_no_state_is_refused_although_its_checksum_is_right(
        self, tmp_path: Path, data: bytes
    ) -> None:
        path = sealed_checkpoint(tmp_path, forged.STATE)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest.pop("checksum")
        manifest["files"]["state.pt"] = {"sha256": __import__("hashlib").sha256(data).hexdigest(), "bytes": len(data)}
        (path / "state.pt").write_bytes(data)
        (path / "manifest.json").write_bytes(sealed._manifest_bytes(manifest))
        with pytest.raises(CheckpointError, match=r"state\.pt"):
            checkpoint.load(path)

    def test_a_state_that_names_code_runs_none(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "made"),)

        path = sealed_checkpoint(tmp_path, {"model": Hostile()})
        with pytest.raises(CheckpointError, match="it names code, or is cut off") as error:
            checkpoint.load(path)
        assert "can still be loaded" not in str(error.value)
        assert not (tmp_path / "made").exists()

    def test_as_weights_of_another_run_they_are_checked_too(self, tmp_path: Path) -> None:
        path = sealed_checkpoint(tmp_path, changed("ema", value=[1]))
        config = vdvae_patch.train.config.TrainConfig(weights=path)
        with pytest.raises(CheckpointError, match="ema: must be a dictionary"):
            read_weights(config, "vanilla")

    def test_folders_of_other_names_are_not_checkpoints(self, tmp_path: Path) -> None:
        for name in ("step-foo", "step-", "step-3.bak"):
            (tmp_path / name).mkdir()
        assert checkpoint.checkpoints(tmp_path) == []


class TestRecordings:
    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("threads", 10**9, r"threads: must be from 1 to 4,096"),
            ("indices", torch.ones(4), r"indices: must be integers in a row"),
            ("indices", torch.tensor([0, -1]), r"indices: must not be negative, and -1 is"),
            ("indices", torch.zeros(1, dtype=torch.int64).expand(10**12), r"indices: must be a number of images"),
            ("generators", [], r"that 0 ranks can share"),
            ("record", {"sites": []}, r"sites: must be a list of 3"),
            ("record", 3, r"record: must be a dictionary, not 3"),
            ("optimization", {"lr": -1.0}, r"optimization does not fit: --lr must be a positive number"),
            ("precision", "fp8", r"precision: must be one of 'fp32', 'bf16', 'fp16', not 'fp8'"),
        ],
    )
    def test_another_value_is_named_with_its_field(self, tmp_path: Path, field: str, value: Any, said: str) -> None:
        path = tmp_path / "skip-00000003"
        checkpoint.save(tmp_path, CheckpointInfo(**forged.INFO), {**forged.RECORDING, field: value}, name=path.name)
        with pytest.raises(CheckpointError, match=said) as error:
            flight.read(path)
        assert str(path) in str(error.value)

    def test_a_folder_that_is_called_otherwise_is_nobodys_recording(self, tmp_path: Path) -> None:
        for name in ("skip-foo", "skip-", "skip-1.bak"):
            (tmp_path / "recordings" / name).mkdir(parents=True)
        folder = tmp_path / "recordings"
        assert flight.recordings(folder) == []
        flight.drop_from(folder, 0)
        assert len(list(folder.iterdir())) == 3
        with pytest.raises(RunError, match="no recorded skips"):
            flight.choose(folder, 1)
        checkpoint.save(folder, CheckpointInfo(**forged.INFO), forged.RECORDING, name="skip-00000003")
        assert flight.choose(folder, 1).name == "skip-00000003"
        with pytest.raises(RunError, match=r"it recorded 1 \(step 3\)"):
            flight.choose(folder, 2)

    def test_nor_among_those_of_a_guard(self, tmp_path: Path) -> None:
        (tmp_path / "skip-foo").mkdir()
        (tmp_path / "skip-foo" / "manifest.json").write_text("{}")
        assert replay._recorded_by_guard(tmp_path, 1) is None

    @pytest.mark.parametrize(
        ("where", "field", "value", "said"),
        [
            ("info", "world", 10**9, r"info\.world: must be from 1 to 65,536"),
            ("info", "ranks", "x", r"info\.ranks: must be a list, not 'x'"),
            ("info", "elbo", None, r"info\.elbo: must be a number, not None"),
            ("state", "autocast", ["cpu", 1, "float32"], r"autocast\[1\]: must be true or false, not 1"),
            ("state", "autocast", ["cpu", True, "load"], r"autocast: must be a device and a type of torch"),
            ("state", "threads", 0, r"threads: must be from 1"),
            ("state", "args", {}, r"args: must be a list, not a dictionary of 0"),
            ("state", "model", {"a": 1}, r"model\.a: must be a tensor, not 1"),
        ],
    )
    def test_so_is_what_a_guard_recorded(self, tmp_path: Path, where: str, field: str, value: Any, said: str) -> None:
        info, state = dict(forged.LINE), dict(forged.GUARDED)
        (info if where == "info" else state)[field] = value
        path = tmp_path / "skip-0001"
        sealed.write(path, info, state, what="recorded skip", remedy="")
        with pytest.raises(CheckpointError, match=said):
            guard_skip.read(path)


class TestTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "a = " + "[" * 1_000 + "]" * 1_000,
            "[" + ".".join("a" * 100_000) + "]\nb = 1",
            "a = " + "9" * 5_000,
            "a = 1" * 10**6,
        ],
        ids=["nested", "dotted", "number", "long"],
    )
    def test_a_configuration_that_is_deep_or_long_is_refused_in_a_line(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "config.toml"
        path.write_text(text)
        with pytest.raises(RunError, match=r"config\.toml") as error:
            RunFile.read(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1_000

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('steps = "many"', r"config\.toml\.steps: must be an integer, not 'many'"),
            ("steps = 1.5", r"config\.toml\.steps: must be an integer, not 1.5"),
            ("resume = 1", r"config\.toml\.resume: must be true or false, not 1"),
            ("variant = 3", r"config\.toml\.variant: must be a text, not 3"),
            ('precision = "fp8"', r"config\.toml\.precision: must be one of 'fp32', 'bf16', 'fp16', not 'fp8'"),
            ("data_root = [1]", r"config\.toml\.data_root: must be a path.*, not a list of 1"),
            ("optimization = 3", r"optimization: must be a dictionary, not 3"),
            ('[optimization]\nlr = "fast"', r"optimization\.lr: must be a number, not 'fast'"),
            ("[optimization]\nbatch_size = 0", r"--batch-size must be from 1 to 1,048,576, not 0"),
            ("[optimization]\nbatch_size = 1000000000", r"--batch-size must be from 1 to 1,048,576"),
            ("[architecture]\nlatents = true", r"architecture\.latents: must be an integer, not True"),
            ("[architecture]\nlatent = 3", "unknown setting 'latent'; did you mean 'latents'"),
            ('run = "x"', r"run: must be a dictionary, not 'x'"),
            ("[run]\nglobal_batch = 0", r"run\.global_batch: must be from 1 to 1,048,576, not 0"),
        ],
    )
    def test_a_setting_of_another_type_is_named_with_its_field(self, tmp_path: Path, line: str, said: str) -> None:
        path = tmp_path / "config.toml"
        path.write_text(f'host = "conv_vae"\n{line}\n' if not line.startswith("host") else line)
        with pytest.raises(VdvaePatchError, match=said):
            RunFile.read(path).config(forged.ENTRY.architecture)

    @pytest.mark.parametrize("depth", [70, 900, 100_000])
    def test_json_that_is_nested_deep_is_refused(self, tmp_path: Path, depth: int) -> None:
        for text in ("[" * depth + "]" * depth, '{"patches":' * depth + "1" + "}" * depth):
            with pytest.raises(PatchError, match="the patch"):
                vdvae_patch.apply(forged.Small(), text)
            path = tmp_path / "summary.json"
            path.write_text(text)
            with pytest.raises(RunError, match=r"summary\.json"):
                read_json(path)

    def test_so_are_documents_that_were_read_already(self) -> None:
        deep: Any = {}
        for _ in range(100_000):
            deep = {"a": deep}
        for field in ("patches", "made_with", "format"):
            document = {**json.loads(forged.DOCUMENT), field: deep}
            with pytest.raises(PatchError, match="the patch: is nested deeper than 64 levels"):
                vdvae_patch.apply(forged.Small(), document)

    def test_a_saved_model_with_a_deep_patch_is_refused(self, tmp_path: Path) -> None:
        vdvae_patch.save(forged.patched(), tmp_path / "m")
        (tmp_path / "m" / "patch.json").write_text("[" * 900 + "]" * 900)
        with pytest.raises(PatchError, match=r"patch\.json"):
            vdvae_patch.load(forged.Small, tmp_path / "m")
        with pytest.raises(CheckpointError, match=r"patch\.json"):
            read_file(tmp_path / "m" / "model.safetensors").variant()

    @pytest.mark.parametrize(
        "value", ["1 / 0", "'a' + 1", "-" * 9_000 + "1", "[3] * 10**9", "[[1] * 9000] * 9000", "1e308 * [1]"]
    )
    def test_an_expression_of_a_hosts_configuration_has_a_value_or_a_line(self, tmp_path: Path, value: str) -> None:
        path = tmp_path / "a.cfg"
        path.write_text(f"[model]\nn = {value}\n")
        with pytest.raises(HostError, match=r"a\.cfg: \[model\] n"):
            read_sections(path)


class TestArraysAndArchives:
    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '|u1', 'fortran_order': False, 'shape': (10**30, 8, 8, 3)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000000000000000, 8, 8, 3)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (20000000000, 1, 1, 1)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 8, 8, 'a')}",
            "{'descr': '|V999999999999', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': [('a', '|u1', 1000000000)], 'fortran_order': False, 'shape': (1,)}",
            "{'descr': None, 'fortran_order': False, 'shape': (1,)}",
            "(" * 5_000,
            "{'shape': " + "-" * 5_000 + "1}",
            "",
        ],
    )
    @pytest.mark.parametrize("name", ["train.npy", "freyfaces.npy"])
    def test_a_header_that_says_what_no_array_has_is_refused(self, tmp_path: Path, header: str, name: str) -> None:
        text = header.encode() + b"\n"
        (tmp_path / name).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(768))
        before = forged.resident("VmHWM")
        with pytest.raises(DataError, match=name) as error:
            arrays.open_array(tmp_path / name) if name == "train.npy" else frey_faces.read(tmp_path)
        assert "\n" not in str(error.value)
        assert forged.resident("VmHWM") - before < 100_000_000

    def test_an_array_is_read_as_before(self, tmp_path: Path) -> None:
        images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
        np.save(tmp_path / "train.npy", images)
        np.testing.assert_array_equal(arrays.open_array(tmp_path / "train.npy"), images)

    @staticmethod
    def tar(path: Path, names: list[str]) -> Path:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as out:
            for name in names:
                out.addfile(tarfile.TarInfo(name))
        path.write_bytes(gzip.compress(made.getvalue(), 1))
        return path

    def test_a_name_of_100_000_characters_is_said_in_a_few(self, tmp_path: Path) -> None:
        path = self.tar(tmp_path / "a.tar.gz", ["cifar/" + "a" * 100_000])
        with pytest.raises(
            DataError, match=r"100,006 characters.* a name that is too long; nothing was unpacked"
        ) as error:
            archive.extract_folder(path, tmp_path, "cifar", max_bytes=10**6)
        assert len(str(error.value)) < 500

    def test_no_more_members_are_looked_at_than_an_archive_of_the_kind_has(self, tmp_path: Path) -> None:
        path = self.tar(tmp_path / "a.tar.gz", [f"cifar/{n}" for n in range(3_000)])
        with pytest.raises(DataError, match="has more than 1,000 members; nothing was unpacked"):
            archive.extract_folder(path, tmp_path, "cifar", max_bytes=10**6)
        assert not (tmp_path / "cifar").exists()

    def test_the_header_of_a_name_is_not_as_long_as_it_says(self, tmp_path: Path) -> None:
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, 2**33
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**22), 1))
        with pytest.raises(DataError, match=r"a header of 8,589,934,592 bytes"):
            archive.extract_folder(path, tmp_path, "cifar", max_bytes=10**6)

    def test_nor_of_a_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "cifar.zip"
        with zipfile.ZipFile(path, "w") as out:
            for n in range(15_000):
                out.writestr(f"empty/{n}", b"")
        with pytest.raises(DataError, match=r"more than 2,000.*--data images"):
            cifar10_forms.read_other_form(path)

    def test_an_eps_that_is_called_png_is_not_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
        with pytest.raises(DataError, match="it is an EPS or PostScript file"):
            decode.read_image(path)

    def test_an_image_of_more_pixels_than_any_model_takes_is_refused_before_it_is_unpacked(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.ppm"
        path.write_bytes(b"P6 6000 6000 255\n")
        with pytest.raises(DataError, match="6000x6000 pixels are more than 33,554,432"):
            decode.read_image(path)


@pytest.mark.parametrize("evil", ["\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "\x9b31m"])
def test_names_from_files_reach_the_terminal_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(info: dict[str, Any]) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        return sealed_checkpoint(folder, forged.STATE, {**forged.INFO, **info})

    builds: list[Callable[[], list[str]]] = [
        lambda: ["train", "--data", "builtin", "--preset", "small", "--weights", str(written({"variant": f"v{evil}"}))],
        lambda: ["train", "--data", "builtin", "--preset", "small", "--weights", str(written({"host": f"h{evil}"}))],
        lambda: ["train", "--weights", str(tmp_path / f"no{evil}"), "--data", "builtin", "--preset", "small"],
        lambda: ["replay", str(tmp_path / f"run{evil}")],
        lambda: ["train", "--data", "images", "--data-root", str(tmp_path / f"data{evil}"), "--preset", "small"],
    ]
    monkeypatch.chdir(tmp_path)
    for build in builds:
        with pytest.raises(SystemExit) as stop:
            main(build())
        assert stop.value.code == 2
        said = capsys.readouterr()
        assert not set(evil) & set("\x1b\x07\u202e\x9b") & set(said.out + said.err), said
        assert said.err.splitlines()[-1].startswith("vdvae-patch: error: ")
