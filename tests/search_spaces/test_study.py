"""Study files: what they may say, and where a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.data.dataset import DataSummary
from search_spaces.errors import StudyError
from search_spaces.study import Study, common_recipes, load_study, study_names
from search_spaces.trial import base_config, unfold
from search_spaces.yaml_file import parse_model, parse_scalar

TEXT = """name: lrn
question: Does it?
source: nowhere
claim: {statement: it does, source: nowhere}
baseline: baseline
arms:
  - name: baseline
    title: with
  - name: no_lrn
    title: without
    remove: [lrn1, lrn2]
recipes:
  mine:
    data: {source: digits, image_size: 16}
    network: alexnet-mini
    input_size: 16
    training:
      epochs: 11
    seeds: 8
    margin: 0.5
    smallest_effect: 1.0
"""


def mistake(old: str, new: str) -> str:
    """The message about the lrn study with one thing wrong, and the line:column where `new` begins."""
    assert old in TEXT
    with pytest.raises(StudyError) as caught:
        parse_model(TEXT.replace(old, new, 1), Study, "mine.yaml")
    return str(caught.value)


def line_of(text: str) -> int:
    return TEXT[: TEXT.index(text)].count("\n") + 1


def test_what_contradicts_itself_is_a_mistake() -> None:
    both = mistake("recipes:\n", "not_asked: {mine: because}\nrecipes:\n")
    assert "mine has a recipe too" in both
    against = mistake("{statement: it does,", "{statement: it does, top1_points: 2.0, direction: lower,")
    assert "direction: lower, but top1_points 2 is higher" in against


def test_every_study_of_the_package_loads_under_its_own_name() -> None:
    for name in study_names():
        assert load_study(name).name == name


def test_the_lrn_study_states_the_papers_claim() -> None:
    study = load_study("lrn")
    assert (study.claim.top1_points, study.claim.top5_points) == (-1.4, -1.2)
    no_lrn = study.arm("no_lrn").claim
    assert no_lrn is not None
    assert (no_lrn.top1_points, no_lrn.top5_points) == (1.4, 1.2)
    assert [arm.name for arm in study.arms] == ["baseline", "no_lrn", "as_run"]
    assert {path.split(".")[-1] for path in study.sweep.parameters} == {"k", "size", "alpha", "beta"}  # type: ignore[union-attr]
    assert all(recipe.seeds == 8 for recipe in study.recipes.values())


def test_mistakes_are_placed_at_file_line_and_column() -> None:
    assert mistake("name: lrn\n", "name: lrn\nname: lrn\n") == "mine.yaml:2:1: duplicate key 'name'"
    line = line_of("    margin:")
    assert f"mine.yaml:{line}:5: recipes.mine.margn: unknown field" in mistake("    margin:", "    margn:")
    line = line_of("    seeds: 8")
    assert mistake("    seeds: 8", "    seeds: 0").startswith(f"mine.yaml:{line}:12: recipes.mine.seeds: ")
    assert "finite number" in mistake("margin: 0.5", "margin: .nan")
    assert "finite number" in mistake("margin: 0.5", "margin: .inf")
    assert mistake("remove: [lrn1, lrn2]", "remove: [lrn1, lrn2").startswith("mine.yaml:")
    assert "lower-case" in mistake("name: lrn", "name: ../x") or "pattern" in mistake("name: lrn", "name: ../x")
    assert "'basline' is none of the arms" in mistake("baseline: baseline", "baseline: basline")
    assert "there is no network" in mistake("network: alexnet-mini", "network: alexnet-maxi")


def test_scalars_are_those_of_yaml_1_2() -> None:
    assert parse_scalar("1e-3", "x") == 1e-3
    assert isinstance(parse_scalar("1e-3", "x"), float)
    assert parse_scalar("on", "x") == "on"
    assert parse_scalar("no", "x") == "no"
    assert parse_scalar("true", "x") is True
    assert parse_scalar("7", "x") == 7
    assert parse_scalar("[1, 2.5]", "x") == [1, 2.5]


@pytest.mark.parametrize("text", ["", "[]", "just words", "{a: [1", "!!python/object/apply:os.system ['true']", "\0"])
def test_what_is_no_study_is_refused_in_words(text: str) -> None:
    with pytest.raises(StudyError, match=r"mine\.yaml"):
        parse_model(text, Study, "mine.yaml")


def test_unknown_studies_are_refused_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="did you mean lrn"):
        load_study("lnr")
    for name in ("../x", "/etc/passwd", "a/b", "LRN", "x\0y"):
        with pytest.raises(StudyError, match="is no study's name"):
            load_study(name)
    with pytest.raises(StudyError, match="does not exist"):
        load_study(str(tmp_path / "none.yaml"))


def test_a_users_own_file_is_a_study(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("name: lrn\n", "name: mine\n"))
    assert load_study(str(path)).name == "mine"


def test_a_recipe_may_leave_out_what_all_studies_share() -> None:
    short = TEXT[: TEXT.index("  mine:")] + "  digits: {margin: 0.5, smallest_effect: 1.0, training: {epochs: 3}}\n"
    study = parse_model(short, Study, "mine.yaml")
    recipe, common = study.recipes["digits"], common_recipes()["digits"]
    assert recipe.training == common.training.model_copy(update={"epochs": 3})
    assert (recipe.data, recipe.network, recipe.input_size) == (common.data, common.network, common.input_size)
    wrong = short.replace("epochs: 3", "epoch: 3")
    with pytest.raises(StudyError, match=r"mine.yaml:13:.*recipes.digits.training.epoch: unknown field"):
        parse_model(wrong, Study, "mine.yaml")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/your_own_study.md", "docs/manual.zh-CN.md"])
def test_the_study_on_a_page_is_one(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text()
    (shown,) = [block for block in text.split("```yaml\n") if block.startswith("name: momentum\n")]
    study = parse_model(shown.split("```")[0], Study, page)
    assert study.arm("no_momentum").set == {"training.momentum": 0.0}
    assert study.recipes["digits"].training == common_recipes()["digits"].training


def test_an_arm_may_have_further_edits_on_a_data_set() -> None:
    edits = "    edits: {no_lrn: {network.conv5.padding: 0}}\n"
    study = parse_model(TEXT + edits, Study, "mine.yaml")
    assert study.arm("no_lrn").set == {}
    assert study.on("mine").arm("no_lrn").set == {"network.conv5.padding": 0}
    assert study.on("mine").arm("baseline") == study.arm("baseline")
    with pytest.raises(StudyError, match="edits: 'no_lrm' is none of the arms"):
        parse_model(TEXT + edits.replace("no_lrn", "no_lrm"), Study, "mine.yaml")


# 别的 core 的研究由它自己的模型验证，见 tests/orchestrator/planning
OF_ALEXNET = [name for name in study_names() if load_study(name).core is None]
DATASETS = [(name, dataset) for name in OF_ALEXNET for dataset in load_study(name).recipes]


@pytest.mark.parametrize(("name", "dataset"), DATASETS)
def test_every_study_unfolds_on_each_of_its_data_sets(name: str, dataset: str) -> None:
    study = load_study(name).on(dataset)
    summary = DataSummary(digest="0" * 64, class_names=("a", "b", "c"), train=10, validation=10, test=10)
    base = base_config(study, dataset, summary=summary, data_root=None, cache=None)
    trials = unfold(study, base, (0,))
    # 18 % 网络的 alpha 本来就除以窗口大小：as_run 就是基线
    same = (name, dataset) == ("lrn", "cifar10-whole")
    assert len({(trial.key, trial.views) for trial in trials}) == len(study.arms) - same
    baseline = next(trial for trial in trials if trial.arm == study.baseline)
    for trial in trials:
        # 一个 arm 只改它声明要改的东西：训练或网络，绝不动数据
        assert trial.config.data == baseline.config.data


def test_the_studies_share_their_baseline_but_for_colour() -> None:
    summary = DataSummary(digest="0" * 64, class_names=("a", "b"), train=10, validation=10, test=10)
    keys = {}
    for name in OF_ALEXNET:
        if "imagenet" in load_study(name).not_asked:
            continue
        study = load_study(name).on("imagenet")
        base = base_config(study, "imagenet", summary=summary, data_root=None, cache=None)
        keys[name] = next(trial.key for trial in unfold(study, base, (0,)) if trial.arm == study.baseline)
    assert len(set(keys.values())) == 1


@pytest.mark.parametrize(
    ("name", "arm", "dataset", "expected"),
    [
        ("pooling", "no_overlap", "imagenet", {"conv1": 55, "pool1": 28, "conv2": 26, "pool2": 13, "pool5": 6}),
        ("pooling", "no_overlap", "cifar10", {"pool1": 14, "pool2": 7, "conv5": 5, "pool5": 3}),
        ("pooling", "no_overlap", "digits", {"pool1": 8, "pool2": 4, "pool5": 2}),
        ("towers", "half", "imagenet", {"conv1": 55, "pool5": 6}),
    ],
)
def test_arms_have_the_sizes_of_the_original(name: str, arm: str, dataset: str, expected: dict[str, int]) -> None:
    study = load_study(name).on(dataset)
    summary = DataSummary(digest="0" * 64, class_names=tuple(map(str, range(1000))), train=1, validation=1, test=1)
    base = base_config(study, dataset, summary=summary, data_root=None, cache=None)
    config = next(trial.config for trial in unfold(study, base, (0,)) if trial.arm == arm)
    shapes = layer_shapes(config.network)
    sizes = {shape.name: shape.size for shape in shapes}
    assert {layer: sizes[layer] for layer in expected} == expected
    before = {shape.name: shape.size for shape in layer_shapes(base.network)}
    # fc6 读到的像素数与基线相同，否则比较的不只是池化
    assert sizes["pool5"] == before["pool5"]
    if name == "towers":
        assert sum(shape.parameters for shape in shapes) == 59_798_312
