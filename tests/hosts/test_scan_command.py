"""`vdvae-patch scan`: the table, JSON, a patch file, and errors that say what to do."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo

from vdvae_patch.cli import dispatch
from vdvae_patch.cli import scan as command
from vdvae_patch.errors import HostError, InvalidValueError, PatchError, RunError, UnknownNameError
from vdvae_patch.hosts.discovery import HostRegistry, load_entry_file
from vdvae_patch.patching import patch

FOLDER = str(Path(zoo.__file__).parents[1])


def run(*arguments: str) -> int:
    return command.run([*arguments, "--path", FOLDER])


def test_it_prints_each_head_with_its_place_and_what_a_patch_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zoo.likelihoods:NormalDecoder", "--input", "5x6", "--patch", "explin") == 0
    out = capsys.readouterr().out
    assert "enc   4:8       posterior   log_sigma              output" in out
    assert "replaces the output of enc" in out
    assert "softplus(floor=0.001) has a floor or a bound" in out
    assert "remedy: explin or upbounded" in out
    assert "patched as explin, and the sigma that the model then uses was compared with it" in out


def test_it_warns_of_a_likelihood_without_a_lower_bound_and_of_a_log_of_an_exponential(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("zoo.likelihoods:Squashed", "--input", "5x6") == 0
    assert run("zoo.deep:ResidualProduct", "--input", "5x6") == 0
    out = capsys.readouterr().out
    assert "the likelihood's σ has no lower bound" in out
    assert "the log of an exponential is −∞" in out


def test_json_has_every_field_of_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    run("zoo.plain:SeparateLayers", "--input", "5x6", "--call", "zoo.plain:separate_loss", "--json")
    (head,) = json.loads(capsys.readouterr().out)["heads"]
    assert (head["path"], head["role"], head["convention"]) == ("fc22", "posterior", "log_variance")
    assert head["confidence"] == "sure"
    assert head["shape"] == [5, 4]
    assert head["file"].endswith("plain.py")
    assert head["patch_at"] == "output"


@pytest.mark.parametrize("name", ["deep:ResidualSum", "plain:ThreeWays", "deep:Vamp", "plain:OnlySampled"])
def test_the_patch_file_that_it_writes_gives_the_same_heads(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    assert run(f"zoo.{name}", "--input", "5x6", "--write", str(file)) == 0
    entry = load_entry_file(file, HostRegistry("vdvae_patch.patches", "none"))
    module = importlib.import_module(f"zoo.{name.split(':')[0]}")
    model = entry.build({module.__name__: module}, {})
    heads = entry.heads(model)
    patch(model, heads=heads, **dict.fromkeys({head.role for head in heads}, "explin"))  # a VampPrior has two roles
    assert torch.isfinite(model(torch.randn(5, 6))).all()


def test_a_head_that_no_file_can_have_is_named_when_one_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.py").write_text(
        "import torch\n"
        "class VAE(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.encoder, self.decoder = torch.nn.Linear(6, 8), torch.nn.Linear(4, 6)\n"
        "        self.log_gamma = torch.nn.Parameter(torch.tensor(0.0))\n"
        "    def forward(self, x):\n"
        "        mean, raw = self.encoder(x).chunk(2, 1)\n"
        "        return self.decoder(mean + raw.exp() * torch.randn_like(mean)), mean, raw\n"
        "def loss(model, x):\n"
        "    y, mean, raw = model(x)\n"
        "    nll = 0.5 * ((x - y) / model.log_gamma.exp()) ** 2 + model.log_gamma\n"
        "    return (nll.sum(1) + (0.5 * (mean**2 + (2 * raw).exp() - 1) - raw).sum(1)).mean()\n"
    )
    file = tmp_path / "mine.py"
    beside = ("--call", "beside:loss", "--path", str(tmp_path))
    assert run("beside:VAE", "--input", "5x6", *beside, "--write", str(file)) == 0
    assert "not in it: log_gamma[:] (likelihood), whose σ is computed beside the model" in capsys.readouterr().err
    assert "Head('encoder'" in file.read_text()


def test_a_model_without_heads_ends_with_1_and_the_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zoo.without:GAN", "--input", "5x6") == 1
    out = capsys.readouterr().out
    assert out.startswith("no Normal head")
    assert "a parameter scales noise, and no density or KL measures it: a noise layer" in out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("zoo.nothing:X", "--input", "5x6"), HostError, "tried .*; name its folder with --path"),
        (("zoo.plain:ThreeWay", "--input", "5x6"), HostError, "did you mean 'ThreeWays'"),
        (("zoo.plain", "--input", "5x6"), InvalidValueError, "not of the form PACKAGE.MODULE:NAME"),
        (("zoo/plain.py:ThreeWays", "--input", "5x6"), InvalidValueError, "is wanted, .*: plain:ThreeWays --path zoo"),
        (("plain.py", "--input", "5x6"), InvalidValueError, "names a file, .* in it: plain:NAME$"),
        (("zoo.plain:ThreeWays", "--input", "5x7"), RunError, r"ThreeWays\(5x7\) failed: .*cannot be multiplied"),
        (("zoo.plain:ThreeWays", "--input", "5by6"), InvalidValueError, "is not a shape"),
        (("zoo.plain:ThreeWays", "--input", "5x-6"), InvalidValueError, "is not a shape"),
        (("zoo.plain:ThreeWays", "--input", "9223372036854775808"), InvalidValueError, "is not a shape"),
        (("zoo.plain:ThreeWays", "--input", "1" + "0" * 400), InvalidValueError, "is not a shape"),
        (("zoo.plain:ThreeWays", "--input", "5x6:quint8"), InvalidValueError, "torch fills no tensor of torch.quint8"),
        (("zoo.plain:ThreeWays", "--input", "5x6", "--seed", "-1"), InvalidValueError, "--seed must be from 0 to"),
        (("zoo.plain:ThreeWays", "--input", "5x6", "--seed", str(2**63)), InvalidValueError, "--seed must be from 0"),
        (("zoo.plain:ThreeWays", "--input", "5x6:fp32"), InvalidValueError, "no dtype 'fp32'"),
        (("zoo.plain:separate_loss", "--input", "5x6"), HostError, "missing .*; give a factory without arguments$"),
        (("zoo.plain:LyingName", "--input", "2x3x8x8"), PatchError, "has no forward; give your loss: call="),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run(*arguments)


def test_a_factory_that_raises_is_not_told_to_take_no_arguments(tmp_path: Path) -> None:
    (tmp_path / "raises_in_it.py").write_text("def make():\n    raise RuntimeError('no data here')\n")
    with pytest.raises(HostError, match=r"make\(\) failed: RuntimeError: no data here$"):
        command.run(["raises_in_it:make", "--input", "5x6", "--path", str(tmp_path)])


def test_where_the_loss_is_asked_for_the_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zoo.plain:SeparateLayers", "--input", "5x6") == 0
    assert "here: --call PACKAGE.MODULE:LOSS, a function that is called as LOSS(model" in capsys.readouterr().out


def test_a_file_that_runs_as_a_script_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "their_script.py").write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(HostError, match=r"ended the program \(SystemExit: 2\): it runs as a script; .*__main__"):
        run("their_script:VAE", "--input", "5x6", "--path", str(tmp_path))


@pytest.mark.parametrize("name", ["stabilize", "stabilise", "unpatch"])
def test_a_function_of_python_is_no_command_and_it_is_said_how_it_is_called(name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"vdvae_patch.(stabilize|unpatch)\(...\) in your own code"):
        dispatch([name])
    with pytest.raises(UnknownNameError, match="did you mean 'doctor'"):
        dispatch(["docter"])


def test_help_needs_no_torch() -> None:
    code = "import sys; from vdvae_patch.cli import scan\ntry: scan.run(['--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}assert 'torch' not in sys.modules"], capture_output=True, text=True, check=True
    )
    assert "PACKAGE.MODULE:FACTORY" in done.stdout
