"""`python -m orchestrator.cores.checking.rehearsal`: a core's first reports, trained in a process of their own.

It reads a `Request` from its standard input and writes an `Outcome` to the file that the request names.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import KeptCode, load_kept
from orchestrator.cores.loading import mistake
from orchestrator.cores.training import Diverged, Place, StateFolder, TrainingFacts, train_core
from search_spaces.core_config import configuration_of

ENDLESS = 2**31


class Request(BaseModel):
    """What is to be rehearsed.

    Attributes:
        code: What the core is loaded by.
        fields: Fields of its configuration that are not at their defaults.
        seeds: One after the other, in this process.
        source_seeds: Of sources of randomness that have another one than usual.
        reports: How many of each.
        data_root: Folder of the data, or None.
        states: Where states are read and written, or None for nowhere.
        outcome: The file that the outcome is written to.
    """

    model_config = ConfigDict(frozen=True)

    code: KeptCode
    fields: dict[str, JsonValue] = {}
    seeds: tuple[int, ...] = (0,)
    source_seeds: dict[str, int] = {}
    reports: int
    data_root: Path | None = None
    states: Path | None = None
    outcome: Path


class Rehearsed(BaseModel):
    """The first reports of one seed.

    Attributes:
        reports: (number, metrics) of each.
        seconds: The longest time to a report.
        beats: Calls of `run.beat()`.
        saves: Calls of `run.save()`.
        mistake: What ended it, in one line; empty where nothing did.
        threads: Names of the threads that still ran at the process's end, of its last seed.
    """

    reports: list[tuple[int, dict[str, float]]] = []
    seconds: float = 0.0
    beats: int = 0
    saves: int = 0
    mistake: str = ""
    threads: list[str] = []


class Outcome(BaseModel):
    """What came of a request: the seeds' reports, in order."""

    rehearsed: list[Rehearsed] = []


def main() -> int:
    """Rehearses what its standard input asks for."""
    import torch

    request = Request.model_validate_json(sys.stdin.read())
    # 与槽位里一样：线程数不同，和的次序就不同
    torch.set_num_threads(1)
    outcome = Outcome()
    try:
        core = load_kept(request.code)
        config = configuration_of(core.config, request.fields)
        outcome.rehearsed = [_rehearsed(core, config, seed, request) for seed in request.seeds]
    except ContractError as error:
        outcome.rehearsed = [Rehearsed(mistake=str(error))]
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon]
    outcome.rehearsed[-1].threads = sorted(set(threads) - {threading.main_thread().name})
    request.outcome.write_text(outcome.model_dump_json())
    if outcome.rehearsed[-1].threads:
        # 否则解释器要等它们结束，也许永远等不到
        os._exit(0)
    return 0


def _rehearsed(core: Core, config: Any, seed: int, request: Request) -> Rehearsed:
    states = None
    if request.states is not None:
        states = StateFolder(request.states, keep=ENDLESS, least_seconds=0.0)
    facts, rehearsed = TrainingFacts(), Rehearsed()
    began = time.perf_counter()
    try:
        with closing(train_core(core, config, _place(core, seed, request), states, facts=facts)) as training:
            for report in islice(training, request.reports):
                rehearsed.reports.append((report.number, report.metrics))
                now = time.perf_counter()
                rehearsed.seconds, began = max(rehearsed.seconds, now - began), now
    except (ContractError, Diverged) as error:
        rehearsed.mistake = str(error)
    except Exception as error:
        rehearsed.mistake = f"train raised {mistake(error)}"
    rehearsed.beats, rehearsed.saves = facts.beats, facts.saves
    return rehearsed


def _place(core: Core, seed: int, request: Request) -> Place:
    import torch

    count = min(core.gpus, torch.cuda.device_count())
    devices = tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
    folder = None if request.states is None else request.states / "script"
    return Place(seed, devices, request.data_root, folder, request.source_seeds)


if __name__ == "__main__":
    sys.exit(main())
