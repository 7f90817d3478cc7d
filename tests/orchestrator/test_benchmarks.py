"""Every benchmark that the page lists runs, in small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Lab

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests" / "benchmarks" / "README.md"
# 名称：(最小的参数, 必有的输出)；DIR 换成一个新文件夹
SMALL = {
    "core": (
        "--parts norm,steps,towers,seeds,gather,prepare --threads 1 --batch 2 --rounds 1 --images 8",
        "torch's best over ours",
    ),
    "device": (
        "--device cpu --batches 1 --precisions float32 --rounds 1 --steps 1 --images 2",
        "Loader, from the page cache through one thread",
    ),
    "scale": ("DIR --trials 8 --arms 2", "the whole answer again"),
    "generated_records": ("DIR --trials 80 --epochs 2 --rounds 1", "report:"),
    "crossed_effects": ("--studies 2", "lowest coverage: "),
    "statistics": ("--studies 20", "highest rate:"),
    "sweeps": ("--told 5", "gp: ms per ask after so many points: 5:"),
}
# 真起 Ray 的：同样是最小的参数，必有的输出
WITH_RAY = {
    "orchestration": (
        "--parts scheduler --sleepers 6",
        r"6 trials of 0\.5 s asleep in 2 slots: a slot waits .*per trial",
    ),
    "cores": ("--seeds 2", r'{"core": \d.*, "script": \d.*, "script alone": 0\.\d+}'),
    "preemption": ("0.1 --images 8 --batch 4", r"exit code 130 after .* have a checkpoint; the longest stop took"),
    "cluster": ("--nodes 1 --trials 2", r"exit code 0; 2 of 2 trials in \d+ s.*2 slots, each took \[1, 1\]"),
    "chaos": ("--minutes 0.1 --gap 1 5 --studies walk --seeds 1", r'"studies": 1.* "troubles": 0'),
}
# 它们的 1 是丢了什么，不是慢
UNTIMED = {"cluster", "chaos"}


def test_every_benchmark_of_the_page_has_a_small_run() -> None:
    shown = set(re.findall(r"^\| `python -m tests\.benchmarks\.(\w+)", PAGE.read_text(), re.MULTILINE))
    assert shown == SMALL.keys() | WITH_RAY.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path) -> None:
    arguments, line = SMALL[name]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments.replace("DIR", str(tmp_path / "new")).split()],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    # 1 是比界限慢：这里不量时间
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # 被略过的记录，量起来总是很快
    assert "result.json" not in done.stderr
    assert line in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WITH_RAY)
def test_a_benchmark_with_ray_runs_to_its_end(name: str, lab: Lab) -> None:
    arguments, said = WITH_RAY[name]
    code, output, errors = lab.run(
        *arguments.split(), module=f"tests.benchmarks.{name}", timeout=1100, PYTHONPATH=str(ROOT)
    )
    # 1 是比界限慢：这里不量时间
    assert code == 0 or (code == 1 and name not in UNTIMED), output + errors
    assert "Traceback" not in output + errors
    assert re.search(said, output, re.DOTALL), output + errors
