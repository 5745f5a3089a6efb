"""VAEs of gated dense layers with one or two levels of latents, and a prior that is standard or a VampPrior.

After "VAE with a VampPrior" (Tomczak and Welling 2018), whose two architectures "Large VAE" trains. It knows nothing of
patches: what its layers emit for a scale is a log variance, and its densities are computed from that.

- `vae`: both models, which import torch alone.
"""
