"""Fails when the numbers of training moved; then raise `alexnet_core.NUMERICS` and pin the new ones.

Three updates of each named network in double precision, and one augmented batch. `python tests/alexnet_core/
test_numerics.py` prints the values of this version.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_core import NUMERICS
from alexnet_core.configuration.named_networks import network, network_names
from alexnet_core.configuration.train_config import DataSpec, TrainConfig, TrainingSpec
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.training.augmentation import training_views
from alexnet_core.training.loader import Batch
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups

PINNED_NUMERICS = 1
LOSSES = {
    "alexnet-145": [6.169519866058779, 6.721779776525863, 6.959298332605007],
    "alexnet-half": [7.047191237712138, 6.8596663041526025, 6.814943577141197],
    "alexnet-mini": [3.3052346737695917, 3.6532761602989146, 1.8808888553184757],
    "alexnet-paper": [6.518913930934227, 6.744310228437129, 6.938836689711017],
    "cifar-11pct": [2.302846219057723, 2.3033170230925095, 2.3021271479613343],
    "cifar-13pct": [2.3028531918926154, 2.3014957624604513, 2.3058580115378664],
    "cifar-18pct": [2.303766522241971, 2.3029890984583363, 2.302412697334181],
    "cifar-mini": [2.3996638885562094, 2.3102048738304473, 2.202710112686448],
}
VIEWS = [277.5259056886375, -586.3693728753614, 591.1375212482537, 167.99687659151493]


def three_losses(name: str) -> list[float]:
    spec = network(name)
    model = AlexNet(spec)
    initialise(model, 5)
    model.double().train()
    optimizer = MomentumSGD(parameter_groups(model, TrainingSpec(epochs=1)))
    random = np.random.Generator(np.random.Philox(key=1))
    shape = (2, spec.input_size, spec.input_size, spec.channels)
    losses = []
    for step, rate in enumerate((1e-4, 1e-4, 1e-5)):
        pixels = random.integers(-100, 101, shape).astype(np.float64)
        labels = torch.from_numpy(random.integers(0, spec.classes, 2))
        loss = F.cross_entropy(model(torch.from_numpy(pixels).permute(0, 3, 1, 2), (5, step, 0)), labels)
        losses.append(float(loss.detach()))
        model.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return losses


def view_sums() -> list[float]:
    """Four numbers that depend on every pixel's place and value."""
    random = np.random.Generator(np.random.Philox(key=2))
    images = torch.from_numpy(random.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    mean = torch.full((16, 16, 3), 127.5)
    config = TrainConfig(
        network=network("alexnet-mini").model_copy(update={"input_size": 14}),
        training=TrainingSpec(epochs=1, colour_noise=0.1),
        data=DataSpec(name="noise", source="imagefolder", image_size=16, digest="0" * 64),
        seed=3,
    )
    chosen = torch.tensor([8, 0, 3, 5])
    axes = torch.tensor([[40.0, 5, 1], [40, -5, 2], [40, 0, -3]])
    views = training_views(Batch(images, chosen, chosen, chosen, mean), config, 2, torch.arange(4), axes, 0.1)
    weights = torch.linspace(-1, 1, views[0].numel(), dtype=torch.float64)
    return [float(view) for view in views.double().contiguous().flatten(1) @ weights]


def test_the_pinned_values_belong_to_this_version() -> None:
    assert NUMERICS == PINNED_NUMERICS, "NUMERICS was raised: run this file and pin the new values"
    assert set(LOSSES) == set(network_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", network_names())
def test_updates_give_the_pinned_losses(name: str) -> None:
    assert three_losses(name) == pytest.approx(LOSSES[name], rel=1e-8), "numbers moved: raise NUMERICS"


def test_augmentation_gives_the_pinned_views() -> None:
    assert view_sums() == pytest.approx(VIEWS, rel=1e-5), "numbers moved: raise NUMERICS"


if __name__ == "__main__":
    print("LOSSES =", {name: three_losses(name) for name in network_names()})
    print("VIEWS =", view_sums())
