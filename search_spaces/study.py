"""A study: a question with a written-down answer. Its file is YAML, validated into these models."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, JsonValue, ValidationError, field_serializer, model_validator
from pydantic_core import InitErrorDetails

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.named_networks import network_names
from alexnet_core.configuration.train_config import TrainingSpec
from search_spaces.arm import NAME, Arm, Claim, Name, Text, is_absent
from search_spaces.contrast import MOST_CONTRASTS, Compare, Contrast, against_published, contrasts_of
from search_spaces.design import DesignName, Factors, Level, in_order, with_arms
from search_spaces.errors import StudyError, mistake, reason
from search_spaces.script import Script
from search_spaces.space import ALEXNET_FIELD, ALEXNET_TRAINING_FIELD, FieldPath, Sweep
from search_spaces.yaml_file import load_model, placed

# `--study paper` 问所有研究
RESERVED = ("paper",)
# 这个数据集上的文件夹就叫研究的名字
WITHOUT_SUFFIX = "digits"
# 只有一个配方、不分数据集的研究常用的名字
ONLY_RECIPE = "default"
FEWEST_COMPARED = 2
FEWEST_TUNING_TRIALS, MOST_TUNING_TRIALS = 2, 500
PrimaryMetric = Literal["top1_error", "training_error", "generalisation_gap", "epochs_to_training_error"]
PRIMARY_METRICS: tuple[str, ...] = get_args(PrimaryMetric)
Statistic = Literal["difference", "log_ratio", "time_to_threshold"]
MOST_POINTS = 100.0


class Retune(Frozen):
    """A nuisance parameter that every arm tunes for itself, with equal budgets, on seeds that no verdict uses.

    Attributes:
        parameter: A number of the training; of another core a field of its configuration.
        low: Lower end of the range, which is covered evenly on a logarithmic scale.
        high: Upper end.
        trials: Tuning trials of each arm; the first has the recipe's own value.
    """

    parameter: FieldPath = "training.learning_rate"
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    trials: int = Field(default=8, ge=FEWEST_TUNING_TRIALS, le=MOST_TUNING_TRIALS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class RecipeData(Frozen):
    """The data of a recipe; see `DataSpec`."""

    source: Literal["digits", "imagefolder"]
    image_size: int = Field(ge=1, le=4096)
    train_images: int | None = Field(default=None, ge=1)
    holds_out: bool = Field(default=True, exclude_if=bool)


class CommonRecipe(Frozen):
    """What all studies share on one data set (`recipes.yaml`).

    Attributes:
        data: The data and its preparation.
        network: The named network.
        input_size: The network's input in pixels.
        training: How the baseline is trained.
    """

    data: RecipeData
    network: str
    input_size: int = Field(ge=1, le=4096)
    training: TrainingSpec

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_network(self.network, self.input_size, self.data)
        return self


def _check_network(network: str, input_size: int, data: RecipeData) -> None:
    if network not in network_names():
        raise ValueError(f"there is no network {network!r}; networks: {', '.join(network_names())}")
    if input_size > data.image_size:
        raise ValueError(f"input_size {input_size} is larger than image_size {data.image_size}")


class Recipe(Frozen):
    """What a study asks on one data set; what it leaves out is that of the common recipe of the same name.

    Attributes:
        data: See `CommonRecipe`; like the next three it is there for AlexNet, and for no other core.
        network: See `CommonRecipe`.
        input_size: See `CommonRecipe`.
        training: See `CommonRecipe`.
        set: Of another core: fields of its configuration that all arms share here.
        seeds: Seeds per arm.
        margin: Differences inside plus or minus this many percentage points (of another core: this much, in the unit in
            which its metric is shown) count as equivalent; where the study's statistic is a ratio, ratios from
            1 / margin to margin do.
        smallest_effect: The smallest difference worth finding, in percentage points (or that unit), or as a ratio above
            1.
        threshold: Running top-1 training error in percent, for `epochs_to_training_error`; of another core the value
            that its metric is to reach, in the unit in which it is shown.
        edits: Further fields of an arm on this data set, by the arm's name.
        vary: What each seed draws anew beside what it always does: `split`, training and validation images.
    """

    data: RecipeData | None = Field(default=None, exclude_if=is_absent)
    network: str | None = Field(default=None, exclude_if=is_absent)
    input_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, exclude_if=is_absent)
    training: TrainingSpec | None = Field(default=None, exclude_if=is_absent)
    set: dict[FieldPath, JsonValue] = Field(default={}, exclude_if=is_absent)
    seeds: int = Field(default=8, ge=1, le=1000)
    margin: float = Field(gt=0)
    smallest_effect: float = Field(gt=0)
    threshold: float | None = None
    edits: dict[Name, dict[FieldPath, JsonValue]] = {}
    vary: Annotated[tuple[Literal["split"], ...], Field(max_length=1)] = Field(default=(), exclude_if=is_absent)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.network is not None and self.input_size is not None and self.data is not None:
            _check_network(self.network, self.input_size, self.data)
        return self

    @property
    def common(self) -> CommonRecipe:
        """The data, the network and the training of AlexNet."""
        return CommonRecipe.model_validate({name: getattr(self, name) for name in CommonRecipe.model_fields})


class CommonRecipes(Frozen):
    """The file `recipes.yaml`."""

    recipes: dict[Name, CommonRecipe]


@lru_cache(maxsize=1)
def common_recipes() -> dict[str, CommonRecipe]:
    """Returns the recipes that studies share, by data set."""
    with resources.as_file(resources.files("search_spaces") / "recipes.yaml") as path:
        return load_model(path, CommonRecipes, "search_spaces/recipes.yaml").recipes


class Study(Frozen):
    """A question, its arms, and how it is asked on each data set.

    Attributes:
        kind: `reproduction` asks of each arm whether it comes to the value that its source publishes; None compares
            arms with each other.
        core: What is trained: a core's name (`torchvision`, `my_package.my_core`, `my_core.py`), or a script as it is
            declared; None for AlexNet.
        name: Short name, also of its folder in the results.
        question: In words.
        source: Where it comes from.
        claim: What the source says; None for a study that only asks.
        design: How factors make arms: `leave_one_out`, `cumulative` or `factorial` (`design.py`); None where all arms
            are written out.
        factors: Of a design, by name: levels by name, the first that of the full recipe. In the file a plain list of
            values is enough where the factor's name is the field that they are values of.
        baseline: The arm that the others are compared with; what a design calls its full recipe. A reproduction, which
            compares no arms, has its first there.
        arms: All arms, those of the design first.
        compare: What is compared: each arm with the `baseline` or with the `previous` one, `all_pairs`, or pairs of
            arms, the first minus the second; None for what the design asks (`contrast.py`), else the baseline.
        primary_metric: What is judged. After the final epoch: `top1_error` on test images, `training_error` (top-1, of
            training images seen as in evaluation), or `generalisation_gap` (validation minus that training error).
            Over the run: `epochs_to_training_error`, the first epoch whose running training error is at most the
            recipe's threshold. Of another core any metric that it declares; empty for the one that it is judged by.
        statistic: How an arm is compared with the baseline, seed by seed: by the `difference` in percentage points, by
            the `log_ratio` of the errors, or by the ratio of the `time_to_threshold`, where a run that never got there
            counts as longer than its budget.
        retune: What every arm tunes for itself, without being asked to by `--retune`.
        sweep: Parameters that Optuna may choose after the arms.
        recipes: By data set.
        not_asked: Data sets on which the study makes no sense, and why.
    """

    kind: Literal["reproduction"] | None = Field(default=None, exclude_if=is_absent)
    core: Text | Script | None = Field(default=None, exclude_if=is_absent)
    name: Name
    question: Text
    source: Text
    claim: Claim | None = Field(default=None, exclude_if=is_absent)
    design: DesignName | None = Field(default=None, exclude_if=is_absent)
    factors: Factors | None = Field(default=None, exclude_if=is_absent)
    baseline: Name
    arms: tuple[Arm, ...] = Field(min_length=1)
    compare: Compare | None = Field(default=None, exclude_if=is_absent)
    primary_metric: str = "top1_error"
    statistic: Statistic = "difference"
    retune: Retune | None = None
    sweep: Sweep | None = None
    recipes: dict[Name, Recipe] = Field(min_length=1)
    not_asked: dict[Name, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if content.get("kind") == "reproduction":
            content = _reproduction_filled(content)
        of_core = content.get("core") is not None
        if of_core:
            content = {"primary_metric": "", **content}
        elif isinstance(content.get("recipes"), dict):
            recipes = {name: _filled(name, recipe) for name, recipe in content["recipes"].items()}
            content = {**content, "recipes": recipes}
        of_kind = _of_core_mistakes if of_core else _alexnet_mistakes
        if mistakes := [*of_kind(content), *_compare_mistakes(content.get("compare")), *_kind_mistakes(content)]:
            raise ValidationError.from_exception_data("Study", mistakes)
        return with_arms(content)

    @field_serializer("factors", when_used="unless-none")
    def _in_order(self, factors: dict[str, dict[str, Level]]) -> list[dict[str, Any]]:
        return in_order(factors)

    @model_validator(mode="after")
    def _check_design(self) -> Self:
        if self.design is None and any(arm.levels for arm in self.arms):
            raise ValueError("arms: levels is what a design gives an arm; leave it out")
        others = [arm for arm in self.arms if arm.name != self.baseline]
        if self.shows_variance and not all(bool(arm.varies) == (arm in others) for arm in self.arms):
            raise ValueError("arms: varies is what --variance gives an arm; leave it out")
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [arm.name for arm in self.arms]
        for dataset, recipe in self.recipes.items():
            strangers = sorted(set(recipe.edits) - set(names))
            if strangers:
                raise ValueError(f"recipes.{dataset}.edits: {strangers[0]!r} is none of the arms: {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ValueError(f"arms: their names must be unique: {', '.join(names)}")
        if self.baseline not in names:
            raise ValueError(f"baseline: {self.baseline!r} is none of the arms: {', '.join(names)}")
        if set(self.recipes) >= {WITHOUT_SUFFIX, ONLY_RECIPE}:
            raise ValueError(f"recipes: {WITHOUT_SUFFIX} and {ONLY_RECIPE} would share one folder; rename one of them")
        if self.primary_metric != "top1_error" and any(arm.views != 1 for arm in self.arms):
            raise ValueError(f"primary_metric: views of 10 are evaluated for top1_error, not for {self.primary_metric}")
        both = sorted(set(self.recipes) & set(self.not_asked))
        if both:
            raise ValueError(f"not_asked: {both[0]} has a recipe too; leave one of them out")
        if "sweep" in names:
            raise ValueError("arms: none can be called sweep: the sweep's points are")
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind is None and len(self.arms) < FEWEST_COMPARED:
            raise ValueError("arms: must have at least 2 entries, not 1; one arm alone is asked by kind: reproduction")
        if self.kind is not None and self.statistic != "difference":
            raise ValueError("statistic: a published value is compared by the difference; leave it out")
        return self

    @model_validator(mode="after")
    def _check_contrasts(self) -> Self:
        names = {arm.name for arm in self.arms}
        if self.compare is not None and not isinstance(self.compare, str):
            for number, pair in enumerate(self.compare):
                if strangers := [name for name in pair if name not in names]:
                    raise ValueError(
                        f"compare.{number}: {strangers[0]!r} is none of the arms: {', '.join(sorted(names))}"
                    )
                if pair[0] == pair[1]:
                    raise ValueError(f"compare.{number}: arm {pair[0]} cannot be compared with itself")
        contrasts = self.contrasts
        if self.compare == "all_pairs" and len(contrasts) > MOST_CONTRASTS:
            raise ValueError(f"compare: makes {len(contrasts):,} comparisons, more than {MOST_CONTRASTS:,}")
        if repeated := sorted(name for name, times in Counter(one.name for one in contrasts).items() if times > 1):
            raise ValueError(f"compare: {repeated[0]} is compared twice")
        if self.shows_variance:
            return self
        if alone := sorted(names - {arm for contrast in contrasts for arm in contrast.weights}):
            raise ValueError(f"compare: arm {alone[0]} is in no comparison; leave it out, or compare it")
        if self.statistic == "time_to_threshold" and any(contrast.pair is None for contrast in contrasts):
            raise ValueError(
                "statistic: the effects of a factorial are means, which times that some runs never reach do not have; "
                "compare the baseline, or pairs"
            )
        return self

    @model_validator(mode="after")
    def _check_statistic(self) -> Self:
        if self.core is None:
            self._check_alexnet_statistic()
        for dataset, recipe in self.recipes.items():
            if (recipe.threshold is not None) != (self.statistic == "time_to_threshold"):
                raise ValueError(f"recipes.{dataset}.threshold: goes with statistic time_to_threshold")
            if recipe.smallest_effect < recipe.margin:
                raise ValueError(
                    f"recipes.{dataset}.smallest_effect: {recipe.smallest_effect:g} lies inside the margin "
                    f"{recipe.margin:g}, in which differences count as equivalent"
                )
            if self.statistic != "difference" and min(recipe.margin, recipe.smallest_effect) <= 1.0:
                raise ValueError(
                    f"recipes.{dataset}: margin and smallest_effect are ratios above 1 with statistic {self.statistic}"
                )
        return self

    def _check_alexnet_statistic(self) -> None:
        if (self.primary_metric == "epochs_to_training_error") != (self.statistic == "time_to_threshold"):
            raise ValueError("statistic: primary_metric epochs_to_training_error goes with statistic time_to_threshold")
        if self.statistic == "log_ratio" and self.primary_metric == "generalisation_gap":
            raise ValueError("statistic: log_ratio needs a metric that is never negative, not generalisation_gap")

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """What is compared."""
        if self.kind == "reproduction":
            return against_published(self.arms)
        if self.shows_variance:
            return ()
        return contrasts_of(self.arms, self.baseline, self.compare, self.design, self.factors)

    @property
    def compared_with(self) -> str:
        """The arm that the others are compared with; empty where each is compared with what is published of it."""
        return "" if self.kind == "reproduction" else self.baseline

    @property
    def shows_variance(self) -> bool:
        """Whether its arms are the baseline with some of its randomness drawn anew, so that nothing is compared."""
        return any(arm.varies for arm in self.arms)

    def arm(self, name: str) -> Arm:
        """Returns the arm called `name`; raises KeyError."""
        return {arm.name: arm for arm in self.arms}[name]

    def place(self, arm: Arm) -> int:
        """Returns where an arm stands among those that the study's file writes out; those of a design do not."""
        # 设计展开的 arm 排在前面，文件里没有它们
        return [one for one in self.arms if not one.levels].index(arm)

    def on(self, dataset: str) -> Study:
        """Returns the study with the arms as its recipe for a data set edits them."""
        edits = self.recipes[dataset].edits
        arms = tuple(arm.model_copy(update={"set": {**arm.set, **edits.get(arm.name, {})}}) for arm in self.arms)
        return self.model_copy(update={"arms": arms})


