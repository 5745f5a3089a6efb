"""Kill a run 200 times at random moments, with one rank and with two, and hold it to the undisturbed run.

    python tests/long/kill_200.py [--kills 200] [--out docs/results/kill-and-resume.json]

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

from runs import assert_same_run, finish, tiny
from test_kill_and_resume import kill_and_resume

from vdvae_patch.train.folder import write_json
from vdvae_patch.train.provenance import code_commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = []
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            steps = 6 * given.kills
            began = time.monotonic()
            finish(tiny(Path(folder) / "undisturbed", steps=steps), ranks)
            in_a_save = kill_and_resume(Path(folder) / "killed", ranks, given.kills, steps, seed=ranks)
            assert_same_run(Path(folder) / "undisturbed", Path(folder) / "killed")
            results.append(
                {
                    "ranks": ranks, "kills": given.kills, "in_the_middle_of_a_save": in_a_save, "steps": steps,
                    "same_metrics_and_weights": True, "seconds": round(time.monotonic() - began),
                }
            )  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
    if given.out is not None:
        write_json(given.out, {"commit": code_commit(), "command": " ".join(sys.argv), "results": results})


if __name__ == "__main__":
    main()
