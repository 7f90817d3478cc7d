"""A trial of a core is named by config, core, data, seed and version, as they are written down, and by nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from search_spaces.core_config import CoreConfig, CoreData, CoreDescription, MetricDescription
from search_spaces.edits import drawn_apart, seeded
from search_spaces.errors import StudyError
from search_spaces.trial import canonical_json, configuration_key, keys_by_seed, trial_key
from tests.made_core_records import describe, walk_config

# 记录以它为名：这个数永远不变
GOLDEN = "7f0089fad3c68b6fe58f"
WALK = {"epochs": 3, "seed": 7, "stride": {"length": 0.5, "is_springy": False}}


def key_of(config: Mapping[str, Any], seed: int = 0, core: str = "walk", version: int = 1, data: str = "") -> str:
    """The key, worked out here: the first 20 digits of the SHA-256 of the five things that decide a trial."""
    content = {"config": config, "core": core, "data": data, "seed": seed, "version": version}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]


def bare(fields: dict[str, JsonValue], seed: int = 0, **core: Any) -> CoreConfig:
    """A configuration as it is read from a record: plain fields, no code."""
    return CoreConfig(core=describe(**core), fields=fields, data=CoreData(name="default"), seed=seed)


def test_the_key_is_of_config_core_data_seed_and_version() -> None:
    assert trial_key(walk_config()) == key_of(WALK) == GOLDEN
    assert trial_key(walk_config(5)) == key_of(WALK, seed=5)
    assert trial_key(walk_config(core=describe(version=2))) == key_of(WALK, version=2)
    assert trial_key(walk_config(core=describe(name="stroll"))) == key_of(WALK, core="stroll")
    data = CoreData(name="default", digest="abc")
    assert trial_key(walk_config(data=data)) == key_of(WALK, data="abc")
    assert configuration_key(walk_config(5)) == key_of(WALK)


def test_what_is_declared_beside_the_numbers_is_outside_the_key() -> None:
    metrics = {"other": MetricDescription(unit="%", better="higher", scale=100.0)}
    otherwise: list[CoreDescription] = [
        describe(unit="bits", better="higher", scale=2.0),
        describe(metrics=metrics, chosen_by="other", judged_by="other"),
        describe(chosen_by="test_loss", judged_by="loss"),
        describe(gpus=4, deterministic=False, has_sizes=True),
    ]
    assert {trial_key(walk_config(core=core)) for core in otherwise} == {key_of(WALK)}
    # 数据放在哪里、叫什么都不算，内容才算
    places = [CoreData(name="elsewhere"), CoreData(name="default", root="/somewhere")]
    assert {trial_key(walk_config(data=data)) for data in places} == {key_of(WALK)}


def test_the_seed_of_a_single_source_is_in_the_key_where_it_is_another_than_usual() -> None:
    core = describe(randomness=("order", "split"))
    plain = bare(WALK, seed=4, randomness=("order", "split"))
    assert trial_key(plain) == key_of(WALK, seed=4)
    content = plain.model_dump(mode="json")
    assert "seeds" not in content
    assert "randomness" not in walk_config().model_dump(mode="json")["core"]
    # 平常 order 随 trial 的种子，split 是 0
    for seeds in ({"order": 4}, {"split": 0}, {"order": 4, "split": 0}):
        assert trial_key(CoreConfig.model_validate({**content, "seeds": seeds})) == key_of(WALK, seed=4)
    other = CoreConfig.model_validate({**content, "seeds": {"order": 1, "split": 0}})
    written = {"config": WALK, "core": "walk", "data": "", "seed": 4, "seeds": {"order": 1}, "version": 1}
    text = json.dumps(written, sort_keys=True, separators=(",", ":"))
    assert trial_key(other) == hashlib.sha256(text.encode()).hexdigest()[:20]
    assert configuration_key(other) == key_of(WALK)
    assert seeded(plain, 3, ("order",)).seeds == {"order": 3}  # type: ignore[union-attr]
    assert seeded(plain, 3, ("seed", "split")).model_dump()["seeds"] == {"split": 3}
    assert (drawn_apart(other), drawn_apart(seeded(plain, 3, ("seed", "split")))) == (("order",), ())
    with pytest.raises(ValidationError, match="declares no source of randomness 'weather'"):
        CoreConfig.model_validate({**content, "seeds": {"weather": 1}})
    assert core.randomness == ("order", "split")


def test_a_field_called_seed_or_epochs_is_only_a_field() -> None:
    config = walk_config(3, seed=11)
    assert config.seed == 3
    assert trial_key(config) == key_of({**WALK, "seed": 11}, seed=3)
    assert keys_by_seed(config, (0, 11)) == {seed: key_of({**WALK, "seed": 11}, seed=seed) for seed in (0, 11)}
    # 字段里的文本长得像种子也不会认错
    texts = bare({"note": '"seed":0,', "seed": 0})
    assert keys_by_seed(texts, (1,)) == {1: key_of({"note": '"seed":0,', "seed": 0}, seed=1)}
    assert len({trial_key(walk_config(epochs=epochs)) for epochs in (3, 4, 5)}) == 3


def test_fields_that_came_later_leave_keys_as_they_are_while_they_have_the_value_of_before() -> None:
    class Longer(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        epochs: int = 3
        warmup: int = 5
        schedule: dict[str, float] = {"drop": 0.1}

    later: dict[str, JsonValue] = {"warmup": 0, "schedule": {"drop": 0.1}}
    core = describe(added_later=later)
    before = key_of({"epochs": 3})
    # 默认值可以与从前不同：从前没有预热
    assert trial_key(walk_config(core=core, model=Longer)) == key_of({"epochs": 3, "warmup": 5})
    assert trial_key(walk_config(core=core, model=Longer, warmup=0)) == before
    assert trial_key(bare({"epochs": 3}, added_later=later)) == before
    assert trial_key(walk_config(core=core, model=Longer, warmup=0, schedule__drop=0.2)) == key_of(
        {"epochs": 3, "schedule": {"drop": 0.2}}
    )


def test_numbers_are_those_of_the_fields_types_and_minus_zero_is_zero() -> None:
    class Numbers(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        # 默认值是整数，字段是小数：写下的是小数
        rate: float = 1
        steps: int = 1
        place: tuple[float, float] = (0.0, 1.0)

    plain = {"rate": 1.0, "steps": 1, "place": [0.0, 1.0]}
    assert trial_key(walk_config(model=Numbers)) == key_of(plain)
    assert trial_key(walk_config(model=Numbers, rate=1, steps=1.0)) == key_of(plain)
    assert trial_key(walk_config(model=Numbers, place=[-0.0, 1])) == key_of(plain)
    assert trial_key(bare({"rate": 1})) != trial_key(bare({"rate": 1.0}))
    assert trial_key(walk_config(model=Numbers, rate="2")) == key_of({**plain, "rate": 2.0})


def test_nested_fields_are_in_it_each_by_its_own_name() -> None:
    springy = {**WALK, "stride": {"length": 0.8, "is_springy": True}}
    assert trial_key(walk_config(stride__length=0.8, stride__is_springy=True)) == key_of(springy)
    assert trial_key(walk_config(stride={"length": 0.8, "is_springy": True})) == key_of(springy)


class Inner(BaseModel):
    model_config = ConfigDict(extra="allow")

    length: float = 1.0


class Loose(BaseModel):
    """Takes any field, and one by another name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    rate: float = Field(default=0.1, alias="lr")
    inner: Inner = Inner()
    each: tuple[Inner, ...] = (Inner(),)


