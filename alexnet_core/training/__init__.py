"""Training and evaluation: augmentation, optimizer, checkpoints, the loop."""
