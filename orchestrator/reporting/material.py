"""What a report is made of: the answer and where it comes from; curves and kernels are read only when it is written."""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.train_config import DataSpec, TrainConfig
from alexnet_core.data.loading import EvaluationSet, decoded_set
from alexnet_core.errors import CoreError
from alexnet_core.trained.kernels import kernels_of_checkpoint, kernels_picture
from orchestrator.judging.answer import Answer
from orchestrator.judging.images.classes import class_changes
from orchestrator.judging.images.seen import SeenImages, SeenTrials
from orchestrator.judging.primary_metric import reads_epochs
from orchestrator.planning.plan_file import PlanFile, PlanRow
from orchestrator.planning.summary import image_remarks
from orchestrator.records import looks_file
from orchestrator.records.layout import evaluation_path, trial_folder
from orchestrator.tables.rows import METRICS_BY_NAME
from orchestrator.tables.tables import load_tables
from search_spaces.arm import is_absent
from search_spaces.core_config import CoreDescription, description_of
from search_spaces.trial import PlannedTrial

# 机器的名字与进程号不说明结果，也不该进入公开的报告
PRIVATE = {"env_host", "env_node", "env_pid", "env_slot", "env_worker_memory_mb", "env_epochs_before"}
HOUR = 3600.0
# 别的 core 在训练结束时画的
PICTURES, OF_CORE = "pictures", "core-"
CLASS_COLUMNS: dict[str, type[pl.DataType]] = {
    "label": pl.String,
    "images": pl.Int64,
    "compared": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(("difference", "interval_low", "interval_high", "interval_level", "p", "adjusted_p"), pl.Float64),
}
logger = logging.getLogger(__name__)


class RecordUsed(Frozen):
    """A trial that the answer rests on.

    Attributes:
        sha256: Of its `result.json`.
        views: In how many views it was evaluated for the answer.
        evaluation_sha256: Of the record of that evaluation; None with one view, which is in `result.json`.
        epochs_sha256: Of its `epochs.jsonl`, where the answer is about times to a threshold, which are read from there.
        attempts_sha256: Of the lines of `attempts.jsonl` up to its last attempt; evaluations add further ones.
    """

    arm: str
    seed: int
    phase: str
    key: str
    state: str
    message: str = ""
    sha256: str
    views: int = 1
    evaluation_sha256: str | None = None
    epochs_sha256: str | None = None
    # 旧报告没有记：没有就不写
    attempts_sha256: str | None = Field(default=None, exclude_if=is_absent)


