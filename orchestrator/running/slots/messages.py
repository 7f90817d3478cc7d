"""What travels between worker, broker, Tune's function and driver: every message there is, and nothing else.

This file imports no library and no other file of ours: the broker and Tune's function live in processes of their own,
each of which loads whatever is imported here (Ray pickles a message by the name of its class).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# 终态；interrupted 的 trial 没有 result.json，下次接着训练
EndState = Literal["finished", "stopped", "diverged", "failed", "interrupted"]


# ---- driver -> Tune's function -> broker ------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """A trial that is to be trained.

    Attributes:
        key: The trial.
        config: Its `TrialConfig`, as JSON.
        folder: Its folder.
        attempt: Number of the attempt, over all drivers.
        epochs: How many it has in all; 0 where only its end says so.
        views: In how many views the trained network is then evaluated; 1 when it is not.
        judged: Whether a scheduler judges each epoch, so that the worker waits for its word.
        code: Of another core than AlexNet, what a worker loads it by (`KeptCode`), as JSON.
    """

    key: str
    config: str
    folder: str
    attempt: int
    epochs: int
    views: int = 1
    judged: bool = False
    code: str = ""


# ---- broker -> worker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a slot gets: a trial and the number of the attempt, without which its words would not count.

    Attributes:
        key: The trial.
        config: Its `TrialConfig`, as JSON.
        folder: Its folder.
        attempt: Number of the attempt.
        views: In how many views the trained network is then evaluated; a network that is trained already is evaluated
            only.
        code: See `Submission`.
    """

    key: str
    config: str
    folder: str
    attempt: int
    views: int = 1
    code: str = ""


# ---- worker -> broker -> driver, of a trial ---------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """An epoch was trained, or another core has reported.

    Attributes:
        epoch: Number of epochs finished, from 1.
        objective: What is minimised, after it; AlexNet's is the top-1 validation error in [0, 1]; None where it has
            none, as no image is held out.
        report: The whole `Report`, as JSON.
        images: Training images of the epoch; 0 of another core.
        images_per_second: Training images per second; 0 of another core.
    """

    epoch: int
    objective: float | None
    report: str
    images: int = 0
    images_per_second: float = 0.0


@dataclass(frozen=True)
class Started:
    """A worker has begun a trial, after the epochs that its checkpoint holds."""

    history: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class FirstStep:
    """The first batch of an attempt has been trained."""


@dataclass(frozen=True)
class Log:
    """What goes into the trial's log: a core's output, or the traceback with which a worker ends its process."""

    text: str


@dataclass(frozen=True)
class Notice:
    """What the user should know of a core: said on the terminal and in a trial's log, once in a study."""

    text: str


@dataclass(frozen=True)
class Evaluated:
    """The trained network in many views.

    Attributes:
        views: How many.
        split: `test`, or `validation` where the data has no test set.
        metrics: Its `SplitMetrics`, as JSON.
        seconds: Wall seconds.
        correct: Which images it got right, see `as_text`.
        retrained: Whether the network was trained for it.
    """

    views: int
    split: str
    metrics: str
    seconds: float
    correct: str
    retrained: bool


@dataclass(frozen=True)
class End:
    """A trial has ended.

    Attributes:
        state: How.
        message: Why, where it is not finished; or why it ended early, where another core says that.
        weights: Path of the final weights inside the trial's folder.
        weights_sha256: Their SHA-256.
        evaluation: In many views, where that was asked for.
        peak_memory_mb: Peak memory in MB (10^6 bytes), where it was measured; see `peak_memory.py`.
        memory_kind: Of what it is the peak.
        sizes: `parameters` and `multiply_adds`, of another core that says them.
        environment: What it ran on.
    """

    state: EndState
    message: str = ""
    weights: str | None = None
    weights_sha256: str | None = None
    evaluation: Evaluated | None = None
    peak_memory_mb: float | None = None
    memory_kind: str | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str | int | None] = field(default_factory=dict)


TrialNews = Started | FirstStep | Epoch | Log | Notice | End


@dataclass(frozen=True)
class Retry:
    """The broker gives a trial whose worker died to the next one; `TrialEvent.attempt` is the new attempt."""


@dataclass(frozen=True)
class TrialEvent:
    """What the driver hears of a trial; `slot` is None while no slot has it."""

    key: str
    attempt: int
    slot: int | None
    news: TrialNews | Retry


# ---- slot -> broker -> driver -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """A worker of a slot is up.

    Attributes:
        rank: Its number in the slot's worker group.
        node: Ray's ID of its node.
    """

    rank: int
    node: str


@dataclass(frozen=True)
class Died:
    """A slot's worker group, or its controller, has died; Ray Train starts it again."""

    message: str


SlotNews = Joined | Died


@dataclass(frozen=True)
class SlotEvent:
    """What the driver hears of a slot."""

    slot: int
    news: SlotNews


Event = TrialEvent | SlotEvent


@dataclass(frozen=True)
class LastHeard:
    """When the broker last heard a slot: asking for a trial, telling of one, or asking between two batches.

    Attributes:
        seconds: Since then.
        key: The trial that it has, or None.
    """

    seconds: float
    key: str | None
