"""The driver's log: `driver.log` in the study's folder has what was said and what Ray said, with times.

The terminal shows the study alone; Ray's own messages reach it with `--verbose` only.
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

DRIVER_LOG = "driver.log"
LARGEST_BYTES = 10_000_000
RAY = ("ray", "ray.tune", "ray.train", "ray.data")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _DriverLog(RotatingFileHandler):
    """A log file whose own troubles (a full disk) end nothing and print nothing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drops the line."""


def open_driver_log(folder: Path, session: Path | None = None) -> None:
    """Sends what the driver and Ray log to `driver.log`; an older file of 10 MB makes room as `driver.log.1`.

    Args:
        folder: The study's folder.
        session: Ray's private folder, noted for those who want its logs or its metrics while it lasts.
    """
    try:
        handler = _DriverLog(folder / DRIVER_LOG, maxBytes=LARGEST_BYTES, backupCount=1, encoding="utf-8")
    except OSError:
        return
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    # Ray 的日志器不往上传，所以每个都要挂上
    for name in ("", *RAY):
        logger = logging.getLogger(name)
        if name == "" or not logger.propagate:
            logger.addHandler(handler)
    if session is not None:
        fields = {"name": __name__, "levelno": logging.INFO, "levelname": "INFO", "args": (session,)}
        # 只进文件，不上终端
        handler.handle(logging.makeLogRecord({**fields, "msg": "Ray's session lies in %s until the end of this run"}))


def quiet_ray(verbose: bool) -> None:
    """Keeps Ray's messages off the terminal, unless they are wanted; the log file has them.

    Errors too: Tune tells of an actor that died with a traceback, after which the trial goes on. What ends a study is
    an exception, and is said in a line of ours.
    """
    for name in RAY:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        for handler in logger.handlers:
            if not isinstance(handler, _DriverLog):
                handler.setLevel(logging.INFO if verbose else logging.CRITICAL)
