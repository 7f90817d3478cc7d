"""A difference that is known to be there is found: wrong labels, planted in one arm's training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_core import train
from alexnet_core.configuration.network_spec import Activation, FullyConnected
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.loading import summarise_data
from orchestrator.statistics.alpha_spending import ShareOfLevel
from orchestrator.statistics.verdict import ArmEvidence, Verdict, judge
from tests.made_records import make_config

SEEDS = 6
TRAINED, TESTED = 700, 500


def plant(root: Path, share: float) -> Path:
    """Files real digits by class; of those to train on a share lies in the next class's folder."""
    digits = load_digits()
    wrong = np.random.default_rng(0).random(TRAINED) < share
    for place, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if place >= TRAINED + TESTED:
            break
        split = "train" if place < TRAINED else "test"
        filed = (label + 1) % 10 if split == "train" and wrong[place] else label
        folder = root / split / str(filed)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).resize((16, 16)).convert("RGB").save(folder / f"{place}.png")
    return root


def small_network(seed: int, data: dict[str, str]) -> TrainConfig:
    """Two fully connected layers, which learn digits in ten epochs of a few hundred images."""
    config = make_config(seed, data=data, epochs=10, learning_rate=1e-4)
    layers = (
        FullyConnected(name="fc6", units=32, weight_std=0.05),
        Activation(name="relu6"),
        FullyConnected(name="fc8", on_last_device=True, weight_std=0.1),
    )
    return config.model_copy(update={"network": config.network.model_copy(update={"layers": layers})})


def errors_by_seed(root: Path) -> list[float]:
    """Percent wrong at the end, by seed, of two layers trained on these images."""
    torch.set_num_threads(1)
    digest = summarise_data("imagefolder", root, None).digest
    data = {"name": "planted", "source": "imagefolder", "root": str(root), "digest": digest}
    errors = []
    for seed in range(SEEDS):
        *_, last = train(small_network(seed, data))
        assert last.test is not None
        errors.append(100.0 * last.test.top1_error)
    return errors


def verdict(arm: list[float], baseline: list[float]) -> Verdict:
    differences = tuple(float(a - b) for a, b in zip(arm, baseline, strict=True))
    evidence = ArmEvidence("planted", differences, SEEDS, claimed_points=1.0)
    return judge([evidence], 0.5, 0.05, ShareOfLevel(0.8))["planted"]


@pytest.mark.slow
def test_twenty_percent_wrong_labels_in_one_arm_are_found_and_swapping_the_arms_swaps_the_word(tmp_path: Path) -> None:
    right, wrong = errors_by_seed(plant(tmp_path / "right", 0.0)), errors_by_seed(plant(tmp_path / "wrong", 0.2))
    print("percent wrong, right labels:", right, "wrong labels:", wrong)
    assert verdict(wrong, right).word == "supports"
    assert verdict(right, wrong).word == "contradicts"