class Provenance(Frozen):
    """Where an answer comes from.

    Attributes:
        command: The command line of the last `ablate` that planned the study.
        environment: What the trials ran on: name to all values seen.
        data: Name, digest, numbers of images, preparation.
        first_started: ISO time (UTC).
        last_finished: ISO time (UTC).
        trials: Different trials used.
        hours: Training hours, each trial once.
        gpu_hours: Hours times reserved GPUs.
        idle_gpu_hours: Of those, hours of GPUs that a network of one tower left idle.
        records: The trials used, in order of phase, seed and arm.
        plan_sha256: Of `plan.json`.
        looks_kept: Whether the looks lay in `looks.jsonl`; reports of earlier versions do not say so.
    """

    schema_version: int = 1
    command: str
    environment: dict[str, tuple[str, ...]]
    data: dict[str, str]
    first_started: str | None
    last_finished: str | None
    trials: int
    hours: float
    gpu_hours: float
    idle_gpu_hours: float
    records: tuple[RecordUsed, ...]
    plan_sha256: str
    # 旧报告的字节不变：没有就不写
    looks_kept: bool = Field(default=False, exclude_if=lambda kept: not kept)

    @property
    def lost(self) -> tuple[RecordUsed, ...]:
        """The trials that diverged, failed or were stopped."""
        return tuple(record for record in self.records if record.state != "finished")

    @property
    def digest(self) -> str:
        """One SHA-256 over all records used."""
        parts = [(one.key, one.sha256, one.evaluation_sha256, one.epochs_sha256) for one in self.records]
        lines = [" ".join(part for part in line if part) for line in parts]
        return sha256("\n".join(sorted(lines)).encode())


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        answer: What is shown.
        provenance: Where it comes from.
        points: The sweep's points: position, parameters (JSON), state, the metric that chooses by its name
            (validation_error, in percent), key.
        used: The trials used: arm, phase and the columns of the trials table; the seed is that of the plan where one
            source of randomness is drawn anew.
        first_convolution: Name of the network's first layer, if it is a convolution.
        holds_out: Whether there are validation errors, see `DataSpec`; another core has what it declares.
        seen: Which images its arms' trials got right; None where none is judged, or nothing is to be said of them.
        images: The data whose images those are.
    """

    answer: Answer
    provenance: Provenance
    points: pl.DataFrame
    used: pl.DataFrame
    first_convolution: str | None
    holds_out: bool = True
    seen: SeenTrials | None = None
    images: DataSpec | None = None


@dataclass(frozen=True)
class Details:
    """What is read from the records only when a report is written.

    Attributes:
        curves: Columns arm, seed, epoch, train_error, validation_error (percent), of the arms' seeds; of another core
            its metrics by name, as they are shown.
        kernels: PNG of the first convolution's kernels of the baseline's median seed; None where no weights are kept.
        pictures: PNGs that another core has drawn of the same seed, by name.
        classes: What each comparison changes in each class, see `ClassChange`; None where there is none, the images of
            the data are not here decoded, or it is not on record which of them were right.
    """

    curves: pl.DataFrame
    kernels: bytes | None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    classes: pl.DataFrame | None = None


def gather(
    answer: Answer,
    plan_file: PlanFile,
    folder: Path,
    results: Path,
    trials: pl.DataFrame,
    members: pl.DataFrame,
    confirming: Sequence[PlannedTrial],
    images: SeenImages | None = None,
) -> Material:
    """Collects the material of a report.

    Args:
        answer: The answer.
        plan_file: What `plan.json` says.
        folder: The study's folder.
        results: The results folder.
        trials: The trials table.
        members: Rows of the members table that belong to this study's sweep.
        confirming: The trials that confirm its best points.
        images: Which images trials got right; None to say nothing of them.
    """
    arms = {arm.name for arm in answer.arms}
    rows = [row for row in plan_file.trials if row.arm in arms or row.phase in ("tuning", "retuned")]
    planned = pl.DataFrame(
        [{"arm": row.arm, "phase": row.phase, "key": row.key} for row in rows],
        schema={"arm": pl.String, "phase": pl.String, "key": pl.String},
    )
    fresh = pl.DataFrame(
        [{"arm": trial.arm, "phase": trial.phase, "key": trial.key} for trial in confirming], schema=planned.schema
    )
    # 报告只列判断用过的 trial，每个都带记录的摘要
    used = pl.concat([planned, members.select("arm", "phase", "key"), fresh]).unique().join(trials, on="key")
    if answer.variance:
        used = _by_planned_seed(used, rows)
    base = plan_file.base
    first = base.network.layers[0] if isinstance(base, TrainConfig) else None
    return Material(
        answer=answer,
        provenance=provenance(plan_file, folder, results, used),
        points=_points(members, trials, description_of(base)),
        used=used,
        first_convolution=first.name if first is not None and first.kind == "convolution" else None,
        holds_out=not isinstance(base, TrainConfig) or base.data.holds_out,
        seen=_seen(answer, plan_file, images),
        images=base.data if isinstance(base.data, DataSpec) else None,
    )


def _seen(answer: Answer, plan_file: PlanFile, images: SeenImages | None) -> SeenTrials | None:
    if images is None or not answer.counts_images or not answer.same_images:
        return None
    trials = {(row.arm, row.seed): (row.key, row.views) for row in plan_file.trials if row.phase == "arm"}
    return SeenTrials(images, trials, "test" if answer.judged_split == "test" else "validation")


def details(material: Material, results: Path, folder: Path) -> Details:
    """Reads the learning curves, the kernels, and the pictures that another core has drawn.

    Args:
        material: What the report is made of.
        results: The results folder.
        folder: The study's folder.
    """
    epochs = load_tables(results).epochs
    core = material.answer.core
    curves = _curves(material.used, epochs) if core is None else _curves_of_core(material.used, epochs, core)
    drawn = sorted((folder / PICTURES).glob("*.png")) if core is not None else []
    pictures = {path.stem: path.read_bytes() for path in drawn}
    return Details(curves, _kernels(material, results), pictures, _classes(material))


def judged_images(material: Material) -> EvaluationSet | None:
    """Returns the images that were judged; None where they are not here decoded, or none are judged.

    Raises:
        CoreError: They are here, and are not those of the training.
    """
    if material.seen is None or material.images is None:
        return None
    return decoded_set(material.images, material.seen.split)


def _classes(material: Material) -> pl.DataFrame | None:
    """A row for each change of a class, see `ClassChange`."""
    if not material.answer.has_beyond:
        return None
    try:
        data = judged_images(material)
    except CoreError as error:
        logger.warning("no table of classes: %s", error)
        return None
    if data is None or material.seen is None:
        return None
    changes = class_changes(material.answer, material.seen, data.split.labels, data.class_names)
    rows = [
        {
            **{name: getattr(change, name) for name in ("label", "images", "compared", "n", "difference")},
            **dict(zip(("interval_low", "interval_high"), change.interval or (None, None), strict=True)),
            **{name: getattr(change, name) for name in ("interval_level", "p", "adjusted_p")},
        }
        for change in changes
    ]
    return pl.DataFrame(rows, schema=CLASS_COLUMNS) if rows else None


def _by_planned_seed(used: pl.DataFrame, rows: Sequence[PlanRow]) -> pl.DataFrame:
    """The trials used under the seeds of the plan: one that draws a single source anew has 0 as its own."""
    seeds = pl.DataFrame(
        [{"arm": row.arm, "phase": row.phase, "key": row.key, "seed": row.seed} for row in rows],
        schema={"arm": pl.String, "phase": pl.String, "key": pl.String, "seed": pl.Int64},
    )
    return used.drop("seed").join(seeds, on=["arm", "phase", "key"])


def _curves_of_core(used: pl.DataFrame, epochs: pl.DataFrame, core: CoreDescription) -> pl.DataFrame:
    """Its metrics by report, as they are shown."""
    arms = used.filter(pl.col("phase") == "arm").select("arm", "seed", "key")
    # 按名排序：写下再读回的声明次序不同
    known = {name: core.metrics[name] for name in sorted(core.metrics) if f"{METRICS_BY_NAME}{name}" in epochs.columns}
    return (
        arms.join(epochs, on="key")
        .select(
            "arm",
            "seed",
            "epoch",
            *((metric.scale * pl.col(f"{METRICS_BY_NAME}{name}")).alias(name) for name, metric in known.items()),
        )
        .sort("arm", "seed", "epoch")
    )


def _curves(used: pl.DataFrame, epochs: pl.DataFrame) -> pl.DataFrame:
    arms = used.filter(pl.col("phase") == "arm").select("arm", "seed", "key")
    return (
        arms.join(epochs, on="key")
        .select(
            "arm",
            "seed",
            "epoch",
            (100.0 * pl.col("train_top1_error")).alias("train_error"),
            (100.0 * pl.col("validation_top1_error")).alias("validation_error"),
        )
        .sort("arm", "seed", "epoch")
    )


def _points(members: pl.DataFrame, trials: pl.DataFrame, core: CoreDescription) -> pl.DataFrame:
    shown = core.chosen.scale * core.chosen.objective(1.0)
    return (
        members.select("position", "parameters", "key")
        .join(trials.select("key", "state", "objective"), on="key")
        .select(
            "position",
            "parameters",
            "state",
            (shown * pl.col("objective")).alias(core.chosen_by),
            "key",
        )
        .sort("position")
    )


def _kernels(material: Material, results: Path) -> bytes | None:
    """The picture of the baseline's seed of median validation error, which `best` would export.

    Without such errors it is the first arm's first seed.
    """
    baseline = material.answer.arms[0].name
    arm_rows = material.used.filter(
        (pl.col("arm") == baseline) & (pl.col("phase") == "arm") & (pl.col("state") == "finished")
    ).sort("objective", "seed")
    if not arm_rows.height or material.first_convolution is None:
        return None
    row = arm_rows.row((arm_rows.height - 1) // 2 if material.holds_out else 0, named=True)
    path = trial_folder(results, row["key"]) / (row["weights"] or "")
    if not path.is_file():
        return None
    try:
        drawn = kernels_picture(kernels_of_checkpoint(path, material.first_convolution))
    except CoreError as error:
        logger.warning("no picture of the kernels: %s", error)
        return None
    buffer = BytesIO()
    drawn.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def provenance(plan_file: PlanFile, folder: Path, results: Path, used: pl.DataFrame) -> Provenance:
    """Collects where an answer comes from.

    Args:
        plan_file: What `plan.json` says.
        folder: The study's folder.
        results: The results folder.
        used: The trials used: columns arm, phase and those of the trials table; a shared trial may stand in it twice.
    """
    trials = used.unique("key", keep="first")
    hours, gpu_hours, idle = _hours(trials)
    return Provenance(
        command=_command(plan_file.command),
        environment=_environment(trials),
        data=_data(plan_file),
        first_started=trials["started_at"].min() if trials.height else None,
        last_finished=trials["finished_at"].max() if trials.height else None,
        trials=trials.height,
        hours=hours,
        gpu_hours=gpu_hours,
        idle_gpu_hours=idle,
        records=_records(results, used, plan_file),
        plan_sha256=sha256((folder / "plan.json").read_bytes()),
        looks_kept=(folder / looks_file.FILE).is_file(),
    )


def sha256(content: bytes) -> str:
    """Returns the SHA-256 in hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str | None:
    """Returns the SHA-256 of a file; None where there is none."""
    return sha256(path.read_bytes()) if path.is_file() else None


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "orchestrator.ablate", *arguments[1:]])


