"""Experiment trackers: each writes runs into files of its own, and passes over those it has already."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orchestrator.errors import ExitCode, LabError
from orchestrator.tables.rows import FIELDS_BY_NAME, METRICS_BY_NAME
from orchestrator.tables.tables import Tables
from search_spaces.core_config import ALEXNET

PARAMETERS = ("network.", "training.", "data.")
OUTCOMES = (
    "validation_top1_error",
    "validation_top5_error",
    "test_top1_error",
    "test_top5_error",
    "seconds",
    "images_per_second",
)
PROJECT = "alexnet-ablation"
_METRICS_PER_BATCH = 1000
# TensorBoard 不看的文件：这个文件夹是哪个 trial
_TRIAL = "trial.key"
_PART_OF_ADDRESS = frozenset("?#%")


@dataclass(frozen=True)
class Run:
    """A trial as a tracker shows it.

    Attributes:
        key: The trial's key.
        configuration: The key of its configuration whatever the seed: seeds of one configuration are a group.
        arms: `study/arm` of each membership.
        seed: Its seed.
        state: How it ended.
        parameters: Hyperparameters by dotted name.
        epochs: (number, scalars) of each epoch; errors are in [0, 1].
        outcome: Numbers after the last epoch.
    """

    key: str
    configuration: str
    arms: tuple[str, ...]
    seed: int
    state: str
    parameters: Mapping[str, str | float | bool]
    epochs: tuple[tuple[int, Mapping[str, float]], ...]
    outcome: Mapping[str, float]

    @property
    def place(self) -> str:
        """Where it stands among others: `lrn/no_lrn/seed3`."""
        return f"{self.arms[0] if self.arms else self.configuration[:8]}/seed{self.seed}"

    @property
    def title(self) -> str:
        """How people call it."""
        return f"{self.arms[0]} seed {self.seed}" if self.arms else f"{self.configuration[:8]} seed {self.seed}"


def write_tensorboard(runs: Sequence[Run], folder: Path) -> int:
    """Writes a folder of event files per run, `lrn/no_lrn/seed3`; returns how many are new."""
    from tensorboardX import SummaryWriter

    fresh = 0
    published = {path.read_text() for path in folder.rglob(_TRIAL)}
    for run in runs:
        temporary = folder / f".{run.key}.{os.getpid()}.tmp"
        # 旧版以 key 为名
        if run.key in published or (folder / run.key).exists():
            continue
        try:
            with SummaryWriter(logdir=str(temporary), write_to_disk=True) as writer:
                writer.add_text("trial", f"{run.title}: {run.state}; {', '.join(run.arms)}")
                writer.add_hparams({**run.parameters, "seed": run.seed}, dict(run.outcome), name="hyperparameters")
                for epoch, scalars in run.epochs:
                    for name, value in scalars.items():
                        writer.add_scalar(name, value, epoch)
            (temporary / _TRIAL).write_text(run.key)
            target = folder / run.place
            if target.exists():
                # 扫描的点都叫 sweep，种子也相同
                target = target.with_name(f"{target.name}-{run.key[:8]}")
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        fresh += 1
    return fresh


def write_mlflow(runs: Sequence[Run], folder: Path) -> int:
    """Writes runs into `mlflow.db` (SQLite); returns how many are new.

    Raises:
        LabError: With exit code 2, where the folder's path would be read as another one.
    """
    address = str(folder.resolve())
    if strange := sorted(_PART_OF_ADDRESS & set(address)):
        # SQLAlchemy 的地址里没法转义这些字符
        raise LabError(
            f"--to mlflow: {address} has {' '.join(strange)} in it, which MLflow's addresses cannot hold; "
            "choose another folder",
            exit_code=ExitCode.WRONG_USE,
        )
    # MLflow 默认会往外发使用统计
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{address}/mlflow.db")
    experiment = client.get_experiment_by_name(PROJECT)
    identity = experiment.experiment_id if experiment is not None else client.create_experiment(PROJECT)
    fresh = 0
    for run in runs:
        if client.search_runs([identity], f"tags.trial = '{run.key}' and attributes.status = 'FINISHED'"):
            continue
        made = client.create_run(identity, run_name=run.title)
        moment = int(1000 * time.time())
        metrics = [
            Metric(name, value, moment, epoch) for epoch, scalars in run.epochs for name, value in scalars.items()
        ]
        last = run.epochs[-1][0] if run.epochs else 0
        metrics += [Metric(f"final/{name}", value, moment, last) for name, value in run.outcome.items()]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            client.log_batch(made.info.run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
        params = [Param(_plain(name), str(value)) for name, value in run.parameters.items()]
        for start in range(0, len(params), 100):
            client.log_batch(made.info.run_id, params=params[start : start + 100])
        tags = {"state": run.state, "arms": ", ".join(run.arms), "seed": str(run.seed), "trial": run.key}
        client.log_batch(made.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        # 最后才算完成：中途被杀的 run 下次重写
        client.set_terminated(made.info.run_id, "FINISHED")
        fresh += 1
    return fresh


def _plain(name: str) -> str:
    """MLflow allows letters, digits and a few signs in names."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def write_wandb(runs: Sequence[Run], folder: Path) -> int:
    """Writes W&B's offline files; nothing goes over the network. Returns how many are new."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    fresh = 0
    for run in runs:
        if list(folder.glob(f"wandb/offline-run-*-{run.key}/published")):
            continue
        made = wandb.init(
            mode="offline",
            dir=str(folder),
            project=PROJECT,
            id=run.key,
            name=run.title,
            group=run.configuration,
            tags=[run.state, *(arm[:64] for arm in run.arms)],
            config={**run.parameters, "seed": run.seed},
            settings=wandb.Settings(silent=True, x_disable_stats=True, disable_git=True, disable_code=True),
            reinit="finish_previous",
        )
        for epoch, scalars in run.epochs:
            made.log(dict(scalars), step=epoch)
        made.summary.update({"state": run.state, **{f"final/{name}": value for name, value in run.outcome.items()}})
        made.finish()
        (Path(made.dir).parent / "published").touch()
        fresh += 1
    return fresh


# 写法，以及怎样打开
TRACKERS: Mapping[str, tuple[Callable[[Sequence[Run], Path], int], str]] = {
    "tensorboard": (write_tensorboard, "tensorboard --logdir {folder}"),
    "mlflow": (write_mlflow, "mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"),
    "wandb": (write_wandb, "wandb sync {folder}/wandb/offline-run-*"),
}


def runs(tables: Tables, study: str | None) -> Iterator[Run]:
    """Yields the ended trials as runs, in the order of their keys.

    Args:
        tables: The tables.
        study: Only trials of this study.
    """
    members = tables.members if study is None else tables.members.filter(pl.col("study") == study)
    names: dict[str, list[str]] = {}
    for row in members.iter_rows(named=True):
        names.setdefault(row["key"], []).append(f"{row['study']}/{row['arm']}")
    trials = tables.trials if study is None else tables.trials.filter(pl.col("key").is_in(list(names)))
    epochs = tables.epochs.partition_by("key", as_dict=True)
    for row in trials.iter_rows(named=True):
        curve = epochs.get((row["key"],))
        yield Run(
            key=row["key"],
            configuration=row["configuration"],
            arms=tuple(sorted(set(names.get(row["key"], ())))),
            seed=row["seed"],
            state=row["state"],
            parameters=_parameters(row),
            epochs=() if curve is None else tuple(_scalars(epoch) for epoch in curve.iter_rows(named=True)),
            outcome={name: float(row[name]) for name in row if _is_outcome(name) and row[name] is not None},
        )


def _parameters(row: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a trial: AlexNet's, or the fields of another core."""
    prefixes = PARAMETERS if row["core"] == ALEXNET.name else (FIELDS_BY_NAME,)
    return {name: value for name, value in row.items() if name.startswith(prefixes) and value is not None}


def _is_outcome(name: str) -> bool:
    return name in OUTCOMES or name.startswith(METRICS_BY_NAME)


def _scalars(epoch: dict[str, float | None]) -> tuple[int, dict[str, float]]:
    """(number, scalars) of an epoch or a report."""
    number = epoch["epoch"]
    assert number is not None
    # 几个 core 同在一张表：别人的列在这里是空的
    scalars = {name: value for name, value in epoch.items() if name not in ("key", "epoch") and value is not None}
    return int(number), {_shown(name): float(value) for name, value in scalars.items()}


def _shown(name: str) -> str:
    """`train_loss` of an epoch becomes `train/loss`, `metrics.loss` of a report `metrics/loss`."""
    if name.startswith(METRICS_BY_NAME):
        return name.replace(".", "/", 1)
    return name.replace("_", "/", 1) if name.startswith(("train_", "validation_")) else name
