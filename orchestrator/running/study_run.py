"""Running a plan's missing trials: warm slots, and Tune's phases over them.

Broker events come to the driver's main thread, whose recorder writes them down. Ray Tune decides what runs next in a
thread of its own.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from alexnet_core.process.interruption import SIGNALS, say
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import Plan
from orchestrator.records.files import TrialLocks
from orchestrator.running.budget import Budget
from orchestrator.running.cluster import death_watch, lifecycle
from orchestrator.running.cluster.nodes import NodeWatch, alive_nodes, probe, slots_on
from orchestrator.running.notification import Notifier
from orchestrator.running.progress import Progress
from orchestrator.running.recorder import Recorder, RecordSettings, now, unknown_event
from orchestrator.running.slots.broker_clients import DriverClient
from orchestrator.running.slots.deaths import DEATHS, WITHIN_SECONDS, DeathCount, reason
from orchestrator.running.slots.messages import Died, Joined, SlotEvent, Submission, TrialEvent
from orchestrator.running.slots.slot import SlotPlan, Slots
from orchestrator.running.steering import BEAT_SECONDS, RunFacts, Steering, end_run, forget_dead_runs, write_run
from orchestrator.sweeps.search import Ask
from search_spaces.trial import PlannedTrial

EVENT_WAIT_SECONDS = 0.5
RAY_SECONDS = 60.0
STOP_SECONDS = 17.0
SHARED_POLL_SECONDS = 1.0
SLOT_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class RunSettings:
    """How a plan is run; none of it changes a number.

    Attributes:
        record: Where records go and what is kept.
        scratch: Scratch folder of Ray Train and Tune.
        slot_plan: Slots and what they reserve.
        facts: The Ray that was started or joined.
        worker_environment: Environment variables of the workers.
        budget: What the run may spend.
        may_grow: Whether more seeds may be asked for while it runs.
        notifier: Told when Ray dies, as that ends the process.
    """

    record: RecordSettings
    scratch: Path
    slot_plan: SlotPlan
    facts: lifecycle.ClusterFacts
    worker_environment: Mapping[str, str]
    budget: Budget
    may_grow: bool
    notifier: Notifier


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM)."""


