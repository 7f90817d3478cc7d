"""Finding a core by its name, and importing it: what goes wrong there is one line that says where."""

from __future__ import annotations

import importlib
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.script import script_core, script_of

# 随包带来的 core，短名即可
BUILT_IN = {
    "torchvision": "orchestrator.cores.classifiers.core",
    "ensemble": "orchestrator.cores.ensembles.core",
}
NOT_THE_USERS = ("__main__", "alexnet_core", "orchestrator", "search_spaces")
# 导入时文件的时间与大小
_STAMPS: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True)
class CoreName:
    """Where a core is.

    Attributes:
        module: Its module, such as `my_package.my_core`.
        attribute: Its name in that module; `core` where none is given.
        folder: Where the module's package, or its file, lies; None for a core that comes with the package.
        study: The study file that declares a script, which is the core then; None for a module.
    """

    module: str
    attribute: str | None = None
    folder: Path | None = None
    study: Path | None = None

    @property
    def text(self) -> str:
        """The name as a study file has it."""
        if self.study is not None:
            return str(self.study)
        return self.module if self.attribute is None else f"{self.module}:{self.attribute}"


def core_name(text: str, folder: Path | None = None) -> CoreName:
    """Parses `torchvision`, `my_package.my_core`, `my_package.my_core:small`, or a file: `my_core.py`, `my_study.yaml`.

    Args:
        text: The name.
        folder: Where its module or file is looked for first; the current folder where it is None.

    Raises:
        ContractError: It is no such name.
    """
    folder = folder or Path.cwd()
    if text.endswith((".yaml", ".yml")):
        path = (folder / text).resolve()
        return CoreName(path.stem, folder=path.parent, study=path)
    module, _, attribute = text.partition(":")
    module = BUILT_IN.get(module, module)
    if module in BUILT_IN.values():
        # 不问就可以导入的，只能来自包里：研究旁边的同名文件不算
        return CoreName(module, attribute or None)
    if module.endswith(".py"):
        path = (folder / module).resolve()
        folder, module = path.parent, path.stem
    parts = [*module.split("."), *([attribute] if attribute else [])]
    if not all(part.isidentifier() for part in parts):
        raise ContractError(
            f"{text!r} is no core's name: give a module such as my_package.my_core, one of several cores in it as "
            "my_package.my_core:small, or a file such as my_core.py or my_study.yaml"
        )
    return CoreName(module, attribute or None, folder)


def is_called(given: str, name: CoreName, *, anywhere: bool = False) -> bool:
    """Says whether a text that a user gives is the module of a core, or its file: `walk`, `walk.py`, `here/walk.py`.

    Args:
        given: The text.
        name: Where the core is.
        anywhere: Whether the module may lie elsewhere, as for kept code, which was copied from there.
    """
    try:
        other = core_name(given, None if anywhere else name.folder)
    except ContractError:
        return False
    is_same = (other.module, other.attribute) == (name.module, name.attribute)
    return is_same and other.study is None and (anywhere or other.folder == name.folder)


def load_core(name: CoreName) -> Core:
    """Imports a core, or makes one of the script that a study file declares.

    Args:
        name: Where it is.

    Raises:
        ContractError: It cannot be imported, is not there, or breaks the contract.
    """
    if name.study is not None:
        return script_core(script_of(name.study), name.study.parent)
    if name.folder is not None:
        _forget_edited(name.folder)
        _forget_elsewhere(name.folder)
        # 当前目录里可能有同名而更新的文件：先找指定的目录
        sys.path[:] = [str(name.folder), *(entry for entry in sys.path if entry != str(name.folder))]
    try:
        # 标准输出是我们的答案（--json），不是 core 说话的地方
        with redirect_stdout(sys.stderr):
            module = importlib.import_module(name.module)
    except ContractError as error:
        raise ContractError(f"core {name.text}: {error}") from error
    except (Exception, SystemExit) as error:
        line = f"core {name.text} cannot be imported: {mistake(error)}{_on_package(error, name)}"
        raise ContractError(line) from error
    _check_place(module, name)
    if name.folder is not None:
        # 导入之后就记下：下次再看时已经改过的，才认得出
        _STAMPS.update((file, stamp) for _, file, stamp in _modules_of(name.folder) if file not in _STAMPS)
    return _core_in(module, name)