def _environment(trials: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    names = [name for name in trials.columns if name.startswith("env_") and name not in PRIVATE]
    values = {
        name.removeprefix("env_"): [value for value in trials[name].unique().sort().to_list() if value]
        for name in names
    }
    return {name: tuple(map(str, distinct)) for name, distinct in values.items() if distinct}


def _data(plan_file: PlanFile) -> dict[str, str]:
    spec, summary = plan_file.base.data, plan_file.summary
    images, classes, remarks = None, None, ""
    if summary is not None:
        images = f"train {summary.train}; validation {summary.validation}; test {summary.test}"
        classes = len(summary.class_names)
        remarks = ". ".join(image_remarks(summary, plan_file.recipe, plan_file.study_definition))
    facts: dict[str, object] = {"name": spec.name}
    if not isinstance(spec, DataSpec) or summary is None:
        content = spec.digest or "not said by the core"
        facts |= {"content (as the core names it)": content, "images": images, "classes": classes}
    else:
        facts |= {
            "content (SHA-256 of the manifest)": spec.digest,
            "images": images,
            "training images used": spec.train_images,
            "classes": classes or None,
            "prepared size": f"{spec.image_size} pixels",
            "preparation": f"version {spec.preparation}",
            "split seed": spec.split_seed,
        }
    facts["to know"] = remarks
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _hours(trials: pl.DataFrame) -> tuple[float, float, float]:
    """Hours, GPU-hours and idle GPU-hours; on CPUs no GPU counts."""
    each = []
    for row in trials.iter_rows(named=True):
        hours = row["seconds"] / HOUR
        used = {device for device in (row.get("env_devices") or "").split(",") if device.startswith("cuda")}
        reserved = len([gpu for gpu in (row.get("env_reserved_gpus") or "").split(",") if gpu]) if used else 0
        reserved = max(reserved, len(used))
        # 几个小槽位合用一块 GPU 时，各自只付自己的一份
        workers = _factor(row.get("env_workers")) * _factor(row.get("env_gpu_share"))
        each.append((hours, hours * reserved * workers, hours * (reserved - len(used)) * workers))
    # 表里行的次序会变，和却不能变：否则报告会无故重写
    whole, paid, idle = (math.fsum(column) for column in zip(*each, strict=True)) if each else (0.0, 0.0, 0.0)
    return whole, paid, idle


def _factor(recorded: str | None) -> float:
    """A number of a record's environment; one where there is none, or nonsense."""
    try:
        value = float(recorded or 1)
    except ValueError:
        return 1.0
    return value if 0 < value < math.inf else 1.0


def _records(results: Path, used: pl.DataFrame, plan_file: PlanFile) -> tuple[RecordUsed, ...]:
    views = {(row.arm, row.key): row.views for row in plan_file.trials}
    timed = reads_epochs(plan_file.recipe)
    hashes = {key: sha256((trial_folder(results, key) / "result.json").read_bytes()) for key in used["key"].unique()}

    def seen(row: Mapping[str, Any]) -> dict[str, Any]:
        arm_views, folder = views.get((row["arm"], row["key"]), 1), trial_folder(results, row["key"])
        return {
            "views": arm_views,
            "evaluation_sha256": sha256_of(evaluation_path(folder, arm_views)),
            "epochs_sha256": sha256_of(folder / "epochs.jsonl") if timed else None,
            "attempts_sha256": _attempts_sha256(folder, row["attempts"]),
        }

    columns = ("arm", "seed", "phase", "key", "state", "message")
    rows = used.select(*columns, "attempts").sort("phase", "seed", "arm", "key")
    return tuple(
        RecordUsed(**{name: row[name] for name in columns}, sha256=hashes[row["key"]], **seen(row))
        for row in rows.iter_rows(named=True)
    )


def _attempts_sha256(folder: Path, attempts: int) -> str | None:
    path = folder / "attempts.jsonl"
    if not path.is_file():
        return None
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    return sha256(b"\n".join(lines[:attempts]))
