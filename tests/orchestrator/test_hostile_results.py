"""A results folder of somebody else: whatever is in it, no command runs it, follows it out, or ends in a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_core.data.loading import summarise_data
from orchestrator import ablate, best, merge, report, status
from orchestrator.records import layout, trial_record
from orchestrator.running.steering import RunFacts, write_run
from orchestrator.sweeps.search import Search
from search_spaces.study import load_study
from search_spaces.trial import PlannedTrial, base_config, trial_key, unfold
from tests.hostile import changed_file
from tests.made_plans import make_plan
from tests.made_records import make_config, put, put_trained

FILES = (
    "trials/KEY/config.json",
    "trials/KEY/result.json",
    "trials/KEY/epochs.jsonl",
    "trials/KEY/attempts.jsonl",
    "trials/KEY/log.txt",
    "studies/lrn/plan.json",
    "studies/lrn/members.jsonl",
    "studies/lrn/run.json",
    "studies/lrn/run-elsewhere-1-noon.json",
)
FUZZ = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one trained trial, two made by hand, and a study that has them."""
    results = tmp_path_factory.mktemp("sound")
    key = put_trained(results, make_config(0))
    trial_record.append_log(layout.trial_folder(results, key), "a line")
    configs = [make_config(0), make_config(1), make_config(0, without="lrn1")]
    for config in configs[1:]:
        put(results, config)
    trials = [
        PlannedTrial(arm, config.seed, "arm", config, trial_key(config))
        for arm, config in zip(("baseline", "baseline", "no_lrn"), configs, strict=True)
    ]
    trial_record.join_members(results, "lrn", "digits", trials)
    rows = [{"arm": trial.arm, "seed": trial.seed, "phase": "arm", "key": trial.key} for trial in trials]
    plan = {"study": "lrn", "dataset": "digits", "arms": ["baseline", "no_lrn"], "trials": rows}
    facts = RunFacts(
        pid=1, host="elsewhere", started_at="noon", dashboard=None, arms=("baseline",), baseline="baseline"
    )
    (results / "studies" / "lrn" / "plan.json").write_text(json.dumps(plan))
    (results / "studies" / "lrn" / "run.json").write_text(facts.model_dump_json())
    write_run(results / "studies" / "lrn", facts)
    return results


