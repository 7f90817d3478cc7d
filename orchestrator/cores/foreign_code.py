"""Code of cores that another machine has kept: brought along with the trials it trained, by hash, and never run here.

What a hash does not cover (which module is the core) may name nothing but what lies in the kept folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.cores.identity import KeptCode, accept, accepted_fingerprints, description_path
from orchestrator.cores.sources import CODE, keep_sources, kept_sources
from search_spaces.core_config import FINGERPRINT, CoreDescription

# 代码都很小；大得多的不是代码
LARGEST_CODE = 64 * 1024**2


class RefusedCode(Exception):
    """Code that is not taken; the message says why, in a few words."""


@dataclass(frozen=True)
class ForeignCode:
    """Kept code of another results folder that passed every check.

    Attributes:
        fingerprint: Of its files.
        core: The core's name.
        folder: Where it lies there.
        description: What a worker loads it by, without the folder.
    """

    fingerprint: str
    core: str
    folder: Path
    description: KeptCode

    def is_here(self, results: Path) -> bool:
        """Whether the same code, loaded the same way, is kept in a results folder.

        Raises:
            RefusedCode: Something else lies there under its name.
        """
        folder = results / CODE / self.fingerprint
        path = description_path(results, self.fingerprint, self.core)
        if folder.exists() and kept_sources(folder, self.description.command).fingerprint != self.fingerprint:
            raise RefusedCode(f"{folder} was edited here; the own stays")
        if path.exists() and _described(path) != self.description:
            raise RefusedCode(f"{path} says otherwise how it is loaded; the own stays")
        return folder.exists() and path.exists()

    def take(self, results: Path) -> None:
        """Copies it, unless it is here; the description is written last.

        Raises:
            ContractError: Something else has come to lie there under its name.
        """
        keep_sources(kept_sources(self.folder, self.description.command), results)
        self.description.describe(results, self.core)


def check_code(other: Path, core: str, fingerprint: str) -> ForeignCode | None:
    """Checks kept code of another machine; None where it keeps none.

    Args:
        other: Its results folder.
        core: The core's name.
        fingerprint: As its records have it.

    Raises:
        RefusedCode: Its files are not those of the fingerprint, or its description names what is not among them.
    """
    folder, path = other / CODE / fingerprint, description_path(other, fingerprint, core)
    if not FINGERPRINT.fullmatch(fingerprint) or not (folder.is_dir() and path.is_file()):
        return None
    # 先看有没有链接，再读内容
    if path.is_symlink() or any(one.is_symlink() for one in (folder, *folder.rglob("*"))):
        raise RefusedCode("it has a symbolic link")
    if sum(one.stat().st_size for one in (path, *folder.rglob("*"))) > LARGEST_CODE:
        raise RefusedCode(f"it is larger than {LARGEST_CODE // 1024**2} MB")
    described = _described(path)
    if described.fingerprint != fingerprint or kept_sources(folder, described.command).fingerprint != fingerprint:
        raise RefusedCode("its files are not those of its fingerprint")
    top = described.module.split(".")[0]
    if described.script is None and not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
        raise RefusedCode(f"{path.name} names the module {described.module}, which is not in it")
    return ForeignCode(fingerprint, core, folder, described.model_copy(update={"folder": None}))


def _described(path: Path) -> KeptCode:
    """Reads what is kept of how a core is loaded; fields that came later have their defaults."""
    try:
        return KeptCode.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RefusedCode(f"{path} is damaged") from error


def unlike_codes(other: Path, results: Path, core: CoreDescription) -> tuple[str, str] | None:
    """Returns (here, there) where a version was trained by codes that nobody has compared; None where all is well."""
    here, there = accepted_fingerprints(results, core), _accepted_there(other, core)
    return (here[-1], there[-1]) if here and there and set(here).isdisjoint(there) else None


def join_accepted(other: Path, results: Path, core: CoreDescription) -> None:
    """Notes the codes that the other machine has found to give the same numbers, see `unlike_codes`."""
    accept(results, core, _accepted_there(other, core))


def _accepted_there(other: Path, core: CoreDescription) -> tuple[str, ...]:
    return tuple(one for one in accepted_fingerprints(other, core) if FINGERPRINT.fullmatch(one))
