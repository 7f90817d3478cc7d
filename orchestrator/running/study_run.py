"""Running a plan's missing trials: warm slots, and Tune's phases over them.

Broker events come to the driver's main thread, whose recorder writes them down. Ray Tune decides what runs next in a
thread of its own, which knows no more of a run than `TuneSide`.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from alexnet_core.configuration.wording import counted
from alexnet_core.process.files import pid_namespace
from orchestrator.planning.estimate import EpochSeconds
from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import Plan
from orchestrator.planning.work_left import WorkLeft
from orchestrator.records.files import TrialLocks
from orchestrator.running.budget import Budget
from orchestrator.running.cluster import death_watch, lifecycle
from orchestrator.running.main_loop import Interrupted, MainLoop, StopSignals
from orchestrator.running.progress import Progress
from orchestrator.running.ray_start import RayDeath
from orchestrator.running.recording.launched import RunningTrials
from orchestrator.running.recording.opening import RecordOpener, RecordSettings, now
from orchestrator.running.recording.recorder import Recorder
from orchestrator.running.recording.remaining import Remaining
from orchestrator.running.recording.tally import Tally
from orchestrator.running.slots.broker_clients import DriverClient
from orchestrator.running.slots.silence import Silence
from orchestrator.running.slots.slot import SlotPlan, Slots
from orchestrator.running.slots.slot_watch import SlotWatch
from orchestrator.running.steering import Presence, RunFacts, Steering
from orchestrator.running.tune_side import Shared, TuneSettings, TuneSide, Tuning
from orchestrator.sweeps.searcher import ArmSearcher, PhaseSearcher, Runner
from search_spaces.core_config import ALEXNET, description_of, readable
from search_spaces.trial import PlannedTrial


@dataclass(frozen=True)
class RunSettings:
    """How a plan is run; none of it changes a number.

    Attributes:
        record: Where records go and what is kept.
        scratch: Scratch folder of Ray Train and Tune.
        slot_plan: Slots and what they reserve.
        facts: The Ray that was started or joined.
        worker_environment: Environment variables of the workers.
        work: What there is to do, of all phases.
        measured: What epochs took that were trained before.
        budget: What the run may spend.
        names_arms: Whether Ray's metrics name the arms.
        may_grow: Whether more seeds may be asked for while it runs.
        death: Called when Ray dies, as that ends the process.
    """

    record: RecordSettings
    scratch: Path
    slot_plan: SlotPlan
    facts: lifecycle.ClusterFacts
    worker_environment: Mapping[str, str]
    work: WorkLeft
    measured: EpochSeconds
    budget: Budget
    names_arms: bool
    may_grow: bool
    death: RayDeath


class StudyRun:
    """Lives while a study's trials run; phases follow one another over the same warm slots. For the main thread.

    Attributes:
        display: What the user sees.
        steering: What has been asked for from another shell.
        opener: Opens records and writes memberships down.
        tally: What has ended.
    """

    def __init__(self, plan: Plan, on_record: OnRecord, settings: RunSettings, console: Console) -> None:
        """Starts the broker and the slots; the first trial waits for them."""
        self._settings, record = settings, settings.record
        broker = DriverClient(lifecycle.start_broker())
        # 槽位要几秒才热：先让它们起来
        storage, environment = settings.scratch / "train", dict(settings.worker_environment)
        slots = Slots(settings.slot_plan, plan.study.name, storage, environment)
        self._locks = TrialLocks(record.results)
        title = f"{record.folder.name}: {plan.study.question}"
        remaining = Remaining(settings.work, settings.measured, lambda: slots.count)
        dashboard = _dashboard_line(settings.facts)
        core = description_of(plan.base)
        measure = f"{readable(core.chosen_by)}{'s' if core is ALEXNET else ''}"
        self.display = Progress(console, title, dashboard, remaining.count, remaining.time_left, measure)
        self.opener = RecordOpener(plan, on_record, record, RunningTrials())
        self.tally = Tally(self.opener, self.display, remaining, names_arms=settings.names_arms)
        facts = _run_facts(plan, settings)
        self.steering = Steering(record.folder, facts.run)
        self._loop = MainLoop(
            broker=broker,
            recorder=Recorder(self.opener, self.tally, self.display, settings.budget.epoch, settings.budget.trial),
            slots=SlotWatch(
                slots,
                settings.slot_plan,
                broker,
                (record.results, plan.data_roots),
                self.display.say,
                self.display.stage,
            ),
            silence=Silence(self.display.say),
            steering=self.steering,
            presence=Presence(record.folder, facts),
            signals=StopSignals(),
            say=self.display.say,
            leave_out=self.tally.leave_out,
        )
        self._shared = Shared(
            opener=self.opener,
            states=self.tally.states,
            skipped=self.steering.skipped,
            locks=self._locks,
            broker=broker,
            budget=settings.budget,
            say=self.display.say,
        )

    def __enter__(self) -> StudyRun:
        """Takes over Ctrl-C and SIGTERM, and says that the study runs."""
        self._loop.signals.take()
        self._settings.death.take_over(self.display, self._loop.signals)
        self._loop.presence.begin()
        self.display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the display and frees the locks; Ray goes with the process (`cluster.leave`)."""
        # 从这里起不再需要 Ray：它的死活与结局无关
        death_watch.close()
        self.display.__exit__(*exception)
        self._loop.slots.close()
        self._loop.presence.end()
        self._locks.close()
        self._loop.signals.give_back()
        # 最后一个阶段之后才来的请求，也不能丢
        if self._loop.signals.noted and exception[0] is None:
            raise Interrupted

    # ---- phases -------------------------------------------------------------------------------------------

    def run_arms(self, name: str, trials: Sequence[PlannedTrial]) -> None:
        """Runs arm trials; those another driver is running are waited for and taken from its records.

        Args:
            name: Of what they belong to; the Optuna study is `<name>/arms`.
            trials: Trials that are not on record.

        Raises:
            Interrupted: The user asked to stop.
        """
        waiting = list(trials)
        while waiting:
            waiting = [trial for trial in waiting if trial.arm not in self.steering.skipped]
            mine = [trial for trial in waiting if self._locks.try_lock(trial.key)]
            # 拿到锁后再查一次：别的进程可能刚好写完
            fresh = [trial for trial in mine if not self.tally.taken_from_record(trial)]
            if fresh:
                side = TuneSide(self._shared, judged=False)
                self._run_phase(side, ArmSearcher(name, fresh, side), len(fresh), at_the_door=1)
            for trial in mine:
                self._locks.unlock(trial.key)
            handled = {trial.key for trial in mine}
            waiting = [trial for trial in waiting if trial.key not in handled]
            if waiting and not mine:
                trained = counted(len(waiting), "trial is", "trials are")
                what = f"{trained} being trained by another ablate; waiting for its records"
                self._loop.wait(what, partial(self._all_locked, tuple(waiting)))

    def _all_locked(self, trials: Sequence[PlannedTrial]) -> bool:
        return all(self._locks.is_locked(trial.key) for trial in trials)

    def run_sweep(self, make_searcher: Callable[[Runner], PhaseSearcher], points: int, scheduler: Any = None) -> None:
        """Runs the points of a sweep.

        Args:
            make_searcher: Makes the sweep's searcher.
            points: Upper bound of the points it will suggest.
            scheduler: A scheduler of Tune that may stop points, or None.

        Raises:
            Interrupted: The user asked to stop.
        """
        side = TuneSide(self._shared, judged=scheduler is not None)
        self._run_phase(side, make_searcher(side), points, at_the_door=0, scheduler=scheduler)

    def lock_search(self, name: str) -> None:
        """Waits until no other driver runs this search: two would ask the same positions for the same points.

        Args:
            name: The search's name; the lock is freed by the end of this process.

        Raises:
            Interrupted: The user asked to stop.
        """
        key = hashlib.sha256(name.encode()).hexdigest()
        if not self._locks.try_lock(key):
            what = f"{name} is being run by another ablate; waiting for its end"
            self._loop.wait(what, lambda: not self._locks.try_lock(key))

    def _run_phase(
        self, side: TuneSide, searcher: PhaseSearcher, samples: int, at_the_door: int, scheduler: Any = None
    ) -> None:
        """Runs one Tuner over the slots while this thread records; so many trials wait at the door of the slots."""
        name = f"{self._settings.record.folder.name}-{type(searcher).__name__}"
        settings = TuneSettings(name, self._settings.scratch / "tune", samples, scheduler)
        self._loop.follow(Tuning(searcher, settings, self._loop.slots.count + at_the_door), side, at_the_door)

    # ---- further seeds ------------------------------------------------------------------------------------

    def seeds_asked(self) -> int:
        """Returns the seeds per arm that have been asked for by now, 0 where none were."""
        self._loop.steer()
        return self.steering.seeds

    def grow(self, plan: Plan, on_record: OnRecord) -> None:
        """Shows a plan that has grown by seeds, here and to who looks."""
        self.opener.grow(plan, on_record)
        known = self._loop.presence.grow(len(plan.seeds))
        self.tally.states.update(on_record.done)
        self.tally.begin("arm", [trial for trial in plan.trials if trial.seed >= known])


def _run_facts(plan: Plan, settings: RunSettings) -> RunFacts:
    return RunFacts(
        pid=os.getpid(),
        host=socket.gethostname(),
        pid_namespace=pid_namespace(),
        started_at=now(),
        dashboard=settings.facts.dashboard,
        dataset=plan.dataset,
        arms=tuple(arm.name for arm in plan.study.arms),
        baseline=plan.study.compared_with,
        needed=plan.needed,
        seeds=len(plan.seeds),
        may_grow=settings.may_grow,
    )


def _dashboard_line(facts: lifecycle.ClusterFacts) -> str | None:
    if facts.dashboard is None:
        return None
    token = f" (token: {facts.show_token})" if facts.show_token else ""
    return f"Ray dashboard: {facts.dashboard}{token}"
