"""The parser of all commands: a wrong option is one line, like every other mistake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from alexnet_core.process.files import is_utf8, shown

EXIT_WRONG_USE = 2
LONGEST_NAME = 255
_EXAMPLES = "examples:"


class WrongUse(SystemExit):
    """Ends a command whose options are wrong, with exit code 2.

    Attributes:
        line: What is wrong; it has been printed.
    """

    def __init__(self, line: str) -> None:
        super().__init__(EXIT_WRONG_USE)
        self.line = line


class CommandParser(argparse.ArgumentParser):
    """argparse with examples, and without the usage after a mistake, which for a command of thirty options hides it.

    Attributes:
        examples: The arguments of each, and what it does; `--help` ends with them.
    """

    def __init__(self, *, examples: Mapping[str, str] | None = None, **settings: Any) -> None:
        """Makes a parser.

        Args:
            examples: See above.
            settings: Of `argparse.ArgumentParser`.
        """
        super().__init__(formatter_class=_HelpFormatter, **settings)
        self.examples = dict(examples or {})
        if self.examples:
            lines = (f"  {self.prog} {words}\n      {what}" for words, what in self.examples.items())
            self.epilog = "\n".join((_EXAMPLES, *lines))

    def error(self, message: str) -> NoReturn:
        """Prints one line and ends the process with exit code 2."""
        line = f"{message}; {self.prog} --help lists the options"
        print(f"error: {line}", file=sys.stderr)
        raise WrongUse(line)


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of the examples, which are there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


def pathname(text: str) -> Path:
    """Parses a path; Linux has no file whose name is longer than 255 bytes."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {longest} bytes in it is longer than the {LONGEST_NAME} of a file")
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not UTF-8: records could not name it; rename it")
    return Path(text)
