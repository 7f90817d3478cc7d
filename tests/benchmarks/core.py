"""`python -m tests.benchmarks.core`: what the core's own parts cost beside the usual ones, on this machine.

Ratios of interleaved runs with a spin loop beside them; prints, and asserts nothing.

    --parts norm,steps,towers,seeds,gather,prepare   (default: all; `limit` prepares 200,000 JPEGs in 400 MB)
    --threads 1,2    --batch 32    --rounds 5    --images 2400 (of gather and prepare)

`python -m tests.benchmarks.device` measures a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.configuration.train_config import TrainingSpec
from alexnet_core.data.image_file import decode_image
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.prepared_folder import open_prepared
from alexnet_core.data.preparing.preparation import prepare, tree_source
from alexnet_core.model import alexnet
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.model.layers import local_response_norm
from alexnet_core.process.memory import MMAP_THRESHOLD, TRIM_THRESHOLD, settle_process
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups

Run = Callable[[], object]


def spin() -> float:
    """Seconds of a fixed piece of work that has nothing to do with us: how much machine there is just now."""
    start = time.perf_counter()
    total = 0
    for number in range(2_000_000):
        total += number
    return time.perf_counter() - start


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Medians of the seconds of each, all of them in every round."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    return {name: median(values) for name, values in taken.items()}


def torch_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float, **_: object) -> torch.Tensor:
    return F.local_response_norm(x, size, alpha * size, beta, k)


def without(spec: NetworkSpec, prefix: str) -> NetworkSpec:
    layers = [layer for layer in spec.model_dump()["layers"] if not layer["name"].startswith(prefix)]
    return NetworkSpec.model_validate({**spec.model_dump(), "layers": layers})


def step_of(spec: NetworkSpec, batch: int, device: str = "cpu", *, theirs: bool = False, overlaps: bool = True) -> Run:
    """One forward, backward and update; `theirs` takes torch's response norm, `overlaps` a GPU's stream per tower."""
    model = AlexNet(spec, (device, device)).train()
    model.overlaps_towers = overlaps
    initialise(model, 0)
    optimizer = MomentumSGD(parameter_groups(model, TrainingSpec(epochs=1)))
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    shape = (batch, spec.channels, spec.input_size, spec.input_size)
    images = (50 * torch.randn(shape)).contiguous(memory_format=torch.channels_last).to(device)
    labels = torch.arange(batch, device=device) % spec.classes
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        alexnet.local_response_norm = torch_norm if theirs else local_response_norm  # type: ignore[assignment]
        loss = F.cross_entropy(model(images, (0, count, 0)), labels)
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def grouped_step(batch: int) -> Run:
    """alexnet-paper as one network of grouped convolutions, with our response norm."""
    shapes = {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 9216),
        "fc7": (4096, 4096),
        "fc8": (1000, 4096),
    }
    weights = {name: torch.nn.Parameter(0.01 * torch.randn(shape)) for name, shape in shapes.items()}
    biases = {name: torch.nn.Parameter(torch.zeros(shape[0])) for name, shape in shapes.items()}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        weights[name].data = weights[name].data.contiguous(memory_format=torch.channels_last)
    optimizer = MomentumSGD([*weights.values(), *biases.values()], lr=1e-4)
    images = (50 * torch.randn(batch, 3, 224, 224)).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch)

    def conv(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return F.relu(F.conv2d(x, weights[name], biases[name], **how))

    def run() -> None:
        x = local_response_norm(conv(F.pad(images, (0, 3, 0, 3)), "conv1", stride=4), 5, 1e-4, 0.75, 2.0)
        x = conv(F.max_pool2d(x, 3, 2), "conv2", padding=2, groups=2)
        x = conv(F.max_pool2d(local_response_norm(x, 5, 1e-4, 0.75, 2.0), 3, 2), "conv3", padding=1)
        x = conv(conv(x, "conv4", padding=1, groups=2), "conv5", padding=1, groups=2)
        x = F.max_pool2d(x, 3, 2).flatten(1)
        for name in ("fc6", "fc7"):
            x = F.relu(F.linear(x, weights[name], biases[name]))
            x = x * (torch.rand_like(x) > 0.5)
        loss = F.cross_entropy(F.linear(x, weights["fc8"], biases["fc8"]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def norm_part(images: int, rounds: int) -> None:
    x = torch.randn(images, 96, 55, 55)
    last = x.contiguous(memory_format=torch.channels_last)

    def run(norm: Callable[..., torch.Tensor], given: torch.Tensor) -> Run:
        given = given.clone(memory_format=torch.preserve_format).requires_grad_()
        upstream = torch.ones_like(given)

        def both() -> None:
            given.grad = None
            norm(given, 5, 1e-4, 0.75, 2.0).backward(upstream)

        return both

    taken = interleaved(
        {
            "ours": run(local_response_norm, last),
            "ours, NCHW": run(local_response_norm, x),
            "torch": run(torch_norm, x),
            "torch, channels_last": run(torch_norm, last),
        },
        rounds,
    )
    best = min(taken["torch"], taken["torch, channels_last"])
    for name, value in taken.items():
        print(f"  response norm {images}x96x55x55, {name}: {1e3 * value:.1f} ms")
    print(f"  torch's best over ours: {best / taken['ours']:.1f} (aim 4)")


def steps_part(batch: int, rounds: int) -> None:
    for name, aim, size in (
        ("alexnet-paper", 1.2, batch),
        ("alexnet-mini", 1.1, 2 * batch),
        ("cifar-11pct", 1.1, 2 * batch),
    ):
        spec = network(name)
        runs = {
            "ours": step_of(spec, size),
            "without": step_of(without(spec, "lrn"), size),
            "theirs": step_of(spec, size, theirs=True),
        }
        taken = interleaved(runs, rounds)
        for kind, value in taken.items():
            print(f"  {name}, batch {size}, norm {kind}: {size / value:.1f} images/s")
        print(
            f"  {name}: with ours over without {taken['ours'] / taken['without']:.2f} (aim {aim}), "
            f"with torch's {taken['theirs'] / taken['without']:.2f}"
        )


def towers_part(batch: int, rounds: int) -> None:
    taken = interleaved({"towers": step_of(network("alexnet-paper"), batch), "grouped": grouped_step(batch)}, rounds)
    print(
        f"  two towers {batch / taken['towers']:.1f} images/s, one device with grouped convolutions "
        f"{batch / taken['grouped']:.1f}: ratio {taken['towers'] / taken['grouped']:.2f} (aim 1.10)"
    )


SEEDS = """
import json, sys, time, torch
from tests.benchmarks.core import naive_step, step_of
from alexnet_core.configuration.named_networks import network
naive, steps = sys.argv[1] == "naive", int(sys.argv[2])
torch.set_num_threads(1)
run = naive_step(64) if naive else step_of(network("alexnet-mini"), 64)
for _ in range(3): run()
print("ready", flush=True); sys.stdin.readline()
start = time.perf_counter()
for _ in range(steps): run()
print(json.dumps((time.perf_counter() - start) / steps), flush=True)
"""


def naive_step(batch: int) -> Run:
    """alexnet-mini as people write it: two branches in NCHW, torch's response norm, dropout and SGD."""
    from torch import nn

    def conv(inputs: int, maps: int, kernel: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, maps, kernel, padding=kernel // 2)

    class Naive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList(
                nn.Sequential(
                    *(
                        conv(3, 8, 5),
                        nn.ReLU(),
                        nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0),
                        nn.MaxPool2d(3, 2, 0, 1, False, True),
                    ),
                    *(
                        conv(8, 16, 3),
                        nn.ReLU(),
                        nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0),
                        nn.MaxPool2d(3, 2, 0, 1, False, True),
                    ),
                )
                for _ in range(2)
            )
            self.second = nn.ModuleList(
                nn.Sequential(
                    *(conv(32, 32, 3), nn.ReLU(), conv(32, 32, 3), nn.ReLU(), conv(32, 32, 3), nn.ReLU()),
                    *(nn.MaxPool2d(3, 2, 0, 1, False, True), nn.Flatten()),
                )
                for _ in range(2)
            )
            self.last = nn.Sequential(
                *(nn.Linear(2 * 32 * 9, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 256), nn.ReLU(), nn.Dropout()),
                nn.Linear(256, 10),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = torch.cat([branch(x) for branch in self.first], dim=1)
            return self.last(torch.cat([branch(maps) for branch in self.second], dim=1))

    model = Naive()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.randn(batch, 3, 28, 28), torch.arange(batch) % 10

    def run() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def seeds_part(rounds: int) -> None:
    """Seeds per hour: one naive process after another, against two slots of one thread with our settings."""
    ours = {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD), "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD)}

    def measure(kind: str, processes: int, more: dict[str, str]) -> float:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", SEEDS, kind, str(min(60, 12 * rounds))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(processes)
        ]
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        each = [json.loads(process.communicate()[0]) for process in started]
        return sum(each) / len(each) / processes

    ratios = []
    for _ in range(min(3, rounds)):
        naive, slots = measure("naive", 1, {}), measure("ours", 2, ours)
        ratios.append(naive / slots)
        print(
            f"  ms per step and seed: naive {1e3 * naive:.1f}, two slots {1e3 * slots:.1f}: {naive / slots:.1f} times"
        )
    print(f"  alexnet-mini at 28 pixels, batch 64, seeds per hour: median {median(ratios):.1f} times (aim 4)")


def pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A tree of photograph-like JPEGs."""
    random = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 8)):
        for name in ("a", "b"):
            place = folder / split / name
            place.mkdir(parents=True)
            for row in range(number // 2):
                low = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                image = Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)
                noise = random.integers(-12, 13, (size[1], size[0], 3))
                pixels = (np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{row:05d}.jpg", quality=90)
    return folder


def gather_part(folder: Path, rounds: int, count: int) -> None:
    made = prepare(tree_source(read_tree(pictures(folder / "tree", count, (300, 256)))), folder / "made", 256)
    images = open_prepared(folder / "made").images["train"]
    size = min(128, len(images))
    out = np.empty((size, 256, 256, 3), np.uint8)
    random = np.random.default_rng(0)
    batches = [np.sort(random.permutation(len(images))[:size]) for _ in range(20)]

    def gather() -> None:
        for rows in batches:
            np.take(images, rows, axis=0, out=out, mode="clip")

    taken = interleaved({"gather": gather}, rounds)["gather"]
    print(
        f"  gathered from {made.splits['train'].images} images: {20 * size / taken:,.0f} images/s a thread (aim 30,000)"
    )


def prepare_part(folder: Path, threads: int, rounds: int, count: int) -> None:
    root = pictures(folder / "tree", count, (500, 375))
    tree = read_tree(root)
    paths = [root / name for names in tree.names.values() for name in names]
    preparations = 0

    def bare() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda path: decode_image(path, 256), paths):
                pass

    def whole() -> None:
        nonlocal preparations
        preparations += 1
        prepare(tree_source(tree), folder / f"made{preparations}", 256, threads=threads)

    taken = interleaved({"bare": bare, "prepare": whole}, rounds)
    rate = len(paths) / taken["prepare"]
    share = 100 * taken["bare"] / taken["prepare"]
    print(f"  prepare: {rate:,.0f} images/s on {threads} threads, {share:.0f} % of bare decoding (aim 90)")


LIMITED = """
import resource, sys
from pathlib import Path
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.preparing.preparation import prepare, tree_source
resource.setrlimit(resource.RLIMIT_DATA, (400 * 2**20, 400 * 2**20))
made = prepare(tree_source(read_tree(Path(sys.argv[1]))), Path(sys.argv[2]), 64, threads=2)
# ru_maxrss 连着父进程的也算
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3
print(f"  {made.splits['train'].images} images prepared in 400 MB of data; {peak:.0f} MB resident at most")
"""


def limit_part(folder: Path, images: int) -> None:
    """Many images (hard links to 400 JPEGs) become one array, larger than the memory allowed."""
    root = pictures(folder / "tree", 400, (96, 72))
    for name in ("a", "b"):
        originals = sorted((root / "train" / name).iterdir())
        for copy in range(images // 400 - 1):
            for path in originals:
                os.link(path, path.with_name(f"{copy:04d}-{path.name}"))
    subprocess.run([sys.executable, "-c", LIMITED, str(root), str(folder / "made")], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="norm,steps,towers,seeds,gather,prepare")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2400)
    options = parser.parse_args(arguments)
    fresh = "GOMP_SPINCOUNT" in os.environ
    settle_process()
    if not fresh:
        # torch 已经读过环境变量，要重新开始才生效
        os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.core", *sys.argv[1:]])
    parts = options.parts.split(",")
    for threads in (int(text) for text in options.threads.split(",")):
        torch.set_num_threads(threads)
        print(f"{threads} threads; spin loop {spin():.3f} s", flush=True)
        if "norm" in parts:
            norm_part(min(16, options.batch), options.rounds)
        if "steps" in parts:
            steps_part(options.batch, options.rounds)
        if "towers" in parts:
            towers_part(options.batch, options.rounds)
        if "prepare" in parts:
            with tempfile.TemporaryDirectory() as folder:
                prepare_part(Path(folder), threads, options.rounds, options.images)
    if "limit" in parts:
        with tempfile.TemporaryDirectory() as folder:
            limit_part(Path(folder), 200_000)
    if "gather" in parts:
        with tempfile.TemporaryDirectory() as folder:
            gather_part(Path(folder), options.rounds, options.images)
    if "seeds" in parts:
        seeds_part(options.rounds)
    print(f"spin loop {spin():.3f} s")


if __name__ == "__main__":
    main()
