"""A program of any language is a core: started without a shell, heard line by line, stopped with all it started."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator import Core
from orchestrator.cores.contract import ContractError, Stopped
from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.script import Script, filled, filled_command, script_core
from orchestrator.cores.script_reports import Tail, earlier_reports
from orchestrator.cores.training import Place, Report, StateFolder, Watcher, train_core
from tests.lab import Lab, is_gone, wait_until

# 一个随机游走：种子、步长、自己的检查点；每两报存一次
WALK = """
import json, os, random, sys
step, seed, folder = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
draws, place, start = random.Random(seed), 0.0, 0
if os.path.exists(folder + "/state"):
    place, start, state = json.load(open(folder + "/state"))
    draws.setstate((state[0], tuple(state[1]), state[2]))
print("begins after", start)
for report in range(start + 1, 6):
    place += step * draws.random()
    print(json.dumps({"report": report, "place": place}))
    if report % 2 == 0:
        json.dump([place, report, draws.getstate()], open(folder + "/state", "w"))
"""
STUDY = """
name: walks
core:
  name: walk
  command: [python, walk.py, "{step}", "{seed}", "{checkpoint}"]
  parameters: {step: 0.5}
  metrics: {place: {unit: m, better: higher}}
  files: [walk.py]
  gpus: 0
