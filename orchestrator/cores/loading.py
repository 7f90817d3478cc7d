"""Finding a core by its name, and importing it: what goes wrong there is one line that says where."""

from __future__ import annotations

import importlib
import sys
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.script import script_core, script_of

# 随包带来的 core，短名即可
BUILT_IN = {"torchvision": "orchestrator.cores.classifiers.core"}
# 文件第一次被看到时的时间与大小
_STAMPS: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True)
class CoreName:
    """Where a core is.

    Attributes:
        module: Its module, such as `my_package.my_core`.
        attribute: Its name in that module; `core` where none is given.
        folder: Where the module's package, or its file, lies; None to look along Python's path.
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
        # 当前目录里可能有同名而更新的文件：先找指定的目录
        sys.path[:] = [str(name.folder), *(entry for entry in sys.path if entry != str(name.folder))]
    try:
        module = importlib.import_module(name.module)
    except ContractError as error:
        raise ContractError(f"core {name.text}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ContractError(f"core {name.text} cannot be imported: {mistake(error)}") from error
    _check_place(module, name)
    return _core_in(module, name)


def _forget_edited(folder: Path) -> None:
    """Has modules of a folder imported again that were edited since: in a notebook one process plans many studies."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_relative_to(folder) or not Path(file).is_file():
            continue
        status = Path(file).stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if _STAMPS.setdefault(file, stamp) != stamp:
            del _STAMPS[file], sys.modules[name]
            importlib.invalidate_caches()


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
