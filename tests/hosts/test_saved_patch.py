"""A patched model comes back from disk: the same σ, bit for bit, in another process; and nothing else is believed."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import saved_models
import torch
from saved_models import batch, build, outputs
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import scales
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import CheckpointError, PatchError
from vdvae_patch.heads import Head
from vdvae_patch.patching import patch_record
from vdvae_patch.patching.state import variant_of_state
from vdvae_patch.saving import weights

NAMES = list(saved_models.ALL)


def patched(name: str, variant: str | None = None) -> nn.Module:
    model = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of floors
        heads = vdvae_patch.scan(model, batch())
        if variant is None:
            given = dict.fromkeys({head.role for head in heads}, "explin")
            vdvae_patch.patch(model, heads=heads, **given)  # type: ignore[arg-type]
        else:
            vdvae_patch.patch(model, variant, heads=heads)
    return model


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shown(model: nn.Module) -> list[tuple[str, ...]]:
    return [h.row() for h in vdvae_patch.patched_heads(model)]


@pytest.mark.medium
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_comes_back_bit_for_bit_in_another_process(name: str, tmp_path: Path) -> None:
    model = patched(name)
    expected = outputs(model)
    folder = vdvae_patch.save(model, tmp_path / "saved")
    torch.save(expected, tmp_path / "expected.pt")
    code = (
        "import sys, torch, saved_models, vdvae_patch\n"
        f"model = vdvae_patch.load(saved_models.ALL[{name!r}], sys.argv[1])\n"
        "expected = torch.load(sys.argv[2])\n"
        "seen = saved_models.outputs(model)\n"
        "assert len(seen) == len(expected) and all(map(torch.equal, seen, expected))\n"
        "vdvae_patch.unpatch(model)\n"
        "torch.save(saved_models.outputs(model), sys.argv[2])\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "expected.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert equal(torch.load(tmp_path / "expected.pt"), outputs(build(name)))  # unpatched, it is the vanilla model


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_patch_gives_every_head_the_scale_that_it_had(name: str) -> None:
    model = patched(name)
    other = build(name)
    handle = vdvae_patch.apply(other, vdvae_patch.patch_json(model))
    assert shown(other) == shown(model)
    assert equal(outputs(other), outputs(model))
    assert [vars(h.scale) for h in handle.heads] == [vars(h.scale) for h in vdvae_patch.patched_heads(model)]
    assert json.loads(handle.to_json())["patches"] == json.loads(vdvae_patch.patch_json(model))["patches"]
    handle.unpatch()
    assert equal(outputs(other), outputs(build(name)))


def test_a_tensor_with_two_names_is_written_once_and_read_by_both(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = patched("AtOutput")
    vdvae_patch.save(model, tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as file:
        assert len(list(file.keys())) == len(model.state_dict()) - 1
    again = vdvae_patch.load(saved_models.AtOutput, tmp_path / "saved")
    assert again.decoder[2].weight is again.encoder[0].weight
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_a_saved_model_is_readable_by_whom_the_umask_lets_read(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        saved = vdvae_patch.save(patched("AtOutput"), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in saved.iterdir()} == {0o666 & ~mask}


class Twice(nn.Module):
    """Two encoders, which are one module, or two that share their weights, or two."""

    def __init__(self, tied: str) -> None:
        super().__init__()
        self.one, self.two, self.dec = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 6)
        if tied == "modules":
            self.two = self.one
        elif tied == "weights":
            self.two.weight, self.two.bias = self.one.weight, self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        loss = x.new_zeros(())
        for encoder in (self.one, self.two):
            mean, log_var = encoder(x).chunk(2, -1)
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            loss = loss + ((self.dec(z) - x) ** 2).sum() - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()
        return loss


@pytest.mark.parametrize("tied", ["modules", "weights", "nothing"])
@pytest.mark.parametrize("here", ["modules", "weights", "nothing"])
def test_a_model_that_ties_other_weights_is_refused_where_it_would_compute_something_else(
    tied: str, here: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Twice(tied), 3 * torch.randn(5, 6)
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    vdvae_patch.save(model, tmp_path / "saved")
    if tied == here or (tied, here) == ("weights", "nothing"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            again = vdvae_patch.load(Twice(here), tmp_path / "saved")
        named = [str(one.message).split()[0] for one in told if "tie them" in str(one.message)]
        assert named == ([] if tied == here else ["two.weight", "two.bias"])
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        torch.testing.assert_close(again(x), expected, rtol=0, atol=0)
    else:
        with pytest.raises((CheckpointError, PatchError), match=r"was the same module|have other values|other places"):
            vdvae_patch.load(Twice(here), tmp_path / "saved")


def test_what_is_tied_stays_tied_where_it_is_loaded_on_the_meta_device(tmp_path: Path) -> None:
    model, x = Twice("weights"), torch.randn(5, 6)
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    vdvae_patch.save(model, tmp_path / "saved")
    with torch.device("meta"):
        built = Twice("weights")
    again = vdvae_patch.load(built, tmp_path / "saved")
    assert again.two.weight is again.one.weight
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_an_instance_and_a_model_on_the_meta_device_are_loaded_too(tmp_path: Path) -> None:
    model = patched("AtExpression")
    folder = vdvae_patch.save(model, tmp_path / "saved")
    instance = saved_models.AtExpression()
    assert vdvae_patch.load(instance, folder) is instance
    with torch.device("meta"):
        on_meta = saved_models.AtExpression()
    vdvae_patch.load(on_meta, folder)
    assert equal(outputs(instance), outputs(model))
    assert equal(outputs(on_meta), outputs(model))


class WithBuffer(nn.Module):
    """A VAE with a factor that its state_dict does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)
        self.register_buffer("factor", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = self.factor * (mean + (0.5 * logvar).exp() * torch.randn_like(mean))
        return ((self.decoder(z) - x) ** 2).sum() + 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()


def test_a_buffer_that_is_not_saved_and_is_another_one_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = WithBuffer(), torch.randn(3, 4)
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    vdvae_patch.save(model, tmp_path / "same")
    model.factor.fill_(3)
    vdvae_patch.save(model, tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.load(WithBuffer, tmp_path / "same")
    with pytest.warns(UserWarning, match=r"the buffer factor is in no state_dict .* not what it was"):
        vdvae_patch.load(WithBuffer, tmp_path / "other")


class WithSettings(nn.Module):
    """A VAE whose output depends on what its constructor is given, and on a count."""

    def __init__(self, beta: float = 1.0, slope: float = 0.01) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(slope), nn.Linear(4, 4))
        self.decoder, self.beta, self.calls, self.name = nn.Linear(2, 4), beta, 0, f"beta={beta}"

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        mean, logvar = self.encoder(x).chunk(2, 1)
        self.mean = mean
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
        return ((self.decoder(z) - x) ** 2).sum() + self.beta * kl


def test_an_attribute_that_is_not_what_it_was_is_told_with_both_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = WithSettings(beta=4.0, slope=0.2), torch.randn(3, 4)
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    vdvae_patch.save(model, tmp_path / "built")
    model(x)
    vdvae_patch.save(model, tmp_path / "called")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.load(lambda: WithSettings(beta=4.0, slope=0.2), tmp_path / "built")
    with pytest.warns(UserWarning, match=r"keeps calls \(1 then, 0 now\) in attributes"):
        vdvae_patch.load(lambda: WithSettings(beta=4.0, slope=0.2), tmp_path / "called")
    told = r"keeps beta \(4.0 then, 1.0 now\), encoder.1.negative_slope \(0.2 then, 0.01 now\) in attributes"
    with pytest.warns(UserWarning, match=told):
        vdvae_patch.load(WithSettings, tmp_path / "built")


def test_a_wrapped_model_is_saved_as_what_it_wraps(tmp_path: Path) -> None:
    model = patched("AtOutput")
    expected = outputs(model)
    vdvae_patch.save(nn.DataParallel(model), tmp_path / "saved")
    assert equal(outputs(vdvae_patch.load(saved_models.AtOutput, tmp_path / "saved")), expected)
    assert equal(outputs(vdvae_patch.load(nn.DataParallel(saved_models.AtOutput()), tmp_path / "saved")), expected)


class RawOutput(nn.Module):
    """Gives the raw values themselves; what reads them stands outside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    mean, log_variance = model(x).chunk(2, dim=1)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    return (z**2).mean() + 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).mean()


@pytest.fixture
def wrap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[nn.Module], nn.Module]]:
    compiled = partial(torch.compile, backend="eager")
    if request.param == "ddp":
        store = f"file://{tmp_path / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield {
        "dp": nn.DataParallel,
        "compile": compiled,
        "ddp": nn.parallel.DistributedDataParallel,
        "compile of dp": lambda m: compiled(nn.DataParallel(m)),
    }[request.param]
    if request.param == "ddp":
        torch.distributed.destroy_process_group()


WRAPS = pytest.mark.parametrize("wrap", ["dp", "compile", "ddp", "compile of dp"], indirect=True)


@pytest.mark.medium
@WRAPS
@pytest.mark.filterwarnings("ignore:head")  # of floors
@pytest.mark.parametrize("name", [*NAMES, "RawOutput"])
def test_a_model_that_was_patched_through_its_wrapper_is_saved_by_its_own_paths(
    name: str, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    kind, call = (RawOutput, _loss) if name == "RawOutput" else (saved_models.ALL[name], None)
    model = RawOutput() if name == "RawOutput" else build(name)
    wrapper = wrap(model)
    before = vars(model).keys() | {type(model)}
    heads = vdvae_patch.scan(wrapper, batch(), call=call)
    roles = dict.fromkeys({head.role for head in heads}, "explin")
    vdvae_patch.patch(wrapper, heads=heads, **roles)  # type: ignore[arg-type]
    expected = model(batch()) if name == "RawOutput" else outputs(model)
    assert vdvae_patch.patch_json(wrapper) == vdvae_patch.patch_json(model)
    for one in (wrapper, model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        vdvae_patch.check_intact(one)
        again = vdvae_patch.load(kind, vdvae_patch.save(one, tmp_path / "saved", overwrite=True))
        found = again(batch()) if name == "RawOutput" else outputs(again)
        assert torch.equal(found, expected) if name == "RawOutput" else equal(found, expected)  # type: ignore[arg-type]
        assert not any("module" in row[0] or "_orig_mod" in row[0] for row in shown(again))
        assert shown(again) == shown(model)
    assert variant_of_state(model.state_dict()) is not None
    vdvae_patch.unpatch(wrapper)
    assert vars(model).keys() | {type(model)} == before
    assert not model._state_dict_hooks
    assert not wrapper._state_dict_hooks


@WRAPS
def test_a_patch_is_taken_back_from_the_model_in_its_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = build("AtOutput")
    expected, wrapper = outputs(model), wrap(model)
    _explin(wrapper)
    vdvae_patch.unpatch(model)
    assert equal(outputs(model), expected)
    assert not vdvae_patch.is_patched(wrapper)
    with pytest.raises(PatchError, match="the model is not patched"):
        vdvae_patch.unpatch(wrapper)
    _explin(wrapper)
    vdvae_patch.check_intact(model)
    rest = nn.ModuleDict({"vae": model})  # the wrapper is gone
    assert [h.head.path for h in vdvae_patch.patched_heads(rest)] == ["vae.encoder.2"]
    model.encoder = nn.Linear(8, 8)
    with pytest.raises(PatchError, match=r"encoder\.2\.forward: the patch is gone"):
        vdvae_patch.check_intact(model)


def _explin(model: nn.Module) -> None:
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, batch()))


def test_two_patched_parts_of_one_model_come_back(tmp_path: Path) -> None:
    def both() -> nn.ModuleDict:
        return nn.ModuleDict({"teacher": build("AtOutput"), "student": build("AtExpression")})

    model = nn.ModuleDict({"teacher": patched("AtOutput", "upbounded"), "student": patched("AtExpression")})
    vdvae_patch.save(model, tmp_path / "saved")
    again = vdvae_patch.load(both, tmp_path / "saved")
    assert shown(again) == shown(model)
    for part in ("teacher", "student"):
        assert equal(outputs(again[part]), outputs(model[part]))
    vdvae_patch.unpatch(again)
    assert not vdvae_patch.is_patched(again)


def test_a_named_host_is_found_by_its_name_or_given() -> None:
    from vdvae_patch.patches.mlp_vae import HOST

    host = vdvae_patch.load_host("mlp_vae")

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        architecture: Any = HOST.architecture()
        return host.build(HOST.hyperparameters(architecture, image_size=4, image_channels=1, data="builtin"))

    model = fresh()
    vdvae_patch.patch(model, posterior="explin", heads=host.heads(model))
    text = vdvae_patch.patch_json(model)
    assert {head["given"]["host"] for head in json.loads(text)["patches"][0]["heads"]} == {"mlp_vae"}
    document = json.loads(text.replace('"mlp_vae"', '"nobody"'))
    of_nobody = {name: value for name, value in document.items() if name != "checksum"}
    by_name, by_hand = fresh(), fresh()
    vdvae_patch.apply(by_name, text)
    vdvae_patch.apply(by_hand, of_nobody, heads=host.heads(by_hand))
    assert shown(by_name) == shown(by_hand) == shown(model)
    with pytest.raises(PatchError, match=r"host 'mlp_vae'|no head|has no module|not among"):
        vdvae_patch.apply(build("AtOutput"), text)
    with pytest.raises(PatchError, match=r"'nobody'.*load_entry_file, or give heads="):
        vdvae_patch.apply(fresh(), of_nobody)


class Squared(Convention):
    """σ = v², registered nowhere."""

    name = "squared"

    def sigma(self, v: Tensor) -> Tensor:
        return v.square()

    def preimage(self, scale: scales.Scale, p: Tensor) -> Tensor:
        return scale.sigma(p).sqrt()


def test_a_convention_that_is_registered_nowhere_is_given_again() -> None:
    heads = [Head("encoder.2", "posterior", 4, 8, convention=Squared())]
    model = build("AtOutput")
    vdvae_patch.patch(model, posterior="explin", heads=heads)
    text = vdvae_patch.patch_json(model)
    with pytest.raises(PatchError, match=r"names no host; give them by heads="):
        vdvae_patch.apply(build("AtOutput"), text)
    other = build("AtOutput")
    vdvae_patch.apply(other, text, heads=heads)
    assert equal(outputs(other), outputs(model))


def test_a_scale_that_is_registered_nowhere_is_refused_when_it_is_written() -> None:
    class Own(scales.ExpLin):
        pass

    model = build("AtOutput")
    vdvae_patch.patch(model, posterior=Own(), heads=[Head("encoder.2", "posterior", 4, 8)])
    with pytest.raises(PatchError, match=r"SCALES\.register"):
        vdvae_patch.patch_json(model)


# --- what is refused --------------------------------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], Any]

DAMAGES: dict[str, tuple[Change, str]] = {
    "another format": (lambda d: d.update(format="onnx"), "is no patch of vdvae_patch"),
    "a later version": (lambda d: d.update(version=2), "version 2"),
    "a version that is no number": (lambda d: d.update(version="1"), r"version: must be a number, not '1'"),
    "an unknown field": (lambda d: d.update(run="rm"), "unknown field 'run'"),
    "no versions": (lambda d: d.update(made_with={}), r"made_with: the field 'vdvae_patch' is missing"),
    "no patches": (lambda d: d.update(patches=[]), "patches is empty"),
    "patches that are a text": (lambda d: d.update(patches="x"), r"patches: must be a list, not 'x'"),
    "no variant": (lambda d: d["patches"][0].pop("variant"), "'variant' is missing"),
    "an unknown scale": (lambda d: d["patches"][0].update(variant="explinn"), "did you mean 'explin'"),
    "a role": (lambda d: d["patches"][0]["heads"][0].update(role="x"), r"heads\[0\].role: must be one of posterior"),
    "a scale that is code": (
        lambda d: d["patches"][0]["heads"][0].update(scale="open('x')"), r"heads\[0\].scale: scale .* is not a number"
    ),
    "a scale's argument": (
        lambda d: d["patches"][0]["heads"][0].update(scale="upbounded(omega=-1)"), "omega must be a positive number"
    ),
    "a path": (lambda d: d["patches"][0]["heads"][0].update(path="nowhere"), "the model has no module 'nowhere'"),
    "channels": (lambda d: d["patches"][0]["heads"][0]["channels"].update(start=-1), "are empty"),
    "a step": (
        lambda d: d["patches"][0]["heads"][0].update(convention={"steps": [["exec", 1]]}), "a step must be one of"
    ),
    "a step's constants": (
        lambda d: d["patches"][0]["heads"][0].update(convention={"steps": [["exp", 1.0]]}), "has 0 constants, not 1"
    ),
    "a factor of zero": (
        lambda d: d["patches"][0]["heads"][0].update(convention={"steps": [["mul", 0], ["exp"]]}), "cannot be undone"
    ),
    "a billion channels": (
        lambda d: d["patches"][0]["heads"][0]["channels"].update(stop=10**9), "no module has such channels"
    ),
    "an operand that is a text": (
        lambda d: d["patches"][0]["heads"][0]["sites"][0].update(operand="0"), "operand: must be a number, not '0'"
    ),
    "true for a number": (
        lambda d: d["patches"][0]["heads"][0]["channels"].update(step=True), "must be a number, not True"
    ),
    "other attachments": (lambda d: d["patches"][0].update(attachments=[]), "would reach other places"),
    "an arithmetic": (lambda d: d["patches"][0].update(arithmetic="auto"), "must be 'stable' or 'host'"),
    "a place": (lambda d: d["patches"][0].update(at="inner"), "the model has no module 'inner'"),
    "an expression": (
        lambda d: d["patches"][0]["heads"][0]["sites"][0].update(last="gone(x)"), r"holds 'gone\(x\)' nowhere"
    ),
    "an operand": (lambda d: d["patches"][0]["heads"][0]["sites"][0].update(operand=99), "99 is no operand"),
    "a method": (lambda d: d["patches"][0]["heads"][0]["sites"][0].update(method="f"), "has no method 'f'"),
    "an owner": (lambda d: d["patches"][0]["heads"][0]["sites"][0].update(owner="f"), "the model has no module 'f'"),
    "foreign code": (
        lambda d: d["patches"][0]["heads"][0]["sites"][0].update(calls=[["_sigma(raw)", "shutil", "rmtree"]]),
        "leads to shutil:rmtree, which is no code that the model has loaded",
    ),
    "a module to import": (
        lambda d: d["patches"][0]["heads"][0]["sites"][0].update(calls=[["_sigma(raw)", "antigravity", "geohash"]]),
        "leads to antigravity:geohash",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_patch_is_one_error_that_names_what_is_wrong(damage: str) -> None:
    document = json.loads(vdvae_patch.patch_json(patched("AtExpression")))
    change, message = DAMAGES[damage]
    change(document)
    del document["checksum"]
    model = build("AtExpression")
    with pytest.raises(PatchError, match=message):
        vdvae_patch.apply(model, document)
    assert not vdvae_patch.is_patched(model)
    assert "antigravity" not in sys.modules
    assert equal(outputs(model), outputs(build("AtExpression")))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", "NaN", "[" * 100_000, '{"format": "vdvae_patch", "format": "vdvae_patch"}', "\x80", "7"],
)
def test_what_is_no_patch_is_a_patch_error(text: str) -> None:
    with pytest.raises(PatchError, match="the patch is"):
        vdvae_patch.apply(build("AtOutput"), text)


def test_a_number_that_was_changed_in_a_saved_patch_is_noticed_and_may_be_meant(tmp_path: Path) -> None:
    folder = vdvae_patch.save(patched("AtOutput"), tmp_path / "saved")
    text = (folder / "patch.json").read_text()
    other = text.replace('"start": 4', '"start": 5')
    assert other != text
    (folder / "patch.json").write_text(other)
    with pytest.raises(PatchError, match="its checksum does not match; delete the field 'checksum' if you changed it"):
        vdvae_patch.load(saved_models.AtOutput, folder)
    laid_out = json.dumps(json.loads(text), sort_keys=True)
    for kept in (laid_out, json.dumps({k: v for k, v in json.loads(text).items() if k != "checksum"})):
        (folder / "patch.json").write_text(kept)
        vdvae_patch.load(saved_models.AtOutput, folder)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    folder = vdvae_patch.save(patched("AtOutput"), tmp_path / "saved")
    for name in ("patch.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises((PatchError, CheckpointError)):
                vdvae_patch.load(saved_models.AtOutput, folder)
        (folder / name).write_bytes(whole)
    vdvae_patch.load(saved_models.AtOutput, folder)


def test_weights_that_are_not_those_of_the_patch_or_of_the_model_are_refused(tmp_path: Path) -> None:
    one = vdvae_patch.save(patched("AtOutput"), tmp_path / "one")
    two = vdvae_patch.save(patched("AtExpression"), tmp_path / "two")
    with pytest.raises(
        CheckpointError, match=r"has decoder.bias, which the model lacks|lacks decoder.0.bias, which the"
    ):
        vdvae_patch.load(saved_models.AtOutput, two)
    model = saved_models.AtOutput().double()
    with pytest.raises(CheckpointError, match=r"torch.float32, and torch.float64 in the model"):
        vdvae_patch.load(model, one)
    assert not vdvae_patch.is_patched(model)
    (one / "model.safetensors").write_bytes((two / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="its SHA-256 is another"):
        vdvae_patch.load(saved_models.AtOutput, one)
    (one / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is missing"):
        vdvae_patch.load(saved_models.AtOutput, one)
    with pytest.raises(CheckpointError, match=r"is no folder that vdvae_patch.save wrote"):
        vdvae_patch.load(saved_models.AtOutput, tmp_path / "three")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bias"), "lacks bias, which the model has; it is another model"),
        (lambda state: state.update(gain=torch.ones(2)), "has gain, which the model lacks; it is another model"),
        (lambda state: state.update(bias=torch.ones(3)), r"bias has the shape \(3,\), and \(2,\) in the model"),
        (
            lambda state: state.update(bias=torch.ones(2).half()),
            "bias is torch.float16, and torch.float32 in the",
        ),
    ],
)
def test_names_shapes_and_types_of_the_weights_are_those_of_the_model(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    model, file = nn.Linear(3, 2), Path("model.safetensors")
    state = dict(model.state_dict())
    weights.check_fits(model, state, file)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        weights.check_fits(model, state, file)


def test_a_model_whose_source_changed_is_refused_with_the_reason(tmp_path: Path, monkeypatch: Any) -> None:
    import importlib

    monkeypatch.syspath_prepend(tmp_path)
    text = Path(saved_models.__file__).read_text()
    (tmp_path / "before_edit.py").write_text(text)
    (tmp_path / "with_comment.py").write_text(f"# a comment that moves every line\n{text}")
    (tmp_path / "after_edit.py").write_text(
        text.replace("F.softplus(raw + 0.5) + 1e-3", "F.softplus(raw + 0.5) + 2e-3")
    )
    before = importlib.import_module("before_edit").AtExpression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of floors
        vdvae_patch.patch(before, "explin", heads=vdvae_patch.scan(before, batch()))
    patch = json.dumps({k: v for k, v in json.loads(vdvae_patch.patch_json(before)).items() if k != "checksum"})
    commented = importlib.import_module("with_comment").AtExpression()
    vdvae_patch.apply(commented, patch.replace('"before_edit"', '"with_comment"'))
    edited = importlib.import_module("after_edit").AtExpression()
    with pytest.raises(PatchError, match=r"_sigma holds 'F.softplus\(raw \+ 0.5\) \+ 0.001' nowhere.*another version"):
        vdvae_patch.apply(edited, patch.replace('"before_edit"', '"after_edit"'))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vdvae_patch.saving import weights

    model = patched("AtOutput")
    folder = vdvae_patch.save(model, tmp_path / "saved")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(CheckpointError, match="exists already"):
        vdvae_patch.save(model, folder)

    def killed(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patching:
        patching.setattr(weights, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            vdvae_patch.save(model, folder, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    with torch.no_grad():
        model.encoder[0].bias.add_(1)
    vdvae_patch.save(model, folder, overwrite=True)
    assert equal(outputs(vdvae_patch.load(saved_models.AtOutput, folder)), outputs(model))
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds other files \(notes.txt\)"):
        vdvae_patch.save(model, folder, overwrite=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one move")
def test_a_folder_that_is_written_anew_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vdvae_patch.save(patched("AtOutput"), tmp_path / "saved")
    rename, there = Path.rename, []

    def watched(self: Path, target: Any) -> Path:
        moved = rename(self, target)
        there.append(folder.exists())
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    vdvae_patch.save(patched("AtOutput"), folder, overwrite=True)
    assert all(there)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="is not patched"):
        vdvae_patch.save(build("AtOutput"), tmp_path / "saved")
    model = patched("AtOutput")
    with pytest.raises(PatchError, match="is patched already"):
        vdvae_patch.load(model, vdvae_patch.save(model, tmp_path / "saved"))
    model.encoder[2] = nn.Linear(8, 8)
    with pytest.raises(PatchError, match="the patch is gone"):
        vdvae_patch.save(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# --- the note in a state_dict -----------------------------------------------------------------------------------------


def test_a_state_dict_says_under_which_patch_it_was_made_and_has_the_same_keys_and_values(tmp_path: Path) -> None:
    vanilla, model = build("AtOutput"), patched("AtOutput")
    state = model.state_dict()
    assert list(state) == list(vanilla.state_dict())
    assert all(torch.equal(state[key], value) for key, value in vanilla.state_dict().items())
    torch.save(state, tmp_path / "weights.pt")
    again = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert variant_of_state(again) == str(patch_record(model).variant)
    assert variant_of_state(dict(again)) is None
    with pytest.warns(UserWarning, match="made under the patch .*, and the model is not patched") as seen:
        vdvae_patch.load_state_dict(vanilla, again)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.load_state_dict(model, again)
        vdvae_patch.load_state_dict(build("AtOutput"), build("AtOutput").state_dict())
    with pytest.warns(UserWarning, match="and the model is patched with upbounded"):
        vdvae_patch.load_state_dict(patched("AtOutput", "upbounded"), again)


class Softplus(nn.Module):
    """A σ that is no exponential, so that gain and shift are fitted to a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        sigma = nn.functional.softplus(raw)
        z = mean + sigma * torch.randn_like(mean)
        return ((self.decoder(z) - x) ** 2).mean() + (0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)).mean()


