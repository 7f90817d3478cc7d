"""The rooms are kept: orchestrator -> search_spaces -> alexnet_core, and no arrow runs back."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "alexnet_core": {"search_spaces", "orchestrator", "ray", "optuna", "polars"},
    "search_spaces": {"orchestrator", "ray", "torch", "optuna", "polars"},
    "orchestrator": set(),
}
# 只有这些文件与 Ray 或 Optuna 打交道
NEED_RAY = {
    "cluster.py",
    "deaths.py",
    "gauges.py",
    "importance.py",
    "nodes.py",
    "optuna_view.py",
    "pruning.py",
    "run.py",
    "samplers.py",
    "searcher.py",
    "slot.py",
    "worker.py",
    "session.py",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_no_arrow_between_the_rooms_runs_back(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        assert not imported(path) & FORBIDDEN[room], path


def test_only_the_files_that_need_them_import_ray_or_optuna() -> None:
    users = {path.name for path in (ROOT / "orchestrator").rglob("*.py") if imported(path) & {"ray", "optuna"}}
    assert users == NEED_RAY


@pytest.mark.parametrize(
    "modules",
    [
        "alexnet_core",
        "search_spaces.study, search_spaces.trial, alexnet_core.datasets",
        "orchestrator.ablate, orchestrator.best, orchestrator.status, orchestrator.answer, orchestrator.report",
    ],
)
def test_planning_and_answering_load_no_torch_no_ray_no_matplotlib(modules: str) -> None:
    program = f"import {modules}, sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


HEAVY = ("torch", "ray", "optuna", "matplotlib", "sklearn", "scipy.stats")