def _filled(dataset: str, recipe: Any) -> Any:
    """A recipe as written, over the common one of its data set; its training may be written in part."""
    # 研究只写与众不同之处，其余取共同的配方：改一处，各研究的基线仍是同一个 trial
    common = common_recipes().get(dataset)
    if common is None or not isinstance(recipe, dict):
        return recipe
    plain = common.model_dump()
    written = recipe.get("training")
    training = {**plain["training"], **written} if isinstance(written, dict) else plain["training"]
    return {**plain, **recipe, **({"training": training} if written is None or isinstance(written, dict) else {})}


def _reproduction_filled(content: Mapping[str, Any]) -> dict[str, Any]:
    """A reproduction as written, with what a comparison would have to say and it need not."""
    arms, recipes = content.get("arms"), content.get("recipes")
    first = _name_of(arms[0]) if isinstance(arms, (list, tuple)) and arms else None
    # 没有基线：arms 写错时，不必再抱怨它没有名字
    filled = {"baseline": first if isinstance(first, str) else "published", **content}
    if isinstance(recipes, Mapping):
        # 没有要找的效应：只问区间与界
        filled["recipes"] = {
            name: {"smallest_effect": recipe.get("margin", 1.0), **recipe} if isinstance(recipe, Mapping) else recipe
            for name, recipe in recipes.items()
        }
    return filled


