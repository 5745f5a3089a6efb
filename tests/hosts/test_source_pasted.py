"""What `source` prints, pasted into the host's file: the host then computes the patched model's loss and gradients."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch

HEAD = """
import torch
import torch.nn.functional as F
from torch import nn


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 4)])
        self.act = nn.Softplus()

    def forward(self, x):
        mean, noise = self.mean(x), torch.randn(len(x), 4)
        z, kl = self.drawn(mean, x, noise)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()
"""

HOSTS = {
    "in a loop": """
    def drawn(self, mean, h, noise):
        for layer in self.layers:
            h = F.softplus(layer(h))
        sigma = h + 1e-3
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
""",
    "a floor of the draw": """
    def drawn(self, mean, h, noise):
        v = self.layers[1](self.layers[0](h))
        sigma = F.softplus(v)
        return mean + (sigma + 1e-3) * noise, 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
""",
    "a floor of the log": """
    def raw(self, h):
        return self.layers[1](self.layers[0](h))

    def drawn(self, mean, h, noise):
        v = self.raw(h)
        sigma = v.exp()
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma + 1e-3)
""",
    "steps of time": """
    def drawn(self, mean, h, noise):
        found = []
        for _ in range(1):
            found.append(F.softplus(self.layers[1](h)))
        sigma = (torch.stack(found, 1)
                 + 1e-2).squeeze(1)
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
""",
    "an activation": """
    def drawn(self, mean, h, noise):
        sigma = self.act(self.layers[1](h)) + 1e-3
        return mean + sigma * noise, 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
""",
    "a bound of means, too": """
    def __init__(self):
        super().__init__()
        self.both, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)
        self.mean = nn.Identity()

    def drawn(self, mean, h, noise):
        mean, v = F.hardtanh(self.both(h), -6, 6).chunk(2, 1)
        return mean + (0.5 * v).exp() * noise, 0.5 * (mean**2 + v.exp() - 1 - v)
""",
    "a sum of outputs": """
    def __init__(self):
        super().__init__()
        self.both, self.more, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)
        self.mean = nn.Identity()

    def drawn(self, mean, h, noise):
        mean, v = (self.both(h) + self.more(h.tanh())).chunk(2, 1)
        return mean + (0.5 * v).exp() * noise, 0.5 * (mean**2 + v.exp() - 1 - v)
""",
    "a matrix": """
    def drawn(self, mean, h, noise):
        v = self.layers[1](h)
        covariance = torch.diag_embed(v.exp()) + 1e-4 * torch.eye(4)
        z = mean + (torch.linalg.cholesky(covariance) @ noise.unsqueeze(2)).squeeze(2)
        trace = torch.diagonal(covariance, dim1=-2, dim2=-1)
        return z, 0.5 * (trace + mean**2 - 1 - torch.logdet(covariance).unsqueeze(1) / 4)
""",
}


def module(file: Path, text: str) -> Any:
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    loss = model(x)
    loss.backward()
    return loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("scale", ["explin", "bounded(0.05, 3)"])
@pytest.mark.parametrize("kind", HOSTS)
def test_the_pasted_host_has_the_loss_and_the_gradients_of_the_patched_one(
    kind: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"{kind}_{scale[:3]}".replace(" ", "_")
    host = module(tmp_path / f"host_{name}.py", HEAD + HOSTS[kind])
    torch.manual_seed(0)
    model, x = host.Coder(), torch.randn(7, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vdvae_patch.patch(model, posterior=scale, heads=vdvae_patch.scan(model, x))
    loss, gradients = run(model, x)
    printed = vdvae_patch.source(model)
    if printed.diff:
        subprocess.run(["patch", "-p0"], input=printed.diff, text=True, check=True, capture_output=True)
    pasted = module(
        tmp_path / f"pasted_{name}.py", f"{(tmp_path / f'host_{name}.py').read_text()}\n\n{printed.functions}"
    )
    again = pasted.Coder()
    again.load_state_dict(model.state_dict())
    for note in printed.notes:  # what no line can say is a statement, which runs as it stands
        exec(note.partition("after the model is built: ")[2], {**vars(pasted), "model": again})
    other, others = run(again, x)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-5)


LAWS = """
class Law:
    def __init__(self, mean, v):
        v = v.clamp(-5, 5)
        self.mean, self.sigma = mean, v.exp() + 1e-2

    def kl(self, other):
        apart = (self.sigma**2 + (self.mean - other.mean) ** 2) / (2 * other.sigma**2)
        return other.sigma.log() - self.sigma.log() + apart - 0.5


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.learned = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 8)
        self.dec = nn.Linear(8, 6)

    def forward(self, x):
        q = Law(*self.one(x).chunk(2, 1))
        z = q.mean + q.sigma * torch.randn_like(q.mean)
        p = FIXED
        kl = q.kl(p)
        r = Law(*self.two(x).chunk(2, 1))
        y = r.mean + r.sigma * torch.randn_like(r.mean)
        kl = kl + r.kl(Law(*self.learned(z).chunk(2, 1)))
        return F.mse_loss(self.dec(torch.cat([z, y], 1)), x) + kl.sum(1).mean()
"""


@pytest.mark.parametrize(
    ("fixed", "prior", "pasted"),
    [
        ("Law(torch.zeros_like(z), torch.zeros_like(z))", "explin", False),
        ("Law(*self.learned(0 * z).chunk(2, 1))", "explin", True),
        ("Law(*self.learned(0 * z).chunk(2, 1))", "upbounded", False),
    ],
    ids=["another call", "one scale", "two scales"],
)
def test_a_line_that_several_calls_lead_to_is_in_the_diff_only_where_all_get_one_scale(
    fixed: str, prior: str, pasted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"laws_{prior}_{len(fixed)}"
    text = HEAD.partition("\n\n\n")[0] + "\n\n" + LAWS.replace("FIXED", fixed)
    host = module(tmp_path / f"{name}.py", text)
    torch.manual_seed(0)
    model, x = host.Coder(), torch.randn(7, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vdvae_patch.patch(model, posterior="explin", prior=prior, heads=vdvae_patch.scan(model, x))
    loss, _ = run(model, x)
    printed = vdvae_patch.source(model)
    assert bool(printed.diff) is pasted
    if not pasted:
        assert any("and for no other" in note for note in printed.notes)
        assert any("calls it, too" in note for note in printed.notes) is (prior == "explin")
        return
    subprocess.run(["patch", "-p0"], input=printed.diff, text=True, check=True, capture_output=True)
    again = module(tmp_path / f"pasted_{name}.py", f"{(tmp_path / f'{name}.py').read_text()}\n\n{printed.functions}")
    other = again.Coder()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(run(other, x)[0], loss, rtol=1e-5, atol=1e-6)