def commands(results: Path, key: str, local: Path) -> list[int]:
    where = ["--results", str(results)]
    return [
        status.main(["lrn", *where]),
        status.main([key[:10], *where]),
        status.main(["lrn", "--seeds", "9", *where]),
        best.main(where),
        merge.main([str(results), "--results", str(local)]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@FUZZ
def test_a_changed_file_is_at_worst_one_line_and_an_exit_code(
    tmp_path_factory: pytest.TempPathFactory,
    sound: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: st.DataObject,
) -> None:
    key = trial_key(make_config(0))
    path = name.replace("KEY", key)
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(sound, folder / "results")
    (folder / "results" / path).write_bytes(data.draw(changed_file((sound / path).read_bytes())))
    codes = commands(folder / "results", key, folder / "own")
    output, errors = capsys.readouterr()
    assert set(codes) <= {0, 1, 2, 3, 4}
    assert "\x1b" not in output + errors, "what others wrote does not steer the terminal"
    assert sorted(entry.name for entry in folder.iterdir()) in (["own", "results"], ["results"])
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study that `ablate` has answered; its trials are made by hand."""
    results = tmp_path_factory.mktemp("answered") / "results"
    study = load_study("lrn")
    base = base_config(
        study, "digits", summary=summarise_data("digits"), data_root=None, cache=None, epochs=2, overrides={}
    )
    for trial in unfold(study.on("digits"), base, range(3)):
        put(results, trial.config, 20 + trial.seed + len(trial.arm))
    assert ablate.main(["--seeds", "3", "--epochs", "2", "--results", str(results)]) == 0
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "answer.json"])
@given(data=st.data())
@FUZZ
def test_a_changed_plan_or_answer_is_checked_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    answered: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: st.DataObject,
) -> None:
    results = tmp_path_factory.mktemp("changed") / "results"
    shutil.copytree(answered, results)
    path = results / "studies" / "lrn" / name
    path.write_bytes(data.draw(changed_file(path.read_bytes())))
    where = ["--results", str(results)]
    codes = [report.main(["--check", *where]), status.main(["lrn", *where])]
    codes.append(ablate.main(["--seeds", "3", "--epochs", "2", "--dry-run", *where]))
    assert set(codes) <= {0, 1, 2, 3, 4}
    shutil.rmtree(results)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("field", "value"), [("null", None), ("chosen_afterwards", "maybe"), ("planned_seeds", "3"), ("looks", [True])]
)
def test_a_plan_with_a_field_of_another_type_is_damaged(
    tmp_path: Path, answered: Path, capsys: pytest.CaptureFixture[str], field: str, value: object
) -> None:
    results = tmp_path / "results"
    shutil.copytree(answered, results)
    path = results / "studies" / "lrn" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    capsys.readouterr()
    assert report.main(["--check", "--study", "lrn", "--results", str(results)]) == 4
    assert "plan.json is missing or damaged" in capsys.readouterr().err


def test_a_plan_without_one_of_its_trials_is_damaged(
    tmp_path: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(answered, results)
    path = results / "studies" / "lrn" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "trials": plan["trials"][1:]}))
    assert report.main(["--check", "--study", "lrn", "--results", str(results)]) == 4
    assert "plan.json is missing or damaged" in capsys.readouterr().err


DEEP = "[" * 100_000
LINES = ("{}", DEEP, '{"seed": ' + "9" * 5000 + "}", "[]", "null", '{"study": 1, "arm": [], "seed": "x"}')


@pytest.mark.parametrize("name", ["studies/lrn/members.jsonl", "trials/KEY/epochs.jsonl", "trials/KEY/attempts.jsonl"])
def test_strange_lines_are_passed_over(
    tmp_path: Path, sound: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    key, results = trial_key(make_config(0)), tmp_path / "results"
    shutil.copytree(sound, results)
    path = results / name.replace("KEY", key)
    path.write_text("\n".join([*LINES, path.read_text()]))
    assert len(trial_record.read_members(results, "lrn")) == 3
    assert len(trial_record.read_epochs(layout.trial_folder(results, key))) == 2
    assert commands(results, key, tmp_path / "own") == [0, 0, 2, 0, 0]
    assert ablate.main(["--dry-run", "--results", str(results)]) == 0


@pytest.mark.parametrize(
    ("name", "content", "codes"),
    [
        ("studies/lrn/plan.json", DEEP, {2: "plan.json cannot be read"}),
        (".schema", "two", {3: ".schema is damaged"}),
        (".schema", "-1", {3: ".schema is damaged"}),
        ("trials/KEY/result.json", None, {3: "result.json cannot be read: Is a directory"}),
        ("trials/KEY/config.json", None, {3: "config.json cannot be read: Is a directory"}),
        ("trials/KEY/epochs.jsonl", None, {3: "epochs.jsonl cannot be read: Is a directory"}),
        ("studies/lrn/members.jsonl", None, {3: "members.jsonl cannot be read: Is a directory"}),
    ],
)
def test_a_strange_file_or_a_folder_in_its_place_is_one_line(
    tmp_path: Path,
    sound: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    codes: dict[int, str],
) -> None:
    key, results = trial_key(make_config(0)), tmp_path / "results"
    shutil.copytree(sound, results)
    path = results / name.replace("KEY", key)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    got = commands(results, key, tmp_path / "own")
    got.append(ablate.main(["--dry-run", "--results", str(results)]))
    errors = capsys.readouterr().err
    assert set(got) <= {0, 1, 2, 3, 4}
    for code, expected in codes.items():
        assert code in got
        assert expected in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("confirmation.json", '{"x": 1}'),
        ("confirmation.json", "[1]"),
        ("confirmation.json", DEEP),
        ("sweep.json", "[1]"),
        ("sweep.json", '{"second_objective": []}'),
        ("sweep.json", DEEP),
        ("importance.json", DEEP),
    ],
)
def test_a_damaged_file_of_a_sweep_is_as_if_it_were_not_there(
    swept: Path, swept_report: tuple[str, str], name: str, content: str
) -> None:
    path = swept / "studies" / "weight_decay" / name
    before = path.read_bytes() if path.exists() else None
    path.write_text(content)
    try:
        assert reported(swept) == swept_report
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


def reported(results: Path) -> tuple[str, str]:
    """What `report` prints of the swept study, and what it complains of."""
    output, errors = StringIO(), StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        assert report.main(["--results", str(results), "--study", "weight_decay"]) == 0
    return output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def swept_report(swept: Path) -> tuple[str, str]:
    return reported(swept)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study that `ablate` has answered, with two points of its sweep; all made by hand."""
    results = tmp_path_factory.mktemp("swept") / "results"
    plan = make_plan(load_study("weight_decay"), 3)
    for trial in plan.trials:
        put(results, trial.config, 20 + trial.seed)
    assert plan.study.sweep is not None
    search = Search(name="weight_decay/sweep", space=plan.study.sweep, base=plan.base, points=2)
    for position, decay in enumerate((0.001, 0.01)):
        trial = search.trial({"training.weight_decay": decay})
        put(results, trial.config, 15 + position)
        point = {"parameters": {"training.weight_decay": decay}, "position": position, "base": search.base_key}
        row = {**trial_record.membership("weight_decay", "digits", trial), **point}
        trial_record.append_members(results, "weight_decay", [row])
    assert ablate.main(["--study", "weight_decay", "--seeds", "3", "--results", str(results)]) == 0
    return results


@pytest.mark.parametrize("field", ["seconds", "images_per_second", "peak_memory_mb"])
def test_a_negative_measurement_is_a_damaged_result(
    tmp_path: Path, answered: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, field: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(answered, results)
    for path in results.glob("trials/*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), field: -1.0}))
    assert report.main(["--results", str(results)]) == 0
    assert f"{field}: must be at least 0, not -1" in caplog.text


@pytest.mark.slow
def test_a_strange_time_does_not_spoil_the_view_for_optuna(
    tmp_path: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(answered, results)
    for path in results.glob("trials/*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "started_at": "noon"}))
    where = ["--seeds", "3", "--epochs", "2", "--results", str(results)]
    assert ablate.main([*where, "--optuna-view"]) == 0
    assert (results / "studies" / "lrn" / "optuna.db").is_file()


LONG = "a" * 256


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (ablate, ["--results", LONG]),
        (ablate, ["--results", f"x/{LONG}/y"]),
        (ablate, ["--study", f"{LONG}.yaml"]),
        (ablate, ["--dataset", "cifar10", "--data-root", LONG]),
        (merge, [LONG]),
        (merge, ["there", "--results", LONG]),
        (report, ["--study", f"{LONG}.yaml"]),
        (report, ["--study", LONG]),
        (report, ["--results", LONG]),
        (status, ["--results", LONG]),
        (status, [LONG]),
        (best, ["--results", LONG]),
        (best, ["--export", LONG]),
    ],
)
def test_a_name_longer_than_a_file_may_have_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: ModuleType,
    arguments: list[str],
) -> None:
    (tmp_path / "results" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    try:
        code = command.main(arguments)
    except SystemExit as error:
        code = error.code
    assert code in (2, 3, 4)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", ["x", True, None, [], 10**400, float("nan")])
def test_a_membership_whose_value_is_no_number_is_no_point_of_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    plan = make_plan(load_study("weight_decay"), 3)
    for trial in plan.trials:
        put(tmp_path, trial.config, 20 + trial.seed)
    parameters = {"training.weight_decay": value}
    facts = {"study": "weight_decay", "dataset": "digits", "arm": "sweep", "phase": "sweep"}
    point = {**facts, "seed": 1000, "key": plan.trials[0].key, "parameters": parameters, "position": 0}
    trial_record.append_members(tmp_path, "weight_decay", [point])
    where = ["--results", str(tmp_path), "--study", "weight_decay"]
    assert ablate.main([*where, "--seeds", "3", "--sweep", "2", "--dry-run"]) == 0
    assert "2 to train" in capsys.readouterr().out
    assert ablate.main([*where, "--seeds", "3"]) == 0
    assert report.main(where) == 0
    assert status.main(["--results", str(tmp_path)]) == 0


def test_text_of_others_does_not_steer_the_terminal(
    tmp_path: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, results = trial_key(make_config(0)), tmp_path / "results"
    shutil.copytree(sound, results)
    evil = "\x1b]0;title\x07\x9b31m\u202eexe\r"
    trial_record.append_log(layout.trial_folder(results, key), evil)
    plan = results / "studies" / "lrn" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "dataset": evil}))
    row = {**trial_record.read_members(results, "lrn")[0], "arm": evil}
    trial_record.append_members(results, "lrn", [row])
    commands(results, key, tmp_path / "own")
    output, errors = capsys.readouterr()
    assert "title" in output
    assert not set("\x1b\x07\x9b\u202e\r") & set(output + errors)


@pytest.mark.parametrize("key", ["../../secret", "..", "0" * 19, "\0" * 20, "０" * 20, "a" * 255])
def test_a_plans_key_cannot_lead_out_of_the_results_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    folder = tmp_path / "results" / "studies" / "lrn"
    folder.mkdir(parents=True)
    rows = [{"arm": "a", "seed": 0, "phase": "arm", "key": key}]
    (folder / "plan.json").write_text(json.dumps({"dataset": "digits", "arms": ["a"], "trials": rows}))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "result.json").write_text("secret")
    assert status.main(["lrn", "--results", str(tmp_path / "results")]) == 4
    assert "is damaged: a trial lacks arm, seed or key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["..", "../lrn", "a/b", "/etc", "lrn\0", "ｌrn", "lŕn", "L", "", "a" * 255, ".", "-rf"]
)
def test_no_name_of_a_study_leaves_the_results_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "results").mkdir()
    outside = sorted(tmp_path.rglob("*"))
    where = [f"--results={tmp_path / 'results'}"]
    assert ablate.main([f"--study={name}", *where]) == 2
    assert status.main([*where, "--stop", "--", name]) == 2
    assert status.main([*where, "--", name]) == 2
    assert best.main([*where, f"--study={name}"]) == 4
    assert report.main([*where, f"--study={name}"]) == 4
    assert sorted(tmp_path.rglob("*")) == outside
    assert capsys.readouterr().err.count("\n") == 5


