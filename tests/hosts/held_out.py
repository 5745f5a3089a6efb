"""Judges the scan on the models that it was not tuned on: `PYTHONPATH=tests/hosts python -m held_out` prints the table.

A head is found if its path and its channels are right; its role is counted apart. Each model is scanned several times:
what one scan misses is missed, what one scan makes up is false. σ is right after patching if the package's own
verification agrees and if, in one more run that is watched from outside, σ(p) or a power of it is really computed, p
being what an untouched copy of the module emits.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import held_out_others
import held_out_regressions
import held_out_sequences
import held_out_vaes
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import Case, TrueHead, built

from vdvae_patch import scales
from vdvae_patch.heads import ChannelRange, Head
from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult

WITH_HEADS = (*held_out_vaes.CASES, *held_out_sequences.CASES, *held_out_regressions.CASES)
WITHOUT = held_out_others.CASES
ALL = (*WITH_HEADS, *WITHOUT)
SCALES = ("explin", "upbounded(omega=2)")


@dataclass(frozen=True)
class Verdict:
    """What a scan made of one model.

    Attributes:
        true: how many heads there are.
        found: pairs of a true head and the found one at its path and channels.
        missed, false: the true heads that were not found, the found ones that are none; as text.
        conventions: how many of the found heads compute the σ that the host computes.
        patched: how many of the found heads have the promised σ under every scale tried.
        error: what scan or patch raised.
        dims: paths of found heads that name another dimension than the one that the channels lie along.
        varies: whether the scans of the same model and batch disagree.
    """

    case: Case
    true: int
    found: tuple[tuple[TrueHead, Head], ...]
    missed: tuple[str, ...]
    false: tuple[str, ...]
    conventions: int
    patched: int
    error: str
    dims: tuple[str, ...]
    varies: bool

    @property
    def roles(self) -> int:
        """How many of the found heads have the right role."""
        return sum(true.role == head.role for true, head in self.found)

    @property
    def exact(self) -> bool:
        """Whether every head is found with its role, and nothing else."""
        return not self.missed and not self.false and self.roles == self.true


def place(head: TrueHead | Head) -> tuple[str, int, int | None, int]:
    """Path and channels: where a slice takes every so many, it stops behind the last one that it takes."""
    step = getattr(head, "step", 1)
    stop = head.stop if head.stop is None or step == 1 else range(head.start, head.stop, step)[-1] + 1
    return head.path, head.start, stop, step


def described(head: TrueHead | Head) -> str:
    step = getattr(head, "step", 1)
    stop = "" if head.stop is None else head.stop
    return f"{head.path}[{head.start or ''}:{stop}{f':{step}' if step > 1 else ''}] {head.role}"


def match(true: Iterable[TrueHead], found: Iterable[Head]) -> tuple[list[tuple[TrueHead, Head]], list[Head]]:
    """Pairs at the same place, the same role first, and the found heads that are left over."""
    pairs, true, left = [], list(true), list(found)
    for same_role in (True, False):
        for t in list(true):
            for head in left:
                if place(t) == place(head) and (t.role == head.role or not same_role):
                    pairs.append((t, head))
                    true.remove(t)
                    left.remove(head)
                    break
    return pairs, left


def same_sigma(true: TrueHead, head: Head) -> bool:
    v = torch.linspace(-7, 3, 23, dtype=torch.float64)
    assert true.sigma is not None
    return torch.allclose(head.convention.sigma(v), true.sigma(v), rtol=1e-6, atol=1e-12)


class Computed(TorchDispatchMode):
    """Keeps what every operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and out.layout == torch.strided:
            self.values.append(out.detach().flatten().clone())
        return out

    def hold(self, wanted: Tensor) -> bool:
        """Whether one result has nearly all wanted values; not all, because padding is masked out."""
        wanted = wanted.flatten()[:, None]
        return any(
            float(((wanted - v).abs() <= 1e-4 * wanted.abs()).any(1).float().mean()) > 0.8
            for v in self.values
            if len(v) >= 0.8 * len(wanted)
        )


