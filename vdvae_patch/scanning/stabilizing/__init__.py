"""`stabilize`: choose a scale for each head, patch, push the raw values to their ends, and say what holds."""
