"""The frame of all commands: console, interruption, one-line errors and exit codes, `--results`, and numbers."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from alexnet_core.errors import CoreError
from alexnet_core.process.command_line import WrongUse, pathname
from alexnet_core.process.files import check_current_folder
from alexnet_core.process.interruption import run_stoppable, say, silence_output
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.channel import OPTION, Output, asks_for_json
from orchestrator.output.console import printable
from search_spaces.errors import StudyError

WAKE_SECONDS = 0.1
CLAIMS_OF_A_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
AtEnd = Callable[[int, str | None], object]


class Beside(NamedTuple):
    """How a command ended that ran in a process of its own.

    Attributes:
        code: Its exit code.
        interrupted: Whether Ctrl-C came here meanwhile, and was passed on to it.
    """

    code: int
    interrupted: bool


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Makes of a function that takes arguments and returns an exit code the main function of a command."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        return framed(partial(main, arguments), Output(as_json=False))

    return run


def command_for_programs(main: Callable[[Sequence[str] | None, Output], int]) -> Callable[..., int]:
    """Makes the main function of a command that takes `--json` too; see `command`."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        output = Output(as_json=asks_for_json(arguments))
        return framed(partial(main, arguments, output), output)

    return run


def framed(body: Callable[[], int], output: Output, at_end: AtEnd | None = None, interrupted: str = "") -> int:
    """Runs a command: every foreseen mistake is one line on the standard error and an exit code.

    Args:
        body: Parses the arguments, does the work and returns the exit code.
        output: What the command answers with `--json`.
        at_end: Called with the exit code and with what went wrong, after that was printed; None for `output.end`.
        interrupted: What the line of an interrupted command says beside that it was.

    Returns:
        The exit code; in a program or a notebook that called a command its process goes on.
    """
    terminal = logging.StreamHandler()
    # driver.log 要 INFO，终端只要警告：界限只能放在终端自己这里
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, handlers=[terminal])
    end = output.end if at_end is None else at_end

    def on_interrupt() -> None:
        try:
            end(ExitCode.INTERRUPTED, None)
        except OSError:
            # 已经在收尾：文档写不出去，退出码照旧
            silence_output()

    with _each_warning_once():
        return int(run_stoppable(partial(_exit_code, body, output, end), on_interrupt, interrupted))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Lets a command say each warning once, however often it reads what the warning is about."""
    filters = [(handler, _EachTextOnce()) for handler in logging.getLogger().handlers]
    for handler, each_once in filters:
        handler.addFilter(each_once)
    try:
        yield
    finally:
        for handler, each_once in filters:
            handler.removeFilter(each_once)


class _EachTextOnce(logging.Filter):
    """Lets each text pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record's text is new."""
        text = record.getMessage()
        is_new = text not in self._texts
        self._texts.add(text)
        return is_new


def _exit_code(body: Callable[[], int], output: Output, at_end: AtEnd) -> int:
    try:
        with output.reserved():
            code, trouble = _code_and_trouble(body)
    except OSError:
        raise
    except Exception as error:
        # 没料到的错误也要通知，然后照样抛出
        at_end(ExitCode.SOME_FAILED, f"{type(error).__name__}: {error}")
        raise
    at_end(code, trouble)
    return code


