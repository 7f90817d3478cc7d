"""The devices that a command may name, and what it says where one is not there."""

from __future__ import annotations

import argparse


class NoDevice(Exception):
    """A device was asked for that this machine does not have."""


def devices_of(options: argparse.Namespace) -> tuple[str, str]:
    """One device per tower: two GPUs, one GPU twice, or the CPU."""
    import torch

    torch.set_num_threads(options.threads)
    gpus = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cuda" and gpus == 0:
        raise NoDevice("--device cuda: torch sees no GPU here; use --device cpu")
    if gpus == 0:
        return ("cpu", "cpu")
    return ("cuda:0", "cuda:1" if gpus > 1 else "cuda:0")
