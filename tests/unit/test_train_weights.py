"""What files of weights people have, and what is taken of them."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from argparse import Namespace
from collections import defaultdict, deque
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import vdvae_patch
from vdvae_patch.errors import CheckpointError
from vdvae_patch.heads import Head
from vdvae_patch.train.sessions import weights_print
from vdvae_patch.train.setup import load_weights, read_weights
from vdvae_patch.train.weight_files import WeightsFile, read_file, split_choice
from vdvae_patch.train.weights import Selection, select_weights


class Small(nn.Module):
    """Two layers, one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.decoder = nn.Linear(4, 3)


def weights(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(Small().state_dict())


PLAIN, AVERAGE, BUILT = weights(1), weights(2), weights(3)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def select(content: Mapping[str, Any], chosen: str | None = None) -> Selection:
    return select_weights(WeightsFile(Path("w.pt"), content, chosen), BUILT)


def refused(content: Mapping[str, Any], chosen: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        select(content, chosen)
    assert "\n" not in str(error.value)
    return str(error.value)


def is_of(selection: Selection, tensors: Mapping[str, Tensor]) -> bool:
    taken = selection.tensors
    return taken.keys() == tensors.keys() and all(torch.equal(taken[name], tensors[name]) for name in tensors)


class TestNames:
    @pytest.mark.parametrize(
        "prefix",
        ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.",
         "_forward_module.", "_forward_module._orig_mod.", "net.", "model.net.", "model._orig_mod."],
    )  # fmt: skip
    @pytest.mark.parametrize("keys", [(), ("model",), ("state_dict",), ("checkpoint", "generator", "weights")])
    def test_under_any_prefix_and_key(self, prefix: str, keys: tuple[str, ...]) -> None:
        content: dict[str, Any] = under(prefix, PLAIN)
        for key in reversed(keys):
            content = {key: content, "step": 5, "lr": 0.1, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
        assert is_of(select(content), PLAIN)

    def test_wrappers_inside_of_the_names(self) -> None:
        """FSDP and activation checkpointing wrap modules inside of the model."""
        inner = {name.replace("encoder.", "encoder._fsdp_wrapped_module."): value for name, value in PLAIN.items()}
        inner = {name.replace("decoder.", "decoder._checkpoint_wrapped_module."): v for name, v in inner.items()}
        selection = select(inner)
        assert is_of(selection, PLAIN)
        assert "names without '_checkpoint_wrapped_module.' and '_fsdp_wrapped_module.'" in selection.notes[0]

    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
    def test_of_a_model_with_a_module_of_a_wrappers_name(self, prefix: str) -> None:
        for own in (
            {"module.a": torch.zeros(2), "b": torch.zeros(1)},
            {"module.a": torch.zeros(2), "a": torch.ones(2)},
        ):
            given = {name: value + 7 for name, value in own.items()}
            selection = select_weights(WeightsFile(Path("w.pt"), under(prefix, given)), own)
            assert is_of(selection, given)

    def test_what_lies_beside_is_said(self) -> None:
        selection = select({"state_dict": under("net.", PLAIN) | {"loss.lpips.weight": torch.ones(2)}, "epoch": 3})
        assert is_of(selection, PLAIN)
        assert "its 'state_dict.net'" in selection.notes[0]
        assert "tensors in it that are not used: 1, such as 'loss.lpips.weight'" in selection.notes[1]

    def test_a_part_of_a_larger_model_is_not_taken_for_the_whole(self) -> None:
        said = refused(PLAIN | {"decoder.extra": torch.ones(2)})
        assert "0 tensors missing, 1 unknown, 0 of another shape (unknown 'decoder.extra')" in said

    def test_half_precision_is_converted_and_said(self) -> None:
        halves = {name: value.half() if value.is_floating_point() else value for name, value in PLAIN.items()}
        assert "stored as float16" in select(halves).notes[0]

    def test_quantized_integers_are_not_weights(self) -> None:
        quantized = PLAIN | {"decoder.weight": torch.ones(3, 4, dtype=torch.int8)}
        assert "'decoder.weight' is torch.int8 [3, 4] there and torch.float32 [3, 4] in the model" in refused(quantized)


class TestAverages:
    @pytest.mark.parametrize(
        "content",
        [
            {"model": PLAIN, "ema": AVERAGE, "step": 5},
            {"ema": AVERAGE, "model": PLAIN},
            {"model_ema": under("module.", AVERAGE), "state_dict": under("module.", PLAIN)},
            {"state_dict": under("net.", PLAIN) | under("net_ema.", AVERAGE)},
            {"state_dict": under("ema_model.", AVERAGE) | under("online_model.", PLAIN) | {"initted": torch.ones(())}},
            PLAIN | under("ema.", AVERAGE),
            {"model": PLAIN, "averaged": under("module.", AVERAGE) | {"n_averaged": torch.tensor(3)}},
        ],
    )
    def test_the_plain_weights_are_taken_and_the_note_says_how_to_choose_the_other(
        self, content: dict[str, Any]
    ) -> None:
        selection = select(content)
        assert is_of(selection, PLAIN)
        hint = selection.notes[1]
        assert hint.startswith("a moving average fits as well: --weights w.pt:")
        assert is_of(select(content, hint.rpartition(":")[2]), AVERAGE)

    def test_is_chosen_by_its_key(self) -> None:
        selection = select({"model": PLAIN, "ema": AVERAGE}, "ema")
        assert is_of(selection, AVERAGE)
        assert selection.notes == ("weights of w.pt, its 'ema' (a moving average)",)

    def test_is_taken_if_it_is_all_there_is(self) -> None:
        model = AveragedModel(Small())
        model.update_parameters(Small())
        selection = select(model.state_dict())
        assert is_of(selection, dict(model.module.state_dict()))
        assert "a moving average" in selection.notes[0]

    def test_a_key_that_is_not_there(self) -> None:
        said = refused({"model": PLAIN, "ema": AVERAGE, "step": 3}, "eam")
        assert "has no 'eam'; did you mean 'ema'?" in said
        assert "'model' (9 tensors), 'ema' (9 tensors), 'step' (int)" in said

    def test_several_that_differ_are_not_chosen_from(self) -> None:
        said = refused({"best": PLAIN, "last": AVERAGE})
        assert "has several state_dicts that fit the model ('best', 'last'), and they differ" in said
        assert "--weights w.pt:best" in said

    def test_several_that_are_the_same_are_one(self) -> None:
        assert is_of(select({"best": PLAIN, "last": {name: value.clone() for name, value in PLAIN.items()}}), PLAIN)


class TestWhatDoesNotFit:
    def test_says_what_is_missing_unknown_and_of_another_shape(self) -> None:
        given = {("_x.y" if n == "decoder.bias" else n): v for n, v in PLAIN.items()}
        given["decoder.weight"] = torch.ones(4, 3)
        said = refused({"model": given, "epoch": 4})
        assert "('model') does not fit the model: 1 tensors missing, 1 unknown, 1 of another shape" in said
        assert (
            "missing 'decoder.bias'; unknown '_x.y'; 'decoder.weight' is [4, 3] there and [3, 4] in the model" in said
        )
        assert "'model' (9 tensors), 'epoch' (int)" in said

    def test_names_its_keys_if_it_has_no_tensors(self) -> None:
        said = refused({"epoch": 4, "config": {"lr": 1}})
        assert "does not hold a state_dict; it holds 'epoch' (int), 'config' (a dict of 'lr')" in said

    def test_an_optimizers_moments_are_not_weights(self) -> None:
        moments = {name: torch.zeros_like(value) for name, value in PLAIN.items()}
        assert is_of(select({"optimizer": {"exp_avg": moments}, "model": PLAIN}), PLAIN)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_finite_are_refused_with_the_tensors_name(self, bad: float) -> None:
        broken = PLAIN | {"encoder.0.weight": torch.full((4, 3), bad)}
        said = refused(broken)
        assert "not finite are 1 of 9 tensors, such as 'encoder.0.weight'" in said
        assert "its 'ema' is finite: --weights w.pt:ema" in refused({"model": broken, "ema": AVERAGE})
        assert is_of(select({"model": broken, "ema": AVERAGE}, "ema"), AVERAGE)
        assert "its 'model' is finite: --weights w.pt:model" in refused({"model": PLAIN, "ema": broken}, "ema")

    def test_a_mask_of_infinities_is_the_models_own(self) -> None:
        mask = torch.zeros(2, 2).masked_fill(torch.eye(2).bool(), -torch.inf)
        own = {"mask": mask, "weight": torch.zeros(2)}
        given = {"mask": mask.clone(), "weight": torch.ones(2)}
        assert is_of(select_weights(WeightsFile(Path("w.pt"), given), own), given)


class TestFiles:
    def test_safetensors_are_read(self, tmp_path: Path) -> None:
        save_file(under("net.", PLAIN), tmp_path / "w.safetensors")
        assert is_of(select(read_file(tmp_path / "w.safetensors").content), PLAIN)
        save_file(PLAIN, tmp_path / "model.bin", metadata={"format": "pt", "author": "somebody"})
        assert is_of(select(read_file(tmp_path / "model.bin").content), PLAIN)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_torch_files_are_read(self, tmp_path: Path, legacy: bool) -> None:
        torch.save({"model": PLAIN}, tmp_path / "w.th", _use_new_zipfile_serialization=not legacy)
        assert is_of(select(read_file(tmp_path / "w.th").content), PLAIN)

    def test_settings_of_other_classes_beside_the_weights_do_not_hinder_and_do_not_run(self, tmp_path: Path) -> None:
        settings = {"args": Namespace(lr=1), "path": Path("x"), "made": Settings({"a": 1})}
        settings |= {
            "numbers": np.ones(3),
            "counts": defaultdict(list, a=[1]),
            "last": deque([1]),
            "f": partial(print, 1),
            "precision": Precision.HALF,
        }
        torch.save({"state_dict": under("net.", PLAIN), "hyper_parameters": settings}, tmp_path / "l.ckpt")
        Settings.made = 0
        assert is_of(select(read_file(tmp_path / "l.ckpt").content), PLAIN)
        assert Settings.made == 0

    def test_a_whole_model_is_named(self, tmp_path: Path) -> None:
        torch.save(Small(), tmp_path / "model.pt")
        with pytest.raises(
            CheckpointError, match=r"holds a pickled .*\.Small, not a state_dict.*model\.state_dict\(\)"
        ):
            read_file(tmp_path / "model.pt")

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"", "an empty file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a git LFS pointer.*git lfs pull"),
            (b"<!DOCTYPE html><html><body>Sign in</body></html>", r"a web page \(HTML\)"),
            (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
            (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
            (bytes(257) + b"ustar" + bytes(400), "a tar archive"),
            (bytes(3000), "nothing but zeros"),
            (b"lr = 0.1\n", "cut off, or of neither torch.save nor safetensors"),
        ],
    )
    def test_something_else_is_named(self, tmp_path: Path, content: bytes, kind: str) -> None:
        for name in ("w.pt", "w.safetensors"):
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=kind):
            read_file(tmp_path / "w.pt")
        with pytest.raises(
            CheckpointError, match=kind if "neither" not in kind else "cut off, or no file of safetensors"
        ):
            read_file(tmp_path / "w.safetensors")

    def test_archives_are_named_with_what_they_hold(self, tmp_path: Path) -> None:
        torch.save(PLAIN, tmp_path / "w.pt")
        with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
            archive.write(tmp_path / "w.pt", "results/w.pt")
        np.savez(tmp_path / "arrays.npz", a=np.ones(2))
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
        for name, said in (
            ("w.zip", r"a zip archive \(it holds 'results/w\.pt'\); unpack it"),
            ("arrays.npz", r"an \.npz archive of arrays"),
            ("script.pt", "a TorchScript archive"),
        ):
            with pytest.raises(CheckpointError, match=said):
                read_file(tmp_path / name)

    @pytest.mark.parametrize("keep", [0.2, 0.7, 0.99])
    def test_a_file_that_was_cut_off(self, tmp_path: Path, keep: float) -> None:
        torch.save(PLAIN, tmp_path / "w.pt")
        save_file(PLAIN, tmp_path / "w.safetensors")
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
            with pytest.raises(CheckpointError, match="cut off"):
                read_file(file)

    def test_a_pickle_that_would_run_code_does_not(self, tmp_path: Path) -> None:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil(str(tmp_path / "ran"))))
        torch.save({"model": PLAIN, "x": Evil(str(tmp_path / "ran"))}, tmp_path / "zip.pt")
        with pytest.raises(CheckpointError, match="code in a file is not run"):
            read_file(tmp_path / "w.pt")
        assert is_of(select(read_file(tmp_path / "zip.pt").content), PLAIN)
        assert not (tmp_path / "ran").exists()

    def test_a_folder_is_not_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is a folder, not a file of weights"):
            read_file(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"name a file in it: .*model\.safetensors"):
            read_file(tmp_path)
        (tmp_path / "checkpoints" / "step-00000007").mkdir(parents=True)
        with pytest.raises(CheckpointError, match=r"name one of them: .*step-00000007"):
            read_file(tmp_path)

    def test_a_choice_is_split_off_unless_the_file_is_called_so(self, tmp_path: Path) -> None:
        file = tmp_path / "w.pt"
        file.touch()
        assert split_choice(file) == (file, None)
        assert split_choice(Path(f"{file}:state_dict.ema")) == (file, "state_dict.ema")
        (tmp_path / "w.pt:a").touch()
        assert split_choice(Path(f"{file}:a")) == (Path(f"{file}:a"), None)
        assert split_choice(tmp_path / "none.pt:ema") == (tmp_path / "none.pt:ema", None)


