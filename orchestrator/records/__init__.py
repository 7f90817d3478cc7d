"""The truth: one trial on disk, its paths, locks, looks and weights."""
