"""A trial of another core than AlexNet in a slot: loaded from the kept copy of its code, each report posted."""

from __future__ import annotations

import io
import json
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from alexnet_core.configuration.frozen import first_mistake
from orchestrator.cores.checking.children import no_children_left
from orchestrator.cores.contract import ContractError, Core, Stopped
from orchestrator.cores.identity import KeptCode, load_kept
from orchestrator.cores.loading import mistake
from orchestrator.cores.reports import checked_sizes
from orchestrator.cores.states import LARGE_STATE, large_state, states_in
from orchestrator.cores.training import Diverged, Place, Report, StateFolder, TrainingFacts, Watcher, train_core
from orchestrator.records.reports import CoreReport
from orchestrator.running.slots.messages import End, Epoch, Log, Notice, Started
from orchestrator.running.slots.messages import Job as TrialJob
from orchestrator.running.workers.alexnet_trial import sha256
from orchestrator.running.workers.watchdog import DISK_ERRORS, Watch
from orchestrator.running.workers.watchdog import Place as SlotPlace
from search_spaces.core_config import CoreConfig, CoreDescription, configuration_of

STATES, SCRIPT = "checkpoint", "script"
LOG_EVERY_SECONDS = 1.0
# 一个 trial 的输出再长，记录也不该有几百兆
MOST_LOG_CHARACTERS = 4 * 1024**2
# 一个进程里只说一次
_told_large: set[str] = set()


def train_trial_of_core(place: SlotPlace, job: TrialJob, watch: Watch) -> End:
    """Trains a trial of a core and returns how it ended, whatever the core did.

    Args:
        place: Where this worker stands.
        job: What the broker gave.
        watch: Takes the news and says when to stop.
    """
    log, facts = _TrialLog(watch), TrainingFacts()
    try:
        with _output_to(log), no_children_left():
            end = _trained(place, job, watch, log, facts)
    finally:
        log.flush()
    code = KeptCode.model_validate_json(job.code)
    facts_of_it = {
        "code": code.fingerprint or None,
        "resumes": _resumes(code, facts),
        "devices": ",".join(core_devices(place)),
    }
    return replace(end, environment=facts_of_it)


def _resumes(code: KeptCode, facts: TrainingFacts) -> str:
    """From where a trial goes on that is interrupted."""
    if code.script is not None:
        keeps = any("{checkpoint}" in part for part in code.script.command)
        return "from its own checkpoint" if keeps else "from its beginning"
    return "from its last state" if facts.saves else "from its beginning"


def _trained(place: SlotPlace, job: TrialJob, watch: Watch, log: _TrialLog, facts: TrainingFacts) -> End:
    config, folder = CoreConfig.model_validate_json(job.config), Path(job.folder)
    watch.post(Started())
    try:
        core = _load(job.code)
        _check_version(core, config.core)
        fields = configuration_of(core.config, config.fields)
        # 先问大小：错在那里，不该等训练完了才知道
        sizes = _sizes(job.code, fields.model_dump_json())
        training = train_core(
            core,
            fields,
            _place(config, place, folder, log),
            StateFolder(folder / STATES, job.attempt),
            Watcher(goes_on=lambda: not watch.is_stopped(), lives=watch.beat),
            facts,
        )
        if _stopped_between(training, config.core, watch, log, facts):
            return End(watch.stop_state or "interrupted")
    except Stopped:
        return End(watch.stop_state or "interrupted")
    except Diverged as error:
        return End("diverged", str(error))
    except ContractError as error:
        return End("failed", str(error))
    except ValidationError as error:
        return End("failed", f"core {config.core.name} takes this configuration no more: {first_mistake(error)}")
    except OSError as error:
        # 写检查点写不下，是盘的事；读不到自己的数据，是 core 的事
        if error.errno in DISK_ERRORS:
            raise
        return _raised(error, watch, log)
    except (Exception, SystemExit) as error:
        return _raised(error, watch, log)
    why = facts.ended_early and f"ended early: {facts.ended_early}"
    weights = next(iter(states_in(folder / STATES)), None)
    if weights is None:
        return End("finished", why, sizes=sizes)
    return End("finished", why, weights=f"{STATES}/{weights.name}", weights_sha256=sha256(weights), sizes=sizes)


def _place(config: CoreConfig, place: SlotPlace, folder: Path, log: _TrialLog) -> Place:
    return Place(
        seed=config.seed,
        seeds=config.seeds,
        devices=core_devices(place),
        data_root=None if config.data.root is None else Path(config.data.root),
        folder=folder / SCRIPT,
        log=log.add,
    )


