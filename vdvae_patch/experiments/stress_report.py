"""What the stress test reports: per remedy and learning rate the clean runs, the bad steps and the NELBO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.options import Stress
from vdvae_patch.experiments.remedies import Remedy
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number
from vdvae_patch.experiments.session import Result
from vdvae_patch.experiments.stress_protocol import FULL, HIGH_NORM, LAST, QUICK, Protocol
from vdvae_patch.registry import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COUNTED = ("clean runs", "NaN steps", "high gradients", "median NELBO")
_NAMES = {FULL.image_size: "stress", QUICK.image_size: "stress-quick"}


def report_name(protocol: Protocol) -> str:
    """`stress`, `stress-quick`, or with the size of the images, such as `stress-16`."""
    return _NAMES.get(protocol.image_size, f"stress-{protocol.image_size}")


def build_report(done: Sequence[tuple[Remedy, Result]], protocol: Protocol, options: Stress) -> Report:
    """One table: a row a remedy, the counts at every learning rate."""
    header = ["remedy", "from"]
    for lr in protocol.lr:
        header += [f"{format_number(lr)}: {what}" for what in _COUNTED]
    rows: list[tuple[Cell, ...]] = []
    for remedy, result in done:
        cells: list[Cell] = [remedy.name, remedy.origin]
        for lr in protocol.lr:
            cells += _cells([row for row in result["runs"] if row["lr"] == lr])
        rows.append(tuple(cells))
    return Report(
        report_name(protocol),
        "Stress test: which remedy survives a raised learning rate",
        _introduction(protocol),
        (Table("remedies", "Remedies", tuple(header), tuple(rows)),),
        Origin.of(pick_device(options.device), range(protocol.seeds), [result for _, result in done]),
        (_ranking(done, protocol),),
    )


def _cells(rows: list[dict[str, Any]]) -> list[Cell]:
    clean = sum(row["nan"] == 0 and row["high"] == 0 for row in rows)
    values = [math.inf if row["nelbo"] is None else row["nelbo"] for row in rows]
    middle = median(values)
    nelbo = number(middle) if math.isfinite(middle) else "not finite"
    return [f"{clean}/{len(rows)}", sum(r["nan"] for r in rows), sum(r["high"] for r in rows), nelbo]


def _introduction(p: Protocol) -> str:
    return (
        f"VDVAE of width {p.width}, 8 latent channels, decoder `{p.dec_blocks}`, encoder `{p.enc_blocks}`, on 10 "
        f"random CIFAR-10 images a seed at {p.image_size}x{p.image_size}, batches of {p.batch_size}, {p.steps} steps, "
        f"AdamW with betas (0.9, 0.9) and weight decay 0.01, warm-up over {p.warmup} steps; clipped at 200 and skipped "
        f"at {HIGH_NORM:g} unless the remedy says otherwise. {p.seeds} seeds at each learning rate. A run is clean if "
        f"it had no NaN step and no gradient norm of {HIGH_NORM:g} or more, whether or not that step was skipped. "
        "A skipped update leaves the weights where they are, so a model whose gradient stays high is skipped to its "
        f"end. NELBO is the mean of the last {LAST} steps in nats per dimension, the median over seeds."
    )


@dataclass(frozen=True)
class _Score:
    """All seeds of a remedy at one learning rate; `skipped` are updates that its own rule did not apply."""

    bad: int
    nan: int
    skipped: int
    name: str


def _score(remedy: Remedy, result: Result, lr: float) -> _Score:
    rows = [row for row in result["runs"] if row["lr"] == lr]
    nan, high = (sum(row[kind] for row in rows) for kind in ("nan", "high"))
    skips_high = remedy.skip is not None and math.isfinite(remedy.skip)
    skipped = nan + high if skips_high else nan
    if all("skipped" in row for row in rows):  # a gradient may be skipped for its NaN where no high one is
        skipped = sum(row["nan"] if remedy.skip is None else row["skipped"] for row in rows)
    return _Score(nan + high, nan, skipped, remedy.name)


def _ranking(done: Sequence[tuple[Remedy, Result]], protocol: Protocol) -> str:
    """Per learning rate the remedies with the fewest bad steps, and what they cost where nothing breaks."""
    lines = []
    for lr in protocol.lr:
        rate = format_number(lr)
        scores = [_score(remedy, result, lr) for remedy, result in done if remedy.rate]
        controls = [_score(remedy, result, lr) for remedy, result in done if not remedy.rate]
        if not any(score.bad for score in [*scores, *controls]):
            lines.append(f"- learning rate {rate}: nothing broke, with any of the {len(scores)} remedies.")
            continue
        untouched = sum(score.bad == 0 for score in scores)
        whole = [score.name for score in scores if score.skipped == 0]
        best = "; ".join(f"{score.name} ({score.bad})" for score in sorted(scores, key=lambda s: (s.bad, s.nan))[:5])
        lines.append(
            f"- learning rate {rate}: {untouched} of {len(scores)} remedies had neither NaN nor a high gradient in any "
            f"seed. Fewest of both together: {best}. No NaN and no update skipped in any seed: "
            f"{'; '.join(whole) or 'none'}."
        )
        lines += [
            f"- learning rate {rate}, control: {score.name} had {score.bad} bad steps, by the gradient of the "
            "distortion."
            for score in controls
            if score.bad
        ]
    comparable = [pair for pair in done if pair[0].rate and pair[0].keeps_likelihood]
    lines += _other_likelihoods([remedy for remedy, _ in done])
    return "\n".join([*lines, *_cost(comparable, min(protocol.lr))])


def _other_likelihoods(remedies: Sequence[Remedy]) -> list[str]:
    """Whose NELBO is of a density, and beside no other's."""
    names = [remedy.name for remedy in remedies if not remedy.keeps_likelihood]
    if not names:
        return []
    return [
        f"- {'; '.join(names)}: the likelihood is a Gaussian on [-1, 1] in the place of VDVAE's mixture, so that NELBO "
        "and gradient norm are those of another loss, in nats per dimension of a density; GECO's loss is KL + λ C. Bad "
        "steps are counted alike."
    ]


