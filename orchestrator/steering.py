"""Steering a running study: what `status` asks for in the study's folder, and the study's driver reads.

`run.json` says who runs. `requests.jsonl` is written by `status` and read by that driver alone, which stays the only
writer of records. A request names its run, so that one which comes too late steers no later run.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from alexnet_core.specification import Frozen
from orchestrator import records
from orchestrator.errors import LabError
from orchestrator.sweep import TUNING_SEED

RUN, REQUESTS = "run.json", "requests.jsonl"


class RunFacts(Frozen):
    """`run.json`: the driver that runs a study.

    Attributes:
        pid: Its process.
        host: Its machine.
        started_at: ISO time (UTC).
        dashboard: Address of Ray's dashboard, or None.
        dataset: The data set.
        arms: The study's arms.
        baseline: The arm that the others are compared with.
        seeds: Seeds per arm.
        may_grow: Whether it can be asked for more seeds.
    """

    pid: int
    host: str
    started_at: str
    dashboard: str | None
    dataset: str = ""
    arms: tuple[str, ...] = ()
    baseline: str = ""
    seeds: int = 0
    may_grow: bool = False

    @property
    def run(self) -> str:
        """What names this run and no other."""
        return f"{self.host}-{self.pid}-{self.started_at}"

    def may_live(self) -> bool:
        """Whether its process lives (on this machine) or may live (on another)."""
        return self.host != socket.gethostname() or psutil.pid_exists(self.pid)


class Request(Frozen):
    """One line of `requests.jsonl`.

    Attributes:
        run: The run it is for.
        kind: `stop` the study, `stop_arm` or `skip_arm` an arm, ask for more `seeds`.
        arm: The arm to stop or skip.
        seeds: Seeds per arm, in all.
    """

    run: str
    kind: Literal["stop", "stop_arm", "skip_arm", "seeds"]
    arm: str | None = None
    seeds: int | None = Field(default=None, le=TUNING_SEED)


def write_run(folder: Path, facts: RunFacts) -> None:
    """Says that a study runs, and forgets what an earlier run was asked for."""
    (folder / REQUESTS).unlink(missing_ok=True)
    records.write_atomically(folder / RUN, facts.model_dump_json(indent=1).encode())


def read_run(folder: Path) -> RunFacts | None:
    """Returns who runs a study; None where nobody does."""
    try:
        facts = RunFacts.model_validate_json((folder / RUN).read_bytes())
    except (OSError, ValidationError):
        return None
    return facts if facts.may_live() else None


def end_run(folder: Path) -> None:
    """Says that a study no longer runs."""
    for name in (RUN, REQUESTS):
        (folder / name).unlink(missing_ok=True)


def ask(folder: Path, kind: Literal["stop", "stop_arm", "skip_arm", "seeds"], value: str | int | None = None) -> str:
    """Asks the driver of a study for something; it acts between two batches.

    Args:
        folder: The study's folder.
        kind: See `Request`.
        value: The arm, or the seeds in all.

    Returns:
        What was asked, in words.

    Raises:
        LabError: Nothing runs, the arm is none of the study's, or the driver cannot do so.
    """
    facts = read_run(folder)
    if facts is None:
        raise LabError(f"study {folder.name} does not run, so nothing was asked", exit_code=2)
    if kind in ("stop_arm", "skip_arm"):
        _check_arm(facts, str(value))
    if kind == "seeds" and not facts.may_grow:
        why = "it is several studies at once, a noise floor, or decides seed by seed (--seeds auto)"
        raise LabError(f"{folder.name} takes no further seeds while it runs: {why}", exit_code=2)
    if kind == "seeds" and int(value or 0) <= facts.seeds:
        raise LabError(f"study {folder.name} runs {facts.seeds} seeds already; ask for more than that", exit_code=2)
    if kind == "seeds" and int(value or 0) > TUNING_SEED:
        raise LabError(f"{value} seeds: those from {TUNING_SEED} on are for tuning", exit_code=2)
    request = Request(
        run=facts.run,
        kind=kind,
        arm=str(value) if kind in ("stop_arm", "skip_arm") else None,
        seeds=int(value or 0) if kind == "seeds" else None,
    )
    try:
        with (folder / REQUESTS).open("a", encoding="utf-8") as file:
            file.write(request.model_dump_json() + "\n")
    except OSError as error:
        raise LabError(f"{folder / REQUESTS} cannot be written: {error.strerror}", exit_code=3) from error
    return f"asked process {facts.pid} on {facts.host}: {words(request)}"


def _check_arm(facts: RunFacts, arm: str) -> None:
    if arm not in facts.arms:
        raise LabError(f"{arm!r} is none of the arms: {', '.join(facts.arms)}", exit_code=2)
    if arm == facts.baseline:
        raise LabError(f"{arm} is the baseline, which every comparison needs; use --stop for the study", exit_code=2)


def words(request: Request) -> str:
    """Says in words what a request asks for."""
    later = "the same command goes on with them later"
    return {
        "stop": "stop between two batches, as Ctrl-C does",
        "stop_arm": f"stop the running trials of arm {request.arm} and begin no other of it; {later}",
        "skip_arm": f"begin no other trial of arm {request.arm}; {later}",
        "seeds": f"go on to {request.seeds} seeds per arm",
    }[request.kind]


class Steering:
    """The driver's side: what has been asked of its run so far.

    Attributes:
        stop: Whether the study is to stop.
        skipped: Arms of which no other trial is begun.
        stopped: Those of them whose running trials are stopped too.
        seeds: Seeds per arm that were asked for; 0 where none were.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """Nothing is asked yet.

        Args:
            folder: The study's folder.
            run: `RunFacts.run` of this driver.
        """
        self._path, self._run, self._read = folder / REQUESTS, run, 0
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
                self.skipped.add(request.arm)
                if request.kind == "stop_arm":
                    self.stopped.add(request.arm)
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
