"""An arm, and what a source says of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.named_networks import recipe_names
from search_spaces.space import FieldPath

LONGEST_NAME = 48
NAME = rf"[a-z0-9][a-z0-9_-]{{0,{LONGEST_NAME - 1}}}"
Name = Annotated[str, Field(pattern=rf"^{NAME}$")]
Text = Annotated[str, Field(min_length=1)]
LayerName = Annotated[str, Field(pattern=r"^[a-z0-9_*?]{1,32}$")]


def is_absent(value: Any) -> bool:
    """Whether a field that came later says nothing: left out, what was written before keeps its bytes."""
    return value in (None, {}, ())


class Claim(Frozen):
    """What a source says an arm changes.

    Attributes:
        statement: In words.
        source: Where it says so.
        top1_points: Arm minus baseline, percentage points of top-1 error; None where there is no number.
        top5_points: The same for top-5 error.
        ratio: Arm over baseline, where the study's statistic is a ratio: 6 for six times as many epochs.
        points: The same of the primary metric of another core than AlexNet, in the unit in which it is shown.
        direction: Where there is no number: whether the primary metric gets higher or lower.
    """

    statement: str
    source: str
    top1_points: float | None = None
    top5_points: float | None = None
    points: float | None = Field(default=None, exclude_if=is_absent)
    ratio: float | None = Field(default=None, gt=0)
    direction: Literal["higher", "lower"] | None = None

    @model_validator(mode="after")
    def _check_direction(self) -> Self:
        points = self.difference
        implied = (
            "higher" if points is not None and points > 0 else "lower" if points is not None and points < 0 else None
        )
        if self.direction is not None and implied is not None and implied != self.direction:
            raise ValueError(
                f"direction: {self.direction}, but {self._number} {points:g} is {implied}; leave direction out"
            )
        return self

    @property
    def difference(self) -> float | None:
        """The number that the source gives for the primary metric, arm minus baseline; None where it gives none."""
        return self.top1_points if self.points is None else self.points

    @property
    def _number(self) -> str:
        return "top1_points" if self.points is None else "points"


class Published(Frozen):
    """A number that a source gives for an arm itself.

    Attributes:
        value: The primary metric, in the unit in which it is shown: 18.0 for an error of 18 %.
        source: Where it says so: the paper's section, or the original file.
    """

    value: float
    source: Text


class Arm(Frozen):
    """One variant of the network or its training.

    Attributes:
        name: Short name.
        title: What it is, as shown.
        set: Dotted field to new value: `network.<layer or glob>.<field>`, `network.<field>`, `training.<field>`,
            `data.<field>`; of another core a field of its configuration.
        remove: Names of layers (globs allowed) that the arm does without.
        views: Views of a test image whose predictions are averaged after training: 1, the centre crop, or 10 (paper
            section 4.1). Arms that differ in nothing else are the same trained trials, evaluated twice.
        claim: What the paper says of this arm against the baseline.
        match: Whose control of equal size `--matched` adds: the same arm with the field `by` solved so that it has the
            baseline's `parameters` or `multiply_adds`.
        by: That field, a whole number.
        levels: Of an arm that a design makes: the level of each factor, by the factor's name.
        network: A named network, trained as its source trained it, in place of the recipe's; `set`, `remove` edit it.
        published: Of a reproduction: what the arm's own metric is compared with.
        varies: Of an arm that `--variance` makes: what its seeds draw anew, all else being at seed 0; see `seeded`.
    """

    name: Name
    title: Text
    set: dict[FieldPath, JsonValue] = {}
    remove: tuple[LayerName, ...] = ()
    views: Literal[1, 10] = 1
    claim: Claim | None = None
    # 只在展开时用：对照展开后就是普通的 arm，plan.json 不必再记
    match: Literal["parameters", "multiply_adds"] | None = Field(default=None, exclude=True)
    by: FieldPath | None = Field(default=None, exclude=True)
    levels: dict[str, str] = Field(default={}, exclude_if=is_absent)
    network: Text | None = Field(default=None, exclude_if=is_absent)
    published: Published | None = Field(default=None, exclude_if=is_absent)
    varies: tuple[Text, ...] = Field(default=(), exclude_if=is_absent)

    @field_validator("network")
    @classmethod
    def _check_network(cls, name: str | None) -> str | None:
        if name is not None and name not in recipe_names():
            raise ValueError(f"there is no network {name!r}; networks: {', '.join(recipe_names())}")
        return name

    @model_validator(mode="after")
    def _check_match(self) -> Self:
        if (self.match is None) != (self.by is None):
            raise ValueError("match and by go together: by names the field that makes the size the baseline's")
        return self
