"""`python -m tests.benchmarks.preemption`: SIGTERM while two slots train `alexnet-paper` at 224 pixels on the CPU.

Sends it at some moments of a batch and prints the seconds until the command has ended; asserts exit code 130 (aim: at
most 20 s) and that the same command goes on from the checkpoints. The photographs are noise: what counts is their size.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.orchestration import spin_seconds
from tests.lab import Lab, wait_until

STUDY = ("--study", "pooling", "--network", "alexnet-paper", "--seeds", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 when a stop took longer than it may, or lost its checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.preemption")
    parser.add_argument("moments", type=float, nargs="*", default=[2.0, 6.0, 10.0], help="seconds after the first step")
    parser.add_argument("--batch", type=int, default=128, help="images of a batch (default: 128)")
    parser.add_argument("--images", type=int, default=320, help="of each of two classes (default: 320)")
    options = parser.parse_args(arguments)
    batch = ("--set", f"training.batch_size={options.batch}")
    with tempfile.TemporaryDirectory() as text:
        lab = Lab(Path(text) / "home", Path(text) / "results")
        lab.home.mkdir()
        _make_images(Path(text) / "images", {"train": options.images, "val": 16})
        where = ("--dataset", "imagefolder", "--data-root", str(Path(text) / "images"))
        took = [_seconds_to_end(lab, (*STUDY, *batch, *where), moment) for moment in options.moments]
        checkpoints = {path.parents[1].name for path in lab.results.glob("trials/*/checkpoint/*.safetensors")}
    print(f"two slots; {len(checkpoints)} trials have a checkpoint; the longest stop took {max(took):.1f} s")
    return int(max(took) > 20 or len(checkpoints) != 2)


def _make_images(root: Path, images_per_class: Mapping[str, int]) -> None:
    random = np.random.default_rng(0)
    for split, count in images_per_class.items():
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (256, 256, 3), np.uint8)).save(
                    root / split / name / f"{number}.jpg"
                )


def _seconds_to_end(lab: Lab, study: Sequence[str], moment: float) -> float:
    starts = _starts(lab)
    where = ("--slots", "2", "--no-dashboard", "--results", str(lab.results))
    process = lab.start(*study, "--epochs", "2", *where)
    wait_until(lambda: process.poll() is not None or _starts(lab) > starts, 300, "the first training step")
    time.sleep(moment)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    took = time.monotonic() - begun
    assert process.returncode == 130, output + errors
    print(
        f"SIGTERM {moment:g} s after the first step: exit code 130 after {took:.1f} s; spin loop {spin_seconds():.2f} s"
    )
    return took


def _starts(lab: Lab) -> int:
    return sum(path.read_text().count("first training step") for path in lab.results.glob("studies/*/driver.log"))


if __name__ == "__main__":
    sys.exit(main())