arms: what check_core does not read
"""
DECLARED: dict[str, Any] = {
    "command": ["sh", "run.sh", "{seed}"],
    "metrics": {"loss": {}},
    "chosen_by": "loss",
    "judged_by": "loss",
    "files": ["run.sh"],
}


def shell(folder: Path, text: str, **changes: Any) -> Core:
    """A core whose script is a shell script."""
    (folder / "run.sh").write_text(text)
    return script_core(Script.model_validate(DECLARED | changes), folder)


def walk(folder: Path) -> Core:
    (folder / "walk.py").write_text(WALK)
    (folder / "walks.yaml").write_text(STUDY)
    return load_core(core_name(str(folder / "walks.yaml")))


def trained(
    core: Core, folder: Path, stop_after: int = 99, attempt: int = 1, log: list[str] | None = None
) -> list[Report]:
    states = StateFolder(folder / "states", attempt, least_seconds=0.0)
    place = Place(7, folder=folder / "trial", log=[].append if log is None else log.append)
    with closing(train_core(core, core.config(), place, states)) as training:
        return list(islice(training, stop_after))


def numbers(reports: list[Report]) -> list[tuple[int, float]]:
    return [(report.number, report.metrics["place"]) for report in reports]


@pytest.mark.parametrize("file", ["", ' >> "$ABLATION_REPORTS"'], ids=["output", "file"])
def test_a_script_in_another_language_reports_by_lines_or_by_a_file_and_the_rest_is_log(
    tmp_path: Path, file: str
) -> None:
    log: list[str] = []
    core = shell(
        tmp_path,
        f'echo "seed $1"\necho \'{{"report": 1, "loss": 0.5}}\'{file}\necho \'{{"no report": 1}}\'\n'
        f'printf \'{{"report": 2, "loss": 2e-1}}\'{file}\n',
    )
    reports = list(train_core(core, core.config(), Place(9, log=log.append)))
    assert [(report.number, report.metrics) for report in reports] == [(1, {"loss": 0.5}), (2, {"loss": 0.2})]
    assert log == ["seed 9", '{"no report": 1}']


def test_arguments_are_what_they_are_whatever_a_shell_would_make_of_them(tmp_path: Path) -> None:
    hostile = "a b; touch pwned; $(touch pwned) `touch pwned` \" ' {{x}}"
    log: list[str] = []
    core = shell(
        tmp_path,
        'printf "%s\\n" "$2"\necho \'{"report": 1, "loss": 1}\'\n',
        command=["sh", "run.sh", "{seed}", "{word}"],
        parameters={"word": hostile},
    )
    list(train_core(core, core.config(), Place(0, log=log.append)))
    assert log == [hostile]
    assert not (tmp_path / "pwned").exists()
    assert filled("{{{rate}}} {fast}", {"rate": 0.1, "fast": True}) == "{0.1} true"
    command = ("train", "{--early-stopping}", "{-v}", "--fast={fast}", "{seed}")
    Script.model_validate(
        DECLARED | {"command": command, "parameters": {"early_stopping": False, "v": True, "fast": 1}}
    )
    for stops, arguments in ((True, ["--early-stopping", "-v"]), (False, ["-v"])):
        values = {"early_stopping": stops, "v": True, "fast": 2, "seed": 3}
        assert filled_command(command, values) == ("train", *arguments, "--fast=2", "3")


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_stopped_anywhere_it_goes_on_from_its_own_checkpoint_without_a_gap(tmp_path: Path, stop_after: int) -> None:
    straight = numbers(trained(walk(tmp_path), tmp_path / "straight"))
    assert [number for number, _ in straight] == [1, 2, 3, 4, 5]
    # 脚本跑在前面：停下时它也许已写了更多的报告，也存了更远的检查点
    before = trained(walk(tmp_path), tmp_path, stop_after)
    after = trained(walk(tmp_path), tmp_path, attempt=2)
    assert numbers(before) + numbers(after) == straight


def test_one_that_begins_again_is_heard_from_report_one(tmp_path: Path) -> None:
    core = walk(tmp_path)
    straight = numbers(trained(core, tmp_path / "straight"))
    (tmp_path / "walk.py").write_text(WALK.replace("report % 2 == 0", "False"))
    trained(core, tmp_path, stop_after=3)
    assert numbers(trained(core, tmp_path, attempt=2)) == straight


@pytest.mark.slow
def test_a_stop_ends_the_script_and_all_it_started_even_what_does_not_listen(tmp_path: Path) -> None:
    core = shell(
        tmp_path, 'trap \'\' TERM\nsleep 600 &\necho $! > child\necho "{\\"report\\": 1, \\"loss\\": 1}"\nwait\nwait\n'
    )
    training = train_core(
        core, core.config(), Place(0, log=lambda line: None), watcher=Watcher(goes_on=lambda: not asked)
    )
    asked: list[bool] = []
    assert next(training).number == 1
    child = psutil.Process(int((tmp_path / "child").read_text()))
    asked.append(True)
    began = time.monotonic()
    with pytest.raises(Stopped):
        next(training)
    assert time.monotonic() - began < 30
    wait_until(lambda: is_gone(child), 5, "the child is gone")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("echo broken >&2; exit 3\n", "sh ended with exit code 3; its last line: broken"),
        ("kill -9 $$\n", "sh ended by signal SIGKILL; its last line: "),
        (
            "true\n",
            'train has ended without a report: print a line of JSON for each, such as {"report": 1, "loss": 0.25}',
        ),
        ('echo \'{"report": 1, "accuracy": 1}\'\n', "a report lacks the metric 'loss'; it has 'accuracy'"),
        ('echo \'{"report": 0, "loss": 1}\'\n', "a report's number is a whole number from 1 on, not 0"),
        ('echo \'{"report": 2, "loss": 1}\'\n', "report 2 follows report 0; the reports between are missing"),
    ],
)
def test_what_goes_wrong_with_a_script_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    core = shell(tmp_path, text)
    with pytest.raises(ContractError) as caught:
        list(train_core(core, core.config(), Place(0, log=lambda line: None)))
    assert str(caught.value) == line


def test_python_is_the_one_that_runs_the_lab_whatever_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "run.py").write_text('import sys; print(sys.prefix, flush=True); print(\'{"report": 1, "loss": 1}\')')
    script = Script.model_validate(DECLARED | {"command": ["python", "run.py", "{seed}"], "files": ["run.py"]})
    log: list[str] = []
    assert [report.number for report in trained(script_core(script, tmp_path), tmp_path, log=log)] == [1]
    assert sys.prefix in log


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    core = script_core(Script.model_validate(DECLARED | {"command": ["no-such-program", "{seed}"]}), tmp_path)
    with pytest.raises(ContractError, match="no-such-program cannot be started: No such file or directory"):
        list(train_core(core, core.config(), Place(0)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"command": ["sh", "{sede}", "{seed}"]},
            "command: {sede} is no parameter; there are: checkpoint, data_root, ",
        ),
        (
            {"command": ["sh", "{--fast}", "{seed}"]},
            "command: {fast} is no parameter; there are: checkpoint, data_root, ",
        ),
        (
            {"command": ["sh", "{--fast}", "{seed}"], "parameters": {"fast": "yes"}},
            "parameters: fast is a switch in the command; its default must be true or false",
        ),
        ({"command": ["sh"]}, "command: it lacks {seed}, without which all seeds are one run"),
        ({"parameters": {"rate": 0.1}}, "parameters: rate is nowhere in the command"),
        ({"parameters": {"seed": 1}}, "parameters: seed is given by the orchestrator"),
        ({"judged_by": "error"}, "judged_by: 'error' is none of the metrics: loss"),
        (
            {"metrics": {"loss": {}, "error": {}}, "judged_by": ""},
            "judged_by: of several metrics name the one by which verdicts go: loss, error",
        ),
    ],
)
def test_a_declaration_that_would_deceive_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match="value_error") as caught:
        Script.model_validate(DECLARED | changes)
    assert complaint in str(caught.value)


def test_a_script_of_one_metric_says_no_more_than_how_it_is_called(tmp_path: Path) -> None:
    declared = {
        "command": ["python", "train.py", "--lr", "{learning_rate}", "--seed", "{seed}"],
        "parameters": {"learning_rate": 0.1},
        "metrics": {"validation_accuracy": {}},
        "files": ["train.py", "src/**"],
    }
    core = script_core(Script.model_validate(declared), tmp_path)
    assert (core.name, core.version, core.gpus) == ("script", 1, 1)
    assert core.chosen_by == core.judged_by == "validation_accuracy"
    assert core.config().model_dump() == {"learning_rate": 0.1}


def test_a_mistake_in_the_study_file_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "walks.yaml"
    path.write_text(STUDY.replace('"{seed}", ', ""))
    with pytest.raises(ContractError) as caught:
        load_core(core_name(str(path)))
    assert str(caught.value).startswith(f"{path}:3:1: core: command: it lacks {{seed}}")
    path.write_text("name: walks\n")
    with pytest.raises(ContractError, match="core"):
        load_core(core_name(str(path)))


def killed(folder: Path, text: str, after: int) -> list[int]:
    """Trains a script in a process that is killed by it, or once `after` reports are heard and five are written.

    Returns:
        The numbers of the reports that were heard.
    """
    walk(folder)
    (folder / "walk.py").write_text(text)
    heard = folder / "heard"
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            for report in train_core_of(folder):
                with heard.open("a") as file:
                    file.write(f"{report.number}\n")
                if report.number == after:
                    # 之后的报告已写下，没有人听到
                    wait_until(lambda: (folder / "trial" / "output.txt").read_text().count("report") >= 5, 20, "")
                    os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    scripts = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or ())]
    wait_until(lambda: not any(map(psutil.Process.is_running, scripts)), 10, "the script died with its worker")
    (folder / "walk.py").write_text(WALK)
    return [int(line) for line in heard.read_text().split()]


def test_what_a_killed_worker_left_unheard_is_heard_later_and_the_script_dies_with_it(tmp_path: Path) -> None:
    waits = WALK.replace("for report in", "import time\nfor report in") + "time.sleep(600)\n"
    assert killed(tmp_path, waits, after=2) == [1, 2]
    after = trained(walk(tmp_path), tmp_path, attempt=2)
    assert [report.number for report in after] == [3, 4, 5]


# 检查点已写到这里，报告还没有：就在这时把 worker 杀掉，等它的报告先听完
DIES = """
if report == {report}:
    json.dump([place, report, draws.getstate()], open(folder + "/state", "w"))
    import signal, time
    while not os.path.exists("heard") or len(open("heard").readlines()) < report - 1:
        time.sleep(0.05)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("report", [4, 5])
