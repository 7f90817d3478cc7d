"""Who may read what: results follow the umask, Ray's token is its owner's alone under any umask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[1], 8))
from orchestrator.records import trial_record
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.merge import main as merge
from orchestrator.running.steering import RunFacts, write_run
from orchestrator.tables.tables import update_tables
from tests.made_records import make_config, put
ensure_private_token()
results = Path("results")
put(results, make_config())
trial_record.append_members(results, "lrn", [{"study": "lrn"}])
write_run(results / "studies" / "lrn", RunFacts(pid=1, host="h", started_at="now", dashboard=None))
update_tables(results)
assert merge(["results", "--results", "other"]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(("umask", "forbidden"), [("077", 0o077), ("022", 0o022), ("000", 0)])
def test_results_follow_the_umask_and_the_token_is_private(tmp_path: Path, umask: str, forbidden: int) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", PROGRAM, umask], cwd=tmp_path, env=environment, check=True)
    for folder in ("results", "other"):
        paths = [tmp_path / folder, *(tmp_path / folder).rglob("*")]
        assert len(paths) > 8
        assert not [path for path in paths if path.stat().st_mode & forbidden]
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) >= 32
