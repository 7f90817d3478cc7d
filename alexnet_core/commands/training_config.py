"""What `alexnet_core train` trains: a trial's configuration, or a named network on a data set. Loads no torch."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.configuration.named_networks import network_of_recipe, prepared_size, training_recipe
from alexnet_core.configuration.train_config import DIGITS_SIZE, TrainConfig
from alexnet_core.data.loading import summarise_data
from alexnet_core.data.prepared_folder import is_prepared, read_manifest
from alexnet_core.errors import CoreError


def given_config(options: argparse.Namespace) -> TrainConfig:
    """Returns the configuration of a file, which no other option changes.

    Raises:
        CoreError: Another option would change it, or the file is no configuration.
    """
    for name in ("dataset", "size", "epochs", "seed", "precision", "cache"):
        if getattr(options, name) is not None:
            raise CoreError(f"--{name} goes with --network; {options.config} says itself what it trains")
    return _read_config(options.config)


def _read_config(path: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CoreError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CoreError(f"{path} is not a training configuration: {first_mistake(error, TrainConfig)}") from error


def named_config(options: argparse.Namespace) -> tuple[TrainConfig, tuple[str, ...]]:
    """Returns a named network on a data set, trained as its source trained it, and what to know of the data: lines.

    Raises:
        CoreError: There is no data set, or the network does not fit its images.
    """
    if options.dataset is None:
        raise CoreError("--network needs --dataset: digits, an image folder or a prepared folder")
    spec = network_of_recipe(options.network)
    data = _digits(options) if options.dataset == "digits" else _images(options, prepared_size(spec))
    cache = options.cache if options.cache is not None or options.out is None else options.out / "cache"
    cache = cache.resolve() if cache is not None else None
    root = Path(data["root"]) if data["root"] is not None else None
    summary = summarise_data(data["source"], root, cache)
    given = {"epochs": options.epochs, "precision": options.precision}
    size = min(spec.input_size, data["image_size"])
    try:
        config = TrainConfig.model_validate(
            {
                "network": spec.model_dump() | {"classes": len(summary.class_names), "input_size": size},
                "training": training_recipe(options.network).model_dump()
                | {name: value for name, value in given.items() if value is not None},
                "data": data | {"digest": summary.digest, "cache": str(cache) if cache is not None else None},
                "seed": options.seed or 0,
            }
        )
    except ValidationError as error:
        raise CoreError(f"{options.network} on {options.dataset}: {first_mistake(error, TrainConfig)}") from error
    return config, summary.remarks


def _digits(options: argparse.Namespace) -> dict[str, Any]:
    if options.size is not None:
        raise CoreError(f"--size is for photographs; the digits have {DIGITS_SIZE} pixels")
    return {"name": "digits", "source": "digits", "root": None, "image_size": DIGITS_SIZE}


def _images(options: argparse.Namespace, usual_size: int) -> dict[str, Any]:
    """A folder of images, named after it; its size is that given, that it was prepared at, or the network's usual."""
    folder = Path(options.dataset)
    root = folder.resolve()
    name = re.sub(r"[^a-z0-9_-]+", "-", root.name.lower()).strip("-_")[:48] or "images"
    prepared = read_manifest(folder).image_size if is_prepared(folder) else None
    size = options.size or prepared or usual_size
    return {"name": name, "source": "imagefolder", "root": str(root), "image_size": size}
