"""`vdvae-patch demo`: the comparison in a few minutes, on images drawn by code."""

from __future__ import annotations

from vdvae_patch.cli.compare import compare

ABOUT = "the comparison in a few minutes, on built-in images"

DESCRIPTION = """The comparison in a few minutes: vanilla beside two patched variants, three seeds each, on images drawn
by code. The learning rate is far above the usual one, so that what takes days happens in minutes. Any flag of
`vdvae-patch compare` overrides what the demo chooses."""

# One thread a run: sums are rounded in another order with more, and a chaotic run then ends elsewhere.
SETTINGS = (
    "--preset=demo", "--data=builtin", "--limit-images=10", "--lr=1.2e-2", "--steps=480",
    "--variants=vanilla,upbounded,explin/constant", "--seeds=0,1,2", "--jobs=2", "--threads=1",
    "--max-consecutive-skips=1000", "--device=cpu", "--out=runs/demo",
)  # fmt: skip


def run(argv: list[str]) -> int:
    """As `compare`."""
    flags = list(argv)
    given = {argument.split("=", 1)[0].replace("_", "-") for argument in flags}
    chosen = [setting for setting in SETTINGS if setting.split("=", 1)[0] not in given]
    return compare([*chosen, *flags], prog="vdvae-patch demo", description=DESCRIPTION)
