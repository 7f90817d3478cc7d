"""What runs in a Ray Train worker: the loop of a slot, the trial in its hand, and the watch over it."""
