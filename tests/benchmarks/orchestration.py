"""`python -m tests.benchmarks.orchestration`: what a trial costs beyond its training, with a spin loop beside it.

Prints figures and ratios and asserts none of them. Every part runs real commands in a results folder of its own.

    --parts study,warm,nesting,answer,memory,scheduler   (default: all; `memory` runs 200 trials in one slot,
                                                          `scheduler` 400 that only sleep)
    --sleepers N                                         (default: 400; fewer show that it runs, and little else)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

STUDY = """
name: bench
question: What does a further trial cost?
source: benchmark
claim: {{statement: none, source: none}}
baseline: a
arms:
  - {{name: a, title: one}}
  - {{name: b, title: two, set: {{training.momentum: 0.8}}}}
recipes:
  digits:
    data: {{source: digits, image_size: 16}}
    network: alexnet-mini
    input_size: 16
    training: {{epochs: {epochs}, batch_size: 48, learning_rate: 0.008, flips: false, schedule: {{kind: steps}}}}
    margin: 1.0
    smallest_effect: 1.0
"""
NESTING = """
import os, sys, time
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
from ray import tune
import ray
def loop(config):
    import ray.train
    ray.train.report({"error": 0.5})
def trial(config):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    TorchTrainer(loop, torch_config=TorchConfig(backend="gloo"), scaling_config=ScalingConfig(num_workers=1),
                 run_config=RunConfig(storage_path=config["storage"])).fit()
    tune.report({"error": 0.5})
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
start = time.monotonic()
tune.Tuner(tune.with_resources(trial, {"CPU": 1}),
           param_space={"i": tune.grid_search(list(range(2))), "storage": sys.argv[1]},
           tune_config=tune.TuneConfig(max_concurrent_trials=1),
           run_config=tune.RunConfig(storage_path=sys.argv[1], verbose=0)).fit()
