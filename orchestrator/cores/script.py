"""A script as a core: a program of any language, unchanged but for one line of JSON per report.

It is started from an argument list, never by a shell. A line of its output that is a JSON object with `report` is a
report; all other output is the trial's log.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, create_model

from alexnet_core.process.files import scratch_folder
from orchestrator.cores.contract import ContractError, Core, Metric, Run
from orchestrator.cores.script_reports import Gap, ReportNumbers, Tail, earlier_reports, parsed
from search_spaces.errors import StudyError
from search_spaces.script import PLACEHOLDER, Script, switch_name
from search_spaces.yaml_file import load_model

REPORTS_FILE = "ABLATION_REPORTS"
OUTPUT, REPORTS = "output.txt", "reports.jsonl"
# 脚本自己走到了头：它写下的就是全部；里面记着那时的检查点
ENDED = "ended"
# linux/prctl.h
PR_SET_PDEATHSIG = 1
# 分叉之后再装载就晚了：那时别的线程可能握着锁
_LIBC = ctypes.CDLL(None, use_errno=True)
POLL_SECONDS = 0.1
# 先请它停，再杀：多数程序十秒内写得完检查点
GRACE_SECONDS = 10.0


class _FileWithScript(BaseModel):
    """A study file, of which only the core is read."""

    core: Script


def script_of(path: Path) -> Script:
    """Reads the script that a study file declares.

    Raises:
        ContractError: The file cannot be read, or declares none that is right; the line says where.
    """
    try:
        return load_model(path, _FileWithScript).core
    except StudyError as error:
        raise ContractError(str(error)) from error


def script_core(script: Script, folder: Path) -> Core:
    """Makes a core of a script.

    Args:
        script: As declared.
        folder: Where it is run, and below which its files lie.
    """
    fields: dict[str, Any] = {name: (type(value), value) for name, value in script.parameters.items()}
    config = create_model("ScriptConfig", __config__=ConfigDict(frozen=True), **fields)

    def train(config: BaseModel, run: Run) -> Iterator[Mapping[str, float]]:
        yield from _reports(script, folder, config.model_dump(), run)

    return Core(
        name=script.name,
        version=script.version,
        config=config,
        train=train,
        metrics={name: Metric(metric.unit, metric.better, metric.scale) for name, metric in script.metrics.items()},
        chosen_by=script.chosen_by,
        judged_by=script.judged_by,
        gpus=script.gpus,
        data=_digest_of(script.data) if script.data else None,
    )


def _digest_of(patterns: Sequence[str]) -> Callable[[BaseModel, Path | None], str]:
    """Returns what says the digest of the files that a script trains on; they are read once in a process."""

    @cache
    def digest(root: Path | None) -> str:
        lines = [line for pattern in patterns for line in _content_lines(pattern, root)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    return lambda config, root: digest(root)


def _content_lines(pattern: str, root: Path | None) -> list[str]:
    """Name and SHA-256 of each file that a pattern means, the names without the folder in which all of them lie."""
    parts = Path(pattern).parts
    if root is None and not Path(pattern).is_absolute():
        raise ContractError(f"core.data: {pattern} lies below --data-root, which is not given")
    folder, below = root, pattern
    if Path(pattern).is_absolute():
        # 数据搬了家还是同样的数据：绝对路径里固定的那一段不进摘要
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
        folder, below = Path(*fixed), str(Path(*parts[len(fixed) :]))
    assert folder is not None
    found = matching(folder, below)
    if not found:
        raise ContractError(f"core.data: there is no {below} in {folder}")
    return [f"{name.as_posix()}\n{_sha256(folder / name)}" for name in found]


def matching(folder: Path, pattern: str) -> list[Path]:
    """Returns the files below a folder that a pattern means, sorted, as paths below it; `src/**` means all in `src`."""
    # 3.11 的 ** 在末尾只认文件夹
    below = f"{pattern}/*" if pattern.endswith("**") else pattern
    return sorted({path.relative_to(folder) for path in folder.glob(below) if path.is_file()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reports(script: Script, folder: Path, parameters: Mapping[str, JsonValue], run: Run) -> Iterator[dict[str, float]]:
    """Runs the script and yields its reports; it goes on from its own checkpoint where it has one."""
    with scratch_folder("script") as scratch:
        place = run.folder if run.folder is not None else scratch
        checkpoint = place / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        given = {
            "seed": run.seed,
            "checkpoint": checkpoint,
            "data_root": run.data_root or "",
            "device": run.devices[0],
        }
        filled_in = filled_command(script.command, {**parameters, **given})
        started = _Started(script.model_copy(update={"command": filled_in}), folder, place, run)
        goes_on = any(checkpoint.iterdir())
        try:
            yield from _run(started, ReportNumbers(run, earlier_reports(started.files)))
        except Gap as gap:
            if not goes_on:
                raise
            # 检查点写下了，报告没来得及：缺的数补不出来，只有重来才是真的
            run.log(f"{gap}: it was killed between a checkpoint and its report, and begins again without the former")
            run.begin_again()
            shutil.rmtree(checkpoint)
            checkpoint.mkdir()
            yield from _run(started, ReportNumbers(run, {}))


@dataclass(frozen=True)
class _Started:
    """How a script is started.

    Attributes:
        script: As declared, with its command filled in.
        folder: Where it runs.
        place: The trial's own folder.
        run: What it is given.
    """

    script: Script
    folder: Path
    place: Path
    run: Run

    @property
    def files(self) -> tuple[Path, Path]:
        """Where its output goes, and where it may write its reports."""
        return self.place / OUTPUT, self.place / REPORTS

    def note_end(self) -> None:
        """Notes that nothing is left to report after the checkpoint that is there now."""
        (self.place / ENDED).write_text(self._checkpoint_stamp())

    def has_ended(self) -> bool:
        """Whether an attempt noted its end, and none has written another checkpoint since."""
        path = self.place / ENDED
        return path.is_file() and path.read_text() == self._checkpoint_stamp()

    def _checkpoint_stamp(self) -> str:
        """Name, size and time of each file of the checkpoint."""
        paths = sorted(path for path in (self.place / "checkpoint").rglob("*") if path.is_file())
        stats = [(path, path.stat()) for path in paths]
        return "".join(f"{path.name} {status.st_size} {status.st_mtime_ns}\n" for path, status in stats)


def _run(started: _Started, numbers: ReportNumbers) -> Iterator[dict[str, float]]:
    """Runs the script once and yields what is new of its reports."""
    run, command = started.run, started.script.command
    had_ended = started.has_ended()
    # 启动之前就记下读到哪里：快的程序一启动就写完了
    tails = [Tail(path) for path in started.files]
    process = _process_of(command, started.folder, *started.files)
    is_whole = True
    try:
        for line in _lines(process, tails, run):
            report = parsed(line)
            if report is None:
                run.log(line)
                continue
            yield from (_saved(new, run) for new in numbers.new(report))
    except Gap:
        is_whole = False
        raise
    finally:
        is_end = process.poll() == 0 and (numbers.begun or had_ended)
        _new_reports(tails)
        _end(process)
        # 收到信号还写了一报才走的，没有丢什么；一声不响地走的，也许正在检查点与报告之间
        if is_whole and process.returncode == 0 and (is_end or _new_reports(tails)):
            started.note_end()
    if process.returncode:
        raise ContractError(f"{command[0]} ended {ending(process.returncode)}; its last line: {run.last_line}")
    if numbers.begun:
        return
    if not numbers.earlier:
        example = json.dumps({"report": 1, **dict.fromkeys(started.script.metrics, 0.25)})
        raise ContractError(f"train has ended without a report: print a line of JSON for each, such as {example}")
    if not had_ended:
        raise Gap("it has nothing more to report, and its last report may be lost")
    yield from (_saved(new, run) for new in numbers.unheard())


def _saved(report: Mapping[str, Any], run: Run) -> dict[str, float]:
    """A report's metrics; what is saved with them is how far the script has come."""
    run.save({"report": report["report"]})
    return {name: value for name, value in report.items() if name != "report"}


