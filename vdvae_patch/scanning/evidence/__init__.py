"""What shows that a value is a σ: draws, densities, KLs; and what it is computed of."""
