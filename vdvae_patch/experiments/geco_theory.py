"""`reproduce geco-theory`: what "Taming VAEs" says of VAEs without limits of capacity, computed from its equations.

Blurred reconstructions and holes (Figure 1), reconstruction fixed points and where they merge (section 3.2, Figure 2,
appendix A), the same with Lipschitz constraints (appendix B, Figure 7), and the tiles of seven digits (Figure 8).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.data.mnist_labels import read_labels
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments import micro_mnist
from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.digits import Digits
from vdvae_patch.experiments.fixed_points import Found, Lipschitz, circles, iterate, lines, slopes, start
from vdvae_patch.experiments.geco_theory_figures import draw_lipschitz, draw_micro, draw_tiles, draw_transitions
from vdvae_patch.experiments.micro_mnist import AFTER, DIGITS, SPECS
from vdvae_patch.experiments.noise import generator
from vdvae_patch.experiments.options import GecoTheory
from vdvae_patch.experiments.report import PUBLISHED, Cell, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.tiles import Tiling, equiprobable_rate, tile
from vdvae_patch.experiments.transitions import MERGERS, PEAKS, Sweep, predicted, sweep
from vdvae_patch.train.interrupts import EXIT_RESUME


@dataclass(frozen=True)
class Size:
    """How much of the experiment is done.

    Attributes:
        side: tiles of the latent space along each axis; appendix A has 32.
        betas: of the sweep.
        points: data points of each set.
        images: that the digits are drawn from, and the classifier is trained on.
        steps: of each run on Micro-MNIST, with `batch` samples of each posterior and the learning rate `lr`.
    """

    side: int = 32
    betas: int = 200
    points: int = 120
    images: int = 20_000
    steps: int = 20_000
    batch: int = 32
    lr: float = 1e-3


FULL = Size()
QUICK = Size(side=16, betas=120, images=5000, steps=4000)

SHOWN_BETAS = (0.002, 0.03, 0.2, 0.7)
"""Of Figure 2's pictures: all four clusters, three, two, one."""
LIPSCHITZ_BETAS = (0.002, 0.01, 0.05)
STRENGTHS = (0.1, 0.5, 2.0)
RADII = {"local": 1.5, "global": math.inf}
"""In widths of a tile: the eight neighbours, or all tiles."""
SETS: dict[str, Callable[[int, torch.Generator], Tensor]] = {"lines": lines, "circles": circles}
REGIONS = {"support of 1 alone": (0,), "support of 2 alone": (1,), "support of 3": (2,), "support of 4": (3,),
           "1 and 2 overlap": (0, 1)}  # fmt: skip
TILES = 32


@dataclass(frozen=True)
class Panel:
    """One picture of Figure 7."""

    data_name: str
    kind: str
    beta: float
    strength: float
    data: Tensor
    found: Found
    side: int


def run(options: GecoTheory) -> int:
    """Compute what is left, and report if all of it is done; `EXIT_RESUME` if it is not."""
    if options.device not in (None, "cpu"):
        raise InvalidValueError(f"--device {options.device}: geco-theory is computed in float64 on the cpu")
    size = QUICK if options.quick else FULL
    name = "geco-theory-quick" if options.quick else "geco-theory"
    session = Session(options.folder(name), {**asdict(size), "seed": options.seed}, options.minutes)
    images = Digits.load("mnist", options.data_root, CPU, size.images, 1, 1).train.float() / 255
    rows = micro_mnist.choose(len(images), options.seed)
    labels = torch.from_numpy(read_labels(options.data_root)[: len(images)]).long()
    session.same_data("mnist", images, labels)
    micro = _micro(session, images, labels, rows, size, options.seed)
    if len(micro) < len(SPECS):
        print(f"{len(micro)} of {len(SPECS)} objectives are finished; the same command goes on from here")
        return EXIT_RESUME
    began = time.monotonic()
    tiling = tile(images[rows[:4]].double(), TILES, generator(CPU, options.seed, 0, "decoder"))
    swept = sweep(size.side, size.betas, size.points, options.seed)
    chosen = panels(size, options.seed)
    results = [*micro.values(), session.keep("theory", time.monotonic() - began, {})]
    report = build_report(tiling, swept, chosen, micro, size, name, labels[rows].tolist(), options.seed,
                          Origin.of(CPU, (options.seed,), results))  # fmt: skip
    samples = {spec: _tensors(session, spec)["samples"] for spec in SPECS}
    figures = {
        "tiles": draw_tiles(tiling, images[rows[:4]]),
        "transitions": draw_transitions(swept, _trajectories(swept, size, options.seed)),
        "lipschitz": draw_lipschitz(chosen),
        "micro-mnist": draw_micro(samples, images[rows], [str(number(r["found"]["rate"], 2)) for r in micro.values()]),
    }
    publish(report, session.folder, None, to_docs=options.publish, of_tables=figures, docs=PUBLISHED / "geco-theory")
    return 0


