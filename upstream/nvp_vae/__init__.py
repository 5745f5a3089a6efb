"""A VAE with a convolutional decoder whose posterior is a conditional real NVP.

After the VAE+NVP of "Taming VAEs", whose parts are those of "Distribution matching in variational inference" (Rosca et
al. 2018) and of "Density estimation using real NVP" (Dinh et al. 2016). It knows nothing of patches.

- `vae`: the model, which imports torch alone.
"""
