"""Designs: factors and their levels become the arms of a study, so that none of them is written twice."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails

from alexnet_core.configuration.frozen import Frozen
from search_spaces.arm import LONGEST_NAME, Arm, Claim, LayerName, Name, Text, is_absent
from search_spaces.errors import mistake, reason
from search_spaces.space import FieldPath

DesignName = Literal["leave_one_out", "cumulative", "factorial"]
FULL = "baseline"
# 再多的组合没有人会练完，而家族一大，谁也得不到判词
MOST_ARMS = 256
MOST_LEVELS = 32
ROOMS = ("network.", "training.", "data.")
# 一个格子：每个因子取哪个水平
Cell = dict[str, str]


class Level(Frozen):
    """One value of a factor; the first of a factor is that of the full recipe.

    Attributes:
        title: What it is, as shown; made of the names where it is left out.
        set: Dotted field to value, see `Arm.set`.
        remove: Names of layers, see `Arm.remove`.
        claim: What a source says that it changes, beside the factor's first level.
    """

    title: Text | None = Field(default=None, exclude_if=is_absent)
    set: dict[FieldPath, JsonValue] = {}
    remove: tuple[LayerName, ...] = ()
    claim: Claim | None = Field(default=None, exclude_if=is_absent)


Levels = Annotated[dict[Name, Level], Field(min_length=2, max_length=MOST_LEVELS)]
Factors = Annotated[dict[FieldPath, Levels], Field(min_length=1)]
_DESIGN: TypeAdapter[DesignName] = TypeAdapter(DesignName)
_FACTORS: TypeAdapter[dict[str, dict[str, Level]]] = TypeAdapter(Factors)


def with_arms(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a study's fields with the arms of its design before those that it writes out.

    Args:
        content: The fields as they were read; factors may be written short.

    Raises:
        ValidationError: The factors and the arms do not go together.
    """
    design, factors = content.get("design"), content.get("factors")
    if design is None and factors is None:
        return dict(content)
    if design is None or factors is None:
        has, lacks = ("factors", "design") if design is None else ("design", "factors")
        raise _wrong(mistake(reason(f"goes with {lacks}, which is missing"), (has,), content.get(has)))
    baseline = content.get("baseline", FULL)
    content = {**content, "factors": _written_out(factors), "baseline": baseline}
    written = content.get("arms", [])
    try:
        name, levels = _DESIGN.validate_python(design), _FACTORS.validate_python(content["factors"])
    except ValidationError:
        # 错在这两个字段，由它们自己报；arm 先用占位的
        return {**content, "arms": [{"name": name, "title": name} for name in ("a", "b")]}
    if mistakes := list(_mistakes(name, levels)):
        raise _wrong(*mistakes)
    if not isinstance(written, (list, tuple)):
        return content
    made = [Arm.model_construct(**arm).model_dump(mode="json") for arm in _arms(name, levels, str(baseline))]
    # plan.json 里的 arm 已经展开过，还带着数据集的改动
    unfolded = [arm for arm in written if isinstance(arm, Mapping) and arm.get("levels")]
    if not unfolded:
        return {**content, "arms": [*made, *written]}
    if [arm.get("name") for arm in unfolded] != [arm["name"] for arm in made]:
        place = ("arms", written.index(unfolded[0]), "levels")
        raise _wrong(mistake(reason("is what a design gives an arm; leave it out"), place, unfolded[0]["levels"]))
    return content


def _wrong(*mistakes: InitErrorDetails) -> ValidationError:
    return ValidationError.from_exception_data("Study", list(mistakes))


def _written_out(factors: Any) -> Any:
    """Factors as name to levels by name: a plain list holds the values of one field; plan.json keeps their order."""
    if isinstance(factors, (list, tuple)):
        named = [dict(factor) for factor in factors if isinstance(factor, Mapping) and "name" in factor]
        if len(named) < len(factors):
            return factors
        factors = {name: factor.get("levels") for name, factor in _by_name(named, ("factors",)).items()}
    if not isinstance(factors, Mapping):
        return factors
    return {name: _named_levels(name, levels) for name, levels in factors.items()}


