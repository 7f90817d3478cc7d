"""Any model: what a training of one's own offers, what it is given, and whether it keeps its word."""
