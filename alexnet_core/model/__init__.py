"""The network: two towers on two devices, their layers, and every keyed draw."""
