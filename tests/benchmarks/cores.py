"""What a trial of another core costs beside its own work: `uv run python -m tests.benchmarks.cores`.

A core that only reports, and a script that only prints, are trained by the hundred in one warm slot. Prints one JSON
line: seconds from the end of one trial to the end of the next (medians), and what the script takes alone. The bounds
are 0.1 s for the core, and for the script 0.3 s over what it takes alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.lab import Lab, clear

CORE = """
from pydantic import BaseModel, ConfigDict

from orchestrator import Core, Metric


class Config(BaseModel):
    model_config = ConfigDict(frozen=True)
    shift: float = 0.0


def train(config, run):
    yield {"validation_loss": config.shift + run.seed % 7, "test_loss": config.shift + run.seed % 5}


core = Core(
    name="trivial", version=1, config=Config, train=train, gpus=0,
    metrics={"validation_loss": Metric(), "test_loss": Metric()}, chosen_by="validation_loss", judged_by="test_loss",
)
"""
SCRIPT = 'echo "{\\"report\\": 1, \\"validation_loss\\": $1, \\"test_loss\\": $2}"\n'
DECLARED = """core:
  name: script
  command: [sh, trivial.sh, "{shift}", "{seed}"]
  parameters: {shift: 0.5}
  metrics: {validation_loss: {}, test_loss: {}}
  chosen_by: validation_loss
  judged_by: test_loss
  files: [trivial.sh]
  gpus: 0
"""
STUDY = """
question: What does a trial cost?
source: this file
claim: {statement: Nothing., source: this file, direction: lower}
baseline: a
arms:
  - {name: a, title: a}
  - {name: b, title: b, set: {shift: 1}}
recipes:
  default: {seeds: SEEDS, margin: 0.01, smallest_effect: 0.02}
"""
KINDS = {"core": "trivial.py", "script": "script"}
BOUNDS = {"core": 0.1, "script": 0.3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the studies; 1 when one of them does not answer, or a trial takes longer than its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cores")
    parser.add_argument("--seeds", type=int, default=50, help="trials of each of two arms (default: 50)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of core,script (default: both)")
    options = parser.parse_args(arguments)
    study = STUDY.replace("SEEDS", str(options.seeds))
    with tempfile.TemporaryDirectory(prefix="cores-") as scratch:
        folder = Path(scratch)
        (folder / "trivial.py").write_text(CORE)
        (folder / "trivial.sh").write_text(SCRIPT)
        (folder / "of_core.yaml").write_text(f"core: trivial.py\nname: of_core{study}")
        (folder / "of_script.yaml").write_text(f"{DECLARED}name: of_script{study}")
        seconds: dict[str, float | None] = {
            **{kind: _seconds_between_ends(folder, f"of_{kind}", KINDS[kind]) for kind in options.kinds.split(",")},
            "script alone": _alone(folder),
        }
    print(json.dumps({name: None if value is None else round(value, 4) for name, value in seconds.items()}))
    return int(any(_is_slow(seconds, kind) for kind in seconds.keys() & KINDS.keys()))


def _is_slow(seconds: dict[str, float | None], kind: str) -> bool:
    """Whether a trial of a kind takes longer than its bound, over what its program takes alone."""
    took, alone = seconds[kind], seconds["script alone"] if kind == "script" else 0.0
    return took is None or alone is None or took - alone > BOUNDS[kind]


def _seconds_between_ends(folder: Path, study: str, core: str) -> float | None:
    lab = Lab(folder / f"home-{study}", folder / f"results-{study}")
    lab.home.mkdir()
    file = str(folder / f"{study}.yaml")
    code, output, errors = lab.ablate("--study", file, "--core", core, "--slots", "1", "--no-dashboard")
    clear(lab)
    if code:
        print(output + errors, file=sys.stderr)
        return None
    results = [json.loads(path.read_text()) for path in lab.results.glob("trials/*/result.json")]
    ends = sorted(datetime.fromisoformat(result["finished_at"]) for result in results)
    return statistics.median((later - end).total_seconds() for end, later in itertools.pairwise(ends))


def _alone(folder: Path, times: int = 20) -> float:
    took = []
    for seed in range(times):
        began = time.perf_counter()
        subprocess.run(["sh", "trivial.sh", "0.5", str(seed)], cwd=folder, check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
