"""`reproduce geco`: section 4 of "Taming VAEs". Three models in the information plane, by ELBO, annealing and GECO.

Figure 4, the plane; Figure 5, the KL at equal error; Table 2, the marginal KL; Figure 3, one run's way; Figure 6,
reconstructions and samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.geco_figures import draw_equal, draw_pictures, draw_plane, draw_trajectory
from vdvae_patch.experiments.geco_runs import (
    ANNEALED,
    CONDITIONAL,
    ELBO,
    EQUAL,
    FULL_DATA,
    GQN,
    HOSTS,
    QUICK_DATA,
    SHOWN,
    Cell,
    Found,
    Size,
    cells,
    train,
)
from vdvae_patch.experiments.geco_sets import OF_DIGITS, WORDS, Pictures, read
from vdvae_patch.experiments.options import Geco
from vdvae_patch.experiments.report import PUBLISHED, Origin, Report, Table, note_of_seeds, number, publish
from vdvae_patch.experiments.report import Cell as Value
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.train.interrupts import EXIT_RESUME

MARGINAL = {"cifar10": (725.2, 45.3), "color-mnist": (182.5, 10.3)}
"""Table 2 of the paper: the marginal KL of VAE+NVP with the ELBO and with GECO."""
EQUAL_MSE = 0.00029
"""Figure 5: the ELBO's squared error of ConvDRAW on CIFAR-10, which GECO was then asked for."""
IDLE = 2.0
"""Nats of KL below which a run that missed its error has not begun to use its latents."""
SEED = 0
"""Of the data sets, which are the same for every run."""
_NAMES = {"convdraw": "ConvDRAW", "conditional": CONDITIONAL, "nvp_vae": "VAE+NVP"}


def run(options: Geco) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = Size.of(options)
    data = chosen(options)
    device = pick_device(options.device)
    whole = "geco-quick" if options.quick else "geco"
    name = "-".join([whole, *options.hosts, *options.data])  # a part, published, leaves the whole's page alone
    # not which hosts and data sets: a part of them may be run by itself, into the same folder
    settings = {**asdict(size), "variant": options.variant}
    session = Session(options.folder(whole), _plain(settings), options.minutes)
    read_sets: dict[str, Pictures] = {}
    counts: dict[str, tuple[int, int]] = {}

    def pictures(wanted: str) -> Pictures:
        if wanted not in read_sets:
            read_sets.clear()  # one at a time: all of them together are large
            found = read_sets[wanted] = read(wanted, options.data_root, size.train, size.test, SEED)
            splits = (found.train, found.test)
            counts[wanted] = (len(found.train), len(found.test))
            session.same_data(wanted, *(part for split in splits for part in (split.images, split.context)))
        return read_sets[wanted]

    todo = list(cells(size, data))
    results: dict[str, Result] = {}
    for place, cell in enumerate(todo, 1):
        result = session.finished(cell.key)
        if result is None:
            if not session.may_start:
                print(f"{place - 1} of {len(todo)} runs are finished; the same command goes on from here")
                return EXIT_RESUME
            began = time.monotonic()
            kappa = cell.kappa
            if cell.method == EQUAL:
                kappa = results[Cell(cell.host, cell.data, ELBO, cell.seed).key]["found"]["sigma"]
            found, images = train(cell, kappa, pictures(cell.data), size, options.variant, device)
            session.write_state(session.folder / f"{cell.key}.pt", {"images": images})
            result = session.keep(cell.key, time.monotonic() - began, {"found": asdict(found)}, device)
            session.console.print(f"{cell.key} {place}/{len(todo)}: {result['seconds']:.0f} s", highlight=False)
        results[cell.key] = result
    rows = [Found(**result["found"]) for result in results.values()]
    origin = Origin.of(device, range(size.seeds), list(results.values()))
    strips = {(cell.host, cell.data, cell.method): session.kept(cell.key)["images"] for cell in todo if cell.seed == 0}
    figures = {"runs": draw_pictures(strips, {key[:2]: _originals(pictures(key[1])) for key in strips})}
    report = build_report(rows, size, options, origin, name, list(counts.values()))
    if any(row.method == EQUAL for row in rows):
        figures["equal"] = draw_equal(rows)
    figures["trajectory"] = draw_trajectory(typical(rows))
    figures = {key: figure for key, figure in figures.items() if key in {table.name for table in report.tables}}
    docs = PUBLISHED / "geco"
    publish(report, session.folder, draw_plane(rows), to_docs=options.publish, of_tables=figures, docs=docs)
    return 0


