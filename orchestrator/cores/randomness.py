"""The random states of `random`, numpy and torch: seeded, kept as plain data, and left aside for a while."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Drawn = TypeVar("Drawn")

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


def draw_apart(draw: Callable[[], Drawn], key: tuple[int, ...] | None) -> Drawn:
    """Returns what a function draws; by a key of its own if there is one, which moves no later draw.

    Args:
        draw: Draws from the generators of `random`, numpy and torch.
        key: Of these draws; None for the generators as they stand.
    """
    usual = draw()
    if key is None:
        return usual
    # 先照常抽一遍：之后的随机数才与没有另抽时一样
    states = random_states()
    seed_all(int(np.random.SeedSequence(key).generate_state(1)[0]))
    apart = draw()
    restore_random_states(states)
    return apart
