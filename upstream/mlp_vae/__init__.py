"""The MLP VAE that learns a scale for every pixel of MNIST (Dehaene and Brossard 2021, section 7.2 and appendix).

It knows nothing of patches: its scales are exponentials, and where a log of one is needed it takes the log.

- `vae`: the model, which imports torch alone.
"""
