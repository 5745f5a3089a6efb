"""Where in the host's code a σ can be replaced."""
