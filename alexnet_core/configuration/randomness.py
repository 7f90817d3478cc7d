"""Which sources of randomness a training of AlexNet has, in words. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_core.configuration.network_spec import Dropout
from alexnet_core.configuration.schedule import adds_colour_noise
from alexnet_core.configuration.train_config import Source, TrainConfig

SOURCE_TITLES: Mapping[str, str] = {
    "initialisation": "initial weights",
    "order": "order of the training images",
    "augmentation": "crops, flips and colour noise",
    "dropout": "masks of dropout",
}


def why_absent(config: TrainConfig, source: Source) -> str:
    """Returns why a training draws nothing from a source; empty where it does.

    Args:
        config: The training.
        source: The source.
    """
    training = config.training
    crops = training.random_crops and config.data.image_size > config.network.input_size
    if source == "augmentation" and not (crops or training.flips or adds_colour_noise(training)):
        return "there are no flips, no colour noise and no room for random crops"
    rates = [layer.rate for layer in config.network.layers if isinstance(layer, Dropout)]
    if source == "dropout" and not any(rates):
        return f"{config.network.name} has no dropout here"
    return ""
