"""Trials are named by what they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.configuration.named_networks import network, training_recipe
from alexnet_core.configuration.train_config import SOURCES, DataSpec, StepSchedule, TrainConfig, TrainingSpec
from alexnet_core.data.dataset import DataSummary
from search_spaces.core_config import parse_config
from search_spaces.edits import drawn_apart, edited, seeded
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, load_study
from search_spaces.trial import (
    base_config,
    canonical_json,
    configuration_key,
    keys_by_seed,
    parse_override,
    point_trial,
    trial_key,
    unfold,
)

SUMMARY = DataSummary(
    digest="0" * 64, class_names=tuple(str(n) for n in range(10)), train=1078, validation=360, test=359
)


def pinned(**changes: object) -> TrainConfig:
    config = TrainConfig(
        network=network("alexnet-paper"),
        training=TrainingSpec(epochs=90, colour_noise=0.1, schedule=StepSchedule(at=(0.5, 0.75))),
        data=DataSpec(name="imagenet", source="imagefolder", image_size=256, digest="ab" * 32),
        seed=3,
        numerics=1,
    )
    return config.model_copy(update=changes)


def test_golden_keys_do_not_move() -> None:
    assert trial_key(pinned()) == "ace32d9e52ffb147d13c"
    assert configuration_key(pinned()) == "6a365e668d29122b46f1"


def test_golden_keys_of_replayed_trainings_do_not_move() -> None:
    """Pinned before a change of a schedule could set the biases' learning rate."""
    replayed = pinned(network=network("alexnet-145"), training=training_recipe("alexnet-145-2012"))
    assert trial_key(replayed) == "6b30d4d66ba120008c4d"
    cifar = pinned(network=network("cifar-18pct"), training=training_recipe("cifar-18pct"))
    assert trial_key(cifar) == "d5a3e6642d9b7e85ab17"


def test_what_is_held_out_is_in_the_key_only_where_nothing_is() -> None:
    data = pinned().data
    assert "holds_out" not in data.model_dump()
    assert "holds_out" not in canonical_json(pinned())
    whole = pinned(data=data.model_copy(update={"holds_out": False}))
    assert '"holds_out":false' in canonical_json(whole)
    assert trial_key(whole) != trial_key(pinned())
    base = base_config(load_study("lrn"), "digits", summary=SUMMARY, data_root=None, cache=None)
    with pytest.raises(StudyError, match=r"data\.holds_out follows from"):
        edited(base, {"data.holds_out": False}, (), "--set")


def test_pairs_are_of_one_precision_since_it_is_in_the_key() -> None:
    study, keys = load_study("lrn"), set()
    for precision in ("float32", "tf32", "bfloat16"):
        overrides = {"training.precision": precision}
        base = base_config(study, "digits", summary=SUMMARY, data_root=None, cache=None, overrides=overrides)
        trials = unfold(study, base, range(2))
        assert {trial.config.training.precision for trial in trials} == {precision}  # type: ignore[union-attr]
        keys |= {trial.key for trial in trials}
    assert len(keys) == 3 * len(study.arms) * 2


def test_paths_are_not_in_the_key_but_content_is() -> None:
    here = pinned()
    there = pinned(data=here.data.model_copy(update={"root": "/elsewhere", "cache": "/cache"}))
    other = pinned(data=here.data.model_copy(update={"digest": "cd" * 32}))
    assert trial_key(here) == trial_key(there)
    assert trial_key(here) != trial_key(other)


def test_only_the_seed_separates_trial_from_configuration() -> None:
    assert trial_key(pinned()) != trial_key(pinned(seed=4))
    assert configuration_key(pinned()) == configuration_key(pinned(seed=4))
    assert trial_key(pinned()) != trial_key(pinned(numerics=2))


@given(st.sets(st.integers(0, 2**32 - 1), max_size=5), st.integers(0, 3))
def test_the_keys_of_many_seeds_are_those_of_each_alone(seeds: set[int], base_seed: int) -> None:
    assert keys_by_seed(pinned(seed=base_seed), sorted(seeds)) == {seed: trial_key(pinned(seed=seed)) for seed in seeds}


