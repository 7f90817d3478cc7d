"""`python -m tests.benchmarks.device`: the whole step on one GPU, both towers on it, beside torchvision's AlexNet.

Prints a table of images per second with the share of the device's measured matrix-product rate, where the time of a
step goes, what the response norm and the overlap of the towers are worth, and whether the loader keeps up. Asserts
nothing. On `--device cpu` it runs too, with small batches, to show that it does.

    --batches 128,1024    --precisions float32,tf32,bfloat16    --rounds 5    --steps 10    --device cuda
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import Precision, TrainConfig, TrainingSpec
from alexnet_core.data.dataset import Split
from alexnet_core.training.augmentation import training_views
from alexnet_core.training.loader import ImageLoader
from alexnet_core.training.precision import autocast, set_matrix_precision
from tests.benchmarks.core import Run, interleaved, spin, step_of, without

PAPER = "alexnet-paper"
# 一次乘加两次运算；向后传播再算两遍（第一层不对图像求导，略少）
PASSES = 3
# 剖析时按核函数名归类，先到先得
GROUPS = (
    ("response norm", ("_forward", "_backward", "triton")),
    ("products", ("gemm", "conv", "xmma", "cutlass", "cudnn", "wgrad", "dgrad", "mm", "linear", "mkldnn")),
    ("pooling", ("pool",)),
    ("update", ("multi_tensor", "foreach", "MomentumSGD")),
    ("copies", ("copy", "memcpy", "cat", "memset")),
)


class TorchvisionStep:
    """torchvision's own AlexNet (one tower, 64-192-384-256-256 maps, no response norm), trained by torch's SGD."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._model = torchvision_alexnet().to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
        images = 50 * torch.randn(batch, 3, 224, 224)
        self._images = images.contiguous(memory_format=torch.channels_last).to(device)
        self._labels = torch.arange(batch, device=device) % 1000

    def __call__(self) -> None:
        loss = F.cross_entropy(self._model(self._images).float(), self._labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def torchvision_alexnet() -> nn.Module:
    """torchvision's network where it is installed; otherwise the same layers, written out."""
    if find_spec("torchvision") is not None:
        from torchvision.models import alexnet

        return cast(nn.Module, alexnet())

    def conv(inputs: int, maps: int, kernel: int, **how: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, maps, kernel, **how), nn.ReLU(inplace=True)]  # type: ignore[arg-type]

    pool = nn.MaxPool2d(3, 2)
    return nn.Sequential(
        *(*conv(3, 64, 11, stride=4, padding=2), pool, *conv(64, 192, 5, padding=2), pool),
        *(*conv(192, 384, 3, padding=1), *conv(384, 256, 3, padding=1), *conv(256, 256, 3, padding=1), pool),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 1000)),
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def repeated(step: Run, steps: int, precision: Precision, device: torch.device) -> Run:
    """Runs a step several times in a precision and waits for the device."""

    def run() -> None:
        set_matrix_precision(precision)
        with autocast(precision, device):
            for _ in range(steps):
                step()
        wait(device)

    return run


def product_rate(precision: Precision, device: torch.device, rounds: int) -> float:
    """Operations per second of a large square matrix product: what the device reaches, not what its maker says."""
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    run = repeated(lambda: left @ right, 10, precision, device)
    return 10 * 2 * side**3 / interleaved({"product": run}, rounds)["product"]


def table(device: torch.device, batches: Sequence[int], precisions: Sequence[Precision], options: Options) -> None:
    """Images per second by precision and batch, and what the parts of ours are worth."""
    spec = network(PAPER)
    work = 2 * PASSES * sum(shape.multiply_adds for shape in layer_shapes(spec))
    print("| precision | batch | ours | without norm | one stream | torchvision | ours / theirs | share of products |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for precision in precisions:
        rate = product_rate(precision, device, options.rounds)
        for batch in batches:
            steps: dict[str, Run] = {
                "ours": step_of(spec, batch, str(device)),
                "without": step_of(without(spec, "lrn"), batch, str(device)),
                "one": step_of(spec, batch, str(device), overlaps=False),
                "theirs": TorchvisionStep(batch, device),
            }
            runs = {name: repeated(step, options.steps, precision, device) for name, step in steps.items()}
            taken = interleaved(runs, options.rounds)
            speed = {name: options.steps * batch / value for name, value in taken.items()}
            print(
                f"| {precision} | {batch} | {speed['ours']:,.0f} | {speed['without']:,.0f} | {speed['one']:,.0f} | "
                f"{speed['theirs']:,.0f} | {speed['ours'] / speed['theirs']:.2f} | "
                f"{100 * work * speed['ours'] / rate:.0f} % |",
                flush=True,
            )


def where_the_time_goes(device: torch.device, batch: int, precision: Precision) -> None:
    """Shares of a step by kind of kernel, and its ten longest kernels."""
    run = repeated(step_of(network(PAPER), batch, str(device)), 3, precision, device)
    run()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        run()
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiled.key_averages()
    }
    total = sum(spent.values()) or 1.0
    shares: dict[str, float] = {}
    for name, value in spent.items():
        group = next((group for group, words in GROUPS if any(word in name for word in words)), "elementwise and other")
        shares[group] = shares.get(group, 0.0) + value / total
    print(f"\nWhere a step goes ({precision}, batch {batch}):")
    for group, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {group}: {100 * share:.1f} %")
    for name, value in sorted(spent.items(), key=lambda item: -item[1])[:10]:
        print(f"    {100 * value / total:5.1f} %  {name[:90]}")


def loader(device: torch.device, batch: int, images: int, rounds: int) -> None:
    """Images per second that reach the device from a memory map of 256-pixel images, cropped and reflected there."""
    spec = network(PAPER)
    config = TrainConfig.model_construct(
        network=spec, training=TrainingSpec(epochs=1, batch_size=batch), data=None, seed=0
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (images, 256, 256, 3))
        pixels[:] = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
        split = Split(np.load(path, mmap_mode="r"), np.zeros(images, np.int64))
        source = ImageLoader(split, np.zeros((256, 256, 3), np.float32), device, resident_bytes=0)
        order = np.random.default_rng(1).permutation(images)
        bounds = [(first, first + batch) for first in range(0, images - batch + 1, batch)]

        def run() -> None:
            for taken in source.batches(order, bounds):
                training_views(taken, config, 0, torch.arange(batch, device=device), None, 0.0)
            wait(device)

        taken = interleaved({"loader": run}, rounds)["loader"]
    print(f"\nLoader, from the page cache through one thread: {len(bounds) * batch / taken:,.0f} images/s")


class Options(argparse.Namespace):
    """What the command was given."""

    device: str
    batches: str
    precisions: str
    rounds: int
    steps: int
    images: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", default="128,1024")
    parser.add_argument("--precisions", default=",".join(get_args(Precision)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=8192)
    options = parser.parse_args(arguments, Options())
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu shows that the command runs")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    batches = [int(text) for text in options.batches.split(",")]
    precisions = cast("list[Precision]", options.precisions.split(","))
    print(f"{name}, torch {torch.__version__}; spin loop {spin():.3f} s\n")
    if find_spec("torchvision") is None:
        print("torchvision is not installed (uv run --group torchvision ...): its layers are written out here\n")
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        table(device, batches, precisions, options)
        for precision in precisions:
            where_the_time_goes(device, batches[0], precision)
        loader(device, batches[0], options.images, options.rounds)
    print(f"spin loop {spin():.3f} s")


if __name__ == "__main__":
    main()
