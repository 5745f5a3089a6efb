"""What a model's output may depend on beside its `state_dict`, as text that can be compared: for a folder of `save`.

Of the host's own modules and the objects in them: numbers, and tensors and containers of these. Of torch's modules the
floats alone (`eps`, `p`, `negative_slope`): what else they have is their shape, or in it. Text is left out, which is
names of devices and files, and so are what a pass has computed and generators, whose state is noise to come.
"""

from __future__ import annotations

import re

from torch import nn

from vdvae_patch.outside.encoded import Encoder, NoPlainValueError, fingerprint, holds_generator
from vdvae_patch.outside.moved import device_of
from vdvae_patch.outside.places import Registered, holders

_NUMBER = re.compile(r"-?[0-9.e+-]{1,24}|True|False|-?inf|nan")
_MOST = 1000


def settings(model: nn.Module) -> dict[str, str]:
    """By name the text of a number, or the SHA-256 of another value; of the first thousand."""
    encode = Encoder(device_of(model), Registered.of(model))
    found: dict[str, str] = {}
    for holder in holders(model):
        of_torch = type(holder.of).__module__.startswith("torch.")
        if holder.only is not None or (of_torch and not isinstance(holder.of, nn.Module)):
            continue  # buffers have a record of their own; a distribution is what a pass has computed
        for key, value in holder.items():
            if isinstance(value, str) or value is None or getattr(value, "grad_fn", None) is not None:
                continue
            if (of_torch and type(value) is not float) or len(found) >= _MOST:
                continue
            try:
                encoded = encode(value)
            except NoPlainValueError:
                continue
            if not holds_generator(encoded):
                found[holder.path(key)] = fingerprint(encoded)
    return found


def differences(then: dict[str, str], now: dict[str, str], words: tuple[str, str] = ("then", "now")) -> list[str]:
    """What is not what it was, with both where they are numbers; what is not there at all if it was a number of the
    model itself and no mark of a framework's, since a model may make it in its first call."""
    said = []
    for name, text in then.items():
        other = now.get(name)
        made_later = other is None and ("." in name or name.startswith("_") or not _is_number(text))
        if other == text or made_later:
            continue
        if _is_number(text) and (other is None or _is_number(other)):
            said.append(f"{name} ({text} {words[0]}, {'none' if other is None else other} {words[1]})")
        else:
            said.append(name)
    return said


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None
