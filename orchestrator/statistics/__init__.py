"""Numbers only: paired tests, boundaries, verdict words. Knows nothing of the lab."""