def fitted_to(size: float) -> nn.Module:
    """Patched at the top of a script, as it is run again before a training goes on."""
    x = size * torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    model = Softplus()
    vdvae_patch.patch(model, "upbounded", heads=vdvae_patch.scan(model, x), paper=False)
    return model


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: nn.ModuleDict({"vae": model})])
def test_weights_whose_gains_were_fitted_to_another_batch_are_told_by_the_model_itself(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    state = wrap(fitted_to(1.0)).state_dict()
    with pytest.warns(
        UserWarning, match=r"were made with upbounded\(gain=.* for encoder\[4:8\], and the model has"
    ) as seen:
        wrap(copy.deepcopy(fitted_to(3.0))).load_state_dict(state)
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="fitted to another batch or to other weights") as seen:
        vdvae_patch.load_state_dict(wrap(fitted_to(3.0)), state)
    assert len(seen) == 1


def test_of_several_patched_models_in_one_the_one_that_differs_is_told_whichever_loads() -> None:
    state = nn.ModuleDict({"a": fitted_to(1.0), "b": fitted_to(3.0)}).state_dict()
    for load in (nn.Module.load_state_dict, vdvae_patch.load_state_dict):
        with pytest.warns(UserWarning, match="fitted to another batch or to other weights") as seen:
            load(nn.ModuleDict({"a": fitted_to(1.0), "b": fitted_to(1.0)}), state)
        assert len(seen) == 1


