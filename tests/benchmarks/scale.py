"""Times the commands on many records: `python -m tests.benchmarks.scale DIR --trials 1000,10000,100000`.

Each size gets a results folder of its own under DIR: one study of 100 arms (`--arms`), every trial on record with ten
epochs. Each command runs as a process; printed are its wall and CPU seconds and its largest memory. Folders are used
again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import write_plan
from orchestrator.records import trial_record
from search_spaces.study import load_study
from search_spaces.trial import PlannedTrial
from tests.benchmarks.generated_records import curve, made_result
from tests.made_plans import make_plan

ARMS = 100
EPOCHS = 10
BOUND_SECONDS, BOUND_BYTES = 10.0, 1e9
LARGEST_ANSWER = 10_000
HEAD = """name: scale
question: How do the commands grow?
source: benchmark
claim: {statement: none, source: none}
baseline: arm_0
recipes:
  digits: {seeds: 8, margin: 1.0, smallest_effect: 1.0}
arms:
"""
TABLES = "import sys; from pathlib import Path; from orchestrator.tables.tables import update_tables; "


def write_study(path: Path, arms: int) -> None:
    lines = [
        f"  - {{name: arm_{number}, title: arm {number}, set: {{training.weight_decay: {number / 1000 + 0.0005}}}}}\n"
        for number in range(arms)
    ]
    path.write_text(HEAD + "".join(lines))


def generate(results: Path, plan: Plan) -> None:
    """Writes every trial's record, and the plan and members of the study."""
    texts: dict[str, str] = {}
    for number, trial in enumerate(plan.trials):
        record(results, trial, texts, wrong=5 + number % 50)
    folder = results / "studies" / plan.study.name
    write_plan(folder, plan, ["ablate.py", "--study", "scale.yaml"])
    members = [json.dumps(trial_record.membership(folder.name, "digits", trial)) + "\n" for trial in plan.trials]
    (folder / "members.jsonl").write_text("".join(members))


def record(results: Path, trial: PlannedTrial, texts: dict[str, str], wrong: int) -> None:
    folder = results / "trials" / trial.key
    folder.mkdir(parents=True)
    if trial.arm not in texts:
        texts[trial.arm] = trial.config.model_copy(update={"seed": 0}).model_dump_json(indent=1)
    (folder / "config.json").write_text(texts[trial.arm].replace('"seed": 0', f'"seed": {trial.seed}'))
    (folder / "epochs.jsonl").write_text(curve(EPOCHS, wrong))
    (folder / "result.json").write_text(made_result(trial, EPOCHS, wrong).model_dump_json(indent=1))


def measure(arguments: Sequence[str]) -> tuple[float, float, float]:
    """Runs a Python command; returns wall seconds, CPU seconds and the largest resident memory in bytes."""
    start = time.perf_counter()
    # 不用管道：没人读的管道满了，命令就再也不结束
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read(2000).decode(errors="replace")
    # 一句话也不该有：被略过的记录，量起来总是很快
    if process.returncode != 0 or said:
        raise SystemExit(f"{arguments}: exit code {process.returncode}\n{said}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024.0


def commands(results: Path, study_file: Path, seeds: int, empty: Path) -> dict[str, list[str]]:
    ablate = ["-m", "orchestrator.ablate", "--study", str(study_file), "--seeds", str(seeds), "--epochs", str(EPOCHS)]
    where = ["--results", str(results)]
    return {
        "plan, nothing on record": [*ablate, "--dry-run", "--results", str(empty)],
        "tables, all new": ["-c", TABLES + "update_tables(Path(sys.argv[1]), rebuild=True)", str(results)],
        "tables, ten new": ["-c", TABLES + "update_tables(Path(sys.argv[1]))", str(results)],
        "tables, nothing new": ["-c", TABLES + "update_tables(Path(sys.argv[1]))", str(results)],
        "--dry-run, nothing new": [*ablate, "--dry-run", *where],
        "best": ["-m", "orchestrator.best", *where],
        "status": ["-m", "orchestrator.status", "scale", *where],
        "the whole answer again": [*ablate, *where],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; 1 when a command with nothing new is over its bounds, at whichever size."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", default="1000,10000,100000")
    parser.add_argument("--arms", type=int, default=ARMS)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    study_file = options.folder / "scale.yaml"
    write_study(study_file, options.arms)
    over = False
    print(f"{'trials':>7}  {'command':26} {'wall s':>7} {'CPU s':>7} {'MB':>6}")
    for size in [int(text) for text in options.trials.split(",")]:
        results = options.folder / str(size)
        plan = make_plan(load_study(str(study_file)), size // options.arms, epochs=EPOCHS)
        if not results.exists():
            generate(results, plan)
        for name, parts in commands(results, study_file, size // options.arms, options.folder / "empty").items():
            if name == "the whole answer again" and size > LARGEST_ANSWER:
                continue  # not asked for: it draws a figure of 100 arms by 1,000 seeds
            if name == "tables, ten new":
                for trial in plan.trials[:10]:
                    (results / "trials" / trial.key / "result.json").touch()
            wall, processor, memory = measure(parts)
            print(f"{size:>7}  {name:26} {wall:7.2f} {processor:7.2f} {memory / 1e6:6.0f}", flush=True)
            bound = name.endswith("nothing new") or name in ("best", "status")
            over |= bound and (wall > BOUND_SECONDS or memory > BOUND_BYTES)
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
