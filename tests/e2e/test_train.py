"""`vdvae-patch train` as a user runs it, on a model small enough for a test."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from vdvae_patch.patches.vdvae import HOST

import vdvae_patch
from vdvae_patch.cli import main
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.data.batches import batch_indices
from vdvae_patch.skips import records
from vdvae_patch.train import checkpoint
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.setup import prepare

# A model of some thousand weights: a step takes a few milliseconds.
TINY = [
    "--preset=demo", "--data=builtin(train=24,valid=8,test=8)", "--width=8", "--zdim=4", "--num-mixtures=2",
    "--enc-blocks=32x1,32d8,4x1,4d4,1x1", "--dec-blocks=1x1,4m1,32m4", "--batch-size=4", "--warmup-iters=5",
]  # fmt: skip

Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `train` to a folder of its own; the exit status must be the one given."""

    def call(name: str, *flags: str, status: int = 0) -> Path:
        folder = tmp_path / name
        with pytest.raises(SystemExit) as stop:
            main(["train", *TINY, "--out", str(folder), *flags])
        assert stop.value.code == status
        return folder

    return call


def metrics(folder: Path) -> list[dict[str, Any]]:
    return list(records.read(folder / "metrics.jsonl"))


def summary(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return loaded


class TestARun:
    def test_leaves_the_files_that_the_design_names(self, run: Run) -> None:
        folder = run("a", "--steps=6", "--variant=explin/constant")
        assert {p.name for p in folder.iterdir()} >= {
            "config.toml", "metrics.jsonl", "skips.jsonl", "checkpoints", "samples", "summary.json",
        }  # fmt: skip
        rows = metrics(folder)
        assert [r["step"] for r in rows] == list(range(6))
        named = {"epoch", "elbo", "distortion", "rate", "grad_norm", "lr", "skipped", "cause", "step_time"}
        assert named <= set(rows[0])
        assert all(r["elbo"] == pytest.approx(r["distortion"] + r["rate"], rel=1e-5) for r in rows)
        assert [r["lr"] for r in rows] == pytest.approx([2e-4 * min(1, s / 5) for s in range(6)])

    def test_sums_up_in_both_units_with_its_origin(self, run: Run) -> None:
        result = summary(run("a", "--steps=3", "--variant=upbounded"))
        assert {
            "variant", "seed", "steps", "high_gradient_count", "nan_count", "test_nelbo_nats_per_dim",
            "test_nelbo_bits_per_dim", "images_per_second", "peak_memory_bytes",
        } <= set(result)  # fmt: skip
        bits = result["test_nelbo_nats_per_dim"] / np.log(2)
        assert result["test_nelbo_bits_per_dim"] == pytest.approx(bits)
        assert result["test"]["images"] == 8
        assert {"command", "commit", "machine", "host", "data"} <= set(result["run"])

    def test_can_be_run_again_from_its_config(self, run: Run) -> None:
        folder = run("a", "--steps=2", "--lr=0.001", "--variant=vanilla/constant")
        table = tomllib.loads((folder / "config.toml").read_text())
        assert table["optimization"]["lr"] == 0.001
        assert table["variant"] == "vanilla/constant"
        assert table["architecture"]["dec_blocks"] == "1x1,4m1,32m4"

    @pytest.mark.medium
    def test_lowers_the_nelbo_and_the_grid_has_its_rows(self, run: Run) -> None:
        folder = run("a", "--steps=150", "--lr=2e-3", "--variant=explin/constant")
        rows = metrics(folder)
        assert rows[-1]["elbo"] < 0.9 * rows[0]["elbo"]
        grid = iio.imread(folder / "samples" / "final.png")
        assert grid.shape == (32 * (1 + 5 + 4), 32 * 8, 3)
        config = parse_train([*TINY, "--steps=150", "--seed=0"])
        work = prepare(config, torch.device("cpu"))
        originals = np.array(work.data.train[np.arange(8)])
        assert np.array_equal(grid[:32], np.concatenate(list(originals), axis=1))

    @pytest.mark.medium
    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_in_half_precision_stays_near_float32(self, run: Run, precision: str) -> None:
        exact = metrics(run("fp32", "--steps=5", "--variant=upbounded"))
        half = metrics(run(precision, "--steps=5", "--variant=upbounded", f"--precision={precision}"))
        assert not any(r["skipped"] for r in half)
        for a, b in zip(exact, half, strict=True):
            assert b["elbo"] == pytest.approx(a["elbo"], rel=0.03)


class TestTheStep:
    def test_is_the_one_of_the_published_code(self, run: Run) -> None:
        """The same six steps written out plainly: clip at the norm, AdamW, skip at the threshold, EMA."""
        flags = ["--steps=6", "--lr=0.01", "--skip-threshold=3", "--grad-clip=2", "--ema-rate=0.9"]
        folder = run("a", *flags)
        config = parse_train([*TINY, *flags])
        work = prepare(config, torch.device("cpu"))
        optimizer = torch.optim.AdamW(work.model.parameters(), betas=(0.9, 0.9), weight_decay=0.01, fused=False)
        average = {k: v.clone() for k, v in work.model.state_dict().items()}
        for step, row in enumerate(metrics(folder)):
            pixels = torch.from_numpy(np.array(work.data.train[batch_indices(24, 4, step, 0)]))
            seed_noise("train", 0, step=step)
            losses = HOST.losses(work.model, *work.data.normalization.apply(pixels))
            optimizer.zero_grad()
            losses.elbo.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(work.model.parameters(), 2.0)
            assert row["elbo"] == pytest.approx(losses.elbo.item(), rel=1e-4)
            assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
            assert row["skipped"] == (norm.item() >= 3)
            if norm < 3:
                optimizer.param_groups[0]["lr"] = 0.01 * min(1, step / 5)
                optimizer.step()
                for key, value in work.model.state_dict().items():
                    average[key].mul_(0.9).add_(value, alpha=0.1)
        _, state = checkpoint.load(folder / "checkpoints" / "step-00000006")
        for key, value in work.model.state_dict().items():
            torch.testing.assert_close(state["model"][key], value, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(state["ema"][key], average[key], rtol=1e-3, atol=1e-5)

    def test_a_skipped_update_leaves_weights_average_and_moments_bit_for_bit(self, run: Run) -> None:
        folder = run("a", "--steps=4", "--skip-threshold=1e-9", "--checkpoint-every=2")
        assert [r["cause"] for r in metrics(folder)] == ["high_gradient"] * 4
        assert summary(folder)["high_gradient_count"] == 4
        work = prepare(parse_train([*TINY, "--steps=4"]), torch.device("cpu"))
        _, state = checkpoint.load(folder / "checkpoints" / "step-00000004")
        for key, value in work.model.state_dict().items():
            assert torch.equal(state["model"][key], value)
            assert torch.equal(state["ema"][key], value)
        for moments in state["optimizer"]["state"].values():
            assert moments["step"] == 0
            assert not moments["exp_avg"].any()

    def test_a_skip_is_recorded_with_its_heads_and_images(self, run: Run) -> None:
        folder = run("a", "--steps=2", "--skip-threshold=1e-9", "--variant=upbounded")
        first = next(iter(records.read(folder / "skips.jsonl")))
        assert first["cause"] == "high_gradient"
        assert first["indices"] == batch_indices(24, 4, 0, 0).tolist()
        assert [h["role"] for h in first["heads"]] == ["posterior", "prior"] * 3
        for head in first["heads"]:
            assert head["log_sigma_min"] <= head["log_sigma_max"] <= 0  # upbounded by 1
            assert head["kl"] >= 0
        total = sum(h["kl"] for h in first["heads"] if h["role"] == "posterior")
        assert total / (32 * 32 * 3) == pytest.approx(first["rate"], rel=1e-4, abs=1e-7)

    @pytest.mark.parametrize("threshold", ["400", "-1"])
    def test_a_nan_is_skipped_whatever_the_threshold_and_the_run_says_why(
        self, run: Run, threshold: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        losses = type(HOST).losses
        monkeypatch.setattr(
            type(HOST),
            "losses",
            lambda self, *args: (lambda out: out._replace(elbo=out.elbo * torch.nan, rate=out.rate * torch.nan))(
                losses(self, *args)
            ),
        )
        folder = run("a", "--steps=9", f"--skip-threshold={threshold}", "--max-consecutive-skips=3", status=2)
        assert [r["cause"] for r in metrics(folder)] == ["nan_rate"] * 3
        error = capsys.readouterr().err
        assert "3 updates in a row were skipped" in error
        assert "Start again in another --out with --variant explin/constant, or a lower --lr" in error


class TestVariants:
    def test_share_initial_weights_and_batches_and_differ_by_the_patch_alone(self, run: Run) -> None:
        works = [prepare(parse_train([*TINY, f"--variant={v}", "--seed=3"]), torch.device("cpu"))
                 for v in ("vanilla", "explin/constant")]  # fmt: skip
        vanilla, patched = works
        for key, value in vanilla.model.state_dict().items():
            assert torch.equal(patched.model.state_dict()[key], value)
        assert vanilla.data.provenance == patched.data.provenance
        assert vdvae_patch.is_patched(patched.model)
        assert vdvae_patch.is_patched(patched.ema)
        vdvae_patch.unpatch(patched.model)
        pixels = torch.from_numpy(np.array(vanilla.data.train[np.arange(4)]))
        outputs = []
        for work in works:
            seed_noise("train", 3, step=0)
            outputs.append(HOST.losses(work.model, *work.data.normalization.apply(pixels)).elbo)
        assert torch.equal(*outputs)

    @pytest.mark.medium
    def test_a_checkpoint_of_another_variant_is_refused_unless_asked_for(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=1", "--variant=explin")
        saved = folder / "checkpoints" / "step-00000001"
        run("b", "--steps=1", "--variant=upbounded", f"--weights={saved}", status=2)
        assert "saved under variant explin, not upbounded" in capsys.readouterr().err
        run("c", "--steps=1", "--variant=upbounded", f"--weights={saved}", "--allow-other-variant")
        run("d", "--steps=1", "--variant=explin", f"--weights={saved}", "--width=12", status=2)
        error = capsys.readouterr().err
        assert re.search(r"does not fit the model: 0 tensors missing, 0 unknown, \d+ of another shape", error)

    def test_weights_of_a_plain_state_dict_are_taken_as_vanilla(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        work = prepare(parse_train([*TINY, "--seed=9"]), torch.device("cpu"))
        file = tmp_path / "latest-model.th"
        torch.save({f"module.{k}": v for k, v in work.model.state_dict().items()}, file)
        run("b", "--steps=1", "--variant=explin", f"--weights={file}", status=2)
        assert "train it as explin with --allow-other-variant" in capsys.readouterr().err
        folder = run("a", "--steps=1", "--skip-threshold=1e-9", f"--weights={file}")
        _, state = checkpoint.load(folder / "checkpoints" / "step-00000001")
        assert all(torch.equal(state["model"][k], v) for k, v in work.model.state_dict().items())


class TestBadInput:
    """One clear line, a non-zero exit, and nothing lost."""

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--variant=upbouned"], "unknown scale 'upbouned'; did you mean 'upbounded'"),
            (["--variant=upbounded(omega=-1)"], "omega must be a positive number, not -1"),
            (["--variant=bounded(2,1)"], "alpha must be below omega"),
            (["--preset=cifar1"], "unknown preset 'cifar1'; did you mean 'cifar10'"),
            (["--host=vdvea"], "unknown host 'vdvea'; did you mean 'vdvae'"),
            (["--data=cifar"], "unknown data set 'cifar'; did you mean"),
            (["--stps=3"], "unknown flag '--stps'; did you mean '--steps'"),
            (["--lr=fast"], "--lr"),
            (["--lr=-1"], "--lr must be a positive number, from 1e-30 to 1e30, not -1"),
            (["--steps=3", "--epochs=1"], "choose one"),
            (["--steps=0"], "--steps must be at least 1, not 0"),
            (["--limit-images=25"], "limit_images 25 is not between 1 and the 24 training images"),
            (["--data=cifar10", "--data-root=/nonexistent"], "/nonexistent"),
            (["--upstream=/nonexistent"], "does not exist"),
            (["--weights=/nonexistent"], "weights file /nonexistent does not exist"),
            (["--device=tpu"], "--device 'tpu'"),
            (["--resume"], "there is no run in that folder"),
            (["--enc-blocks=foo"], "enc_blocks has the layer 'foo'"),
            (["--width=0"], "--width must be at least 1, not 0"),
            (["--variant=vanila"], "did you mean 'vanilla'"),
        ],
    )
    def test_is_named_with_its_value_and_what_to_do(
        self, run: Run, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
    ) -> None:
        run("a", *flags, status=2)
        error = capsys.readouterr().err.strip()
        assert error.startswith("vdvae-patch: error: ")
        assert len(error.splitlines()) == 1
        assert message in error
        assert "Traceback" not in error

    def test_grey_images_for_a_host_of_colours(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        grey = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1)).astype(np.uint8)
        for flag, array in (("grey", grey), ("colour", np.repeat(grey, 3, axis=-1))):
            (tmp_path / flag).mkdir()
            for name in ("train", "valid", "test"):
                np.save(tmp_path / flag / f"{name}.npy", array)
        run("a", "--data=arrays", f"--data-root={tmp_path / 'grey'}", status=2)
        error = capsys.readouterr().err
        assert "arrays is grey: take --host mlp_vae" in error
        assert "np.repeat(x, 3, axis=-1)" in error
        run("a", "--data=arrays", f"--data-root={tmp_path / 'colour'}", "--steps=1")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
    def test_cuda_without_a_device(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run("a", "--device=cuda", status=2)
        assert "has no CUDA device; use --device cpu" in capsys.readouterr().err

    def test_a_folder_with_another_run_is_left_alone(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        before = metrics(run("a", "--steps=1"))
        folder = run("a", "--steps=2", status=2)
        assert "holds a run already (finished)" in capsys.readouterr().err
        assert metrics(folder) == before

    def test_a_folder_with_other_files_is_left_alone(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "thesis.tex").write_text("years of work")
        run("a", "--steps=1", status=2)
        assert "not empty (it holds 'thesis.tex')" in capsys.readouterr().err

    def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=4", "--checkpoint-every=2")
        file = folder / "checkpoints" / "step-00000004" / "state.pt"
        file.write_bytes(file.read_bytes()[:-100])
        run("a", "--steps=6", "--checkpoint-every=2", "--resume")
        said = capsys.readouterr()
        assert str(file) in said.out + said.err
        assert "step-00000002" in said.out + said.err
        assert [r["step"] for r in metrics(folder)] == list(range(6))

    def test_resuming_with_fewer_steps_than_were_done_is_refused(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=4")
        before = summary(folder)
        run("a", "--steps=3", "--resume", status=2)
        assert "has done 4 steps, more than the 3 asked for" in capsys.readouterr().err
        assert summary(folder) == before

    def test_a_training_that_cannot_be_evaluated_is_not_lost(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(path: Path, image: Any) -> None:
            raise OSError(28, "No space left on device", str(path))

        with monkeypatch.context() as patched:
            patched.setattr("vdvae_patch.train.loop.write_png", full)
            folder = run("a", "--steps=3", status=2)
        assert "No space left on device" in capsys.readouterr().err
        run("a", "--steps=3", "--resume")
        assert summary(folder)["steps"] == 3

    def test_resuming_under_other_settings_is_refused(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run("a", "--steps=1")
        run("a", "--steps=2", "--seed=5", "--width=12", "--resume", status=2)
        error = capsys.readouterr().err
        assert "other settings (seed: 0, now 5; width: 8, now 12)" in error
        assert "these make another model or other batches" in error


class TestGoingOn:
    """`train --resume --out FOLDER`, and what may be told anew."""

    def resume(self, folder: Path, *flags: str, status: int = 0) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["train", "--resume", "--out", str(folder), *flags])
        assert stop.value.code == status

    @pytest.mark.medium
    def test_needs_the_folder_alone(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        undisturbed = run("a", "--steps=6", "--variant=explin", "--seed=3")
        folder = run("b", "--steps=4", "--variant=explin", "--seed=3")
        self.resume(folder, "--steps=6")
        assert "step 4: resumed with steps 6 (was 4)" in capsys.readouterr().err
        drop = ("step_time",)
        rows = [[{k: v for k, v in row.items() if k not in drop} for row in metrics(f)] for f in (undisturbed, folder)]
        assert rows[0] == rows[1]
        self.resume(folder)  # it is finished: the same summary again
        assert "resumed with" not in capsys.readouterr().err

    def test_one_length_takes_the_place_of_the_other(self, run: Run) -> None:
        folder = run("a", "--epochs=1")
        self.resume(folder, "--steps=8")
        assert [row["step"] for row in metrics(folder)] == list(range(8))

    @pytest.mark.medium
    def test_what_changes_how_it_is_trained_is_accepted_said_and_kept(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=2")
        flags = ["--lr=0.001", "--wd=0.5", "--adam-beta1=0.5", "--grad-clip=5", "--precision=bf16", "--ema-rate=0.5"]
        self.resume(folder, "--steps=4", *flags)
        said = "step 2: resumed with adam_beta1 0.5 (was 0.9), ema_rate 0.5 (was 0.99), grad_clip 5 (was 200), "
        said += "lr 0.001 (was 0.0002), precision bf16 (was fp32), steps 4 (was 2), wd 0.5 (was 0.01)"
        assert said in capsys.readouterr().err
        table = tomllib.loads((folder / "config.toml").read_text())
        assert table["optimization"]["wd"] == 0.5
        assert table["run"]["resumed"] == [said]
        _, state = checkpoint.load(folder / "checkpoints" / "step-00000004")
        (group,) = state["optimizer"]["param_groups"]
        assert (group["weight_decay"], group["betas"]) == (0.5, (0.5, 0.9))
        self.resume(folder, "--steps=5")
        assert len(tomllib.loads((folder / "config.toml").read_text())["run"]["resumed"]) == 2

    @pytest.mark.medium
    @pytest.mark.parametrize(
        "flag", ["--seed=4", "--variant=explin", "--batch-size=2", "--limit-images=20", "--width=12", "--zdim=2"]
    )
    def test_what_changes_the_model_or_its_batches_is_refused(
        self, run: Run, capsys: pytest.CaptureFixture[str], flag: str
    ) -> None:
        folder = run("a", "--steps=2")
        self.resume(folder, "--steps=4", flag, status=2)
        assert flag[2:].partition("=")[0].replace("-", "_") in capsys.readouterr().err
        assert len(metrics(folder)) == 2

    def test_another_host_is_refused(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        self.resume(run("a", "--steps=1"), "--host=mlp_vae", status=2)
        assert "holds a run of --host vdvae, not mlp_vae" in capsys.readouterr().err

    def test_weights_that_it_began_with_are_not_needed_again(self, run: Run, tmp_path: Path) -> None:
        work = prepare(parse_train([*TINY, "--seed=9"]), torch.device("cpu"))
        file = tmp_path / "w.pt"
        torch.save({"model": work.model.state_dict(), "ema": work.model.state_dict()}, file)
        folder = run("a", "--steps=1", f"--weights={file}")
        file.unlink()
        self.resume(folder, "--steps=2")
        assert tomllib.loads((folder / "config.toml").read_text())["run"]["weights"] == [
            f"weights of {file}, its 'model'"
        ]


class TestARunThatSkipsForEver:
    @pytest.mark.medium
    def test_on_a_finite_norm_is_told_to_clip_and_goes_on_where_it_was(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run(
            "a", "--steps=9", "--skip-threshold=1e-9", "--grad-clip=0.4", "--max-consecutive-skips=3", status=2
        )
        error = capsys.readouterr().err.splitlines()[-1]
        command = f"vdvae-patch train --resume --out {folder} --grad-clip 5 --skip-threshold -1"
        assert error.endswith(command)
        assert "not below --skip-threshold 1e-09" in error
        assert "Try" not in error
        with pytest.raises(SystemExit) as stop:
            main(command.split()[1:])
        assert stop.value.code == 0
        assert [row["skipped"] for row in metrics(folder)] == [True] * 3 + [False] * 6
        assert "resumed with grad_clip 5 (was 0.4), skip_threshold -1 (was 1e-09)" in capsys.readouterr().err
        with pytest.raises(SystemExit) as stop:
            main(["replay", str(folder), "--skip", "1"])
        assert stop.value.code == 0
        replayed = capsys.readouterr().out
        assert "(threshold 1e-09): update skipped (high_gradient)" in replayed
        assert "the same, bit for bit" in replayed

    def test_the_clip_is_near_the_norm_of_the_updates_that_were_applied(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=5")
        norms = sorted(row["grad_norm"] for row in metrics(folder))
        with pytest.raises(SystemExit):
            main(
                ["train", "--resume", "--out", str(folder), "--steps=20", "--skip-threshold=1e-9",
                 "--max-consecutive-skips=3"]
            )  # fmt: skip
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"the usual norm ({norms[2]:.3g}, the median of 5 updates that were applied)" in error
        found = re.search(r"--grad-clip (\S+) --skip-threshold -1", error)
        assert found is not None
        assert norms[2] <= float(found[1]) <= 2.5 * norms[2]

    @pytest.mark.medium
    def test_which_clips_at_the_usual_norm_is_told_to_skip_only_nan(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("a", "--steps=22", "--grad-clip=auto")
        with pytest.raises(SystemExit):
            main(
                ["train", "--resume", "--out", str(folder), "--steps=30", "--skip-threshold=1e-9",
                 "--max-consecutive-skips=3"]
            )  # fmt: skip
        error = capsys.readouterr().err.splitlines()[-1]
        clip = metrics(folder)[-1]["clip"]
        assert f"be clipped to {clip:.3g}: " in error
        assert error.endswith(f"vdvae-patch train --resume --out {folder} --skip-threshold -1")
        with pytest.raises(SystemExit) as stop:
            main([*error.split("vdvae-patch ")[-1].split()])
        assert stop.value.code == 0
        assert [row["skipped"] for row in metrics(folder)[22:]] == [True] * 3 + [False] * 5
        assert {row["clip"] for row in metrics(folder)[22:26]} == {clip}

    def test_no_step_is_done_again(self, run: Run) -> None:
        """It is saved where it ended, although no checkpoint was due."""
        folder = run("a", "--steps=9", "--skip-threshold=1e-9", "--max-consecutive-skips=3", status=2)
        assert [path.name for path in checkpoint.checkpoints(folder / "checkpoints")] == ["step-00000003"]
