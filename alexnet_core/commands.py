"""The bodies of the core's commands (see `__main__`). torch is loaded after all that is cheap to check."""

from __future__ import annotations

import argparse
import csv
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from alexnet_core.configuration import DataSpec, TrainConfig
from alexnet_core.datasets import Dataset, Split, image_names, load_dataset, prepare_data, summarise_data
from alexnet_core.errors import CoreError
from alexnet_core.files import replaced
from alexnet_core.metrics import EpochReport, SplitMetrics
from alexnet_core.networks import network, prepared_size, training_recipe
from alexnet_core.prepared import is_prepared, read_manifest
from alexnet_core.splits import SplitName

if TYPE_CHECKING:
    from alexnet_core.exported import LoadedModel


class NoDevice(Exception):
    """A device was asked for that this machine does not have."""


# ---- train ------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> int:
    """Trains one configuration, with the same numbers as a trial."""
    config = _read_config(options.config) if options.config is not None else _named_config(options)
    checkpoints = options.out / "checkpoint" if options.out is not None else None
    resume_from, attempt, history = _checkpoint_to_resume(checkpoints, options.resume)
    data = _data_at(config.data, options.data_root)
    with _progress("decoding images") as progress:
        prepare_data(data, progress)
    dataset = load_dataset(data)
    devices = _devices(options)
    from alexnet_core.training import Diverged
    from alexnet_core.training import train as epochs

    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        with replaced(options.out / "config.json") as path:
            path.write_text(config.model_dump_json())
    stop = _stop_on_signals()
    for report in history:
        _print_epoch(report, config)
    done = len(history)
    try:
        with _tensorboard(options.tensorboard) as log:
            for report in epochs(
                config,
                devices,
                resume_from,
                dataset=dataset,
                checkpoint_folder=checkpoints,
                attempt=attempt,
                keep_best=True,
                should_stop=lambda: bool(stop),
            ):
                _print_epoch(report, config)
                log(report)
                done = report.epoch
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if done < config.training.epochs:
        again = "; the same command with --resume goes on" if checkpoints else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    return 0