def _kind_mistakes(content: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """What a reproduction may not say, and what only it may, each at its place."""
    reproduces = content.get("kind") == "reproduction"
    arms = content.get("arms")
    listed = arms if isinstance(arms, (list, tuple)) else ()
    shows_variance = any(isinstance(arm, Mapping) and arm.get("varies") for arm in listed)
    for number, arm in enumerate(listed):
        if not isinstance(arm, Mapping):
            continue
        if reproduces and arm.get("published") is None:
            yield mistake(reason("must say what is published of the arm: {value: 18.0, source: ...}"), _of(number), arm)
        # --variance 的各 arm 带着公布的数：要多少种子，看与什么比
        if not reproduces and not shows_variance and arm.get("published") is not None:
            yield mistake(reason("is for studies of kind: reproduction"), _of(number), arm["published"])
        if content.get("core") is not None and arm.get("network") is not None:
            why = reason("is for studies of AlexNet; the fields of another core stand under set")
            yield mistake(why, ("arms", number, "network"), arm["network"])
    if not reproduces:
        return
    compared = reason("goes with arms that are compared, not with kind: reproduction")
    for name in ("compare", "design", "factors", "retune", "sweep", "claim"):
        if content.get(name) is not None:
            yield mistake(compared, (name,), content[name])
    for number, arm in enumerate(listed):
        if isinstance(arm, Mapping) and arm.get("claim") is not None:
            yield mistake(compared, ("arms", number, "claim"), arm["claim"])
    if listed and isinstance(_name_of(listed[0]), str) and content["baseline"] != _name_of(listed[0]):
        why = reason("a reproduction compares each arm with what is published of it; leave it out")
        yield mistake(why, ("baseline",), content["baseline"])


def _of(number: int) -> tuple[str | int, ...]:
    return ("arms", number, "published")


def _name_of(arm: Any) -> Any:
    return arm.get("name") if isinstance(arm, Mapping) else None


def _alexnet_mistakes(content: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """What a study of AlexNet may not say, each at its place: its fields and metrics are known beforehand."""
    for place, path in _paths(content):
        if not re.fullmatch(ALEXNET_FIELD, path):
            yield mistake("string_pattern_mismatch", (*place, path, "[key]"), path, pattern=ALEXNET_FIELD)
    for number, arm in enumerate(content["arms"] if isinstance(content.get("arms"), (list, tuple)) else ()):
        by = arm.get("by") if isinstance(arm, Mapping) else None
        if isinstance(by, str) and not re.fullmatch(ALEXNET_FIELD, by):
            yield mistake("string_pattern_mismatch", ("arms", number, "by"), by, pattern=ALEXNET_FIELD)
    retune = content.get("retune")
    parameter = retune.get("parameter") if isinstance(retune, Mapping) else None
    if isinstance(parameter, str) and not re.fullmatch(ALEXNET_TRAINING_FIELD, parameter):
        place = ("retune", "parameter")
        yield mistake("string_pattern_mismatch", place, parameter, pattern=ALEXNET_TRAINING_FIELD)
    metric = content.get("primary_metric", "top1_error")
    if metric not in PRIMARY_METRICS:
        names = [repr(name) for name in PRIMARY_METRICS]
        expected = f"{', '.join(names[:-1])} or {names[-1]}"
        yield mistake("literal_error", ("primary_metric",), metric, expected=expected)
    for place, recipe in _recipes(content):
        for name in CommonRecipe.model_fields:
            if recipe.get(name) is None:
                yield mistake("missing", (*place, name), recipe)
        if "set" in recipe:
            why = reason("is for studies with a core of their own; AlexNet's recipe has data, network and training")
            yield mistake(why, (*place, "set"), recipe["set"])
        for name in ("margin", "smallest_effect", "threshold"):
            value = recipe.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and MOST_POINTS < value < math.inf:
                yield mistake("less_than_equal", (*place, name), value, le=MOST_POINTS)
        threshold = recipe.get("threshold")
        if isinstance(threshold, (int, float)) and not isinstance(threshold, bool) and threshold <= 0:
            yield mistake("greater_than", (*place, "threshold"), threshold, gt=0.0)


def _of_core_mistakes(content: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """What a core is called wrong, and what only a study of AlexNet may say, each at its place."""
    yield from _core_mistakes(content["core"])
    for number, arm in enumerate(content["arms"] if isinstance(content.get("arms"), (list, tuple)) else ()):
        for name, absent in (("remove", ()), ("views", 1)):
            # 写进 plan.json 的 arm 有全部字段
            if isinstance(arm, Mapping) and arm.get(name, absent) not in (absent, [], None):
                why = reason("is for the layers and images of AlexNet; the fields of another core stand under set")
                yield mistake(why, ("arms", number, name), arm[name])
    for place, level in _levels(content):
        if level.get("remove") not in (None, (), []):
            why = reason("is for the layers of AlexNet; the fields of another core stand under set")
            yield mistake(why, (*place, "remove"), level["remove"])
    for place, recipe in _recipes(content):
        for name in CommonRecipe.model_fields:
            if name in recipe:
                why = reason("is for studies of AlexNet; the fields of another core stand under set")
                yield mistake(why, (*place, name), recipe[name])


def _core_mistakes(core: Any) -> Iterator[InitErrorDetails]:
    """What is wrong with a core's name, or with a script as it is declared."""
    # 交给联合类型去验，每一种可能都会报一遍错
    if isinstance(core, Mapping):
        try:
            Script.model_validate(core)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                if found["type"] == "value_error":
                    # 跨字段的错误自己写明字段：“chosen_by: ...”
                    name, _, why = found["msg"].removeprefix("Value error, ").partition(": ")
                    yield mistake(reason(why), ("core", name), core.get(name))
                else:
                    yield mistake(found["type"], ("core", *found["loc"]), found["input"], **found.get("ctx", {}))
    elif not isinstance(core, (str, Script)) or not core:
        yield mistake(reason("must be a core's name, or a mapping that declares a script"), ("core",), core)


def _compare_mistakes(compare: Any) -> Iterator[InitErrorDetails]:
    """What is wrong with what is compared: a union would tell each mistake once for every kind."""
    if isinstance(compare, (list, tuple)) and compare:
        for number, pair in enumerate(compare):
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(arm, str) for arm in pair)):
                why = reason("must be two arms, the first is compared with the second: [a, b]")
                yield mistake(why, ("compare", number), pair)
    elif compare not in (None, "baseline", "previous", "all_pairs"):
        why = reason("must be baseline, previous, all_pairs, or a list of pairs of arms: [[a, b], [c, b]]")
        yield mistake(why, ("compare",), compare)


def _recipes(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    recipes = content.get("recipes")
    for name, recipe in recipes.items() if isinstance(recipes, Mapping) else ():
        if isinstance(recipe, Mapping):
            yield ("recipes", name), recipe


def _levels(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """The levels that are written out, each with its place."""
    factors = content.get("factors")
    for factor, levels in factors.items() if isinstance(factors, Mapping) else ():
        for name, level in levels.items() if isinstance(levels, Mapping) else ():
            if isinstance(level, Mapping):
                yield ("factors", factor, name), level


def _paths(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The fields that a study names, each with the place of the mapping that it is a key of."""
    arms, sweep = content.get("arms"), content.get("sweep")
    mappings: list[tuple[tuple[str | int, ...], Any]] = []
    for number, arm in enumerate(arms if isinstance(arms, (list, tuple)) else ()):
        mappings.append((("arms", number, "set"), arm.get("set") if isinstance(arm, Mapping) else None))
    for place, recipe in _recipes(content):
        edits = recipe.get("edits")
        for arm_name, fields in edits.items() if isinstance(edits, Mapping) else ():
            mappings.append(((*place, "edits", arm_name), fields))
    mappings += [((*place, "set"), level.get("set")) for place, level in _levels(content)]
    factors = content.get("factors")
    # 一列值的因子，名字就是字段
    listed = factors.items() if isinstance(factors, Mapping) else ()
    mappings.append((("factors",), {name: levels for name, levels in listed if isinstance(levels, (list, tuple))}))
    mappings.append((("sweep", "parameters"), sweep.get("parameters") if isinstance(sweep, Mapping) else None))
    for place, mapping in mappings:
        for path in mapping if isinstance(mapping, Mapping) else ():
            if isinstance(path, str):
                yield place, path


@lru_cache(maxsize=1)
def study_names() -> tuple[str, ...]:
    """Returns the names of the studies that come with the package."""
    folder = resources.files("search_spaces") / "studies"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_study(name_or_path: str) -> Study:
    """Loads a study that comes with the package by its name, or one's own by the path of its YAML file.

    Raises:
        StudyError: There is none such (the message has the nearest names), or the file is wrong.
    """
    if name_or_path in study_names():
        return _packaged(name_or_path)
    if name_or_path.endswith((".yaml", ".yml")) and "\0" not in name_or_path:
        path = Path(name_or_path)
        try:
            there = path.is_file()
        except OSError as error:
            raise StudyError(f"study file {name_or_path} cannot be read: {error.strerror}") from error
        if not there:
            raise StudyError(f"study file {name_or_path} does not exist")
        return _checked_own_name(_checked_arms(load_model(path, Study), path), path)
    if not re.fullmatch(NAME, name_or_path):
        raise StudyError(
            f"{name_or_path!r} is no study's name: use lower-case letters, digits, - and _, or the path of a .yaml file"
        )
    near = difflib.get_close_matches(name_or_path, study_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"studies: {', '.join(study_names())}"
    raise StudyError(f"there is no study {name_or_path!r}; {hint}")


# 一条命令要问它好几回；随包的文件不会在这期间改
@cache
def _packaged(name: str) -> Study:
    folder = resources.files("search_spaces") / "studies"
    with resources.as_file(folder / f"{name}.yaml") as path:
        return _checked_name(load_model(path, Study, f"search_spaces/studies/{path.name}"), name)


def _checked_arms(study: Study, path: Path) -> Study:
    """A file's arms draw what their recipe says; only the plan of `--variance`, read back, has arms that do not."""
    for arm in study.arms:
        if arm.varies:
            place = ("arms", study.place(arm), "varies")
            raise placed(StudyError("arms: varies is what --variance gives an arm; leave it out", place), path)
    return study


def _checked_own_name(study: Study, path: Path) -> Study:
    """An own study may not write into the folder of another; a study file of the package given by its path is it."""
    what = None
    if study.name in study_names() and load_study(study.name) != study:
        what = "the name of a study of this package"
    elif study.name in RESERVED:
        what = "what all studies together are called"
    elif (owner := _whose_folder(study.name)) is not None:
        what = f"where {owner} of this package has its answers"
    if what is not None:
        raise placed(StudyError(f"name: {study.name} is {what}; give yours another name", ("name",)), path)
    return study


def _whose_folder(name: str) -> str | None:
    """Which study's folder of another data set, or of its noise floor, has this name."""
    for study_name in (*study_names(), *RESERVED):
        # 只有名字像的才去读它有哪些数据集
        if name.startswith(f"{study_name}-"):
            studies = study_names() if study_name in RESERVED else (study_name,)
            datasets = {dataset for study in studies for dataset in load_study(study).recipes}
            plans = ("null", "variance")
            places = {*plans, *datasets, *(f"{plan}-{dataset}" for plan in plans for dataset in datasets)}
            if name.removeprefix(f"{study_name}-") in places - {WITHOUT_SUFFIX}:
                return f"study {study_name}"
    return None


def _checked_name(study: Study, file_name: str) -> Study:
    if study.name != file_name:
        raise StudyError(f"search_spaces/studies/{file_name}.yaml:1:1: name is {study.name!r}, not {file_name!r}")
    return study
