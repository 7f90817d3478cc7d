"""Loading matplotlib where no home folder can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_FOLDERS = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


def load_matplotlib() -> None:
    """Loads matplotlib, with a private folder for as long as that takes where its own ones cannot be written.

    To be called before anything else imports it.
    """
    if "MPLCONFIGDIR" in os.environ or all(map(_can_be_written, _FOLDERS)):
        return
    # cron、容器里没有家目录：不然它每次都在终端上抱怨，还留下一个临时文件夹
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            # 只有字体清单在载入时要写
            import matplotlib.font_manager  # noqa: F401
        finally:
            del os.environ["MPLCONFIGDIR"]


def _can_be_written(variable: str) -> bool:
    try:
        folder = Path(os.environ.get(variable) or Path.home() / _FOLDERS[variable]) / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)