def _read_config(path: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CoreError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CoreError(f"{path} is not a training configuration: {_first_mistake(error)}") from error


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _named_config(options: argparse.Namespace) -> TrainConfig:
    """A named network on a data set, trained as its source trained it."""
    if options.dataset is None:
        raise CoreError("--network needs --dataset: digits, an image folder or a prepared folder")
    spec = network(options.network)
    if options.dataset == "digits":
        source, root, name, size = "digits", None, "digits", 16
    else:
        source, root = "imagefolder", Path(options.dataset)
        name = re.sub(r"[^a-z0-9_-]+", "-", root.resolve().name.lower()).strip("-_")[:48] or "images"
        prepared = read_manifest(root).image_size if is_prepared(root) else None
        size = options.size or prepared or prepared_size(spec)
    cache = options.cache if options.cache is not None or options.out is None else options.out / "cache"
    summary = summarise_data("digits" if source == "digits" else "imagefolder", root, cache)
    changed = {"epochs": options.epochs, "precision": options.precision}
    recipe = training_recipe(options.network).model_dump() | {k: v for k, v in changed.items() if v is not None}
    try:
        return TrainConfig.model_validate(
            {
                "network": spec.model_dump()
                | {"classes": len(summary.class_names), "input_size": min(spec.input_size, size)},
                "training": recipe,
                "data": {
                    "name": name,
                    "source": source,
                    "image_size": size,
                    "digest": summary.digest,
                    "root": str(root) if root is not None else None,
                    "cache": str(cache) if cache is not None else None,
                },
                "seed": options.seed,
            }
        )
    except ValidationError as error:
        raise CoreError(f"{options.network} on {options.dataset}: {_first_mistake(error)}") from error


def _checkpoint_to_resume(folder: Path | None, resume: bool) -> tuple[Path | None, int, tuple[EpochReport, ...]]:
    """The checkpoint to go on from, the number of this attempt, and the epochs that lie behind."""
    from alexnet_core.checkpoint import checkpoints, latest_checkpoint, read_history

    if resume and folder is None:
        raise CoreError("--resume needs --out, the folder with the checkpoints")
    existing = checkpoints(folder) if folder is not None else ()
    if existing and not resume:
        raise CoreError(f"{folder} holds checkpoints already: go on with --resume, or give another --out")
    latest = latest_checkpoint(folder) if folder is not None else None
    attempt = 1 + max((int(path.name.split("-")[0]) for path in existing), default=0)
    return latest, attempt, read_history(latest) if latest is not None else ()


@contextmanager
def _tensorboard(folder: Path | None) -> Iterator[Callable[[EpochReport], None]]:
    """Yields what writes an epoch to TensorBoard's files, or nothing without a folder."""
    if folder is None:
        yield lambda _: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise CoreError("--tensorboard needs tensorboardX: pip install tensorboardX") from error
    with SummaryWriter(str(folder)) as writer:

        def write(report: EpochReport) -> None:
            for name in ("train", "validation", "test"):
                metrics = getattr(report, name)
                if metrics is not None:
                    writer.add_scalar(f"{name}/loss", metrics.loss, report.epoch)
                    writer.add_scalar(f"{name}/top1_error", metrics.top1_error, report.epoch)
                    writer.add_scalar(f"{name}/top5_error", metrics.top5_error, report.epoch)
            writer.add_scalar("learning_rate", report.learning_rate, report.epoch)
            writer.add_scalar("images_per_second", report.images_per_second, report.epoch)
            writer.flush()

        yield write


def _stop_on_signals() -> list[int]:
    """Returns a list that is empty until SIGINT or SIGTERM arrives."""
    received: list[int] = []

    def remember(number: int, _frame: Any) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    return received


def _print_epoch(report: EpochReport, config: TrainConfig) -> None:
    print(
        f"epoch {report.epoch}/{config.training.epochs}  lr {report.learning_rate:g}  "
        f"train loss {report.train.loss:.4f}  validation loss {report.validation.loss:.4f}  "
        f"{_errors(report.validation)}  {report.images_per_second:.0f} images/s",
        flush=True,
    )
    if report.test is not None:
        print(f"test  loss {report.test.loss:.4f}  {_errors(report.test)}", flush=True)


def _errors(metrics: SplitMetrics) -> str:
    return (
        f"top-1 error {100 * metrics.top1_error:.2f} % ({metrics.top1_errors} of {metrics.count}), "
        f"top-5 error {100 * metrics.top5_error:.2f} % ({metrics.top5_errors} of {metrics.count})"
    )


# ---- eval and neighbours ----------------------------------------------------------------------------------


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates an exported model over one view or ten, and writes a row per image on request."""
    model, spec, dataset = _model_and_data(options)
    name: SplitName = options.split or ("test" if dataset.test is not None else "validation")
    split = dataset.test if name == "test" else dataset.validation
    if split is None:
        raise CoreError("the data has no test set; use --split validation")
    if options.predictions is not None:
        _write_predictions(options.predictions, model, split, image_names(spec, name), options.views)
        print(f"predictions of {len(split)} images: {options.predictions}")
    metrics = model.evaluate(split, options.views)
    views = "10 views" if options.views == 10 else "centre crop"
    print(f"{name}, {views}: {_errors(metrics)}")
    return 0


def _write_predictions(path: Path, model: LoadedModel, split: Split, names: Sequence[str], views: int) -> None:
    """One row per image: its file, its class, the five likeliest classes and their probabilities."""
    from alexnet_core.evaluation import predictions

    most = min(5, len(model.labels))
    ranks = [f"{kind}{rank}" for rank in range(1, most + 1) for kind in ("class", "probability")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "top1_correct", "top5_correct", *ranks])
            precision = model.config.training.precision
            for batch, probabilities in predictions(model.network, model.loader(split), views, precision=precision):
                best = probabilities.topk(most, dim=1)
                rows = zip(batch.indices.tolist(), batch.labels.tolist(), *(t.tolist() for t in best), strict=True)
                for index, label, values, classes in rows:
                    ranked = [
                        cell
                        for guess, value in zip(classes, values, strict=True)
                        for cell in (model.labels[guess], f"{value:.6f}")
                    ]
                    correct = [int(classes[0] == label), int(label in classes)]
                    writer.writerow([names[index], model.labels[label], *correct, *ranked])
    except OSError as error:
        raise CoreError(f"{path} cannot be written: {error.strerror}") from error


def neighbours(options: argparse.Namespace) -> int:
    """Draws test images beside the training images nearest to them in fc7 (paper figure 4)."""
    model, spec, dataset = _model_and_data(options)
    from alexnet_core.pictures import nearest_neighbours, neighbours_picture, save_picture

    name: SplitName = "test" if dataset.test is not None else "validation"
    test = dataset.test if dataset.test is not None else dataset.validation
    # 均匀取样，免得全来自第一个类
    queries = np.unique(np.linspace(0, len(test) - 1, min(options.images, len(test))).round().astype(np.int64))
    found = nearest_neighbours(model, test, dataset.train, queries, options.nearest)
    query_names, train_names = image_names(spec, name), image_names(spec, "train")
    for query, nearest in zip(found.queries.tolist(), found.nearest.tolist(), strict=True):
        same = sum(dataset.train.labels[row] == test.labels[query] for row in nearest)
        print(f"{query_names[query]}: {', '.join(train_names[row] for row in nearest)} ({same} of its class)")
    save_picture(neighbours_picture(found, test, dataset.train), options.out)
    print(options.out)
    return 0


def _model_and_data(options: argparse.Namespace) -> tuple[LoadedModel, DataSpec, Dataset]:
    devices = _devices(options)
    from alexnet_core.exported import load_model

    model = load_model(options.model, devices)
    spec = _data_to_evaluate(options, model.config.data)
    with _progress("decoding images") as progress:
        prepare_data(spec, progress)
    dataset = load_dataset(spec)
    if dataset.class_names != model.labels:
        raise CoreError(
            f"the model knows {len(model.labels)} classes ({_some(model.labels)}), "
            f"the data has {len(dataset.class_names)} ({_some(dataset.class_names)})"
        )
    return model, spec, dataset


def _data_to_evaluate(options: argparse.Namespace, trained_on: DataSpec) -> DataSpec:
    if options.dataset is None or options.dataset == trained_on.name:
        return _data_at(trained_on, options.data_root)
    if options.dataset == "digits":
        update: dict[str, Any] = {"source": "digits", "root": None, "digest": summarise_data("digits").digest}
    else:
        root = Path(options.dataset)
        cache = Path(trained_on.cache) if trained_on.cache is not None else None
        summary = summarise_data("imagefolder", root, cache, split_seed=trained_on.split_seed)
        update = {"source": "imagefolder", "root": str(root), "digest": summary.digest}
    return DataSpec.model_validate({**trained_on.model_dump(), **update})


def _data_at(data: DataSpec, root: Path | None) -> DataSpec:
    return data if root is None else data.model_copy(update={"root": str(root)})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


# ---- prepare, sanity, kernels, onnx -----------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> int:
    """Makes a prepared folder of a tree of class folders or of CIFAR-10, or checks one."""
    from alexnet_core import cifar, preparation
    from alexnet_core.imagefolder import read_tree
    from alexnet_core.prepared import verify_prepared

    if options.verify:
        verify_prepared(options.destination)
        print(f"{options.destination}: every array is what its manifest says")
        return 0
    if options.download:
        cifar.download_cifar10(options.source)
    if cifar.is_cifar10(options.source):
        source = cifar.cifar10_source(options.source)
    else:
        source = preparation.tree_source(read_tree(options.source))
    images = sum(len(names) for names in source.names.values())
    need = preparation.disk_need(source, options.size) / 1e9
    print(f"{images} images of {len(source.class_names)} classes at {options.size} pixels: {need:.2f} GB", flush=True)
    with _progress("decoding images") as progress:
        manifest = preparation.prepare(
            source,
            options.destination,
            options.size,
            bad_images=options.bad_images,
            threads=options.threads,
            progress=progress,
        )
    for name, split in manifest.splits.items():
        print(f"{name}: {split.images} images")
    if manifest.bad_images:
        print(f"left out: {manifest.bad_images}, named in {options.destination / 'bad_images.tsv'}")
    print(f"{options.destination}: ready; train with --data-root or --dataset {options.destination}")
    return 0


def sanity(options: argparse.Namespace) -> int:
    """Rechecks the core on this machine's devices; fails if one check does."""
    devices = _devices(options)
    from alexnet_core.sanity import checks

    print(f"devices of the two towers: {', '.join(devices)}")
    failed = 0
    for check in checks(devices):
        word = "ok  " if check.passed else "FAIL"
        print(f"{word} {check.name}: {check.figure:.3g} (at most {check.limit:g})", flush=True)
        failed += not check.passed
    print("all checks passed" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


def kernels(options: argparse.Namespace) -> int:
    """Draws the first layer's kernels, the towers side by side (paper figure 3)."""
    from alexnet_core.exported import load_model
    from alexnet_core.pictures import kernels_picture, save_picture

    save_picture(kernels_picture(load_model(options.model).network), options.out)
    print(options.out)
    return 0


def onnx(options: argparse.Namespace) -> int:
    """Exports a trained network to ONNX."""
    from alexnet_core.exported import load_model
    from alexnet_core.onnx_export import export_onnx

    export_onnx(load_model(options.model), options.out)
    print(options.out)
    return 0


# ---- shared -----------------------------------------------------------------------------------------------


def _devices(options: argparse.Namespace) -> tuple[str, str]:
    """One device per tower: two GPUs, one GPU twice, or the CPU."""
    import torch

    torch.set_num_threads(options.threads)
    gpus = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cuda" and gpus == 0:
        raise NoDevice("--device cuda: torch sees no GPU here; use --device cpu")
    if gpus == 0:
        return ("cpu", "cpu")
    return ("cuda:0", "cuda:1" if gpus > 1 else "cuda:0")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback that shows (done, in all): a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, visible=False)
        shown = 0

        def update(done: int, total: int) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, visible=True)
            if not console.is_terminal and (done - shown >= total / 10 or done == total):
                shown = done
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

        yield update
