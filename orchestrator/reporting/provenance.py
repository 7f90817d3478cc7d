"""Where an answer comes from: command, environment, data, cost, lost trials, and the hashes of the records it used."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from alexnet_core.specification import Frozen
from orchestrator.evaluations import evaluation_path
from orchestrator.records import trial_folder

# 机器的名字与进程号不说明结果，也不该进入公开的报告
PRIVATE = {"env_host", "env_node", "env_pid", "env_slot", "env_worker_memory_mb"}
HOUR = 3600.0


class RecordUsed(Frozen):
    """A trial that the answer rests on.

    Attributes:
        sha256: Of its `result.json`.
        views: In how many views it was evaluated for the answer.
        evaluation_sha256: Of the record of that evaluation; None with one view, which is in `result.json`.
        epochs_sha256: Of its `epochs.jsonl`, where the answer is about times to a threshold, which are read from there.
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

    @property
    def lost(self) -> tuple[RecordUsed, ...]:
        """The trials that diverged, failed or were stopped."""
        return tuple(record for record in self.records if record.state != "finished")

    @property
    def digest(self) -> str:
        """One SHA-256 over all records used."""
        parts = [(one.key, one.sha256, one.evaluation_sha256, one.epochs_sha256) for one in self.records]
        lines = [" ".join(part for part in own if part) for own in parts]
        return sha256("\n".join(sorted(lines)).encode())


def provenance(plan: Mapping[str, Any], folder: Path, results: Path, used: pl.DataFrame) -> Provenance:
    """Collects where an answer comes from.

    Args:
        plan: Content of `plan.json`.
        folder: The study's folder.
        results: The results folder.
        used: The trials used: columns arm, phase and those of the trials table; a shared trial may stand in it twice.
    """
    trials = used.unique("key", keep="first")
    hours, gpu_hours, idle = _hours(trials)
    return Provenance(
        command=_command(plan["command"]),
        environment=_environment(trials),
        data=_data(plan),
        first_started=trials["started_at"].min() if trials.height else None,
        last_finished=trials["finished_at"].max() if trials.height else None,
        trials=trials.height,
        hours=hours,
        gpu_hours=gpu_hours,
        idle_gpu_hours=idle,
        records=_records(results, used, plan),
        plan_sha256=sha256((folder / "plan.json").read_bytes()),
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
    return {name: tuple(map(str, found)) for name, found in values.items() if found}


def _data(plan: Mapping[str, Any]) -> dict[str, str]:
    spec, summary = plan["base"]["data"], plan.get("summary", {})
    images = "; ".join(f"{split} {summary[split]}" for split in ("train", "validation", "test") if split in summary)
    found = {
        "name": spec["name"],
        "content (SHA-256 of the manifest)": spec["digest"],
        "images": images,
        "training images used": spec["train_images"],
        "classes": len(summary.get("class_names", ())) or None,
        "prepared size": f"{spec['image_size']} pixels",
        "preparation": f"version {spec['preparation']}",
        "split seed": spec["split_seed"],
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


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


def _records(results: Path, used: pl.DataFrame, plan: Mapping[str, Any]) -> tuple[RecordUsed, ...]:
    views = {(row["arm"], row["key"]): row.get("views", 1) for row in plan["trials"]}
    timed = plan.get("recipe", {}).get("threshold") is not None
    hashes = {key: sha256((trial_folder(results, key) / "result.json").read_bytes()) for key in used["key"].unique()}

    def seen(row: Mapping[str, Any]) -> dict[str, Any]:
        asked, folder = views.get((row["arm"], row["key"]), 1), trial_folder(results, row["key"])
        return {
            "views": asked,
            "evaluation_sha256": sha256_of(evaluation_path(folder, asked)),
            "epochs_sha256": sha256_of(folder / "epochs.jsonl") if timed else None,
        }

    rows = used.select("arm", "seed", "phase", "key", "state", "message").sort("phase", "seed", "arm", "key")
    return tuple(RecordUsed(**row, sha256=hashes[row["key"]], **seen(row)) for row in rows.iter_rows(named=True))
