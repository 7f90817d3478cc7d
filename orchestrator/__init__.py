"""Running studies on Ray: plans, slots, records, tables, verdicts, exports. Importing it loads nothing of that."""

from __future__ import annotations

from typing import Any

__all__ = ["load_tables"]


def __getattr__(name: str) -> Any:
    """Loads `load_tables`, the three Polars frames of a results folder, on first use (PEP 562)."""
    if name == "load_tables":
        from orchestrator.tables import load_tables

        return load_tables
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
