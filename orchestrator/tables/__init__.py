"""Polars views of the records, the ranking, and exports to trackers."""
