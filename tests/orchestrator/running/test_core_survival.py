"""A user's core survives what AlexNet does: its worker and its driver are killed, and every number stays the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.training import Place, train_core
from orchestrator.running.steering import read_runs
from tests.lab import PATIENCE, Lab, is_gone, wait_until
from tests.made_cores import write_walk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
REPORTS, SEEDS = 6, 2
OPTIONS = ("--seeds", str(SEEDS), "--set", f"reports={REPORTS}", "--slots", "1", "--no-dashboard")


def reports_of(lab: Lab) -> dict[str, int]:
    """How many reports each trial has that has not ended."""
    folders = [path.parent for path in lab.results.glob("trials/*/epochs.jsonl")]
    return {
        folder.name: len((folder / "epochs.jsonl").read_text().splitlines())
        for folder in folders
        if not (folder / "result.json").is_file()
    }


def kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        process.send_signal(signal.SIGKILL)


def its_words(lab: Lab) -> str:
    return (lab.results / "studies" / "walk" / "detached.log").read_text()


def its_terminal_may_go(lab: Lab, *arguments: str) -> psutil.Process:
    """Starts a study with `--detach`; returns its driver, which no signal to the terminal's session reaches."""
    code, output, errors = lab.run(*arguments, "--detach", timeout=PATIENCE)
    assert (code, errors) == (0, ""), output + errors
    (facts,) = read_runs(lab.results / "studies" / "walk")
    assert f"it goes on as process {facts.pid}, also without this terminal" in output
    status = f"python -m orchestrator.status walk --results {lab.results}"
    assert f"watch it: {status} --follow" in output
    assert f"stop it: {status} --stop" in output
    assert "checking this machine and starting Ray" in output, "what it says is seen until it runs"
    assert os.getsid(facts.pid) == facts.pid
    return psutil.Process(facts.pid)


def test_killed_in_the_middle_a_users_core_goes_on_with_the_numbers_of_a_straight_training(lab: Lab) -> None:
    study = write_walk(lab.home / "user")
    core = study.with_name("walk.py")
    code = core.read_text()
    data = lab.home / "data"
    data.mkdir()
    command = ("--study", str(study), *OPTIONS, "--data-root", str(data), "--results", str(lab.results))
    first = its_terminal_may_go(lab, *command, "--core", "walk.py")

    def in_the_middle() -> bool:
        assert not is_gone(first), its_words(lab)
        return any(2 <= count < REPORTS for count in reports_of(lab).values())

    wait_until(in_the_middle, PATIENCE, "two reports of a trial")
    # 新的 worker 从头导入：若是从这里导入，后一半的数就是另一份代码的
    core.write_text(code.replace("** 2", "** 4"))
    kill(lab.processes("ray::RayTrainWorker"))
    wait_until(lab.finished, PATIENCE, "the trial whose worker was killed")
    wait_until(in_the_middle, PATIENCE, "two reports of the next trial")
    kill([first])
    wait_until(lambda: is_gone(first), PATIENCE, "the driver is gone")
    assert "first training step after" in its_words(lab)
    core.write_text(code)
    before = {key: (lab.results / "trials" / key / "result.json").stat().st_mtime_ns for key in lab.finished()}
    # 同意记在家目录里：第二次不必再说
    exit_code, output, errors = lab.run(*command, timeout=PATIENCE)
    assert exit_code == 0, output + errors
    assert {key: (lab.results / "trials" / key / "result.json").stat().st_mtime_ns for key in before} == before
    folders = sorted((lab.results / "trials").iterdir())
    assert len(folders) == 3 * SEEDS
    walk = load_core(core_name("walk.py", study.parent))
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        # 不经 Ray、不停顿地训练同一个配置：每个数逐位相同
        fields = walk.config.model_validate({**config["fields"], "seconds": 0.0})
        straight = [report.metrics for report in train_core(walk, fields, Place(config["seed"]))]
        lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, REPORTS + 1))
        assert [line["metrics"] for line in lines] == straight
        result = json.loads((folder / "result.json").read_text())
        assert (result["state"], result["epochs"], result["metrics"]) == ("finished", REPORTS, straight[-1])
        assert result["environment"]["resumes"] == "from its last state"
        assert f"\ntrains on ('cpu',), its data in {data}\n" in (folder / "log.txt").read_text()
        # 最后的状态留着，其余的不留
        assert [path.name for path in (folder / "checkpoint").iterdir()] == [Path(result["weights"]).name]
    attempts = [len((folder / "attempts.jsonl").read_text().splitlines()) for folder in folders]
    assert sorted(attempts)[-2:] >= [2, 2]
    assert not lab.processes("ray::")


def test_the_classifiers_studies_answer_on_the_digits(lab: Lab) -> None:
    tiny = ("--seeds", "2", "--set", "epochs=1", "--set", "train_images=200", "--no-dashboard", "--slots", "1")
    shared: set[str] = set()
    # 第二个研究训练同一个 core，不必为它再起一次 Ray
    for name, arms, run in (("batch_norm", 3, lab.ablate), ("label_smoothing", 3, lab.without_ray)):
        code, output, errors = run("--study", name, *tiny)
        assert code == 0, output + errors
        answer = json.loads((lab.results / "studies" / name / "answer.json").read_text())
        assert (answer["core"]["name"], answer["metric"], answer["seeds"]) == ("torchvision", "test error", 2)
        assert len(answer["arms"]) == arms
        assert answer["arms"][0]["costs"]["parameters"] > 100_000
        checked, lines, _ = lab.run(
            "--study", name, "--check", "--results", str(lab.results), module="orchestrator.report"
        )
        assert checked == 0, lines
        shared = lab.finished()
    # 两个研究的基线是同一批 trial
    assert len(shared) == 2 * (3 + 3 - 1)
