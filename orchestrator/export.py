"""Exporting a trained network: a folder that says what it is, how good it is, and can prove that it is whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alexnet_core.configuration import DataSpec, TrainConfig
from alexnet_core.datasets import Dataset, load_dataset
from alexnet_core.files import abandoned, temporary_path
from alexnet_core.metrics import SplitMetrics
from alexnet_core.specification import layer_shapes
from orchestrator import records
from orchestrator.errors import LabError
from orchestrator.records import TrialResult


def export(results: Path, key: str, folder: Path, *, force: bool, ranking: Mapping[str, Any]) -> None:
    """Writes the export of a trial: to a temporary folder, then renamed.

    Args:
        results: The results folder.
        key: The trial.
        folder: Where to.
        force: Replace an existing folder.
        ranking: The winner's row of `best.rank`.

    Raises:
        LabError: The folder exists, the weights were pruned or damaged, or the folder cannot be written.
    """
    if folder.exists() and not force:
        raise LabError(f"{folder} exists; choose another folder, or replace it with --force", exit_code=2)
    if folder.is_file() or (folder.exists() and not (folder / "SHA256SUMS").is_file() and any(folder.iterdir())):
        raise LabError(f"{folder} is no export, so --force does not replace it", exit_code=2)
    record = records.trial_folder(results, key)
    result, config = records.read_result(record), records.read_config(record)
    if result is None:
        raise LabError(f"trial {key} has no result", exit_code=4)
    weights = _weights(record, result)
    dataset = load_dataset(_data_here(results, config.data))
    temporary = temporary_path(folder)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, weights, config, result, dataset, ranking)
        _swap(temporary, folder)
    except OSError as error:
        raise LabError(f"{folder} cannot be written: {error.strerror}", exit_code=3) from error
    except SafetensorError as error:
        raise LabError(f"{folder} cannot be written: {error}", exit_code=3) from error
    finally:
        for left in (temporary, *abandoned(folder)):
            shutil.rmtree(left, ignore_errors=True)


def _data_here(results: Path, data: DataSpec) -> DataSpec:
    """The data with the cache of this results folder: it may have been trained elsewhere and copied here."""
    if data.cache is None:
        return data
    return data.model_copy(update={"cache": str((results / "cache").resolve())})


def _weights(record: Path, result: TrialResult) -> dict[str, np.ndarray]:
    path = record / (result.weights or "checkpoint")
    if not path.is_file():
        raise LabError(
            f"the weights of trial {result.key} were not kept; train it anew: delete {record} and run its study again",
            exit_code=4,
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != result.weights_sha256:
            raise LabError(f"{path} is not the file that was recorded: its SHA-256 differs", exit_code=3)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise LabError(f"{path} cannot be read: {error}", exit_code=3) from error
    return {name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")}


def _write(
    folder: Path,
    weights: dict[str, np.ndarray],
    config: TrainConfig,
    result: TrialResult,
    dataset: Dataset,
    ranking: Mapping[str, Any],
) -> None:
    tensors = {**weights, "mean_image": np.ascontiguousarray(dataset.mean_image)}
    save_file(tensors, folder / "model.safetensors")
    plain = config.model_dump(mode="json")
    # 别人的机器上没有这些路径
    plain["data"] |= {"root": None, "cache": None}
    _json(folder / "config.json", plain)
    _json(folder / "preprocessing.json", _preprocessing(config))
    _json(folder / "labels.json", list(dataset.class_names))
    (folder / "README.md").write_text(_card(config, result, dataset, ranking), encoding="utf-8")
    sums = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            sums.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _preprocessing(config: TrainConfig) -> dict[str, Any]:
    return {
        "colour": "RGB",
        "pixel_range": [0, 255],
        "resize_shorter_side": config.data.image_size,
        "resize_filter": "bicubic",
        "centre_crop": config.data.image_size,
        "subtract": "model.safetensors: mean_image, float32 (height, width, 3)",
        "evaluation_crop": config.network.input_size,
        "standard_deviation": None,
    }


def _swap(temporary: Path, folder: Path) -> None:
    """Renames into place; an export that is replaced goes only after the new one is whole."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = temporary_path(folder)
    folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _card(config: TrainConfig, result: TrialResult, dataset: Dataset, ranking: Mapping[str, Any]) -> str:
    """The model card, in Markdown."""
    parameters = sum(shape.parameters for shape in layer_shapes(config.network))
    rows = [
        ("validation", result.validation),
        ("test", result.test),
    ]
    measured = "\n".join(_error_row(name, metrics) for name, metrics in rows if metrics is not None)
    environment = "\n".join(f"| {name} | {value} |" for name, value in sorted(result.environment.items()))
    training = config.training
    return f"""# {config.network.name} on {config.data.name}

{parameters:,} parameters, {config.network.towers} towers, {config.network.classes} classes, input
{config.network.input_size}x{config.network.input_size} pixels. Trial `{result.key}`, seed {result.seed}.

## Measured errors

One seed: the one with the median validation error among {ranking["seeds"]} of its configuration, not the luckiest.

| split | top-1 error | top-5 error | images |
|---|---|---|---|
{measured}

The configuration's mean validation error over {ranking["seeds"]} seeds: {100 * ranking["validation_error"]:.2f} %.
It was chosen by validation error; the test error played no part.

## Use

```python
from alexnet_core import load_model
model = load_model("this folder")
probabilities = model.predict(images)  # uint8 (N, {config.data.image_size}, {config.data.image_size}, 3), RGB, 0..255
```

`python -m alexnet_core eval --model DIR` reproduces the errors above (add `--data-root` for an image folder).

## Training

{training.epochs} epochs, batch {training.batch_size}, learning rate {training.learning_rate:g}, momentum
{training.momentum:g}, weight decay {training.weight_decay:g}, {len(dataset.train.labels)} training images. Data digest
`{config.data.digest}`. All of it is in `config.json`.

## Environment

| what | value |
|---|---|
| finished | {result.finished_at} |
| training seconds | {result.seconds:.1f} |
{environment}
"""


def _error_row(name: str, metrics: SplitMetrics) -> str:
    return (
        f"| {name} | {100 * metrics.top1_error:.2f} % ({metrics.top1_errors} of {metrics.count}) "
        f"| {100 * metrics.top5_error:.2f} % ({metrics.top5_errors} of {metrics.count}) | {metrics.count} |"
    )
