"""Studies and trials as validated data. Loads neither torch nor ray nor polars."""
