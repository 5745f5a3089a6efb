"""An eleventh look: images and VAEs in general, in our own words.

Fields, and one word for each, fixed before any search. Of each word the list of repositories whose names have it, in
the index's order, and of these the first that fits. "In reserve" are words for what the first ones do not give.

plain images "vae-cifar", faces "face-vae", conditions "cvae-pytorch", levels "ladder-vae" and "hvae", mixtures
"vae-clustering", beta "betavae", factors "factor-vae", total correlation "tcvae", VAE-GAN "vaegan", segmentation
"probunet", compression "hyperprior", molecules "molecule-vae", graphs "graph-vae", cells "single-cell-vae", brains
"brain-vae", anomalies "anomaly-detection-vae", regression "mixture-density", uncertainty "aleatoric", Bayesian layers
"bayes-by-backprop", dropout "variational-dropout", latent diffusion "latent-diffusion", point clouds "pointcloud-vae",
poses "pose-vae", meshes "mesh-vae", fairness "fair-representation", domains "vae-domain", hashing "vae-hashing",
recommenders "vae-recommender", super-resolution "vae-sr", inpainting "vae-inpainting", satellites "satellite-vae",
tables "tabular-vae", half labelled "semisupervised-vae", importance weights "importance-weighted", mean discrepancy
"mmd-vae", flows in posteriors "vae-flow", sparse codes "sparse-vae", modalities "mmvae", unseen classes "cada-vae",
bottlenecks "information-bottleneck", identifiable "ivae", galaxies "galaxy-vae", fonts "font-vae", introspection
"introvae".

Without a head: GAN "dcgan-pytorch", contrast "byol-pytorch", autoencoder "denoising-autoencoder", flow
"nice-pytorch", diffusion "ddpm-mnist", codes "vq-vae-pytorch".

In reserve: "vae-mnist", "vae-celeba", "dvae", "vae-medical", "xray-vae", "protein-vae", "tvae", "uncertainty-estimation",
"mcvae", "vae-fairness", "causal-vae", "drug-vae", "vae-image-compression", "spectral-vae", "gan-vae", "deepvib".
"""

from __future__ import annotations
