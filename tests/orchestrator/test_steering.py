"""A running study is followed and steered from another shell, and nothing is asked of one that does not run."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import records
from orchestrator.broker import Broker
from orchestrator.errors import LabError
from orchestrator.notification import Notifier
from orchestrator.status import main
from orchestrator.steering import REQUESTS, RUN, RunFacts, Steering, ask, end_run, read_run, write_run
from tests.lab import Lab, wait_until

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "studies" / "lrn"
    made.mkdir(parents=True)
    return made


def test_the_driver_hears_each_request_once_and_no_other_runs(folder: Path) -> None:
    write_run(folder, facts(started_at="yesterday"))
    ask(folder, "stop")
    late = (folder / REQUESTS).read_text()
    write_run(folder, facts())
    assert not (folder / REQUESTS).exists(), "a new run forgets what an earlier one was asked"
    steering = Steering(folder, facts().run)
    assert steering.update() == []
    (folder / REQUESTS).write_text(late + "no json\n\xff\n")
    assert steering.update() == []
    assert not steering.stop
    said = ask(folder, "skip_arm", "as_run")
    assert said.startswith(f"asked process {os.getpid()} on {socket.gethostname()}: begin no other trial of arm as_run")
    ask(folder, "stop_arm", "no_lrn")
    ask(folder, "seeds", 12)
    ask(folder, "seeds", 10)
    assert len(steering.update()) == 4
    assert steering.update() == []
    assert (steering.skipped, steering.stopped, steering.seeds) == ({"as_run", "no_lrn"}, {"no_lrn"}, 12)
    assert not steering.stop
    ask(folder, "stop")
    assert (steering.update(), steering.stop) == (["asked to stop between two batches, as Ctrl-C does"], True)


def test_a_line_that_is_still_being_written_is_heard_when_it_is_whole(folder: Path) -> None:
    write_run(folder, facts())
    steering = Steering(folder, facts().run)
    ask(folder, "stop")
    whole = (folder / REQUESTS).read_bytes()
    for cut in range(len(whole)):
        (folder / REQUESTS).write_bytes(whole[:cut])
        assert steering.update() == []
    (folder / REQUESTS).write_bytes(whole)
    assert len(steering.update()) == 1


def test_nothing_is_asked_of_a_study_that_does_not_run(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for content in (None, facts(gone.pid).model_dump_json(), "{", "[]"):
        if content is not None:
            (folder / RUN).write_text(content)
        with pytest.raises(LabError, match="study lrn does not run, so nothing was asked") as caught:
            ask(folder, "stop")
        assert caught.value.exit_code == 2
        assert not (folder / REQUESTS).exists()
    write_run(folder, facts())
    end_run(folder)
    assert read_run(folder) is None


def test_what_the_driver_could_not_do_is_refused_at_once(folder: Path) -> None:
    write_run(folder, facts())
    for kind, value, message in (
        ("stop_arm", "lrn", "'lrn' is none of the arms: baseline, no_lrn, as_run"),
        ("skip_arm", "baseline", "baseline is the baseline, which every comparison needs"),
        ("seeds", 8, "runs 8 seeds already"),
    ):
        with pytest.raises(LabError, match=message):
            ask(folder, kind, value)  # type: ignore[arg-type]
    write_run(folder, facts(may_grow=False))
    with pytest.raises(LabError, match="takes no further seeds while it runs"):
        ask(folder, "seeds", 20)
    assert not (folder / REQUESTS).exists()


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
    kinds = [json.loads(line)["kind"] for line in (folder / REQUESTS).read_text().splitlines()]
    assert kinds == ["stop_arm", "skip_arm", "seeds", "stop"]
    assert capsys.readouterr().out.count(f"asked process {os.getpid()}") == 4


def test_a_stopped_trial_ends_at_once_in_the_queue_and_between_batches_in_a_slot() -> None:
    async def story() -> None:
        broker = Broker()
        for key in ("a", "b"):
            await broker.submit(key, "{}", "", 1)
        assert (await broker.take(0, 0.0) or {})["key"] == "a"
        await broker.stop("b", "interrupted")
        assert (await broker.reports("b", 0, 0.0))[1] == {"type": "final", "message": "", "state": "interrupted"}
        assert await broker.progress("a", 1) is None
        await broker.stop("a", "interrupted")
        assert await broker.progress("a", 1) == "interrupted"
        assert await broker.take(1, 0.0) is None
        await broker.stop("b", "interrupted")
        await broker.stop("unknown", "interrupted")

    asyncio.run(story())


def test_the_notified_command_gets_the_summary_once_and_its_fault_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = tmp_path / "heard"
    notifier = Notifier(f"cat >> {heard}", {"study": "lrn"})
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
        limited = Notifier(f"cat > {heard}", {})
        limited.stopped_at_budget()
        limited.send(code)
        assert json.loads(heard.read_text())["outcome"] == outcome
    Notifier("exit 7", {}).send(0)
    assert capsys.readouterr().err == "warning: --notify: the command ended with exit code 7\n"
    Notifier(None, {}).send(0)


@pytest.mark.slow
def test_a_study_is_followed_loses_an_arm_gains_a_seed_and_tells_of_its_end(lab: Lab) -> None:
    heard = lab.home / "heard.json"
    process = lab.start(
        *("--study", "lrn", "--seeds", "2", "--epochs", "6", "--no-dashboard", "--results", str(lab.results)),
        *("--notify", f"cat > {heard}"),
    )
    run = lab.results / "studies" / "lrn" / RUN
    wait_until(run.exists, 150, "the study to run")
    follower = lab.start("lrn", "--follow", "--results", str(lab.results), module="orchestrator.status")
    for arguments in (["--stop", "no_lrn"], ["--seeds", "3"]):
        assert main(["lrn", *arguments, "--results", str(lab.results)]) == 0
    output, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, "")
    assert "asked to stop the running trials of arm no_lrn" in output
    assert "asked to go on to 3 seeds per arm" in output
    plan = json.loads((lab.results / "studies" / "lrn" / "plan.json").read_text())
    ended = {
        (row["arm"], row["seed"]): records.ended(lab.results, row["key"]) is not None
        for row in plan["trials"]
        if row["arm"] != "no_lrn"
    }
    assert ended == {(arm, seed): True for arm in ("baseline", "as_run") for seed in range(3)}
    assert not any(records.ended(lab.results, row["key"]) for row in plan["trials"] if row["arm"] == "no_lrn")
    assert not [line for line in output.splitlines() if line.startswith("(") or "WARNING" in line or " INFO " in line]
    log = (lab.results / "studies" / "lrn" / "driver.log").read_text()
    assert "INFO orchestrator.display: asked to go on to 3 seeds per arm" in log
    assert " ray" in log, "what Ray says is in the log, not on the terminal"
    summary = json.loads(heard.read_text())
    assert (summary["outcome"], summary["trials"]) == ("done", {"finished": 6})
    assert summary["report"] == str((lab.results / "studies" / "lrn" / "report.html").resolve())
    assert not run.exists()
    seen, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    assert f"running: process {process.pid}" in seen
    assert "6 finished" in seen
