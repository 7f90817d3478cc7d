"""Trials: a study unfolds into validated configurations, each named by what it is.

A trial's key is the first 20 hex digits of the SHA-256 of its configuration's canonical JSON. Paths, devices, study
and arm are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from alexnet_core.configuration.named_networks import network, network_of_recipe, prepared_size, training_recipe
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.configuration.train_config import FIELDS_OUTSIDE_THE_KEY, DataSpec, TrainConfig
from alexnet_core.data.dataset import DataSummary
from search_spaces.arm import Arm
from search_spaces.core_config import OWN_SEED, CoreConfig, TrialConfig, key_content
from search_spaces.edits import arm_fields, concrete_fields, edited, seeded, validated
from search_spaces.errors import StudyError
from search_spaces.study import RecipeData, Study
from search_spaces.yaml_file import parse_scalar

Phase = Literal["arm", "sweep", "confirmation", "tuning", "retuned"]
KEY_LENGTH = 20

# 以后新增的字段及其引入时的默认值：等于默认值时不进入 JSON，旧 key 因此不变
ADDED_LATER: Mapping[str, JsonValue] = {
    "data.holds_out": True,
    "data.resplit": 0,
    "network.layers.*.span": "tower",
    "network.layers.*.weight_decay_factor": 1.0,
    "training.divides_by_colour_noise": False,
    "training.mean_follows_crop": True,
    "training.schedule.changes.*.bias_learning_rate": None,
}


@dataclass(frozen=True)
class PlannedTrial:
    """One arm (or one sampled point) with one seed.

    Attributes:
        arm: The arm, or what stands in its place for a sampled point.
        seed: The seed.
        phase: Which part of a study wants it.
        config: What is trained.
        key: The trial's name; nothing else about the trial decides its numbers.
        views: Views of a test image that are averaged once it is trained, see `Arm.views`.
    """

    arm: str
    seed: int
    phase: Phase
    config: TrialConfig
    key: str
    views: int = 1


def canonical_json(config: TrialConfig, added_later: Mapping[str, JsonValue] = ADDED_LATER) -> str:
    """Returns the JSON that names a configuration: sorted, without spaces, without what does not decide numbers.

    Args:
        config: The configuration; its fields' types decide between 1 and 1.0.
        added_later: Dotted field to its introduction default; left out while it has it. A field of a layer is
            `network.layers.*.<field>`.
    """
    if isinstance(config, CoreConfig):
        return _canonical(key_content(config))
    plain = config.model_dump(mode="json")
    # 数据由内容的摘要代表：换一个地方放，仍是同一个 trial
    for path in FIELDS_OUTSIDE_THE_KEY:
        room, field = path.split(".")
        del plain[room][field]
    for path, default in added_later.items():
        _drop_default(plain, path.split("."), default)
    return _canonical(plain)


def _canonical(plain: Mapping[str, Any]) -> str:
    # 排序、不留空格、不许 NaN：同一个配置只有一种写法，哈希才能当名字
    return json.dumps(_positive_zeros(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _drop_default(content: Any, path: Sequence[str], default: JsonValue) -> None:
    head, *rest = path
    if head == "*":
        for item in content:
            _drop_default(item, rest, default)
    elif isinstance(content, dict) and head in content:
        if rest:
            _drop_default(content[head], rest, default)
        elif content[head] == default:
            del content[head]


def _positive_zeros(value: Any) -> Any:
    # -0.0 与 0.0 训练出同样的数，所以是同一个 key
    if isinstance(value, dict):
        return {name: _positive_zeros(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_positive_zeros(item) for item in value]
    return 0.0 if isinstance(value, float) and value == 0.0 else value


def trial_key(config: TrialConfig) -> str:
    """Returns the name of a trial: 20 hex digits."""
    return _key(canonical_json(config))


def configuration_key(config: TrialConfig) -> str:
    """Returns the name of a configuration whatever its seeds, those of single sources included: 20 hex digits."""
    return _key(canonical_json(seeded(config, 0)))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def keys_by_seed(config: TrialConfig, seeds: Sequence[int], varies: Sequence[str] = (OWN_SEED,)) -> dict[int, str]:
    """Returns the key of a configuration under each of many seeds; its own seeds play no part.

    Args:
        config: The configuration.
        seeds: The seeds.
        varies: What they draw anew, see `seeded`.
    """
    if isinstance(config, CoreConfig) or tuple(varies) != (OWN_SEED,):
        # 字段也可以叫 seed：按文本去找种子会找错
        return {seed: trial_key(seeded(config, seed, varies)) for seed in seeds}
    config = seeded(config, 0)
    before, after = canonical_json(config).split('"seed":0,')
    return {seed: _key(f'{before}"seed":{seed},{after}') for seed in seeds}


def parse_override(text: str) -> tuple[str, JsonValue]:
    """Parses `network.lrn1.alpha=2e-4` into field and value; the value is read as YAML.

    Raises:
        StudyError: There is no `=`, or the value is no scalar or list.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or not value.strip():
        raise StudyError(f"--set {text}: use FIELD=VALUE, such as network.lrn1.alpha=2e-4")
    return path.strip(), parse_scalar(value, f"--set {text}")


