"""Records of the first release are read as they are; those of an older schema move to today's keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ablate import main
from orchestrator.errors import LabError
from orchestrator.records import trial_record
from orchestrator.records.upgrades import Upgrade, upgrade_results
from orchestrator.tables.tables import load_tables
from search_spaces.trial import trial_key

GOLDEN = Path(__file__).parents[2] / "golden" / "first-release"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "results"))


def older(results: Path) -> dict[str, str]:
    """Makes the records those of a version that called the learning rate `rate` and the seed of a result `draw`.

    Returns the key that such a version would have given, by today's.
    """
    old_keys = {}
    for number, folder in enumerate(sorted((results / "trials").iterdir())):
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
        config["training"]["rate"] = config["training"].pop("learning_rate")
        result["draw"] = result.pop("seed")
        old_keys[folder.name] = f"{number:020x}"
        result["key"] = old_keys[folder.name]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "result.json").write_text(json.dumps(result))
        folder.rename(folder.with_name(old_keys[folder.name]))
    members = results / "studies" / "lrn" / "members.jsonl"
    text = members.read_text()
    for key, old in old_keys.items():
        text = text.replace(key, old)
    members.write_text(text)
    return old_keys


def renamed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    training = {("learning_rate" if name == "rate" else name): value for name, value in config["training"].items()}
    return {**config, "training": training}


UPGRADE = Upgrade(renamed, lambda result: {("seed" if name == "draw" else name): x for name, x in result.items()})


def facts(results: Path) -> list[Any]:
    tables = load_tables(results)
    return [tables.trials.drop("record_stamp").to_dicts(), tables.members.to_dicts(), tables.epochs.to_dicts()]


def test_the_first_releases_records_are_found_under_their_keys(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (golden / "trials").iterdir():
        assert trial_key(trial_record.read_config(folder)) == folder.name
        result = trial_record.read_result(folder)
        assert result is not None
        assert result.key == folder.name
    trials, members, epochs = load_tables(golden)
    assert trials["state"].value_counts(sort=True).rows() == [("finished", 5), ("diverged", 1)]
    assert (members.height, epochs.height) == (5, 10)
    assert main(["--study", "lrn", "--seeds", "2", "--epochs", "2", "--dry-run", "--results", str(golden)]) == 0
    assert "6 trials wanted, 5 on record, 1 to train" in capsys.readouterr().out


def test_records_of_an_older_schema_are_found_under_todays_keys(golden: Path) -> None:
    expected = facts(golden)
    old_keys = older(golden)
    (golden / "trials" / old_keys["07b5d374bfbd42364672"] / "checkpoint").mkdir()
    weights = golden / "trials" / old_keys["07b5d374bfbd42364672"] / "checkpoint" / "0001-000002-00000000.safetensors"
    weights.write_bytes(b"weights")
    assert upgrade_results(golden, (UPGRADE,)) == 6
    assert facts(golden) == expected
    linked = golden / "trials" / "07b5d374bfbd42364672" / "checkpoint" / weights.name
    assert linked.stat().st_ino == (golden / "trials.v1" / weights.relative_to(golden / "trials")).stat().st_ino
    assert upgrade_results(golden, (UPGRADE,)) == 0, "once is enough"
    assert facts(golden) == expected


def test_an_upgrade_that_was_killed_goes_on(golden: Path) -> None:
    expected = facts(golden)
    older(golden)
    trials = golden / "trials"
    # 写了一半的新记录
    shutil.copytree(trials / f"{0:020x}", golden / "trials.new" / "half")
    upgrade_results(golden, (UPGRADE,))
    # 两次改名之间，然后是改完名、名单与版本号还没写
    (golden / ".schema").unlink()
    trials.rename(golden / "trials.new")
    upgrade_results(golden, (UPGRADE,))
    assert facts(golden) == expected
    (golden / ".schema").unlink()
    upgrade_results(golden, (UPGRADE,))
    assert facts(golden) == expected


def test_a_record_that_cannot_be_upgraded_is_named_and_nothing_moves(golden: Path) -> None:
    older(golden)
    damaged = golden / "trials" / f"{3:020x}" / "config.json"
    damaged.write_text("{")
    with pytest.raises(LabError, match=r"config\.json cannot be read") as caught:
        upgrade_results(golden, (UPGRADE,))
    assert caught.value.exit_code == 3
    damaged.write_text("{}")
    with pytest.raises(LabError, match="cannot be upgraded to this version's schema; move it away"):
        upgrade_results(golden, (UPGRADE,))
    assert len(list((golden / "trials").iterdir())) == 6


def test_new_results_say_their_schema_once_there_is_more_than_one(tmp_path: Path) -> None:
    assert upgrade_results(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
    upgrade_results(tmp_path, (UPGRADE,))
    assert (tmp_path / ".schema").read_text() == "2\n"
