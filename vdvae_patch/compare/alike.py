"""Whether runs side by side differ in their patch alone: the same images and batches, and code that computes alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SAW = {
    "train_count": "training images", "fingerprint": "training images (SHA-256)",
    "whole_fingerprint": "training images (SHA-256 of all)",
    "held_out_fingerprint": "images to validate and to test (SHA-256)",
    "held_out_whole_fingerprint": "images to validate and to test (SHA-256 of all)",
    "global_batch": "images a batch, of all ranks", "weights_sha256": "weights to begin with (SHA-256)",
}  # fmt: skip
_COMPUTED = {
    "float32": "not all runs multiply float32 alike",
    "commit": "not all runs are of one commit of this package",
    "sources": "not all runs are of the same files of this package",
    "torch": "not all runs are of one version of torch",
    "machine": "not all runs are of one machine",
    "threads": "not all runs had as many threads",
    "ranks": "not all runs were of as many processes",
    "host": "not all runs are of one commit of the host",
    "host_sources": "not all runs are of the same files of the host and its patch file",
}
_DRAWN = frozenset({"fingerprint", "whole_fingerprint"})
"""What is another one for each seed where a seed chooses the training images."""
_DIGITS = 12
"""Of a SHA-256 that is shown."""


@dataclass(frozen=True)
class Seen:
    """What a run saw of that which makes another training of it.

    Attributes:
        saw: by name; without what its version did not write.
        draw: the seed that chose its training images; None if all of the data set were taken.
    """

    saw: Mapping[str, str] = field(default_factory=dict)
    draw: object = None

    @classmethod
    def of(cls, seen: Mapping[str, Any], settings: Mapping[str, Any]) -> Seen:
        """From `[run]` of a `config.toml`, and from what the run was told."""
        data = seen.get("data")
        own = {key: seen.get(key) for key in ("global_batch", "weights_sha256")}
        flat = {**(data if isinstance(data, Mapping) else {}), **own}
        saw = {key: str(flat[key])[:_DIGITS] for key in _SAW if flat.get(key) not in (None, "")}
        return cls(saw, None if settings.get("limit_images") is None else settings.get("seed"))

    @property
    def images(self) -> str | None:
        """What tells its images from others, `95fe03ba33fc/043de93edb9d`; of a drawn share what is not drawn."""
        return "/".join(filter(None, self.prints)) or None

    @property
    def whole_images(self) -> str | None:
        """The same by what is of all images, where `images` is of some; apart, since older runs did not write it."""
        return "/".join(filter(None, self.whole_prints)) or None

    @property
    def prints(self) -> tuple[str | None, str | None]:
        """What `images` is made of; None for what its version did not write."""
        return self.saw.get("fingerprint") if self.draw is None else None, self.saw.get("held_out_fingerprint")

    @property
    def whole_prints(self) -> tuple[str | None, str | None]:
        """And `whole_images`."""
        train = self.saw.get("whole_fingerprint") if self.draw is None else None
        return train, self.saw.get("held_out_whole_fingerprint")


def others(runs: Sequence[Seen]) -> list[str]:
    """For each run in what it saw something else than most, the first among equals; empty if in nothing.

    Training images are compared among the runs of one draw. What a run does not say counts as the same.
    """
    differences: list[list[str]] = [[] for _ in runs]
    for key, name in _SAW.items():
        for draw in {run.draw if key in _DRAWN else None for run in runs}:
            mine = [
                index for index, run in enumerate(runs) if key in run.saw and (key not in _DRAWN or run.draw == draw)
            ]
            counted = Counter(runs[index].saw[key] for index in mine)
            for index in mine:
                usual, found = counted.most_common(1)[0][0], runs[index].saw[key]
                if found != usual:
                    differences[index].append(f"{name}: {found}, and {usual} in the other runs")
    return ["; ".join(one) for one in differences]


def remarks(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Where runs were computed by other code, so that a difference between them need not be the patch.

    Args:
        runs: what each is called, and `[run]` of its `config.toml`.
    """
    found = {}
    for key, said in _COMPUTED.items():
        if key == "sources" and "commit" in found:  # other commits have other files
            continue
        labels: dict[str, list[str]] = {}
        for label, seen in runs:
            if value := _all_the_time(key, seen):
                labels.setdefault(value, []).append(label)
        if len(labels) > 1 or any(_THEN in value for value in labels):
            told = "; ".join(f"{value}: {', '.join(of)}" for value, of in labels.items())
            found[key] = f"{said}, so that what differs need not be the patch ({told})"
    return [*found.values()]


_THEN = ", then "


def _all_the_time(key: str, seen: Mapping[str, Any]) -> str:
    """`"abc"`, or `"abc, then def"` of a run that was taken up with another; empty for one that does not say."""
    host = seen.get("host")
    of_host = {"host": "commit", "host_sources": "sources"}
    first = seen.get(key) if key not in of_host else host.get(of_host[key]) if isinstance(host, Mapping) else None
    if first in (None, ""):
        return ""
    name = "host_code" if key == "host" else key
    sessions = seen.get("sessions")
    told = [one.get(name) for one in (sessions if isinstance(sessions, list) else []) if isinstance(one, Mapping)]
    later = [str(value) for value in told if value not in (None, "", told[0], first)]
    return _THEN.join(dict.fromkeys([str(first), *later]))