def _raised(error: BaseException, watch: Watch, log: _TrialLog) -> End:
    """What the core's own code has raised: it fails the trial, and this process takes no other."""
    log.add(traceback.format_exc().rstrip())
    # 抛了异常的代码可能留下半截的状态：换一个新进程，但不必再试两次
    watch.is_poisoned = True
    return End("failed", f"train raised {mistake(error)}")


def _stopped_between(
    training: Generator[Report], core: CoreDescription, watch: Watch, log: _TrialLog, facts: TrainingFacts
) -> bool:
    """Posts the reports; says whether the training was stopped after one of them."""
    begun = False
    with closing(training):
        for report in training:
            if not begun:
                begun = True
                _tell_resumed(core, watch, facts)
            watch.report()
            log.flush()
            watch.post(_news(report, core))
            _tell_large_state(core, watch, facts)
            if watch.is_stopped():
                return True
    if not begun:
        _tell_resumed(core, watch, facts)
    _tell_large_state(core, watch, facts)
    return False


def _tell_large_state(core: CoreDescription, watch: Watch, facts: TrainingFacts) -> None:
    """Says once in a process that the states take much room."""
    if facts.largest_state >= LARGE_STATE and core.name not in _told_large:
        _told_large.add(core.name)
        watch.post(Notice(f"core {core.name}: {large_state(facts.largest_state)}"))


def _tell_resumed(core: CoreDescription, watch: Watch, facts: TrainingFacts) -> None:
    """Says after which reports the training goes on, which is known only once it has loaded its state."""
    if facts.resumed:
        watch.post(Started(tuple(_news(report, core) for report in facts.resumed)))


def _news(report: Report, core: CoreDescription) -> Epoch:
    content = CoreReport(epoch=report.number, metrics=report.metrics, seconds=report.seconds)
    objective = core.chosen.objective(report.metrics[core.chosen_by])
    return Epoch(epoch=report.number, objective=objective, report=content.model_dump_json())


def _check_version(core: Core, planned: CoreDescription) -> None:
    if (core.name, core.version) != (planned.name, planned.version):
        raise ContractError(
            f"the code is core {core.name}, version {core.version}; planned was {planned.name}, version "
            f"{planned.version}"
        )


def core_devices(place: SlotPlace) -> tuple[str, ...]:
    """Returns the devices of a core: the GPUs that its worker has reserved, or the CPU."""
    if not place.devices[0].startswith("cuda"):
        return ("cpu",)
    return tuple(f"cuda:{number}" for number in range(max(1, int(place.gpus))))


@lru_cache(maxsize=8)
def _load(code: str) -> Core:
    """The core, loaded once per process."""
    return load_kept(KeptCode.model_validate_json(code))


@lru_cache(maxsize=256)
def _sizes(code: str, fields: str) -> dict[str, float]:
    """What the core says of a configuration's size; reckoned once, since it may build the network."""
    core = _load(code)
    return checked_sizes(core, configuration_of(core.config, json.loads(fields)))


class _TrialLog(io.TextIOBase):
    """A trial's output on its way to the log: lines are posted together, at most once a second."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self.rest = watch, ""
        self._posted_at, self._characters = time.monotonic(), 0
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Takes a line."""
        if self._characters > MOST_LOG_CHARACTERS:
            return
        self._characters += len(line) + 1
        if self._characters > MOST_LOG_CHARACTERS:
            line = f"(more than {MOST_LOG_CHARACTERS // 1024**2} MB of output: the rest is left out)"
        self._lines.append(line)
        if time.monotonic() - self._posted_at > LOG_EVERY_SECONDS:
            self.flush()

    def write(self, text: str) -> int:
        """Takes what is printed."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            # 进度条用回车覆盖自己：只留最后一次
            self.add(line.rstrip("\r").rpartition("\r")[2])
        return len(text)

    def flush(self) -> None:
        """Posts what has come."""
        # 寄出去的路上 Ray 会冲刷 stdout，也就是再进这里：先取走，同一行才不寄两次
        lines, self._lines, self._posted_at = self._lines, [], time.monotonic()
        if lines:
            self._watch.post(Log("\n".join(lines)))

    def writable(self) -> bool:
        """It is."""
        return True


@contextmanager
def _output_to(log: _TrialLog) -> Iterator[None]:
    # 用户的 print 归到这个 trial 的日志，而不是 Ray 的
    with redirect_stdout(log), redirect_stderr(log):
        yield
    if log.rest:
        log.add(log.rest)
