"""Times the answer from many records: `python -m tests.benchmarks.generated_records DIR --trials 10000 --epochs 90`.

Generates a results folder that passes every check of the real one, builds its tables once, and times two commands as
processes: `python -m orchestrator.best` (bound: 2 s) and `python -m orchestrator.report` (10 s and 1 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.data.loading import summarise_data
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import write_plan
from orchestrator.records import trial_record
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.tables.tables import update_tables
from search_spaces.arm import Arm
from search_spaces.study import load_study
from search_spaces.trial import PlannedTrial, canonical_json, unfold
from tests.made_records import make_config

ARMS = 40
STUDY = "generated"
BEST_SECONDS, REPORT_SECONDS, REPORT_MB = 2.0, 10.0, 1000


def generate(results: Path, trials: int, epochs: int) -> None:
    """Writes `trials` finished trials of `epochs` epochs: a study of 40 arms with as many seeds as that takes."""
    random = np.random.default_rng(0)
    plan = _plan(-(-trials // ARMS), epochs)
    planned = plan.trials[:trials]
    for trial in planned:
        wrong = int(random.integers(5, 60))
        folder = results / "trials" / trial.key
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(canonical_json(trial.config))
        (folder / "epochs.jsonl").write_text(curve(epochs, wrong))
        (folder / "result.json").write_text(made_result(trial, epochs, wrong).model_dump_json(indent=1))
    folder = results / "studies" / STUDY
    write_plan(folder, plan, ["ablate.py", "--study", STUDY])
    members = [json.dumps(trial_record.membership(STUDY, "digits", trial)) + "\n" for trial in planned]
    (folder / "members.jsonl").write_text("".join(members))


def _plan(seeds: int, epochs: int) -> Plan:
    lrn = load_study("lrn")
    fields = [{"training.learning_rate": 0.01, "training.weight_decay": 1e-5 * arm} for arm in range(ARMS)]
    arms = tuple(Arm(name=f"arm_{arm}", title=f"arm {arm}", set=fields[arm]) for arm in range(ARMS))
    study = lrn.model_copy(update={"name": STUDY, "baseline": "arm_0", "arms": arms, "sweep": None})
    base = make_config(epochs=epochs).model_copy(update={"network": _mini()})
    return Plan(
        study=study,
        dataset="digits",
        recipe=study.recipes["digits"],
        summary=summarise_data("digits"),
        base=base,
        trials=unfold(study, base, range(seeds)),
        seeds=tuple(range(seeds)),
        sweep_points=0,
    )


def _mini() -> NetworkSpec:
    return network("alexnet-mini").model_copy(update={"input_size": 16})


@lru_cache(maxsize=256)
def curve(epochs: int, wrong: int) -> str:
    """An `epochs.jsonl` of so many epochs that ends with `wrong` of 360 images."""
    errors = [min(360, wrong + 300 // epoch) for epoch in range(1, epochs)]
    lines = [_epoch(epoch, _metrics(left)) for epoch, left in enumerate(errors, start=1)]
    return "".join((*lines, _epoch(epochs, _metrics(wrong), test=_metrics(wrong))))


def _metrics(wrong: int) -> SplitMetrics:
    return SplitMetrics(loss_sum=wrong * 2.0, top1_errors=wrong, top5_errors=wrong // 4, count=360)


def _epoch(number: int, metrics: SplitMetrics, test: SplitMetrics | None = None) -> str:
    report = EpochReport(
        epoch=number,
        learning_rate=0.01,
        train=metrics,
        validation=metrics,
        test=test,
        seconds=0.3,
        images_per_second=4000.0,
    )
    return report.model_dump_json() + "\n"


def made_result(trial: PlannedTrial, epochs: int, wrong: int) -> TrialResult:
    """The result of a finished trial with `wrong` of 360 images."""
    metrics = _metrics(wrong)
    return TrialResult(
        key=trial.key,
        state=TrialState.FINISHED,
        seed=trial.seed,
        epochs=epochs,
        train=metrics,
        validation=metrics,
        test=metrics,
        seconds=0.3 * epochs,
        images_per_second=4000.0,
        attempts=1,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:27+00:00",
        environment={"device": "cpu", "torch": "2.15", "threads": 1},
    )


def timed(command: str, *arguments: str) -> tuple[float, float]:
    """Returns wall seconds and peak memory in MB of one of our commands as a process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", command, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with exit code {process.returncode}")
    # Linux 以 KiB 计
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 when it is slower than the bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generated_records")
    parser.add_argument("folder", type=Path, help="a new folder; one that was generated before is used again")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=3, help="reports; best runs twice as often (default: 3)")
    options = parser.parse_args(arguments)
    if not options.folder.exists():
        start = time.perf_counter()
        generate(options.folder, options.trials, options.epochs)
        print(f"generated {options.trials} trials of {options.epochs} epochs: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    update_tables(options.folder, rebuild=True)
    print(f"tables made from all records: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    update_tables(options.folder)
    print(f"tables brought up to date, nothing new: {time.perf_counter() - start:.2f} s")
    seconds = [timed("orchestrator.best", "--results", str(options.folder))[0] for _ in range(2 * options.rounds)]
    print(f"best: {min(seconds):.2f} to {max(seconds):.2f} s, median {median(seconds):.2f} s")
    report = ("orchestrator.report", "--study", STUDY, "--results", str(options.folder))
    reports = [timed(*report) for _ in range(options.rounds)]
    slowest, largest = max(seconds for seconds, _ in reports), max(megabytes for _, megabytes in reports)
    print(f"report: {min(seconds for seconds, _ in reports):.2f} to {slowest:.2f} s, at most {largest:.0f} MB")
    missed = median(seconds) > BEST_SECONDS or slowest > REPORT_SECONDS or largest > REPORT_MB
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
