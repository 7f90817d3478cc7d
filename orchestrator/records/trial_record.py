"""Records: the files of one trial, and who may write them. The record is the truth; tables and reports are views.

`results/trials/<key>/`: `config.json`, `attempts.jsonl`, `epochs.jsonl`, `log.txt`, `checkpoint/`, and `result.json`,
written last and atomically. The driver is the only writer of all but the checkpoints, and of the `output-N.txt` that an
attempt's workers leave for the log.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.metrics import Count, SplitErrors
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import (
    append_line,
    append_text,
    read_error,
    read_json_lines,
    write_atomically,
    write_error,
)
from orchestrator.records.layout import KEY, LEFT_OUT, OUTPUTS, output_path, trial_folder
from orchestrator.records.reports import Report, parse_report
from search_spaces.arm import is_absent
from search_spaces.core_config import CoreConfig, MetricValue, TrialConfig, is_of_core
from search_spaces.trial import PlannedTrial, canonical_json, trial_key

logger = logging.getLogger(__name__)
LARGEST_NUMBER = 2**63
MOST_NAMED = 5
MOST_OUTPUT = 64 * 1024
# 负的时间或内存没有对数，比不出快慢；上万年的也不是量出来的
Measured = Annotated[float, Field(ge=0, le=1e12)]


class TrialState(StrEnum):
    """How a trial ended. A trial without `result.json` is interrupted."""

    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


class TrialResult(Frozen):
    """`result.json`.

    Attributes:
        key: The trial's key.
        state: How it ended.
        seed: Its seed.
        epochs: Finished epochs, or reports of another core than AlexNet.
        metrics: Of another core: the last report's, by name, as the core counts them.
        sizes: Of another core: `parameters` and `multiply_adds`, where it says them.
        train: Of the last epoch (running, augmented images); None where there is none.
        validation: After the last epoch; None too where no image is held out.
        test: After the last epoch of a finished trial, where the data has a test set.
        seconds: Training seconds, summed over the epochs.
        images_per_second: Steady rate over the epochs after the first.
        peak_memory_mb: Peak memory of the last attempt in MB (10^6 bytes, `peak_memory.py`); None where not measured.
        memory_kind: Of what it is the peak.
        attempts: How many attempts were made, over all drivers.
        started_at: ISO time (UTC) of the last launch.
        finished_at: ISO time (UTC).
        message: Why it diverged or failed; or why it ended early, where the training of another core says that.
        weights: Path of the final weights inside the trial's folder.
        weights_sha256: Their SHA-256.
        environment: What it ran on; never part of the key.
        correct_sha256: SHA-256 of `correct.bin`, which images the network got right (`evaluations.py`); None where
            that is not on record.
    """

    schema_version: int = 1
    key: str
    state: TrialState
    seed: Count
    epochs: Count
    metrics: dict[str, MetricValue] = Field(default={}, exclude_if=is_absent)
    sizes: dict[Literal["parameters", "multiply_adds"], Annotated[float, Field(ge=0)]] = Field(
        default={}, exclude_if=is_absent
    )
    train: SplitErrors | None = None
    validation: SplitErrors | None = None
    test: SplitErrors | None = None
    train_final: SplitErrors | None = None
    seconds: Measured
    images_per_second: Measured | None = None
    peak_memory_mb: Measured | None = None
    memory_kind: str | None = None
    attempts: Count
    started_at: str
    finished_at: str
    message: str = ""
    weights: str | None = None
    weights_sha256: str | None = None
    environment: dict[str, str | int | None] = {}
    # 以前的 result.json 没有它：没有就不写出来，一个字节也不变
    correct_sha256: str | None = Field(default=None, exclude_if=is_absent)

    def objective(self, config: TrialConfig) -> float | None:
        """Returns what is minimised, after the last report; None where there is none.

        Args:
            config: Its configuration. AlexNet's objective is the top-1 validation error in [0, 1].
        """
        if isinstance(config, CoreConfig):
            value = self.metrics.get(config.core.chosen_by)
            return None if value is None else config.core.chosen.objective(value)
        return None if self.validation is None else self.validation.top1_error


def open_record(results: Path, config: TrialConfig) -> Path:
    """Makes a trial's folder with its `config.json`, or checks the one there is; returns the folder.

    What a core declares beside the key may have changed since an attempt that came to nothing: then it is written anew.

    Raises:
        LabError: Another configuration lies under this key, or the file is damaged.
    """
    folder = trial_folder(results, trial_key(config))
    path = folder / "config.json"
    # 文件夹名由配置算出：先写下配置，日后才验得了
    if not path.is_file():
        write_atomically(path, config.model_dump_json(indent=1).encode())
        return folder
    recorded = read_config(folder)
    if canonical_json(recorded) != canonical_json(config):
        raise LabError(
            f"{path} holds another configuration than its folder's name says; move its folder away",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if isinstance(config, CoreConfig) and recorded.model_dump() != config.model_dump():
        # 指标的声明不在 key 里：重新训练的，声明要与将写下的结果一致；失败过的结局随旧的声明去
        (folder / "result.json").unlink(missing_ok=True)
        write_atomically(path, config.model_dump_json(indent=1).encode())
    return folder


def set_aside(results: Path, key: str) -> Path:
    """Moves a trial's folder out of `trials/`, where it counts no more; returns where it lies now.

    Raises:
        LabError: It cannot be moved.
    """
    place = results / LEFT_OUT / key
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{key}.{number}")
    try:
        place.parent.mkdir(exist_ok=True)
        trial_folder(results, key).rename(place)
    except OSError as error:
        raise write_error(place, error) from error
    return place


def read_config(folder: Path) -> TrialConfig:
    """Reads a trial's configuration; nothing of a core is imported.

    Raises:
        LabError: The file is missing or damaged.
    """
    path = folder / "config.json"
    model: type[TrainConfig] | type[CoreConfig] = TrainConfig
    try:
        content = path.read_bytes()
        # 只有 core 的配置写着 core：先看是哪一种，再验证
        if b'"core"' in content and is_of_core(_plain(content)):
            model = CoreConfig
        return model.model_validate_json(content)
    except FileNotFoundError as error:
        raise LabError(f"{path} is missing", exit_code=ExitCode.ENVIRONMENT) from error
    except OSError as error:
        raise read_error(path, error) from error
    except ValidationError as error:
        raise LabError(
            f"{path} is damaged: {first_mistake(error, model)}; move its folder away",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def _plain(content: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(content)
    return None


def next_attempt(folder: Path, code: str = "") -> int:
    """Notes a new attempt and returns its number, from 1.

    Args:
        folder: Of the trial.
        code: Fingerprint of the code that trains it, of another core than AlexNet. Where the attempt before was trained
            by another code, what that has saved is deleted: no trial is half old, half new code.
    """
    path = folder / "attempts.jsonl"
    attempts = read_json_lines(path)
    number = len(attempts) + 1
    if code and attempts and attempts[-1].get("code") != code:
        for left in ("checkpoint", "script"):
            shutil.rmtree(folder / left, ignore_errors=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"attempt": number, "at": now, "driver": os.getpid(), "host": os.uname().nodename}
    append_line(path, {**row, "code": code} if code else row)
    return number


def append_epoch(folder: Path, report: Report) -> None:
    """Appends one epoch to `epochs.jsonl`."""
    append_line(folder / "epochs.jsonl", report.model_dump(mode="json"))


def rewrite_epochs(folder: Path, reports: Sequence[Report]) -> None:
    """Replaces `epochs.jsonl` by the history of the checkpoint that a trial goes on from."""
    # 续训之后的轮要重来：旧行先去掉，记录不走在检查点前面
    lines = "".join(json.dumps(report.model_dump(mode="json"), sort_keys=True) + "\n" for report in reports)
    write_atomically(folder / "epochs.jsonl", lines.encode())


def read_epochs(folder: Path) -> list[Report]:
    """Reads the epochs of a trial in order; a torn line is passed over, a repeated epoch counts once."""
    # 被杀时可能留下半行，或同一轮写了两次
    by_epoch: dict[int, Report] = {}
    for row in read_json_lines(folder / "epochs.jsonl"):
        try:
            report = parse_report(row)
        except ValidationError:
            continue
        by_epoch.setdefault(report.epoch, report)
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def append_log(folder: Path, text: str) -> None:
    """Appends to a trial's log."""
    append_text(folder / "log.txt", text if text.endswith("\n") else f"{text}\n")