def test_killed_between_its_checkpoint_and_its_report_a_script_begins_again(tmp_path: Path, report: int) -> None:
    """The lost report is nowhere: of the last one nobody would miss it, and the record would end one report early."""
    straight = numbers(trained(walk(tmp_path), tmp_path / "straight"))
    dies = DIES.format(report=report).replace("\n", "\n    ").rstrip()
    text = WALK.replace("    print(json", f"{dies}\n    print(json")
    assert killed(tmp_path, text, after=99) == list(range(1, report))
    if report == 5:
        # 正要重来时又被打断：一言不发的那一次不算走到头
        with pytest.raises(KeyboardInterrupt):
            trained(walk(tmp_path), tmp_path, attempt=2, log=Interrupting())
    log: list[str] = []
    after = trained(walk(tmp_path), tmp_path, attempt=2, log=log)
    assert numbers(after) == straight, "all of it anew"
    assert [line for line in log if "begins again" in line] == [
        f"{'report 5 follows report 3; the reports between are missing' if report == 4 else NOTHING_MORE}: it was "
        "killed between a checkpoint and its report, and begins again without the former"
    ]
    assert trained(walk(tmp_path), tmp_path, attempt=3) == [], "and all is heard"


NOTHING_MORE = "it has nothing more to report, and its last report may be lost"


class Interrupting(list[str]):
    """A log during whose first word of beginning again the worker is stopped."""

    def append(self, line: str) -> None:
        """Takes a line."""
        if "begins again" in line:
            raise KeyboardInterrupt


