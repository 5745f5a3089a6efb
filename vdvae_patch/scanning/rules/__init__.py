"""The rules of the scan that refuse, merge, drop or join what was read: one file a rule.

Every module in this folder is imported here, so that a new rule is a new file and nothing else. `stages` has the kinds
of rules, and the README of the folder above says how to add one.
"""

from importlib import import_module
from pkgutil import iter_modules

from vdvae_patch.scanning.rules.stages import STAGES, chains, drops, groupings, merges, noise_uses, terms

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["STAGES", "chains", "drops", "groupings", "merges", "noise_uses", "terms"]