def chosen(options: Geco) -> dict[str, tuple[str, ...]]:
    """The hosts and their data sets.

    Raises:
        UnknownNameError: a host or a data set that there is not.
        InvalidValueError: none of the data sets is one of a host.
    """
    of = QUICK_DATA if options.quick else FULL_DATA
    for host in options.hosts:
        if host not in _NAMES:
            raise UnknownNameError("host of this experiment", host, _NAMES)
    for data in options.data:
        if data not in (*OF_DIGITS, "cifar10"):
            raise UnknownNameError("data set of this experiment", data, [*OF_DIGITS, "cifar10"])
    found = {}
    for host in [_NAMES[name] for name in options.hosts] or list(of):
        known = FULL_DATA[host] if options.data else of[host]
        names = tuple(name for name in known if not options.data or name in options.data)
        if names:
            found[host] = names
    if not found:
        raise InvalidValueError(
            f"--data {' '.join(options.data)} is none of those that these hosts are trained on: "
            + "; ".join(f"{host}: {', '.join(FULL_DATA[host])}" for host in FULL_DATA)
        )
    return found


def typical(rows: Sequence[Found]) -> Found:
    """The run whose way is shown: of the conditional model on MNIST-rotate as in the paper, if that was trained."""
    asked = [row for row in rows if row.kappa is not None and row.method != EQUAL and row.seed == 0]
    return min(asked, key=lambda row: (row.host != CONDITIONAL, row.data != "mnist-rotate", row.kappa))


def _plain(settings: dict[str, object]) -> Result:
    """As JSON gives it back: lists for tuples."""
    import json

    plain: Result = json.loads(json.dumps(settings))
    return plain


def _originals(pictures: Pictures) -> Tensor:
    return pictures.test.images[:SHOWN]


# --- the report -------------------------------------------------------------------------------------------------------


def build_report(
    rows: Sequence[Found],
    size: Size,
    options: Geco,
    origin: Origin,
    name: str,
    counts: Collection[tuple[int, int]] = (),
) -> Report:
    """All runs, those of equal error, the marginal KLs, and one run's way; what was not trained is left out.

    Args:
        counts: how many images each data set has to train on and to hold out; what the size asks for unless given.
    """
    groups = list(dict.fromkeys((row.host, row.data, row.method) for row in rows))
    runs = tuple(_run_row([r for r in rows if (r.host, r.data, r.method) == group]) for group in groups)
    equal = tuple(
        _equal_row([r for r in rows if (r.host, r.data) == group[:2]]) for group in groups if group[2] == EQUAL
    )
    marginal = tuple(
        _marginal_row([r for r in rows if (r.host, r.data, r.method) == group])
        for group in groups
        if HOSTS[group[0]] == "nvp_vae"
    )
    way = typical(rows)
    few = torch.linspace(0, len(way.steps) - 1, min(8, len(way.steps))).round().long().tolist()
    tables = [
        Table("runs", "What was asked, and what was reached (Figures 4 and 6)",
              ("host", "data", "objective", "KL, nats", "NLL, nats/dim", "error, grey levels", "held out",
               "asked for", "met", "λ", "equivalent β", "skipped"), runs),
        Table("equal", "The KL at the ELBO's error (Figure 5)",
              ("host", "data", "ELBO: squared error", "GECO: squared error", "ELBO: KL, nats", "GECO: KL, nats",
               "GECO / ELBO", "paper: squared error"), equal),
        Table("marginal", "The marginal KL (Table 2)",
              ("host", "data", "objective", "marginal KL, nats", "mean KL", "images", "saturated", "paper"), marginal),
        Table("trajectory", f"One run of GECO: {way.host}, {way.data}, κ = {way.kappa:g} (Figure 3)",
              ("update", "KL, nats", "error, grey levels", "equivalent β"),
              tuple((way.steps[i], number(way.rates[i], 1), number(255 * way.errors[i], 1), number(way.betas[i]))
                    for i in few)),
    ]  # fmt: skip
    return Report(
        name,
        "Taming VAEs: GECO" + (", the quick version" if options.quick else ""),
        _introduction(size, options, {HOSTS[row.host] for row in rows}, counts),
        tuple(table for table in tables if table.rows),
        origin,
        _notes(rows, size),
    )


