"""What programs get: one JSON document per command, and the same answer from a call that leaves its caller alone."""

from __future__ import annotations

import json
import logging
import re
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import polars as pl
import pytest
from pydantic import BaseModel
from scipy import stats

from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator import LabError, StudyAnswer, ablate, best, report, run_study, status
from orchestrator.output.document import Document
from orchestrator.records.trial_record import TrialState
from search_spaces.study import load_study, study_names
from search_spaces.trial import trial_key
from tests.made_plans import make_plan
from tests.made_records import put

ROOT = Path(__file__).parents[2]
MAINS = {"ablate": ablate.main, "best": best.main, "report": report.main, "status": status.main}
TEST_IMAGES = 359
WRONG = {
    "baseline": [6, 7, 5, 8, 6, 7, 6, 5],
    "no_lrn": [13, 15, 11, 17, 12, 15, 14, 11],
    "as_run": [7, 6, 6, 8, 5, 8, 6, 6],
}
ASKED = ("--seeds", "8", "--epochs", "2")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study `lrn` with all its trials on record."""
    folder = tmp_path_factory.mktemp("programs") / "results"
    for trial in make_plan(load_study("lrn"), 8, epochs=2).trials:
        wrong = WRONG[trial.arm][trial.seed]
        put(folder, trial.config, wrong, test_wrong=wrong)
    assert ablate.main([*ASKED, "--results", str(folder)]) == 0
    return folder


def document(capfd: pytest.CaptureFixture[str], name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one document on the standard output, and the standard error of a command."""
    capfd.readouterr()
    code = MAINS[name]([*arguments, "--json"])
    output, errors = capfd.readouterr()
    content: dict[str, Any] = json.loads(output, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert content["schema_version"] == 1
    assert content["exit_code"] == code
    assert "Traceback" not in errors
    return code, content, errors


@pytest.mark.slow
def test_the_answer_is_that_of_an_independent_calculation(capfd: pytest.CaptureFixture[str], results: Path) -> None:
    code, content, errors = document(capfd, "ablate", *ASKED, "--results", str(results))
    assert (code, content["error"]) == (0, None)
    assert "24 trials wanted, 24 on record" in errors, "what is for people is on the standard error"
    (one,) = content["answers"]
    assert one["folder"] == str(results / "studies" / "lrn")
    assert (one["states"], one["some_failed"], one["unit"]) == ({"finished": 24}, False, "%")
    answer = one["answer"]
    assert (answer["study"], answer["dataset"], answer["metric"]) == ("lrn", "digits", "top-1 test error")
    arms = {arm["name"]: arm for arm in answer["arms"]}
    assert list(arms) == ["baseline", "no_lrn", "as_run"]
    percent = {name: [100 * count / TEST_IMAGES for count in counts] for name, counts in WRONG.items()}
    for name, values in percent.items():
        assert arms[name]["mean"] == pytest.approx(statistics.fmean(values))
        assert arms[name]["errors"] == {str(seed): pytest.approx(value) for seed, value in enumerate(values)}
    test = stats.ttest_rel(percent["no_lrn"], percent["baseline"])
    without = arms["no_lrn"]
    assert without["scale"] == "points"
    assert without["difference"] == pytest.approx(statistics.fmean(percent["no_lrn"]) - arms["baseline"]["mean"])
    assert without["p"] == pytest.approx(test.pvalue)
    assert without["interval"] == pytest.approx(list(test.confidence_interval(without["interval_level"] / 100)))
    assert without["interval"][0] > 0, "which is what the paper claims"
    assert all(abs(end) < answer["margin"] for end in arms["as_run"]["interval"])
    assert (without["word"], arms["as_run"]["word"]) == ("supports", "equivalent")


@pytest.mark.slow
def test_report_answers_as_ablate_does_and_a_check_names_what_differs(
    capfd: pytest.CaptureFixture[str], results: Path
) -> None:
    _, asked, _ = document(capfd, "ablate", *ASKED, "--results", str(results))
    code, made_again, errors = document(capfd, "report", "--results", str(results))
    assert (code, made_again["answers"]) == (0, asked["answers"])
    assert f"report: {results / 'studies' / 'lrn' / 'report.html'}" in errors
    code, checked, _ = document(capfd, "report", "--check", "--results", str(results))
    assert (code, checked["checked"]) == (0, [{"study": "lrn", "differences": [], "by_sums_alone": []}])
    answer = results / "studies" / "lrn" / "answer.json"
    honest = answer.read_bytes()
    answer.write_bytes(honest.replace(b'"supports"', b'"contradicts"'))
    code, checked, _ = document(capfd, "report", "--check", "--results", str(results))
    answer.write_bytes(honest)
    (difference, *_) = checked["checked"][0]["differences"]
    assert (code, checked["error"]) == (1, None)
    assert "no_lrn" in difference


def test_the_ranking_is_that_of_a_plain_calculation(capfd: pytest.CaptureFixture[str], results: Path) -> None:
    code, content, _ = document(capfd, "best", "--results", str(results), "--top", "2")
    assert (code, content["exported"]) == (0, None)
    means = {name: 100 * statistics.fmean(counts) / 360 for name, counts in WRONG.items()}
    first, second = content["configurations"]
    assert [first["arms"], second["arms"]] == [[f"lrn/{name}"] for name in sorted(means, key=means.__getitem__)[:2]]
    assert first["chosen_by"]["mean"] == pytest.approx(means["baseline"])
    deviation = statistics.stdev(WRONG["baseline"])
    assert first["chosen_by"]["sd"] == pytest.approx(100 * deviation / 360)
    assert first["judged_by"]["mean"] == pytest.approx(means["baseline"] * 360 / TEST_IMAGES)
    assert {measure["unit"] for measure in (first["chosen_by"], first["judged_by"])} == {"%"}
    assert (first["rank"], first["seeds"], first["few_seeds"]) == (1, 8, False)
    assert first["dataset"] == "digits"


def test_status_says_where_each_trial_stands(capfd: pytest.CaptureFixture[str], results: Path) -> None:
    code, content, _ = document(capfd, "status", "--results", str(results))
    (study,) = content["studies"]
    assert (code, study["unit"], study["study"], study["states"]) == (0, "%", "lrn", {"finished": 24})
    values = {(trial["arm"], trial["seed"]): trial["value"] for trial in study["trials"]}
    assert values == {
        (arm, seed): pytest.approx(100 * count / 360)
        for arm, counts in WRONG.items()
        for seed, count in enumerate(counts)
    }
    key = study["trials"][0]["key"]
    code, trial, _ = document(capfd, "status", key[:12], "--results", str(results))
    assert (trial["key"], trial["state"]) == (key, "finished")
    assert trial["members"] == [{"study": "lrn", "arm": "baseline", "seed": 0, "phase": "arm"}]
    assert trial_key(TrainConfig.model_validate(trial["configuration"])) == key
    assert [EpochReport.model_validate(one).epoch for one in trial["reports"]] == [1, 2]


def test_what_can_be_asked_what_it_would_do_and_one_trial(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, listed, _ = document(capfd, "ablate", "--list")
    assert [study["name"] for study in listed["studies"]] == list(study_names())
    lrn = next(study for study in listed["studies"] if study["name"] == "lrn")
    assert [arm["name"] for arm in lrn["arms"]] == [arm.name for arm in load_study("lrn").arms]
    plan = make_plan(load_study("lrn"), 5, epochs=2)
    put(tmp_path, plan.trials[0].config)
    asked = ("--seeds", "5", "--epochs", "2", "--results", str(tmp_path))
    _, content, errors = document(capfd, "ablate", *asked, "--dry-run")
    (planned,) = content["plans"]
    assert {arm["arm"]: (arm["trials"], arm["to_run"]) for arm in planned["arms"]} == {
        "baseline": (5, 4),
        "no_lrn": (5, 5),
        "as_run": (5, 5),
    }
    assert planned["left"] == [{"phase": "arm", "trials": 14, "at_most": False}]
    assert (content["cost"]["trials"], content["cost"]["epochs"]) == (14, 28)
    assert "15 trials wanted, 1 on record, 14 to train" in errors
    _, shown, _ = document(capfd, "ablate", *asked, "--show", "no_lrn:3")
    trial = next(trial for trial in plan.trials if (trial.arm, trial.seed) == ("no_lrn", 3))
    assert shown["key"] == trial.key
    assert trial_key(TrainConfig.model_validate(shown["configuration"])) == trial.key


def test_a_trial_that_failed_is_exit_code_1_with_the_answer(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for trial in make_plan(load_study("lrn"), 3, epochs=2).trials:
        failed = trial.seed == 2 and trial.arm == "no_lrn"
        put(tmp_path, trial.config, state=TrialState.FAILED if failed else TrialState.FINISHED)
    asked = ("--seeds", "3", "--epochs", "2", "--results", str(tmp_path))
    code, content, _ = document(capfd, "ablate", *asked)
    (one,) = content["answers"]
    assert (code, content["error"], one["some_failed"]) == (1, None, True)
    assert one["states"] == {"failed": 1, "finished": 8}
    answer = run_study("lrn", seeds=3, epochs=2, results=tmp_path)
    assert (answer.some_failed, answer.states) == (True, one["states"])


@pytest.mark.parametrize(
    ("name", "arguments", "code", "line"),
    [
        ("ablate", ["--study", "lrm"], 2, "there is no study 'lrm'; did you mean lrn or"),
        ("ablate", ["--seeds", "none"], 2, "argument --seeds: must be a whole number, not 'none'"),
        ("ablate", ["--confirm", "2"], 2, "--confirm K confirms points of a sweep"),
        ("ablate", ["--js", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
        ("best", ["--results", "NOWHERE"], 4, "does not exist; run an ablation first"),
        ("best", ["--top", "0"], 2, "argument --top: must be from 1 to 1000000"),
        ("report", ["--results", "NOWHERE"], 4, "does not exist; run an ablation first"),
        ("report", ["--paper", "--study", "lrn"], 4, "results folder results does not exist"),
        ("status", ["--results", "NOWHERE"], 4, "does not exist; run an ablation first"),
        ("status", ["lrn", "--follow"], 2, "--follow shows a study again and again, --json is one document"),
    ],
)
def test_a_command_without_an_answer_leaves_the_same_three_fields(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: list[str],
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, content, errors = document(capfd, name, *arguments)
    assert got == code
    assert content.keys() == {"schema_version", "exit_code", "error"}
    assert line in content["error"]
    assert errors == f"error: {content['error']}\n"


@pytest.mark.slow
def test_the_document_outlives_a_lost_standard_error_and_a_lost_reader_ends_quietly(results: Path) -> None:
    def run(redirection: str, *arguments: str) -> tuple[int, str, str]:
        command = f'"$@" --json {redirection}; exit ${{PIPESTATUS[0]}}'
        words = ["bash", "-c", command, "bash", sys.executable, "-m", *arguments]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    asked = ("orchestrator.ablate", *ASKED, "--results", str(results))
    for lost in ("2>&-", "2>/dev/full"):
        code, output, _ = run(lost, *asked)
        assert (code, json.loads(output)["answers"][0]["answer"]["study"]) == (0, "lrn")
    assert run(">&-", *asked)[:2] == (0, "")
    code, output, errors = run(">/dev/full", *asked)
    assert (code, output) == (1, "")
    assert errors.endswith("\nerror: standard output: No space left on device\n")
    code, output, errors = run("| (exec <&-; sleep 5)", *asked)
    assert (code, output) == (141, "")
    assert "Traceback" not in errors
    code, output, errors = run("2>/dev/null", "orchestrator.ablate", "--study", "lrm")
    assert (code, json.loads(output)["exit_code"]) == (2, 2)


@pytest.mark.slow
def test_an_interrupted_command_says_so_in_its_document(tmp_path: Path) -> None:
    for trial in make_plan(load_study("lrn"), 3, epochs=2).trials:
        put(tmp_path, trial.config, 20 + trial.seed)
    words = ["-m", "orchestrator.ablate", "--seeds", "3", "--epochs", "2", "--results", str(tmp_path), "--json"]
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # 计划说完了，报告还没有画
        assert "9 on record" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert json.loads(output) == {"schema_version": 1, "exit_code": 130, "error": "interrupted"}
    assert "interrupted; finished trials are on record" in errors


def test_a_call_answers_as_the_command_does_and_leaves_its_caller_alone(
    capfd: pytest.CaptureFixture[str], results: Path
) -> None:
    _, content, _ = document(capfd, "ablate", *ASKED, "--results", str(results))
    plan = results / "studies" / "lrn" / "plan.json"
    before, written = state_of_the_process(), plan.read_bytes()
    answers: list[StudyAnswer] = []

    def ask() -> None:
        answers.append(run_study("lrn", seeds=8, epochs=2, results=str(results)))

    ask()
    aside = threading.Thread(target=ask)
    aside.start()
    aside.join()
    assert state_of_the_process() == before
    assert capfd.readouterr().out == ""
    assert plan.read_bytes() == written
    for answer in answers:
        assert json.loads(answer.model_dump_json()) == content["answers"][0]
        assert (answer.study, answer.dataset, answer.report.is_file()) == ("lrn", "digits", True)
    table = answers[0].table
    assert isinstance(table, pl.DataFrame)
    arms = content["answers"][0]["answer"]["arms"]
    for column in ("mean", "difference", "p", "word", "n"):
        assert table[column].to_list() == [arm[column] for arm in arms]
    assert table["arm"].to_list() == [arm["name"] for arm in arms]
    low, high = arms[1]["interval"]
    assert (table["interval_low"][1], table["interval_high"][1]) == (low, high)
    assert table.height == len(arms)


def state_of_the_process() -> tuple[object, ...]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return (*handlers, list(logging.getLogger().handlers), logging.getLogger().level, sys.stdout, sys.excepthook)


@pytest.mark.parametrize(
    ("asked", "code", "line"),
    [
        ({"study": "lrm"}, 2, "there is no study 'lrm'; did you mean lrn or"),
        ({"study": "nowhere.yaml"}, 2, "study file nowhere.yaml does not exist"),
        ({"study": "paper"}, 2, "run_study asks one study: name it"),
        ({"study": "lrn", "seeds": 0}, 2, "argument --seeds: must be from 1 to 1000000, not 0"),
        ({"study": "lrn", "seeds": "many"}, 2, "argument --seeds: must be a whole number, not 'many'"),
        ({"study": "lrn", "seeds": "auto"}, 2, "--seeds auto needs --max-seeds"),
        ({"study": "lrn", "confirm": 2}, 2, "--confirm K confirms points of a sweep"),
        ({"study": "lrn", "overrides": {"network.lrn9.alpha": 1.0}}, 2, "network alexnet-mini has no layer lrn9"),
        ({"study": "lrn", "overrides": {"training.momentum": {1, 2}}}, 2, "overrides: training.momentum: {1, 2} is no"),
        ({"study": "lrn", "results": "file"}, 3, "results folder file: file is a file; choose another with --results"),
    ],
)
def test_where_the_command_ends_with_a_line_the_call_raises_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    asked: dict[str, Any],
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError) as raised:
        run_study(**asked)
    assert line in str(raised.value)
    assert raised.value.exit_code == code
    assert capfd.readouterr() == ("", "")


def test_values_of_overrides_arrive_as_the_options_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--set=training.learning_rate=1e-5", "--set=network.relu1.function=tanh", "--set=training.flips=false")
    asked = (*words, "--epochs", "1", "--results", str(tmp_path))
    for arm in load_study("lrn").arms:
        _, shown, _ = document(capfd, "ablate", *asked, "--show", arm.name)
        put(tmp_path, TrainConfig.model_validate(shown["configuration"]))
    overrides = {"training.learning_rate": 1e-5, "network.relu1.function": "tanh", "training.flips": False}
    # 已在案的正是这些 trial，所以什么也不训练
    answer = run_study("lrn", seeds=1, epochs=1, overrides=overrides, results=tmp_path)
    assert answer.states == {"finished": 3}
    assert len(list((tmp_path / "trials").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_ends_the_process_that_trains_beside_is_raised_and_is_in_the_document(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = "no Ray cluster answers at 127.0.0.1:1: Connection refused; start one there with ray start --head, or leave"
    with pytest.raises(LabError, match=re.escape(line)) as raised:
        run_study("lrn", seeds=1, epochs=1, address="127.0.0.1:1", results=tmp_path)
    assert raised.value.exit_code == 3
    asked = ("--seeds", "1", "--epochs", "1", "--address", "127.0.0.1:1", "--results", str(tmp_path))
    code, content, errors = document(capfd, "ablate", *asked)
    assert (code, content.keys()) == (3, {"schema_version", "exit_code", "error"})
    assert content["error"] in errors
    assert list((tmp_path / ".ray").iterdir()) == [], "no scratch folder stays behind"


@pytest.mark.slow
def test_importing_the_entry_loads_no_torch_no_ray_no_polars() -> None:
    heavy = ("torch", "ray", "polars", "matplotlib", "scipy")
    program = (
        f"from orchestrator import LabError, run_study; import sys; print([n for n in {heavy} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


# 这些与记录里的文件同形，另有出处
ELSEWHERE = (TrainConfig, EpochReport)


def documents(kind: type[Document] = Document) -> Iterator[type[Document]]:
    yield kind
    for further in kind.__subclasses__():
        yield from documents(further)


def names_of_fields(kind: Any, seen: set[Any]) -> Iterator[str]:
    """The names of the fields of a type, and of all types that those have."""
    if kind in seen or kind in ELSEWHERE:
        return
    seen.add(kind)
    for part in get_args(kind):
        yield from names_of_fields(part, seen)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        hints = {name: field.annotation for name, field in kind.model_fields.items()}
    elif is_dataclass(kind):
        types = get_type_hints(kind)
        hints = {field.name: types[field.name] for field in fields(kind)}
    else:
        return
    for name, annotation in hints.items():
        yield name
        yield from names_of_fields(annotation, seen)


def test_every_field_of_every_document_is_explained_and_no_other() -> None:
    seen: set[Any] = set()
    names = {
        name
        for kind in documents()
        if kind.__module__.startswith("orchestrator")
        for name in names_of_fields(kind, seen)
    }
    page = (ROOT / "docs" / "programs.md").read_text()
    explained = set(re.findall(r"`(\w+)`", page[page.index("## JSON") :]))
    assert len(names) > 100
    assert names - explained == set()
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} <= names