def base_config(
    study: Study,
    dataset: str,
    *,
    summary: DataSummary,
    data_root: str | None,
    cache: str | None,
    network_name: str | None = None,
    epochs: int | None = None,
    overrides: Mapping[str, JsonValue] | None = None,
) -> TrainConfig:
    """Returns the configuration of AlexNet all arms start from, with seed 0.

    Args:
        study: The study.
        dataset: Name of one of its recipes.
        summary: What is in the data.
        data_root: Where an image folder lies.
        cache: Folder for decoded images.
        network_name: A named network instead of the recipe's.
        epochs: Epochs instead of the recipe's.
        overrides: Fields of the base to change.

    Raises:
        StudyError: A value does not validate, or an override edits a field that an arm edits.
    """
    base: TrialConfig = _recipe_on_data(study, dataset, summary, data_root, cache, network_name)
    if epochs is not None:
        base = edited(base, {"training.epochs": epochs}, (), "--epochs")
    base = overridden(study, base, overrides or {})
    assert isinstance(base, TrainConfig)
    return base


def _recipe_on_data(
    study: Study, dataset: str, summary: DataSummary, data_root: str | None, cache: str | None, network_name: str | None
) -> TrainConfig:
    """The recipe on the data that is there, before what the user changes of it."""
    recipe = study.recipes[dataset].common
    try:
        spec = network(network_name or recipe.network)
    except ValueError as error:
        raise StudyError(str(error)) from error
    image_size, input_size = (
        (recipe.data.image_size, recipe.input_size) if network_name is None else _sizes_for(spec, recipe.data)
    )
    data = DataSpec(
        name=dataset,
        source=recipe.data.source,
        image_size=image_size,
        train_images=recipe.data.train_images,
        holds_out=recipe.data.holds_out,
        digest=summary.digest,
        root=data_root,
        cache=cache,
    )
    plain = {
        "network": {
            **spec.model_dump(mode="json"),
            "input_size": input_size,
            "classes": len(summary.class_names),
        },
        "training": recipe.training.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "seed": 0,
    }
    return validated(plain, f"network {spec.name} on {dataset}")


def _sizes_for(spec: NetworkSpec, data: RecipeData) -> tuple[int, int]:
    """Sides in pixels of the prepared images and of the input, for another network than the recipe's."""
    # 照片可以按网络的需要重新准备，digits 只有一种大小
    image_size = max(data.image_size, prepared_size(spec)) if data.source == "imagefolder" else data.image_size
    return image_size, min(spec.input_size, image_size)


def overridden(study: Study, base: TrialConfig, overrides: Mapping[str, JsonValue]) -> TrialConfig:
    """Returns the configuration that all arms start from with what `--set` changes of it.

    Args:
        study: The study.
        base: The configuration.
        overrides: Dotted field to value.

    Raises:
        StudyError: A value does not validate, or an arm edits the same field.
    """
    if not overrides:
        return base
    fields = concrete_fields(base, overrides, (), "--set")
    for arm in study.arms:
        clash = sorted(fields & arm_fields(base, arm))
        if clash:
            raise StudyError(
                f"--set {clash[0]}: arm {arm.name} of study {study.name} edits this field itself; "
                "change the study file, or set another field"
            )
    return edited(base, overrides, (), "--set")


def check_images(study: Study, base: TrainConfig, trials: Sequence[PlannedTrial], train_images: int) -> None:
    """Refuses arms that train on more images than there are; where it is so, the mistake knows its place.

    Args:
        study: The study.
        base: The configuration its arms start from.
        trials: As `unfold` gives them: the first are those of every arm with the first seed.
        train_images: How many training images there are.

    Raises:
        StudyError: The base or an arm asks for more.
    """
    for arm, trial in zip(study.arms, trials, strict=False):
        assert isinstance(trial.config, TrainConfig)
        limit = trial.config.data.train_images
        if limit is None or limit <= train_images:
            continue
        message = f"data.train_images {limit} is more than the {train_images} training images there are"
        if limit == base.data.train_images:
            raise StudyError(f"{message}; give at most so many, or --set data.train_images=null for all")
        raise StudyError(f"arm {arm.name}: {message}", _location(study, base, arm, ("set", "data.train_images")))