def test_minus_zero_is_zero_and_an_integral_number_is_itself() -> None:
    def with_decay(value: object) -> TrainConfig:
        plain = pinned().model_dump(mode="json")
        plain["training"]["weight_decay"] = value
        return TrainConfig.model_validate(plain)

    assert canonical_json(with_decay(-0.0)) == canonical_json(with_decay(0.0)) == canonical_json(with_decay(0))
    assert canonical_json(with_decay(1)) == canonical_json(with_decay(1.0))


def test_a_field_added_later_is_left_out_while_it_has_its_introduction_default() -> None:
    text = canonical_json(pinned(), {"training.precision": "float32", "network.layers.*.bias": 0.0})
    plain = json.loads(text)
    assert "precision" not in plain["training"]
    biases = {layer["name"]: layer.get("bias") for layer in plain["network"]["layers"]}
    assert biases["conv1"] is None
    assert biases["conv2"] == 1.0
    assert "precision" in json.loads(canonical_json(pinned(), {"training.precision": "bfloat16"}))["training"]


def base(**arguments: object) -> TrainConfig:
    return base_config(
        load_study("lrn"),
        "digits",
        summary=SUMMARY,
        data_root=None,
        cache=None,
        **arguments,  # type: ignore[arg-type]
    )


def test_a_study_unfolds_seed_by_seed_with_all_arms_together() -> None:
    trials = unfold(load_study("lrn"), base(), range(3))
    assert [(trial.seed, trial.arm) for trial in trials[:4]] == [
        (0, "baseline"),
        (0, "no_lrn"),
        (0, "as_run"),
        (1, "baseline"),
    ]
    assert len({trial.key for trial in trials}) == 9
    names = {trial.arm: [layer.name for layer in trial.config.network.layers] for trial in trials}
    assert set(names["baseline"]) - set(names["no_lrn"]) == {"lrn1", "lrn2"}
    assert all(trial.config.network.classes == 10 for trial in trials)


def test_an_arm_of_a_network_without_its_layer_is_refused_by_name() -> None:
    study = load_study("lrn")
    bare = study.model_copy(
        update={"arms": (*study.arms, study.arms[1].model_copy(update={"name": "x", "remove": ("lrn5",)}))}
    )
    with pytest.raises(StudyError, match=r"arm x on network alexnet-mini: .*no layer lrn5"):
        unfold(bare, base(), range(1))


@pytest.mark.parametrize("field", ["root", "cache", "digest", "source", "name"])
def test_what_the_data_is_and_where_it_lies_cannot_be_edited(field: str) -> None:
    study = load_study("lrn")
    arm = study.arms[1].model_copy(update={"set": {f"data.{field}": "digits"}, "remove": ()})
    with pytest.raises(StudyError, match=rf"arm no_lrn on network alexnet-mini: data\.{field} follows") as caught:
        unfold(study.model_copy(update={"arms": (study.arms[0], arm)}), base(), range(1))
    assert caught.value.location == ("arms", 1, "set", f"data.{field}")
    with pytest.raises(StudyError, match=rf"--set: data\.{field} follows"):
        base(overrides={f"data.{field}": "digits"})


def test_an_override_of_what_an_arm_edits_is_refused() -> None:
    with pytest.raises(StudyError, match="arm as_run of study lrn edits this field"):
        base(overrides={"network.lrn*.divide_alpha_by_size": True})


@pytest.mark.slow
@given(value=st.floats(min_value=1e-6, max_value=1e-2))
def test_every_value_of_a_field_is_a_trial_of_its_own(value: float) -> None:
    path, parsed = parse_override(f"network.lrn1.alpha={value!r}")
    edited = base(overrides={path: parsed})
    layer = edited.network.layer("lrn1")
    assert layer.alpha == value  # type: ignore[union-attr]
    assert (trial_key(edited) == trial_key(base())) == (value == 1e-4)
    assert TrainConfig.model_validate_json(edited.model_dump_json()) == edited


