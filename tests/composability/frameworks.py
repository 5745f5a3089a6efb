"""Lightning, accelerate, diffusers and transformers."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vdvae_patch

from .case import Case, Values, gradient, loss, training, value
from .models import _gaussian_loss
from .table import row


def _fit(module: Any, batch: tuple[Tensor, ...]) -> None:
    """Two steps by Lightning's Trainer, on one batch."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader = DataLoader([0, 0], batch_size=None, collate_fn=lambda _: batch)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu",
            fast_dev_run=2,
            gradient_clip_val=1.0,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader)


def _lightning_module(model: nn.Module) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = model
            self.losses: list[Tensor] = []

        def training_step(self, batch: Any, index: int) -> Tensor:
            out = loss(self.vae, tuple(batch))
            self.losses.append(out.detach())
            return out

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.vae.parameters(), lr=1e-2)

    return Module()


@row("Lightning: Trainer.fit(fast_dev_run=2), patched before", measure=training, needs=("lightning",))
def fitted(case: Case) -> Any:
    module = _lightning_module(case.patch())
    _fit(module, case.batch)
    return [*module.losses, *value(case.model, case.batch)]


def _own_module() -> Any:
    import lightning

    class Module(lightning.LightningModule):
        """A head in training_step itself."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(6, 8)
            self.decoder = nn.Linear(4, 6)
            self.losses: list[Tensor] = []

        def training_step(self, batch: Any, index: int) -> Tensor:
            (x,) = batch
            torch.manual_seed(1)
            mean, log_variance = self.encoder(x).chunk(2, dim=1)
            sigma = torch.exp(0.5 * log_variance) + 1e-3
            z = mean + sigma * torch.randn_like(mean)
            out = _gaussian_loss(x, self.decoder(z), 0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma))
            self.losses.append(out.detach())
            return out

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-2)

    torch.manual_seed(0)
    module = Module()
    nn.init.normal_(module.encoder.weight)
    return module


def _patched_step(case: Case) -> Any:
    module = _own_module()

    def one_step(model: Any, x: Tensor) -> Any:
        return model.training_step((x,), 0)

    if case.patching:
        heads = vdvae_patch.scan(module, case.batch[0], call=one_step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            vdvae_patch.patch(module, posterior="explin", heads=heads)
    module.losses.clear()
    return module


def _steps(case: Case) -> Values:
    module = _patched_step(case)
    optimizer = module.configure_optimizers()
    for _ in range(2):
        optimizer.zero_grad()
        module.training_step(case.batch, 0).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return [*module.losses]


@row(
    "Lightning: a head in training_step itself",
    reference=_steps,
    needs=("lightning",),
    columns=("expression",),
    restores=False,
    note="scan(module, batch, call=...) finds it",
)
def fitted_step(case: Case) -> Any:
    module = _patched_step(case)
    case.subject = module
    _fit(module, case.batch)
    return [*module.losses]


@row("accelerate: prepare, two steps", measure=training, needs=("accelerate",))
def prepared(case: Case) -> Any:
    from accelerate import Accelerator

    case.patch()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(case.model, optimizer)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        out = loss(model, case.batch)
        accelerator.backward(out)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(out.detach())
    return [*losses, *value(accelerator.unwrap_model(model), case.batch)]


def _counting_hook(times: list[int]) -> Any:
    from accelerate.hooks import ModelHook

    class Counting(ModelHook):  # type: ignore[misc]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            times.append(1)
            return args, kwargs

    return Counting()


def _times_in_vanilla(case: Case) -> int:
    from accelerate.hooks import add_hook_to_module

    times: list[int] = []
    fresh = case.fresh()
    add_hook_to_module(fresh.get_submodule(case.column.part), _counting_hook(times))
    value(fresh, case.batch)
    return len(times)


@row("accelerate: add_hook_to_module after patch, and removing it", needs=("accelerate",))
def hook_added(case: Case) -> Any:
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    case.patch()
    times: list[int] = []
    add_hook_to_module(case.part, _counting_hook(times))
    if case.patching:
        vdvae_patch.check_intact(case.model)
    seen = gradient(case.model, case.batch)
    assert len(times) == _times_in_vanilla(case)
    remove_hook_from_module(case.part)
    return seen


@row(
    "accelerate: add_hook_to_module, then patch",
    needs=("accelerate",),
    note="where the hook is in the way: remove it, patch, and add it again",
)
def hook_added_first(case: Case) -> Any:
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    times: list[int] = []
    add_hook_to_module(case.part, _counting_hook(times))
    case.patch()
    seen = gradient(case.model, case.batch)
    assert len(times) == _times_in_vanilla(case)
    case.unpatch()
    remove_hook_from_module(case.part)
    return seen


@row("accelerate: cpu_offload after patch", needs=("accelerate",), restores=False)
def offloaded(case: Case) -> Any:
    from accelerate import cpu_offload

    case.patch()
    cpu_offload(case.model, execution_device=torch.device("cpu"))
    return gradient(case.model, case.batch)


@row(
    "accelerate: cpu_offload, then patch",
    needs=("accelerate",),
    restores=False,
    note="patch first, or remove_hook_from_submodules, patch, and offload again",
)
def offloaded_first(case: Case) -> Any:
    from accelerate import cpu_offload

    cpu_offload(case.model, execution_device=torch.device("cpu"))
    case.patch()
    return gradient(case.model, case.batch)


def _autoencoder() -> Any:
    torch.manual_seed(0)
    entry = vdvae_patch.load_host("diffusers")
    options = {"block_out_channels": (16,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8}
    return entry, entry.build(options)


def _encoded(patching: bool, hook: bool, from_pretrained: bool = False) -> tuple[Values, int]:
    """A loss of the posterior of diffusers' autoencoder, and how often its hook ran."""
    from accelerate.hooks import add_hook_to_module

    entry, model = _autoencoder()
    times: list[int] = []
    if patching and not from_pretrained:
        vdvae_patch.patch(model, posterior="upbounded", heads=entry.heads(model))
    if from_pretrained:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder))
            model = type(model).from_pretrained(folder)
        if patching:
            vdvae_patch.patch(model, posterior="upbounded", heads=entry.heads(model))
    if hook:
        add_hook_to_module(model, _counting_hook(times))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7)).requires_grad_()
    posterior = model.encode(x).latent_dist
    torch.manual_seed(1)
    out = (posterior.kl() + posterior.sample().square().sum()).mean()
    return [out.detach(), *torch.autograd.grad(out, x)], len(times)


