"""Where files of `scan --write` from before version 0.2 import the descriptions of places from."""

from vdvae_patch.attach.sites import ActivationSite, CallStep, NormalSite, Site

__all__ = ["ActivationSite", "CallStep", "NormalSite", "Site"]
