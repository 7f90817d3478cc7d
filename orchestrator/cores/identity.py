"""Code identity: trials of one name and version were trained by one code, or by codes that gave the same numbers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from alexnet_core.process.files import replaced
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.loading import BUILT_IN, CoreName, is_called, load_core
from orchestrator.cores.script import script_core
from orchestrator.cores.sources import (
    CODE,
    Sources,
    declared_names,
    keep_sources,
    kept_sources,
    module_file,
    script_sources,
    sources_of,
)
from search_spaces.core_config import ALEXNET_NAME, FINGERPRINT, CoreDescription, MetricDescription
from search_spaces.script import Script


@dataclass(frozen=True)
class CoreCode:
    """The code of a core: where it is, and what it is.

    Attributes:
        name: Where it is imported from, or which study file declares it.
        sources: Its own files; None for a core that comes with the package.
        script: What the study file declares, of a script.
    """

    name: CoreName
    sources: Sources | None
    script: Script | None = None

    @property
    def fingerprint(self) -> str:
        """Of its files; empty for a core that comes with the package, whose version says it."""
        return "" if self.sources is None else self.sources.fingerprint

    def keep(self, results: Path, core: str) -> str:
        """Copies its files beside the results; returns what a worker loads it by (`KeptCode`), as JSON.

        Args:
            results: The results folder.
            core: The core's name.

        Raises:
            ContractError: What lies there is not what its name says.
        """
        folder = None if self.sources is None else keep_sources(self.sources, results).resolve()
        kept = KeptCode(
            fingerprint=self.fingerprint,
            folder=folder,
            module=self.name.module,
            attribute=self.name.attribute,
            script=self.script,
        )
        if folder is not None:
            kept.describe(results, core)
        return kept.model_dump_json()


class KeptCode(BaseModel):
    """What a worker needs to load a core.

    Attributes:
        fingerprint: Of its files.
        folder: Where their copy lies; None for a core that comes with the package.
        module: The module.
        attribute: Its name in that module.
        script: The declaration, of a script.
    """

    fingerprint: str
    folder: Path | None
    module: str
    attribute: str | None = None
    script: Script | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of a script, which is part of its code; empty for a module."""
        return () if self.script is None else self.script.command

    def describe(self, results: Path, core: str) -> None:
        """Writes beside the kept copy how a core of it is loaded."""
        with replaced(description_path(results, self.fingerprint, core)) as temporary:
            # 结果文件夹可以搬走：路径不写进去
            temporary.write_text(self.model_copy(update={"folder": None}).model_dump_json(indent=1))

    def is_named(self, given: str, core: str) -> bool:
        """Says whether a text that a user gives calls a core of this code: by its name, or by its module."""
        name = CoreName(self.module, self.attribute)
        return given == core or (self.script is None and is_called(given, name, anywhere=True))


def kept_code(results: Path, fingerprint: str | None, core: str) -> KeptCode | None:
    """Returns what the code of a trial on record is loaded by; None where it is not kept there, or was edited since.

    Args:
        results: The results folder.
        fingerprint: As the record has it; None for a core that comes with the package.
        core: The core's name.
    """
    if not fingerprint or not FINGERPRINT.fullmatch(fingerprint):
        return None
    folder = results / CODE / fingerprint
    try:
        kept = KeptCode.model_validate_json(description_path(results, fingerprint, core).read_bytes())
    except (OSError, ValidationError):
        return None
    # 名字谁都可以写：里面的内容要与它相符，才是跑过的那一份
    if not folder.is_dir() or kept_sources(folder, kept.command).fingerprint != fingerprint:
        return None
    return kept.model_copy(update={"folder": folder.resolve()})


def description_path(results: Path, fingerprint: str, core: str) -> Path:
    """Returns where it is written how a core of kept code is loaded."""
    # 一份代码里可以有几个 core
    return results / CODE / f"{fingerprint}.{core}.json"


def load_kept(code: KeptCode) -> Core:
    """Loads a core from the kept copy of its files.

    Raises:
        ContractError: It cannot be imported, or breaks the contract.
    """
    if code.script is not None:
        assert code.folder is not None
        return script_core(code.script, code.folder)
    return load_core(CoreName(code.module, code.attribute, code.folder))


