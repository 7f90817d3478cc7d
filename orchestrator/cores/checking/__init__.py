"""Whether a core keeps its word: rehearsed in fresh processes, and compared with what is on record."""
