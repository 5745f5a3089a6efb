"""`vdvae-patch train`: train a host as one variant, and leave a folder that says what happened."""

from __future__ import annotations

from vdvae_patch.cli.arguments import parse_train


def run(argv: list[str]) -> int:
    """Train a host as one variant: same code, same batches, the patch is the only difference."""
    config = parse_train(argv, description=run.__doc__ or "")

    from vdvae_patch.train.interrupts import EXIT_RESUME
    from vdvae_patch.train.loop import train

    outcome = train(config)
    if outcome.summary is None:
        return EXIT_RESUME
    summary = outcome.summary
    print(
        f"{summary['variant']} seed {summary['seed']}: test NELBO {summary['test_nelbo_nats_per_dim']:.4f} nats per "
        f"dimension = {summary['test_nelbo_bits_per_dim']:.4f} bits per dimension; skipped updates: "
        f"{summary['high_gradient_count']} high-gradient, {summary['nan_count']} NaN in {summary['steps']} steps; "
        f"{summary['images_per_second']:.1f} images/s"
    )
    print(f"run folder: {config.folder}")
    return 0
