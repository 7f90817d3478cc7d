"""`alexnet_core train` (see `__main__`). torch is loaded after all that is cheap to check."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_core.commands.devices import devices_of
from alexnet_core.commands.progress import data_at, errors_text, print_notes, progress_of
from alexnet_core.commands.training_config import given_config, named_config
from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.schedule import same_rates
from alexnet_core.configuration.train_config import DataSpec, TrainConfig, TrainingSpec
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import Dataset
from alexnet_core.data.loading import data_remarks, load_dataset, prepare_data
from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of, replaced, temporary_path
from alexnet_core.trained.model_folder import model_card, replace_folder, write_model


def train(options: argparse.Namespace) -> int:
    """Trains one configuration, with the same numbers as a trial."""
    config, remarks = (given_config(options), None) if options.config is not None else named_config(options)
    print_notes(remarks or ())
    checkpoints = _checkpoint_folder(options.out)
    resume_from, attempt, history = _checkpoint_to_resume(checkpoints, options.resume, config.training)
    dataset = _prepared_dataset(data_at(config.data, options.data_root), remarks)
    devices = devices_of(options)
    # 被拒绝的命令不能改动已有的 config.json
    _check_before_writing(config, devices, resume_from)
    if options.out is not None:
        with replaced(options.out / "config.json") as path:
            path.write_text(config.model_dump_json())
    from alexnet_core.training.checkpointing import Checkpointing
    from alexnet_core.training.train import Diverged
    from alexnet_core.training.train import train as epochs

    checkpointing = Checkpointing(checkpoints, attempt, keep_best=True) if checkpoints is not None else None
    stop = _stop_on_signals()
    # 已经过去的轮从检查点里读出，先重印一遍：输出与未中断的相同
    for report in history:
        _print_epoch(report, config)
    reports = list(history)
    try:
        with _tensorboard(options.tensorboard) as log, progress_of("images of the epoch", 60.0) as progress:
            for report in epochs(
                config,
                devices,
                resume_from,
                dataset=dataset,
                checkpointing=checkpointing,
                should_stop=lambda: bool(stop),
                progress=progress,
            ):
                _print_epoch(report, config)
                log(report)
                reports.append(report)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if len(reports) < config.training.epochs:
        again = "; the same command with --resume goes on" if checkpoints else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    if checkpoints is not None:
        _write_model(options.out / "model", checkpoints, config, dataset, reports[-1])
    return 0


def _prepared_dataset(data: DataSpec, remarks: Sequence[str] | None) -> Dataset:
    """Decodes the images where that is still to be done, and prints what there is to know of them beside `remarks`.

    Args:
        data: The data.
        remarks: Of its summary, already printed; None where nobody has made one.
    """
    with progress_of("decoding images") as progress:
        prepare_data(data, progress)
    dataset = load_dataset(data)
    # 概括过的不再概括：一百万张图的清单要再读、再查重
    known = data_remarks(data, dataset) if remarks is None else dataset.remarks
    print_notes(remark for remark in known if remark not in (remarks or ()))
    return dataset


def _check_before_writing(config: TrainConfig, devices: Sequence[str], resume_from: Path | None) -> None:
    """Raises CoreError where the devices lack the precision, or the checkpoint is of another run."""
    import torch

    from alexnet_core.training.precision import check_precision
    from alexnet_core.training.run import check_same_run

    check_precision(config.training.precision, torch.device(devices[0]))
    if resume_from is not None:
        check_same_run(config, resume_from)


def _checkpoint_folder(out: Path | None) -> Path | None:
    """Makes --out and says where its checkpoints go."""
    if out is None:
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CoreError(f"--out {out} cannot be made: {error.strerror}") from error
    return out / "checkpoint"


def _write_model(folder: Path, checkpoints: Path, config: TrainConfig, dataset: Dataset, last: EpochReport) -> None:
    """Exports the trained network, ready for eval, kernels, neighbours, predictions, onnx and `load_model`."""
    from safetensors import SafetensorError

    from alexnet_core.training.checkpoint import latest_checkpoint, read_tensors

    final = latest_checkpoint(checkpoints)
    if final is None:
        raise CoreError(f"{checkpoints} holds no checkpoint any more")
    weights = {name: tensor.numpy() for name, tensor in read_tensors(final)[0].items()}
    measured = {"validation": last.validation, "test": last.test}
    origin = f"Trained by `python -m alexnet_core train`, seed {config.seed}."
    facts = {"seconds of the last epoch": f"{last.seconds:.1f}"}
    card = model_card(config, dataset, measured, origin=origin, facts=facts)
    temporary = temporary_path(folder)
    try:
        temporary.mkdir()
        write_model(temporary, weights, config, dataset, card)
        replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CoreError(f"{folder} cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{folder}: ready for eval, kernels, neighbours, predictions, onnx and load_model")


def _checkpoint_to_resume(
    folder: Path | None, resume: bool, training: TrainingSpec
) -> tuple[Path | None, int, tuple[EpochReport, ...]]:
    """The checkpoint to go on from, the number of this attempt, and the epochs that lie behind."""
    from alexnet_core.training.checkpoint import checkpoints, latest_checkpoint, read_history

    if resume and folder is None:
        raise CoreError("--resume needs --out, the folder with the checkpoints")
    existing = checkpoints(folder) if folder is not None else ()
    if existing and not resume:
        raise CoreError(f"{folder} holds checkpoints already: go on with --resume, or give another --out")
    latest = latest_checkpoint(folder) if folder is not None else None
    attempt = 1 + max((int(path.name.split("-")[0]) for path in existing), default=0)
    if latest is None:
        return None, attempt, ()
    history = read_history(latest)
    if len(history) > training.epochs:
        raise CoreError(
            f"{folder} has {counted(len(history), 'epoch')} already, more than the {training.epochs} asked for"
        )
    return _reopened(latest, history, training), attempt, history


def _reopened(final: Path, history: Sequence[EpochReport], training: TrainingSpec) -> Path:
    """The checkpoint itself, or where it was the last of a shorter training, one to go on from."""
    from alexnet_core.training.checkpoint import has_velocities, is_final, reopen

    if not is_final(final) or len(history) == training.epochs:
        return final
    shorter = training.model_copy(update={"epochs": len(history)})
    errors = [report.validation_error for report in history]
    if not has_velocities(final) or not same_rates(shorter, training, errors):
        raise CoreError(
            f"{final.parent} holds a training of {counted(len(history), 'epoch')} that has ended, and one of "
            f"{training.epochs} "
            "does not begin as it did: the schedule depends on the number of epochs; give another --out"
        )
    return reopen(final, final.parent)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CoreError(f"--tensorboard {folder} cannot be made: {error.strerror}") from error
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
    # 没有留出图像时，能看的只有训练误差
    error = report.train if report.validation is None else report.validation
    validation = "training" if report.validation is None else f"validation loss {report.validation.loss:.4f} "
    print(
        f"epoch {report.epoch}/{config.training.epochs}  lr {report.learning_rate:g}  "
        f"train loss {report.train.loss:.4f}  {validation} "
        f"{errors_text(error)}  {report.images_per_second:.0f} images/s",
        flush=True,
    )
    if report.test is not None:
        print(f"test  loss {report.test.loss:.4f}  {errors_text(report.test)}", flush=True)
