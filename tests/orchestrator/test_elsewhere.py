"""Another place, another clock: neither a results folder's path nor any time in it changes an answer."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.ablate import main as ablate
from orchestrator.best import main as best
from orchestrator.records import layout
from orchestrator.report import main as report
from orchestrator.status import main as status
from orchestrator.tables.tables import load_trials, update_tables
from tests.made_records import make_config, put, put_trained, read_only

GOLDEN = Path(__file__).parents[1] / "golden" / "first-release"
STUDY = ["--study", "lrn", "--seeds", "1", "--epochs", "2"]


@pytest.fixture(scope="module")
def first_answer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first release's records with today's answer to them."""
    results = Path(shutil.copytree(GOLDEN, tmp_path_factory.mktemp("first") / "results"))
    assert ablate([*STUDY, "--results", str(results)]) == 0
    return results


@pytest.fixture
def answered(first_answer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_answer, tmp_path / "here"))


def answer(results: Path) -> bytes:
    return (results / "studies" / "lrn" / "answer.json").read_bytes()


def ranking(results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert best(["--results", str(results)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_results_copied_elsewhere_answer_the_same(
    answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, order = answer(answered), ranking(answered, capsys)
    there = tmp_path / "elsewhere" / "copied"
    # 不带时间的拷贝，如同经过网络
    shutil.copytree(answered, there, copy_function=shutil.copyfile)
    shutil.rmtree(answered)
    assert ablate([*STUDY, "--results", str(there)]) == 0
    output = capsys.readouterr().out
    assert "3 on record, 0 to train" in output
    assert str(answered) not in output
    assert answer(there) == before
    assert ranking(there, capsys) == order
    assert status(["--results", str(there)]) == 0
    assert not answered.exists()


@pytest.mark.slow
def test_a_path_of_a_shells_characters_is_a_path_and_commands_are_printed_as_they_are_typed(
    answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    there = tmp_path / "my [a-z]*? $x '%41#"
    answered.rename(there)
    assert ablate([*STUDY, "--results", str(there)]) == 0
    capsys.readouterr()
    caplog.clear()
    assert report(["--results", str(there), "--check"]) == 0
    assert best(["--results", str(there)]) == 0
    assert caplog.messages == [], "no table is taken for a damaged one"
    key = next((there / "trials").iterdir()).name
    assert status([key, "--results", str(there)]) == 0
    printed = capsys.readouterr().out.splitlines()
    (command,) = [line for line in printed if line.startswith("python -m alexnet_core train --config ")]
    assert shlex.split(command)[-1] == str(there / "trials" / key / "config.json")


def test_a_copied_trial_is_exported_from_its_new_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    put_trained(here, make_config(epochs=1, data={"cache": str(here / "cache")}))
    here.rename(there)
    assert best(["--results", str(there), "--export", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "SHA256SUMS").is_file()
    assert not here.exists()
    for path in (tmp_path / "model").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_looking_at_read_only_results_works_and_running_says_what_is_wrong(
    answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ranking(answered, capsys)
    with read_only(answered):
        assert ranking(answered, capsys) == order
        assert status(["--results", str(answered)]) == 0
        assert status(["lrn", "--results", str(answered)]) == 0
        assert ablate([*STUDY, "--dry-run", "--results", str(answered)]) == 0
        capsys.readouterr()
        assert ablate([*STUDY, "--results", str(answered)]) == 3
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "cannot be written" in lines[0]
        assert report(["--results", str(answered)]) == 3
        output, errors = capsys.readouterr()
    assert "no verdict: fewer than 3 seeds" in output, "the answer is printed"
    assert errors.count("\n") == 1
    assert f"{answered / 'studies' / 'lrn'} is read-only: the answer is above, its report and this look are" in errors


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--compare", "no_lrn", "as_run"], "lrn is read-only: the answer is above, its report is not written"),
        (["--paper"], "paper is read-only: the answer is above, its page is not written"),
    ],
)
def test_what_else_a_report_writes_is_said_in_the_same_words_where_it_cannot(
    answered: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    with read_only(answered):
        capsys.readouterr()
        assert report([*arguments, "--results", str(answered)]) == 3
    output, error = capsys.readouterr()
    assert "no_lrn" in output, "the answer is printed"
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert f"{line}; copy the results folder to where you may write" in error


@pytest.mark.slow
def test_times_are_cosmetic(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, order = answer(answered), ranking(answered, capsys)
    draw = random.Random(7)
    for path in answered.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        # 时钟倒拨、时区各异：结束可以早于开始
        result["started_at"] = f"{draw.randint(1970, 2100)}-03-01T00:00:00+13:45"
        result["finished_at"] = f"{draw.randint(1970, 2100)}-01-01T00:00:00-11:00"
        path.write_text(json.dumps(result))
    for path in answered.rglob("*"):
        moment = draw.randint(0, 4_000_000_000)
        os.utime(path, (moment, moment))
    assert ablate([*STUDY, "--results", str(answered)]) == 0
    assert answer(answered) == before
    assert ranking(answered, capsys) == order


def test_a_result_written_after_the_clock_was_set_back_is_seen(tmp_path: Path) -> None:
    key = put(tmp_path, make_config(), 20)
    update_tables(tmp_path)
    put(tmp_path, make_config(), 21)
    path = layout.trial_folder(tmp_path, key) / "result.json"
    os.utime(path, (0, 0))
    assert load_trials(tmp_path).trials["validation_top1_errors"].to_list() == [21]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns"])
def test_times_are_written_in_utc_in_every_time_zone(zone: str) -> None:
    program = (
        "from datetime import UTC, datetime; from orchestrator.running.recording.opening import now; "
        "written = datetime.fromisoformat(now()); "
        "print(written.utcoffset(), abs((datetime.now(UTC) - written).total_seconds()) < 10)"
    )
    environment = {**os.environ, "TZ": zone}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0:00:00", "True"]
