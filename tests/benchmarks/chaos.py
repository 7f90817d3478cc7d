"""Real studies under random faults: `python -m tests.benchmarks.chaos --minutes 30`, of AlexNet and of a user's core.

The two studies take turns. Driver, train workers, Train controllers, Tune actors, broker, raylet and GCS are killed at
random moments, or stopped for some seconds. The same command is given again until the study has its answer; then its
table must be the one of an undisturbed run. Prints one JSON line; exit code 1 when anything was lost, trained twice,
left behind or unlike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import psutil

from tests.lab import Lab, left_behind
from tests.made_cores import write_walk

ALWAYS = ("--no-dashboard", "--retry-failed")
STUDIES = ("lrn", "walk")
# 进程标题里的字样；driver 单独处理
TARGETS = {
    "train worker": "ray::RayTrainWorker",
    "Train controller": "ray::TrainController",
    "Tune actor": "ray::ImplicitFunc",
    "broker": "ray::Broker",
    "raylet": "raylet",
    "GCS": "gcs_server",
}
NUMBERS = ["key", "seed", "state", "epochs", "objective", "judged"] + [
    f"{split}_{name}"
    for split in ("train", "validation", "test")
    for name in ("loss", "top1_errors", "top5_errors", "count")
]
LONGEST_COMMAND = 420.0
ORPHAN_SECONDS = 30.0


class Command:
    """One start of the study, whose output is read on the way so that no pipe fills up."""

    def __init__(self, lab: Lab, study: Sequence[str]) -> None:
        self.process = lab.start(*study, "--results", str(lab.results))
        self.started = time.monotonic()
        self.output = self.errors = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.output, self.errors = self.process.communicate()

    def ended(self) -> int | None:
        return self.process.poll()

    def wait_for_output(self) -> None:
        """Until the last process that holds the pipes has gone."""
        self._reader.join(ORPHAN_SECONDS)


class Chaos:
    """Faults and what came of them."""

    def __init__(self, folder: Path, seed: int, gap: tuple[float, float]) -> None:
        self._folder, self._random, self._gap = folder, random.Random(seed), gap
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.troubles: list[str] = []

    def run(self, names: Sequence[str], trials: int, seconds: float) -> None:
        """Studies of so many seeds under faults until the time is over; the last is brought to its end without any."""
        asked = [(*self._options(name), "--seeds", str(trials), *ALWAYS) for name in names]
        studies = [(study, self._undisturbed(study)) for study in asked]
        end = time.monotonic() + seconds
        for study, undisturbed in itertools.cycle(studies):
            if time.monotonic() >= end:
                return
            self._study(study, undisturbed, end)

    def _options(self, name: str) -> Sequence[str]:
        """A study of AlexNet, or one of a user's core, which every command is allowed to run."""
        if name != "walk":
            return ("--study", name, "--epochs", "16")
        return ("--study", str(write_walk(self._folder / "user")), "--core", "walk.py")

    def _new_lab(self) -> Lab:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        (folder / "home").mkdir()
        return Lab(folder / "home", folder / "results")

    def _undisturbed(self, study: Sequence[str]) -> pl.DataFrame:
        lab = self._new_lab()
        command = Command(lab, study)
        command.process.wait()
        command.wait_for_output()
        assert command.ended() == 0, command.output + command.errors
        return _table(lab)

    def _study(self, study: Sequence[str], undisturbed: pl.DataFrame, end: float) -> None:
        """One study from its first command to its answer."""
        lab, finished, code = self._new_lab(), dict[str, int](), None
        while code != 0:
            command = Command(lab, study)
            self.counts["commands"] += 1
            while command.ended() is None:
                if time.monotonic() - command.started > LONGEST_COMMAND:
                    self._trouble(f"a command hung for {LONGEST_COMMAND:.0f} s")
                    command.process.kill()
                if time.monotonic() < end:
                    self._pause(command)
                    self._fault(lab, command)
                else:
                    time.sleep(0.5)
                finished = self._compare(lab, finished)
            code = command.ended()
            self._look_for_orphans(lab)
            command.wait_for_output()
            self.counts[f"exit {code}"] += 1
            if code not in (0, 1, 3, -signal.SIGKILL) or "Traceback" in command.output + command.errors:
                self._trouble(f"exit {code}: {command.output[-1500:]} {command.errors[-1500:]}")
            finished = self._compare(lab, finished)
        self.counts["studies"] += 1
        if not _table(lab).equals(undisturbed):
            self._trouble(f"another table than undisturbed: {lab.results}")

    def _pause(self, command: Command) -> None:
        until = time.monotonic() + self._random.uniform(*self._gap)
        while time.monotonic() < until and command.ended() is None:
            time.sleep(0.1)

    def _fault(self, lab: Lab, command: Command) -> None:
        """Kills or stops one process that is there; in the driver, too."""
        # 会结束整个命令的（驱动、代理、raylet、GCS）少一些，否则时间都花在启动上
        name = self._random.choices(["driver", *TARGETS], weights=[1, 2, 2, 2, 1, 1, 1])[0]
        if command.ended() is not None:
            return
        victims = [psutil.Process(command.process.pid)] if name == "driver" else lab.processes(TARGETS[name])
        if not victims:
            return
        victim, stops = self._random.choice(victims), self._random.random() < 0.4
        try:
            if stops:
                victim.suspend()
                time.sleep(self._random.uniform(1.0, 10.0))
                victim.resume()
            else:
                victim.kill()
        except psutil.Error:
            return
        what = f"{name} {'stopped' if stops else 'killed'}"
        self.faults[what] += 1
        print(f"{time.strftime('%H:%M:%S')} {what} (process {victim.pid})", file=sys.stderr, flush=True)

    def _compare(self, lab: Lab, before: dict[str, int]) -> dict[str, int]:
        """Compares the finished records with those seen before; returns them as they are now."""
        now = {}
        for path in lab.results.glob("trials/*/result.json"):
            result = json.loads(path.read_text())
            # 失败的 trial 按 --retry-failed 会再训练，不算丢也不算重复
            if result["state"] != "failed":
                now[path.parent.name] = path.stat().st_mtime_ns
        for key, stamp in before.items():
            if key not in now:
                self.counts["records lost"] += 1
                self._trouble(f"the record of {key} is gone")
            elif now[key] != stamp:
                self.counts["trials trained twice"] += 1
                self._trouble(f"{key} was trained again")
        return now

    def _look_for_orphans(self, lab: Lab) -> None:
        left = left_behind(lab, ORPHAN_SECONDS)
        self.counts["orphans"] += len(left)
        if left:
            self._trouble(f"left behind: {left}")

    def _trouble(self, text: str) -> None:
        self.troubles.append(text)
        print(f"trouble: {text}", file=sys.stderr, flush=True)


def _table(lab: Lab) -> pl.DataFrame:
    return pl.read_parquet(lab.results / "tables" / "trials.parquet").select(NUMBERS).sort("key")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chaos; 1 when something was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chaos")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long faults happen (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and victims")
    parser.add_argument("--gap", type=float, nargs=2, default=(2.0, 20.0), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--studies", default=",".join(STUDIES), help="of lrn,walk, in turns (default: both)")
    parser.add_argument("--seeds", type=int, default=3, help="trials of each arm (default: 3)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        chaos = Chaos(Path(folder), options.seed, tuple(options.gap))
        chaos.run(options.studies.split(","), options.seeds, 60.0 * options.minutes)
    always = {"records lost": 0, "trials trained twice": 0, "orphans": 0}
    restarts = chaos.counts["commands"] - chaos.counts["studies"]
    survived = {"faults": chaos.faults.total(), "restarts": restarts, "recovered": chaos.faults.total() - restarts}
    shown = {**survived, **always, **chaos.counts, "troubles": len(chaos.troubles)}
    print(json.dumps({**shown, "by kind": dict(sorted(chaos.faults.items()))}))
    return int(bool(chaos.troubles))


if __name__ == "__main__":
    sys.exit(main())