def _cost(done: Sequence[tuple[Remedy, Result]], lr: float) -> list[str]:
    """The NELBO of every remedy against vanilla's at a learning rate, seed by seed; none if vanilla is not there."""
    final = {
        remedy.name: {row["seed"]: row["nelbo"] for row in result["runs"] if row["lr"] == lr} for remedy, result in done
    }
    vanilla = final.pop("vanilla", {})
    costs = []
    for name, values in final.items():
        pairs = [(values[s], vanilla[s]) for s in values if values[s] is not None and vanilla.get(s) is not None]
        if pairs:
            some = "" if len(pairs) == len(values) else f", {len(pairs)} of {len(values)} seeds"  # others not finite
            costs.append((median(ours - theirs for ours, theirs in pairs), name + some))
    if not costs:
        return []
    (low, first), (high, last) = min(costs), max(costs)
    return [
        f"- cost in NELBO at learning rate {format_number(lr)}, median over seeds of the difference to vanilla in nats "
        f"per dimension: from {low:+.3f} ({first}) to {high:+.3f} ({last})."
    ]


def draw(done: Sequence[tuple[Remedy, Result]], protocol: Protocol) -> Figure:
    """Bars of bad steps, a panel a learning rate; NaN and high gradients stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 + 2.6 * len(protocol.lr), 1.2 + 0.3 * len(done)))
    axes = figure.subplots(1, len(protocol.lr), sharey=True, squeeze=False)[0]
    names = [remedy.name for remedy, _ in done]
    total = protocol.seeds * protocol.steps
    for axis, lr in zip(axes, protocol.lr, strict=True):
        parts = {"nan": "NaN", "high": "high gradient"}
        left = [0.0] * len(done)
        for (part, label), color in zip(parts.items(), ("#b2182b", "#f4a582"), strict=True):
            share = [100 * sum(r[part] for r in result["runs"] if r["lr"] == lr) / total for _, result in done]
            axis.barh(names, share, left=left, color=color, label=label)
            left = [a + b for a, b in zip(left, share, strict=True)]
        axis.set(title=f"learning rate {format_number(lr)}", xlabel="% of all steps", xlim=(0, max(5.0, *left) * 1.05))
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    return figure
