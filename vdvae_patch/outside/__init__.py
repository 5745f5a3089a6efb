"""What a model keeps outside of its `state_dict`: a step that it counts, an annealed weight, a mean in a plain tensor.

torch saves parameters and buffers. What else the next step reads lies in attributes of modules, and of the objects that
these hold, and in buffers with `persistent=False`: such a run, resumed without them, is another run.

places.py     where such values lie
encoded.py    a value as tensors, numbers and text, for a file, and back
moved.py      which have moved since the model was built: what a checkpoint adds
settings.py   what the output may depend on, as text to be compared: what a folder of `save` says
snapshot.py   all that may move within a step, as it was before one
"""

from vdvae_patch.outside.encoded import fingerprint, holds_generator
from vdvae_patch.outside.moved import Moved, SinceBuilt, put
from vdvae_patch.outside.settings import differences, settings
from vdvae_patch.outside.snapshot import Snapshot, Snapshots

__all__ = [
    "Moved",
    "SinceBuilt",
    "Snapshot",
    "Snapshots",
    "differences",
    "fingerprint",
    "holds_generator",
    "put",
    "settings",
]
