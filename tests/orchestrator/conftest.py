"""Labs for the tests that start real commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, clear


def _new_lab(folder: Path) -> Lab:
    home, results = folder / "home", folder / "results"
    home.mkdir()
    return Lab(home, results)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = _new_lab(tmp_path)
    yield made
    end = time.monotonic() + 30
    while made.processes() and time.monotonic() < end:
        time.sleep(0.2)
    left = clear(made)
    assert not left, f"processes left behind after 30 s: {left}"


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = _new_lab(tmp_path_factory.mktemp("lab"))
    yield made
    end = time.monotonic() + 30
    while made.processes() and time.monotonic() < end:
        time.sleep(0.2)
    left = clear(made)
    assert not left, f"processes left behind after 30 s: {left}"
