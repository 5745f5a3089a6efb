"""Frameworks, with their real packages: the patch is there at the right moment, and comes back with a checkpoint."""

from __future__ import annotations

import importlib
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_models import ALL, AtOutput, batch, build, outputs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import vdvae_patch
from vdvae_patch.errors import CheckpointError, PatchError

lightning = pytest.importorskip("lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

from vdvae_patch.integrations.lightning import Patch, apply_checkpoint  # noqa: E402  it needs lightning


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


pytestmark = pytest.mark.usefixtures("environment_kept")


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A model whose step logs, as most do."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = build("AtOutput")
        self.was_patched: list[bool] = []

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        loss: Tensor = self.vae(rows)
        self.log("loss", loss)
        self.was_patched.append(vdvae_patch.is_patched(self))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class OwnStep(Module):
    """The head stands in training_step itself."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = nn.Linear(8, 8)
        self.decoder = nn.Linear(4, 8)

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        mean, raw = self.vae(rows).chunk(2, dim=1)
        sigma = torch.exp(0.5 * raw) + 1e-3
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)
        loss: Tensor = ((self.decoder(z) - rows) ** 2).mean() + kl.mean()
        self.log_dict({"loss": loss})
        self.was_patched.append(vdvae_patch.is_patched(self))
        return loss


class Late(Module):
    """Its layers are made in configure_model."""

    def __init__(self) -> None:
        lightning.LightningModule.__init__(self)
        self.vae: Any = None
        self.was_patched = []

    def configure_model(self) -> None:
        if self.vae is None:
            self.vae = build("AtOutput")


def trainer(folder: Path, *callbacks: Any, steps: int = 2, **options: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu", max_steps=steps, enable_progress_bar=False, enable_model_summary=False, logger=False,
        default_root_dir=folder, enable_checkpointing=False, callbacks=list(callbacks), **options,
    )  # fmt: skip


def loader() -> Any:
    return DataLoader([batch()] * 4, batch_size=None)  # type: ignore[arg-type]


def scales_of(model: nn.Module) -> list[str]:
    return [row[-1] for row in (h.row() for h in vdvae_patch.patched_heads(model))]


@pytest.mark.parametrize("kind", [Module, OwnStep, Late])
def test_the_callback_patches_before_the_first_step(kind: type[Module], tmp_path: Path) -> None:
    module = kind()
    trainer(tmp_path, Patch("explin")).fit(module, loader())
    assert module.was_patched[-2:] == [True, True]
    vdvae_patch.check_intact(module)
    assert "log" not in vars(module)


class Rectified(Module):
    """Its σ is no exponential: without `paper=False` explin makes another one of it."""

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        mean, raw = self.vae.encoder(rows).chunk(2, dim=1)
        sigma = nn.functional.softplus(raw) + 1e-4
        kl = 0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)
        return nn.functional.mse_loss(self.vae.decoder(mean + sigma * torch.randn_like(mean)), rows) + kl.mean()


@pytest.mark.parametrize(("paper", "moves"), [(None, True), (False, False)])
def test_the_callback_logs_the_table_and_says_when_sigma_moves(
    paper: bool | None, moves: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer(tmp_path, Patch("explin", paper=paper)).fit(Rectified(), loader())
    (text,) = (r.getMessage() for r in caplog.records if r.getMessage().startswith("vdvae_patch"))
    assert "σ before" in text
    assert (
        "σ is another one now: vae.encoder.2[4:8] (posterior, softplus(floor=0.0001)) by explin. To" in text
    ) == moves
    assert ("Patch(..., paper=False) keeps σ" in text) == moves


class Around(nn.Module):
    """A LightningModule as a part of another model."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Tensor:
        return self.module.training_step(rows, 0)


def _first_step(module: Any, rows: Tensor) -> Tensor:
    loss: Tensor = module.training_step(rows, 0)
    return loss


@pytest.mark.medium
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [Module, OwnStep])
def test_a_module_that_was_fitted_is_stabilized_by_its_step(kind: type[Module], inside: bool, tmp_path: Path) -> None:
    module = kind()
    trainer(tmp_path).fit(module, loader())
    with pytest.raises(Exception, match=r"not managed by the `Trainer` control flow|result collection"):
        module.training_step(batch(), 0)
    model = Around(module) if inside else module
    handle = vdvae_patch.stabilize(model, batch(), call=None if inside else _first_step, file=io.StringIO())
    assert handle.after is not None
    assert handle.after.finite
    assert not {"log", "log_dict"} & vars(module).keys()
    module.log = own = lambda *args, **kwargs: None
    vdvae_patch.scan(model, batch(), call=None if inside else _first_step)
    assert vars(module)["log"] is own