def _on_package(error: BaseException, name: CoreName) -> str:
    """What to say of a file in a package that was named alone, so that nothing is beside it for a relative import."""
    if not isinstance(error, ImportError) or "relative import" not in str(error) or name.folder is None:
        return ""
    folder, module = name.folder, name.module
    while (folder / "__init__.py").is_file():
        folder, module = folder.parent, f"{folder.name}.{module}"
    return f"; it is part of a package: name it {module}, from {folder}" if folder != name.folder else ""


def _forget_edited(folder: Path) -> None:
    """Has modules of a folder imported again that were edited since: in a notebook one process plans many studies."""
    known = list(_modules_of(folder))
    if any(_STAMPS.get(file, stamp) != stamp for _, file, stamp in known):
        # 别的模块里还有它旧的名字：同一个文件夹的都重新导入
        _forget({name: file for name, file, _ in known})


def _forget_elsewhere(folder: Path) -> None:
    """Has what lies in a folder imported from there, where the core of another folder has brought the same names."""
    # 主程序的文件可以就是一个 core 的：它在运行，不能忘
    cores = {
        name: file
        for name, module in list(sys.modules.items())
        if name.split(".")[0] not in NOT_THE_USERS and (file := getattr(module, "__file__", None)) in _STAMPS
    }
    if any(_is_elsewhere(name.split(".")[0], file, folder) for name, file in cores.items()):
        # 全部忘掉：留下的一半会混着两个文件夹的代码
        _forget(cores)


def _forget(modules: Mapping[str, str]) -> None:
    """Has modules imported again when they are asked for next; they are given as names with their files."""
    for name, file in modules.items():
        _STAMPS.pop(file, None)
        del sys.modules[name]
    importlib.invalidate_caches()


def _is_elsewhere(top: str, file: str, folder: Path) -> bool:
    """Whether a folder has a top-level module of a name, and a file of that name is not of it."""
    package, module = folder / top, folder / f"{top}.py"
    is_of_it = Path(file) == module or Path(file).is_relative_to(package)
    return not is_of_it and (module.is_file() or package.is_dir())


def _modules_of(folder: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Name, file, and time and size of that, of each module of the user's that lies in a folder and is imported."""
    installed = installed_folders()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name.split(".")[0] in NOT_THE_USERS or not Path(file).is_relative_to(folder):
            continue
        # 虚拟环境常在同一个文件夹里：装好的库不重新导入
        if Path(file).is_file() and installed.isdisjoint(Path(file).parents):
            status = Path(file).stat()
            yield name, file, (status.st_mtime_ns, status.st_size)


def installed_folders() -> set[Path]:
    """Returns where Python and packages are installed: what lies there is nobody's own source."""
    named = (sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    folders = {Path(folder) for folder in (*named, *site.getsitepackages(), site.getusersitepackages())}
    return folders | {folder.resolve() for folder in folders}


def _check_place(module: Any, name: CoreName) -> None:
    """Refuses a module of the same name from elsewhere, which this process has imported before."""
    file = getattr(module, "__file__", None)
    here = name.folder is not None and (name.folder / Path(*name.module.split("."))).with_suffix(".py").is_file()
    if here and file is not None and name.folder is not None and not Path(file).resolve().is_relative_to(name.folder):
        raise ContractError(f"core {name.text}: this process has {name.module} of {file} already; call yours otherwise")


def _core_in(module: Any, name: CoreName) -> Core:
    """The core that a module holds, or is."""
    core = getattr(module, name.attribute or "core", None)
    if isinstance(core, Core):
        return core
    if name.attribute is not None:
        raise ContractError(f"core {name.text}: {name.module} has no Core called {name.attribute}")
    given = {field.name: getattr(module, field.name) for field in fields(Core) if hasattr(module, field.name)}
    lacking = [field for field in ("name", "version", "config", "train", "metrics") if field not in given]
    if lacking:
        raise ContractError(
            f"core {name.text}: the module has no `core = Core(...)`, and is none itself, since it lacks "
            f"{', '.join(lacking)}"
        )
    try:
        return Core(**given)
    except ContractError as error:
        raise ContractError(f"core {name.text}: {error}") from error
    except TypeError as error:
        raise ContractError(f"core {name.text}: {str(error).removeprefix('Core.__init__() ')}") from error


def mistake(error: BaseException) -> str:
    """Returns an exception in one line, with the place in the code that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{what} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else what


def _is_ours(filename: str) -> bool:
    return filename.startswith("<frozen") or Path(filename).parent == Path(__file__).parent
