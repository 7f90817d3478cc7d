"""Steering a running study: what `status` asks for in the study's folder, and the study's drivers read.

Every run has a `run-<run>.json`, which says who runs, and a `requests-<run>.jsonl`, which `status` writes and its
driver alone reads: it stays the only writer of records, and the end of one run touches no other's files. A request
names its run, so that one which comes too late steers no later run.
"""

from __future__ import annotations

import re
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.wording import counted
from alexnet_core.process.files import pid_namespace
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import RETUNED, TUNING, TUNING_SEED
from orchestrator.records import files

# 旧版每个研究只有这一个文件，没有心跳
OLD_RUN = "run.json"
BEAT_SECONDS = 30.0
SILENT_SECONDS = 600.0
Kind = Literal["stop", "stop_arm", "skip_arm", "seeds"]


def status_command(folder: Path) -> str:
    """Returns the command that shows a study from any shell, and steers it while it runs.

    Args:
        folder: The study's, in the results folder.
    """
    return f"python -m orchestrator.status {folder.name} --results {shlex.quote(str(folder.parents[1]))}"


class RunFacts(Frozen):
    """`run-<run>.json`: the driver that runs a study.

    Attributes:
        pid: Its process.
        host: Its machine.
        pid_namespace: Where on it the process's number is valid (containers may share a host's name); 0 is not known.
        started_at: ISO time (UTC).
        dashboard: Address of Ray's dashboard, or None.
        dataset: The data set.
        arms: The study's arms.
        baseline: The arm that the others are compared with.
        needed: Where several studies or data sets run as one: all arms that others are compared with.
        seeds: Seeds per arm.
        may_grow: Whether it can be asked for more seeds.
    """

    pid: int
    host: str
    pid_namespace: int = 0
    started_at: str
    dashboard: str | None
    dataset: str = ""
    arms: tuple[str, ...] = ()
    baseline: str = ""
    needed: tuple[str, ...] = ()
    seeds: int = 0
    may_grow: bool = False

    @property
    def run(self) -> str:
        """What names this run and no other."""
        return f"{self.host}-{self.pid}-{self.started_at}"

    @property
    def where(self) -> str:
        """Which process it is, in words."""
        # 两个容器里的驱动都可以是 1 号进程
        apart = self.host == socket.gethostname() and not self.is_here
        return f"process {self.pid} on {self.host}" + (" (in another container)" if apart else "")

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine that can be seen from here."""
        return self.host == socket.gethostname() and self.pid_namespace in (0, pid_namespace())


class Request(Frozen):
    """One line of `requests-<run>.jsonl`.

    Attributes:
        run: The run it is for.
        kind: `stop` the study, `stop_arm` or `skip_arm` an arm, ask for more `seeds`.
        arm: The arm to stop or skip.
        seeds: Seeds per arm, in all.
    """

    run: str
    kind: Kind
    arm: str | None = None
    seeds: int | None = Field(default=None, le=TUNING_SEED)


def run_file(folder: Path, run: str) -> Path:
    """Returns where a run says that it runs.

    Args:
        folder: The study's folder.
        run: `RunFacts.run`.
    """
    return folder / f"run-{re.sub(r'[^A-Za-z0-9.-]', '_', run)}.json"


def requests_file(run: Path) -> Path:
    """Returns where a run is asked for something, beside its `run_file`."""
    return run.with_name(f"requests{run.stem.removeprefix('run')}.jsonl")


def write_run(folder: Path, facts: RunFacts) -> None:
    """Says that a run of a study lives; the driver says so again and again."""
    files.write_atomically(run_file(folder, facts.run), facts.model_dump_json(indent=1).encode())


def forget_dead_runs(folder: Path) -> None:
    """Deletes what runs have left that were killed on this machine."""
    for path, facts in list(_written(folder)):
        if facts.is_here and not psutil.pid_exists(facts.pid):
            _forget(path)


def read_runs(folder: Path) -> list[RunFacts]:
    """Returns who runs a study, the earliest first; an empty list where nobody does."""
    return [facts for _, facts in _living(folder)]


def _living(folder: Path) -> list[tuple[Path, RunFacts]]:
    runs = [(path, facts) for path, facts in _written(folder) if _lives(path, facts)]
    return sorted(runs, key=lambda run: (run[1].started_at, run[0].name))


def _written(folder: Path) -> Iterator[tuple[Path, RunFacts]]:
    for path in sorted(folder.glob("run*.json")):
        try:
            yield path, RunFacts.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue


def _lives(path: Path, facts: RunFacts) -> bool:
    """Whether a run's process lives on this machine, or has said so on another in the last minutes."""
    if facts.is_here:
        return psutil.pid_exists(facts.pid)
    try:
        # 别的机器上的进程看不到，只能看它最近有没有出声
        return path.name == OLD_RUN or time.time() - path.stat().st_mtime < SILENT_SECONDS
    except OSError:
        return False


def end_run(folder: Path, facts: RunFacts) -> None:
    """Says that a run has ended; what others of the study were asked stays."""
    _forget(run_file(folder, facts.run))


def _forget(path: Path) -> None:
    for one in (path, requests_file(path)):
        one.unlink(missing_ok=True)