def filled_command(command: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Fills the placeholders of a command; a switch stands there where its parameter is true, else it is left out."""
    parts = ((part, switch_name(part)) for part in command)
    return tuple(
        part.strip("{}") if name else filled(part, values) for part, name in parts if not name or values[name] is True
    )


def filled(part: str, values: Mapping[str, Any]) -> str:
    """Fills the placeholders of an argument; `{{` and `}}` are braces, and truth is `true` or `false`."""
    return PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else _text(values[match[1]]), part)


def _text(value: Any) -> str:
    # 别的语言不认 True
    return str(value).lower() if isinstance(value, bool) else str(value)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent dies; for a child, between its fork and its program."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _process_of(command: Sequence[str], folder: Path, output: Path, reports: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        try:
            return subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PATH": _path(), REPORTS_FILE: str(reports), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                # 写进文件而不是管道：worker 被杀时，已经写下的报告还在
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise ContractError(f"{command[0]} cannot be started: {error.strerror}") from error


def _path() -> str:
    """Where programs are looked for: first beside the Python that runs here, so that `python` is that one."""
    # 环境没有激活时，检查与训练也要用同一个 python
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _lines(process: subprocess.Popen[bytes], tails: Sequence[Tail], run: Run) -> Iterator[str]:
    """Yields the lines that come into the output and into the file of reports, until the script has ended."""
    ended = False
    while not ended:
        # 先看它结束没有，再读：结束前写下的一行也不会漏
        ended = process.poll() is not None
        for tail in tails:
            yield from tail.lines(whole=ended)
        run.check()
        if not ended:
            time.sleep(POLL_SECONDS)


def _new_reports(tails: Sequence[Tail]) -> list[str]:
    """Reads what has come since; returns the lines that are reports."""
    return [line for tail in tails for line in tail.lines(whole=False) if parsed(line) is not None]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks a script and all it has started to end, waits, and kills what is left of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < end:
        time.sleep(POLL_SECONDS / 10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ending(code: int) -> str:
    """Returns how a process ended, from its return code: `by signal SIGKILL`, `with exit code 3`."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
