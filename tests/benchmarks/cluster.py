"""`python -m tests.benchmarks.cluster`: 500 short trials in 16 slots on 8 logical nodes.

Prints the seconds, the attempts and how evenly the slots worked; asserts that every trial finished once. With
`--lose-a-node` one dies and one joins in the middle. It needs some 20 GB of memory: every slot is six processes, one of
them with torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.orchestration import STUDY, spin_seconds
from tests.lab import Lab, left_behind, wait_until
from tests.logical_cluster import nodes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 when a trial is missing or processes are left."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster")
    parser.add_argument("--nodes", type=int, default=8, help="nodes of two GPUs each, one GPU per slot")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument(
        "--lose-a-node", action="store_true", help="remove a node when a fifth has ended, add one later"
    )
    options = parser.parse_args(arguments)
    print(f"spin loop: {spin_seconds():.2f} s")
    with tempfile.TemporaryDirectory() as text:
        lab = Lab(Path(text) / "home", Path(text) / "results")
        lab.home.mkdir()
        study = Path(text) / "bench.yaml"
        study.write_text(STUDY.format(epochs=1))
        start = time.monotonic()
        with nodes(lab, json.dumps([2] * options.nodes)) as cluster:
            process = lab.start(
                *("--study", str(study), "--seeds", str(options.trials // 2), "--address", cluster.address),
                *("--gpus-per-worker", "1", "--device", "cpu", "--results", str(lab.results)),
                RAY_AUTH_MODE="token",
            )
            if options.lose_a_node and _came_to(lab, process, options.trials // 5):
                cluster.tell("remove", options.nodes - 1)
                if _came_to(lab, process, options.trials // 2):
                    cluster.tell("add", 2)
            output, errors = process.communicate(timeout=3600)
        took = time.monotonic() - start
        results = [json.loads(path.read_text()) for path in lab.results.glob("trials/*/result.json")]
        slots = Counter(result["environment"]["slot"] for result in results)
        attempts = Counter(result["attempts"] for result in results)
        print(output[-2000:] + errors[-2000:])
        print(f"exit code {process.returncode}; {len(results)} of {options.trials} trials in {took:.0f} s")
        print(f"attempts: {dict(sorted(attempts.items()))}; {len(slots)} slots, each took {sorted(slots.values())}")
        left = left_behind(lab)
        return int(process.returncode != 0 or len(results) != options.trials or bool(left))


def _came_to(lab: Lab, process: subprocess.Popen[str], trials: int) -> bool:
    """Waits until so many trials have ended, or the study has."""
    wait_until(lambda: process.poll() is not None or len(lab.finished()) > trials, 3600, f"{trials} trials")
    return process.poll() is None


if __name__ == "__main__":
    sys.exit(main())
