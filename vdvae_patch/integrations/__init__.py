"""Frameworks for which a plain `patch` is not enough, one file each; what each needs is imported with its file."""
