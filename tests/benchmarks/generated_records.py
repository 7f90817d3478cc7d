"""Times the answer from many records: `python -m tests.benchmarks.generated_records DIR --trials 10000 --epochs 90`.

Generates a results folder that passes every check of the real one, builds its tables once, and times
`python -m orchestrator.best` as a process. The bound is 2 s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_core.metrics import EpochReport, SplitMetrics
from alexnet_core.networks import network
from alexnet_core.specification import NetworkSpec
from orchestrator import records
from orchestrator.records import TrialResult, TrialState
from orchestrator.tables import update_tables
from search_spaces.trial import PlannedTrial, canonical_json, trial_key
from tests.made_records import make_config

SEEDS = 8
STUDY = "generated"
BOUND_SECONDS = 2.0


def generate(results: Path, trials: int, epochs: int) -> None:
    """Writes `trials` finished trials of `epochs` epochs, eight seeds of each configuration."""
    random = np.random.default_rng(0)
    lines = curve(epochs)
    planned = []
    for number in range(trials):
        seed, configuration = number % SEEDS, number // SEEDS
        config = make_config(seed, epochs=epochs, learning_rate=0.001 * (1 + configuration))
        spec = config.network if configuration % 2 else _mini()
        config = config.model_copy(update={"network": spec})
        trial = PlannedTrial(f"arm_{configuration % 40}", seed, "arm", config, trial_key(config))
        wrong = int(random.integers(5, 60))
        folder = results / "trials" / trial.key
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(canonical_json(config))
        (folder / "epochs.jsonl").write_text(lines)
        (folder / "result.json").write_text(made_result(trial, epochs, wrong).model_dump_json(indent=1))
        planned.append(trial)
    members = [json.dumps(records.membership(STUDY, "digits", trial)) + "\n" for trial in planned]
    folder = results / "studies" / STUDY
    folder.mkdir(parents=True)
    (folder / "members.jsonl").write_text("".join(members))


def _mini() -> NetworkSpec:
    return network("alexnet-mini")


def curve(epochs: int) -> str:
    """An `epochs.jsonl` of so many epochs."""
    lines = []
    for epoch in range(1, epochs + 1):
        wrong = 5 + 300 // epoch
        metrics = SplitMetrics(loss_sum=wrong * 2.0, top1_errors=wrong, top5_errors=wrong // 4, count=360)
        report = EpochReport(
            epoch=epoch,
            learning_rate=0.01,
            train=metrics,
            validation=metrics,
            seconds=0.3,
            images_per_second=4000.0,
        )
        lines.append(report.model_dump_json() + "\n")
    return "".join(lines)


def made_result(trial: PlannedTrial, epochs: int, wrong: int) -> TrialResult:
    """The result of a finished trial with `wrong` of 360 images."""
    metrics = SplitMetrics(loss_sum=wrong * 2.0, top1_errors=wrong, top5_errors=wrong // 4, count=360)
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


def time_best(results: Path) -> float:
    """Returns the wall seconds of `python -m orchestrator.best` as a process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator.best", "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 when it is slower than the bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generated_records")
    parser.add_argument("folder", type=Path, help="a new folder; one that was generated before is used again")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=90)
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
    seconds = [time_best(options.folder) for _ in range(5)]
    print(f"best: {min(seconds):.2f} to {max(seconds):.2f} s, median {sorted(seconds)[2]:.2f} s")
    return int(sorted(seconds)[2] > BOUND_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
