"""A running study is followed and steered from another shell, and nothing is asked of one that does not run."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_core.process.files import pid_namespace
from orchestrator.errors import LabError
from orchestrator.planning.plan import RETUNED, TUNING
from orchestrator.planning.retuning import retuned_trials, tuning_trials
from orchestrator.planning.variants.together import combined_plan
from orchestrator.records import layout
from orchestrator.running.notification import Notifier
from orchestrator.running.session import _under_arm_name
from orchestrator.running.slots.broker import Broker
from orchestrator.running.slots.messages import End, Job, Submission
from orchestrator.running.steering import (
    OLD_RUN,
    SILENT_SECONDS,
    RunFacts,
    Steering,
    ask,
    end_run,
    forget_dead_runs,
    read_runs,
    requests_file,
    run_file,
    write_run,
)
from orchestrator.status import main
from search_spaces.arm import LONGEST_NAME
from search_spaces.study import load_study
from tests.made_plans import make_plan

ARMS = ("baseline", "no_lrn", "as_run")


def facts(pid: int = os.getpid(), **changes: object) -> RunFacts:
    values = {
        "pid": pid,
        "host": socket.gethostname(),
        "started_at": "2026-01-01T00:00:00+00:00",
        "dashboard": None,
        "dataset": "digits",
        "arms": ARMS,
        "baseline": "baseline",
        "seeds": 8,
        "may_grow": True,
    }
    return RunFacts(**{**values, **changes})  # type: ignore[arg-type]


def requests(folder: Path, run: RunFacts | None = None) -> Path:
    return requests_file(run_file(folder, (run or facts()).run))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "studies" / "lrn"
    made.mkdir(parents=True)
    return made


def test_the_driver_hears_each_request_once_and_no_other_runs(folder: Path) -> None:
    earlier = facts(started_at="yesterday")
    write_run(folder, earlier)
    ask(folder, "stop")
    late = requests(folder, earlier).read_text()
    end_run(folder, earlier)
    write_run(folder, facts())
    steering = Steering(folder, facts().run)
    assert steering.update() == []
    late += facts().run.join(('{"run":"', '","kind":"seeds","seeds":2500}\n'))
    requests(folder).write_text(late + "no json\n\xff\n")
    assert steering.update() == []
    assert (steering.stop, steering.seeds) == (False, 0)
    reply = ask(folder, "skip_arm", "as_run")
    assert reply.startswith(
        f"asked process {os.getpid()} on {socket.gethostname()}: begin no other trial of arm as_run"
    )
    ask(folder, "stop_arm", "no_lrn")
    ask(folder, "seeds", 12)
    ask(folder, "seeds", 10)
    assert len(steering.update()) == 4
    assert steering.update() == []
    assert steering.stopped == {"no_lrn", "no_lrn-tuning", "no_lrn-retuned"}, "as a re-tuning names its trials"
    assert steering.skipped == steering.stopped | {"as_run", "as_run-tuning", "as_run-retuned"}
    assert steering.seeds == 12
    assert not steering.stop
    ask(folder, "stop")
    assert (steering.update(), steering.stop) == (["asked to stop between two batches, as Ctrl-C does"], True)


def test_a_line_that_is_still_being_written_is_heard_when_it_is_whole(folder: Path) -> None:
    write_run(folder, facts())
    steering = Steering(folder, facts().run)
    ask(folder, "stop")
    whole = requests(folder).read_bytes()
    for cut in range(len(whole)):
        requests(folder).write_bytes(whole[:cut])
        assert steering.update() == []
    requests(folder).write_bytes(whole)
    assert len(steering.update()) == 1


def test_nothing_is_asked_of_a_study_that_does_not_run(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for content in (None, facts(gone.pid).model_dump_json(), "{", "[]"):
        if content is not None:
            run_file(folder, facts().run).write_text(content)
            (folder / OLD_RUN).write_text(content)
        with pytest.raises(LabError, match="study lrn does not run, so nothing was asked") as caught:
            ask(folder, "stop")
        assert caught.value.exit_code == 2
        assert not list(folder.glob("requests*"))
    write_run(folder, facts())
    end_run(folder, facts())
    assert read_runs(folder) == []


def test_two_runs_of_a_study_are_both_steered_and_the_end_of_one_leaves_the_other(folder: Path) -> None:
    first, second = facts(started_at="2026-01-01"), facts(started_at="2026-01-02", seeds=12)
    drivers = [Steering(folder, run.run) for run in (first, second)]
    write_run(folder, first)
    ask(folder, "skip_arm", "as_run")
    write_run(folder, second)
    assert read_runs(folder) == [first, second]
    container = facts(pid=1, pid_namespace=7)
    assert container.where == f"process 1 on {socket.gethostname()} (in another container)"
    assert first.where == f"process {os.getpid()} on {socket.gethostname()}"
    assert ask(folder, "seeds", 10).count("\n") == 0, "the second has 12 seeds already"
    assert ask(folder, "stop_arm", "no_lrn").count("asked process") == 2
    for driver in drivers:
        driver.update()
    assert [(driver.seeds, "no_lrn" in driver.stopped) for driver in drivers] == [(10, True), (0, True)]
    assert "as_run" in drivers[0].skipped
    end_run(folder, first)
    assert read_runs(folder) == [second]
    ask(folder, "stop")
    drivers[1].update()
    assert drivers[1].stop
    assert not drivers[0].stop


def test_a_run_of_an_older_version_is_seen_and_steered(folder: Path) -> None:
    (folder / OLD_RUN).write_text(facts().model_dump_json())
    assert read_runs(folder) == [facts()]
    ask(folder, "stop")
    assert json.loads((folder / "requests.jsonl").read_text())["kind"] == "stop"


def test_a_killed_run_ends_for_who_follows_it_on_whatever_machine_it_was(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed, elsewhere = facts(gone.pid), facts(gone.pid, host="elsewhere", started_at="noon")
    for run in (killed, elsewhere):
        write_run(folder, run)
    requests(folder, killed).touch()
    assert read_runs(folder) == [elsewhere], "it has just said that it lives"
    forget_dead_runs(folder)
    assert [path.name for path in folder.iterdir()] == [run_file(folder, elsewhere.run).name]
    silent = time.time() - SILENT_SECONDS - 1
    os.utime(run_file(folder, elsewhere.run), (silent, silent))
    assert read_runs(folder) == []


def test_a_run_in_another_pid_namespace_of_this_host_is_not_taken_for_dead(folder: Path) -> None:
    dead = RunFacts(pid=2**22 - 1, host=socket.gethostname(), started_at="noon", dashboard=None)
    elsewhere = dead.model_copy(update={"pid_namespace": pid_namespace() + 1, "started_at": "later"})
    for facts in (dead, elsewhere):
        write_run(folder, facts)
    assert read_runs(folder) == [elsewhere]
    forget_dead_runs(folder)
    assert [path.name for path in folder.glob("run*.json")] == [run_file(folder, elsewhere.run).name]


def test_what_the_driver_could_not_do_is_refused_at_once(folder: Path) -> None:
    write_run(folder, facts())
    for kind, value, message in (
        ("stop_arm", "lrn", "'lrn' is none of the arms: baseline, no_lrn, as_run"),
        ("skip_arm", "baseline", "baseline is the baseline, which the other arms need"),
        ("seeds", 8, "runs 8 seeds already"),
        ("seeds", 1001, "1001 seeds: those from 1000 on are for tuning"),
    ):
        with pytest.raises(LabError, match=message):
            ask(folder, kind, value)  # type: ignore[arg-type]
    end_run(folder, facts())
    write_run(folder, facts(may_grow=False))
    with pytest.raises(LabError, match="takes no further seeds while it runs"):
        ask(folder, "seeds", 20)
    assert not list(folder.glob("requests*"))


def test_the_command_asks_and_says_so_in_one_line(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(tmp_path)]
    assert main(["lrn", "--stop", *where]) == 2
    assert main(["--skip", "no_lrn", *where]) == 2
    assert main(["../lrn", "--stop", *where]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    write_run(folder, facts())
    for arguments in (["--stop", "no_lrn"], ["--skip", "as_run"], ["--seeds", "9"], ["--stop"]):
        assert main(["lrn", *arguments, *where]) == 0
    kinds = [json.loads(line)["kind"] for line in requests(folder).read_text().splitlines()]
    assert kinds == ["stop_arm", "skip_arm", "seeds", "stop"]
    assert capsys.readouterr().out.count(f"asked process {os.getpid()}") == 4


def test_a_stopped_trial_ends_at_once_in_the_queue_and_between_batches_in_a_slot() -> None:
    async def story() -> None:
        broker = Broker()
        for key in ("a", "b"):
            await broker.submit(Submission(key, "{}", "", 1, 2))
        assert (await broker.take(0, 0.0)) == Job("a", "{}", "", 1)
        await broker.stop("b", "interrupted")
        assert (await broker.epochs("b", 0, 0.0))[1] == End("interrupted")
        assert await broker.progress("a", 1) is None
        await broker.stop("a", "interrupted")
        assert await broker.progress("a", 1) == "interrupted"
        assert await broker.take(1, 0.0) is None
        await broker.stop("b", "interrupted")
        await broker.stop("unknown", "interrupted")

    asyncio.run(story())


def telling(command: str | None) -> Notifier:
    notifier = Notifier()
    notifier.tell(command, {"study": "lrn"})
    return notifier


def test_the_notified_command_gets_the_summary_once_and_its_fault_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = tmp_path / "heard"
    notifier = telling(f"cat >> {heard}")
    notifier.add(verdicts={"no_lrn": "supports"})
    notifier.send(3, "Ray's raylet died")
    notifier.send(0)
    summary = json.loads(heard.read_text())
    assert summary.pop("seconds") >= 0
    assert summary == {
        "study": "lrn",
        "verdicts": {"no_lrn": "supports"},
        "exit_code": 3,
        "outcome": "failed",
        "error": "Ray's raylet died",
    }
    for code, outcome in ((0, "budget"), (1, "some trials failed")):
        limited = telling(f"cat > {heard}")
        limited.stopped_at_budget()
        limited.send(code)
        assert json.loads(heard.read_text())["outcome"] == outcome
    telling("exit 7").send(0)
    assert capsys.readouterr().err == "warning: --notify: the command ended with exit code 7\n"
    telling(None).send(0)


def test_each_studys_baseline_stays_also_under_another_arms_name(folder: Path) -> None:
    lrn, depth = make_plan(load_study("lrn"), 2), make_plan(load_study("depth"), 2)
    # 自己的基线，是别的研究的一个 arm
    other = load_study("lrn").model_copy(update={"name": "other", "baseline": "no_lrn"})
    combined = combined_plan([lrn, depth, make_plan(other, 2)], lrn.recipe)
    write_run(folder, facts(arms=[arm.name for arm in combined.study.arms], baseline="", needed=combined.needed))
    needed = {"lrn-baseline", "lrn-no_lrn"}
    for arm in combined.study.arms:
        if arm.name in needed:
            with pytest.raises(LabError, match="is a baseline, which other arms need"):
                ask(folder, "skip_arm", arm.name)
        else:
            ask(folder, "skip_arm", arm.name)
    few = replace(make_plan(load_study("lrn"), 2, epochs=1), dataset="few")
    joint = combined_plan([lrn, few], lrn.recipe, by_dataset=True)
    assert set(joint.needed) == {"digits-baseline", "few-baseline"}


def test_no_two_arms_of_a_joint_session_are_called_alike_and_each_knows_its_data_set() -> None:
    study = load_study("lrn")
    first, long = study.arms[0], "an_arm_whose_name_is_as_long_as_names_can_be_"
    named = [("base", 1), ("few", 2), ("few-base", 3), (f"{long}one", 4), (f"{long}two", 5)]
    assert all(len(name) <= LONGEST_NAME for name, _ in named)
    arms = tuple(
        first.model_copy(update={"name": name, "set": {"training.batch_size": 10 + size}}) for name, size in named
    )
    study = study.model_copy(update={"arms": arms, "baseline": "base"})
    plans = [replace(make_plan(study, 1, epochs=n), dataset=name) for n, name in ((1, "digits"), (2, "digits-few"))]
    combined = combined_plan(plans, plans[0].recipe, by_dataset=True)
    names = [trial.arm for trial in combined.trials]
    assert len(set(names)) == len(combined.study.arms) == 10
    for trial in combined.trials:
        dataset = {1: "digits", 2: "digits-few"}[trial.config.training.epochs]  # type: ignore[union-attr]
        for name in (trial.arm, f"{trial.arm}{TUNING}", f"{trial.arm}{RETUNED}"):
            assert combined.dataset_of(name) == dataset
            assert layout.ARM.fullmatch(name)
        assert trial.arm in combined.names_of(dataset).values()


@pytest.mark.parametrize("label", ["", "activation", "digits"])
def test_an_arm_is_steered_in_its_re_tuning_too(folder: Path, label: str) -> None:
    study = load_study("activation")
    plan = make_plan(study, 1, retune=study.retune)
    combined = combined_plan([plan], plan.recipe, by_dataset=label == "digits")
    arms = tuple(arm.name for arm in (combined if label else plan).study.arms)
    (tanh,) = [arm for arm in arms if "tanh" in arm]
    write_run(folder, facts(arms=arms, baseline=""))
    steering = Steering(folder, facts().run)
    ask(folder, "skip_arm", tanh)
    steering.update()
    chosen = {arm.name: 0.02 for arm in study.arms}
    names = combined.names_of(label)
    assert len(names) == (len(arms) if label else 0)
    for trial in (_under_arm_name(one, names) for one in (*tuning_trials(plan), *retuned_trials(plan, chosen))):
        assert (trial.arm in steering.skipped) == ("tanh" in trial.arm)
        assert combined.dataset_of(trial.arm) == "digits"
