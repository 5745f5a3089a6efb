"""Watch a training loop that somebody else wrote: skip what is not finite, say why, and heal.

| module | does |
|---|---|
| `watch` | decides before each step of an optimizer, and undoes |
| `deferred` | lets the device decide, where nothing has to wait for it |
| `signals` | hears what PyTorch does not announce by a hook |
| `passes` | keeps what undoes a step, and what does it again |
| `frames`, `graphs`, `buffers` | which functions were running; what a graph is of; the model's buffers before a step |
| `lines`, `again` | the step as a function, from the user's own lines |
| `extremes` | log σ, mean and KL of every head in that step |
| `diagnosis`, `examining` | does it again: where it broke, by which head, and what holds; when that is worth it |
| `skip`, `report` | a skipped update on disk, and in words |
| `raised` | errors that end a step, and where it was by then |
| `evaluations`, `ranks`, `held_back` | optimizers that evaluate many times; several processes; several guards |
| `everything` | guards whatever model an optimizer is made for |
| `replaying` | a recorded skip, done again in another process |
"""

from __future__ import annotations

from vdvae_patch.guarding.skip import Skip
from vdvae_patch.guarding.watch import Guard, guard

__all__ = ["Guard", "Skip", "guard"]
