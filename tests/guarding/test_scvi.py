"""scvi-tools trains through Lightning, and takes Lightning's guard: with the package itself, and a NaN of training.

It brings three dozen packages for a single test, so that the environment of the other tests goes without it:
`PIP_CONSTRAINT=constraints.txt pip install scvi-tools` in a virtual environment of its own makes this file
run; it did with scvi-tools 1.4.2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

scvi: Any = pytest.importorskip("scvi", reason="scvi-tools is not installed, see the top of the file")
anndata: Any = pytest.importorskip("anndata")

pytestmark = [pytest.mark.usefixtures("environment_kept"), pytest.mark.filterwarnings("ignore")]


def trained(*callbacks: Any, lr: float = 30.0) -> Any:
    scvi.settings.seed = 0
    counts = np.random.default_rng(0).poisson(3.0, (256, 20)).astype(np.float32)
    data = anndata.AnnData(counts)
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data, n_hidden=16, n_latent=4)
    model.train(
        max_epochs=5, batch_size=64, accelerator="cpu", plan_kwargs={"lr": lr}, enable_progress_bar=False,
        callbacks=list(callbacks), train_size=1.0, enable_checkpointing=False,
    )  # fmt: skip
    return model


def finite(model: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in model.module.state_dict().values() if t.is_floating_point())


def test_the_fault_is_there_without_a_guard() -> None:
    with pytest.raises(ValueError, match=r"[Nn]a[Nn]|invalid values"):
        trained()


def test_a_training_of_scvi_goes_on(tmp_path: Path) -> None:
    from vdvae_patch.integrations.lightning import Guard

    guard = Guard(out=tmp_path / "guard")
    assert finite(trained(guard))
    assert guard.guard is not None
    first = guard.guard.skips[0]
    assert first.head == "module.z_encoder.var_encoder", guard.report()
    assert first.holding
    assert first.file is not None
    assert Path(first.file).name == "_base_components.py"
    line = json.loads((tmp_path / "guard" / "skips.jsonl").read_text().splitlines()[0])
    (head,) = line["heads"]
    assert {"log_sigma_max", "mean_max", "kl_max"} <= set(head)


def test_a_training_without_a_fault_is_the_same_training() -> None:
    from vdvae_patch.integrations.lightning import Guard

    guard = Guard()
    plain, guarded = trained(lr=1e-3), trained(guard, lr=1e-3)
    assert guard.guard is not None
    assert not guard.guard.skips
    states = zip(plain.module.state_dict().values(), guarded.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