def _introduction(size: Size, options: Geco, hosts: Collection[str], counts: Collection[tuple[int, int]]) -> str:
    all_of_them = {
        "convdraw": f"ConvDRAW ({_words(size.convdraw)}; {size.updates[0]:,} updates at {size.lr[0]:g})",
        "nvp_vae": f"VAE+NVP ({_words(size.nvp_vae)}; {size.updates[1]:,} updates at {size.lr[1]:g})",
    }
    models = " and ".join(words for host, words in all_of_them.items() if host in hosts)
    shares = " and ".join(f"{size.pace_of(host):g}" for host in all_of_them if host in hosts)
    train, test = list(zip(*counts, strict=True)) if counts else ((size.train,), (size.test,))
    images = f"{_range(train) if size.train else 'all'} training images"
    held = f"{_range(test) if size.test else 'all'} held-out images"
    known = f"the first {_range([min(size.test, n) if n else size.test for n in train])}" if size.test else "all"
    return (
        f"{models}, Adam{', falling as half a cosine' if size.decay else ''}, batches of {size.batch}, {images}, "
        f"scales `{options.variant}`. *ELBO* has the optimal σ. *{ANNEALED.capitalize()}* is a Gaussian whose σ falls "
        f"from {GQN[0]:g} to {GQN[1]:g} of the pixels' range in the first tenth of the updates, as Eslami et al. 2018 "
        "have it, whom the paper follows. *GECO* minimizes the KL under RE ≤ κ², κ in shares of the range: α = "
        f"{size.alpha:g}, ν κ² = {shares}, which is also the largest share that one "
        "update changes λ by (with 0.05 it ran away before the models could follow). Then one σ a model is taken, "
        f"the error on {known} training images, and KL and NLL are measured on {held}, the NLL by "
        f"the mass of each pixel's bin (appendix D). {WORDS}. The text of the paper at hand has lost its κ and "
        "the makings of its conditional sets: these are ours. Its Figures 4 and 6 print no numbers."
    )