def _by_name(listed: Sequence[Mapping[str, Any]], place: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
    """Factors or levels that were listed with their names; a name that is none, or is there twice, is a mistake."""
    named: dict[str, Mapping[str, Any]] = {}
    for entry in listed:
        name = entry["name"]
        if not isinstance(name, str) or name in named:
            why = f"has {name} twice" if isinstance(name, str) else "has a name that is no text"
            raise _wrong(mistake(reason(f"{why}; give each a name of its own"), place, name))
        named[name] = entry
    return named


def _named_levels(factor: str, levels: Any) -> Any:
    if isinstance(levels, Mapping):
        return {name: {} if level is None else level for name, level in levels.items()}
    if not isinstance(levels, (list, tuple)):
        return levels
    if levels and all(isinstance(level, Mapping) and "name" in level for level in levels):
        listed = _by_name(levels, ("factors", factor))
        return {name: {key: level[key] for key in level if key != "name"} for name, level in listed.items()}
    named: dict[str, Any] = {}
    for value in levels:
        name = _slug(_shown(value))
        if name in named:
            why = f"has two values that would both be called {name}; write its levels out, each with its name"
            raise _wrong(mistake(reason(why), ("factors", factor), value))
        named[name] = {"title": _title_of(factor, value), "set": {factor: value}}
    return named


def in_order(factors: Mapping[str, Mapping[str, Level]]) -> list[dict[str, Any]]:
    """Returns factors as lists, whose order survives the sorting of keys on disk."""
    return [
        {
            "name": factor,
            "levels": [{"name": name, **level.model_dump(mode="json")} for name, level in levels.items()],
        }
        for factor, levels in factors.items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _slug(text: str) -> str:
    """A text as a part of a name: `0.01` is 0_01, `-1` is minus1."""
    words = re.sub(r"^-", "minus", text.lower()).replace(".", "_").replace("+", "")
    return re.sub(r"[^a-z0-9_-]+", "-", words).strip("-_") or "none"


def _words(factor: str) -> str:
    """A factor's name as people read it, without the room of its field."""
    room = next((room for room in ROOMS if factor.startswith(room)), "")
    return re.sub(r"[*?]", "", factor.removeprefix(room)).replace(".", " ").replace("_", " ")


def _title_of(factor: str, value: Any) -> str:
    return f"{_words(factor)} {_shown(value)}"


def level_title(factor: str, name: str, level: Level) -> str:
    """Returns what a level is, as shown."""
    return level.title or f"{_words(factor)} {name.replace('_', ' ')}"


def factor_name(factor: str) -> str:
    """Returns a factor's name as part of an arm's."""
    return _slug(_words(factor).replace(" ", "_"))


def cells(design: DesignName, factors: Mapping[str, Mapping[str, Level]]) -> list[Cell]:
    """Returns the level of each factor in every arm of a design, the full recipe first.

    Args:
        design: `leave_one_out` changes one factor at a time; `cumulative` goes down from the full recipe, each step
            keeping what those before it changed; `factorial` has every combination.
        factors: Levels by name, the first of each factor that of the full recipe.
    """
    if design == "factorial":
        return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    rows = [{factor: next(iter(levels)) for factor, levels in factors.items()}]
    for factor, levels in factors.items():
        for level in list(levels)[1:]:
            rows.append({**rows[-1 if design == "cumulative" else 0], factor: level})
    return rows


def _arms(design: DesignName, factors: Mapping[str, Mapping[str, Level]], baseline: str) -> Iterator[dict[str, Any]]:
    rows = cells(design, factors)
    for number, cell in enumerate(rows):
        levels = {factor: factors[factor][name] for factor, name in cell.items()}
        changed = [factor for factor, name in cell.items() if name != rows[0][factor]]
        titles = [level_title(factor, cell[factor], levels[factor]) for factor in changed or cell]
        alone = levels[changed[0]].claim if design == "leave_one_out" and changed else None
        yield {
            "name": _arm_name(design, number, cell, rows) if changed else baseline,
            "title": ", ".join(titles),
            "set": {path: value for level in levels.values() for path, value in level.set.items()},
            "remove": tuple(dict.fromkeys(layer for level in levels.values() for layer in level.remove)),
            "claim": alone,
            "levels": cell,
        }


def _arm_name(design: DesignName, number: int, cell: Cell, rows: Sequence[Cell]) -> str:
    """`norm-off`, of a ladder `2-norm-off`, of two changed factors `norm-off--dropout-off`."""
    before = rows[number - 1] if design == "cumulative" else rows[0]
    changed = "--".join(f"{factor_name(factor)}-{cell[factor]}" for factor in cell if cell[factor] != before[factor])
    return f"{number}-{changed}" if design == "cumulative" else changed


def _mistakes(design: DesignName, factors: Mapping[str, Mapping[str, Level]]) -> Iterator[InitErrorDetails]:
    """What keeps the levels from being arms, each at its place."""
    if design == "factorial" and math.prod(map(len, factors.values())) > MOST_ARMS:
        number = math.prod(map(len, factors.values()))
        yield mistake(reason(f"make {number:,} combinations, more than {MOST_ARMS}"), ("factors",), None)
        return
    setters: dict[str, str] = {}
    for factor, levels in factors.items():
        for name, level in levels.items():
            for path in level.set:
                other = setters.setdefault(path, factor)
                if other != factor:
                    why = reason(f"is set by factor {other} too, so that one arm would set it twice")
                    yield mistake(why, ("factors", factor, name, "set", path), path)
    for number, cell in enumerate(rows := cells(design, factors)):
        name = _arm_name(design, number, cell, rows) if number else ""
        if len(name) > LONGEST_NAME:
            factor = next(factor for factor in reversed(cell) if cell[factor] != rows[0][factor])
            why = reason(f"an arm would be called {name}, more than {LONGEST_NAME} letters; give shorter names")
            yield mistake(why, ("factors", factor), name)
            return
