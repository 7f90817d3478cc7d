"""The second built-in core: image classifiers of torchvision, trained from nothing in today's usual way."""