def _range(counts: Collection[int]) -> str:
    """`5,000`, or `300 to 5,000` if data sets have not as many as were asked for."""
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _words(chosen: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{value} {name}" for name, value in chosen)


def _run_row(here: Sequence[Found]) -> tuple[Value, ...]:
    first = here[0]
    asked = None if first.kappa is None else _spread([255 * (r.kappa or 0) for r in here], 1)
    met = None if first.kappa is None else f"{sum(r.met for r in here)} of {len(here)}" if len(here) > 1 else (
        "yes" if first.met else "no")  # fmt: skip
    multiplier = None if first.multiplier is None else _spread([r.multiplier or 0.0 for r in here], 0)
    return (first.host, first.data, first.method, _spread([r.rate for r in here], 1), _spread([r.nll for r in here]),
            _spread([255 * r.sigma for r in here], 1), _spread([255 * r.error for r in here], 1), asked, met,
            multiplier, _spread([r.beta for r in here], 2), sum(r.skipped for r in here))  # fmt: skip


def _equal_row(here: Sequence[Found]) -> tuple[Value, ...]:
    elbo, equal = ([r for r in here if r.method == method] for method in (ELBO, EQUAL))
    ratios = [g.rate / e.rate for g, e in zip(equal, elbo, strict=True)]
    known = HOSTS[here[0].host] == "convdraw" and here[0].data == "cifar10"
    return (here[0].host, here[0].data, _spread([r.sigma**2 for r in elbo], 5), _spread([r.sigma**2 for r in equal], 5),
            _spread([r.rate for r in elbo], 1), _spread([r.rate for r in equal], 1), _spread(ratios, 2),
            f"{EQUAL_MSE:.5f}" if known else None)  # fmt: skip


def _marginal_row(here: Sequence[Found]) -> tuple[Value, ...]:
    found = [r.marginal for r in here if r.marginal is not None]
    value = _spread([f[0] for f in found], 1)
    if len(found) == 1:
        value = f"{value} ± {number(found[0][1], 1)}"
    first = here[0]
    papers = MARGINAL.get(first.data)
    paper = None if papers is None or first.method in (ANNEALED, EQUAL) else papers[first.method != ELBO]
    return (first.host, first.data, first.method, value, _spread([f[2] for f in found], 1), int(found[0][3]),
            "yes" if all(f[4] for f in found) else "no", None if paper is None else f"{paper:.1f}")  # fmt: skip


def _notes(rows: Sequence[Found], size: Size) -> tuple[str, ...]:
    asked = [r for r in rows if r.kappa is not None and r.method != EQUAL]
    notes = [
        f"*Figure 4.* Of {len(asked)} runs with a κ that was named, {sum(r.met for r in asked)} have an error of at "
        f"most 1.02 κ on training images. {_compared(rows)}"
    ]
    equal = [r for r in rows if r.method == EQUAL]
    if equal:
        notes.append(_equal_words(rows, equal))
    idle = [f"{r.host}, {r.data}, {r.method}" for r in rows if r.kappa is not None and not r.met and r.rate < IDLE]
    if idle:
        notes.append(
            f"*Not learned.* These runs of GECO missed their error with a KL below {IDLE:g} nats, whatever λ was: the "
            f"model gives every image nearly the same mean, and has not begun to use z: {'; '.join(idle)}. They say "
            "nothing of the objectives."
        )
    if any(r.marginal is not None for r in rows):
        notes.append(_marginal_words(rows, size))
    notes.append(note_of_seeds(len({row.seed for row in rows})))
    return tuple(notes)


def _compared(rows: Sequence[Found]) -> str:
    """KL and NLL of the ELBO against those of the runs of GECO that met a larger error."""
    ratios, higher, count = [], 0, 0
    for row in rows:
        if row.method != ELBO:
            continue
        met = [r for r in rows if (r.host, r.data, r.seed) == (row.host, row.data, row.seed)
               and r.kappa is not None and r.method != EQUAL and r.met and r.sigma > row.sigma]  # fmt: skip
        if not met:
            continue
        weakest = max(met, key=lambda r: r.kappa or 0)
        ratios.append(row.rate / max(weakest.rate, 1e-9))
        count += 1
        higher += all(row.nll < r.nll and row.rate > r.rate for r in met)
    if not ratios:
        return "In no case was an error above the ELBO's met."
    return (
        f"Where an error above the ELBO's was met, the ELBO has the lower NLL and the higher KL in {higher} of {count} "
        f"cases, {number(min(ratios), 1)} to {number(max(ratios), 1)} times that of the largest κ. A κ below the "
        "ELBO's error needs a λ at which the KL counts less than in the ELBO (equivalent β below 1)."
    )


def _equal_words(rows: Sequence[Found], equal: Sequence[Found]) -> str:
    """The KL at the ELBO's error, of the runs that reached it, and what their larger error costs in the likelihood."""
    met = [r for r in equal if r.met]
    reached = [r for r in met if r.rate >= IDLE]
    said = "None of the runs at the ELBO's error reached it."
    if met and not reached:
        said = (
            f"{len(met)} of {len(equal)} runs at the ELBO's error reached it up to a fiftieth, each with a KL below "
            f"{IDLE:g} nats: a model that does not use z compares nothing."
        )
    if reached:
        pairs = []
        for row in reached:
            elbo = next(r for r in rows if (r.host, r.data, r.seed, r.method) == (row.host, row.data, row.seed, ELBO))
            cost = row.dimensions * math.log(row.sigma / elbo.sigma)
            pairs.append(f"{row.host}, {row.data}: {elbo.rate - row.rate:.1f} nats less, and {cost:.1f}")
        said = (
            f"{len(reached)} of {len(equal)} runs at the ELBO's error reached it up to a fiftieth. What their KL is "
            f"less than the ELBO's, and what the rest of the error costs them in the likelihood, D log of the ratio: "
            f"{'; '.join(pairs)}."
        )
    return (
        f"*Figure 5.* {said} Where both have ended they should agree: with the optimal σ the ELBO is KL + D log of the "
        "error, whose multiplier is D / 2σ², and GECO's is the same there; what differs is the way, and short runs "
        f"have not ended. The paper found a lower KL at a squared error of {EQUAL_MSE}, "
        f"{255 * math.sqrt(EQUAL_MSE):.1f} grey levels, and prints it as curves."
    )


def _marginal_words(rows: Sequence[Found], size: Size) -> str:
    found = [r for r in rows if r.marginal is not None]
    saturated = [r for r in found if r.marginal is not None and r.marginal[4]]
    count = int(found[0].marginal[3]) if found[0].marginal is not None else 0
    said = ""
    if saturated:
        said = (
            f" In {len(saturated)} of {len(found)} runs it is the mean KL less log {count} = {math.log(count):.1f} "
            "(saturated): the posteriors of these images do not overlap, and the number says how tight they are, and "
            "nothing of holes."
        )
    several = len({r.seed for r in found}) > 1
    spread = "± is the standard deviation of the seeds" if several else "± is the standard error of the draws of z"
    return (
        f"*Table 2.* Of {count:,} training images, by `vdvae_patch.objectives.marginal_kl`; {spread}.{said} The paper "
        "says neither of how many images its values are nor at which κ, and its models are larger and were trained for "
        "long, so that its values stand beside ours for the direction alone: "
        f"{_directions(found)}."
    )


def _directions(found: Sequence[Found]) -> str:
    """Each data set's marginal KL by method, over all seeds; of GECO where every seed met its error."""
    lines = []
    for data in dict.fromkeys(r.data for r in found):
        values: dict[str, list[float]] = {}
        for r in found:
            if r.data == data and r.marginal is not None:
                values.setdefault(r.method, []).append(r.marginal[0])
        asked = {r.method: r.kappa is not None and r.method != EQUAL for r in found if r.data == data}
        missed = {r.method for r in found if r.data == data and not r.met}
        said = [
            f"{_spread(values[method], 1)} with {method}"
            for method, counts in asked.items()
            if counts and method not in missed
        ]
        met = ", ".join(said) if said else "no run of GECO met its error"
        lines.append(f"{data} {_spread(values[ELBO], 1)} with the ELBO, {met}")
    return "; ".join(lines)


def _spread(values: Sequence[float], digits: int = 3) -> str:
    shown: Callable[[float], str] = lambda value: f"{value:.{digits}f}"  # noqa: E731
    mean = sum(values) / len(values)
    if len(values) == 1:
        return shown(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{shown(mean)} ± {shown(deviation)}"
