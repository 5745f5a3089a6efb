"""A very deep VAE (Child 2021, https://arxiv.org/abs/2011.10650), as PyTorch code of today.

It has the names, shapes, numbers and behaviour of the authors' release (github.com/openai/vdvae): a checkpoint of
either loads in the other, and the same seed gives both the same weights, noise and losses. It knows nothing of patches.

- `hps`: hyperparameters, presets and their command line; needs no torch.
- `layout`: layer strings and channel widths, checked; needs no torch.
- `mixture`: the pixel likelihood, a mixture of discretized logistics.
- `vae_helpers`: Normal arithmetic, convolutions, residual blocks and the output network.
- `vae`: encoder, decoder and the model.
"""
