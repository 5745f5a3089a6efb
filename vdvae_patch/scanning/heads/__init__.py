"""From readings to heads: which are one, in which role, around which mean."""
