"""Importing a core: what it prints then is no answer of a command."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.mark.slow
def test_a_program_that_is_a_core_itself_stays_loaded_when_it_loads_another_of_its_name(tmp_path: Path) -> None:
    program = (
        "\nif __name__ == '__main__':\n    import sys\n    from pathlib import Path\n"
        "    from orchestrator.cores.loading import core_name, load_core\n"
        "    for folder in Path(__file__).parent, Path(__file__).parent.parent / 'b':\n"
        "        load_core(core_name('walk.py', folder))\n"
        "        print(sys.modules['walk'].__file__, sys.modules['__main__'].__file__)\n"
    )
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_walk(folder)
    path = tmp_path / "a" / "walk.py"
    path.write_text(path.read_text() + program)
    told = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert told.stdout.splitlines() == [f"{tmp_path / folder / 'walk.py'} {path}" for folder in "ab"], told.stderr
