"""Running studies on Ray: plans, slots, records, tables, verdicts, exports. Importing it loads nothing of that."""

from __future__ import annotations

import sys
from typing import Any

# 命令一开始就看着信号；Ray 的小进程不必为此载入核心
if sys.argv[:1] == ["-m"]:
    import alexnet_core  # noqa: F401

__all__ = ["Core", "Metric", "Run", "load_tables"]


def __getattr__(name: str) -> Any:
    """Loads on first use (PEP 562): `load_tables`, the three Polars frames of a results folder, and a core's words."""
    if name == "load_tables":
        from orchestrator.tables.tables import load_tables

        return load_tables
    if name in __all__:
        # 写自己的 core 的文件只要这三个词，不必载入 torch 和 Ray
        from orchestrator.cores import contract

        return getattr(contract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
