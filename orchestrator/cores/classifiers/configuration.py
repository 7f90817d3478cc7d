"""What of a classifier and its training may be asked about; the defaults train a small ShuffleNet on the digits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from alexnet_core.configuration.train_config import DIGITS_SIZE

Share = Annotated[float, Field(ge=0, lt=1)]


class ClassifierConfig(BaseModel):
    """A network of torchvision, its data and its training.

    Attributes:
        source: `digits` (inside scikit-learn), or `imagefolder`: train/, test/ and perhaps val/ of class folders.
        image_size: Side in pixels of the prepared images.
        train_images: How many training images, drawn evenly from the classes; None for all.
        resolution: Side in pixels of what the network sees; images are resized to it.
        model: A classifier of `torchvision.models`; its weights are drawn, never downloaded.
        options: Further arguments of the model, such as `width_per_group` of ResNets or `width_mult` of MobileNets.
        norm: What stands where the model has batch norm.
        norm_groups: Most groups of the group norm (Wu & He 2018: 32); each has four channels at least.
        epochs: Passes over the training images.
        batch_size: Images per update; a last batch of one image is left out.
        optimizer: `sgd` with Nesterov's momentum, or `adamw`.
        learning_rate: At its highest.
        momentum: Of `sgd`.
        weight_decay: Of all weights.
        schedule: `cosine` to nothing, `step` to a tenth after each third, or `constant`; by updates.
        warmup_epochs: In which the rate rises evenly.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016: 0.1).
        flips: Whether images are mirrored at random.
        crop: `none`, `shift` by up to an eighth of the side, or `resized` (0.35 to all of its area).
        trivial_augment: Whether one random distortion is applied (Müller & Hutter 2021).
        erasing: Probability that a random rectangle is erased (Zhong et al. 2020).
        mixup: Alpha of mixup's Beta distribution (Zhang et al. 2018); 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: Literal["digits", "imagefolder"] = "digits"
    image_size: int = Field(default=DIGITS_SIZE, ge=1, le=4096)
    train_images: int | None = Field(default=None, ge=1)
    resolution: int = Field(default=32, ge=8, le=1024)
    model: str = "shufflenet_v2_x0_5"
    options: dict[str, JsonValue] = {}
    norm: Literal["batch", "group", "none"] = "batch"
    norm_groups: int = Field(default=32, ge=1)
    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=64, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: Share = 0.9
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(default=1.0, ge=0)
    label_smoothing: Share = 0.0
    flips: bool = False
    crop: Literal["none", "shift", "resized"] = "none"
    trivial_augment: bool = False
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    mixup: float = Field(default=0.0, ge=0)

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        import difflib

        # 名字错了，现在就说，而不是等到训练
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "torchvision.models.list_models() has all of them"
            raise ValueError(f"torchvision has no classifier {name!r}; {hint}")
        return name

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.source == "digits" and self.image_size != DIGITS_SIZE:
            raise ValueError(f"image_size is {self.image_size}, but the digits have {DIGITS_SIZE} pixels")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 1:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of {self.epochs} epochs")
        return self
