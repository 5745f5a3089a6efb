"""`vdvae-patch doctor`: is this machine ready, and what mends what is not."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.doctor import CHECKS, Finding, Places, findings, training

if TYPE_CHECKING:
    from vdvae_patch.train.config import TrainConfig

ABOUT = "is this machine ready: what is here, what is missing, and what mends it"

_EPILOG = "Exit status: 0 if nothing fails, 1 otherwise; what only some uses need is a note."


def run(argv: list[str]) -> int:
    """Print one line a finding, as they come; with `--json`, all of them as one document."""
    parser = argparse.ArgumentParser(
        "vdvae-patch doctor", description=f"{ABOUT[0].upper()}{ABOUT[1:]}.", epilog=_EPILOG
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs will be written")
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="where your data sets are")
    parser.add_argument("--preset", default="cifar10", help="the preset of VDVAE whose checkpoints must have room")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--no-training", action="store_true", help="leave out the three training steps on each device")
    given = parser.parse_args(argv)
    checks = CHECKS if given.no_training else (*CHECKS, training(_demo))
    found = findings(Places(given.out, given.data_root, given.preset), checks)
    shown = _document(found) if given.json else _lines(found)
    return 1 if "fail" in shown else 0


def _demo(device: str) -> TrainConfig[Any]:
    from vdvae_patch.cli.arguments import parse_train

    flags = ["--preset=demo", "--data=builtin", "--variant=explin/constant", f"--device={device}"]
    return parse_train(flags, description="")


def _lines(found: Iterable[Finding]) -> list[str]:
    statuses = []
    for finding in found:
        print(f"{finding.status.upper().ljust(4)}  {finding.name}: {finding.found}", flush=True)
        if finding.mend:
            print(f"      {'to mend' if finding.status == 'fail' else 'if you need it'}: {finding.mend}", flush=True)
        statuses.append(finding.status)
    failed, notes = statuses.count("fail"), statuses.count("note")
    print(f"{failed} failed, {notes} to note, {statuses.count('ok')} in order")
    return list(statuses)


def _document(found: Iterable[Finding]) -> list[str]:
    all_of_them = list(found)
    json.dump([dataclasses.asdict(finding) for finding in all_of_them], sys.stdout, indent=2, ensure_ascii=False)
    print()
    return [finding.status for finding in all_of_them]