print("seconds", time.monotonic() - start)
"""

SCHEDULED, SCHEDULED_SLOTS = 400, 2
SECONDS_ASLEEP, SECONDS_OF_A_TRIAL = 0.5, 5.0


def spin_seconds() -> float:
    """Seconds of ten million additions: how fast this core is right now."""
    start = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - start


def command(*arguments: str) -> tuple[float, str]:
    start = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - start, done.stdout


def ablate(results: Path, *arguments: str) -> tuple[float, str]:
    return command("-m", "orchestrator.ablate", "--results", str(results), "--no-dashboard", *arguments)


def trial_results(results: Path) -> list[dict[str, object]]:
    paths = sorted(results.glob("trials/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in paths]


def bench_study(folder: Path) -> None:
    seconds, output = ablate(folder / "study", "--study", "lrn")
    first_step = re.search(r"first training step after ([\d.]+) s", output)
    print(f"default study, fresh results: {seconds:.0f} s wall (aim: at most 180)")
    print(f"first training step after {first_step.group(1) if first_step else '?'} s (aim: 25)")


def bench_warm(folder: Path) -> float:
    study = folder / "bench.yaml"
    study.write_text(STUDY.format(epochs=2))
    results = folder / "warm"
    ablate(results, "--study", str(study), "--seeds", "20", "--slots", "1")
    rows = trial_results(results)
    ended = [_seconds(str(row["finished_at"])) for row in rows]
    trained = [float(str(row["seconds"])) for row in rows]
    beyond = [end - before - seconds for before, end, seconds in zip(ended, ended[1:], trained[1:], strict=False)]
    beyond.sort()
    middle = beyond[len(beyond) // 2]
    print(f"a further trial in a warm slot: {middle:.3f} s beyond its training (median of {len(beyond)}; aim 0.2)")
    print(f"    largest {beyond[-1]:.3f} s; mean training {sum(trained) / len(trained):.2f} s")
    return middle


def _seconds(iso: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(iso).timestamp()


def bench_nesting(folder: Path) -> float:
    _, output = command("-c", NESTING, str(folder / "nesting"))
    per_trial = float(output.split("seconds")[1]) / 2
    print(f"the documented nesting (a Tune function calling TorchTrainer.fit()): {per_trial:.1f} s per trial")
    return per_trial


def bench_answer(folder: Path) -> None:
    results = folder / "study"
    if not results.exists():
        ablate(results, "--study", "lrn")
    seconds, output = ablate(results, "--study", "lrn")
    print(f"nothing missing: answered from the records in {seconds:.2f} s (aim: at most 5); {output.splitlines()[0]}")


def bench_memory(folder: Path) -> None:
    study = folder / "bench.yaml"
    study.write_text(STUDY.format(epochs=1))
    results = folder / "memory"
    ablate(results, "--study", str(study), "--seeds", "100", "--slots", "1")
    rows = trial_results(results)
    memory = [int(str(row["environment"]["worker_memory_mb"])) for row in rows]  # type: ignore[index]
    pids = {row["environment"]["pid"] for row in rows}  # type: ignore[index]
    print(
        f"{len(rows)} trials in one slot, {len(pids)} process(es): {memory[0]} MB after the first, {memory[-1]} MB last"
    )


def bench_scheduler(folder: Path, sleepers: int) -> None:
    """What the orchestrator itself takes per trial: slots that only sleep, all else as in a study."""
    study = folder / "bench.yaml"
    study.write_text(STUDY.format(epochs=1))
    results = folder / "scheduler"
    place = ("--results", str(results), "--no-dashboard", "--slots", str(SCHEDULED_SLOTS))
    arguments = ("--study", str(study), "--seeds", str(sleepers // 2))
    busy = busy_seconds()
    seconds, _ = command("-m", "tests.benchmarks.instant_slots", str(SECONDS_ASLEEP), *place, *arguments)
    busy = busy_seconds() - busy
    ended = [_seconds(str(row["finished_at"])) for row in trial_results(results)]
    trials, loop = len(ended), ended[-1] - ended[0]
    each = loop / (trials - SCHEDULED_SLOTS) * SCHEDULED_SLOTS - SECONDS_ASLEEP
    rest = seconds - loop
    print(
        f"{trials} trials of {SECONDS_ASLEEP:g} s asleep in {SCHEDULED_SLOTS} slots: a slot waits {each:.3f} s between "
        f"two trials; start of Ray, tables, answer and report {rest:.0f} s; {busy / trials:.2f} s of CPU per trial, "
        "start and end included"
    )
    # 一个槽位、start 与 end 全部计入：最坏的情形
    extra, training = 1000 * each + rest, 1000 * SECONDS_OF_A_TRIAL
    print(
        f"    of 1,000 trials at {SECONDS_OF_A_TRIAL:g} s in one slot: {100 * each / SECONDS_OF_A_TRIAL:.1f} % per "
        f"trial, {100 * extra / (extra + training):.1f} % with start and end (aim: under 2)"
    )


def busy_seconds() -> float:
    """Seconds that the machine's cores have computed, for whom ever."""
    times = psutil.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="study,warm,nesting,answer,memory,scheduler")
    parser.add_argument("--sleepers", type=int, default=SCHEDULED, metavar="N", help="trials that only sleep")
    options = parser.parse_args()
    parts = options.parts.split(",")
    ratio: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        benches: dict[str, Callable[[Path], float | None]] = {
            "study": bench_study,
            "warm": bench_warm,
            "nesting": bench_nesting,
            "answer": bench_answer,
            "memory": bench_memory,
            "scheduler": partial(bench_scheduler, sleepers=options.sleepers),
        }
        for part in parts:
            print(f"spin loop: {spin_seconds():.2f} s", flush=True)
            figure = benches[part](folder)
            if figure is not None:
                ratio[part] = figure
            sys.stdout.flush()
    if {"warm", "nesting"} <= ratio.keys():
        print(f"nesting over warm slot: {ratio['nesting'] / max(ratio['warm'], 1e-3):.0f} times (aim: at least 50)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
