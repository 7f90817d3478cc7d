"""Studies of a user's own core, and records of its trials made by hand: nothing is trained, no Ray is started."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import write_plan
from orchestrator.records import trial_record
from orchestrator.records.reports import CoreReport
from orchestrator.records.trial_record import TrialResult, TrialState, join_members
from orchestrator.tables.tables import update_tables
from search_spaces.core_config import CoreConfig, CoreData, CoreDescription, CoreSide, MetricDescription
from search_spaces.study import Study
from search_spaces.trial import overridden, trial_key, unfold
from search_spaces.yaml_file import parse_model

# 一步一步往下走的游走：随机只由种子而来，一个字段一种脾气
WALK = """
import random
from pydantic import BaseModel, ConfigDict, Field
from orchestrator import Core, Metric, Run

class Stride(BaseModel):
    model_config = ConfigDict(frozen=True)
    length: float = Field(default=0.5, gt=0)
    is_springy: bool = False

class Config(BaseModel):
    model_config = ConfigDict(frozen=True)
    epochs: int = Field(default=3, ge=1)
    seed: int = 7
    stride: Stride = Stride()

def train(config, run):
    own, start, place = random.Random(run.seed), 0, 9.0
    if (state := run.load()) is not None:
        start, place = state["epoch"], state["place"]
        own.setstate(state["own"])
    for epoch in range(start, config.epochs):
        run.beat()
        place -= config.stride.length * own.random()
        run.save({"epoch": epoch + 1, "place": place, "own": own.getstate()})
        yield {"loss": place, "test_loss": place + 0.1 * own.random()}

core = Core(name="walk", version=1, config=Config, train=train, gpus=0,
            metrics={"loss": Metric("nats"), "test_loss": Metric("nats")}, chosen_by="loss", judged_by="test_loss")
"""

STUDY = """core: walk.py
name: walking
question: Does a longer stride help?
source: my notes
claim: {statement: A longer stride lowers the loss., source: my notes, direction: lower}
baseline: baseline
arms:
  - {name: baseline, title: half a metre}
  - name: long
    title: a longer stride
    set: {stride.length: 0.8}
    claim: {statement: It lowers the loss., source: my notes, points: -0.6}
  - {name: springy, title: a springy stride, set: {stride.is_springy: true}}
sweep:
  parameters:
    stride.length: {kind: float, low: 0.1, high: 1.0}
recipes:
  default: {seeds: 8, margin: 0.05, smallest_effect: 0.1}
"""


class Stride(BaseModel):
    model_config = ConfigDict(frozen=True)

    length: float = Field(default=0.5, gt=0)
    is_springy: bool = False


class Walk(BaseModel):
    """What `WALK` takes."""

    model_config = ConfigDict(frozen=True)

    epochs: int = Field(default=3, ge=1)
    seed: int = 7
    stride: Stride = Stride()


def write_walk(folder: Path, core: str = WALK, study: str = STUDY) -> None:
    """Writes the core and its study into a folder, `walk.py` and `walking.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "walk.py").write_text(core)
    (folder / "walking.yaml").write_text(study)


def describe(**fields: Any) -> CoreDescription:
    """What the core `walk` declares; `unit` and `better` are those of both metrics."""
    kind = {name: fields.pop(name) for name in ("unit", "better", "scale") if name in fields}
    metric = MetricDescription(**{"unit": "nats", **kind})
    values = {"name": "walk", "version": 1, "metrics": {"loss": metric, "test_loss": metric}}
    return CoreDescription(**{**values, "chosen_by": "loss", "judged_by": "test_loss", "gpus": 0, **fields})


def walk_config(
    seed: int = 0,
    /,
    core: CoreDescription | None = None,
    data: CoreData | None = None,
    model: type[BaseModel] = Walk,
    **edits: Any,
) -> CoreConfig:
    """A configuration of the core; in the names of edits two underscores stand for a dot."""
    data = data or CoreData(name="default")
    digest = data.digest
    base = CoreConfig.of(CoreSide(model, lambda config: digest), core or describe(), data, "core walk")
    edited = base.with_fields({name.replace("__", "."): value for name, value in edits.items()}, "a test")
    return edited.model_copy(update={"seed": seed})


def study_of(*changes: tuple[str, str]) -> Study:
    """The study `walking`, with some of its text changed: old and new."""
    return parse_model(changed(*changes), Study, "walking.yaml")


def changed(*changes: tuple[str, str]) -> str:
    """The text of the study `walking`, changed."""
    text = STUDY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def put_walk(
    results: Path,
    config: CoreConfig,
    curve: Sequence[Mapping[str, float]],
    *,
    state: TrialState = TrialState.FINISHED,
    code: str = "c0de" * 5,
    **fields: Any,
) -> str:
    """Puts a hand-made trial on record whose reports are `curve`; returns its key."""
    folder = trial_record.open_record(results, config)
    attempts = trial_record.next_attempt(folder, code)
    reports = [CoreReport(epoch=number, metrics=dict(row), seconds=0.5) for number, row in enumerate(curve, start=1)]
    trial_record.rewrite_epochs(folder, reports)
    weights = {}
    if fields.get("weights") is not None:
        path = folder / fields["weights"]
        weights["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    values: dict[str, Any] = {
        "key": trial_key(config),
        "state": state,
        "seed": config.seed,
        "epochs": len(reports),
        "metrics": dict(curve[-1]) if curve else {},
        "seconds": 0.5 * len(reports),
        "attempts": attempts,
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:01+00:00",
        "environment": {"code": code, "devices": "cpu", "resumes": "from its last state", "session": "one"},
    }
    trial_record.write_result(folder, TrialResult(**{**values, **weights, **fields}))
    return trial_key(config)


def plan_walk(study: Study, seeds: int, core: CoreDescription | None = None, dataset: str = "default") -> Plan:
    """The plan of a study of the core, as the command would make it."""
    recipe, core = study.recipes[dataset], core or describe()
    study = study.on(dataset).model_copy(update={"primary_metric": study.primary_metric or core.judged_by})
    base = walk_config(core=core, data=CoreData(name=dataset)).with_fields(recipe.set, "the recipe")
    base = overridden(study, base, {})  # type: ignore[assignment]
    return Plan(
        study=study,
        dataset=dataset,
        recipe=recipe,
        summary=None,
        base=base,
        trials=unfold(study, base, range(seeds)),
        seeds=tuple(range(seeds)),
        sweep_points=0,
    )


def put_study(results: Path, plan: Plan, values: Mapping[str, Sequence[float]], reports: int = 3) -> None:
    """Puts a whole study on record: arm to its judged metric by seed; both metrics fall to it over the reports."""
    for trial in plan.trials:
        assert isinstance(trial.config, CoreConfig)
        last = values[trial.arm][trial.seed]
        curve = [dict.fromkeys(trial.config.core.metrics, last * reports / number) for number in range(1, reports + 1)]
        put_walk(results, trial.config, curve)
    write_plan(results / "studies" / plan.study.name, plan, ["ablate.py", "--study", "walking.yaml"])
    join_members(results, plan.study.name, plan.dataset, plan.trials)
    update_tables(results)
