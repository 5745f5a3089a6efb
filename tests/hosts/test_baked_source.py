"""`source` prints plain torch that has the σ of the patch, and the lines of the host that call it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saved_models
import torch
from saved_models import batch, build, outputs
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import conventions, scales
from vdvae_patch.baking.functions import of_scale
from vdvae_patch.composition import Composition, Step
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head

SPECS = [
    "exp",
    "naiveexp",
    "explin",
    "explin(gain=0.5, shift=-0.25)",
    "explin(gain=-2)",
    "upbounded",
    "upbounded(omega=256)",
    "upbounded(gain=0.5, shift=0.693147)",
    "downbounded(0.1)",
    "downbounded(1e-6)",
    "bounded(0.1, 2)",
    "bounded(1e-30, 1)",
    "softplus",
    "softplus(beta=0.6931471805599453)",
    "softclamp",
    "clamp",
    "constant",
    "constant(0.3)",
]

CONVENTIONS: list[Convention] = [
    conventions.get("log_sigma"),
    conventions.get("log_variance"),
    conventions.get("sigma"),
    conventions.get("variance"),
    conventions.get("softplus(beta=2)"),
    Composition([Step("mul", (0.5,)), Step("exp")]),
    Composition([Step("add", (0.5,)), Step("softplus", (1.0,))]),
    Composition([Step("exp"), Step("pow", (0.5,))]),
    Composition([Step("mul", (-0.5,)), Step("exp"), Step("mul", (3.0,))]),
]


def function(text: str) -> Callable[[Tensor], Tensor]:
    names: dict[str, Any] = {"torch": torch}
    exec(text, names)
    found: Callable[[Tensor], Tensor] = names["written"]
    return found


@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_the_printed_function_is_the_scale_in_float32_with_its_gradient(spec: str, convention: Convention) -> None:
    scale = scales.get(spec)
    written = function(of_scale(scale, convention).named("written"))
    ours, theirs = (torch.linspace(-80, 80, 3201).requires_grad_() for _ in range(2))
    expected, seen = convention.preimage(scale, ours), written(theirs)
    usual = expected.isfinite()
    assert torch.equal(usual, seen.isfinite())
    torch.testing.assert_close(seen[usual], expected[usual], rtol=2e-5, atol=2e-6)
    if spec.startswith("constant"):
        assert not seen.requires_grad
        return
    (wanted,) = torch.autograd.grad(expected[usual].sum(), ours)
    (gradient,) = torch.autograd.grad(seen[usual].sum(), theirs)
    sane = wanted.isfinite()
    assert gradient[sane].isfinite().all()
    torch.testing.assert_close(gradient[sane], wanted[sane], rtol=1e-4, atol=1e-6)


def _patched(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of floors
        heads = vdvae_patch.scan(model, batch())
        given = dict.fromkeys({head.role for head in heads}, "explin")
        vdvae_patch.patch(model, heads=heads, **given)  # type: ignore[arg-type]
    return model


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _built(module: Any, name: str) -> nn.Module:
    model: nn.Module = getattr(module, name)()
    model.load_state_dict(build(name).state_dict())
    return model


@pytest.mark.parametrize("name", ["AtOutput", "AtExpression", "WithParameter"])
def test_the_host_with_the_printed_lines_computes_what_the_patched_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = Path(saved_models.__file__).read_text()
    (tmp_path / f"host_{name}.py").write_text(text)
    model = _patched(_built(_module(tmp_path / f"host_{name}.py"), name))
    printed = vdvae_patch.source(model)
    assert printed.diff.startswith(f"--- host_{name}.py\n+++ host_{name}.py\n@@")
    subprocess.run(["patch", "-p0"], input=printed.diff, text=True, check=True, cwd=tmp_path, capture_output=True)
    edited = (tmp_path / f"host_{name}.py").read_text()
    assert edited != text
    (tmp_path / f"baked_{name}.py").write_text(f"{edited}\n\n{printed.functions}")
    baked = _built(_module(tmp_path / f"baked_{name}.py"), name)
    for one, other in zip(outputs(baked), outputs(model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(model)[0], outputs(build(name))[0])


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.post = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.post(x).chunk(2, dim=1)
        kl = 0.5 * (torch.exp(2 * log_sigma) + mean**2 - 1) - log_sigma
        return x + (mean + log_sigma.exp() * torch.randn_like(mean)).repeat(1, 2), kl


class Levels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([Level(), Level()])

    def forward(self, x: Tensor) -> Tensor:
        kl = torch.zeros(())
        for level in self.levels:
            x, own = level(x)
            kl = kl + own.mean()
        return kl + x.square().mean()


def test_a_line_that_calls_layers_with_several_scales_stays_and_each_layer_has_a_hook_of_its_own() -> None:
    torch.manual_seed(0)
    model, x = Levels(), 3 * torch.randn(4, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that σ is above 1, where the scales differ from the host's
    heads = [Head(f"levels.{i}.post.1", role, 4, 8) for i, role in enumerate(("posterior", "prior"))]
    for given in (("explin", "explin"), ("explin", "upbounded"), ("explin", "vanilla")):
        handle = vdvae_patch.patch(model, "/".join(given), heads=heads)
        printed, patched = vdvae_patch.source(model), _seeded(model, x)
        handle.unpatch()
        assert bool(printed.diff) == (len(set(given)) == 1)
        space: dict[str, Any] = {"model": model}
        exec(printed.functions, space)
        if printed.diff:
            assert printed.diff.count("+        mean, log_sigma = with_stable") == 1
            continue
        hooks = [eval(note.split("built: ")[1], space) for note in printed.notes]
        assert len(hooks) == len(set(given) - {"vanilla"})
        torch.testing.assert_close(_seeded(model, x), patched)
        for hook in hooks:
            hook.remove()


def _seeded(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    loss: Tensor = model(x)
    return loss


def test_what_no_line_can_say_is_said_in_words() -> None:
    activation = vdvae_patch.source(_patched(build("WithActivation")))
    assert "is called no more" in str(activation) or activation.diff
    assert any("takes the log of σ itself" in note for note in vdvae_patch.source(_patched(build("WithNormal"))).notes)
    model = build("AtOutput")
    vdvae_patch.patch(model, "vanilla", heads=vdvae_patch.scan(model, batch()))
    assert str(vdvae_patch.source(model)) == "# every σ is the host's own, so that nothing is to be written"
    from vdvae_patch.patches.mlp_vae import HOST

    host = vdvae_patch.load_host("mlp_vae")
    architecture: Any = HOST.architecture()
    model = host.build(HOST.hyperparameters(architecture, image_size=4, image_channels=1, data="builtin"))
    vdvae_patch.patch(model, posterior="explin", heads=host.heads(model))
    assert "is replaced as a whole by vdvae_patch.patches" in str(vdvae_patch.source(model))


def test_every_scale_says_how_it_is_written() -> None:
    known = {spec.split("(")[0] for spec in SPECS}
    assert known == set(scales.SCALES) - {name for name in scales.SCALES if not _is_ours(name)}


def _is_ours(name: str) -> bool:
    return str(getattr(scales.SCALES.get_class(name), "__module__", "")).startswith("vdvae_patch.")


def test_a_scale_that_does_not_say_how_it_is_written_and_an_unpatched_model_are_refused() -> None:
    class Own(scales.ExpLin):
        def written(self) -> None:
            return None

    model = build("AtOutput")
    with pytest.raises(PatchError, match="is not patched"):
        vdvae_patch.source(model)
    vdvae_patch.patch(model, posterior=Own(), heads=[Head("encoder.2", "posterior", 4, 8)])
    with pytest.raises(PatchError, match="give its class a method `written`"):
        vdvae_patch.source(model)
