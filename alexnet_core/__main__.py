"""The core's own command: `python -m alexnet_core train` and `python -m alexnet_core eval`.

Trains one configuration outside Ray with the same numbers as a trial, and evaluates an exported model.
Exit codes: 0 done, 1 diverged, 2 wrong use or a bad file, 3 a device that is not there, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alexnet_core.configuration import DataSpec, TrainConfig
from alexnet_core.errors import CoreError
from alexnet_core.metrics import EpochReport, SplitMetrics

if TYPE_CHECKING:
    from alexnet_core.datasets import Dataset


class _NoDevice(Exception):
    """A device was asked for that this machine does not have."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CoreError as error:
        return _fail(error, 2)
    except _NoDevice as error:
        return _fail(error, 3)
    return code


def _fail(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_core", description="Train and evaluate AlexNet.")
    commands = parser.add_subparsers(required=True, metavar="train|eval")
    train = commands.add_parser("train", help="train one configuration, as a trial does")
    train.add_argument("--config", type=Path, required=True, help="a trial's config.json")
    train.add_argument("--out", type=Path, help="folder for checkpoints; none are written without it")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    train.set_defaults(run=_train)
    evaluation = commands.add_parser("eval", help="evaluate an exported model")
    evaluation.add_argument("--model", type=Path, required=True, help="folder written by best --export")
    evaluation.add_argument("--dataset", help="digits, or an image folder; default: the data it was trained on")
    evaluation.add_argument("--split", choices=("test", "validation"), help="default: test, where there is one")
    evaluation.add_argument("--views", type=int, choices=(1, 10), default=1, help="views per image")
    evaluation.set_defaults(run=_evaluate)
    for command in (train, evaluation):
        command.add_argument("--data-root", type=Path, help="where the image folder lies now")
        command.add_argument("--threads", type=_positive, default=1, help="CPU threads (trials use 1)")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def _train(options: argparse.Namespace) -> int:
    config = _read_config(options.config)
    checkpoints = options.out / "checkpoint" if options.out is not None else None
    resume_from, attempt, history = _checkpoint_to_resume(checkpoints, options.resume)
    devices = _devices(options)
    dataset = _load_data(_data_at(config.data, options.data_root))
    # torch 要数秒才能载入，放在所有便宜的检查之后
    from alexnet_core.training import Diverged, train

    stop = _stop_on_signals()
    for report in history:
        _print_epoch(report, config)
    done = len(history)
    try:
        for report in train(
            config,
            devices,
            resume_from,
            dataset=dataset,
            checkpoint_folder=checkpoints,
            attempt=attempt,
            should_stop=lambda: bool(stop),
        ):
            _print_epoch(report, config)
            done = report.epoch
    except Diverged as error:
        return _fail(error, 1)
    if done < config.training.epochs:
        print(
            "interrupted" + ("; the same command with --resume goes on" if checkpoints else ""),
            file=sys.stderr,
        )
        return 130
    return 0


def _read_config(path: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CoreError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CoreError(f"{path} is not a training configuration: {where}: {first['msg']}") from error


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


def _devices(options: argparse.Namespace) -> tuple[str, str]:
    """One device per tower: two GPUs, one GPU twice, or the CPU."""
    import torch

    torch.set_num_threads(options.threads)
    gpus = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cuda" and gpus == 0:
        raise _NoDevice("--device cuda: torch sees no GPU here; use --device cpu")
    if gpus == 0:
        return ("cpu", "cpu")
    return ("cuda:0", "cuda:1" if gpus > 1 else "cuda:0")


def _data_at(data: DataSpec, root: Path | None) -> DataSpec:
    return data if root is None else data.model_copy(update={"root": str(root)})


def _load_data(data: DataSpec) -> Dataset:
    from alexnet_core.datasets import load_dataset, prepare_data

    prepare_data(data)
    return load_dataset(data)


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


def _evaluate(options: argparse.Namespace) -> int:
    devices = _devices(options)
    from alexnet_core.exported import load_model

    model = load_model(options.model, devices)
    dataset = _load_data(_data_to_evaluate(options, model.config.data))
    if dataset.class_names != model.labels:
        raise CoreError(
            f"the model knows {len(model.labels)} classes ({_some(model.labels)}), "
            f"the data has {len(dataset.class_names)} ({_some(dataset.class_names)})"
        )
    name = options.split or ("test" if dataset.test is not None else "validation")
    split = dataset.test if name == "test" else dataset.validation
    if split is None:
        raise CoreError("the data has no test set; use --split validation")
    metrics = model.evaluate(split, options.views)
    views = "10 views" if options.views == 10 else "centre crop"
    print(f"{name}, {views}: {_errors(metrics)}")
    return 0


def _data_to_evaluate(options: argparse.Namespace, trained_on: DataSpec) -> DataSpec:
    from alexnet_core.datasets import summarise_data

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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


if __name__ == "__main__":
    sys.exit(main())
