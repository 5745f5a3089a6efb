"""Lightning: a callback that patches before a strategy wraps the module, and one that guards the training.

from vdvae_patch.integrations.lightning import Patch

trainer = lightning.Trainer(callbacks=[Patch("explin/constant")])
trainer.fit(module, loader)                            # patched, and the checkpoints know how
trainer.fit(module, loader, ckpt_path="last.ckpt")     # the very patch of the checkpoint

trainer = lightning.Trainer(callbacks=[Guard(out="guard")])

module = apply_checkpoint(Module.load_from_checkpoint(path), path)     # without a trainer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from vdvae_patch.document.seal import with_checksum
from vdvae_patch.errors import CheckpointError, PatchError
from vdvae_patch.heads import Arithmetic, Head
from vdvae_patch.integrations.guarding import Guarded
from vdvae_patch.patching import PatchHandle, Variant, is_patched, patch, unpatch
from vdvae_patch.patching.record import PatchedHead, owners
from vdvae_patch.patching.restore import patch_document
from vdvae_patch.patching.state import let_load
from vdvae_patch.reading.tensor_files import require_bounded
from vdvae_patch.saving import apply
from vdvae_patch.scales import Constant
from vdvae_patch.scanning.finder import scan
from vdvae_patch.scanning.watching.quiet import without_logging

if TYPE_CHECKING:

    class _Callback:
        """Lightning's, of whichever of its two packages is installed."""

    def _log(message: str) -> None:
        """Lightning's own log, of the first process."""

else:
    try:
        from lightning.pytorch import Callback as _Callback
        from lightning.pytorch.utilities import rank_zero_info as _log
    except ImportError:
        try:
            from pytorch_lightning import Callback as _Callback
            from pytorch_lightning.utilities import rank_zero_info as _log
        except ImportError as error:
            raise ImportError(
                "vdvae_patch.integrations.lightning needs Lightning: pip install lightning (or pytorch_lightning)"
            ) from error


class _NothingToScanError(PatchError):
    pass


KEY = "vdvae_patch"
"""Where the patch lies in a checkpoint."""

Heads = Callable[[Any], Iterable[Head]]
Module = TypeVar("Module", bound=nn.Module)


class Patch(_Callback):
    """Patches a LightningModule when it is set up, unless it is patched already.

    Args:
        variant: as of `vdvae_patch.patch`.
        heads: from the module to its heads, `HOST.heads` or a function of your own; without it the module is scanned on
            the first batch of its training data.
        call: what the scan runs, `call(module, batch)`; without it `module.training_step(batch, 0)`. A module that
            optimizes by hand needs it, or heads: a function that gives its loss.
        batch: what the scan runs on instead of the first batch.
        arithmetic, verify, paper: as of `vdvae_patch.patch`.

    Of several processes all get the patch that the first one found. What was patched is logged by Lightning, as a table
    with σ on the batch before and after, and of a σ that moved what keeps it.

    A checkpoint of a trainer with this callback has the patch under `"vdvae_patch"`. When a trainer is given such a
    checkpoint (`ckpt_path`), the module gets exactly that patch, whatever it had before. A module whose layers are made
    in `configure_model` is patched when the training, validation, test or prediction starts.

    Raises:
        PatchError: while the trainer sets up, as `patch`; there is no batch to scan; or the module is patched with
            another variant.
    """

    def __init__(
        self,
        variant: str | Variant,
        heads: Heads | None = None,
        call: Callable[[Any, Any], Any] | None = None,
        *,
        batch: Any = None,
        arithmetic: Arithmetic = "auto",
        verify: bool = True,
        paper: bool | None = None,
    ) -> None:
        self.variant = Variant.parse(variant) if isinstance(variant, str) else variant
        self.heads = heads
        self.call = call
        self.batch = batch
        self.arithmetic: Arithmetic = arithmetic
        self.verify = verify
        self.paper = paper
        self._by_scan = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before the strategy wraps, shards or moves the module."""
        self._by_scan = False
        if _has_layers(pl_module) and not _waits_for_checkpoint(trainer):
            try:
                self._ensure(trainer, pl_module)
            except _NothingToScanError:
                if stage == "fit":
                    raise  # else a checkpoint that is read next may have the patch; the start of the run asks again

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """For layers that `configure_model` made."""
        self._ensure(trainer, pl_module)

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = on_fit_start

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The patch goes into the checkpoint, as plain data."""
        if is_patched(pl_module):
            checkpoint[KEY] = with_checksum(patch_document(pl_module))

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The module gets the patch of the checkpoint; without one in it, it is patched as these weights ask for."""
        document = checkpoint.get(KEY)
        if document is None:
            if self._by_scan and is_patched(pl_module):  # gain and shift were those of other weights
                unpatch(pl_module)
                self._ensure(trainer, pl_module)
            return
        if is_patched(pl_module):
            if patch_document(pl_module)["patches"] == document.get("patches"):
                return
            unpatch(pl_module)
        apply(pl_module, document, heads=None if self.heads is None else self.heads(pl_module))

    def _ensure(self, trainer: Any, module: Any) -> None:
        if is_patched(module):
            known = {str(owner.record.variant) for owner in owners(module)}
            if known != {str(self.variant)}:
                raise PatchError(
                    f"the module is patched already, as {' and '.join(sorted(known))}, and the callback would patch it "
                    f"as {self.variant}; unpatch it first"
                )
            return
        self._by_scan = self.heads is None
        with without_logging(module):
            heads = self._scanned(trainer, module) if self.heads is None else self.heads(module)
            handle = patch(
                module,
                self.variant,
                heads=heads,
                arithmetic=self.arithmetic,
                verify=self.verify,
                paper=self.paper,
            )
        if self._by_scan and trainer.world_size > 1:
            _share(trainer, module)
        let_load(module)  # Lightning loads a checkpoint's weights before it asks for its patch
        _log(_account(handle))

    def _scanned(self, trainer: Any, module: Any) -> Iterable[Head]:
        if self.call is None and not getattr(module, "automatic_optimization", True):
            raise PatchError(
                f"{type(module).__name__} optimizes by hand (automatic_optimization is False), so that its "
                "training_step, which needs the optimizers, cannot be run to find the heads; give Patch(..., "
                "call=lambda module, batch: ...) that returns the loss, or heads="
            )
        batch = _first_batch(trainer, module) if self.batch is None else self.batch
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        return scan(module, batch, call=self.call or _training_step)


class Guard(Guarded, _Callback):
    """Guards the training of a LightningModule, see `vdvae_patch.guard`, whose arguments it takes.

    The guard stands when the training starts, after the strategy has wrapped the module; gradients are looked at when
    Lightning has unscaled and clipped them. Its counters are kept in the checkpoints. A module that optimizes by hand
    is guarded, too; its `training_step` takes steps, and is not done again: the lines up to `manual_backward` are.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._state: dict[str, Any] | None = None
        self._on = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first batch."""
        self._on = getattr(pl_module, "automatic_optimization", True)
        guard = self._put_on(pl_module, call=_training_step_of if self._on else None)
        if self._state is not None:
            guard.load_state_dict(self._state)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """What `training_step` will be given."""
        if self.guard is not None and self._on:
            self.guard.on_batch(batch, batch_idx)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The training is over."""
        self._take_off()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """So it is; what was not finite in its last step is said below the error."""
        if self.guard is not None:
            self.guard.explain(exception)
        self._take_off()

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {} if self.guard is None else self.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._state = state_dict or None


