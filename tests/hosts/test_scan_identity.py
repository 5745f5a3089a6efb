"""A scan knows its tensors: one that is made where a freed one lay is another, and a sparse one is itself."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.scanning import scan
from vdvae_patch.scanning.watching.record import Recorder


def test_a_constant_that_is_made_where_a_learned_tensor_lay_is_not_learned() -> None:
    model, x, numbers = nn.Linear(3, 3), torch.randn(3), np.ones(3, dtype=np.float32)
    recorder = Recorder(model, [x])
    with recorder:
        for _ in range(400):
            learned = model(x).exp()
            del learned
            assert not recorder.node_of(torch.from_numpy(numbers)).params
            assert not recorder.node_of(torch.tensor(0.5)).params


def test_a_scan_keeps_no_tensor_alive() -> None:
    x = torch.randn(1000)
    recorder = Recorder(nn.Linear(3, 3), [x])
    with recorder:
        kept = weakref.ref((x * 2).untyped_storage())
        temporary = x * 3
        storage = torch.multiprocessing.reductions.StorageWeakRef(temporary.untyped_storage())
        del temporary
    gc.collect()
    assert kept() is None
    assert storage.expired()


class Bayesian(nn.Module):
    """Many freed temporaries and constants made unseen, which scans used to mix up from run to run."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.rho = nn.Parameter(torch.zeros(6, 3)), nn.Parameter(torch.full((6, 3), -3.0))

    def forward(self, x: Tensor) -> Tensor:
        sigma = torch.log1p(torch.exp(self.rho))
        w = self.mean + sigma * torch.distributions.Normal(0, 1).sample(self.rho.size())
        log_q = (-sigma.log() - (w - self.mean) ** 2 / (2 * sigma**2)).sum()
        wide = torch.distributions.Normal(0, 1).log_prob(w).sum()
        return log_q - wide + (x @ w).square().mean()


def test_scans_of_one_model_and_batch_agree() -> None:
    model, x = Bayesian(), torch.randn(5, 6)
    scans = [[(h.path, h.role) for h in scan(model, x)] for _ in range(8)]
    assert scans == [[("rho", "posterior")]] * 8


class Neighbours(nn.Module):
    """Averages over a sparse adjacency before and after the network."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_sigma = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = torch.sparse.mm(edges.to_sparse(), x)
        mean, log_sigma = torch.sparse.mm(edges.to_sparse_csr(), self.mean(h)), self.log_sigma(h)
        z = mean + torch.randn_like(mean) * log_sigma.exp()
        kl = -0.5 * (1 + 2 * log_sigma - mean**2 - (2 * log_sigma).exp()).sum()
        return kl + z.square().mean()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_do_not_stop_a_scan() -> None:
    heads = scan(Neighbours(), torch.randn(5, 4), torch.eye(5))
    assert [(h.path, h.role) for h in heads] == [("log_sigma", "posterior")]
