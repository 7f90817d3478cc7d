"""Ctrl-C and SIGTERM from the first moment on: one line and exit code 130, never a traceback.

While Python loads our modules nothing has begun, so the process ends at once. In a command both signals raise
KeyboardInterrupt. Where a network is trained they are noted instead, and the training stops between two batches.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
# 与 shell 里被 SIGPIPE 结束的命令相同
EXIT_PIPE_CLOSED = 141
EXIT_OUTPUT_LOST = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# 线程池退出时要等完排队的活，上百万张图可能要等几个小时
PATIENCE_SECONDS = 10
AGAIN_SECONDS = 0.05
PACKAGES = ("alexnet_core", "orchestrator", "search_spaces")
MODULE_OPTION = re.compile(r"-[bBdEiIOPqsSuvx]*m")
OPTIONS_WITH_A_VALUE = ("-W", "-X", "--check-hash-based-pycs")
Main = Callable[[Sequence[str] | None], int]


def end_at_once(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    """Ends the process with one line; a signal handler, also for signals that come before a command has begun."""
    # 信号可能打断一次 print，所以绕过缓冲区
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def owns_process() -> bool:
    """Returns whether this process is `python -m` with one of our commands, and not a program that calls one."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if MODULE_OPTION.fullmatch(word):
            return next(words, "").split(".")[0] in PACKAGES
        if word in OPTIONS_WITH_A_VALUE:
            next(words, None)
        elif word in ("-", "-c") or not word.startswith("-"):
            # 解释器的选项到此为止：后面的 -m 是那个程序自己的
            return False
    return False


def is_starting_a_command() -> bool:
    """Returns whether `python -m` is loading one of our packages to run it; another program may import them too."""
    # 软件包载入时 argv[0] 还是 -m，orig_argv 里它之后是命令的名字
    return sys.argv[:1] == ["-m"] and owns_process()


def watch_from_the_start() -> None:
    """Ends this process at once when a signal comes before its command has begun."""
    for number in SIGNALS:
        signal.signal(number, end_at_once)
    # 解释器收尾时会把处理函数换回系统的默认，那之前改为不理：结局已定
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it both signals raise KeyboardInterrupt; a second one, or ten seconds, end a process of ours at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # 别人的程序或笔记本调用我们时，只抛异常，不替它结束进程
    ours = owns_process()
    signalled = lost = False

    def interrupt() -> NoReturn:
        if ours:
            signal.signal(signal.SIGALRM, on_alarm)
            signal.alarm(PATIENCE_SECONDS)
        raise KeyboardInterrupt

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled and ours:
            end_at_once()
        signalled = True
        interrupt()

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal lost
        if not lost:
            end_at_once()
        lost = False
        interrupt()

    def on_unraisable(unraisable: Any) -> None:
        nonlocal signalled, lost
        # Ray 启动时 SIGTERM 归它，抛的是 SystemExit
        ends = issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit))
        if not ends or threading.current_thread() is not threading.main_thread():
            unraisable_before(unraisable)
            return
        # 信号落在 fork 钩子或 __del__ 里，Python 会吞掉异常：稍后再抛一次
        signalled = lost = True
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    unraisable_before, sys.unraisablehook = sys.unraisablehook, on_unraisable
    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        if signalled:
            signal.alarm(0)
        sys.unraisablehook = unraisable_before
        for number, handler in before.items():
            signal.signal(number, handler)


def say_interrupted(more: str = "") -> None:
    """Prints the one line of an interrupted command."""
    with suppress(OSError):
        sys.stdout.flush()
    say(f"interrupted{more}")


def say(line: str) -> None:
    """Prints a line about trouble to standard error, if that can still be written."""
    # 终端关了，标准错误也就没了：不能因为这一行丢下后面的收尾
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def ensure_output() -> None:
    """Gives a command outputs that take every letter, and such as go nowhere where there are none (`>&-`).

    A letter that the terminal's encoding lacks ("±" in koi8-r) is shown as a question mark.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # C 语言环境里标准输出用的不是 strict，却也写不出 ±
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def silence_output() -> None:
    """Lets standard output go nowhere, since it cannot be written."""
    # 退出时的冲刷也不能再写
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def code_of_lost_output(error: OSError) -> int:
    """Returns the exit code of a command whose standard output cannot be written, after one line about it.

    Args:
        error: What the command ended with. A reader that has gone (`head`) is worth no line.

    Raises:
        OSError: It is about something else.
    """
    if isinstance(error, BrokenPipeError):
        silence_output()
        return EXIT_PIPE_CLOSED
    if error.filename is not None:
        raise error
    try:
        # 异常里没有文件名：写一个空行，就知道写不出去的是不是它
        os.write(sys.stdout.fileno(), b"\n")
    except OSError as again:
        silence_output()
        say(f"error: standard output: {again.strerror}")
        return EXIT_OUTPUT_LOST
    raise error


def run_stoppable(body: Callable[[], int], on_interrupt: Callable[[], object], more: str = "") -> int:
    """Runs a command's body so that both signals end it with one line, and so that its output may be lost.

    Args:
        body: Returns the exit code.
        on_interrupt: Called after the line of an interrupted command.
        more: What that line says beside "interrupted".
    """
    ensure_output()
    with interruptible():
        try:
            code = body()
            # 关了的管道在这里就发现，不等到退出时
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            say_interrupted(more)
            on_interrupt()
            return EXIT_INTERRUPTED
        except OSError as error:
            return code_of_lost_output(error)


def stoppable(main: Main) -> Callable[..., int]:
    """Makes of a command one that both signals end with one line and exit code 130."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        return run_stoppable(partial(main, arguments), lambda: None)

    return run
