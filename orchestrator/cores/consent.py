"""Consent: a study file that names code runs nothing until its user has said once that it may.

What was said is remembered in the user's home, never in the results, which others may have written.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from alexnet_core.process.files import home_folder, replaced
from orchestrator.cores.contract import ContractError
from orchestrator.cores.loading import BUILT_IN, CoreName
from search_spaces.script import Script

FILE = Path("alexnet-ablation") / "cores.json"


class _Remembered(BaseModel):
    """`cores.json`: what may be run, each by what it is and where it lies."""

    cores: tuple[str, ...] = ()


def check_consent(name: CoreName, shown: str, script: Script | None, given: str | None) -> None:
    """Refuses to import or run what the user has not named; remembers what they name.

    Args:
        name: Where the core is.
        shown: How the study calls it: the name to be given.
        script: What the study file declares, of a script: each command line is another one.
        given: `--core`; None where it was left out.

    Raises:
        ContractError: It was never named, or another core is.
    """
    if given is not None and given != shown:
        raise ContractError(f"--core {given}: the study's core is {shown}")
    if name.module in BUILT_IN.values() and script is None:
        return
    known, identity = _remembered(), _identity(name, script)
    if identity in known:
        return
    if given is None:
        what = f"runs {' '.join(script.command)}" if script is not None else f"imports {name.text} of {name.folder}"
        raise ContractError(
            f"this study {what}, which is code that it names and you have not run from here yet; "
            f"if you trust it, say so once: --core {shown}"
        )
    _remember((*known, identity))


def allow_code(fingerprint: str) -> None:
    """Remembers the code of a core that the user runs, so that its trials on record may be repeated."""
    known = _remembered()
    if fingerprint and fingerprint not in known:
        _remember((*known, fingerprint))


def check_kept_code(fingerprint: str, core: str, given: str | None) -> None:
    """Refuses to run code that lies in a results folder, which others may have written, until the user names its core.

    Args:
        fingerprint: Of the code.
        core: The name of its core.
        given: What the user names; None where nothing is named.

    Raises:
        ContractError: It was never run from here, or another core is named.
    """
    if given is not None and given != core:
        raise ContractError(f"{given}: the trial's core is {core}")
    if given is None and fingerprint and fingerprint not in _remembered():
        raise ContractError(
            f"the code of core {core} lies in this results folder, and you have not run it from here yet; if you trust "
            f"it, name the core: python -m orchestrator.check_core {core} --trial FOLDER"
        )


def _identity(name: CoreName, script: Script | None) -> str:
    place = f"{name.folder}\n{name.text}"
    # 信过一条命令，不等于信同名的另一条
    command = "" if script is None else f"\n{json.dumps(script.command)}"
    return hashlib.sha256(f"{place}{command}".encode()).hexdigest()


def _path() -> Path | None:
    """Where it is remembered; None where there is no home, so that it is asked each time."""
    base, home = Path(os.environ.get("XDG_CONFIG_HOME", "")), home_folder()
    if base.is_absolute():
        return base / FILE
    return None if home is None else home / ".config" / FILE


def _remembered() -> tuple[str, ...]:
    path = _path()
    if path is None:
        return ()
    try:
        return _Remembered.model_validate_json(path.read_bytes()).cores
    except (OSError, ValidationError):
        return ()


def _remember(cores: tuple[str, ...]) -> None:
    path = _path()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            temporary.write_text(_Remembered(cores=cores).model_dump_json(indent=1))
    except OSError:
        # 家目录不可写：这一次照办，下一次再问
        return