def _trajectories(swept: Sweep, size: Size, seed: int) -> dict[float, Found]:
    begun = start(size.side, generator(CPU, seed, 0, "start"))
    return {beta: iterate(swept.data, begun, beta, trace=True) for beta in SHOWN_BETAS}


def panels(size: Size, seed: int) -> list[Panel]:
    """All pictures of Figure 7: β alone, and local and global constraints at the smallest β."""
    made = []
    for name, draw in SETS.items():
        data = draw(size.points, generator(CPU, seed, 0, name))
        begun = start(size.side, generator(CPU, seed, 0, "start"))
        for beta in LIPSCHITZ_BETAS:
            found = iterate(data, begun, beta, trace=True)
            made.append(Panel(name, "none", beta, 0.0, data, found, size.side))
        for kind, radius in RADII.items():
            for strength in STRENGTHS:
                beta = LIPSCHITZ_BETAS[0]
                projection = Lipschitz(size.side, strength, radius * 2 / size.side)
                found = iterate(data, begun, beta, projection, trace=True)
                made.append(Panel(name, kind, beta, strength, data, found, size.side))
    return made


# --- Micro-MNIST ------------------------------------------------------------------------------------------------------


def _micro(session: Session, images: Tensor, labels: Tensor, rows: Tensor, size: Size, seed: int) -> dict[str, Result]:
    """The results of the objectives that are finished when this piece's time is over."""
    results: dict[str, Result] = {}
    classifier = None
    for place, spec in enumerate(SPECS, 1):
        result = session.finished(_key(spec))
        if result is None:
            if not session.may_start:
                return results
            began = time.monotonic()
            if classifier is None:
                classifier, accuracy = micro_mnist.classify(images, labels, seed, 3)
            begin = _tensors(session, AFTER[spec])["weights"] if spec in AFTER else None
            found, samples, weights = micro_mnist.train(
                spec, images[rows], labels[rows], classifier,
                seed=seed, steps=size.steps, batch=size.batch, lr=size.lr, begin=begin,
            )  # fmt: skip
            session.write_state(session.folder / f"{_key(spec)}.pt", {"samples": samples, "weights": weights})
            kept = {"found": asdict(found), "accuracy": accuracy}
            result = session.keep(_key(spec), time.monotonic() - began, kept)
            session.console.print(f"{spec} {place}/{len(SPECS)}: {result['seconds']:.0f} s", highlight=False)
        results[spec] = result
    return results


def _key(spec: str) -> str:
    return f"micro-{SPECS.index(spec)}"


def _tensors(session: Session, spec: str) -> dict[str, Any]:
    return session.kept(_key(spec))


# --- the report -------------------------------------------------------------------------------------------------------


