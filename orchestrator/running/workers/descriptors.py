"""What a worker writes past Python while it trains a trial: the words of C code, of children, of a process that hangs.

They lie in a file of the trial's folder, so that they outlive the process; the driver moves them into the trial's log
(`trial_record.log_output`) when it hears of the attempt's end, or of the next one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DESCRIPTORS = (1, 2)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Within it the file descriptors 1 and 2 lead into a file; where that cannot be made, they stay as they are.

    Args:
        path: Appended to, as several workers may share it; see `output_path`.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        yield
        return
    _flush()
    before = [os.dup(descriptor) for descriptor in DESCRIPTORS]
    for descriptor in DESCRIPTORS:
        os.dup2(file, descriptor)
    os.close(file)
    try:
        yield
    finally:
        _flush()
        for descriptor, kept in zip(DESCRIPTORS, before, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