class TestVariants:
    def read(self, path: Path, variant: str, allow: bool = False) -> WeightsFile:
        config: Any = SimpleNamespace(weights=path, allow_other_variant=allow, host="vdvae")
        return read_weights(config, variant)

    def test_of_a_state_dict_that_has_the_note_of_its_patch(self, tmp_path: Path) -> None:
        model = nn.Linear(2, 4)
        head = Head("", "posterior", 2, 4)
        vdvae_patch.patch(model, "upbounded", heads=[head])
        torch.save({"model": model.state_dict()}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match=r"was saved under variant upbounded.*, not vanilla"):
            self.read(tmp_path / "w.pt", "vanilla")
        made = self.read(tmp_path / "w.pt", "vanilla", allow=True).variant()
        assert made is not None
        assert load_weights(nn.Linear(2, 4), self.read(tmp_path / "w.pt", made), tmp_path / "w.pt")
        vdvae_patch.save(model, tmp_path / "saved")
        with pytest.raises(CheckpointError, match=r"was saved under variant upbounded.*, not vanilla"):
            self.read(tmp_path / "saved" / "model.safetensors", "vanilla")
        document = json.loads((tmp_path / "saved" / "patch.json").read_text())
        assert document["patches"][0]["variant"] == made
        self.read(tmp_path / "saved" / "model.safetensors", made)
        for name, said in (("model.safetensors", "its SHA-256 is another"), ("patch.json", "its checksum does not")):
            file = tmp_path / "saved" / name
            whole = bytearray(file.read_bytes())
            place = len(whole) - 2 if name == "model.safetensors" else whole.index(b'"variant": "upbounded') + 13
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(CheckpointError, match=said):
                self.read(tmp_path / "saved" / "model.safetensors", made)
            file.write_bytes(whole)


