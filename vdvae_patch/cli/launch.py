"""`vdvae-patch launch NAME`: the published runs, as commands, and what they would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdvae_patch.cli.arguments import parse_train

ABOUT = "the published runs as commands, and what they would cost"

if TYPE_CHECKING:
    from launch.presets import preset, presets
else:
    from vdvae_patch.launch.presets import preset, presets


def run(argv: list[str]) -> int:
    """Print the commands of the published runs, one a line; with --dry-run, what they would cost."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: vdvae-patch launch NAME [--dry-run] [flags of train]\n\n" + (run.__doc__ or "") + "\n")
        print("\n".join(f"  {name}  {item.about}" for name, item in presets().items()))
        return 0 if argv else 2
    chosen = preset(argv[0])
    more = tuple(argument for argument in argv[1:] if argument != "--dry-run")
    if "--dry-run" not in argv:
        print(chosen.script(more))
        return 0

    from vdvae_patch.train.estimate import estimate, spoken, steps_done

    runs = list(chosen.commands(more))
    # variants cost the same but for a fraction of a step; the first is measured for all
    configs = [parse_train(command) for command in runs]
    first = configs[0]
    cost = estimate(first)
    left = sum(max(0, cost.steps - steps_done(config)) for config in configs)
    rest = f" for the {left:,} steps that are not done yet" if left < len(runs) * cost.steps else ""
    # the last two, the last finite one, and the best of those that were evaluated, see `checkpoint.prune`
    kept = 3 + bool(first.evaluate_every) if first.checkpoint_every else 1
    gigabytes = len(runs) * kept * cost.checkpoint_bytes / 1e9
    print(cost)
    print(
        f"{len(runs)} runs ({len(chosen.variants)} variants, {len(chosen.seeds)} seeds): {len(runs) * cost.steps:,} "
        f"steps, {len(runs) * cost.images:,} images, {spoken(left * cost.step_seconds / 3600)}{rest} on {cost.ranks} "
        f"devices of this kind, one run after the other, {cost.left_out}; "
        f"at most {kept} checkpoint{'s' if kept > 1 else ''} a run, {gigabytes:,.1f} GB together"
    )
    return 0
