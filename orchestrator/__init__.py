"""Running studies on Ray: plans, slots, records, tables, verdicts, exports. Importing it loads nothing of that."""

from __future__ import annotations

import sys
from typing import Any

# 命令一开始就看着信号；Ray 的小进程不必为此载入核心
if sys.argv[:1] == ["-m"]:
    import alexnet_core  # noqa: F401

__all__ = ["load_tables"]


def __getattr__(name: str) -> Any:
    """Loads `load_tables`, the three Polars frames of a results folder, on first use (PEP 562)."""
    if name == "load_tables":
        from orchestrator.tables.tables import load_tables

        return load_tables
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