class Presence:
    """Says in the study's folder, now and then, that its driver lives."""

    def __init__(self, folder: Path, facts: RunFacts) -> None:
        """Says nothing yet.

        Args:
            folder: The study's folder.
            facts: Who runs.
        """
        self._folder, self._facts = folder, facts
        self._next_beat = 0.0

    def begin(self) -> None:
        """Says that the study runs, in place of runs that were killed."""
        forget_dead_runs(self._folder)
        self._write()

    def beat(self) -> None:
        """Says so again where it is time to."""
        if time.monotonic() > self._next_beat:
            self._write()

    def grow(self, seeds: int) -> int:
        """Says that there are now so many seeds per arm; returns how many there were."""
        before = self._facts.seeds
        self._facts = self._facts.model_copy(update={"seeds": seeds})
        self._write()
        return before

    def end(self) -> None:
        """Says that the run has ended."""
        end_run(self._folder, self._facts)

    def _write(self) -> None:
        self._next_beat = time.monotonic() + BEAT_SECONDS
        write_run(self._folder, self._facts)


def ask(folder: Path, kind: Kind, value: str | int | None = None) -> str:
    """Asks the drivers of a study for something; they act between two batches.

    Args:
        folder: The study's folder.
        kind: See `Request`.
        value: The arm, or the seeds in all.

    Returns:
        What was asked of whom, in words, a line for each.

    Raises:
        LabError: Nothing runs, the arm is none of the study's, or no driver can do so.
    """
    runs = _living(folder)
    if not runs:
        raise LabError(f"study {folder.name} does not run, so nothing was asked", exit_code=ExitCode.WRONG_USE)
    refusals = [_refusal(folder.name, facts, kind, value) for _, facts in runs]
    able = [run for run, refusal in zip(runs, refusals, strict=True) if refusal is None]
    if not able:
        raise LabError(str(refusals[0]), exit_code=ExitCode.WRONG_USE)
    return "\n".join(_leave_request(path, facts, kind, value) for path, facts in able)


def _leave_request(run: Path, facts: RunFacts, kind: Kind, value: str | int | None) -> str:
    request = Request(
        run=facts.run,
        kind=kind,
        arm=str(value) if kind in ("stop_arm", "skip_arm") else None,
        seeds=int(value or 0) if kind == "seeds" else None,
    )
    path = requests_file(run)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(request.model_dump_json() + "\n")
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    return f"asked {facts.where}: {words(request)}"


def _refusal(study: str, facts: RunFacts, kind: Kind, value: str | int | None) -> str | None:
    """Why a run cannot do what is asked; None where it can."""
    if kind in ("stop_arm", "skip_arm"):
        if value not in facts.arms:
            return f"{value!r} is none of the arms: {', '.join(facts.arms)}"
        if value == facts.baseline:
            return f"{value} is the baseline, which the other arms need; use --stop for the study"
        if value in facts.needed:
            return f"{value} is a baseline, which other arms need; use --stop for the study"
    if kind == "seeds" and not facts.may_grow:
        why = "it is several studies at once, a noise floor, or decides seed by seed (--seeds auto)"
        return f"{study} takes no further seeds while it runs: {why}"
    if kind == "seeds" and int(value or 0) <= facts.seeds:
        return f"study {study} runs {counted(facts.seeds, 'seed')} already; ask for more than that"
    if kind == "seeds" and int(value or 0) > TUNING_SEED:
        return f"{value} seeds: those from {TUNING_SEED} on are for tuning"
    return None


def words(request: Request) -> str:
    """Says in words what a request asks for."""
    later = "the same command goes on with them later"
    return {
        "stop": "stop between two batches, as Ctrl-C does",
        "stop_arm": f"stop the running trials of arm {request.arm} and begin no other of it; {later}",
        "skip_arm": f"begin no other trial of arm {request.arm}; {later}",
        "seeds": f"go on to {counted(request.seeds or 0, 'seed')} per arm",
    }[request.kind]


class Steering:
    """The driver's side: what has been asked of its run so far.

    Attributes:
        stop: Whether the study is to stop.
        skipped: Arms of which no other trial is begun, also as their trials of a re-tuning name them.
        stopped: Those of them whose running trials are stopped too.
        seeds: Seeds per arm that were asked for; 0 where none were.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """Nothing is asked yet.

        Args:
            folder: The study's folder.
            run: `RunFacts.run` of this driver.
        """
        self._path, self._run, self._read = requests_file(run_file(folder, run)), run, 0
        self.stop = False
        self.skipped: set[str] = set()
        self.stopped: set[str] = set()
        self.seeds = 0

    def update(self) -> list[str]:
        """Takes what has been asked since the last call; returns a line for each request."""
        lines = []
        for request in self._new():
            if request.kind == "stop":
                self.stop = True
            elif request.kind == "seeds":
                self.seeds = max(self.seeds, request.seeds or 0)
            elif request.arm is not None:
                names = {request.arm, f"{request.arm}{TUNING}", f"{request.arm}{RETUNED}"}
                self.skipped |= names
                if request.kind == "stop_arm":
                    self.stopped |= names
            lines.append(f"asked to {words(request)}")
        return lines

    def _new(self) -> list[Request]:
        """The requests since the last call; what is torn or for another run is passed over."""
        try:
            if self._path.stat().st_size <= self._read:
                return []
            content = self._path.read_bytes()
        except OSError:
            return []
        # 还没写完的最后一行下次再读
        whole = content[: content.rfind(b"\n") + 1]
        lines, self._read = whole[self._read :].splitlines(), max(self._read, len(whole))
        return [request for line in lines if (request := self._parsed(line)) is not None]

    def _parsed(self, line: bytes) -> Request | None:
        try:
            request = Request.model_validate_json(line)
        except ValidationError:
            return None
        return request if request.run == self._run else None
