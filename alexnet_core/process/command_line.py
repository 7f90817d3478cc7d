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


class CommandParser(argparse.ArgumentParser):
    """argparse without the usage, which for a command of thirty options hides what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and ends the process with exit code 2."""
        print(f"error: {message}; {self.prog} --help lists the options", file=sys.stderr)
        sys.exit(EXIT_WRONG_USE)


def pathname(text: str) -> Path:
    """Parses a path; Linux has no file whose name is longer than 255 bytes."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {longest} bytes in it is longer than the {LONGEST_NAME} of a file")
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not UTF-8: records could not name it; rename it")
    return Path(text)
