"""Figure 2: training NELBO and cumulated skipped updates, vanilla beside upbounded; a part of table 4's runs."""

from vdvae_patch.experiments.table4 import run

__all__ = ["run"]
