"""The frame of all commands: console, interruption, one-line errors and exit codes, `--results`, and numbers."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from alexnet_core.errors import CoreError
from alexnet_core.process.command_line import pathname
from alexnet_core.process.interruption import run_stoppable, say, silence_output
from orchestrator.errors import ExitCode, LabError
from search_spaces.errors import StudyError

PLAIN_WIDTH = 120
AtEnd = Callable[[int, str | None], object]
_UNPRINTABLE = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Makes of a function that takes arguments and returns an exit code the main function of a command."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        return framed(partial(main, arguments))

    return run


def framed(body: Callable[[], int], at_end: AtEnd = lambda code, trouble: None, interrupted: str = "") -> int:
    """Runs a command: every foreseen mistake is one line on the standard error and an exit code.

    Args:
        body: Parses the arguments, does the work and returns the exit code.
        at_end: Called with the exit code and with what went wrong, after that was printed.
        interrupted: What the line of an interrupted command says beside that it was.

    Returns:
        The exit code; in a program or a notebook that called a command its process goes on.
    """
    terminal = logging.StreamHandler()
    # driver.log 要 INFO，终端只要警告：界限只能放在终端自己这里
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, handlers=[terminal])
    with _each_warning_once():
        stoppable = partial(_exit_code, body, at_end)
        return int(run_stoppable(stoppable, lambda: at_end(ExitCode.INTERRUPTED, None), interrupted))


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


def _exit_code(body: Callable[[], int], at_end: AtEnd) -> int:
    try:
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
        return body(), None
    except SystemExit as exit_request:
        # argparse 已经说过了：在别人的程序里只返回退出码
        return (exit_request.code if isinstance(exit_request.code, int) else ExitCode.DONE), None
    except (LabError, StudyError, CoreError) as error:
        trouble, code = str(error), error.exit_code if isinstance(error, LabError) else ExitCode.WRONG_USE
    except OSError as error:
        # 没有文件名的是标准输出写不出去，由外层判断
        if error.filename is None:
            raise
        trouble, code = f"{error.filename}: {error.strerror}", ExitCode.ENVIRONMENT
    print_error(trouble)
    return code, trouble


def run_beside(module: str, arguments: Sequence[str]) -> int:
    """Runs a command in a process of its own; what it prints is printed here. Returns its exit code.

    Args:
        module: Of the command.
        arguments: Of the command.
    """
    # 自己的会话：终端的 Ctrl-C 只由我们转告一次
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        complaints = threading.Thread(target=_say_lines, args=(child.stderr,))
        complaints.start()
        _print_lines(child)
        complaints.join()
    return child.returncode


def _print_lines(child: subprocess.Popen[str]) -> None:
    """Prints what a command prints until it ends; Ctrl-C is passed on to it."""
    while child.poll() is None:
        try:
            for line in child.stdout or ():
                print(line, end="", flush=True)
            child.wait()
        except KeyboardInterrupt:
            child.terminate()


def _say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line.rstrip())


class _SafeConsole(Console):
    """A console on which text out of files (logs, names) cannot steer the terminal."""

    def on_broken_pipe(self) -> None:
        """Leaves the reader's end to the command, where rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as rich does, its own codes untouched."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _UnheardConsole(_SafeConsole):
    """The console of a study, which does not end because its log's disk is full or `tee` has died."""

    def __exit__(self, *exception: Any) -> None:
        """Writes what was printed as rich does, until that fails."""
        try:
            super().__exit__(*exception)
        except OSError as error:
            if self.quiet:
                return
            self.quiet = True
            silence_output()
            say(f"warning: standard output: {error.strerror}; the study goes on")


def make_console(*, goes_on: bool = False) -> Console:
    """Returns the console of a command; without a terminal its lines may be 120 columns wide.

    Args:
        goes_on: Whether the command goes on in silence when its output cannot be written any more.
    """
    make = _UnheardConsole if goes_on else _SafeConsole
    console = make(highlight=False)
    return console if console.is_terminal else make(highlight=False, width=PLAIN_WIDTH)


def printable(text: str) -> str:
    """Replaces control characters, but for tabs and new lines, and marks that reverse the direction of writing."""
    return text.translate(_UNPRINTABLE)


def print_error(error: object) -> None:
    """Prints the one line of an error, after what went to the standard output."""
    sys.stdout.flush()
    say(f"error: {printable(str(error))}")


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
    except OSError as error:
        reason = f"results folder {results} cannot be read: {error.strerror}; choose another with --results"
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
