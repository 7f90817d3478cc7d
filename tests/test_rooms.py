"""The rooms are kept: who may import whom, where a library may be named, and that nothing runs in a circle.

A room is a folder of a package, or a file at its top. The tables below are the map; CONTRIBUTING.md draws it.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("alexnet_core", "search_spaces", "orchestrator")
COMMANDS = ("ablate", "best", "check_core", "merge", "publish", "report", "status")
MOST_FILES = 13  # a dozen, and `__init__.py`

# 每个房间可以引用的房间；没写的一律不许。core 是 alexnet_core，不带包名的是同一个包的
MAY_IMPORT = {
    "alexnet_core": "configuration data model process trained training",
    "alexnet_core.errors": "",
    "alexnet_core.process": "",
    "alexnet_core.configuration": "",
    "alexnet_core.data": "configuration errors process",
    "alexnet_core.model": "configuration errors process",
    "alexnet_core.training": "configuration data errors model process",
    "alexnet_core.trained": "configuration data errors model process training",
    "alexnet_core.commands": "core configuration data errors model process trained training",
    "alexnet_core.__main__": "commands configuration errors process",
    "search_spaces": "core core.configuration core.data core.errors core.process",
    "orchestrator": "core asking cores errors tables",
    "orchestrator.errors": "",
    "orchestrator.choices": "",
    "orchestrator.cores": "core.configuration core.data core.errors core.process core.trained search_spaces",
    "orchestrator.statistics": "",
    "orchestrator.output": "core.configuration core.process errors",
    "orchestrator.command": "core.errors core.process errors output search_spaces",
    "orchestrator.request": "choices errors search_spaces statistics",
    "orchestrator.options": "core.process choices command errors output request search_spaces",
    "orchestrator.records": "core core.configuration core.data core.process core.trained errors search_spaces",
    "orchestrator.tables": "core.configuration errors records search_spaces",
    "orchestrator.planning": "core.configuration core.data core.errors core.training choices cores errors records "
    "request search_spaces statistics tables",
    "orchestrator.sweeps": "core.configuration choices errors planning records request search_spaces statistics tables",
    "orchestrator.judging": "core.configuration choices errors planning records request search_spaces statistics "
    "sweeps tables",
    "orchestrator.reporting": "core.configuration core.data core.errors core.process core.trained choices errors "
    "judging output planning records request search_spaces statistics sweeps tables",
    "orchestrator.replication": "core.configuration errors judging output planning records reporting statistics tables",
    "orchestrator.running": "core core.configuration core.data core.errors core.process core.trained core.training "
    "choices cores errors judging output planning records request search_spaces sweeps tables",
    "orchestrator.asking": "core.configuration core.data core.errors core.process choices command cores errors judging "
    "options output planning records replication reporting request running search_spaces statistics sweeps tables",
}
# 命令可以引用任何房间，但谁也不引用命令
ANY_ROOM = {f"orchestrator.{name}" for name in COMMANDS}

# 库只许在这些房间（或文件）里出现
LIBRARIES = {
    "argparse": "alexnet_core.__main__ alexnet_core.commands alexnet_core.process orchestrator.command "
    "orchestrator.options " + " ".join(sorted(ANY_ROOM)),
    "jinja2": "orchestrator.reporting",
    # 核心只有这一个文件画图表：论文图 4 左的条形
    "matplotlib": "orchestrator.reporting alexnet_core.process.plotting alexnet_core.trained.prediction_bars",
    "optuna": "orchestrator.sweeps orchestrator.judging.parameter_importance",
    "polars": "orchestrator.tables orchestrator.planning orchestrator.judging "
    "orchestrator.replication orchestrator.reporting "
    "orchestrator.asking.answers orchestrator.best orchestrator.check_core",
    "ray": "orchestrator.running orchestrator.sweeps.searcher orchestrator.sweeps.pruning",
    "rich": "alexnet_core.commands orchestrator.asking orchestrator.output "
    "orchestrator.replication orchestrator.reporting orchestrator.running " + " ".join(sorted(ANY_ROOM)),
    "scipy": "orchestrator.statistics",
    "torch": "alexnet_core.model alexnet_core.training alexnet_core.trained alexnet_core.commands "
    "orchestrator.cores orchestrator.running.slots orchestrator.running.workers",
}


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, Path]:
    return {module_of(path, root): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Names of the modules a file imports, wherever in it: of ours in full, of libraries the first name."""
    for module, member in imports(path.read_text()):
        # `from room import file` 引用的是文件
        name = full if member and (full := f"{module}.{member}") in known else module
        yield name if name in known else name.split(".")[0]