def test_weights_of_the_same_patch_of_none_or_into_a_vanilla_model_load_without_a_word() -> None:
    model = fitted_to(3.0)
    again = Softplus()
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(model.state_dict())
        again.load_state_dict(Softplus().state_dict())
        pickle.loads(pickle.dumps(again)).load_state_dict(model.state_dict())
        vdvae_patch.unpatch(again)
        again.load_state_dict(model.state_dict())


def test_the_note_goes_with_copies_and_goes_away_with_the_patch() -> None:
    model = patched("AtOutput", "upbounded")
    twin = copy.deepcopy(model)
    assert variant_of_state(twin.state_dict()) == variant_of_state(nn.Sequential(model).state_dict()) == "upbounded"
    vdvae_patch.unpatch(twin)
    assert variant_of_state(twin.state_dict()) is None
    assert not twin._state_dict_hooks
    assert variant_of_state(model.state_dict()) == "upbounded"
    for _ in range(2):
        vdvae_patch.scan(model, batch())  # which lifts the patch for a while
    assert len(model._state_dict_hooks) == 1


def test_model_and_folder_the_other_way_round_are_told_apart(tmp_path: Path) -> None:
    model = build("AtOutput")
    _explin(model)
    with pytest.raises(PatchError, match=r"save takes the model first and then the folder.*got a str and a AtOutput"):
        vdvae_patch.save("folder", model)  # type: ignore[arg-type]
    vdvae_patch.save(model, tmp_path / "saved")
    with pytest.raises(PatchError, match=r"load takes the model first and then the folder"):
        vdvae_patch.load(tmp_path / "saved", build("AtOutput"))  # type: ignore[call-overload, arg-type]
