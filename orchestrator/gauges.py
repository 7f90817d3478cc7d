"""The study's state as Ray metrics: trials by state, best error, images per second, by study and arm.

Ray exports them at each node's Prometheus endpoint under `ray_ablation_*`.
"""

from __future__ import annotations

from collections import Counter

from alexnet_core.metrics import EpochReport
from orchestrator.records import TrialResult, TrialState


class StudyMetrics:
    """Gauges of one study; every value is set again whenever it changes."""

    def __init__(self, study: str) -> None:
        """Makes the gauges."""
        from ray.util.metrics import Gauge

        tags = ("study", "arm")
        self._study = study
        self._trials = Gauge("ablation_trials", "Trials that ended, by state", tag_keys=(*tags, "state"))
        self._best = Gauge("ablation_best_validation_error", "Best top-1 validation error in [0, 1]", tag_keys=tags)
        self._rate = Gauge("ablation_images_per_second", "Training images per second of the last epoch", tag_keys=tags)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._best_errors: dict[str, float] = {}

    def _tags(self, arm: str, **more: str) -> dict[str, str]:
        return {"study": self._study, "arm": arm, **more}

    def epoch(self, arm: str, report: EpochReport) -> None:
        """Publishes the rate of an epoch."""
        self._rate.set(report.images_per_second, tags=self._tags(arm))

    def ended(self, arm: str, result: TrialResult) -> None:
        """Counts a trial that ended; only a finished one can be the best."""
        self._counts[arm, result.state.value] += 1
        self._trials.set(self._counts[arm, result.state.value], tags=self._tags(arm, state=result.state.value))
        if result.state is TrialState.FINISHED and result.validation is not None:
            error = result.validation.top1_error
            self._best_errors[arm] = min(error, self._best_errors.get(arm, error))
            self._best.set(self._best_errors[arm], tags=self._tags(arm))
