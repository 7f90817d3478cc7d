"""Which trials wait, which slot has which, and what has been heard of each: the broker's books, without any waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from orchestrator.running.slots.messages import End, EndState, Epoch, Job, Log, Started, Submission, TrialNews

ATTEMPTS_PER_TRIAL = 3


@dataclass
class Trial:
    """A trial on its way, and what has been heard of it.

    Attributes:
        submission: What is to be trained.
        attempt: Number of the present attempt: what is said of an older one does not count.
        attempts_used: Attempts made by this driver.
        slot: Who has it; None while it waits.
        allowed: Last epoch after which a scheduler lets it train on.
        stop: The state to stop with, once somebody has asked for that.
        last_words: Last line of its last worker's traceback.
        epochs: What was trained, those of its checkpoint included.
        end: How it has ended.
    """

    submission: Submission
    attempt: int
    attempts_used: int = 0
    slot: int | None = None
    allowed: int = 0
    stop: EndState | None = None
    last_words: str = ""
    epochs: list[Epoch] = field(default_factory=list)
    end: End | None = None

    def begin(self) -> Job:
        """Counts an attempt and returns what its worker needs."""
        self.attempts_used += 1
        one = self.submission
        return Job(one.key, one.config, one.folder, self.attempt, one.views, one.code)

    def hear(self, news: TrialNews) -> None:
        """Keeps what Tune's function will ask for."""
        if isinstance(news, Started) and not self.epochs:
            # 从检查点继续：调度器和采样器也要知道以前的 epoch
            self.epochs = list(news.history)
        elif isinstance(news, Epoch):
            self.epochs.append(news)
        elif isinstance(news, Log):
            self.last_words = news.text.strip().splitlines()[-1]

    def end_after_death(self) -> End | None:
        """How the trial ends whose worker has died; None where it is tried again."""
        if self.stop is not None:
            return End(self.stop)
        if self.attempts_used < ATTEMPTS_PER_TRIAL:
            return None
        last = f", the last time with {self.last_words}" if self.last_words else ""
        return End("failed", f"the worker died {self.attempts_used} times in this trial{last}")


class TrialQueue:
    """The trials that wait, in their order, and those that slots have."""

    def __init__(self) -> None:
        """Starts empty."""
        self._waiting: deque[Trial] = deque()
        self._held: dict[int, Trial] = {}
        self._requests: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Says whether a trial waits."""
        return bool(self._waiting)

    def add(self, trial: Trial) -> None:
        """Puts a trial at the end."""
        self._waiting.append(trial)

    def request(self, slot: int) -> int:
        """Numbers a request of a slot; its earlier ones, whose workers have died, get nothing any more."""
        self._requests[slot] = self._requests.get(slot, 0) + 1
        return self._requests[slot]

    def is_newest(self, slot: int, request: int) -> bool:
        """Says whether a slot has asked for nothing since."""
        return self._requests[slot] == request

    def give(self, slot: int) -> Trial:
        """Gives a slot the first trial that waits."""
        trial = self._held[slot] = self._waiting.popleft()
        trial.slot = slot
        return trial

    def held_by(self, slot: int) -> Trial | None:
        """Returns the trial that a slot has not ended."""
        return self._held.get(slot)

    def let_go(self, slot: int) -> Trial | None:
        """Takes from a slot that is gone the trial that it has not ended."""
        return self._held.pop(slot, None)

    def add_first(self, trial: Trial) -> None:
        """Puts a trial before all that wait."""
        trial.slot = None
        self._waiting.appendleft(trial)

    def forget(self, trial: Trial) -> None:
        """Takes out a trial that has ended."""
        if trial.slot is None:
            self._waiting = deque(one for one in self._waiting if one is not trial)
        elif self._held.get(trial.slot) is trial:
            del self._held[trial.slot]
