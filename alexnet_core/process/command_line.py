"""The parser of all commands: a wrong option is one line, like every other mistake."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from alexnet_core.process.files import is_utf8, shown

EXIT_WRONG_USE = 2
LONGEST_NAME = 255


class WrongUse(SystemExit):
    """Ends a command whose options are wrong, with exit code 2.

    Attributes:
        line: What is wrong; it has been printed.
    """

    def __init__(self, line: str) -> None:
        super().__init__(EXIT_WRONG_USE)
        self.line = line


class CommandParser(argparse.ArgumentParser):
    """argparse without the usage, which for a command of thirty options hides what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and ends the process with exit code 2."""
        line = f"{message}; {self.prog} --help lists the options"
        print(f"error: {line}", file=sys.stderr)
        raise WrongUse(line)


def pathname(text: str) -> Path:
    """Parses a path; Linux has no file whose name is longer than 255 bytes."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {longest} bytes in it is longer than the {LONGEST_NAME} of a file")
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not UTF-8: records could not name it; rename it")
    return Path(text)
