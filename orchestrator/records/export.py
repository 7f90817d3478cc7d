"""Exporting a trained network: a folder that says what it is, how good it is, and can prove that it is whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from alexnet_core.configuration.train_config import DataSpec, TrainConfig
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import Dataset
from alexnet_core.data.loading import load_dataset
from alexnet_core.process.files import abandoned, reason_of, temporary_path
from alexnet_core.trained.model_folder import SUMS, model_card, replace_folder, write_model
from orchestrator.errors import ExitCode, LabError
from orchestrator.records import layout
from orchestrator.records.checked_record import Record, read_record
from orchestrator.records.core_export import CodeSide, export_core
from orchestrator.records.trial_record import TrialResult
from search_spaces.core_config import CoreConfig

ONE_SEED = "One seed: the one with the median validation error among {seeds} of its configuration, not the luckiest."
BEST_SEEDS = (
    "One of an ensemble: the seeds of lowest validation error among {seeds} of its configuration, whose softmaxes are "
    "to be averaged (`eval` with one `--model` for each)."
)


def export(
    results: Path,
    key: str,
    folder: Path,
    *,
    force: bool,
    ranking: Mapping[str, Any],
    code: CodeSide,
) -> None:
    """Writes the export of a trial: to a temporary folder, then renamed.

    Args:
        results: The results folder.
        key: The trial.
        folder: Where to.
        force: Replace an existing folder.
        ranking: The winner's row of `ranking.rank`.
        code: What the code of another core than AlexNet adds.

    Raises:
        LabError: The folder exists, the weights were pruned or damaged, or the folder cannot be written.
    """
    _check_free(folder, force)
    trial_folder = layout.trial_folder(results, key)
    record = _record(trial_folder)
    config, result = record
    if isinstance(config, CoreConfig):
        export_core(trial_folder, record, folder, ranking, code)
        return
    # 交出去的必须是记录里的那份权重
    weights = _weights(trial_folder, result)
    dataset = load_dataset(_data_here(results, config.data))
    with _whole(folder) as temporary:
        write_model(temporary, weights, config, dataset, _card(config, result, dataset, ranking, ONE_SEED))


def export_ensemble(
    results: Path, keys: Sequence[str], folder: Path, *, force: bool, ranking: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Writes the exports of several seeds of an AlexNet into folders named 1, 2, ...: all of them, or none.

    Args:
        results: The results folder.
        keys: The trials, in the order of the folders.
        folder: Where to.
        force: Replace an existing export or ensemble.
        ranking: The winner's row of `ranking.rank`.

    Returns:
        The folder of each trial.

    Raises:
        LabError: As `export`.
    """
    _check_free(folder, force)
    members = []
    for key in keys:
        config, result = _record(layout.trial_folder(results, key))
        assert isinstance(config, TrainConfig)
        members.append((config, result, _weights(layout.trial_folder(results, key), result)))
    # 每个种子可以有自己的划分：均值图是它自己训练图的
    data = lru_cache(maxsize=1)(load_dataset)
    with _whole(folder) as temporary:
        for number, (config, result, weights) in enumerate(members, start=1):
            dataset = data(_data_here(results, config.data))
            place = temporary / str(number)
            place.mkdir()
            write_model(place, weights, config, dataset, _card(config, result, dataset, ranking, BEST_SEEDS))
    return tuple(folder / str(number) for number in range(1, len(keys) + 1))


def _check_free(folder: Path, force: bool) -> None:
    """Refuses a folder that exists; with `force` one that is neither empty nor an export nor an ensemble of them."""
    if folder.exists() and not force:
        raise LabError(
            f"{folder} exists; choose another folder, or replace it with --force", exit_code=ExitCode.WRONG_USE
        )
    if folder.is_file() or (folder.exists() and not _is_export(folder)):
        raise LabError(f"{folder} is no export, so --force does not replace it", exit_code=ExitCode.WRONG_USE)


def _is_export(folder: Path) -> bool:
    inside = list(folder.iterdir())
    return (folder / SUMS).is_file() or all(path.name.isdecimal() and (path / SUMS).is_file() for path in inside)


def _record(trial_folder: Path) -> Record:
    record = read_record(trial_folder)
    if record is None:
        raise LabError(f"trial {trial_folder.name} has no result", exit_code=ExitCode.NOTHING)
    return record


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of `folder` once it is full."""
    # 写全了再改名：半个导出不会露面
    temporary = temporary_path(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replace_folder(temporary, folder)
    except OSError as error:
        raise LabError(
            f"{folder} cannot be written: {reason_of(error)}; choose another folder", exit_code=ExitCode.ENVIRONMENT
        ) from error
    except SafetensorError as error:
        raise LabError(f"{folder} cannot be written: {error}", exit_code=ExitCode.ENVIRONMENT) from error
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
            f"the weights of trial {result.key} were not kept; to train it anew, move {record} away and run "
            "its study again",
            exit_code=ExitCode.NOTHING,
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != result.weights_sha256:
            raise LabError(
                f"{path} is not the file that was recorded: its SHA-256 differs", exit_code=ExitCode.ENVIRONMENT
            )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise LabError(f"{path} cannot be read: {reason_of(error)}", exit_code=ExitCode.ENVIRONMENT) from error
    return {name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")}


def _card(config: TrainConfig, result: TrialResult, dataset: Dataset, ranking: Mapping[str, Any], chosen: str) -> str:
    seeds, mean = ranking["seeds"], 100 * ranking["objective"]
    return model_card(
        config,
        dataset,
        {"validation": result.validation, "test": result.test},
        origin=f"Trial `{result.key}`, seed {result.seed}.",
        remarks=(
            f"{chosen.format(seeds=seeds)} "
            f"The configuration's mean validation error over {counted(seeds, 'seed')}: {mean:.2f} %. "
            "It was chosen by validation error; the test error played no part."
        ),
        facts={
            "finished": result.finished_at,
            "training seconds": f"{result.seconds:.1f}",
            **dict(sorted(result.environment.items())),
        },
    )
