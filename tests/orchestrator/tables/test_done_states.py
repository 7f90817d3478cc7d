"""What has ended is answered from the tables, and always as the records would answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LabError
from orchestrator.records import checked_record, layout
from orchestrator.records.layout import table_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.tables import done_states, ended_trials, update_tables
from tests.made_records import make_config, put


def from_records(results: Path, keys: list[str]) -> dict[str, tuple[str, float | None]]:
    records = {key: checked_record.read_record(layout.trial_folder(results, key)) for key in keys}
    return {key: record.outcome for key, record in records.items() if record is not None}


@pytest.mark.parametrize("tables", ["none", "fresh", "stale", "damaged"])
def test_the_answer_is_that_of_the_records_whatever_the_tables_are(tmp_path: Path, tables: str) -> None:
    keys = [put(tmp_path, make_config(seed), 10 + seed) for seed in range(3)]
    keys.append(put(tmp_path, make_config(3), None, state=TrialState.DIVERGED))
    keys.append(put(tmp_path, make_config(4), None, state=TrialState.FAILED))
    if tables != "none":
        update_tables(tmp_path)
    if tables == "stale":
        put(tmp_path, make_config(0), 77)
        put(tmp_path, make_config(4), 9)
        (layout.trial_folder(tmp_path, keys[1]) / "result.json").unlink()
        keys.append(put(tmp_path, make_config(5), 8))
    if tables == "damaged":
        (table_folder(tmp_path) / "trials.parquet").write_bytes(b"PAR1 no")
    requested = [*keys, "0" * 20]
    assert ended_trials(tmp_path, requested) == from_records(tmp_path, requested)
    assert ended_trials(tmp_path, requested[:2]) == from_records(tmp_path, requested[:2])
    for retry_failed in (False, True):
        expected = {key: state for key, (state, _) in from_records(tmp_path, requested).items()}
        expected = {key: state for key, state in expected.items() if not (retry_failed and state == "failed")}
        assert done_states(tmp_path, requested, retry_failed) == expected
    assert len(done_states(tmp_path, requested)) == 5


def test_a_record_damaged_after_the_tables_were_made_is_named(tmp_path: Path) -> None:
    key = put(tmp_path, make_config())
    update_tables(tmp_path)
    (layout.trial_folder(tmp_path, key) / "result.json").write_text("{")
    with pytest.raises(LabError, match=r"result\.json is damaged"):
        done_states(tmp_path, [key])