def channel_dim(model: nn.Module, head: Head) -> int:
    """Where channels lie: convolutions and batch norm have them second, all else last."""
    if head.parameter:
        return 0
    second = (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    return 1 if isinstance(model.get_submodule(head.path), second) else -1


def promised(model: nn.Module, heads: ScanResult, case: Case, scale: str) -> list[TrueHead]:
    """The true heads whose σ is really scale(p) after all that was found is patched."""
    pairs, _ = match(case.heads, heads)
    originals = {t.path: copy.deepcopy(model.get_submodule(t.path)) for t, h in pairs if not h.parameter}
    patch(model, heads=heads, paper=True, **dict.fromkeys({head.role for head in heads}, scale))
    emitted: dict[str, list[Tensor]] = {
        t.path: [model.get_parameter(t.path).detach().clone()] if h.parameter else [] for t, h in pairs
    }

    def hook(path: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            emitted[path].append(originals[path](*args).detach())

        return keep

    handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in originals]
    torch.manual_seed(3)
    with Computed() as computed:
        model(*case.inputs())
    for handle in handles:
        handle.remove()
    kept = []
    for true, head in pairs:
        right = bool(emitted[true.path]) and true.role == head.role
        for value in emitted[true.path]:
            dim = channel_dim(model, head)
            raw = ChannelRange(dim, true.start, true.stop, getattr(true, "step", 1)).of(value)
            sigma = scales.get(scale).sigma(raw)
            right &= any(computed.hold(sigma**power) for power in (1, 2, -1, -2))
        if right:
            kept.append(true)
    return kept


@functools.cache
def judge(case: Case, scans: int = 3) -> Verdict:
    """Scans the model several times, compares with the truth, patches what was found, looks at the σ that is used."""
    error = ""
    seen: list[list[str]] = []
    pairs: list[tuple[TrueHead, Head]] = []
    kept = list(case.heads)
    false: set[str] = set()
    dims: set[str] = set()
    for attempt in range(scans):
        heads: list[Head] = []
        now: list[TrueHead] = []
        try:
            model, heads = built(case)
            matched, left = match(case.heads, heads)
        except Exception as problem:
            error, matched, left = f"scan: {type(problem).__name__}: {problem}", [], []
        seen.append(sorted(map(described, heads)))
        pairs = matched if attempt == 0 else [p for p in matched if any(p[0] is old for old, _ in pairs)]
        false |= set(map(described, left))
        dims |= {h.path for _, h in matched if not right_dim(model, h)}
        for scale in SCALES if heads else ():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    now = promised(*built(case), case, scale)
            except Exception as problem:
                error, now = f"patch: {type(problem).__name__}: {problem}", []
            kept = [t for t in kept if any(t is n for n in now)]
        kept = kept if heads else []
    found = {id(t) for t, _ in pairs}
    return Verdict(
        case,
        len(case.heads),
        tuple(pairs),
        tuple(described(t) for t in case.heads if id(t) not in found),
        tuple(sorted(false)),
        sum(same_sigma(t, head) for t, head in pairs),
        len(kept),
        error,
        tuple(sorted(dims)),
        any(names != seen[0] for names in seen),
    )


def right_dim(model: nn.Module, head: Head) -> bool:
    """Whether a range of channels lies along the dimension that the head names, counted from either end."""
    if head.parameter or head.found is None or (head.start, head.stop) == (0, None):
        return True
    true = channel_dim(model, head)
    return (head.dim - true) % len(head.found.shape) == 0


def table(verdicts: Iterable[Verdict]) -> str:
    """One row a model, and precision and recall over all of them, in Markdown."""
    verdicts = list(verdicts)
    lines = [
        "| model | heads there | found | false | roles right | σ(v) right | patched and verified | what is wrong |",
        "| :-- | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for v in verdicts:
        remarks = [*(f"missed `{m}`" for m in v.missed), *(f"false `{f}`" for f in v.false)]
        remarks += [f"`{t.path}` called {h.role}, is {t.role}" for t, h in v.found if t.role != h.role]
        remarks += [f"`{path}`: the wrong dimension" for path in v.dims]
        remarks += ["scans differ"] if v.varies else []
        remarks += [v.error.split(":")[0] + " raised " + v.error.split(":")[1].strip()] if v.error else []
        counts = (v.true, len(v.found), len(v.false), v.roles, v.conventions, v.patched)
        lines.append(f"| {v.case.name} | " + " | ".join(map(str, counts)) + f" | {'; '.join(remarks)} |")
    true, found = sum(v.true for v in verdicts), sum(len(v.found) for v in verdicts)
    false, roles = sum(len(v.false) for v in verdicts), sum(v.roles for v in verdicts)
    clean = sum(v.exact for v in verdicts)
    rest = (sum(v.conventions for v in verdicts), sum(v.patched for v in verdicts))
    lines.append(f"| all {len(verdicts)} | {true} | {found} | {false} | {roles} | {rest[0]} | {rest[1]} | |")
    for name, right in (("Path and channels", found), ("With the role", roles)):
        lines += ["", f"{name}: precision {right}/{found + false} = {right / max(1, found + false):.3f}, "]
        lines[-1] += f"recall {right}/{true} = {right / true:.3f}."
    return "\n".join([*lines, "", f"Models with exactly their heads and roles: {clean} of {len(verdicts)}."])


if __name__ == "__main__":
    print(table(map(judge, ALL)))
