"""Which products of float32 are taken, while a block runs: exact ones, or those of TF32's 10 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vdvae_patch.gpu_bench.cells import Arithmetic
from vdvae_patch.train.config import Precision


@contextmanager
def products(arithmetic: Arithmetic) -> Iterator[None]:
    """Matrix products and convolutions alike, which torch's defaults treat differently: it takes TF32 for
    convolutions and not for matrix products. A CPU has no TF32."""
    allowed = arithmetic != "ieee"
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def precision_of(arithmetic: Arithmetic) -> Precision:
    """What `train` calls it."""
    return "bf16" if arithmetic == "bf16" else "fp32"