def load_core_of(code: CoreCode) -> Core:
    """Loads a core from where it lies now; raises ContractError."""
    if code.script is None:
        return load_core(code.name)
    assert code.name.folder is not None
    return script_core(code.script, code.name.folder)


def code_of(name: CoreName, script: Script | None = None) -> CoreCode:
    """Finds the files of a core; nothing is imported.

    Args:
        name: Where it is.
        script: What the study file declares, of a script.

    Raises:
        ContractError: There is no such module, or a file of the script is missing.
    """
    if script is not None:
        assert name.folder is not None
        return CoreCode(name, script_sources(script, name.folder), script)
    return CoreCode(name, None if name.module in BUILT_IN.values() else sources_of(name))


def check_is_there(name: CoreName, script: Script | None) -> None:
    """Refuses a core that lacks its module or a file of its script; nothing is imported.

    Args:
        name: Where it is.
        script: What the study file declares, of a script.

    Raises:
        ContractError: With what is missing.
    """
    if script is not None:
        assert name.folder is not None
        script_sources(script, name.folder)
    elif name.module not in BUILT_IN.values():
        module_file(name)


def is_named(given: str, name: CoreName, script: Script | None) -> bool:
    """Says whether a text that a user gives calls a core: by its module or file, or by the name that it declares.

    Args:
        given: The text.
        name: Where the core is.
        script: What the study file declares, of a script.
    """
    if script is not None:
        return given == script.name
    return is_called(given, name) or (name.module not in BUILT_IN.values() and given in declared_names(name))


def description_of_core(core: Core) -> CoreDescription:
    """Returns what a core declares, as data that travels with its records."""
    return CoreDescription(
        name=core.name,
        version=core.version,
        metrics={name: MetricDescription(**asdict(metric)) for name, metric in core.metrics.items()},
        chosen_by=core.chosen_by,
        judged_by=core.judged_by,
        gpus=core.gpus,
        deterministic=core.deterministic,
        has_sizes=core.sizes is not None,
        added_later=dict(core.added_later),
        randomness=tuple(core.randomness),
    )


class _Accepted(BaseModel):
    """`code/<name>-<version>.json`: the codes that this version's trials may have been trained with."""

    fingerprints: tuple[str, ...] = ()


def check_identity(
    results: Path, core: CoreDescription, code: CoreCode, on_record: Collection[str], shown: str
) -> None:
    """Refuses code that is not what a version's trials on record were trained with.

    Args:
        results: The results folder.
        core: Name and version.
        code: The code as it is now.
        on_record: Fingerprints that those trials name.
        shown: How the user calls the core.

    Raises:
        ContractError: With what to do.
    """
    if not code.fingerprint:
        return
    if core.name in (ALEXNET_NAME, *BUILT_IN):
        raise ContractError(
            f"{core.name} is a core of this package, whose records are known by that name: rename yours"
        )
    accepted = accepted_fingerprints(results, core)
    others = [one for one in (*accepted, *on_record) if one and one != code.fingerprint]
    is_known = code.fingerprint in accepted and not set(on_record) - {*accepted, ""}
    if not others or is_known:
        return
    kept = results / CODE / others[-1]
    where = f", kept in {kept}" if kept.is_dir() else ""
    raise ContractError(
        f"the code of core {core.name} is not what its trials of version {core.version} on record were trained with"
        f"{where}: raise its version to train anew, or see whether the numbers are the same with "
        f"python -m orchestrator.check_core {shlex.quote(shown)} --same-numbers --results {shlex.quote(str(results))}"
    )


def accepted_fingerprints(results: Path, core: CoreDescription) -> tuple[str, ...]:
    """Returns the codes that a version's trials may have been trained with; a damaged file says nothing."""
    try:
        return _Accepted.model_validate_json(_file(results, core).read_bytes()).fingerprints
    except (OSError, ValidationError):
        return ()


def accept(results: Path, core: CoreDescription, fingerprints: Collection[str]) -> None:
    """Notes codes of a version, beside those that are noted already: before its first result is written."""
    known = accepted_fingerprints(results, core)
    fresh = [one for one in dict.fromkeys(fingerprints) if one and one not in known]
    if fresh:
        path = _file(results, core)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            temporary.write_text(json.dumps({"fingerprints": [*known, *fresh]}, indent=1))


def _file(results: Path, core: CoreDescription) -> Path:
    return results / CODE / f"{core.name}-{core.version}.json"
