"""The bodies of `python -m alexnet_core ...`, one file a verb."""