def log_attempt(folder: Path, at: str, attempt: int, slot: int | None, text: str) -> None:
    """Appends to a trial's log what has happened in an attempt.

    Args:
        folder: Of the trial.
        at: ISO time.
        attempt: Its number.
        slot: Which has it; None while none has.
        text: What has happened.
    """
    append_log(folder, f"{at} {_attempt_words(attempt)}{slot}: {text}\n")


def log_output(folder: Path, before: float = math.inf) -> None:
    """Moves into a trial's log what its workers have written past Python (C code, children): the last of it.

    Args:
        folder: Of the trial.
        before: Only of attempts before this one, whose worker may have begun to write.
    """
    with suppress(OSError):
        found = ((OUTPUTS.fullmatch(entry.name), entry) for entry in os.scandir(folder))
        attempts = sorted(int(match[1]) for match, _ in found if match)
        for path in (output_path(folder, attempt) for attempt in attempts if attempt < before):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - MOST_OUTPUT))
                text = file.read().decode(errors="replace").strip()
            if text:
                append_log(folder, text)
            path.unlink()


def latest_attempt_begins(folder: Path) -> bool:
    """Says whether the latest attempt has come to a slot yet, which its log tells; before, the trial waits for one."""
    attempts = len(read_json_lines(folder / "attempts.jsonl"))
    with suppress(OSError):
        return _attempt_words(attempts) in (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    return False


def _attempt_words(attempt: int) -> str:
    return f"attempt {attempt}, slot "


def write_result(folder: Path, result: TrialResult) -> None:
    """Writes `result.json`: from now on the trial is done."""
    # 一次替换：有 result.json 就有完整的结局，没有就还没完
    write_atomically(folder / "result.json", result.model_dump_json(indent=1).encode())


def read_result(folder: Path) -> TrialResult | None:
    """Reads how a trial ended; None while it has not. `checked_record.read_record` compares its configuration too.

    Raises:
        LabError: The file is damaged, or the result of another trial (named).
    """
    path = folder / "result.json"
    try:
        result = TrialResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(path, error) from error
    except ValidationError as error:
        raise LabError(
            f"{path} is damaged: {first_mistake(error, TrialResult)}; move it away to train this trial again from its "
            "last checkpoint",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    # 拷错了地方的结果不能算在别人名下
    if result.key != folder.name:
        raise LabError(
            f"{folder}: its result.json is that of another trial ({result.key}); move the folder away",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return result


def recorded_keys(results: Path) -> list[str]:
    """Returns the keys of all trial folders, sorted; a folder of another name is no trial, and named."""
    try:
        names = [entry.name for entry in os.scandir(results / "trials") if entry.is_dir()]
    except FileNotFoundError:
        return []
    keys = [name for name in names if KEY.fullmatch(name)]
    # 备份的副本不是又一个种子
    if len(keys) < len(names):
        others = sorted(set(names).difference(keys))
        them, named = ("it", "a trial's key") if len(others) == 1 else ("them", "trials' keys")
        place = results / "trials"
        logger.warning("left out: %s in %s, not named by %s; move %s away", listed(others), place, named, them)
    return sorted(keys)


def listed(names: Sequence[str]) -> str:
    """Returns names for a message: the first few, and how many more there are."""
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


def repeat_command(config: TrialConfig, folder: Path) -> str:
    """Returns the command that trains a trial again outside Ray, with the same numbers.

    Args:
        config: Its configuration.
        folder: Its folder.
    """
    if isinstance(config, CoreConfig):
        return f"python -m orchestrator.check_core --trial {shlex.quote(str(folder))}"
    return f"python -m alexnet_core train --config {shlex.quote(str(folder / 'config.json'))}"


def tidy(folder: Path, keep_weights: str = "all") -> None:
    """Deletes the checkpoints a done trial does not need.

    Args:
        folder: The trial's folder.
        keep_weights: `none` deletes the final weights too; `all` and `best` keep them (`best` is applied to a whole
            study at its end). A script's own checkpoints count as weights.
    """
    # 没有结局的还要从检查点接着走，一个也不能删
    result = read_result(folder)
    if result is None:
        return
    kept = folder / result.weights if result.weights is not None and keep_weights != "none" else None
    # 脚本的输出和报告已经进了日志和 epochs.jsonl
    script = folder / "script"
    if keep_weights == "none" or not (script / "checkpoint").is_dir() or not any((script / "checkpoint").iterdir()):
        shutil.rmtree(script, ignore_errors=True)
    spent = [path for path in script.glob("*") if path.is_file()]
    for path in (*(folder / "checkpoint").glob("*"), *spent):
        if path == kept:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error


def append_members(results: Path, study: str, members: Iterable[Mapping[str, Any]]) -> None:
    """Appends memberships (study, dataset, arm, seed, key, phase, parameters, position) to a study's list."""
    for member in members:
        append_line(results / "studies" / study / "members.jsonl", member)


def read_members(results: Path, study: str | None = None) -> list[dict[str, Any]]:
    """Reads the memberships of one study, or of all; a line that is none, or another study's, is passed over."""
    folders = [results / "studies" / study] if study is not None else sorted((results / "studies").glob("*"))
    rows = ((row, folder) for folder in folders for row in read_json_lines(folder / "members.jsonl"))
    # 复制来的文件夹里是别的研究的行：不能算两次
    return [row for row, folder in rows if _is_membership(row) and row["study"] == folder.name]


def _is_membership(row: Mapping[str, Any]) -> bool:
    """Whether a line has what every reader of memberships relies on."""
    parameters, position, told = row.get("parameters"), row.get("position"), row.get("told")
    return (
        all(isinstance(row.get(name), str) for name in ("study", "dataset", "arm", "key", "phase"))
        and is_count(row.get("seed"))
        and (parameters is None or isinstance(parameters, dict))
        and (position is None or is_count(position))
        and (told is None or (isinstance(told, list) and all(map(is_count, told))))
    )


def is_count(value: Any) -> bool:
    """Says whether a value out of JSON is a whole number from 0 on that a table can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER


def membership(study: str, dataset: str, trial: PlannedTrial) -> dict[str, Any]:
    """Returns the membership of an arm's trial."""
    return {
        "study": study,
        "dataset": dataset,
        "arm": trial.arm,
        "seed": trial.seed,
        "key": trial.key,
        "phase": trial.phase,
        "parameters": None,
        "position": None,
    }


def join_members(results: Path, study: str, dataset: str, trials: Iterable[PlannedTrial]) -> None:
    """Adds the memberships that are not written down yet."""
    # 只补缺的行：同一个 trial 可以属于几个研究
    known = {(row["arm"], row["seed"], row["key"], row["phase"]) for row in read_members(results, study)}
    fresh = [
        membership(study, dataset, trial)
        for trial in trials
        if (trial.arm, trial.seed, trial.key, trial.phase) not in known
    ]
    append_members(results, study, fresh)


@lru_cache(maxsize=1)
def source_version() -> dict[str, str | int | None]:
    """Returns the git commit of the source tree, if it is one; recorded with each trial."""
    try:
        completed = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"git_commit": None}
    return {"git_commit": completed.stdout.strip() or None}
