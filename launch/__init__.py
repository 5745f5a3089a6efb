"""How a run becomes processes: torchrun, mpiexec, SLURM; and the published runs as presets."""
