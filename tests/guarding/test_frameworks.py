"""The guard in the training loops of frameworks, with a NaN that training makes."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import vdvae_patch
from vdvae_patch.errors import GuardError

SIZE = 12


pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("environment_kept")]


def rows(count: int = 64) -> Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(3)) * 2


class VAE(nn.Module):
    """Its log variance runs away within a few updates at a high learning rate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(SIZE, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.mean, self.logvar = nn.Linear(32, 4), nn.Linear(32, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        error = ((self.decoder(z) - x) ** 2).sum(1)
        rate = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
        return (error + rate).mean()


LR = 30.0


def finite(model: nn.Module) -> bool:
    return all(bool(t.isfinite().all()) for t in model.state_dict().values() if t.is_floating_point())


def check(model: nn.Module, guard: Any, head: str) -> None:
    assert finite(model)
    assert guard.skips
    first = guard.skips[0]
    assert first.head == head, guard.report()
    assert first.holding
    assert first.file is not None
    assert Path(first.file).exists()
    assert head in guard.report()


def test_the_fault_is_there_without_a_guard() -> None:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(6):
        optimizer.zero_grad()
        model(rows()).backward()
        optimizer.step()
    assert not finite(model)


def test_a_plain_loop(tmp_path: Path) -> None:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    with vdvae_patch.guard(model, out=tmp_path / "guard") as guard:
        for _ in range(6):
            optimizer.zero_grad()
            loss = model(rows())
            loss.backward()
            optimizer.step()
    check(model, guard, "logvar")
    assert (tmp_path / "guard" / "skip-0001" / "state.pt").exists()


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = VAE()
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.Adam(model.parameters(), lr=LR), DataLoader(rows(), batch_size=16)
    )
    with vdvae_patch.guard(model) as guard:
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                loss = model(batch)
                accelerator.backward(loss)
                optimizer.step()
    check(model, guard, "logvar")


lightning: Any = pytest.importorskip("lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Automatic(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.vae = VAE()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.vae(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=LR)


class ByHand(Automatic):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, index: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.vae(batch)
        self.manual_backward(loss)
        optimizer.step()


@pytest.mark.parametrize("module", [Automatic, ByHand])
def test_lightning(module: Any, tmp_path: Path) -> None:
    from vdvae_patch.integrations.lightning import Guard

    callback, model = Guard(out=tmp_path / "guard"), module()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=6, enable_progress_bar=False, enable_model_summary=False, logger=False,
        default_root_dir=tmp_path, enable_checkpointing=False, callbacks=[callback],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, DataLoader(rows(), batch_size=16))
    check(model, callback.guard, "vae.logvar")
    assert trainer.global_step == 6
    assert not hasattr(torch.autograd._engine_run_backward, "__wrapped__")
    state = callback.state_dict()
    again = Guard()
    again.load_state_dict(state)
    again.on_fit_start(trainer, model)
    assert again.guard is not None
    assert again.guard.steps == state["steps"]
    again.on_fit_end(trainer, model)


def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from vdvae_patch.integrations.transformers import Guard

    class ForTrainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = VAE()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.vae(x)}

    class Rows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": rows()[index]}

    said = io.StringIO()
    callback, model = Guard(file=said), ForTrainer()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=16, use_cpu=True, report_to=[],
        disable_tqdm=True, save_strategy="no", learning_rate=LR, max_grad_norm=0, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback])
    trainer.train()
    check(model, callback.guard, "vae.logvar")
    counts = [line for line in said.getvalue().splitlines() if "of them skipped; the guard's report() says why" in line]
    assert counts == [f"vdvae_patch guard: {callback.report().splitlines()[0]}; the guard's report() says why"]


def test_pythae(tmp_path: Path) -> None:
    pytest.importorskip("pythae")
    from pythae import models
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    from vdvae_patch.integrations.pythae import Guard

    torch.manual_seed(0)
    model = models.VAE(models.VAEConfig(input_dim=(SIZE,), latent_dim=4))
    config = BaseTrainerConfig(
        output_dir=str(tmp_path), num_epochs=6, learning_rate=LR, per_device_train_batch_size=16, no_cuda=True
    )
    callback = Guard()
    data = BaseDataset(rows(), torch.zeros(64))
    trainer = BaseTrainer(model, train_dataset=data, training_config=config, callbacks=[callback])
    trainer.train()
    check(model, callback.guard, "encoder.log_var")
    assert isinstance(callback.guard, vdvae_patch.Guard)


def test_an_engine_that_owns_its_step_is_refused() -> None:
    engine = SimpleNamespace(param_groups=[], optimizer="an engine's")
    with pytest.raises(GuardError, match="an engine that owns its step cannot be guarded"):
        vdvae_patch.guard(VAE(), optimizer=engine)  # type: ignore[arg-type]
