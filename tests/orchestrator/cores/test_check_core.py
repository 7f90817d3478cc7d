"""`check_core` names each planted fault, passes a core that keeps its word, and leaves nothing behind."""

from __future__ import annotations

import psutil
import pytest

from tests.lab import Lab, is_gone, wait_until
from tests.made_cores import CORE as WITH_OPTIMIZER

# 没有一处用 torch，只为快；种子、状态、报告都是合约里的
CORE = """
import random, subprocess, sys
from typing import Any
from pydantic import BaseModel, ConfigDict
from orchestrator import Core, Metric, Run

class Config(BaseModel):
    model_config = ConfigDict(frozen=True)
    epochs: int = 4
    step: float = 1.0

def train(config, run):
    SEED
    place, start, own = 0.0, 0, random.Random(run.seed)
    print("garbage", {1, 2})
    if (state := run.load()) is not None:
        place, start = state["place"], state["epoch"]
        RESTORE
    for epoch in range(start, config.epochs):
        run.beat()
        place += config.step * (random.random() + own.random())
        run.save({"place": place, "epoch": epoch + 1, "own": own.getstate()})
        yield {METRIC: place, "test_place": place / 2}

metrics = {"validation_place": Metric(), "test_place": Metric("%", scale=100, better="higher")}
core = Core(name="walk", version=1, config=Config, train=train, metrics=metrics, chosen_by="validation_place",
            judged_by="test_place", gpus=0)
"""
GOOD = {"SEED": "", "RESTORE": "own.setstate(state['own'])", "METRIC": "'validation_place'"}


def checked(lab: Lab, *arguments: str, **changes: str) -> tuple[int, str, str]:
    text = CORE
    for word, code in (GOOD | changes).items():
        text = text.replace(word, code)
    return checked_text(lab, text, *arguments)


def checked_text(lab: Lab, text: str, *arguments: str) -> tuple[int, str, str]:
    (lab.home / "walk.py").write_text(text)
    scratch = lab.home / "scratch"
    scratch.mkdir(exist_ok=True)
    checked = lab.run("walk", *arguments, module="orchestrator.check_core", TMPDIR=str(scratch))
    # torch 的优化器在那里留下它自己的缓存
    assert [one.name for one in scratch.iterdir() if not one.name.startswith("torchinductor_")] == []
    return checked


def lines(output: str, word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in output.splitlines() if line.startswith(word)]


@pytest.mark.slow
def test_a_core_that_keeps_its_word_passes_and_nothing_is_noted(lab: Lab) -> None:
    code, output, errors = checked(lab)
    assert (code, errors) == (0, "")
    assert lines(output, "fault") + lines(output, "note") == []
    assert lines(output, "ok") == [
        "walk, version 1, reports validation_place, test_place",
        "config survives JSON",
        "3 reports; each has every metric, as a finite number",
        "the same seed gives the same numbers, in a fresh process and after another trial in one",
        "another seed gives other numbers",
        "stopped and gone on it gives the numbers of a straight run",
    ]
    assert output.splitlines()[-1] == "core walk keeps its word"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        (
            # 几个毛病，一次都说出来
            {
                "gpus=0": "gpus=0, data=lambda config, root: 3, draws=lambda config: ['order']",
                "run.save({": "run.save({'much': __import__('numpy').zeros(13_000_000), ",
                "SEED": "random.seed(3); run.seed = 3",
                "RESTORE": "",
                "METRIC": "'test_place': 1 / (2 - epoch), 'validation_place'",
            },
            [
                "data returns a text that stands for the content, not 3",
                "draws returns some of nothing, not ['order']",
                "train raised ZeroDivisionError: division by zero (walk.py, line ",
                "another seed gives the same numbers: train does not use run.seed",
                "stopped after the first report and gone on",
            ],
        ),
        (
            {"SEED": "random.seed()", "RESTORE": "1 / 0"},
            [
                "the same seed gives other numbers in a second process: something random is not",
                "going on from a state: train raised ZeroDivisionError: division by zero (walk.py, line ",
            ],
        ),
        (
            # 第二个毛病与第一个同时说出
            {
                "RESTORE": "",
                "SEED": "subprocess.Popen(['tail', '-f', '/dev/null']); "
                "subprocess.run(['sh', '-c', 'setsid sleep 600 &'])",
            },
            ["train leaves processes behind when it ends: sleep, tail", "stopped after the first report and gone on"],
        ),
        (
            {"METRIC": "'valid_place'", "step: float = 1.0": "step: float = 1.0\n    mark: Any = object()"},
            [
                "config does not survive JSON: Unable to serialize unknown type: <class 'object'>",
                "a report lacks the metric 'validation_place'; it has 'valid_place'",
            ],
        ),
        (
            {
                "METRIC": "'validation_place': 1 / 0, 'x'",
                "step: float = 1.0": "step: float = 1.0\n    mark: Any = (3,)",
            },
            [
                "config does not survive JSON: read back it is another configuration",
                "train raised ZeroDivisionError: division by zero (walk.py, ",
            ],
        ),
        (
            {"class Config": "SEEN = []\n\nclass Config", "SEED": "SEEN.append(run.seed); random.seed(sum(SEEN))"},
            ["after another trial in the same process the same seed gives other numbers: something outlives a trial"],
        ),
        ({"SEED": "import os; os.kill(os.getpid(), 9)"}, ["train ended its process by signal SIGKILL"]),
        ({"place / 2": "-(10**400)"}, ["test_place is -inf in report 1"]),
        (
            {"gpus=0": "gpus=0, sizes=lambda config: {'parameters': 1 // 0}"},
            ["sizes raised ZeroDivisionError: integer division or modulo by zero (walk.py, line "],
        ),
    ],
    ids=[
        "constant seed and more",
        "unseeded and more",
        "generator not restored and a child left",
        "misspelt, and no JSON",
        "raises, and other JSON",
        "outlives a trial",
        "killed",
        "beyond a float",
        "sizes",
    ],
)
def test_each_planted_fault_is_named(lab: Lab, changes: dict[str, str], faults: list[str]) -> None:
    code, output, errors = checked(lab, **changes)
    assert (code, errors) == (1, "")
    complaints = lines(output, "fault")
    assert len(complaints) == len(faults), output
    assert all(line.startswith(fault) for line, fault in zip(complaints, faults, strict=True)), output
    assert ("note  a state is 104 MB, written with a report at most once a second" in output) == (
        "run.save({" in changes
    )
    assert "Traceback" not in output
    assert lab.processes() == []


