"""The cells of table 3: how much of it is done, what the paper found, and what becomes of one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.published import mean_and_deviation, published

# Mean and deviation over 5 seeds; None is "100% NaN".
PAPER: dict[tuple[str, str], tuple[float, float] | None] = {
    (likelihood, mean): mean_and_deviation(numbers) if numbers else None
    for mean, row in published()["table3"].items()
    for likelihood, numbers in row.items()
}


@dataclass(frozen=True)
class Size:
    """How much of the experiment is done.

    Attributes:
        batch_size: the caption of figure 1 has 30,000 iterations in 1,000 epochs, so 30 batches an epoch.
        validate_every: epochs between two validations.
    """

    seeds: int = 5
    epochs: int = 1000
    lr: float = 1e-4
    batch_size: int = 1667
    train: int = 50_000
    valid: int = 10_000
    test: int = 10_000
    validate_every: int = 1


FULL = Size()
QUICK = Size(seeds=3, epochs=25, lr=5e-4, batch_size=100, train=2000, valid=2000, test=2000, validate_every=5)


def size_of(quick: bool, seeds: int | None, epochs: int | None) -> Size:
    """The full or the quick size, with what was asked for otherwise; raises `InvalidValueError` for none at all."""
    base = asdict(QUICK if quick else FULL)
    given = {"seeds": seeds, "epochs": epochs}
    size = Size(**(base | {name: value for name, value in given.items() if value is not None}))
    if size.seeds < 1 or size.epochs < 1:
        raise InvalidValueError(f"{size.seeds} seeds and {size.epochs} epochs: give at least one of each")
    return size


@dataclass(frozen=True)
class Row:
    """What became of one run.

    Attributes:
        nll: test negative ELBO of the best validation model, nats per image on [0, 1]; None if the run failed.
        step, cause: of the failure.
        gamma_min: the smallest scale that the last finite batch had.
        arrival: for a run that did not fail, the step at which its smallest scale, going on as in its last third, would
            be too small for its square; None if it does not fall, or has a lower bound that is not.
    """

    likelihood: str
    mean: str
    seed: int
    nll: float | None
    best_step: int
    step: int | None
    cause: str | None
    gamma_min: float
    arrival: float | None
