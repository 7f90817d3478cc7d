"""The sources of a core: found without importing them, named by a fingerprint, and kept beside the results.

Workers import from the kept copy, so that an edit during a study changes nothing in it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path

from alexnet_core.data.image_tree import MOST_SHOWN, some
from alexnet_core.process.files import is_utf8, temporary_path
from orchestrator.cores.contract import ContractError
from orchestrator.cores.loading import CoreName, installed_folders
from orchestrator.cores.script import matching
from search_spaces.script import Script

FINGERPRINT_LENGTH = 20  # see search_spaces.core_config.FINGERPRINT
CODE = "code"
# 词表、配置有几 MB；更大更多的是数据
LARGEST_OTHER = 5 * 10**6
MOST_OTHERS = 200


@dataclass(frozen=True)
class Sources:
    """The files that make a core what it is: its Python, and what else lies in its packages.

    Attributes:
        root: The folder from which they are imported.
        files: Their paths below it, sorted.
        command: Of a script: how its study file has it run.
        remarks: What is not taken along, though it may be read; a line each.
    """

    root: Path
    files: tuple[Path, ...]
    command: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """20 hex digits of the SHA-256 of all names and contents, and of a script's command line."""
        # 命令行也是代码：改了参数，同样的文件给别的数
        digest = hashlib.sha256(json.dumps(self.command).encode() if self.command else b"")
        for file in self.files:
            content = hashlib.sha256((self.root / file).read_bytes()).hexdigest()
            digest.update(f"{file.as_posix()}\n{content}\n".encode())
        return digest.hexdigest()[:FINGERPRINT_LENGTH]


def sources_of(name: CoreName) -> Sources:
    """Returns a core's own sources: its module or the whole package, and what these import from beside it.

    Nothing is imported. Packages that are installed (not beside the core) are not followed.

    Raises:
        ContractError: There is no such module.
    """
    root = _root(name)
    files: set[Path] = set()
    left_out: set[Path] = set()
    waiting = list(_beside(root, name.module.split(".")[0], left_out))
    # 装在 site-packages 里的包，旁边是别人的包，不算它的代码
    alone = root in installed_folders()
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files.add(path)
        if not alone and path.suffix == ".py":
            waiting += [other for module in _imports(path) for other in _beside(root, module, left_out)]
    remarks = (*_on_left_out(root, sorted(left_out)), *_on_lone_modules(root, sorted(files)))
    return Sources(root, tuple(sorted(path.relative_to(root) for path in files)), remarks=remarks)


def declared_names(name: CoreName) -> set[str]:
    """Returns what a module calls the cores in it, as far as its text says so; nothing is imported.

    Raises:
        ContractError: There is no such module.
    """
    tree = _parsed(module_file(name))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _last_name(node.func) == "Core"]
    given = [word.value for call in calls for word in call.keywords if word.arg == "name"]
    given += [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(_last_name(target) == "name" for target in node.targets)
    ]
    return {value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def _last_name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def module_file(name: CoreName) -> Path:
    """Returns the file of a core's module; nothing is imported.

    Raises:
        ContractError: There is none.
    """
    root = _root(name)
    place = root.joinpath(*name.module.split("."))
    for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if path.is_file():
            return path
    raise ContractError(f"core {name.text}: there is no module {name.module} in {root}")


def _root(name: CoreName) -> Path:
    """The folder from which a core's top-level module is imported."""
    top = name.module.split(".")[0]
    folders = [*([str(name.folder)] if name.folder is not None else []), *sys.path]
    spec = PathFinder.find_spec(top, folders)
    if spec is None:
        raise ContractError(
            f"core {name.text}: there is no module {top} in {name.folder or 'the current folder'} or among the "
            "installed packages"
        )
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    if spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin).resolve().parent
    raise ContractError(f"core {name.text}: {top} is no Python source, so that its version cannot be kept")


def _beside(root: Path, module: str, left_out: set[Path]) -> Iterator[Path]:
    """The files of a top-level module that lies in a folder; what of a package is not taken goes into `left_out`."""
    if (root / module).is_dir():
        code = sorted((root / module).rglob("*.py"))
        yield from code
        others = _other_files(root / module)
        taken = [path for path in others if _is_small(path)]
        if len(taken) > MOST_OTHERS:
            # 一大堆小文件是数据：只要与代码放在一起的
            folders = {path.parent for path in code}
            taken = [path for path in taken if path.parent in folders]
        taken = taken if len(taken) <= MOST_OTHERS else []
        left_out |= set(others).difference(taken)
        yield from taken
    elif (root / f"{module}.py").is_file():
        yield root / f"{module}.py"


