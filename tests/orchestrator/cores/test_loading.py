"""Importing a core: what it prints then is no answer of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cores.loading import core_name, load_core
from tests.made_cores import write_walk


def test_what_a_core_prints_when_it_is_imported_goes_to_the_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_walk(tmp_path)
    (tmp_path / "talks.py").write_text(f"print('hello')\n{(tmp_path / 'walk.py').read_text()}")
    assert load_core(core_name("talks.py", tmp_path)).name == "walk"
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "hello\n")
