"""The parser of all commands: a wrong option is one line, like every other mistake."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

EXIT_WRONG_USE = 2


class CommandParser(argparse.ArgumentParser):
    """argparse without the usage, which for a command of thirty options hides what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and ends the process with exit code 2."""
        print(f"error: {message}; {self.prog} --help lists the options", file=sys.stderr)
        sys.exit(EXIT_WRONG_USE)
