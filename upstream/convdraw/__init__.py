"""A convolutional DRAW: an image is drawn in steps on a canvas, with or without images that it depends on.

After "Towards conceptual compression" (Gregor et al. 2016) and the scene model of Eslami et al. (2018), the model that
"Taming VAEs" trains. It knows nothing of patches: its layers emit log sigmas, and its KL is computed from these.

- `vae`: the model, which imports torch alone.
"""
