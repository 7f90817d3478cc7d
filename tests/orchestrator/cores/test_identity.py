"""Trials of one core and version are of one code, or of codes that gave the same numbers; another is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import ablate, check_core, merge
from orchestrator.cores.contract import ContractError
from orchestrator.cores.foreign_code import ForeignCode
from orchestrator.cores.identity import (
    accept,
    accepted_fingerprints,
    check_identity,
    code_of,
    kept_code,
    load_kept,
)
from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.sources import CODE
from orchestrator.cores.training import Place, train_core
from orchestrator.records import trial_record
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.tables import update_tables
from tests.made_core_records import WALK, describe, put_walk, walk_config

# 另一种写法，同样的数；另一个数
SAME = WALK.replace(
    "place -= config.stride.length * own.random()", "place = place - own.random() * config.stride.length"
)
OTHER = WALK.replace("own.random()\n        run.save", "own.random() + 1e-9\n        run.save")


def fingerprint(folder: Path) -> str:
    return code_of(core_name("walk.py", folder)).fingerprint


def plan(capsys: pytest.CaptureFixture[str], folder: Path, results: Path) -> tuple[int, str]:
    """Plans the study with the code as it lies there now."""
    capsys.readouterr()
    arguments = ["--study", str(folder / "walking.yaml"), "--core", "walk.py", "--dry-run", "--results", str(results)]
    code = ablate.main(arguments)
    return code, capsys.readouterr().err


def put_trained(results: Path, folder: Path, seed: int = 0) -> None:
    """Puts a trial of the baseline on record that the code as it lies there has really trained."""
    core = load_core(core_name("walk.py", folder))
    curve = [report.metrics for report in train_core(core, core.config(), Place(seed))]
    put_walk(results, walk_config(seed), curve, code=fingerprint(folder), seconds=1.0 + seed)


REFUSAL = "error: the code of core walk is not what its trials of version 1 on record were trained with"


@pytest.mark.slow
def test_an_edited_core_is_refused_once_a_trial_has_ended_and_failed_ones_are_no_answer(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, first = tmp_path / "results", fingerprint(walk_folder)
    assert plan(capsys, walk_folder, results) == (0, "")
    put_walk(results, walk_config(0), [], state=TrialState.FAILED, code=first, message="no such luck")
    update_tables(results)
    (walk_folder / "walk.py").write_text(OTHER)
    assert fingerprint(walk_folder) != first
    assert plan(capsys, walk_folder, results) == (0, ""), "a failed trial is mended by an edit"
    for state in (TrialState.DIVERGED, TrialState.STOPPED, TrialState.FINISHED):
        put_walk(results, walk_config(0), [{"loss": 1.0, "test_loss": 1.0}], state=state, code=first)
        update_tables(results)
        code, errors = plan(capsys, walk_folder, results)
        assert (code, errors.count("\n")) == (2, 1)
        assert errors.startswith(REFUSAL)
        assert f"python -m orchestrator.check_core walk.py --same-numbers --results {results}" in errors
    # 换了版本就是另一些 trial；换回原样也可以
    (walk_folder / "walk.py").write_text(OTHER.replace("version=1", "version=2"))
    assert plan(capsys, walk_folder, results) == (0, "")
    (walk_folder / "walk.py").write_text(WALK)
    assert plan(capsys, walk_folder, results) == (0, "")


def test_what_the_driver_noted_holds_where_no_table_was_written_yet(tmp_path: Path, walk_folder: Path) -> None:
    """The driver notes the code before the first result, and may be killed before it writes a table."""
    code, results = code_of(core_name("walk.py", walk_folder)), tmp_path / "results"
    check_identity(results, describe(), code, [], "walk.py")
    accept(results, describe(), ["c0de" * 5])
    with pytest.raises(ContractError, match="is not what its trials of version 1 on record were trained with"):
        check_identity(results, describe(), code, [], "walk.py")
    check_identity(results, describe(version=2), code, [], "walk.py")
    check_identity(results, describe(name="walk-1"), code, [], "walk.py")
    accept(results, describe(), [code.fingerprint, "c0de" * 5, ""])
    assert accepted_fingerprints(results, describe()) == ("c0de" * 5, code.fingerprint)
    check_identity(results, describe(), code, ["c0de" * 5], "walk.py")
    # 合并来的第三份代码没有比较过
    with pytest.raises(ContractError, match="is not what its trials"):
        check_identity(results, describe(), code, ["c0de" * 5, "beef" * 5], "walk.py")
    (results / "code" / "walk-1.json").write_text("{")
    check_identity(results, describe(), code, [code.fingerprint], "walk.py")


@pytest.mark.parametrize("name", ["alexnet", "torchvision"])
def test_the_names_of_the_packages_cores_are_taken(walk_folder: Path, tmp_path: Path, name: str) -> None:
    code = code_of(core_name("walk.py", walk_folder))
    with pytest.raises(ContractError, match=f"{name} is a core of this package, whose records "):
        check_identity(tmp_path, describe(name=name), code, [], "walk.py")
    check_identity(tmp_path, describe(name="torchvision"), code_of(core_name("torchvision")), [], "torchvision")


@pytest.mark.slow
def test_an_edit_that_gives_the_same_numbers_is_accepted_and_another_is_not(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    compare = ["walk.py", "--same-numbers", "--results", str(results)]
    results.mkdir()
    assert check_core.main(compare) == 4
    assert "nothing to compare with" in capsys.readouterr().err
    put_trained(results, walk_folder, 1)
    put_trained(results, walk_folder, 0)
    update_tables(results)
    (walk_folder / "walk.py").write_text(OTHER)
    capsys.readouterr()
    assert check_core.main(compare) == 1
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "fault report 1: loss is 8." in output
    assert "the code gives other numbers: raise the version of core walk" in output
    assert plan(capsys, walk_folder, results)[1].startswith(REFUSAL)
    (walk_folder / "walk.py").write_text(SAME)
    assert plan(capsys, walk_folder, results)[1].startswith(REFUSAL)
    assert check_core.main(compare) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "seed 0, the shortest of its code on record:" in output
    assert [line.startswith("ok    report ") for line in output.splitlines()].count(True) == 3
    assert plan(capsys, walk_folder, results) == (0, "")
    # 原来的代码也还是它的代码
    (walk_folder / "walk.py").write_text(WALK)
    assert plan(capsys, walk_folder, results) == (0, "")


def keep(results: Path, folder: Path, seed: int) -> str:
    """Puts a trial on record as a run of the code in `folder` leaves it: kept beside, its fingerprint noted."""
    code = code_of(core_name("walk.py", folder))
    code.keep(results, "walk")
    accept(results, describe(), [code.fingerprint])
    put_walk(results, walk_config(seed), [{"loss": 1.0, "test_loss": 2.0}], code=code.fingerprint)
    return code.fingerprint


def test_a_merge_brings_the_code_that_trained_the_trials(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    code = keep(there, walk_folder, 0)
    for arguments in (["--dry-run"], []):
        assert merge.main([str(there), "--results", str(here), *arguments]) == 0
        assert f"1 kept code of cores {'would be ' * bool(arguments)}taken: walk {code}" in capsys.readouterr().out
        assert (here / CODE).exists() != bool(arguments)
    files = {path.relative_to(there): path.read_bytes() for path in (there / CODE).rglob("*") if path.is_file()}
    assert {path.relative_to(here): path.read_bytes() for path in (here / CODE).rglob("*") if path.is_file()} == files
    kept = kept_code(here, code, "walk")
    assert kept is not None
    assert load_kept(kept).name == "walk"
    assert accepted_fingerprints(here, describe()) == (code,)
    assert merge.main([str(there), "--results", str(here)]) == 0
    assert "kept code" not in capsys.readouterr().out
    # 早先的版本还没有的字段：说的是同一件事
    description = here / CODE / f"{code}.walk.json"
    whole = description.read_text()
    for earlier, exit_code, words in (
        (json.dumps({name: value for name, value in json.loads(whole).items() if name != "script"}), 0, ""),
        (whole.replace('"module": "walk"', '"module": "run"'), 1, f"{description} says otherwise how it is loaded"),
        (whole[:9], 1, f"{description} is damaged"),
    ):
        description.write_text(earlier)
        assert merge.main([str(there), "--results", str(here)]) == exit_code
        output = capsys.readouterr().out
        assert words in output
        assert ("refused the code" in output) == bool(words)
    description.write_text(whole)
    # 刚查完，另一个命令就在这里放了别的：不动它，说出来
    with monkeypatch.context() as patch:
        patch.setattr(ForeignCode, "is_here", lambda self, results: False)
        (here / CODE / code / "walk.py").write_text(OTHER)
        assert merge.main([str(there), "--results", str(here)]) == 1
        output = capsys.readouterr().out
        assert f"refused the code {code} of core walk: {here / CODE / code} was edited; move it away" in output
        assert "kept code" not in output, "it was not taken"
        (here / CODE / code / "walk.py").write_text(WALK)
        assert merge.main([str(there), "--results", str(here)]) == 0
        assert f"1 kept code of cores taken: walk {code}" in capsys.readouterr().out
    # 那边后来比过另一份代码，数相同：这里也记下；没人比过的，说出来
    (walk_folder / "walk.py").write_text(OTHER)
    other = keep(there, walk_folder, 1)
    assert merge.main([str(there), "--results", str(here)]) == 0
    assert accepted_fingerprints(here, describe()) == (code, other)
    strange = tmp_path / "strange"
    (walk_folder / "walk.py").write_text(f"{OTHER}\n# once more\n")
    third = keep(strange, walk_folder, 2)
    capsys.readouterr()
    assert merge.main([str(strange), "--results", str(here)]) == 1
    line = (
        f"conflict of core walk, version 1: trained by code {other} here, by {third} there; check_core --same-numbers"
    )
    assert line in capsys.readouterr().out
    assert accepted_fingerprints(here, describe()) == (code, other)


def edited(code: Path, description: Path) -> None:
    (code / "walk.py").write_text("print('mine')")


def linked(code: Path, description: Path) -> None:
    (code / "more.py").symlink_to("/etc/passwd")


def renamed(code: Path, description: Path) -> None:
    description.write_text(description.read_text().replace('"module": "walk"', '"module": "os"'))


def torn(code: Path, description: Path) -> None:
    description.write_text(description.read_text()[:9])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (edited, "its files are not those of its fingerprint"),
        (linked, "it has a symbolic link"),
        (renamed, "names the module os, which is not in it"),
        (torn, "is damaged"),
    ],
)
def test_a_merge_takes_no_code_that_is_not_what_its_name_says(
    walk_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path, Path], None],
    reason: str,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    code = keep(there, walk_folder, 0)
    damage(there / CODE / code, there / CODE / f"{code}.walk.json")
    assert merge.main([str(there), "--results", str(here)]) == 1
    output = capsys.readouterr().out
    assert f"refused the code {code} of core walk: " in output
    assert reason in output
    assert ", 0 left out\n" in output, "no trial was"
    assert kept_code(here, code, "walk") is None


@pytest.mark.slow
def test_records_that_another_code_trained_elsewhere_are_refused_until_compared(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shortest trial may be of the very code that asks: each other code on record must be compared itself."""
    here, there = tmp_path / "here", tmp_path / "there"
    put_trained(here, walk_folder, 0)
    update_tables(here)
    (walk_folder / "walk.py").write_text(OTHER)
    put_trained(there, walk_folder, 1)
    assert merge.main([str(there), "--results", str(here)]) == 0
    (walk_folder / "walk.py").write_text(WALK)
    assert plan(capsys, walk_folder, here)[1].startswith(REFUSAL)
    assert check_core.main(["walk.py", "--same-numbers", "--results", str(here)]) == 1
    output = capsys.readouterr().out
    assert "seed 1, the shortest of its code on record:" in output
    assert "seed 0" not in output, "a code is not compared with itself"
    assert plan(capsys, walk_folder, here)[1].startswith(REFUSAL)