def test_a_sweeps_point_that_is_the_baseline_is_the_baseline() -> None:
    study = load_study("lrn")
    point = {
        "network.lrn*.k": 2.0,
        "network.lrn*.size": 5,
        "network.lrn*.alpha": 1e-4,
        "network.lrn*.beta": 0.75,
    }
    planned = point_trial(base(), point, 0, arm="sweep", phase="sweep", what="a test")
    assert planned.key == unfold(study, base(), [0])[0].key


@pytest.mark.parametrize("text", ["training.epochs", "=3", "training.epochs=", "training.epochs={a: 1}"])
def test_an_override_that_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="--set"):
        parse_override(text)


SOURCE_SEEDS = {"initialisation", "order", "augmentation", "dropout"}


@given(
    seed=st.integers(0, 2**31 - 1),
    varies=st.sets(st.sampled_from(["seed", "split", *sorted(SOURCE_SEEDS)])),
)
def test_a_seed_draws_what_it_is_to_draw_and_all_else_is_at_seed_0(seed: int, varies: set[str]) -> None:
    config = seeded(pinned(), seed, tuple(varies))
    assert isinstance(config, TrainConfig)
    own = seed if "seed" in varies else 0
    assert config.seed == own
    assert config.data.resplit == (seed if "split" in varies else 0)
    drawn = {source: config.seed_of(source) for source in SOURCES}
    assert drawn == {source: seed if source in varies else own for source in SOURCE_SEEDS}
    # 记录读回来还是它；名字由内容而定，与怎样写出来无关
    assert parse_config(json.loads(config.model_dump_json())) == config
    assert keys_by_seed(pinned(), [seed], tuple(varies)) == {seed: trial_key(config)}
    assert configuration_key(config) == configuration_key(pinned())
    assert drawn_apart(config) == tuple(
        source for source in (*SOURCES, "split") if source in varies and "seed" not in varies and seed
    )


def test_a_source_at_the_trials_own_seed_is_the_plain_trial() -> None:
    plain = pinned()
    content = plain.model_dump(mode="json")
    assert "seeds" not in content
    assert "resplit" not in content["data"]
    same = TrainConfig.model_validate({**content, "seeds": dict.fromkeys(SOURCES, plain.seed)})
    assert trial_key(same) == trial_key(plain)
    keys = {trial_key(seeded(plain, 0, (source,))) for source in (*SOURCES, "split", "seed")}
    assert keys == {trial_key(seeded(plain, 0))}
    # 种子 1 起，各来源各是各的 trial
    assert len({trial_key(seeded(plain, 1, (source,))) for source in (*SOURCES, "split", "seed")}) == 6


def test_a_recipe_may_let_its_seeds_draw_the_split_anew_in_all_arms_alike() -> None:
    study = load_study("lrn")
    recipe = Recipe.model_validate({**study.recipes["digits"].model_dump(), "vary": ["split"]})
    varied = study.model_copy(update={"recipes": {"digits": recipe}})
    trials, plain = unfold(varied, base(), range(3)), unfold(study, base(), range(3))
    for trial in trials:
        assert isinstance(trial.config, TrainConfig)
        assert (trial.config.seed, trial.config.data.resplit) == (trial.seed, trial.seed)
    # 种子 0 的划分就是原来的划分：那些 trial 不必再训
    same = [ours.key == theirs.key for ours, theirs in zip(trials, plain, strict=True)]
    assert same == [trial.seed == 0 for trial in trials]
    assert "vary" not in study.recipes["digits"].model_dump()
    with pytest.raises(ValueError, match="split"):
        Recipe.model_validate({**study.recipes["digits"].model_dump(), "vary": ["order"]})
    with pytest.raises(StudyError, match=r"unknown field data\.resplit"):
        base(overrides={"data.resplit": 2})