def _training_step_of(module: Any, batch: Any, batch_idx: int) -> Any:
    return module.training_step(batch, batch_idx)


def apply_checkpoint(module: Module, path: Path | str, *, heads: Iterable[Head] | None = None) -> Module:
    """Patch a module as it was when a checkpoint was written, such as one that `load_from_checkpoint` made.

    The checkpoint is read with `weights_only`, so that no code in it runs.

    Raises:
        CheckpointError: the file cannot be read so, or has no patch.
        PatchError: as `vdvae_patch.apply`.
    """
    try:
        require_bounded(Path(path), str(path))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen types, and says of a file that names code how to run it
        first = (str(error).splitlines() or [""])[0].split(". ")[0]
        raise CheckpointError(f"{path} cannot be read: {first or type(error).__name__}") from None
    document = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if document is None:
        raise CheckpointError(
            f"{path} has no patch; it was written without the callback Patch, or with weights only, where Lightning "
            "asks no callback: keep vdvae_patch.patch_json(module) beside such a one, and apply it"
        )
    apply(module, document, heads=heads)
    return module


_MOVED = 0.02
"""Of the median of a σ: less is what a scale that was fitted to it leaves."""


def _share(trainer: Any, module: Any) -> None:
    """Give all processes the first one's patch: each was scanned on a batch of its own, to whose σ gain and shift were
    fitted, and processes with other scales train other models."""
    own = patch_document(module)
    first = trainer.strategy.broadcast(own)
    if first["patches"] != own["patches"]:
        unpatch(module)
        apply(module, first)


def _account(handle: PatchHandle) -> str:
    """What was patched, and which σ is another one now: nobody sees the handle."""
    said = f"vdvae_patch: the module is patched\n{handle}"
    moved = [h for h in handle.heads if _is_moved(h)]
    if moved:
        named = ", ".join(f"{h.head} by {h.scale}" for h in moved)
        said += f"\nσ is another one now: {named}. To a module that is trained already this is noise of another size"
    if any(not isinstance(h.scale, Constant) for h in moved):
        said += "; Patch(..., paper=False) keeps σ at the median of the batch"
    return said


def _is_moved(head: PatchedHead) -> bool:
    before, after = head.before, head.after
    return before is not None and after is not None and abs(after.median - before.median) > _MOVED * before.median


def _training_step(module: Any, batch: Any) -> Any:
    return module.training_step(batch, 0)


def _has_layers(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _waits_for_checkpoint(trainer: Any) -> bool:
    """Whether a checkpoint is about to be read, which may have a patch of its own."""
    return getattr(trainer, "ckpt_path", None) is not None


def _first_batch(trainer: Any, module: Any) -> Any:
    """The first batch of the training data, and the random numbers as they were."""
    sources: tuple[Callable[[], Any], ...] = (
        lambda: trainer.datamodule.train_dataloader(),
        lambda: trainer.fit_loop._data_source.dataloader(),
        lambda: module.train_dataloader(),
    )
    for source in sources:
        with torch.random.fork_rng(devices=[]):
            try:
                loader = source()
                return next(iter(loader))
            except Exception as error:
                last = error
    raise _NothingToScanError(
        f"there is no training data to scan the module on ({type(last).__name__}: {last}); give Patch(..., batch=...), "
        "or heads="
    )


__all__ = ["KEY", "Guard", "Patch", "apply_checkpoint"]
