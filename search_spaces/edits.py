"""Edits of a configuration as plain data: dotted fields to values, and layers to leave out, then validated again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

from pydantic import JsonValue, ValidationError

from alexnet_core.configuration.train_config import SOURCES, SourceSeeds, TrainConfig
from alexnet_core.configuration.wording import explain, nearest
from search_spaces.arm import Arm
from search_spaces.core_config import OWN_SEED, SPLIT, CoreConfig, TrialConfig, flattened, unusual_seeds, value_of
from search_spaces.errors import StudyError

Plain = dict[str, Any]
NO_OTHER_SEEDS = SourceSeeds()
# 路径会让别人的文件读写任意目录；其余几项说的是数据本身是什么，不是怎样用它
DATA_AS_IT_IS = ("name", "source", "digest", "root", "cache", "holds_out")


def edited(config: TrialConfig, edits: Mapping[str, JsonValue], remove: Sequence[str], what: str) -> TrialConfig:
    """Returns `config` with edits and without the removed layers.

    Args:
        config: The configuration to start from.
        edits: Dotted field (globs allowed in a layer's name) to new value.
        remove: Names of layers, globs allowed.
        what: Who asks, for messages: "arm no_lrn", "--set".

    Raises:
        StudyError: An unknown field or layer, or a value that does not validate.
    """
    if isinstance(config, CoreConfig):
        return config.with_fields(edits, what)
    # 合并成普通数据再整体验证：pydantic 的 model_copy(update=...) 不验证
    plain: Plain = deepcopy(config.model_dump(mode="json"))
    gone = {name for pattern in remove for name in _layers(plain, pattern, what)}
    for path, value in edits.items():
        if path == "network.classes" and value != config.network.classes:
            raise StudyError(
                f"{what}: network.classes is {config.network.classes}, the data's own; it cannot be edited"
            )
        for place in _places(plain, path, what):
            if place[0] == "network" and place[1] in gone and "*" not in path and "?" not in path:
                raise StudyError(f"{what}: {path} edits a layer that is removed")
            _assign(plain, place, value, f"{what}: {path}")
    plain["network"]["layers"] = [layer for layer in plain["network"]["layers"] if layer["name"] not in gone]
    return validated(plain, what)


def validated(plain: Plain, what: str) -> TrainConfig:
    """Validates a configuration, turning pydantic's mistakes into one line."""
    try:
        return TrainConfig.model_validate(plain)
    except ValidationError as error:
        lines = []
        for mistake in error.errors(include_url=False):
            where = f"{_readable(plain, mistake['loc'])}: " if mistake["loc"] else ""
            lines.append(f"{where}{explain(mistake, TrainConfig)}")
        raise StudyError(f"{what}: {'; '.join(lines)}") from error


def _readable(plain: Plain, location: tuple[str | int, ...]) -> str:
    """network.layers.2.response_norm.alpha is said as network.lrn1.alpha."""
    parts = [str(part) for part in location]
    if len(location) > 2 and location[:2] == ("network", "layers") and isinstance(location[2], int):
        layer = plain["network"]["layers"][location[2]]["name"]
        parts = ["network", layer, *parts[4:]]
    return ".".join(parts)


def seeded(config: TrialConfig, seed: int, varies: Sequence[str] = (OWN_SEED,)) -> TrialConfig:
    """Returns a configuration in which a seed draws some sources of randomness, and all others are at seed 0.

    Args:
        config: The configuration; its own seeds play no part.
        seed: The seed.
        varies: What it draws: sources by name, `split` for training and validation images, `seed` for all but that.
    """
    own = seed if OWN_SEED in varies else 0
    if isinstance(config, CoreConfig):
        sources = {source: seed for source in varies if source != OWN_SEED}
        return config.model_copy(update={"seed": own, "seeds": unusual_seeds(sources, own)})
    others = {source: seed for source in SOURCES if source in varies and seed != own}
    # 十万个平常的 trial：不必逐个验证空的一组
    seeds = SourceSeeds.model_validate(others) if others else NO_OTHER_SEEDS
    update: dict[str, Any] = {"seed": own, "seeds": seeds}
    drawing = seed if SPLIT in varies else 0
    if drawing != config.data.resplit:
        update["data"] = config.data.model_copy(update={"resplit": drawing})
    return config.model_copy(update=update)


def drawn_apart(config: TrialConfig) -> tuple[str, ...]:
    """Returns the sources of a trial that are drawn by another seed than its own; the split may be at 0 as well."""
    if isinstance(config, CoreConfig):
        return tuple(source for source, seed in config.seeds.items() if seed != config.seed)
    split = [SPLIT] if config.data.resplit not in (0, config.seed) else []
    return (*config.seeds.model_dump(), *split)


def concrete_fields(config: TrialConfig, edits: Mapping[str, JsonValue], remove: Sequence[str], what: str) -> set[str]:
    """Returns the fields an edit touches, `network.lrn1.alpha`; a removed layer stands as `network.lrn1`."""
    if isinstance(config, CoreConfig):
        return set(flattened(edits))
    plain = config.model_dump(mode="json")
    fields = {".".join(place) for path in edits for place in _places(plain, path, what)}
    return fields | {f"network.{name}" for pattern in remove for name in _layers(plain, pattern, what)}


def arm_fields(config: TrialConfig, arm: Arm) -> set[str]:
    """Returns the fields that an arm edits in `config`."""
    return concrete_fields(config, arm.set, arm.remove, f"arm {arm.name}")


def field_values(config: TrialConfig, path: str) -> list[Any]:
    """Returns the values that a dotted field has in a configuration: one, or one of each layer that a glob names.

    Args:
        config: The configuration.
        path: The field; of a configuration that lacks it nothing is returned.
    """
    if isinstance(config, CoreConfig):
        with suppress(KeyError):
            return [value_of(config, path)]
        return []
    room, *rest = path.split(".")
    if room != "network" or len(rest) == 1:
        return [getattr(getattr(config, room), rest[0])]
    pattern, name = rest
    return [
        getattr(layer, name)
        for layer in config.network.layers
        if fnmatchcase(layer.name, pattern) and hasattr(layer, name)
    ]


def _layers(plain: Plain, pattern: str, what: str) -> list[str]:
    names = [layer["name"] for layer in plain["network"]["layers"]]
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        network = plain["network"]["name"]
        raise StudyError(f"{what}: network {network} has no layer {pattern}; its layers: {', '.join(names)}")
    return matching


def _places(plain: Plain, path: str, what: str) -> list[tuple[str, ...]]:
    """The concrete fields that a dotted path names."""
    room, *rest = path.split(".")
    if room not in ("network", "training", "data") or not 1 <= len(rest) <= 2:
        raise StudyError(
            f"{what}: {path} is no field; use network.<layer>.<field>, network.<field>, training.<field> "
            "or data.<field>"
        )
    if room == "network" and len(rest) == 2:
        return [_layer_place(plain, name, rest[1], what) for name in _layers(plain, rest[0], what)]
    if room == "data" and rest[0] in DATA_AS_IT_IS:
        others = ", ".join(sorted(set(plain["data"]) - set(DATA_AS_IT_IS)))
        raise StudyError(f"{what}: {path} follows from --dataset and --data-root; an edit may set data's {others}")
    content = plain[room]
    for depth, part in enumerate(rest):
        if not isinstance(content, dict) or part not in content or (room == "network" and part == "layers"):
            known = sorted(content) if isinstance(content, dict) else []
            raise StudyError(f"{what}: unknown field {path}{nearest(part, known)}")
        if depth + 1 < len(rest):
            content = content[part]
    return [(room, *rest)]


def _layer_place(plain: Plain, name: str, field: str, what: str) -> tuple[str, ...]:
    layer = next(layer for layer in plain["network"]["layers"] if layer["name"] == name)
    if field not in layer or field in ("kind", "name"):
        known = sorted(set(layer) - {"kind", "name"})
        raise StudyError(f"{what}: layer {name} has no field {field}{nearest(field, known)}")
    return ("network", name, field)


def _assign(plain: Plain, place: tuple[str, ...], value: JsonValue, what: str) -> None:
    if place[0] == "network" and len(place) == 3:
        content = next(layer for layer in plain["network"]["layers"] if layer["name"] == place[1])
    else:
        content = plain
        for part in place[:-1]:
            content = content[part]
    before = content[place[-1]]
    # pydantic 会把 true 当作 1
    if isinstance(value, bool) and isinstance(before, (int, float)) and not isinstance(before, bool):
        raise StudyError(f"{what}: must be a number, such as {before!r}, not {value!r}")
    content[place[-1]] = value