@lru_cache(maxsize=1024)
def imports(text: str) -> tuple[tuple[str, str], ...]:
    """(module, what is taken from it) of each import in a file; read once, though many copies of it are looked at."""
    names: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [(node.module, alias.name) for alias in node.names]
    return tuple(names)


def room_of(module: str) -> str:
    return "search_spaces" if module.startswith("search_spaces") else ".".join(module.split(".")[:2])


def arrows(root: Path) -> dict[str, set[str]]:
    """Which modules of ours each module imports."""
    known = modules(root)
    return {name: {other for other in imported(path, known) if other in known} for name, path in known.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    finished: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return trail[trail.index(name) :]
        if name in finished:
            return []
        for other in sorted(graph.get(name, ())):
            if other != name and (around := walk(other, [*trail, name])):
                return around
        finished.add(name)
        return []

    for start in sorted(graph):
        if around := walk(start, []):
            return around
    return []


def allowed(room: str) -> set[str]:
    package = room.split(".")[0]
    names = [re.sub(r"^core\b", "alexnet_core", name) for name in MAY_IMPORT[room].split()]
    return {name if name.split(".")[0] in PACKAGES else f"{package}.{name}" for name in names}


def trespasses(root: Path) -> list[str]:
    """What breaks the tables, one line each."""
    lines = []
    between: dict[str, set[str]] = {}
    graph = arrows(root)
    for module, others in graph.items():
        room = room_of(module)
        between.setdefault(room, set()).update(room_of(other) for other in others)
        for other in sorted(others):
            target = room_of(other)
            if target == room:
                continue
            if target in ANY_ROOM:
                lines.append(f"{module} imports the command {other}")
            elif room not in ANY_ROOM and target not in allowed(room):
                lines.append(f"{module} imports {other}: {room} may not import {target}")
    known = modules(root)
    for module, path in known.items():
        for library in set(imported(path, known)) & LIBRARIES.keys():
            homes = LIBRARIES[library].split()
            if not any(module == home or module.startswith(f"{home}.") for home in homes):
                lines.append(f"{module} imports {library}, which is for {', '.join(homes)}")
    # 包的 __init__ 只是门面，不算房间之间的箭头
    for package in PACKAGES:
        between.pop(package if package != "search_spaces" else "", None)
    if around := circle(between):
        lines.append(f"a circle of rooms: {' -> '.join(around)}")
    if around := circle({name: others - set(PACKAGES) for name, others in graph.items()}):
        lines.append(f"a circle of files: {' -> '.join(around)}")
    return lines


def test_every_room_imports_what_its_line_allows_and_nothing_runs_in_a_circle() -> None:
    assert trespasses(ROOT) == []


def test_every_room_has_a_line_and_no_line_is_of_a_room_that_is_gone() -> None:
    rooms = {room_of(name) for name in modules(ROOT)}
    assert rooms == MAY_IMPORT.keys() | ANY_ROOM


def test_a_room_is_a_dozen_files_and_says_what_it_is_for() -> None:
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize(
    ("planted", "line", "complaint"),
    [
        (
            "orchestrator/statistics/paired.py",
            "import orchestrator.records.files",
            "may not import orchestrator.records",
        ),
        (
            "orchestrator/planning/plan.py",
            "from orchestrator.running import budget",
            "may not import orchestrator.running",
        ),
        (
            "search_spaces/study.py",
            "from orchestrator import errors",
            "search_spaces may not import orchestrator.errors",
        ),
        ("alexnet_core/data/moments.py", "def late():\n    import torch", "imports torch, which is for"),
        ("orchestrator/records/layout.py", "import polars as pl", "imports polars, which is for"),
        (
            "orchestrator/judging/judge.py",
            "from orchestrator.ablate import main",
            "imports the command orchestrator.ablate",
        ),
        ("orchestrator/best.py", "from orchestrator import merge", "imports the command orchestrator.merge"),
        ("orchestrator/planning/plan.py", "from orchestrator.planning import plan_file", "a circle of files"),
    ],
)
def test_a_planted_trespass_is_named(tmp_path: Path, planted: str, line: str, complaint: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / planted).open("a") as file:
        file.write(f"\n{line}\n")
    assert any(complaint in trespass for trespass in trespasses(tmp_path))


def test_a_circle_of_rooms_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def reduced(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows of a graph without those that follow from two others."""

    def reach(start: set[str]) -> set[str]:
        seen: set[str] = set()
        while start:
            seen |= start
            start = {other for name in start for other in graph.get(name, ())} - seen
        return seen

    return {(name, other) for name, others in graph.items() for other in others if other not in reach(others - {other})}


# 图上的名字；门面和两个一行的文件不画
DRAWN = {"alexnet_core.__main__": "core", "alexnet_core.commands": "core_commands"}
NOT_DRAWN = {"alexnet_core", "orchestrator", "orchestrator.errors", "alexnet_core.errors", "orchestrator.choices"}


def test_the_drawing_in_contributing_is_what_the_code_imports() -> None:
    def drawn(room: str) -> str:
        return "commands" if room in ANY_ROOM else DRAWN.get(room, room.split(".")[-1])

    graph: dict[str, set[str]] = {}
    for module, others in arrows(ROOT).items():
        room = room_of(module)
        if room not in NOT_DRAWN:
            targets = {drawn(room_of(other)) for other in others if room_of(other) not in NOT_DRAWN}
            graph.setdefault(drawn(room), set()).update(targets - {drawn(room)})
    text = (ROOT / "CONTRIBUTING.md").read_text()
    picture = text[text.index("```mermaid") : text.index("```\n", text.index("```mermaid"))]
    assert set(re.findall(r"^    (\w+)(?:\[.*?\])? --> (\w+)", picture, re.MULTILINE)) == reduced(graph)


def test_options_stay_at_the_door() -> None:
    """Past the commands and `options.py` there is no `Namespace`: what the user asked travels as a typed request."""
    named = {
        module
        for module, path in modules(ROOT).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if "Namespace" in (getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "name", ""))
    }
    door = ANY_ROOM | {"orchestrator.options"}
    assert {module for module in named if not module.startswith("alexnet_core.commands.")} <= door
    assert "orchestrator.ablate" in named


def test_every_file_that_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.findall(r"`([\w/.-]+(?:\.py|\.yaml|\.md|/))`", text)
    files = [
        path
        for package in (*PACKAGES, "tests")
        for path in (ROOT / package).rglob("*")
        if "__pycache__" not in str(path)
    ]
    known = {f"/{path.relative_to(ROOT)}" + "/" * path.is_dir() for path in [*files, *ROOT.iterdir()]}
    assert len(names) > 30
    for name in names:
        assert any(path.endswith(f"/{name}") for path in known), name


HEAVY = ("torch", "ray", "optuna", "matplotlib", "sklearn", "scipy.stats")


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        "alexnet_core",
        "search_spaces.study, search_spaces.trial, alexnet_core.data.loading",
        "orchestrator.ablate, orchestrator.best, orchestrator.status, orchestrator.judging.judge, orchestrator.report",
        "orchestrator.merge, orchestrator.publish",
        "orchestrator.options, orchestrator.request",
    ],
)
def test_planning_and_answering_load_no_torch_no_ray_no_matplotlib(names: str) -> None:
    program = f"import {names}, sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
