"""The original two-GPU AlexNet as a plain PyTorch package: network, data, training, evaluation.

Names are loaded when first used (PEP 562), so that importing the package does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alexnet_core.process.interruption import is_starting_a_command, watch_from_the_start

# 在费时的载入之前：Ctrl-C 从这一刻起就只有一行
if is_starting_a_command():
    watch_from_the_start()

from alexnet_core.configuration.named_networks import network, training_recipe
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.configuration.train_config import NUMERICS, TrainConfig

if TYPE_CHECKING:
    from alexnet_core.data.loading import load_dataset
    from alexnet_core.model.alexnet import AlexNet
    from alexnet_core.model.layers import local_response_norm
    from alexnet_core.trained.loaded_model import load_model
    from alexnet_core.training.checkpointing import Checkpointing
    from alexnet_core.training.data_parallel import Workers
    from alexnet_core.training.evaluation import evaluate
    from alexnet_core.training.optimizer import MomentumSGD
    from alexnet_core.training.train import train

__all__ = [
    "NUMERICS",
    "AlexNet",
    "Checkpointing",
    "MomentumSGD",
    "NetworkSpec",
    "TrainConfig",
    "Workers",
    "evaluate",
    "load_dataset",
    "load_model",
    "local_response_norm",
    "network",
    "train",
    "training_recipe",
]

_HOMES = {
    "AlexNet": "model.alexnet",
    "Checkpointing": "training.checkpointing",
    "MomentumSGD": "training.optimizer",
    "Workers": "training.data_parallel",
    "evaluate": "training.evaluation",
    "load_dataset": "data.loading",
    "load_model": "trained.loaded_model",
    "local_response_norm": "model.layers",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