def test_a_script_that_came_to_its_end_unheard_is_heard_from_what_it_wrote(tmp_path: Path) -> None:
    """Its last checkpoint says that it is done, and every report is written: nothing is trained again."""
    all_saved = WALK.replace("report % 2 == 0", "True")
    core = walk(tmp_path)
    (tmp_path / "walk.py").write_text(all_saved)
    straight = numbers(trained(core, tmp_path / "straight"))
    states = StateFolder(tmp_path / "states", least_seconds=0.0)
    with closing(train_core(core, core.config(), Place(7, folder=tmp_path / "trial", log=print), states)) as training:
        heard = [next(training), next(training)]
        wait_until(lambda: all(map(is_gone, psutil.Process().children())), 20, "it comes to its end")
    assert numbers(heard) + numbers(trained(core, tmp_path, attempt=2)) == straight
    assert trained(core, tmp_path, attempt=3) == [], "and once all is heard, it is finished"


# 停下时做完手上的一报再走；write 说先写什么
LISTENS = """
import json, os, signal, sys, time
state = sys.argv[1] + "/state"
start = int(open(state).read()) if os.path.exists(state) else 0
def end(number, frame):
    {write}
    sys.exit(0)
def report(number):
    print(json.dumps({{"report": number, "loss": number}}))
def save(number):
    open(state, "w").write(str(number))
signal.signal(signal.SIGTERM, end)
for number in range(start + 1, 3):
    report(number)
    save(number)
if start < 3:
    time.sleep(60)
"""


@pytest.mark.parametrize("write", ["report(3); save(3)", "save(3)"], ids=["whole", "lost"])
def test_asked_to_stop_a_script_that_ends_itself_has_ended_unless_its_last_report_is_lost(
    tmp_path: Path, write: str
) -> None:
    (tmp_path / "run.py").write_text(LISTENS.format(write=write))
    declared = DECLARED | {"command": [sys.executable, "run.py", "{checkpoint}", "{seed}"], "files": ["run.py"]}
    core = script_core(Script.model_validate(declared), tmp_path)
    assert [report.number for report in trained(core, tmp_path, stop_after=2)] == [1, 2]
    log: list[str] = []
    lost = write == "save(3)"
    if lost:
        (tmp_path / "run.py").write_text(LISTENS.format(write=write).replace("time.sleep(60)", "report(3)"))
    again = [report.number for report in trained(core, tmp_path, attempt=2, log=log)]
    assert again == ([1, 2, 3] if lost else [3])
    assert ["begins again" in line for line in log] == [True] * lost
    assert trained(core, tmp_path, attempt=3) == [], "and it is finished"


def test_half_a_line_of_a_killed_script_swallows_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text('{"report": 1, "loss": 1}\n{"report": 2, "lo')
    tail = Tail(path)
    with path.open("a") as file:
        file.write('{"report": 2, "loss": 2}\n')
    assert list(tail.lines(whole=False)) == ['{"report": 2, "loss": 2}']
    assert [row["loss"] for row in earlier_reports([path]).values()] == [1, 2]


def train_core_of(folder: Path) -> Any:
    core = load_core(core_name(str(folder / "walks.yaml")))
    states = StateFolder(folder / "states", least_seconds=0.0)
    return train_core(core, core.config(), Place(7, folder=folder / "trial", log=lambda line: None), states)


@pytest.mark.slow
def test_check_core_checks_a_script_as_it_does_a_module(lab: Lab) -> None:
    walk(lab.home)
    code, output, errors = lab.run("walks.yaml", module="orchestrator.check_core")
    assert (code, errors) == (0, ""), output
    assert "stopped and gone on it gives the numbers of a straight run" in output
    (note,) = [line for line in output.splitlines() if line.startswith("note")]
    assert "place both chooses and judges" in note
    (lab.home / "walk.py").write_text(WALK.replace("random.Random(seed)", "random.Random(1)"))
    (lab.home / "walk.py").write_text("import helps  # not among core.files\n" + (lab.home / "walk.py").read_text())
    (lab.home / "helps.py").touch()
    code, output, _ = lab.run("walks.yaml", module="orchestrator.check_core")
    assert code == 1
    assert "its last line: ModuleNotFoundError: No module named 'helps'" in output
    (lab.home / "walk.py").write_text(WALK.replace("random.Random(seed)", "random.Random(1)"))
    code, output, _ = lab.run("walks.yaml", "--set", "step=2", module="orchestrator.check_core")
    assert code == 1
    assert "fault another seed gives the same numbers" in output
    assert json.dumps({"report": 1})[:9] not in output, "what the script prints is not what check_core says"