def build_report(
    tiling: Tiling,
    swept: Sweep,
    chosen: Sequence[Panel],
    micro: Mapping[str, Result],
    size: Size,
    name: str,
    digits: Sequence[int],
    seed: int,
    origin: Origin,
) -> Report:
    """The four parts, each a table with its figure."""
    return Report(
        name,
        "Taming VAEs: the theory" + (", the quick version" if name.endswith("quick") else ""),
        _INTRODUCTION,
        (
            Table("tiles", "Blurred reconstructions and holes (the paper's Figure 1)",
                  ("region of the latent space", "tiles", "best reconstruction, by the proposition",
                   "difference of what descent found, grey levels", "descent moved it by, grey levels"),
                  _tile_rows(tiling)),
            Table("transitions", "Fixed points and phase transitions (Figure 2)",
                  ("what merges", "β by linear stability", "β of the peak", "ratio", "paper"),
                  _transition_rows(swept)),
            Table("lipschitz", "Lipschitz constraints (Figure 7)",
                  ("data", "constraint", "β", "strength", "distinct points", "error", "KL, nats",
                   "steepest, neighbours", "steepest, far apart", "iterations"),
                  tuple(_panel_row(panel) for panel in chosen)),
            Table("micro-mnist", "Micro-MNIST (Figure 8)",
                  ("objective", "KL, nats", "marginal KL", "information", "error, grey levels",
                   "probability of the digit", "λ", "skipped"),
                  tuple(_micro_row(spec, result["found"]) for spec, result in micro.items())),
        ),
        origin,
        _notes(tiling, swept, chosen, micro, size, digits),
    )  # fmt: skip


_INTRODUCTION = (
    "From the equations of section 3.2 and appendices A to C, in float64: the latent space [−1, 1]² is cut into tiles, "
    "the posterior is m and the decoder v on each, and m and v are iterated until they rest. β stands for βσ² with "
    "σ = 1. *KL* and *error* are means over the data; the error is the expected squared distance. The paper prints no "
    "numbers in these figures, and its text at hand has lost the numbers of appendix A but for the 32 × 32 tiles, the "
    "400 iterations and the distance 1e-3; the smoothing (one half), the noise of the start (a tenth of a tile), the "
    "data, β, the strengths of Figure 7 and the κ of Figure 8 are ours."
)


def _tile_rows(tiling: Tiling) -> tuple[tuple[Cell, ...], ...]:
    rows: list[tuple[Cell, ...]] = []
    for region, members in REGIONS.items():
        where = tiling.tiles(*members)
        mean = " + ".join(f"{share:.3f} x{i + 1}" for i, share in zip(members, tiling.shares(*members), strict=True))
        difference, moved = 255 * tiling.difference(where), 255 * tiling.moved(where)
        rows.append((region, int(where.sum()), mean, number(difference), number(moved, 0)))
    holes = tiling.tiles()
    return (*rows, ("hole", int(holes.sum()), "none: free", None, number(255 * tiling.moved(holes), 0)))


def _transition_rows(swept: Sweep) -> tuple[tuple[Cell, ...], ...]:
    by_theory = [predicted(swept.data, members) for members, _ in MERGERS]
    found = [*swept.critical, *[math.nan] * PEAKS][:PEAKS]
    return tuple(
        (what, number(theory, 4), number(peak, 4), number(peak / theory), None)
        for (_, what), theory, peak in zip(MERGERS, by_theory, found, strict=True)
    )


def _panel_row(panel: Panel) -> tuple[Cell, ...]:
    found = panel.found
    near, far = slopes(found.points, panel.side)
    return (panel.data_name, panel.kind, f"{panel.beta:g}", f"{panel.strength:g}" if panel.strength else None,
            found.distinct, number(found.error, 4), number(found.rate, 2), number(near, 2), number(far, 2),
            f"{found.steps}" if found.settled else f"{found.steps}, not at rest")  # fmt: skip


def _micro_row(spec: str, found: Mapping[str, float]) -> tuple[Cell, ...]:
    multiplier = found["multiplier"]
    return (spec, number(found["rate"]), f"{number(found['marginal'])} ± {number(found['standard_error'])}",
            number(found["information"]), number(255 * found["error"], 1), number(found["chance"]),
            None if multiplier is None else number(multiplier, 1), int(found["skipped"]))  # fmt: skip


