"""Where a command says what: text on the standard output; with `--json` one document there, and the text beside it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from rich.console import Console

from orchestrator.errors import ExitCode
from orchestrator.output.console import make_console
from orchestrator.output.document import Document

OPTION = "--json"


def asks_for_json(arguments: Sequence[str] | None) -> bool:
    """Returns whether `--json`, or the beginning of it that argparse takes, is among a command's arguments.

    Args:
        arguments: Of the command; None for those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    # 解析失败时也要给出文档，所以不等解析
    return any(len(word) > len("--") and OPTION.startswith(word) for word in words)


class Output:
    """The output of one command.

    Attributes:
        as_json: Whether it is one document.
    """

    def __init__(self, *, as_json: bool) -> None:
        """Nothing is said yet."""
        self.as_json = as_json
        self._stream: TextIO | None = None
        self._document: Document | None = None
        self._passed_on = ""
        self._once = threading.Lock()

    def console(self, *, goes_on: bool = False) -> Console:
        """Returns the console of the command's text; beside a document its loss ends nothing.

        Args:
            goes_on: Whether the command goes on in silence when its text cannot be written any more.
        """
        return make_console(goes_on=goes_on or self.as_json, stderr=self.as_json)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Within it, with `--json`, whatever anybody prints goes to the standard error."""
        if not self.as_json:
            yield
            return
        self._stream = sys.stdout
        with redirect_stdout(sys.stderr):
            yield

    def answer(self, document: Document) -> int:
        """Takes the document that is printed once the command has ended; returns the exit code that it names."""
        self._document = document
        return document.exit_code

    def pass_on(self, line: str) -> None:
        """Takes a line that the same command has printed in another process: of its text, or of its document."""
        if self.as_json:
            self._passed_on += line
        else:
            print(line, end="", flush=True)

    def end(self, exit_code: int, error: str | None = None) -> None:
        """Prints the document, once; without an answer it says what went wrong.

        Args:
            exit_code: Of the command.
            error: What went wrong, in one line.

        Raises:
            OSError: The standard output cannot be written.
        """
        if not self.as_json or not self._once.acquire(blocking=False):
            return
        text = self._passed_on or self._ended(exit_code, error)
        if text is not None:
            print(text.rstrip(), file=self._stream or sys.stdout, flush=True)

    def _ended(self, exit_code: int, error: str | None) -> str | None:
        document = self._document
        if document is None:
            # --help 没有答案，也没有错
            if exit_code == ExitCode.DONE:
                return None
            document = Document()
        if error is None and exit_code == ExitCode.INTERRUPTED:
            error = "interrupted"
        return document.model_copy(update={"exit_code": int(exit_code), "error": error or document.error}).text
