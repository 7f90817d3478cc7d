"""Each source of randomness has a seed of its own: another one moves its draws, and not a bit of the others'."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_core.configuration.randomness import SOURCE_TITLES, why_absent
from alexnet_core.configuration.train_config import SOURCES, TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.model import layers
from alexnet_core.training import run as run_module
from alexnet_core.training import train as train_module
from alexnet_core.training.train import train

ConfigOf = Callable[..., TrainConfig]
Drawn = dict[str, Any]


def digest(array: torch.Tensor | np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class Pixels:
    """A view of an image; the noise's product rounds its last bits otherwise in another place of a batch."""

    def __init__(self, view: torch.Tensor) -> None:
        self.view = view.clone()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and torch.allclose(self.view, other.view, rtol=0.0, atol=1e-3)

    __hash__ = None  # type: ignore[assignment]


def with_seeds(config: TrainConfig, **seeds: int) -> TrainConfig:
    return TrainConfig.model_validate({**config.model_dump(), "seeds": seeds})


@pytest.fixture
def drawn_in(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> Callable[[TrainConfig], Drawn]:
    """Trains two epochs for real, and returns what was drawn: by layer, epoch, image and step."""
    drawn: Drawn = {}
    initialise, permutation = run_module.initialise, train_module.permutation
    training_views, keep_mask = train_module.training_views, layers.keep_mask

    def initialised(model: Any, seed: int) -> None:
        initialise(model, seed)
        drawn["initialisation"] = {name: digest(weight.detach()) for name, weight in model.named_parameters()}

    def ordered(count: int, *key: Any) -> np.ndarray:
        order = permutation(count, *key)
        drawn["order"].append(digest(order))
        return order

    def viewed(batch: Any, config: TrainConfig, epoch: int, *rest: Any) -> torch.Tensor:
        views = training_views(batch, config, epoch, *rest)
        # 按图记下：换了次序，每张图的裁剪也不该变
        drawn["augmentation"] |= {
            (epoch, int(image)): Pixels(view) for image, view in zip(batch.indices, views, strict=True)
        }
        return views

    def masked(key: int, first_row: int, shape: torch.Size, *rest: Any) -> torch.Tensor:
        mask = keep_mask(key, first_row, shape, *rest)
        drawn["dropout"].append(digest(mask))
        return mask

    monkeypatch.setattr(run_module, "initialise", initialised)
    monkeypatch.setattr(train_module, "permutation", ordered)
    monkeypatch.setattr(train_module, "training_views", viewed)
    monkeypatch.setattr(layers, "keep_mask", masked)

    def trained(config: TrainConfig) -> Drawn:
        drawn.clear()
        drawn.update(initialisation={}, order=[], augmentation={}, dropout=[])
        drawn["errors"] = [report.train.top1_errors for report in train(config, ("cpu", "cpu"), dataset=dataset)]
        return dict(drawn)

    return trained


@pytest.mark.slow
def test_another_seed_of_one_source_moves_its_draws_alone(
    drawn_in: Callable[[TrainConfig], Drawn], config_of: ConfigOf
) -> None:
    config = config_of(epochs=2, learning_rate=0.01)
    plain = drawn_in(config)
    assert len(plain["augmentation"]) == 2 * 70
    assert len(plain["order"]) == 2
    assert plain["dropout"]
    for source in SOURCES:
        other = drawn_in(with_seeds(config, **{source: 5}))
        assert [name for name in SOURCES if other[name] != plain[name]] == [source]
        # 每张图、每一步都换了，不是只换了一部分
        if isinstance(plain[source], dict):
            same = [key for key, value in plain[source].items() if other[source][key] == value]
            assert all("bias" in str(key) for key in same)
        else:
            assert set(plain[source]).isdisjoint(other[source])
    assert drawn_in(with_seeds(config, **dict.fromkeys(SOURCES, 5))) == drawn_in(
        config_of(5, epochs=2, learning_rate=0.01)
    )


def test_a_source_at_the_trials_own_seed_says_nothing(config_of: ConfigOf) -> None:
    config = config_of(3)
    assert with_seeds(config, **dict.fromkeys(SOURCES, 3)) == config
    assert "seeds" not in config.model_dump()
    other = with_seeds(config, order=4, dropout=3)
    assert other.model_dump()["seeds"] == {"order": 4}
    assert [other.seed_of(source) for source in SOURCES] == [3, 4, 3, 3]
    assert TrainConfig.model_validate_json(other.model_dump_json()) == other
    for wrong in ({"order": -1}, {"order": 2**31}, {"order": "x"}, {"colour": 1}):
        with pytest.raises(ValueError, match=r"seeds"):
            with_seeds(config, **wrong)  # type: ignore[arg-type]


def test_a_source_that_draws_nothing_says_why(config_of: ConfigOf) -> None:
    config = config_of()
    assert [why_absent(config, source) for source in SOURCES] == [""] * 4
    assert set(SOURCE_TITLES) == set(SOURCES)
    spec = config.network
    bare = spec.model_copy(update={"layers": tuple(one for one in spec.layers if one.kind != "dropout")})
    assert why_absent(config_of(0, bare), "dropout") == "small has no dropout here"
    still = config_of(flips=False, random_crops=False, colour_noise=0.0)
    assert why_absent(still, "augmentation").startswith("there are no flips")
    for one in ({"flips": True}, {"random_crops": True}, {"colour_noise": 0.1}):
        moving = config_of(**{"flips": False, "random_crops": False, "colour_noise": 0.0, **one})
        assert why_absent(moving, "augmentation") == ""