@row(
    "diffusers: apply_forward_hook with accelerate's hook",
    reference=lambda case: _encoded(case.patching, hook=False)[0],
    needs=("accelerate", "diffusers"),
    columns=("named host",),
    restores=False,
    note="AutoencoderKL.encode; the hook runs as often as in vanilla",
)
def hook_of_diffusers(case: Case) -> Any:
    seen, times = _encoded(case.patching, hook=True)
    assert times == _encoded(False, hook=True)[1]
    return seen


@row(
    "diffusers: save_pretrained, from_pretrained, patch again",
    reference=lambda case: _encoded(case.patching, hook=False)[0],
    needs=("diffusers",),
    columns=("named host",),
    restores=False,
    note="a configuration and weights make a vanilla model: patch again after from_pretrained",
)
def from_pretrained(case: Case) -> Any:
    return _encoded(case.patching, hook=False, from_pretrained=True)[0]


def _pythae(patching: bool, saved: bool) -> Values:
    torch.manual_seed(0)
    host = vdvae_patch.load_host("pythae")
    model: Any = host.build({"model": "VAE", "input_dim": (1, 4, 4), "latent_dim": 3})
    if saved:
        with tempfile.TemporaryDirectory() as folder:
            model.save(folder)
            model = type(model).load_from_folder(folder)
    if patching:
        vdvae_patch.patch(model, posterior="upbounded", heads=host.heads(model))
    torch.manual_seed(1)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(7)).requires_grad_()
    out = model({"data": x}).loss
    return [out.detach(), *torch.autograd.grad(out, x)]


@row(
    "pythae: save, load_from_folder, patch again",
    reference=lambda case: _pythae(case.patching, saved=False),
    needs=("pythae",),
    columns=("named host",),
    restores=False,
    note="a folder of pythae's makes a vanilla model",
)
def from_folder(case: Case) -> Any:
    return _pythae(case.patching, saved=True)


class _Losses(nn.Module):
    """What transformers' Trainer calls: keywords in, a mapping with a loss out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.vae = model
        self.losses: list[Tensor] = []

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        out = loss(self.vae, tuple(batch[name] for name in sorted(batch)))
        self.losses.append(out.detach())
        return {"loss": out}


@row("transformers: Trainer, two steps", measure=training, needs=("transformers", "accelerate"), slow=True)
def trained(case: Case) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    module = _Losses(case.patch())
    inputs = {f"input_{index}": t for index, t in enumerate(case.batch)}
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            folder,
            max_steps=2,
            use_cpu=True,
            max_grad_norm=1.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            per_device_train_batch_size=1,
        )
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        trainer = transformers.Trainer(
            module,
            options,
            train_dataset=[0, 0],  # type: ignore[arg-type]
            data_collator=lambda _: inputs,
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return [*module.losses, *value(case.model, case.batch)]