def test_a_field_is_set_by_its_own_name_whatever_the_model_says_of_others() -> None:
    plain = {"rate": 0.5, "inner": {"length": 2.0}, "each": [{"length": 1.0}]}
    assert trial_key(walk_config(model=Loose, rate=0.5, inner__length=2)) == key_of(plain)
    for edits, complaint in (
        ({"lr": 0.5}, "unknown field lr"),
        ({"rates": 0.5}, "unknown field rates; did you mean rate?"),
        ({"inner__lenth": 2}, r"inner\.lenth: unknown field; did you mean length?"),
        ({"inner": {"lenth": 2}}, r"inner\.lenth: unknown field; did you mean length?"),
        ({"each": [{"lenth": 2}]}, r"each\.0\.lenth: unknown field"),
    ):
        with pytest.raises(StudyError, match=complaint.replace("?", r"\?")):
            walk_config(model=Loose, **edits)


def test_what_has_no_one_way_to_be_written_is_no_configuration() -> None:
    class Sets(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        inner: dict[str, frozenset[str]] = {"words": frozenset(("b", "a"))}

    class Opaque(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

        thing: object = object()

    with pytest.raises(StudyError, match=r"core walk: .*inner\.words is a set, which is written in another order"):
        walk_config(model=Sets)
    with pytest.raises(StudyError, match="core walk: the configuration cannot be written as JSON"):
        walk_config(model=Opaque)
    for fields in ('{"rate": NaN}', '{"a": {"b": [Infinity]}}'):
        content = bare({}).model_dump_json().replace('"fields":{}', f'"fields":{fields}')
        with pytest.raises(ValidationError, match="not JSON compliant"):
            CoreConfig.model_validate_json(content)


def test_a_core_cannot_be_taken_for_alexnet() -> None:
    with pytest.raises(ValidationError, match="alexnet is the built-in network"):
        bare({}, name="alexnet")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def positive(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: positive(item) for name, item in value.items()}
    if isinstance(value, list):
        return [positive(item) for item in value]
    return 0.0 if isinstance(value, float) and value == 0.0 else value


@given(fields=st.dictionaries(st.text(max_size=12), JSON, max_size=5), seed=st.integers(0, 2**31 - 1))
def test_whatever_the_fields_are_the_key_survives_the_record_and_tells_seeds_apart(
    fields: dict[str, Any], seed: int
) -> None:
    config = bare(fields, seed)
    key = trial_key(config)
    assert key == key_of(positive(fields), seed)
    again = CoreConfig.model_validate_json(config.model_dump_json(indent=1))
    assert (again, canonical_json(again)) == (config, canonical_json(config))
    assert keys_by_seed(config, (seed, seed ^ 1)) == {one: key_of(positive(fields), one) for one in (seed, seed ^ 1)}
    assert configuration_key(config) == key_of(positive(fields), 0)