def _code_and_trouble(body: Callable[[], int]) -> tuple[int, str | None]:
    """The exit code, and the line about what went wrong, which is printed."""
    try:
        with one_line_errors():
            check_current_folder()
            return body(), None
    except SystemExit as exit_request:
        # argparse 已经说过了：在别人的程序里只返回退出码
        line = exit_request.line if isinstance(exit_request, WrongUse) else None
        return (exit_request.code if isinstance(exit_request.code, int) else ExitCode.DONE), line
    except LabError as error:
        print_error(error)
        return error.exit_code, str(error)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within it every foreseen mistake is a `LabError`, with the exit code of the command that it would end.

    Raises:
        LabError: In place of the errors of studies and of the core, and of files that cannot be read or written.
    """
    try:
        yield
    except (StudyError, CoreError) as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    except OSError as error:
        # 没有文件名的是标准输出写不出去，由外层判断
        if error.filename is None:
            raise
        raise LabError(f"{error.filename}: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error


def run_beside(module: str, arguments: Sequence[str], take: Callable[[str], object]) -> Beside:
    """Runs a command in a process of its own; what it says on its standard error is said here.

    Args:
        module: Of the command.
        arguments: Of the command.
        take: Called with each line of its standard output.
    """
    # 自己的会话：终端的 Ctrl-C 只由我们转告一次
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={
            # 管道不是终端，不论笔记本怎么说
            **{name: value for name, value in os.environ.items() if name not in CLAIMS_OF_A_TERMINAL},
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        complaints = threading.Thread(target=_say_lines, args=(child.stderr,))
        complaints.start()
        interrupted = _take_lines(child, take)
        complaints.join()
    return Beside(child.returncode, interrupted)


def _take_lines(child: subprocess.Popen[str], take: Callable[[str], object]) -> bool:
    """Takes what a command prints until it ends; Ctrl-C is passed on to it. Returns whether there was one."""
    lines: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_put_lines, args=(child.stdout, lines), daemon=True).start()
    interrupted = False
    while True:
        try:
            # Polars 接管的 SIGINT 会让 read 重新开始：不在 read 里等，隔一会儿自己醒来
            line = lines.get(timeout=WAKE_SECONDS)
            if line is None:
                return interrupted
            take(line)
        except Empty:
            continue
        except KeyboardInterrupt:
            interrupted = True
            child.terminate()


def _put_lines(lines: Iterable[str], queue: SimpleQueue[str | None]) -> None:
    for line in lines:
        queue.put(line)
    queue.put(None)


def _say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line.rstrip())


def print_error(error: object) -> None:
    """Prints the one line of an error, after what went to the standard output."""
    sys.stdout.flush()
    say(f"error: {printable(str(error))}")


def add_json_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds `--json`, which `Output` looks for itself."""
    help_text = "print one JSON document for programs, and all else on the standard error (docs/programs.md)"
    parser.add_argument(OPTION, action="store_true", help=help_text)


def add_study_argument(parser: argparse._ArgumentGroup, help_text: str, default: str | None = None) -> None:
    """Adds the study: in first place, or as `--study`, but not both.

    Args:
        parser: Of the command.
        help_text: What may stand there.
        default: The study of who names none.
    """
    study = parser.add_mutually_exclusive_group()
    # 位置参数没写时不许盖掉 --study 的值
    study.add_argument("study", nargs="?", default=argparse.SUPPRESS, metavar="STUDY", help=help_text)
    study.add_argument("--study", default=default, metavar="STUDY", help="the same")


def add_results_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds `--results`."""
    parser.add_argument("--results", type=pathname, default=Path("results"), help="results folder (default: ./results)")


def check_can_hold_results(results: Path) -> None:
    """Refuses a results folder that is a file, would lie in one, or cannot be read; it need not be there yet.

    Raises:
        LabError: With exit code 3.
    """
    try:
        there = next((path for path in (results, *results.resolve().parents) if path.exists()), None)
        if there == results and there.is_dir():
            os.scandir(results).close()
            # 读不了的文件夹会被当成空的：glob 不吭声
            for folder in (results / "studies", results / "trials"):
                if folder.is_dir():
                    os.scandir(folder).close()
    except OSError as error:
        where = error.filename or results
        reason = f"results folder {where} cannot be read: {error.strerror}; choose another with --results"
        raise LabError(reason, exit_code=ExitCode.ENVIRONMENT) from error
    if there is not None and not there.is_dir():
        raise LabError(
            f"results folder {results}: {there} is a file; choose another with --results",
            exit_code=ExitCode.ENVIRONMENT,
        )


def check_has_results(results: Path) -> None:
    """Refuses a results folder that is not there, beside what `check_can_hold_results` refuses.

    Raises:
        LabError: With exit code 4 where there is none, 3 where it cannot be read.
    """
    check_can_hold_results(results)
    if not results.is_dir():
        raise LabError(
            f"results folder {results} does not exist; run an ablation first, or name it with --results",
            exit_code=ExitCode.NOTHING,
        )


def natural(text: str) -> int:
    """Parses a whole number from 1 on."""
    return _whole(text, 1)


def natural_or_zero(text: str) -> int:
    """Parses a whole number from 0 to 1,000,000."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if not least <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be from {least} to 1000000, not {value}")
    return value