@pytest.mark.slow
def test_a_field_that_came_later_is_compared_at_its_value_of_before(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    put_trained(results, walk_folder)
    update_tables(results)
    # 新字段的默认值与从前的不同：从前相当于 0
    later = WALK.replace("    seed: int = 7\n", "    seed: int = 7\n    wind: float = 1.0\n")
    later = later.replace("place -= ", "place += config.wind; place -= ").replace(
        "gpus=0", "gpus=0, added_later={'wind': 0.0}"
    )
    (walk_folder / "walk.py").write_text(later)
    assert check_core.main(["walk.py", "--same-numbers", "--results", str(results)]) == 0, capsys.readouterr()


@pytest.mark.parametrize("state", [None, TrialState.FAILED])
def test_what_another_code_saved_is_not_gone_on_with(tmp_path: Path, state: TrialState | None) -> None:
    config = walk_config()
    folder = trial_record.open_record(tmp_path, config)
    for code, is_kept in (("a" * 20, False), ("a" * 20, True), ("b" * 20, False), ("b" * 20, True)):
        saved = [folder / "checkpoint" / "0001-00000001.safetensors", folder / "script" / "checkpoint" / "mine.bin"]
        for path in saved:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if state is not None:
            put_walk(tmp_path, config, [], state=state, code="a" * 20)
            (folder / "attempts.jsonl").unlink()
            trial_record.next_attempt(folder, "b" * 20 if code.startswith("a") else "a" * 20)
            is_kept = False
        number = trial_record.next_attempt(folder, code)
        first = number == 1
        assert all(path.exists() == (is_kept or first) for path in saved), (code, number)
    # AlexNet 的代码由 numerics 说明：检查点照旧
    alexnet = tmp_path / "trials" / ("0" * 20)
    (alexnet / "checkpoint").mkdir(parents=True)
    trial_record.next_attempt(alexnet)
    trial_record.next_attempt(alexnet)
    assert (alexnet / "checkpoint").is_dir()


def test_what_a_core_declares_beside_the_key_is_written_anew_with_the_attempt(tmp_path: Path) -> None:
    """Metrics may be renamed while the only trials are interrupted or failed; their records must still be read."""
    before, now = (
        describe(),
        describe(metrics={"error": {"unit": "%", "scale": 100}}, chosen_by="error", judged_by="error"),
    )
    trial_record.open_record(tmp_path, walk_config(core=before))
    folder = trial_record.open_record(tmp_path, walk_config(core=now))
    assert trial_record.read_config(folder).model_dump() == walk_config(core=now).model_dump()
    put_walk(tmp_path, walk_config(1, before), [{"loss": 1.0, "test_loss": 1.0}], state=TrialState.FAILED)
    put_walk(tmp_path, walk_config(1, now), [{"error": 0.5}])
    trials = update_tables(tmp_path).trials
    assert trials["objective"].to_list() == [0.5]
    # 声明没变的，失败的结局留着，直到有新的
    key = put_walk(tmp_path, walk_config(2), [], state=TrialState.FAILED)
    trial_record.open_record(tmp_path, walk_config(2))
    assert (tmp_path / "trials" / key / "result.json").is_file()


def test_cores_that_share_a_file_are_kept_each(tmp_path: Path, walk_folder: Path) -> None:
    second = "\nsmall = Core(name='small', version=3, config=Config, train=train, gpus=0, chosen_by='loss', "
    second += "judged_by='loss', metrics={'loss': Metric('nats')})\n"
    (walk_folder / "walk.py").write_text(WALK + second)
    results = tmp_path / "results"
    for name in ("walk", "walk:small"):
        code = code_of(core_name(name, walk_folder))
        code.keep(results, load_core(code.name).name)
    kept = {core: kept_code(results, code.fingerprint, core) for core in ("walk", "small")}
    assert {core: one and one.attribute for core, one in kept.items()} == {"walk": None, "small": "small"}
    assert kept_code(results, code.fingerprint, "large") is None


def test_an_edit_of_what_lies_in_the_results_is_noticed_before_a_trial_is_trained(
    tmp_path: Path, walk_folder: Path
) -> None:
    code, results = code_of(core_name("walk.py", walk_folder)), tmp_path / "results"
    code.keep(results, "walk")
    (results / "code" / code.fingerprint / "walk.py").write_text(OTHER)
    with pytest.raises(ContractError, match="was edited; move it away, and it is copied anew"):
        code.keep(results, "walk")
    shutil.rmtree(results / "code")
    code.keep(results, "walk")
    assert (results / "code" / code.fingerprint / "walk.py").read_text() == WALK


def test_a_module_and_what_it_imports_are_loaded_as_they_were_edited(walk_folder: Path) -> None:
    """In a notebook one process plans the study again and again while its core is written."""
    (walk_folder / "strides.py").write_text("NAME = 'walk'\n")
    text = WALK.replace('name="walk"', "name=strides.NAME").replace("import random", "import random, strides")
    (walk_folder / "walk.py").write_text(text)
    assert load_core(core_name("walk.py", walk_folder)).name == "walk"
    (walk_folder / "walk.py").write_text(text.replace("version=1", "version=20"))
    assert load_core(core_name("walk.py", walk_folder)).version == 20
    (walk_folder / "strides.py").write_text("NAME = 'stroll'\n")
    assert load_core(core_name("walk.py", walk_folder)).name == "stroll"


def test_a_trial_in_a_strange_folder_is_of_no_core(tmp_path: Path) -> None:
    folder = trial_folder(tmp_path, put_walk(tmp_path, walk_config(), [{"loss": 1.0, "test_loss": 1.0}], code=""))
    # 没写代码的记录，不按名字去当前文件夹里找
    assert check_core.main(["--trial", str(folder)]) == 4


@pytest.mark.slow
def test_a_metric_that_is_declared_otherwise_than_on_record_is_another_version(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, first = tmp_path / "results", fingerprint(walk_folder)
    put_trained(results, walk_folder)
    update_tables(results)
    assert plan(capsys, walk_folder, results) == (0, "")
    (walk_folder / "walk.py").write_text(WALK.replace('"loss"', '"train_loss"'))
    # 脚本的指标只写在研究文件里：代码算作同一份，指标也会变
    accept(results, describe(), [first, fingerprint(walk_folder)])
    code, errors = plan(capsys, walk_folder, results)
    assert (code, errors.count("\n")) == (2, 1)
    assert "core walk declares the metrics test_loss, train_loss, and its trials of version 1 on record have " in errors
    assert "loss, test_loss: raise its version to train anew, or declare those" in errors
