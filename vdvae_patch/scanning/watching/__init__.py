"""Run a model once, note every operation, and leave everything as it was."""