WATCH = """
import runpy, sys
def watch(event, arguments):
    if event in ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen"):
        print("EVENT", event, arguments, file=sys.stderr)
    if event == "open" and str(arguments[0]).endswith((".py", ".pyc", ".so")) and "hostile" in str(arguments[0]):
        print("EVENT", event, arguments, file=sys.stderr)
module, *sys.argv[1:] = sys.argv[1:]
import numpy, polars, rich, torch
sys.addaudithook(watch)
runpy.run_module(module, run_name="__main__")
"""


class Bomb:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["every file", "checkpoint"])
def test_no_pickle_and_no_code_in_a_results_folder_is_loaded(tmp_path: Path, sound: Path, name: str) -> None:
    import pickle

    key, results, fired = trial_key(make_config(0)), tmp_path / "hostile", tmp_path / "fired"
    shutil.copytree(sound, results)
    bomb = pickle.dumps(Bomb(fired))
    pickle.loads(bomb)
    assert fired.exists(), "the bomb works"
    fired.unlink()
    for path in [path for path in results.rglob("*") if path.is_file()]:
        if name == "every file" or path.suffix == ".safetensors":
            path.write_bytes(bomb)
    for folder in (results, results / "trials" / key, results / "tables", results / "trials" / key / "checkpoint"):
        folder.mkdir(exist_ok=True)
        for module in ("sitecustomize.py", "json.py", "conftest.py", "__init__.py"):
            (folder / module).write_text(f"open({str(fired)!r}, 'w')")
    for table in ("trials", "members", "epochs"):
        (results / "tables" / f"{table}.parquet").write_bytes(bomb)
    for module, *arguments in (
        ("orchestrator.status", "lrn"),
        ("orchestrator.status", key),
        ("orchestrator.best", "--export", str(tmp_path / "export")),
        ("orchestrator.merge", str(results)),
    ):
        where = tmp_path / "own" if module.endswith("merge") else results
        done = subprocess.run(
            [sys.executable, "-c", WATCH, module, *arguments, "--results", str(where)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert done.returncode in (0, 1, 2, 3, 4)
        assert "Traceback" not in done.stderr, done.stderr
        assert "EVENT" not in done.stderr, done.stderr
        assert not fired.exists()
