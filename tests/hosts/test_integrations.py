"""Frameworks, with their real packages: the patch is there at the right moment, and comes back with a checkpoint."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_models import AtOutput, batch, build, outputs
from torch import Tensor, nn
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


class Around(nn.Module):
    """A LightningModule as a part of another model."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Tensor:
        return self.module.training_step(rows, 0)


def _step(module: Any, rows: Tensor) -> Tensor:
    loss: Tensor = module.training_step(rows, 0)
    return loss


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [Module, OwnStep])
def test_a_module_that_was_fitted_is_stabilized_by_its_step(kind: type[Module], inside: bool, tmp_path: Path) -> None:
    module = kind()
    trainer(tmp_path).fit(module, loader())
    with pytest.raises(Exception, match=r"not managed by the `Trainer` control flow|result collection"):
        module.training_step(batch(), 0)
    model = Around(module) if inside else module
    handle = vdvae_patch.stabilize(model, batch(), call=None if inside else _step, file=io.StringIO())
    assert handle.after is not None
    assert handle.after.finite
    assert not {"log", "log_dict"} & vars(module).keys()
    module.log = own = lambda *args, **kwargs: None
    vdvae_patch.scan(model, batch(), call=None if inside else _step)
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
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


class _WithLoss(nn.Module):
    """What transformers' Trainer calls: keywords in, a mapping with a loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = build("WithNormal")

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
