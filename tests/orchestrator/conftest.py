"""Labs for the tests that start real commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cores.loading import NOT_THE_USERS, installed_folders
from tests.lab import Lab, left_behind
from tests.made_core_records import write_walk


def _new_lab(folder: Path) -> Lab:
    home, results = folder / "home", folder / "results"
    home.mkdir()
    return Lab(home, results)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = _new_lab(tmp_path)
    yield made
    left = left_behind(made)
    assert not left, f"processes left behind after 30 s: {left}"


@pytest.fixture(autouse=True)
def forget_user_code() -> Iterator[None]:
    """Forgets what a test imported as a user's own: the next test has another module of that name."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    new = {name for name in set(sys.modules) - modules if name.split(".")[0] not in (*NOT_THE_USERS, "tests")}
    installed = installed_folders() if new else set()
    for name in new:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and installed.isdisjoint(Path(file).parents):
            del sys.modules[name]


@pytest.fixture
def walk_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the core `walk` and its study, in it the current one."""
    folder = tmp_path / "mine"
    write_walk(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = _new_lab(tmp_path_factory.mktemp("lab"))
    yield made
    left = left_behind(made)
    assert not left, f"processes left behind after 30 s: {left}"
