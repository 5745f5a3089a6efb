"""A replayed step in words and in a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vdvae_patch.errors import RunError
from vdvae_patch.skips import telling
from vdvae_patch.skips.compared import again
from vdvae_patch.skips.whole import replaced
from vdvae_patch.tables import columns
from vdvae_patch.trace import Event
from vdvae_patch.train.replay import HeadReplay, Replay
from vdvae_patch.train.step import StepRecord


def report(own: Replay, other: Replay | None, threshold: float) -> str:
    """What happened, per head in the order of the computation; what would have happened under another variant."""
    lines = [f"step {own.record.step}, {own.variant}: {outcome(own.record, threshold)}"]
    lines += [again(own.compared, own.note), "", _heads(own), "", _blame(own)]
    if other is not None:
        lines += ["", telling.under(other.variant, outcome(other.record, threshold)), ""]
        lines += [_heads(other), "", _blame(other)]
    return "\n".join(lines)


def outcome(record: StepRecord, threshold: float) -> str:
    """The losses, the norm, and whether the update was applied."""
    limit = "no threshold" if threshold <= 0 else f"threshold {threshold:g}"
    verdict = "update applied" if record.cause is None else f"update skipped ({record.cause})"
    return (
        f"NELBO {record.elbo:.4g} nats/dim (distortion {record.distortion:.4g} + rate {record.rate:.4g}), "
        f"gradient norm {record.grad_norm:.4g} ({limit}): {verdict}"
    )


def suspects(event: Event, heads: Sequence[HeadReplay]) -> list[HeadReplay]:
    """The heads of the module in which a bad value was made, the most extreme log σ first; those that a look at the
    latents does not reach last."""
    module = event.place.module
    # no head may be as deep as the module: then the innermost module around it that has some
    while True:
        near = [h for h in heads if _belongs(h.state.path, module)]
        if near or not module:
            return sorted(near, key=lambda h: (_is_looked_at(h), _extremity(h)), reverse=True)
        module = module.rpartition(".")[0]


def draw(path: Path, replays: Sequence[Replay]) -> None:
    """A PNG: log σ from minimum to maximum, and KL, by head in the order of the computation; one colour a variant.

    Raises:
        RunError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(3, 1, figsize=(max(7, 0.16 * len(replays[0].heads)), 8), sharex="row")
    for color, item in zip(("tab:red", "tab:blue"), replays, strict=False):
        for axis, role in zip(axes, ("posterior", "prior"), strict=False):
            _spans(axis, [h for h in item.heads if h.state.role == role], color, item.variant)
            axis.set_ylabel(f"{role} log σ")
            axis.set_yscale("symlog", linthresh=10)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        pairs = [h.state.kl for h in item.heads if h.state.role == "posterior"]
        drawn = [kl if math.isfinite(kl) else math.nan for kl in pairs]
        axes[2].plot(drawn, "o-", color=color, markersize=3, label=item.variant)
        for index, kl in enumerate(pairs):
            if not math.isfinite(kl):
                axes[2].axvline(index, color=color, linestyle=":", linewidth=1)
    axes[2].set_yscale("symlog", linthresh=1e-3)
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[2].set_ylabel("KL (nats an image)")
    # of two levels under N(0, 1) the one prior is of the lower latent, and stands at 0 all the same
    axes[2].set_xlabel("the heads of the role, in the order of the computation; dotted: not finite")
    for axis, role in zip(axes, ("posterior", "prior", "posterior"), strict=True):
        axis.set_xlim(-0.5, max(1, sum(h.state.role == role for h in replays[0].heads)) - 0.5)
    axes[0].legend(loc="best", fontsize=8)
    axes[0].set_title(f"step {replays[0].record.step}: the same weights, batch and noise", fontsize=10)
    figure.tight_layout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial:
            figure.savefig(partial, dpi=120)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror}") from error
    finally:
        plt.close(figure)


def _spans(axis: object, heads: Sequence[HeadReplay], color: str, label: str) -> None:
    for index, head in enumerate(heads):
        low, high = head.state.log_sigma_min, head.state.log_sigma_max
        if math.isfinite(low) and math.isfinite(high):
            axis.plot([index, index], [low, high], "_-", color=color, alpha=0.7, label=label if index == 0 else None)  # type: ignore[attr-defined]
        else:
            axis.axvline(index, color=color, linestyle=":", linewidth=1)  # type: ignore[attr-defined]


def _heads(replay: Replay) -> str:
    header = ("head", "role", "min log σ", "max log σ", "KL (nats)", "gradient of its last layer")
    rows = [
        (
            h.state.named, h.state.role,
            *(_seen(value, replay, h) for value in (h.state.log_sigma_min, h.state.log_sigma_max, h.state.kl)),
            f"{h.grad_norm:.4g}",
        )
        for h in replay.heads
    ]  # fmt: skip
    return columns(header, rows)


def _seen(value: float, replay: Replay, head: HeadReplay) -> str:
    """A value of a head; a NaN is one that was not looked at where every value is finite, or the head's are not."""
    unseen = math.isnan(value) and (replay.first_bad is None or not _is_looked_at(head))
    return "-" if unseen else f"{value:.4g}"


def _is_looked_at(head: HeadReplay) -> bool:
    """Not so a likelihood's that decodes behind the latents, where a look at them ends: nothing of it is known."""
    state = head.state
    if not state.seen:
        return False
    values = (state.log_sigma_min, state.log_sigma_max, state.kl)
    return state.role != "likelihood" or not all(map(math.isnan, values))


def _blame(replay: Replay) -> str:
    event = replay.first_bad
    if event is None:
        steepest = max(replay.heads, key=lambda h: h.grad_norm if math.isfinite(h.grad_norm) else -1.0)
        return (
            f"{replay.variant}: every value is finite and none explodes; "
            f"the largest gradient of a head is {steepest.grad_norm:.4g} at {steepest.state.named}"
        )
    near = suspects(event, replay.heads)
    explodes, later = (event, replay.first_not_finite) if event.finite else (None, event)
    text = telling.values(explodes, later, replay.bad_rank)
    for number, one in enumerate(near):
        if number == 0 or not _is_looked_at(one):  # one of which nothing is known may be to blame as well
            text.append(telling.head(one.state.path, one.state.channels, one.state.role, _extremes(one)))
    return "\n  ".join([f"{replay.variant}:", *text])


def _extremes(head: HeadReplay) -> str:
    if not _is_looked_at(head):
        return "whose log σ is not looked at here, and may be what breaks it"
    return telling.log_sigma(head.state.log_sigma_min, head.state.log_sigma_max)


def _belongs(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.") or module.startswith(f"{path}.")


def _extremity(head: HeadReplay) -> float:
    extremes = (head.state.log_sigma_min, head.state.log_sigma_max)
    return max((abs(v) if math.isfinite(v) else math.inf) for v in extremes)
