"""Running studies on Ray: plans, slots, records, tables, verdicts, exports. Importing it loads nothing of that."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator.interruption import watch_from_the_start

# python -m orchestrator.x 先载入本文件，这时 argv[0] 还是 -m：Ctrl-C 从这一刻起就只有一行
if sys.argv[:1] == ["-m"]:
    watch_from_the_start()

__all__ = ["load_tables"]


def __getattr__(name: str) -> Any:
    """Loads `load_tables`, the three Polars frames of a results folder, on first use (PEP 562)."""
    if name == "load_tables":
        from orchestrator.tables import load_tables

        return load_tables
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