class ByHand(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, rows: Tensor, index: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        loss = super().training_step(rows, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def test_a_module_that_optimizes_by_hand_is_patched_by_a_call_that_gives_its_loss(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match=r"ByHand optimizes by hand .* give Patch\(\.\.\., call=.* or heads="):
        trainer(tmp_path, Patch("explin")).fit(ByHand(), loader())
    for given in (
        {"call": lambda module, rows: module.vae(rows)},
        {"heads": lambda m: vdvae_patch.scan(m, batch(), call=lambda m, b: m.vae(b))},
    ):
        module = ByHand()
        trainer(tmp_path, Patch("explin", **given)).fit(module, loader())  # type: ignore[arg-type]
        assert module.was_patched[-2:] == [True, True]


def test_the_callback_changes_no_batch_and_no_noise(tmp_path: Path) -> None:
    def losses(*callbacks: Any, patched: bool) -> list[Tensor]:
        module = Module()
        if patched:
            heads = vdvae_patch.scan(module, batch(), call=lambda m, rows: m.vae(rows))
            vdvae_patch.patch(module, "explin", heads=heads)
        torch.manual_seed(3)
        trainer(tmp_path, *callbacks).fit(module, DataLoader(list(batch()), batch_size=4, shuffle=True))  # type: ignore[arg-type]
        return [p.detach() for p in module.parameters()]

    by_callback, by_hand = losses(Patch("explin", batch=batch()), patched=False), losses(patched=True)
    assert all(map(torch.equal, by_callback, by_hand))


def test_heads_and_call_are_what_the_user_says(tmp_path: Path) -> None:
    heads = [vdvae_patch.Head("vae.encoder.2", "posterior", 4, 8, convention="log_variance")]  # type: ignore[arg-type]
    module = Module()
    trainer(tmp_path, Patch("upbounded", heads=lambda m: heads)).fit(module, loader())
    assert scales_of(module) == ["upbounded(gain=0.5, shift=0.693147)"]
    module = Module()
    trainer(tmp_path, Patch("explin", call=lambda m, rows: m.vae(rows))).fit(module, loader())
    assert scales_of(module)[0].startswith("explin")


def test_a_module_that_is_patched_already_stays_as_it_is_or_is_refused(tmp_path: Path) -> None:
    module = Module()
    vdvae_patch.patch(module.vae, "explin", heads=vdvae_patch.scan(module.vae, batch()))
    before = scales_of(module)
    trainer(tmp_path, Patch("explin")).fit(module, loader())
    assert scales_of(module) == before
    with pytest.raises(PatchError, match="as explin, and the callback would patch it as upbounded"):
        trainer(tmp_path, Patch("upbounded")).fit(module, loader())


def test_a_checkpoint_brings_its_patch_back(tmp_path: Path) -> None:
    module = Module()
    first = trainer(tmp_path, Patch("explin"))
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    with torch.no_grad():  # a scan of these weights would fit another scale
        module.vae.encoder[2].bias.add_(3.0)
    first.save_checkpoint(tmp_path / "moved.ckpt")
    torch.load(tmp_path / "moved.ckpt", weights_only=True)

    again = Module()
    trainer(tmp_path, Patch("explin"), steps=3).fit(again, loader(), ckpt_path=tmp_path / "moved.ckpt")
    assert again.was_patched == [True]
    assert scales_of(again) == scales_of(module)

    loaded = Module.load_from_checkpoint(tmp_path / "moved.ckpt", map_location="cpu")
    assert not vdvae_patch.is_patched(loaded)
    assert apply_checkpoint(loaded, tmp_path / "moved.ckpt") is loaded
    assert scales_of(loaded) == scales_of(module)
    assert all(map(torch.equal, outputs(loaded.vae), outputs(module.vae)))
    trainer(tmp_path, Patch("explin")).fit(loaded, loader())
    assert scales_of(loaded) == scales_of(module)


def test_a_scale_that_was_fitted_before_the_checkpoint_was_read_is_not_told_of(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    first = trainer(tmp_path, Patch("upbounded", paper=False), steps=1)
    first.fit(module := OwnStep(), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    with torch.no_grad():
        (again := OwnStep()).vae.bias.add_(1.0)
    trainer(tmp_path, Patch("upbounded", paper=False)).fit(again, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert scales_of(again) == scales_of(module)
    assert not any("these weights were made" in str(warning.message) for warning in recwarn)


def test_a_checkpoint_without_a_patch_is_trained_on_under_one(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.fit(Module(), loader())
    first.save_checkpoint(tmp_path / "vanilla.ckpt")
    again = Module()
    trainer(tmp_path, Patch("explin"), steps=3).fit(again, loader(), ckpt_path=tmp_path / "vanilla.ckpt")
    assert again.was_patched[-1]
    with pytest.raises(CheckpointError, match="has no patch"):
        apply_checkpoint(Module(), tmp_path / "vanilla.ckpt")


def test_it_is_there_for_evaluation_and_prediction(tmp_path: Path) -> None:
    class Evaluated(Module):
        def validation_step(self, rows: Tensor, index: int) -> None:
            self.was_patched.append(vdvae_patch.is_patched(self))

        test_step = validation_step

    module = Evaluated()
    trainer(tmp_path, Patch("explin", batch=batch())).validate(module, loader(), verbose=False)
    assert all(module.was_patched)
    with pytest.raises(PatchError, match=r"no training data to scan.*Patch\(..., batch=...\)"):
        trainer(tmp_path, Patch("explin")).test(Evaluated(), loader(), verbose=False)


@pytest.mark.medium
def test_the_patch_is_there_before_a_strategy_wraps_the_module(tmp_path: Path) -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_integrations import Module, Patch, loader, trainer\n"
        "module = Module()\n"
        "made = trainer(sys.argv[1], Patch('explin'), strategy='ddp', devices=1)\n"
        "made.fit(module, loader())\n"
        "assert module.was_patched[-2:] == [True, True], module.was_patched\n"
        "import vdvae_patch; vdvae_patch.check_intact(module)\n"
        "import os; os._exit(0)\n"  # the trainer keeps Gloo's thread, which may abort an interpreter that shuts down
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_without_a_patch_is_patched_for_its_own_weights(tmp_path: Path) -> None:
    class Floored(Module):
        """Its scale is fitted to what the raw value is."""

        def __init__(self) -> None:
            super().__init__()
            self.vae = build("AtExpression")

    trained = Floored()
    with torch.no_grad():
        trained.vae.encoder.bias.add_(3.0)
    first = trainer(tmp_path, steps=1)
    first.fit(trained, loader())
    first.save_checkpoint(tmp_path / "vanilla.ckpt")
    again, fresh = Floored(), Floored()
    trainer(tmp_path, Patch("explin", batch=batch(), paper=False), steps=2).fit(
        again, loader(), ckpt_path=tmp_path / "vanilla.ckpt"
    )
    trainer(tmp_path, Patch("explin", batch=batch(), paper=False), steps=1).fit(fresh, loader())
    heads = vdvae_patch.scan(trained, batch(), call=lambda m, rows: m.vae(rows))
    vdvae_patch.patch(trained, "explin", heads=heads, paper=False)
    assert scales_of(again) == scales_of(trained) != scales_of(fresh)


@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_an_evaluation_takes_the_patch_of_its_checkpoint(run: str, tmp_path: Path) -> None:
    class Evaluated(Module):
        def validation_step(self, rows: Tensor, index: int) -> None:
            self.was_patched.append(vdvae_patch.is_patched(self))

        test_step = predict_step = validation_step

    module = Module()
    first = trainer(tmp_path, Patch("explin"))
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    first.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    again = Evaluated()  # no training data: the patch can come from the checkpoint alone
    getattr(trainer(tmp_path, Patch("explin")), run)(again, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert again.was_patched
    assert all(again.was_patched)
    assert scales_of(again) == scales_of(module)
    with pytest.raises(PatchError, match="no training data to scan"):
        getattr(trainer(tmp_path, Patch("explin")), run)(Evaluated(), loader(), ckpt_path=tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="or with weights only, where Lightning asks no callback"):
        apply_checkpoint(Module(), tmp_path / "weights.ckpt")


@pytest.mark.parametrize("order", ["patch, average", "average, patch"])
@pytest.mark.parametrize("kind", ["EMAWeightAveraging", "StochasticWeightAveraging"])
def test_an_average_of_the_weights_goes_with_the_callback(kind: str, order: str, tmp_path: Path) -> None:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    options = {"decay": 0.5} if kind.startswith("EMA") else {"swa_lrs": 1e-2, "swa_epoch_start": 1}
    averaging = getattr(callbacks, kind)(**options)
    ordered = [Patch("explin"), averaging] if order.startswith("patch") else [averaging, Patch("explin")]
    module = Module()
    made = trainer(tmp_path, *ordered, steps=-1, max_epochs=3)
    made.fit(module, loader())
    assert module.was_patched[-12:] == [True] * 12
    vdvae_patch.check_intact(module)
    made.save_checkpoint(tmp_path / "last.ckpt")
    loaded = apply_checkpoint(Module.load_from_checkpoint(tmp_path / "last.ckpt"), tmp_path / "last.ckpt")
    assert scales_of(loaded) == scales_of(module)
    assert all(map(torch.equal, outputs(loaded.vae), outputs(module.vae)))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "vdvae_patch.integrations.lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "vdvae_patch.integrations.lightning")
    with pytest.raises(ImportError, match="needs Lightning: pip install lightning"):
        import vdvae_patch.integrations.lightning  # noqa: F401


# --- where patch, save and load are enough ----------------------------------------------------------------------------


def _patch(model: nn.Module) -> None:
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, batch()))


@pytest.mark.parametrize("order", ["patch, prepare", "prepare, patch", "through the wrapper"])
def test_accelerate_in_either_order(order: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build("AtOutput")
    if order.startswith("patch"):
        _patch(model)
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    prepared, optimizer = accelerator.prepare(nn.DataParallel(model) if order[0] == "t" else model, optimizer)
    if order.startswith("prepare"):
        _patch(accelerator.unwrap_model(prepared))
    elif order[0] == "t":
        _patch(prepared)
    accelerator.backward(prepared(batch()))
    optimizer.step()
    vdvae_patch.check_intact(prepared)
    plain = accelerator.unwrap_model(prepared)
    again = vdvae_patch.load(AtOutput, vdvae_patch.save(plain, tmp_path / order[:5]))
    assert all(map(torch.equal, outputs(again), outputs(plain)))


def _step(model: Any, optimizer: Any, backward: Any = Tensor.backward) -> None:
    optimizer.zero_grad()
    backward(model(batch()))
    optimizer.step()


@pytest.mark.medium
@pytest.mark.parametrize("order", ["apply, prepare", "prepare, apply"])
@pytest.mark.parametrize("name", list(ALL))
def test_accelerate_goes_on_from_a_saved_state(name: str, order: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build(name)
    _patch(model)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    _step(prepared, optimizer, accelerator.backward)
    accelerator.save_state(tmp_path)
    text = vdvae_patch.patch_json(accelerator.unwrap_model(prepared))
    torch.manual_seed(4)
    _step(prepared, optimizer, accelerator.backward)

    other = accelerate.Accelerator(cpu=True)
    again = build(name)
    if order.startswith("apply"):
        vdvae_patch.apply(again, text)
    prepared, optimizer = other.prepare(again, torch.optim.Adam(again.parameters(), lr=1e-2))
    if order.startswith("prepare"):
        vdvae_patch.apply(other.unwrap_model(prepared), text)
    other.load_state(tmp_path)
    torch.manual_seed(4)
    _step(prepared, optimizer, other.backward)
    vdvae_patch.check_intact(prepared)
    assert all(map(torch.equal, outputs(again), outputs(model)))


def test_accelerate_in_mixed_precision_says_when_it_takes_the_patch_off(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(True)
    try:
        model = build("AtExpression")
        _patch(model)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        prepared = accelerator.prepare(model)
        accelerator.backward(prepared(batch()))
        vdvae_patch.check_intact(prepared)
        vdvae_patch.save(accelerator.unwrap_model(prepared), tmp_path / "saved")
        bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        with pytest.raises(PatchError, match=r"forward of this instance was replaced by AtExpression\.forward"):
            vdvae_patch.save(bare, tmp_path / "other")
        del bare.forward
        vdvae_patch.check_intact(bare)
        again = vdvae_patch.load(lambda: build("AtExpression"), tmp_path / "saved")
        assert all(map(torch.equal, outputs(again), outputs(bare)))
    finally:
        state._reset_state(True)


@pytest.mark.parametrize("name", list(ALL))
def test_an_average_of_the_weights_is_patched_saved_and_goes_on(name: str, tmp_path: Path) -> None:
    model = build(name)
    _patch(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(2):
        _step(model, optimizer)
        average.update_parameters(model)
    vdvae_patch.check_intact(average)
    plain = vdvae_patch.load(lambda: build(name), vdvae_patch.save(average.module, tmp_path / "module"))
    assert all(map(torch.equal, outputs(plain), outputs(average.module)))
    torch.save(average.state_dict(), tmp_path / "average.pt")
    again = AveragedModel(vdvae_patch.load(lambda: build(name), tmp_path / "module"))
    again.load_state_dict(torch.load(tmp_path / "average.pt"))
    assert int(again.n_averaged) == 2
    assert all(map(torch.equal, outputs(again.module), outputs(average.module)))


class _WithLoss(nn.Module):
    """What transformers' Trainer calls: keywords in, a mapping with a loss out."""

    def __init__(self, name: str = "WithNormal") -> None:
        super().__init__()
        self.vae = build(name)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"loss": self.vae(rows)}


def test_transformers_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = _WithLoss()
    _patch(model.vae)
    options = transformers.TrainingArguments(
        str(tmp_path / "run"), max_steps=2, use_cpu=True, report_to=[], save_strategy="steps", save_steps=2,
        disable_tqdm=True, logging_strategy="no", remove_unused_columns=False, per_device_train_batch_size=8,
    )  # fmt: skip
    made = transformers.Trainer(model, options, train_dataset=[{"rows": row} for row in batch()])
    made.remove_callback(transformers.PrinterCallback)
    made.train()
    vdvae_patch.check_intact(model)
    (tmp_path / "run" / "checkpoint-2" / "patch.json").write_text(vdvae_patch.patch_json(model))

    from safetensors.torch import load_model

    again = _WithLoss()
    load_model(again, tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    vdvae_patch.apply(again, (tmp_path / "run" / "checkpoint-2" / "patch.json").read_text())
    assert all(map(torch.equal, outputs(again.vae), outputs(model.vae)))


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in ALL if name != "AtOutput"])  # whose tied weights Trainer cannot save
def test_transformers_trainer_goes_on_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    def trained(model: nn.Module, **options: Any) -> None:
        arguments = transformers.TrainingArguments(
            str(tmp_path / "run"), max_steps=4, use_cpu=True, report_to=[], save_strategy="steps", save_steps=2, seed=1,
            disable_tqdm=True, logging_strategy="no", remove_unused_columns=False, per_device_train_batch_size=4,
        )  # fmt: skip
        made = transformers.Trainer(model, arguments, train_dataset=[{"rows": row} for row in batch()])
        made.remove_callback(transformers.PrinterCallback)
        made.train(**options)
        vdvae_patch.check_intact(model)

    model, again = _WithLoss(name), _WithLoss(name)
    _patch(model.vae)
    trained(model)
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    trained(again, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert scales_of(again) == scales_of(model)
    assert all(map(torch.equal, outputs(again.vae), outputs(model.vae)))


def test_transformers_from_pretrained(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "vae_of_a_test"

    class Model(transformers.PreTrainedModel):  # type: ignore[misc, name-defined]
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.vae = build("AtExpression")
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None: ...

        def forward(self, rows: Tensor) -> dict[str, Tensor]:
            return {"loss": self.vae(rows)}

    model = Model(Config())
    heads = vdvae_patch.scan(model, batch(), call=lambda m, rows: m(rows=rows)["loss"])
    vdvae_patch.patch(model, "explin", heads=heads)
    with torch.no_grad():
        model.vae.encoder.bias.add_(0.1)
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    assert all(map(torch.equal, outputs(again.vae), outputs(model.vae)))


def test_pythae_from_a_folder(tmp_path: Path) -> None:
    models = pytest.importorskip("pythae.models")
    torch.manual_seed(0)
    host = vdvae_patch.load_host("pythae")
    model: Any = host.build({"model": "VAE", "input_dim": (1, 4, 4), "latent_dim": 3})
    vdvae_patch.patch(model, posterior="upbounded", heads=host.heads(model))
    model.save(str(tmp_path))
    (tmp_path / "patch.json").write_text(vdvae_patch.patch_json(model))
    again = models.AutoModel.load_from_folder(str(tmp_path))
    vdvae_patch.apply(again, (tmp_path / "patch.json").read_text())
    x = torch.rand(4, 1, 4, 4)
    losses = []
    for one in (model, again):
        torch.manual_seed(1)
        losses.append(one.eval()({"data": x}).loss)
    assert torch.equal(*losses)
    assert scales_of(again) == scales_of(model)


def test_diffusers_from_pretrained(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    host = vdvae_patch.load_host("diffusers")
    options = {"block_out_channels": (16,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8}
    model: Any = host.build(options)
    vdvae_patch.patch(model, posterior="upbounded", heads=host.heads(model))
    model.save_pretrained(tmp_path)
    (tmp_path / "patch.json").write_text(vdvae_patch.patch_json(model))
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert not vdvae_patch.is_patched(again)
    vdvae_patch.apply(again, (tmp_path / "patch.json").read_text())
    x = torch.randn(2, 3, 8, 8)
    one, other = (m.eval().encode(x).latent_dist.std for m in (model, again))
    assert torch.equal(one, other)
    assert scales_of(again) == scales_of(model)


def _autoencoder() -> Any:
    torch.manual_seed(0)
    host = vdvae_patch.load_host("diffusers")
    options = {"block_out_channels": (16,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8}
    model: Any = host.build(options)
    vdvae_patch.patch(model, posterior="upbounded", heads=host.heads(model))
    return model.eval()


def _same_posterior(one: Any, other: Any) -> bool:
    x = torch.randn(2, 3, 8, 8)
    return torch.equal(*(model.eval().encode(x).latent_dist.std for model in (one, other)))


def test_diffusers_in_a_pipeline(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")

    class Pipeline(diffusers.DiffusionPipeline):  # type: ignore[misc, name-defined]
        def __init__(self, vae: Any) -> None:
            super().__init__()
            self.register_modules(vae=vae)

    model = _autoencoder()
    Pipeline(model).save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    vdvae_patch.apply(again.vae, vdvae_patch.patch_json(model))
    assert _same_posterior(again.vae, model)
    part = diffusers.AutoencoderKL.from_pretrained(tmp_path, subfolder="vae", torch_dtype=torch.bfloat16)
    vdvae_patch.apply(part, vdvae_patch.patch_json(model))
    assert part.encode(torch.randn(2, 3, 8, 8).bfloat16()).latent_dist.std.dtype is torch.bfloat16


def test_diffusers_average_of_the_weights(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    averages = pytest.importorskip("diffusers.training_utils")
    model = _autoencoder()
    average = averages.EMAModel(model.parameters(), model_cls=diffusers.AutoencoderKL, model_config=model.config)
    average.step(model.parameters())  # the first copies them
    with torch.no_grad():
        model.quant_conv.bias.add_(1.0)
    average.step(model.parameters())
    average.save_pretrained(tmp_path)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    assert not _same_posterior(again, model)
    average.copy_to(model.parameters())
    vdvae_patch.check_intact(model)
    assert _same_posterior(again, model)


OWN_ENCODER = """
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.body, self.mean, self.raw = nn.Linear(16, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        return ModelOutput(embedding=self.mean(h), log_covariance=self.raw(h))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 16)

    def forward(self, z):
        return ModelOutput(reconstruction=self.body(z).sigmoid().view(-1, 1, 4, 4))
"""


def test_pythae_with_an_encoder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pythae pickles it: what it reads is patched in part, without the record of the patch."""
    models = pytest.importorskip("pythae.models")
    datasets = pytest.importorskip("pythae.data.datasets")
    (tmp_path / "own_encoder_xyz.py").write_text(OWN_ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("own_encoder_xyz")
    torch.manual_seed(0)
    config = models.VAEConfig(input_dim=(1, 4, 4), latent_dim=3)
    model = models.VAE(config, encoder=own.Encoder(), decoder=own.Decoder())
    x = datasets.DatasetOutput({"data": torch.rand(4, 1, 4, 4)})
    vdvae_patch.patch(model, posterior="upbounded", heads=vdvae_patch.scan(model, x))
    text = json.dumps({k: v for k, v in json.loads(vdvae_patch.patch_json(model)).items() if k != "checksum"})
    model.save(str(tmp_path / "saved"))

    again = models.AutoModel.load_from_folder(str(tmp_path / "saved"))
    damaged = text.replace('"upbounded', '"upbuonded')
    assert damaged != text
    with pytest.raises(PatchError, match="upbuonded"):
        vdvae_patch.apply(again, damaged)
    assert vdvae_patch.is_patched(again.encoder)  # as it was
    vdvae_patch.apply(again, text)
    vdvae_patch.check_intact(again)
    losses = []
    for one in (model, again):
        torch.manual_seed(1)
        losses.append(one.eval()(x).loss)
    assert torch.equal(*losses)
    assert scales_of(again) == scales_of(model)
    vdvae_patch.unpatch(again)
    assert not vdvae_patch.is_patched(again)

    other = models.VAE(config, encoder=model.encoder, decoder=own.Decoder())
    elsewhere = vdvae_patch.patch_json(_patched_decoder(own, config))
    with pytest.raises(PatchError, match=r"patched already, at encoder\.raw\.forward, as a part of another model"):
        vdvae_patch.apply(other, elsewhere)


def _patched_decoder(own: Any, config: Any) -> nn.Module:
    model: nn.Module = importlib.import_module("pythae.models").VAE(
        config, encoder=own.Encoder(), decoder=own.Decoder()
    )
    head = vdvae_patch.Head("decoder.body", "likelihood", 0, 8)
    vdvae_patch.patch(model, likelihood="upbounded", heads=[head])
    return model


def test_pythae_trains_a_patched_model_and_each_folder_comes_back(tmp_path: Path) -> None:
    models = pytest.importorskip("pythae.models")
    pipelines, trainers = pytest.importorskip("pythae.pipelines"), pytest.importorskip("pythae.trainers")
    torch.manual_seed(0)
    host = vdvae_patch.load_host("pythae")
    model: Any = host.build({"model": "VAE", "input_dim": (1, 4, 4), "latent_dim": 3})
    vdvae_patch.patch(model, posterior="upbounded", heads=host.heads(model))
    options = trainers.BaseTrainerConfig(output_dir=str(tmp_path), num_epochs=2, steps_saving=1, no_cuda=True)
    images = torch.rand(16, 1, 4, 4).numpy()
    pipelines.TrainingPipeline(training_config=options, model=model)(train_data=images, eval_data=images)
    vdvae_patch.check_intact(model)
    folders = [file.parent for file in tmp_path.rglob("model.pt")]
    assert {folder.name for folder in folders} == {"checkpoint_epoch_1", "checkpoint_epoch_2", "final_model"}
    for folder in folders:
        again = models.AutoModel.load_from_folder(str(folder))
        vdvae_patch.apply(again, vdvae_patch.patch_json(model))
        assert scales_of(again) == scales_of(model)
