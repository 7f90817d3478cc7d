"""A worker's watch over one trial: what it tells the broker, what it is told, and the end of a process that hangs."""

from __future__ import annotations

import errno
import faulthandler
import math
import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.running.slots.broker_clients import SlotClient
from orchestrator.running.slots.messages import EndState, FirstStep, Job, Log, TrialNews

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
STANDARD_ERROR = 2
ASK_EVERY_SECONDS = 0.2
# 设计规定：超过 max(120 s, 最慢一批的十倍) 没有进展即视为卡死
QUIET_LIMIT_SECONDS = 120.0
QUIET_LIMIT_RATIO = 10.0
# 不报平安的训练只有报告可看，而一个报告可以比上一个久得多
QUIET_LIMIT_BETWEEN_REPORTS_SECONDS = 600.0


@dataclass(frozen=True)
class Place:
    """Where this worker stands.

    Attributes:
        slot: Its slot.
        rank: Its number in the slot's group.
        workers: How many the group has.
        devices: The two towers' devices.
        broker: What it speaks with.
        gpus: GPUs that it reserves.
    """

    slot: int
    rank: int
    workers: int
    devices: tuple[str, str]
    broker: SlotClient
    gpus: float = 0.0


class Watch:
    """Speaks with the broker for one trial: posts news, learns of a stop, and ends a process that hangs.

    Attributes:
        stop_state: How the trial is to end that is to stop now; None while it goes on.
        is_poisoned: Whether this process should take no further trial.
    """

    def __init__(self, place: Place, job: Job) -> None:
        self._place = place
        self._job = job
        self._question: Any = None
        self._answered_at = 0.0
        self._last_batch = time.monotonic()
        self._slowest = 0.0
        self._armed_at = 0.0
        self._first_step_posted = False
        self.stop_state: EndState | None = None
        self.is_poisoned = False
        # 别的 core 第一次报平安、第一次报告之前，可以准备很久
        self._floor = math.inf if job.code else QUIET_LIMIT_SECONDS
        if not job.code:
            self._arm()

    def post(self, news: TrialNews) -> None:
        """Sends news and takes the answer; only rank 0 speaks."""
        if self._place.rank == 0:
            answer = self._place.broker.post(self._job, news)
            self.stop_state = self.stop_state or answer

    def report_and_end(self) -> NoReturn:
        """Posts the traceback of the exception being handled, then ends the process."""
        self.post(Log(traceback.format_exc()))
        sys.stderr.flush()
        os._exit(1)

    def should_stop(self) -> bool:
        """Called between batches: re-arms the watchdog, and asks the broker without waiting for it."""
        self.beat()
        return self.is_stopped()

    def beat(self) -> None:
        """Called when the training says that it lives: from the first time on it must go on saying so."""
        if self._floor != QUIET_LIMIT_SECONDS:
            # 准备数据的时间不是一批的时间
            self._floor, self._slowest, self._last_batch = QUIET_LIMIT_SECONDS, 0.0, time.monotonic()
        self._re_arm()

    def report(self) -> None:
        """Called at each report of a core: where it never says between them that it lives, they must go on coming."""
        if self._floor == math.inf:
            self._floor, self._last_batch = QUIET_LIMIT_BETWEEN_REPORTS_SECONDS, time.monotonic()
        if self._floor == QUIET_LIMIT_BETWEEN_REPORTS_SECONDS:
            self._re_arm()

    def is_stopped(self) -> bool:
        """Asks the broker, without waiting for it, whether the trial is to stop."""
        import ray

        now = time.monotonic()
        if self._place.rank == 0 and now - self._answered_at > ASK_EVERY_SECONDS:
            # 只问不等：训练不能为一句话停下来
            if self._question is None:
                self._question = self._place.broker.question(self._job)
            if ray.wait([self._question], timeout=0)[0]:
                self.stop_state = self.stop_state or ray.get(self._question)
                self._question = None
                self._answered_at = now
        return self.stop_state is not None

    def _re_arm(self) -> None:
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._last_batch)
        self._last_batch = now
        if now - self._armed_at > 1.0:
            self._arm()
        if not self._first_step_posted:
            self._first_step_posted = True
            self.post(FirstStep())

    def _arm(self) -> None:
        # faulthandler 的计时线程不需要 GIL，卡死在 C 代码里也能结束进程
        limit = max(self._floor, QUIET_LIMIT_RATIO * self._slowest)
        # core 的输出归到日志时，sys.stderr 不是文件：直接写描述符
        faulthandler.dump_traceback_later(limit, exit=True, file=STANDARD_ERROR)
        self._armed_at = time.monotonic()