@pytest.mark.slow
def test_an_optimizer_that_is_not_restored_is_named(lab: Lab) -> None:
    text = WITH_OPTIMIZER.replace("optimizer.load_state_dict(state[", "(state[")
    code, output, errors = checked_text(lab, text, "--set", "momentum=0.9", "--set", "seconds=0")
    assert (code, errors) == (1, "")
    (fault,) = lines(output, "fault")
    assert fault.startswith("stopped after the first report and gone on, it gives other numbers than straight on: ")
    assert "optimizer" in fault


SAVED = "run.save({"
NOT_SAVED = "dict({"
RESTORED = "(state := run.load()) is not None"
NO_BEAT = "it never calls run.beat(): a study can stop it, and notice that it hangs, only between two reports"
NO_SAVE = "it never calls run.save(): a trial that is interrupted begins again; records stay true"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({SAVED: NOT_SAVED, RESTORED: "False"}, [NO_SAVE]),
        (
            {RESTORED: "False", "run.beat()": "pass"},
            [NO_BEAT, "it never calls run.load(): a trial that is interrupted begins again; records stay true"],
        ),
        (
            {"SEED": "import threading; threading.Thread(target=threading.Event().wait, name='feeder').start()"},
            ["threads still run when train ends, beside the next trial of their process: feeder"],
        ),
        (
            {"gpus=0": "gpus=0, deterministic=False", "SEED": "random.seed()", "RESTORE": "random.seed()"},
            [
                "it declares that the same seed may give other numbers; reports will say so",
                "the same seed gave other numbers, as declared",
                "stopped and gone on it gives other numbers, as declared",
            ],
        ),
    ],
    ids=["no save", "no load and no beat", "a thread left", "not deterministic"],
)
def test_what_a_core_leaves_out_is_noted_and_no_fault(lab: Lab, changes: dict[str, str], notes: list[str]) -> None:
    code, output, errors = checked(lab, **changes)
    assert (code, errors) == (0, ""), output
    assert lines(output, "fault") == []
    noted = lines(output, "note")
    assert [line[: len(note)] for line, note in zip(noted, notes, strict=True)] == notes


@pytest.mark.slow
def test_a_core_that_cannot_be_used_is_one_line_and_exit_code_2(lab: Lab) -> None:
    code, output, errors = lab.run("nowhere", module="orchestrator.check_core")
    assert (code, output) == (2, "")
    assert errors == (
        f"error: core nowhere: there is no module nowhere in {lab.home} or among the installed packages\n"
    )
    code, _, errors = checked(lab, "--set", "stepp=2")
    assert (code, errors) == (2, "error: --set: stepp: unknown field; did you mean step?\n")
    (lab.home / "thawed.py").write_text(CORE.replace("frozen=True", ""))
    code, _, errors = lab.run("thawed.py", module="orchestrator.check_core")
    assert code == 2
    assert errors == ("error: core thawed: config must be frozen: class Config(BaseModel, frozen=True)\n")


@pytest.mark.slow
def test_a_killed_check_takes_its_training_along_and_the_next_one_removes_its_folder(lab: Lab) -> None:
    scratch, number = lab.home / "scratch", lab.home / "number"
    scratch.mkdir()
    waits = f"import os, time; open({str(number)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(600)"
    text = CORE.replace("SEED", waits)
    for word, code in GOOD.items():
        text = text.replace(word, code)
    (lab.home / "walk.py").write_text(text)
    check = lab.start("walk", module="orchestrator.check_core", TMPDIR=str(scratch))
    wait_until(lambda: number.exists() and number.read_text().endswith(" "), 120, "the core trains")
    training = psutil.Process(int(number.read_text()))
    check.kill()
    check.communicate()
    wait_until(lambda: is_gone(training), 30, "the training is gone")
    (left,) = scratch.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    code, *_ = checked(lab)
    assert (code, left.exists()) == (0, False)
