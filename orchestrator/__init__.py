"""Running studies on Ray: plans, slots, records, tables, verdicts, exports. Importing it loads nothing of that."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.asking.answers import StudyAnswer
    from orchestrator.asking.entry import run_study
    from orchestrator.cores.contract import Core, Metric, Run
    from orchestrator.errors import LabError
    from orchestrator.tables.tables import load_tables

# 命令一开始就看着信号；Ray 的小进程不必为此载入核心
if sys.argv[:1] == ["-m"]:
    import alexnet_core  # noqa: F401

__all__ = ["Core", "LabError", "Metric", "Run", "StudyAnswer", "load_tables", "run_study"]
# 写自己的 core 的文件只要那三个词，不必载入 torch 和 Ray
_HOMES = {
    "Core": "orchestrator.cores.contract",
    "LabError": "orchestrator.errors",
    "Metric": "orchestrator.cores.contract",
    "Run": "orchestrator.cores.contract",
    "StudyAnswer": "orchestrator.asking.answers",
    "load_tables": "orchestrator.tables.tables",
    "run_study": "orchestrator.asking.entry",
}


def __getattr__(name: str) -> Any:
    """Loads on first use (PEP 562): `run_study`, which asks a study, `load_tables`, and a core's words."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
