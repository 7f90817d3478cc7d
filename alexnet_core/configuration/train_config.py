"""What one training run is: network, training, data and seed, as one frozen object.

`TrainConfig` holds all that decides the numbers. Devices, threads and worker counts are passed beside it.
Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.network_spec import LayerName, NetworkSpec, Weighted

# 训练得出的数字一变就手工加一：由一个固定数值的测试把关
NUMERICS = 1
# 8x8 的数字放大一倍
DIGITS_SIZE = 16
LARGEST_SEED = 2**31 - 1
Precision = Literal["float32", "tf32", "bfloat16"]
Source = Literal["initialisation", "order", "augmentation", "dropout"]
SOURCES: tuple[Source, ...] = get_args(Source)
SourceSeed = Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None


class PlateauSchedule(Frozen):
    """Divides the learning rate when the validation error stops improving (paper section 5).

    Attributes:
        patience: Epochs without a new best validation error before a drop (the paper gives no number; 5 is our choice).
        factor: The learning rate is multiplied by it at a drop (paper: divided by 10).
        drops: How many drops there are at most (paper: three).
    """

    kind: Literal["plateau"] = "plateau"
    patience: int = Field(default=5, ge=1)
    factor: float = Field(default=0.1, gt=0, lt=1)
    drops: int = Field(default=3, ge=0)


class StepSchedule(Frozen):
    """Multiplies the learning rate at fixed fractions of the run.

    Attributes:
        at: Fractions of the epochs, ascending; a drop at 0.6 of 30 epochs precedes epoch 18 (from 0).
        factor: The learning rate is multiplied by it at each of them.
    """

    kind: Literal["steps"] = "steps"
    at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    factor: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"the fractions must ascend, not {list(self.at)}")
        return self


class RateChange(Frozen):
    """What the operator of the original run changed before an epoch.

    Attributes:
        epoch: The first epoch it applies to, counted from 1.
        learning_rate: New learning rate of the weights; None leaves it.
        layers: Layers that have the rate to themselves from then on, 0 freezing them (biases too); none means all
            layers without a rate of their own.
        colour_noise: New standard deviation of the colour noise; None leaves it.
        bias_learning_rate: New learning rate of the biases of all layers but the frozen; None leaves it. Only where
            they do not follow the weights, see `ReplaySchedule`.
    """

    epoch: int = Field(ge=1)
    learning_rate: float | None = Field(default=None, ge=0, le=1000)
    layers: tuple[LayerName, ...] = ()
    colour_noise: float | None = Field(default=None, ge=0)
    bias_learning_rate: float | None = Field(default=None, ge=0, le=1000)

    @model_validator(mode="after")
    def _check_biases(self) -> Self:
        if self.bias_learning_rate is not None and self.layers:
            raise ValueError("bias_learning_rate is for all layers: give it in a change without layers")
        return self


class ReplaySchedule(Frozen):
    """Replays the changes of a recorded run.

    Attributes:
        changes: In the order of their epochs.
        biases_follow: Whether the biases' learning rate drops with the weights'. As run it did not: the logs in
            `layer-params-145*.cfg` set epsW alone. Then biases keep their first rate, or what a change gives them.
    """

    kind: Literal["replay"] = "replay"
    changes: tuple[RateChange, ...] = ()
    biases_follow: bool = True

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        epochs = [change.epoch for change in self.changes]
        if epochs != sorted(epochs):
            raise ValueError(f"the changes must be in the order of their epochs, not {epochs}")
        if self.biases_follow and any(change.bias_learning_rate is not None for change in self.changes):
            raise ValueError("changes give the biases a learning rate of their own: that needs biases_follow: false")
        return self


Schedule = Annotated[PlateauSchedule | StepSchedule | ReplaySchedule, Field(discriminator="kind")]


class TrainingSpec(Frozen):
    """How a network is trained (paper sections 4 and 5).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per update, over all data-parallel workers (paper: 128).
        learning_rate: Initial learning rate of the weights (paper: 0.01).
        momentum: Paper: 0.9.
        weight_decay: Paper: 0.0005.
        bias_learning_rate_factor: Learning rate of the biases over that of the weights (paper 1, as run 2).
        decays_biases: Whether weight decay applies to biases (paper yes, as run no).
        schedule: When the learning rate drops.
        random_crops: Random crops of the network's input size; else the centre crop.
        flips: Random horizontal reflections.
        images_per_crop: Images that share one offset and flip (paper 1, as run 32).
        colour_noise: Standard deviation of the a_i of the colour noise (paper section 4.1: 0.1), 0 for none.
            The noise is a_i times the standard deviation along each principal axis, in grey levels.
        divides_by_colour_noise: As run, an image with colour noise is divided by 1 + `colour_noise` (`convdata.py`).
        mean_follows_crop: The mean image is subtracted at the crop's own pixels; as run (`convdata.py`) every crop
            lost the centre of the mean image, unreflected. Evaluation does the same.
        precision: Arithmetic of training and evaluation: float32 (TF32 off), tf32 (needs a GPU), or bfloat16
            (products in bfloat16; weights, response norm and loss in float32).
    """

    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    learning_rate: float = Field(default=0.01, ge=0, le=1000)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1000)
    bias_learning_rate_factor: float = Field(default=1.0, ge=0)
    decays_biases: bool = True
    schedule: Schedule = PlateauSchedule()
    random_crops: bool = True
    flips: bool = True
    images_per_crop: int = Field(default=1, ge=1)
    colour_noise: float = Field(default=0.0, ge=0)
    divides_by_colour_noise: bool = False
    mean_follows_crop: bool = True
    precision: Precision = "float32"


class DataSpec(Frozen):
    """Which images, split and prepared how.

    Attributes:
        name: The name of the data set's recipe, as shown (`digits`, `cifar10`).
        source: `digits` (inside scikit-learn) or `imagefolder` (train/ + val/ or test/ trees of class
            folders).
        image_size: Height and width in pixels of the prepared images, from which crops are taken: shorter
            side resized, then centre crop (paper section 2).
        split_seed: Seed of the split, and of a subset of the training images.
        resplit: Which drawing anew of training and validation images, and of a subset of them; the test images stay
            those of `split_seed`, and 0 is its own split.
        train_images: How many training images, drawn evenly from the classes; None for all.
        holds_out: Whether training images are held out for validation, where the data has no such images of its own.
            Where they are not, all are trained on, as for the published numbers of CIFAR-10, and there is no
            validation error: nothing can be chosen by it, the test error judges.
        preparation: Version of the preparation; raised when prepared pixels change.
        digest: SHA-256 of the data's content (of the manifest), 64 hex digits.
        root: Where an image folder lies. Not part of a trial's key.
        cache: Folder for decoded arrays and manifests; None keeps them in memory. Not part of a trial's key.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
    source: Literal["digits", "imagefolder"]
    image_size: int = Field(ge=1, le=4096)
    split_seed: int = Field(default=0, ge=0)
    # 没有重抽时不写出来：旧的 key 与记录一个字节也不变
    resplit: int = Field(default=0, ge=0, le=LARGEST_SEED, exclude_if=lambda drawing: drawing == 0)
    train_images: int | None = Field(default=None, ge=1)
    # 没有说的不写出来：以前的 config.json 一个字节也不变
    holds_out: bool = Field(default=True, exclude_if=bool)
    preparation: int = Field(default=1, ge=1)
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    root: str | None = None
    cache: str | None = None


