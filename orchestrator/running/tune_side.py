"""Ray Tune's side of a run: its thread, and the little that may be done of a run in it.

Tune decides in a thread of its own what runs next; the driver's main thread records meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import TrialLocks
from orchestrator.records.trial_record import TrialState
from orchestrator.running.budget import Budget
from orchestrator.running.recording.opening import RecordOpener
from orchestrator.running.slots.broker_clients import DriverClient
from orchestrator.running.slots.deaths import reason
from orchestrator.sweeps.search import Ask
from orchestrator.sweeps.searcher import PhaseSearcher
from search_spaces.trial import PlannedTrial


@dataclass(frozen=True)
class Shared:
    """What the main thread and Tune's thread have in common.

    Attributes:
        opener: Opens records.
        states: How every trial ended that is on record.
        skipped: Arms of which no further trial is begun.
        locks: Of trials, against other drivers; the kernel keeps them by process.
        broker: Where trials are submitted and stopped.
        budget: What may be spent.
        say: Prints a line.
    """

    opener: RecordOpener
    states: Mapping[str, TrialState]
    skipped: Collection[str]
    locks: TrialLocks
    broker: DriverClient
    budget: Budget
    say: Callable[[str], None]


class TuneSide:
    """What a searcher may do of a run, one phase long: the `Runner` of `sweeps.searcher`.

    All of it is called in Tune's thread, but for `close` and `free_points`, with which the main thread speaks to it.
    """

    def __init__(self, shared: Shared, *, judged: bool) -> None:
        """Starts open.

        Args:
            shared: What the threads have in common.
            judged: Whether a scheduler judges the phase's trials.
        """
        self._shared, self._judged = shared, judged
        self._closed = threading.Event()
        self._points: set[str] = set()
        self._waits_for: set[str] = set()

    # ---- in Tune's thread ---------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether no further trial is begun."""
        return self._closed.is_set()

    @property
    def skipped(self) -> Collection[str]:
        """Arms of which no further trial is begun."""
        return self._shared.skipped

    def may_start(self, trials: Sequence[PlannedTrial]) -> bool | None:
        """Asks the budget whether trials may start together; None is to ask again later."""
        budget, opener = self._shared.budget, self._shared.opener
        to_train = [
            trial.config
            for trial in trials
            if trial.key not in self._shared.states or trial.key in opener.on_record.lost_weights
        ]
        running = {
            one.trial.key: (one.trial.config, len(one.history))
            for one in opener.running.all()
            if not one.evaluated_only
        }
        refused_before = budget.refusal is not None
        may = budget.may_start(to_train, running)
        if budget.refusal is not None and not refused_before:
            self._shared.say(f"budget: {budget.refusal}; it is not started")
        return may

    def launch(self, trial: PlannedTrial, ask: Ask | None) -> dict[str, Any]:
        """Opens the record of a trial, has it trained and returns the configuration of Tune's function."""
        submission = self._shared.opener.open(trial, ask, judged=self._judged)
        if ask is not None:
            # 先登记为在跑，再让主线程看见：否则它会立刻放掉锁
            self._points.add(trial.key)
        # Tune 的进程可能还没提交就死去，而 Tune 有时不再重来；再提交一次只是接着听
        self._shared.broker.submit(submission)
        return asdict(submission)

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        """Writes down that a trial on record belongs to the study."""
        self._shared.opener.join(trial, ask)

    def lock(self, key: str) -> bool:
        """Takes a sweep's point for this driver; False while another driver trains it."""
        if self._shared.locks.try_lock(key):
            return True
        if key not in self._waits_for:
            self._waits_for.add(key)
            self._shared.say(f"{key} is being trained by another ablate; waiting for its record")
        return False

    def unlock(self, key: str) -> None:
        """Frees a point that is not launched."""
        self._shared.locks.unlock(key)

    def stop(self, key: str) -> None:
        """Has the worker of a point stop between two batches, because a scheduler decided so."""
        self._shared.broker.stop(key, "stopped")

    # ---- in the main thread -------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets no further trial begin."""
        self._closed.set()

    def free_points(self) -> None:
        """Frees the points whose end is on record."""
        for key in [key for key in list(self._points) if key not in self._shared.opener.running]:
            self._points.discard(key)
            self._shared.locks.unlock(key)


@dataclass(frozen=True)
class TuneSettings:
    """How Tune runs a phase.

    Attributes:
        name: Of the Tuner.
        storage: Scratch folder; what is in it repeats the records.
        samples: How many trials its searcher suggests at most.
        scheduler: Stops unpromising points early, or None.
    """

    name: str
    storage: Path
    samples: int
    scheduler: Any = None


class Tuning:
    """One Tuner over the slots, in a thread of its own; the methods are the main thread's."""

    def __init__(self, searcher: PhaseSearcher, settings: TuneSettings, width: int) -> None:
        """Starts the thread.

        Args:
            searcher: Suggests the trials.
            settings: How they run.
            width: Trials at once: one per slot, and those that wait so that no slot stands idle.
        """
        from ray.tune.search import ConcurrencyLimiter

        self._settings = settings
        self._limiter = ConcurrencyLimiter(searcher, max_concurrent=width)
        self._end: Future[None] = Future()
        threading.Thread(target=self._run, name="tune", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended."""
        return self._end.done()

    def widen(self, width: int) -> None:
        """Lets so many trials run at once from now on."""
        self._limiter.set_max_concurrency(width)

    def check(self) -> None:
        """Raises what the thread has ended with, as a LabError with exit code 3."""
        if self._end.done() and self._end.exception() is not None:
            raise LabError(f"Ray Tune ended: {reason(self._end.exception())}", exit_code=ExitCode.ENVIRONMENT)

    def _run(self) -> None:
        try:
            self._fit()
        except BaseException as error:
            # 异常交给主线程去报告，不在这里吞掉
            self._end.set_exception(error)
        else:
            self._end.set_result(None)

    def _fit(self) -> None:
        from ray import tune

        from orchestrator.running.slots.tune_function import run_trial

        tune.Tuner(
            # 一个字节：占 CPU 的零头会让整数个 CPU 的节点少一个槽位
            tune.with_resources(run_trial, {"CPU": 0, "memory": 1}),
            tune_config=tune.TuneConfig(
                search_alg=self._limiter,
                scheduler=self._settings.scheduler,
                num_samples=self._settings.samples,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=self._settings.name,
                storage_path=str(self._settings.storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=10),
            ),
        ).fit()
