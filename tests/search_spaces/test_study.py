"""Study files: what they may say, and where a mistake is."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from search_spaces.errors import StudyError
from search_spaces.study import Study, load_study, study_names
from search_spaces.yaml_file import parse_model, parse_scalar

TEXT = (resources.files("search_spaces") / "studies" / "lrn.yaml").read_text()


def mistake(old: str, new: str) -> str:
    """The message about the lrn study with one thing wrong, and the line:column where `new` begins."""
    assert old in TEXT
    with pytest.raises(StudyError) as caught:
        parse_model(TEXT.replace(old, new, 1), Study, "mine.yaml")
    return str(caught.value)


def line_of(text: str) -> int:
    return TEXT[: TEXT.index(text)].count("\n") + 1


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
    assert f"mine.yaml:{line}:5: recipes.digits.margn: unknown field" in mistake("    margin:", "    margn:")
    line = line_of("    seeds: 8")
    assert mistake("    seeds: 8", "    seeds: 0").startswith(f"mine.yaml:{line}:12: recipes.digits.seeds: ")
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
