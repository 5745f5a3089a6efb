"""`python -m vdvae_patch` is the command `vdvae-patch`."""

from vdvae_patch.cli import main

if __name__ == "__main__":
    main()