class Settings(dict[str, int]):
    """A class of somebody's own, which is to be left alone."""

    made = 0

    def __new__(cls, *args: object) -> Settings:
        cls.made += 1
        return super().__new__(cls)


class Precision(Enum):
    """As settings have them."""

    HALF = 16


class Evil:
    """Calls `open(path, "w")` when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class TestSeveralFiles:
    def laid(self, folder: Path, suffix: str = "safetensors") -> Path:
        """Weights in two files, with the index that frameworks lay beside them."""
        names, where = sorted(PLAIN), {}
        for number, part in enumerate((names[:4], names[4:]), 1):
            file = folder / f"model-{number:05}-of-00002.{suffix}"
            save = save_file if suffix == "safetensors" else torch.save
            save({name: PLAIN[name] for name in part}, file)
            where |= dict.fromkeys(part, file.name)
        index = folder / f"model.{suffix}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
        return index

    @pytest.mark.parametrize("suffix", ["safetensors", "bin"])
    def test_are_read_as_one_by_their_folder_or_their_index(self, tmp_path: Path, suffix: str) -> None:
        index = self.laid(tmp_path, suffix)
        for named in (tmp_path, index):
            assert is_of(select_weights(read_file(named), BUILT), PLAIN)

    def test_beside_one_file_of_the_same_weights_are_chosen_by_name_alone(self, tmp_path: Path) -> None:
        index = self.laid(tmp_path)
        whole = tmp_path / "model.safetensors"
        save_file({name: value + 1 for name, value in PLAIN.items()}, whole)
        with pytest.raises(CheckpointError, match=f"name the one that is meant: {whole} or {index}"):
            read_file(tmp_path)
        assert is_of(select_weights(read_file(index), BUILT), PLAIN)
        assert not is_of(select_weights(read_file(whole), BUILT), PLAIN)

    def test_another_file_of_them_is_another_print(self, tmp_path: Path) -> None:
        index = self.laid(tmp_path)
        before = weights_print(tmp_path)
        assert weights_print(index) == before
        file = tmp_path / "model-00002-of-00002.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        assert weights_print(tmp_path) != before

    def test_one_that_is_not_there_or_lacks_a_tensor_is_named(self, tmp_path: Path) -> None:
        self.laid(tmp_path)
        file = tmp_path / "model-00002-of-00002.safetensors"
        save_file({"decoder.bias": PLAIN["decoder.bias"]}, file)
        with pytest.raises(
            CheckpointError, match=r"lacks \d of the \d tensors that model.safetensors.index.json names"
        ):
            read_file(tmp_path)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"names 2 files, of which 1 are not there, such as 'model-00002"):
            read_file(tmp_path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('{"weight_map": {"w": "../w.safetensors"}}', "does not lie beside it"),
            ('{"weight_map": {}}', "names 0 files"),
            ('{"weight_map": {"w": 3}}', "weight_map"),
            ("[", "no JSON"),
        ],
    )
    def test_an_index_that_is_none_is_refused(self, tmp_path: Path, content: str, said: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=said):
            read_file(tmp_path)


def test_a_flipped_bit_of_a_file_is_no_other_weight(tmp_path: Path) -> None:
    """The file has a checksum of each member, at which torch does not look."""
    file = tmp_path / "w.pt"
    torch.save(PLAIN, file)
    data = file.read_bytes()
    moments = random.Random(0)
    said: list[str] = []
    for _ in range(80):
        harmed = bytearray(data)
        harmed[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        file.write_bytes(harmed)
        try:
            found = read_file(file).content
        except CheckpointError as error:
            said.append(str(error))
        else:  # what fills the space between the members
            assert found.keys() == PLAIN.keys()
            assert all(torch.equal(found[name], value) for name, value in PLAIN.items())
    assert len(said) > 40
    assert all(str(file) in text for text in said)


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(PLAIN, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    found = read_file(tmp_path / "w.pt").content
    assert all(torch.equal(found[name], value) for name, value in PLAIN.items())
