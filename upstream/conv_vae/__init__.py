"""The convolutional VAE that overfits ten images (Dehaene and Brossard 2021, section 7.1 and appendix).

It knows nothing of patches: its scales are exponentials, and where a log of one is needed it takes the log.

- `vae`: the model, which imports torch alone.
"""
