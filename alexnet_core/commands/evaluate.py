"""The bodies of the core's other commands (see `__main__`). torch is loaded after all that is cheap to check."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_core.commands.devices import devices_of
from alexnet_core.commands.progress import data_at, errors_text, print_notes, progress_of
from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.data.loading import (
    evaluation_digest,
    image_names,
    load_dataset,
    load_evaluation_set,
    prepare_data,
    summarise_data,
)
from alexnet_core.data.splits import SplitName, evenly_spaced
from alexnet_core.errors import CoreError
from alexnet_core.process.files import replaced

if TYPE_CHECKING:
    import torch

    from alexnet_core.trained.loaded_model import LoadedModel
    from alexnet_core.training.loader import Batch


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates an exported model, or several as one, over one view or ten; writes a row per image on request."""
    devices = devices_of(options)
    from alexnet_core.trained.ensemble import check_ensemble, check_held_out, evaluate_ensemble
    from alexnet_core.trained.loaded_model import export_of, load_model

    # 同一个文件夹可以有几种写法：RUN、./RUN、RUN/model
    if len({export_of(folder).resolve() for folder in options.model}) < len(options.model):
        raise CoreError("--model names one folder twice; an ensemble is of different trainings")
    models = {str(folder): load_model(folder, devices) for folder in options.model}
    check_ensemble(models)
    ensemble = tuple(models.values())
    spec, is_other = _data_to_evaluate(options, ensemble[0].config.data)
    with progress_of("decoding images") as progress:
        data = load_evaluation_set(spec, options.split, any_data=is_other, progress=progress)
    if data.name == "validation" and not is_other:
        check_held_out(models)
    print_notes(data.remarks)
    split = ensemble[0].labelled(data.split, data.class_names)
    with ExitStack() as stack:
        progress, each = stack.enter_context(progress_of("evaluating images")), None
        if options.predictions is not None:
            each = stack.enter_context(_written_predictions(options.predictions, ensemble[0].labels, data.files))
        metrics = evaluate_ensemble(ensemble, split, options.views, progress, each)
    if options.predictions is not None:
        print(f"predictions of {counted(len(split), 'image')}: {options.predictions}")
    views = "10 views" if options.views == 10 else "centre crop"
    averaged = f", {len(models)} networks averaged" if len(models) > 1 else ""
    print(f"{data.name}, {views}{averaged}: {errors_text(metrics)}")
    return 0


@contextmanager
def _written_predictions(
    path: Path, labels: Sequence[str], names: Sequence[str]
) -> Iterator[Callable[[Batch, torch.Tensor], None]]:
    """Gives what writes one row per image: its file, its class, the five likeliest classes and their probabilities."""
    most = min(5, len(labels))
    ranks = [f"{kind}{rank}" for rank in range(1, most + 1) for kind in ("class", "probability")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "top1_correct", "top5_correct", *ranks])

            def write(batch: Batch, logarithms: torch.Tensor) -> None:
                best, classes_of = logarithms.topk(most, dim=1)
                likeliest = best.exp().tolist(), classes_of.tolist()
                rows = zip(batch.indices.tolist(), batch.labels.tolist(), *likeliest, strict=True)
                for index, label, values, classes in rows:
                    ranked = [
                        cell
                        for guess, value in zip(classes, values, strict=True)
                        for cell in (_as_text(labels[guess]), f"{value:.6f}")
                    ]
                    correct = [int(classes[0] == label), int(label in classes)]
                    writer.writerow([_as_text(names[index]), _as_text(labels[label]), *correct, *ranked])

            yield write
    except OSError as error:
        raise CoreError(f"{path} cannot be written: {error.strerror}") from error


def _as_text(cell: str) -> str:
    """The cell with an apostrophe before it where a spreadsheet would run it as a formula."""
    # 文件名和类别名来自用户的文件夹，表格软件会执行以这些符号开头的单元格
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def neighbours(options: argparse.Namespace) -> int:
    """Draws test images beside the training images nearest to them in fc7 (paper figure 4)."""
    model, spec, dataset = _model_and_data(options)
    from alexnet_core.trained.pictures import nearest_neighbours, neighbours_picture, save_picture

    name, test = _test_images(dataset)
    queries = evenly_spaced(len(test), options.images)
    with progress_of("comparing training images") as progress:
        beside = nearest_neighbours(model, test, dataset.train, queries, options.nearest, progress)
    query_names, train_names = image_names(spec, name), image_names(spec, "train")
    for query, nearest in zip(beside.queries.tolist(), beside.nearest.tolist(), strict=True):
        same = sum(dataset.train.labels[row] == test.labels[query] for row in nearest)
        print(f"{query_names[query]}: {', '.join(train_names[row] for row in nearest)} ({same} of its class)")
    save_picture(neighbours_picture(beside, test, dataset.train), options.out)
    print(options.out)
    return 0


