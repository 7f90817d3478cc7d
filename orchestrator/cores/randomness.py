"""The random states that travel with a trial: those of `random`, numpy and torch, as plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

# numpy 的旧生成器只收 32 位的种子
NUMPY_SEEDS = 2**32


def seed_all(seed: int) -> None:
    """Seeds `random`, numpy's global generator and torch, on all devices.

    Args:
        seed: Of the trial.
    """
    import torch

    random.seed(seed)
    np.random.seed(seed % NUMPY_SEEDS)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Returns the states of all three, torch's of every GPU that is in use too."""
    import torch

    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": on_gpus,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Goes on with the random numbers where `random_states` was called.

    Args:
        states: What it returned.
    """
    import torch

    random.setstate(states["random"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