class StudyRun:
    """Lives while a study's trials run. Phases follow one another over the same warm slots."""

    def __init__(self, plan: Plan, settings: RunSettings, console: Console) -> None:
        """Starts the broker and the slots; the first trial waits for them."""
        self._plan, self._settings, self._console = plan, settings, console
        self._broker = DriverClient(lifecycle.start_broker())
        self._scratch = settings.scratch
        self._slots = Slots(
            settings.slot_plan, plan.study.name, self._scratch / "train", dict(settings.worker_environment)
        )
        self._locks = TrialLocks(settings.record.results)
        self._points: set[str] = set()
        self._waits_for: set[str] = set()
        self._next_event = 0
        self._stop_asked = threading.Event()
        self._ready_slots: set[int] = set()
        self._slot_nodes: dict[tuple[int, int], str] = {}
        self._nodes = NodeWatch(alive_nodes())
        self._deaths = DeathCount()
        self._patience_ends = time.monotonic() + SLOT_PATIENCE_SECONDS
        title = f"{settings.record.folder.name}: {plan.study.question}"
        self.display = Progress(console, title, _dashboard_line(settings.facts))
        self.recorder = Recorder(plan, settings.record, self.display, settings.budget.epoch)
        self._run_facts = RunFacts(
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=now(),
            dashboard=settings.facts.dashboard,
            dataset=plan.dataset,
            arms=tuple(arm.name for arm in plan.study.arms),
            baseline=plan.study.baseline,
            seeds=len(plan.seeds),
            may_grow=settings.may_grow,
        )
        self.steering = Steering(settings.record.folder, self._run_facts.run)
        death_watch.watch_ray(self._ray_died)

    def __enter__(self) -> StudyRun:
        """Takes over Ctrl-C and SIGTERM, and says that the study runs."""
        # 工作线程不能接信号；主线程只记下请求，由记录循环去停
        self._handlers = {name: signal.signal(name, self._on_signal) for name in SIGNALS}
        forget_dead_runs(self._settings.record.folder)
        self._say_alive()
        self.display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the display and frees the locks; Ray goes with the process (`cluster.leave`)."""
        self.display.__exit__(*exception)
        self._slots.close()
        end_run(self._settings.record.folder, self._run_facts)
        self._locks.close()
        for name, handler in self._handlers.items():
            signal.signal(name, handler)
        # 最后一个阶段之后才来的请求，也不能丢
        if self._stop_asked.is_set() and exception[0] is None:
            raise Interrupted

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stop_asked.is_set():
            lifecycle.leave(ExitCode.INTERRUPTED)
        self._stop_asked.set()

    def _ray_died(self, what: str) -> None:
        """Called from the watching thread: nothing of Ray can be trusted any more, and records are safe."""
        self.display.__exit__()
        say(f"error: {what} died; every finished trial is on record, run the same command again to go on")
        self._settings.notifier.send(ExitCode.ENVIRONMENT, f"{what} died")
        lifecycle.leave(ExitCode.ENVIRONMENT)

    # ---- phases -------------------------------------------------------------------------------------------

    def run_arms(self, trials: Sequence[PlannedTrial], make_searcher: Callable[[Sequence[PlannedTrial]], Any]) -> None:
        """Runs arm trials; those another driver is running are waited for and taken from its records.

        Args:
            trials: Trials that are not on record.
            make_searcher: Makes the phase's searcher of the trials this driver runs.

        Raises:
            Interrupted: The user asked to stop.
        """
        waiting = list(trials)
        while waiting:
            waiting = [trial for trial in waiting if trial.arm not in self.steering.skipped]
            mine = [trial for trial in waiting if self._locks.try_lock(trial.key)]
            # 拿到锁后再查一次：别的进程可能刚好写完
            fresh = [trial for trial in mine if not self.recorder.taken_from_record(trial)]
            if fresh:
                self._phase(make_searcher(fresh), len(fresh), at_the_door=1)
            for trial in mine:
                self._locks.unlock(trial.key)
            handled = {trial.key for trial in mine}
            waiting = [trial for trial in waiting if trial.key not in handled]
            if waiting and not mine:
                self._wait_for_others(waiting)

    def lock_search(self, name: str) -> None:
        """Waits until no other driver runs this search: two would ask the same positions for the same points.

        Args:
            name: The search's name; the lock is freed by the end of this process.

        Raises:
            Interrupted: The user asked to stop.
        """
        key = hashlib.sha256(name.encode()).hexdigest()
        if not self._locks.try_lock(key):
            self.display.say(f"{name} is being run by another ablate; waiting for its end")
            while not self._locks.try_lock(key):
                if self._stop_asked.is_set():
                    raise Interrupted
                self._handle_events()
                self._steer()
                time.sleep(SHARED_POLL_SECONDS)

    def run_sweep(self, searcher: Any, points: int, scheduler: Any = None) -> None:
        """Runs the points of a sweep.

        Args:
            searcher: The sweep's searcher.
            points: Upper bound of the points it will suggest.
            scheduler: A scheduler of Tune that may stop points, or None.

        Raises:
            Interrupted: The user asked to stop.
        """
        self._phase(searcher, points, at_the_door=0, scheduler=scheduler)

    def lock_point(self, key: str) -> bool:
        """Takes a sweep's point for this driver, in Tune's thread; False while another driver trains it."""
        if self._locks.try_lock(key):
            return True
        if key not in self._waits_for:
            self._waits_for.add(key)
            self.display.say(f"{key} is being trained by another ablate; waiting for its record")
        return False

    def unlock_point(self, key: str) -> None:
        """Frees a point that is not launched."""
        self._locks.unlock(key)

    def launch_point(self, trial: PlannedTrial, ask: Ask | None, *, judged: bool) -> Submission:
        """Opens the record of a locked point; its lock is freed when its end is on record."""
        submission = self.recorder.launch(trial, ask, judged=judged)
        # 先登记为在跑，再让主线程看见：否则它会立刻放掉锁
        self._points.add(trial.key)
        return submission

    def _free_points(self) -> None:
        for key in [key for key in list(self._points) if key not in self.recorder.running]:
            self._points.discard(key)
            self._locks.unlock(key)

    def stop_trial(self, key: str) -> None:
        """Has the worker of a trial stop between two batches, because a scheduler decided so."""
        self._broker.stop(key, "stopped")

    def _wait_for_others(self, waiting: Sequence[PlannedTrial]) -> None:
        self.display.say(f"{len(waiting)} trials are being trained by another ablate; waiting for their records")
        while all(self._locks.is_locked(trial.key) for trial in waiting):
            if self._stop_asked.is_set():
                raise Interrupted
            self._handle_events()
            self._steer()
            time.sleep(SHARED_POLL_SECONDS)

    def _phase(self, searcher: Any, samples: int, at_the_door: int, scheduler: Any = None) -> None:
        """Runs one Tuner over the slots while this thread records.

        Args:
            searcher: The phase's searcher.
            samples: How many trials it suggests at most.
            at_the_door: Trials that wait for a slot, so that none stands idle.
            scheduler: Stops unpromising points early, or None.
        """
        from ray.tune.search import ConcurrencyLimiter

        searcher.may_start = self._may_start
        limiter = ConcurrencyLimiter(searcher, max_concurrent=self._slots.count + at_the_door)
        tuned: Future[None] = Future()
        threading.Thread(target=self._tune, args=(tuned, limiter, samples, scheduler), name="tune", daemon=True).start()
        stop_by = None
        while not tuned.done() or self.recorder.running:
            self._handle_events()
            self._free_points()
            self._steer()
            searcher.skipped = self.steering.skipped
            limiter.max_concurrent = self._slots.count + at_the_door
            if self._slots.failure is not None:
                raise LabError(f"a slot could not be kept: {reason(self._slots.failure)}", exit_code=3)
            if self._stop_asked.is_set() and stop_by is None:
                self.display.say("stopping; running trials write a checkpoint, finished ones are on record")
                searcher.closed = True
                self._tell_broker_to_close()
                stop_by = time.monotonic() + STOP_SECONDS
            if stop_by is not None and (not self.recorder.running or time.monotonic() > stop_by):
                # Tune 自己收尾要好几秒；记录已安全，不必等它
                raise Interrupted
            if tuned.done() and tuned.exception() is not None:
                raise LabError(f"Ray Tune ended: {reason(tuned.exception())}", exit_code=3)

    def _may_start(self, trials: Sequence[PlannedTrial]) -> bool | None:
        """Asks the budget, in Tune's thread, whether trials may start together; None is to ask again later."""
        budget, recorder = self._settings.budget, self.recorder
        trained = [t.config for t in trials if t.key not in recorder.states or t.key in self._plan.lost_weights]
        running = {
            key: (one.trial.config, len(one.history))
            for key, one in list(recorder.running.items())
            if not one.evaluated_only
        }
        refused_before = budget.refusal is not None
        may = budget.may_start(trained, running)
        if budget.refusal is not None and not refused_before:
            self.display.say(f"budget: {budget.refusal}; it is not started")
        return may

    def _steer(self) -> None:
        """Does what `status` has asked for in the study's folder, and says there now and then that it lives."""
        if time.monotonic() > self._next_beat:
            self._say_alive()
        for line in self.steering.update():
            self.display.say(line)
        if self.steering.stop:
            self._stop_asked.set()
        for key, running in list(self.recorder.running.items()):
            arm = running.trial.arm
            waits = arm in self.steering.skipped and not running.started
            if waits or arm in self.steering.stopped:
                # 每圈都说一遍：刚建好的 trial 可能还没交到代理手里
                self._broker.stop(key, "interrupted")

    def _say_alive(self) -> None:
        self._next_beat = time.monotonic() + BEAT_SECONDS
        write_run(self._settings.record.folder, self._run_facts)

    def seeds_asked(self) -> int:
        """Returns the seeds per arm that have been asked for by now, 0 where none were."""
        self._steer()
        return self.steering.seeds

    def grow(self, plan: Plan) -> None:
        """Shows a plan that has grown by seeds, here and to who looks."""
        self._plan = plan
        self.recorder.grow(plan)
        known = self._run_facts.seeds
        self._run_facts = self._run_facts.model_copy(update={"seeds": len(plan.seeds)})
        self._say_alive()
        self.recorder.states.update(plan.done)
        self.recorder.begin([trial for trial in plan.trials if trial.seed >= known])

    def _tell_broker_to_close(self) -> None:
        from ray.exceptions import RayError

        # 代理已死也照样停：记录都在磁盘上
        with suppress(RayError):
            self._broker.close("interrupted", timeout=STOP_SECONDS / 2)

    def _tune(self, tuned: Future[None], limiter: Any, samples: int, scheduler: Any) -> None:
        """The body of Tune's thread: its end or its exception goes into `tuned`."""
        try:
            self._fit(limiter, samples, scheduler)
        except BaseException as error:
            # 异常交给主线程去报告，不在这里吞掉
            tuned.set_exception(error)
        else:
            tuned.set_result(None)

    def _fit(self, limiter: Any, samples: int, scheduler: Any) -> None:
        from ray import tune

        from orchestrator.running.slots.tune_function import run_trial

        tune.Tuner(
            # 一个字节：占 CPU 的零头会让整数个 CPU 的节点少一个槽位
            tune.with_resources(run_trial, {"CPU": 0, "memory": 1}),
            tune_config=tune.TuneConfig(
                search_alg=limiter,
                scheduler=scheduler,
                num_samples=samples,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"{self._settings.record.folder.name}-{type(limiter.searcher).__name__}",
                storage_path=str(self._scratch / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=10),
            ),
        ).fit()

    # ---- records ------------------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        from ray.exceptions import RayError

        try:
            self._next_event, events = self._broker.events(self._next_event, EVENT_WAIT_SECONDS, RAY_SECONDS)
        except RayError as error:
            raise LabError(
                f"Ray stopped answering ({type(error).__name__}); every finished trial is on record, "
                "run the same command again to go on",
                exit_code=3,
            ) from error
        for event in events:
            match event:
                case TrialEvent():
                    self.recorder.handle(event)
                case SlotEvent(slot, Joined(rank, node, group)):
                    self._ready_slots.add(slot)
                    self._slot_nodes[slot, rank] = node
                    self._slots.groups[slot] = group
                case SlotEvent(slot, Died(message)):
                    self._slots.groups.pop(slot, None)
                    self._note_death(slot, message)
                case unknown:
                    raise unknown_event(unknown)
        self._name_unplaced_slots()
        self._follow_nodes()

    def _follow_nodes(self) -> None:
        """Takes back the trials of nodes that have left, and starts slots on those that have joined."""
        joined, gone = self._nodes.changes()
        for node in gone:
            slots = {slot for (slot, _), identity in self._slot_nodes.items() if identity == node.identity}
            self._slot_nodes = {place: at for place, at in self._slot_nodes.items() if place[0] not in slots}
            self._ready_slots -= slots
            for slot in sorted(slots):
                self._broker.release(slot)
            self.display.say(f"node {node.address} left; {len(slots)} slots stood on it, their trials go on elsewhere")
        plan = self._settings.slot_plan
        if joined:
            probe(self._settings.record.results, self._plan.base.data.root, joined)
            fit = slots_on(self._nodes.known.values(), plan.gpus_per_worker, plan.workers, plan.threads)
            before = self._slots.count
            if plan.follows:
                self._slots.grow(fit)
            names = ", ".join(node.address for node in joined)
            self.display.say(f"node {names} joined; {self._slots.count - before} further slots")

    def _note_death(self, slot: int, message: str) -> None:
        if self._deaths.too_many(slot, time.monotonic()):
            raise LabError(
                f"slot {slot} died {DEATHS} times within {WITHIN_SECONDS / 60:.0f} minutes, last of: "
                f"{message}; finished trials are on record, mend it and run the same command again",
                exit_code=3,
            )

    def _name_unplaced_slots(self) -> None:
        if len(self._ready_slots) == self._slots.count or time.monotonic() < self._patience_ends:
            return
        import ray

        self._patience_ends = time.monotonic() + 5 * SLOT_PATIENCE_SECONDS
        plan = self._settings.slot_plan
        unplaced = sorted(set(range(self._slots.count)) - self._ready_slots)
        free = ray.available_resources()
        self.display.say(
            f"slots {', '.join(map(str, unplaced))} are not up yet: each of {plan.workers} workers needs "
            f"{plan.gpus_per_worker:g} GPUs and {plan.threads} CPUs; free now: {free.get('GPU', 0):g} GPUs, "
            f"{free.get('CPU', 0):g} CPUs"
        )


def _dashboard_line(facts: lifecycle.ClusterFacts) -> str | None:
    if facts.dashboard is None:
        return None
    token = " (token: ray get-auth-token)" if facts.token_required else ""
    return f"Ray dashboard: {facts.dashboard}{token}"