def _notes(
    tiling: Tiling,
    swept: Sweep,
    chosen: Sequence[Panel],
    micro: Mapping[str, Result],
    size: Size,
    digits: Sequence[int],
) -> tuple[str, ...]:
    largest = max(abs(math.log(peak / predicted(swept.data, m))) for (m, _), peak in
                  zip(MERGERS, swept.critical, strict=False))  # fmt: skip
    unsettled = [f"{beta:.4g}" for beta, one in zip(swept.betas.tolist(), swept.found, strict=True) if not one.settled]
    rest = f"did not rest within its 400 steps at β = {', '.join(unsettled)}" if unsettled else "came to rest for all"
    accuracy = next(iter(micro.values()))["accuracy"]
    weak = micro[SPECS[1]]["found"]
    elbo = micro[SPECS[0]]["found"]
    return (
        f"*Figure 1.* The weights are the inverse prior probabilities of the supports, "
        f"{', '.join(f'{p:.3f}' for p in tiling.prior.tolist())}. Descent begins at random; where no posterior is it "
        f"does not move. The mean KL of these supports is {tiling.rate:.3f} nats; the best partition of four, "
        f"equiprobable and without holes, has log 4 = {equiprobable_rate(4):.3f}.",
        f"*Figure 2.* {len(swept.betas)} β in ratios of {swept.step:.3f}; the three highest peaks of −∂²U/∂(log β)². "
        "*By linear stability*: the mean of some clusters is a stable fixed point of the iteration above the largest "
        "eigenvalue of their covariance, while others are far. The furthest that a peak is from it is a factor of "
        f"{math.exp(largest):.3f}. The iteration {rest}; near a transition it slows down. "
        "The last transition is the collapse of the posterior: above it the KL is 0.",
        "*Figure 7.* The strength is the sum of a tile's multipliers in units of its weight; they fall with the square "
        "of the distance, so that they are multipliers of slopes. *Steepest*: the largest ratio of the distance of two "
        "reconstructions to that of their latents, the smallest K that the decoder keeps; *far apart*, at least "
        "half of the space. Local constraints lay a sheet over the data. Global ones, which tie every two tiles, also "
        "draw the tiles between the data to the middle; the paper's cover the regions of high density, by multipliers "
        "that its text at hand has lost. " + _lipschitz_words(chosen),
        f"*Figure 8.* The digits are {', '.join(map(str, digits))}; {size.steps:,} updates of {size.batch} samples of "
        f"each. Seven equal tiles have a KL of log 7 = {math.log(DIGITS):.3f} and a marginal KL of 0. The ELBO with "
        f"the optimal σ ends at {elbo['rate']:.2f} nats, of which {elbo['marginal']:.2f} are empty space; the second, "
        f"with an error of {weak['error']:.3f} of the range allowed to be 0.06, at {weak['rate']:.2f} and "
        f"{weak['marginal']:.2f}. The classifier is right on {accuracy:.1%} of the images kept from it. The run with "
        "its constraint goes on from the second's weights: from new ones the classifier's probability is soon 1 for "
        "the digit that is there most often, whatever the latents are, and that has no gradient.",
        "One seed.",
    )


def _lipschitz_words(chosen: Sequence[Panel]) -> str:
    """How the steepest slope changes from no constraint to the strongest of each kind."""
    words = []
    for kind in RADII:
        for name in SETS:
            base = next(p for p in chosen if (p.data_name, p.kind) == (name, "none"))
            last = [p for p in chosen if (p.data_name, p.kind) == (name, kind)][-1]
            was, now = slopes(base.found.points, base.side)[0], slopes(last.found.points, last.side)[0]
            words.append(f"{kind} on {name} from {was:.2f} to {now:.2f}")
    return f"Between neighbours the steepest slope goes, {', '.join(words)}."
