"""The arithmetic of a run: float32, tf32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from alexnet_core.configuration.train_config import Precision
from alexnet_core.errors import CoreError


def set_matrix_precision(precision: Precision) -> None:
    """Lets a GPU round the factors of float32 products to TF32, or not; a global of torch, so set before every run."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which products are made in bfloat16, where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuses an arithmetic that the device does not have.

    Raises:
        CoreError: TF32 was asked for on a CPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise CoreError(f"training.precision tf32 needs a GPU, and this runs on {device}; use float32 or bfloat16")