def unfold(study: Study, base: TrialConfig, seeds: Sequence[int]) -> tuple[PlannedTrial, ...]:
    """Returns all arms' trials, seed by seed, so that complete pairs come early.

    Raises:
        StudyError: An arm edits a layer or field that the network does not have, or makes an invalid network.
    """
    # 所有 arm 用同一批种子：抽取按键，同种子的初值、次序、裁剪都相同，配对相减才有意义
    configs = {arm.name: _arm_config(study, base, arm) for arm in study.arms}
    varies = {arm.name: varied_by(study, base, arm) for arm in study.arms}
    # 各种子的 JSON 只差一个数：大的研究有十万个 trial，不必逐个重新生成
    keys = {name: keys_by_seed(config, seeds, varies[name]) for name, config in configs.items()}
    return tuple(
        PlannedTrial(
            arm=arm.name,
            seed=seed,
            phase="arm",
            config=seeded(configs[arm.name], seed, varies[arm.name]),
            key=keys[arm.name][seed],
            views=arm.views,
        )
        for seed in seeds
        for arm in study.arms
    )


def varied_by(study: Study, base: TrialConfig, arm: Arm) -> tuple[str, ...]:
    """Returns what the seeds of an arm draw anew, see `seeded`.

    Args:
        study: The study.
        base: The configuration that its arms start from.
        arm: One of them.
    """
    recipe = study.recipes.get(base.data.name)
    return arm.varies or (OWN_SEED, *(recipe.vary if recipe is not None else ()))


def _arm_config(study: Study, base: TrialConfig, arm: Arm) -> TrialConfig:
    """An arm's configuration; a mistake knows its place in the study's file."""
    if arm.network is not None and isinstance(base, TrainConfig):
        base = _as_published(base, arm.network, f"arm {arm.name}")
    what = f"arm {arm.name}" if isinstance(base, CoreConfig) else f"arm {arm.name} on network {base.network.name}"
    try:
        return edited(base, arm.set, arm.remove, what)
    except StudyError as error:
        raise StudyError(str(error), _location(study, base, arm, _mistaken_field(base, arm))) from error


def _as_published(base: TrainConfig, name: str, what: str) -> TrainConfig:
    """The data of a configuration with a named network, trained as its source trained it."""
    spec = network_of_recipe(name)
    size = min(spec.input_size, base.data.image_size)
    plain = {
        **base.model_dump(mode="json"),
        "network": {**spec.model_dump(mode="json"), "input_size": size, "classes": base.network.classes},
        "training": training_recipe(name).model_dump(mode="json"),
    }
    return validated(plain, f"{what} on network {spec.name}")


def _location(study: Study, base: TrialConfig, arm: Arm, field: tuple[str, ...]) -> tuple[str | int, ...]:
    """The keys of an arm's field: in the arm, or in what the recipe of the data set adds to it."""
    recipe = study.recipes.get(base.data.name)
    edits = recipe.edits.get(arm.name, {}) if recipe is not None else {}
    if field and field[-1] in edits and field[0] == "set":
        return ("recipes", base.data.name, "edits", arm.name, field[-1])
    if arm.levels:
        return _level_location(study, base, arm, field)
    return ("arms", study.place(arm), *field)


def _level_location(study: Study, base: TrialConfig, arm: Arm, field: tuple[str, ...]) -> tuple[str | int, ...]:
    """The keys of the level that an arm has its mistaken field from."""
    factors = study.factors or {}
    for factor, name in arm.levels.items():
        level = factors[factor][name]
        of_level = Arm(name=arm.name, title=arm.title, set=level.set, remove=level.remove)
        if field and _mistaken_field(base, of_level) == field:
            return ("factors", factor, name, *field)
    return ("factors",)


def _mistaken_field(base: TrialConfig, arm: Arm) -> tuple[str, ...]:
    """Where in an arm the mistake is: the field that alone is wrong already; nowhere where it takes several."""
    for pattern in arm.remove:
        try:
            edited(base, {}, (pattern,), "")
        except StudyError:
            return ("remove",)
    field = wrong_field(base, arm.set)
    return ("set", *field) if field else ()


def wrong_field(base: TrialConfig, edits: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Returns the field of an edit that alone is wrong already; nothing where it takes several.

    Args:
        base: What is edited.
        edits: Dotted field to value.
    """
    for path, value in edits.items():
        try:
            edited(base, {path: value}, (), "")
        except StudyError:
            return (path,)
    return ()


def point_trial(
    base: TrialConfig,
    parameters: Mapping[str, JsonValue],
    seed: int,
    *,
    arm: str,
    phase: Phase,
    what: str,
    varies: Sequence[str] = (OWN_SEED,),
) -> PlannedTrial:
    """Returns the trial of a point that a sampler chose.

    Args:
        base: The configuration whose fields the point changes.
        parameters: Dotted field to value.
        seed: The trial's seed.
        arm: Under which name the trial is a member of its study.
        phase: In which phase.
        what: Who asks, for messages: "sweep of study lrn".
        varies: What the seed draws anew, see `seeded`.

    Raises:
        StudyError: The point is no valid configuration.
    """
    config = seeded(edited(base, parameters, (), what), seed, varies)
    return PlannedTrial(arm=arm, seed=seed, phase=phase, config=config, key=trial_key(config))
