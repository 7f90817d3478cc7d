"""`core: ensemble`: what the orchestrator sees of ensembles. Loads torch only when they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.cores.contract import Core, Metric, Run
from orchestrator.cores.ensembles.configuration import EnsembleConfig
from orchestrator.cores.ensembles.exports import digest_of_exports


def _data(_: EnsembleConfig, root: Path | None) -> str:
    return digest_of_exports(root)


def _evaluate(config: EnsembleConfig, run: Run) -> Iterator[Mapping[str, float]]:
    from orchestrator.cores.ensembles.evaluation import evaluate

    yield evaluate(config, run)


core = Core(
    name="ensemble",
    version=1,
    config=EnsembleConfig,
    train=_evaluate,
    metrics={
        "validation_error": Metric("%", scale=100),
        "test_error": Metric("%", scale=100),
        "test_loss": Metric("nats"),
    },
    chosen_by="validation_error",
    judged_by="test_error",
    data=_data,
)
