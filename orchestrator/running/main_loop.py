"""The driver's main thread, turn by turn: it hears the slots, has the records written, and does what it is asked."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from alexnet_core.process.interruption import SIGNALS
from orchestrator.errors import ExitCode, LabError
from orchestrator.running.cluster import lifecycle
from orchestrator.running.progress import cell_name
from orchestrator.running.recording.recorder import Recorder
from orchestrator.running.slots.broker_clients import DriverClient
from orchestrator.running.slots.messages import Event, SlotEvent, TrialEvent
from orchestrator.running.slots.silence import Silence
from orchestrator.running.slots.slot_watch import SlotWatch
from orchestrator.running.slots.unknown_event import unknown_event
from orchestrator.running.steering import Presence, Steering
from orchestrator.running.tune_side import TuneSide, Tuning

EVENT_WAIT_SECONDS = 0.5
RAY_SECONDS = 60.0
STOP_SECONDS = 17.0
SHARED_POLL_SECONDS = 1.0


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM)."""


class StopSignals:
    """Ctrl-C and SIGTERM, noted while a study runs; the second one ends the process at once."""

    def __init__(self) -> None:
        """Takes nothing over yet."""
        self._noted = threading.Event()

    @property
    def noted(self) -> bool:
        """Whether the user has asked to stop."""
        return self._noted.is_set()

    def note(self) -> None:
        """Notes that the user has asked to stop, here or from another shell."""
        self._noted.set()

    def comes_within(self, seconds: float) -> bool:
        """Waits for a stop, in another thread than the signals'; says whether one has come."""
        return self._noted.wait(seconds)

    def take(self) -> None:
        """Takes the signals over."""
        # 工作线程不能接信号；主线程只记下请求，由记录循环去停
        self._before = {name: signal.signal(name, self._on_signal) for name in SIGNALS}

    def give_back(self) -> None:
        """Gives the signals back to whoever had them."""
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._noted.is_set():
            lifecycle.leave(ExitCode.INTERRUPTED)
        self._noted.set()


@dataclass
class MainLoop:
    """What the main thread does turn by turn while a study runs, whatever it waits for.

    Attributes:
        broker: Where the events come from.
        recorder: Writes down what is heard of trials.
        slots: Takes what is heard of slots.
        silence: Says which slots are heard no more.
        steering: What is asked for from another shell.
        presence: Says there that the driver lives.
        signals: What is asked for in this shell.
        say: Prints a line.
        leave_out: Told which arms are skipped or stopped.
    """

    broker: DriverClient
    recorder: Recorder
    slots: SlotWatch
    silence: Silence
    steering: Steering
    presence: Presence
    signals: StopSignals
    say: Callable[[str], None]
    leave_out: Callable[[Collection[str]], None]
    _next_event: int = 0

    def turn(self) -> None:
        """Writes down what has happened, looks after the slots, and does what has been asked for.

        Raises:
            LabError: With exit code 3 when Ray does not answer, a slot dies too often, or nobody knows an event.
        """
        for event in self._events():
            self.hear(event)
        self.slots.look()
        self.steer()

    def hear(self, event: Event) -> None:
        """Takes an event of the broker's."""
        match event:
            case TrialEvent():
                self.recorder.handle(event)
            case SlotEvent():
                self.slots.hear(event)
            case unknown:
                raise unknown_event(unknown)

    def _events(self) -> list[Event]:
        from ray.exceptions import RayError

        try:
            self._next_event, events = self.broker.events(self._next_event, EVENT_WAIT_SECONDS, RAY_SECONDS)
            if not self.signals.noted and self.silence.is_due():
                # 事件里听不出沉默：要问代理最后一次听到谁
                self.silence.look(self.broker.last_heard(RAY_SECONDS), self._launched())
        except RayError as error:
            if self.signals.noted:
                # 停下的信号也到了 Ray 的进程：那是停下，不是故障
                raise Interrupted from error
            raise LabError(
                f"Ray stopped answering ({type(error).__name__}); every finished trial is on record, "
                "run the same command again to go on",
                exit_code=ExitCode.ENVIRONMENT,
            ) from error
        return events

    def _launched(self) -> dict[str, str]:
        return {running.trial.key: cell_name(*running.cell) for running in self.recorder.running.all()}

    def steer(self) -> None:
        """Does what `status` has asked for in the study's folder, and says there now and then that it lives."""
        self.presence.beat()
        for line in self.steering.update():
            self.say(line)
            self.leave_out({*self.steering.skipped, *self.steering.stopped})
        if self.steering.stop:
            self.signals.note()
        for running in self.recorder.running.all():
            arm = running.trial.arm
            waits = arm in self.steering.skipped and not running.started
            if waits or arm in self.steering.stopped:
                # 每圈都说一遍：刚建好的 trial 可能还没交到代理手里
                self.broker.stop(running.trial.key, "interrupted")

    def wait(self, what: str, still: Callable[[], bool]) -> None:
        """Waits for another driver as long as something still holds; our own slots are heard meanwhile.

        Args:
            what: A line that says what is waited for.
            still: Whether it is not there yet.

        Raises:
            Interrupted: The user asked to stop.
        """
        self.say(what)
        while still():
            if self.signals.noted:
                raise Interrupted
            self.turn()
            time.sleep(SHARED_POLL_SECONDS)

    def follow(self, tuning: Tuning, side: TuneSide, at_the_door: int) -> None:
        """Records until a phase of Tune's has ended.

        Args:
            tuning: Its thread.
            side: What that may do.
            at_the_door: Trials that wait for a slot, so that none stands idle.

        Raises:
            Interrupted: The user asked to stop.
            LabError: With exit code 3 when Tune or a slot has failed.
        """
        stop_by = None
        while not tuning.is_over or self.recorder.running:
            # 一圈：听事件、写记录、放锁、看有没有人要它停
            self.turn()
            side.free_points()
            tuning.widen(self.slots.count + at_the_door)
            if not self.signals.noted:
                self.slots.check()
            if self.signals.noted and stop_by is None:
                self._begin_to_stop(side)
                stop_by = time.monotonic() + STOP_SECONDS
            if stop_by is not None and (not self.recorder.running or time.monotonic() > stop_by):
                # Tune 自己收尾要好几秒；记录已安全，不必等它
                raise Interrupted
            if not self.signals.noted:
                tuning.check()

    def _begin_to_stop(self, side: TuneSide) -> None:
        from ray.exceptions import RayError

        self.say("stopping; running trials write a checkpoint, finished ones are on record")
        side.close()
        # 代理已死也照样停：记录都在磁盘上
        with suppress(RayError):
            self.broker.close("interrupted", timeout=STOP_SECONDS / 2)