# 路径不决定数值，所以不进入 trial 的 key
FIELDS_OUTSIDE_THE_KEY = ("data.root", "data.cache")


def _is_none(value: object) -> bool:
    return value is None


class SourceSeeds(Frozen):
    """Seeds of single sources of randomness; None for the trial's own.

    Attributes:
        initialisation: Of the initial weights.
        order: Of the order of the training images.
        augmentation: Of crops, flips and colour noise.
        dropout: Of the masks of dropout.
    """

    initialisation: SourceSeed = Field(default=None, exclude_if=_is_none)
    order: SourceSeed = Field(default=None, exclude_if=_is_none)
    augmentation: SourceSeed = Field(default=None, exclude_if=_is_none)
    dropout: SourceSeed = Field(default=None, exclude_if=_is_none)


class TrainConfig(Frozen):
    """One training run. See the parts for units and sources.

    Attributes:
        network: The network.
        training: How it is trained.
        data: On what.
        seed: Of all that is random, but the split of the data.
        seeds: Those of sources that are drawn by another one.
        numerics: Version of the arithmetic.
    """

    network: NetworkSpec
    training: TrainingSpec
    data: DataSpec
    seed: int = Field(ge=0, le=LARGEST_SEED)
    # 没有另给种子时不写出来：旧的 key 与记录一个字节也不变
    seeds: SourceSeeds = Field(default=SourceSeeds(), exclude_if=lambda seeds: seeds == SourceSeeds())
    numerics: int = Field(default=NUMERICS, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _drop_own_seed(cls, content: Any) -> Any:
        # 与 trial 自己的种子相同，就等于没有另给：还是同一个 trial
        if isinstance(content, dict) and isinstance(seeds := content.get("seeds"), Mapping):
            others = {source: seed for source, seed in seeds.items() if seed != content.get("seed")}
            return {**content, "seeds": others}
        return content

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if self.network.channels != 3:
            raise ValueError(f"network.channels is {self.network.channels}, but all images are RGB: it must be 3")
        if self.network.input_size > self.data.image_size:
            raise ValueError(
                f"network.input_size {self.network.input_size} is larger than data.image_size {self.data.image_size}"
            )
        if self.data.source == "digits" and self.data.image_size != DIGITS_SIZE:
            raise ValueError(f"data.image_size is {self.data.image_size}, but the digits have {DIGITS_SIZE} pixels")
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> Self:
        if not self.data.holds_out and isinstance(self.training.schedule, PlateauSchedule):
            raise ValueError(
                "training.schedule plateau waits for the validation error, which data.holds_out false leaves out: "
                "give kind steps or replay"
            )
        return self

    @model_validator(mode="after")
    def _check_scheduled_layers(self) -> Self:
        schedule = self.training.schedule
        if isinstance(schedule, ReplaySchedule):
            named = {name for change in schedule.changes for name in change.layers}
            missing = sorted(named - {layer.name for layer in self.network.layers if isinstance(layer, Weighted)})
            if missing:
                raise ValueError(
                    f"training.schedule changes the rate of {', '.join(missing)}: "
                    f"{self.network.name} has no such layer with weights"
                )
        return self

    def seed_of(self, source: Source) -> int:
        """Returns the seed by which a source of randomness is drawn."""
        other: int | None = getattr(self.seeds, source)
        return self.seed if other is None else other