def _other_files(package: Path) -> list[Path]:
    """What lies in a package beside Python: vocabularies, tables, configurations; not what running it leaves there."""
    found: list[Path] = []
    for folder, folders, names in os.walk(package):
        # 结果文件夹也许就在包里：它每次都变
        is_left_by_runs = {"trials", "studies"} <= set(folders)
        folders[:] = [] if is_left_by_runs else [one for one in folders if one[0] != "." and one != "__pycache__"]
        kept = (name for name in names if name[0] != "." and not name.endswith((".py", ".pyc")) and is_utf8(name))
        found += [] if is_left_by_runs else [Path(folder, name) for name in kept]
    return sorted(path for path in found if path.is_file() and not _is_study(path))


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= LARGEST_OTHER and os.access(path, os.R_OK)


def _is_study(path: Path) -> bool:
    """Whether a file is a question about the core rather than a part of it."""
    if path.suffix not in (".yaml", ".yml") or not _is_small(path):
        return False
    lines = path.read_bytes().splitlines()
    return all(any(line.startswith(word) for line in lines) for word in (b"arms:", b"recipes:"))


def _on_left_out(root: Path, left_out: Sequence[Path]) -> Iterator[str]:
    if left_out:
        names = [path.relative_to(root).as_posix() for path in left_out]
        yield (
            f"not taken along with the code, being data (over {LARGEST_OTHER // 10**6} MB, or of more than "
            f"{MOST_OTHERS} files): {some(names, MOST_SHOWN)}; read them from an absolute path or --data-root"
        )


def _on_lone_modules(root: Path, files: Sequence[Path]) -> Iterator[str]:
    alone = [path for path in files if path.parent == root and path.suffix == ".py"]
    reading = [path.name for path in alone if _asks_where_it_lies(path)]
    if reading:
        yield (
            f"{', '.join(reading)} asks for __file__: files beside a single module are not taken along with it; make a "
            "package (a folder) of them, or read them from an absolute path or --data-root"
        )


def _asks_where_it_lies(path: Path) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__file__" for node in ast.walk(_parsed(path)))


def _imports(path: Path) -> set[str]:
    """The top-level modules that a file imports anywhere in it; nothing of a file that is no Python."""
    names: set[str] = set()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def _parsed(path: Path) -> ast.Module:
    """What a file says; nothing where it is no Python."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # 别人的文件可以嵌套得很深，还没有人允许运行它
        return ast.Module([], [])


def script_sources(script: Script, folder: Path) -> Sources:
    """Returns the files that a script declares as its own.

    Args:
        script: As declared.
        folder: Of the study file; the files lie below it.

    Raises:
        ContractError: One of them is not there, or lies elsewhere.
    """
    files: set[Path] = set()
    for pattern in script.files:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ContractError(f"core.files: {pattern} is not below the folder of the study file")
        found = matching(folder, pattern)
        if not found:
            raise ContractError(f"core.files: there is no {pattern} in {folder}")
        files |= {path for path in found if "__pycache__" not in path.parts}
    return Sources(folder.resolve(), tuple(sorted(files)), script.command)


def kept_sources(folder: Path, command: tuple[str, ...] = ()) -> Sources:
    """Returns what lies in a kept copy, whatever its name says.

    Args:
        folder: The copy.
        command: Of a script.
    """
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return Sources(folder, tuple(sorted(file for file in files if "__pycache__" not in file.parts)), command)


def keep_sources(sources: Sources, results: Path) -> Path:
    """Copies sources to `code/<fingerprint>/` of a results folder, unless they lie there; returns that folder.

    Raises:
        ContractError: What lies there is not what its name says.
    """
    folder = results / CODE / sources.fingerprint
    if not folder.is_dir():
        temporary = temporary_path(folder)
        for file in sources.files:
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sources.root / file, temporary / file)
        try:
            # 先写在旁边再改名：谁看到这个文件夹，里面就是齐的
            temporary.rename(folder)
        except OSError:
            # 另一个命令刚好先放好了同样的
            shutil.rmtree(temporary)
            if not folder.is_dir():
                raise
    copy = replace(sources, root=folder)
    if not all((folder / file).is_file() for file in copy.files) or copy.fingerprint != sources.fingerprint:
        raise ContractError(f"{folder} was edited; move it away, and it is copied anew")
    return folder