def predictions(options: argparse.Namespace) -> int:
    """Draws eight test images with their five likeliest labels as bars (paper figure 4, left)."""
    model, spec, dataset = _model_and_data(options)
    from alexnet_core.trained.pictures import save_picture
    from alexnet_core.trained.prediction_bars import likeliest_labels, predictions_picture

    name, images = _test_images(dataset)
    split = model.labelled(images, dataset.class_names)
    likeliest = likeliest_labels(model, split, evenly_spaced(len(split), 8))
    names = image_names(spec, name)
    rows = zip(
        *(part.tolist() for part in (likeliest.queries, likeliest.classes, likeliest.probabilities)), strict=True
    )
    for query, classes, values in rows:
        guesses = (f"{model.labels[guess]} {value:.4f}" for guess, value in zip(classes, values, strict=True))
        print(f"{names[query]} ({model.labels[split.labels[query]]}): {', '.join(guesses)}")
    save_picture(predictions_picture(likeliest, split, model.labels), options.out)
    print(options.out)
    return 0


def _test_images(dataset: Dataset) -> tuple[SplitName, Split]:
    """The test images, or the validation images where there are none."""
    return ("validation", dataset.validation) if dataset.test is None else ("test", dataset.test)


def _model_and_data(options: argparse.Namespace) -> tuple[LoadedModel, DataSpec, Dataset]:
    devices = devices_of(options)
    from alexnet_core.trained.loaded_model import load_model

    model = load_model(options.model, devices)
    spec, _ = _data_to_evaluate(options, model.config.data)
    with progress_of("decoding images") as progress:
        prepare_data(spec, progress)
    dataset = load_dataset(spec)
    print_notes(dataset.remarks)
    model.check_classes(dataset.class_names)
    return model, spec, dataset


def _data_to_evaluate(options: argparse.Namespace, trained_on: DataSpec) -> tuple[DataSpec, bool]:
    """The data, and whether they are others than those of the training, whatever they are called here."""
    # 名字相同又没说在哪里：当前目录里的同名文件夹就是用户说的
    unknown = trained_on.source == "imagefolder" and trained_on.root is None and options.data_root is None
    is_folder = unknown and options.dataset is not None and Path(options.dataset).is_dir()
    if options.dataset is None or (options.dataset == trained_on.name and not is_folder):
        return data_at(trained_on, options.data_root), False
    if options.dataset == "digits":
        update: dict[str, Any] = {"source": "digits", "root": None, "digest": summarise_data("digits").digest}
    else:
        root = Path(options.dataset)
        cache = Path(trained_on.cache) if trained_on.cache is not None else None
        digest = evaluation_digest(root, cache)
        # 另一份数据怎样划分，与训练时留不留图像无关
        holds_out = trained_on.holds_out or digest != trained_on.digest
        update = {"source": "imagefolder", "root": str(root), "digest": digest, "holds_out": holds_out}
    # 换了名字、换了地方，仍可能就是训练用的那份：那时只评留出的
    return DataSpec.model_validate({**trained_on.model_dump(), **update}), update["digest"] != trained_on.digest


def sanity(options: argparse.Namespace) -> int:
    """Rechecks the core on this machine's devices; fails if one check does."""
    devices = devices_of(options)
    from alexnet_core.commands.sanity import checks

    print(f"devices of the two towers: {', '.join(devices)}")
    failed = 0
    for check in checks(devices):
        word = "ok  " if check.passed else "FAIL"
        print(f"{word} {check.name}: {check.figure:.3g} (at most {check.limit:g})", flush=True)
        failed += not check.passed
    print("all checks passed" if not failed else f"{counted(failed, 'check')} failed")
    return 1 if failed else 0


def kernels(options: argparse.Namespace) -> int:
    """Draws the first layer's kernels, the towers side by side (paper figure 3)."""
    from alexnet_core.trained.loaded_model import load_model
    from alexnet_core.trained.pictures import kernels_picture, save_picture

    save_picture(kernels_picture(load_model(options.model).network), options.out)
    print(options.out)
    return 0


def onnx(options: argparse.Namespace) -> int:
    """Exports a trained network to ONNX."""
    from alexnet_core.trained.loaded_model import load_model
    from alexnet_core.trained.onnx import export_onnx

    export_onnx(load_model(options.model), options.out)
    print(options.out)
    return 0
