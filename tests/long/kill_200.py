"""Kill a run 200 times at random moments, with one rank and with two, and hold it to the undisturbed run.

    OMP_NUM_THREADS=1 python tests/long/kill_200.py [--kills 200] [--out docs/results/kill-and-resume.json]

Takes from minutes to an hour; not part of `make test`, which does 20.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

import runs
import torch
from runs import assert_same_run, finish, tiny
from test_kill_and_resume import kill_and_resume

from vdvae_patch.train.folder import write_json
from vdvae_patch.train.provenance import provenance

STEPS_A_KILL = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)  # as the runs do
    runs.PATIENCE = 30  # it may run for long, beside other work
    results = []
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            steps = STEPS_A_KILL * given.kills
            began = time.monotonic()
            finish(tiny(Path(folder) / "undisturbed", steps=steps), ranks)
            counted = kill_and_resume(Path(folder) / "killed", ranks, given.kills, steps, seed=ranks)
            assert_same_run(Path(folder) / "undisturbed", Path(folder) / "killed")
            results.append(
                {
                    "ranks": ranks, "kills": given.kills, "met_a_run_at_work": counted.met,
                    "left_half_a_checkpoint": counted.in_a_save, "seed_of_the_moments": ranks, "seed_of_the_run": 0,
                    "steps": steps, "same_metrics_and_weights": True, "seconds": round(time.monotonic() - began),
                }
            )  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
    if given.out is not None:
        seen = provenance(torch.device("cpu")) | {"command": " ".join(["python", *sys.argv])}
        write_json(given.out, {"run": seen, "results": results})


if __name__ == "__main__":
    main()
