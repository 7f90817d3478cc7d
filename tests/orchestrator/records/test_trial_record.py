"""Records survive kills, full disks and damage; a trial belongs to one process at a time."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import LabError
from orchestrator.records import checked_record, files, layout, trial_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.tables import done_states
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import make_config, make_report, put, put_trained, tiny_disk

REPOSITORY = Path(__file__).parents[3]

WRITER = """
import sys
from pathlib import Path
from orchestrator.records.files import write_atomically
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    number += 1
    write_atomically(path, (f"{number:09d}" * 20000).encode())
"""

LOCKER = """
import sys
from pathlib import Path
from orchestrator.records.files import TrialLocks
locks = TrialLocks(Path(sys.argv[1]))
print([locks.try_lock(key) for key in sys.argv[2:]], flush=True)
sys.stdin.read()
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# ---- writing ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_is_old_or_new_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "trials" / ("a" * 20) / "result.json"
    last, moments = 0, random.Random(3)
    for _ in range(8):
        writer = start(WRITER, str(path))
        assert first_line(writer) == "ready"
        time.sleep(moments.uniform(0.0, 0.12))
        kill(writer)
        if path.is_file():
            content = path.read_text()
            assert len(content) == 9 * 20000
            assert content == content[:9] * 20000
            last = max(last, int(content[:9]))
    assert last > 0


def test_what_a_killed_writer_leaves_is_taken_for_nothing(tmp_path: Path) -> None:
    config = make_config()
    folder = trial_record.open_record(tmp_path, config)
    for name in ("result.json", "epochs.jsonl", "config.json"):
        (folder / f".{name}.0123456789ab.tmp").write_text('{"half": ')
    assert trial_record.read_result(folder) is None
    assert trial_record.read_epochs(folder) == []
    assert trial_record.open_record(tmp_path, config) == folder
    assert trial_record.recorded_keys(tmp_path) == [trial_key(config)]
    assert done_states(tmp_path, [trial_key(config)]) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk(tmp_path / "disk", "64k") as folder:
        yield folder


def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path) -> None:
    key = put(small_disk, make_config(0))
    folder = layout.trial_folder(small_disk, key)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LabError, match=r"result\.json cannot be written: No space left on device") as caught:
        files.write_atomically(folder / "result.json", b"x" * 100_000)
    assert caught.value.exit_code == 3
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_epoch_that_a_full_disk_cut_off_is_passed_over_and_the_next_is_whole(small_disk: Path) -> None:
    folder = trial_record.open_record(small_disk, make_config(0))
    written = []

    def append_until_full() -> None:
        for epoch in itertools.count(1):
            trial_record.append_epoch(folder, make_report(epoch, 9))
            written.append(epoch)

    with pytest.raises(LabError, match="No space left on device") as caught:
        append_until_full()
    assert caught.value.exit_code == 3
    assert len(written) > 20
    assert [report.epoch for report in trial_record.read_epochs(folder)] == written
    trial_record.rewrite_epochs(folder, [])
    trial_record.append_epoch(folder, make_report(1, 9))
    assert trial_record.read_epochs(folder) == [make_report(1, 9)]


# ---- one trial ----------------------------------------------------------------------------------


@given(cut=st.integers(min_value=0, max_value=1_000_000))
@settings(max_examples=40, deadline=None)
def test_a_torn_last_line_costs_only_its_own_epoch(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("trial")
    reports = [make_report(epoch, 30 - epoch) for epoch in (1, 2, 3)]
    trial_record.rewrite_epochs(folder, reports)
    path = folder / "epochs.jsonl"
    content = path.read_bytes()
    cut %= len(content) + 1
    path.write_bytes(content[:cut])
    left = trial_record.read_epochs(folder)
    whole = content[:cut].count(b"\n")
    assert left[:whole] == reports[:whole]
    assert len(left) - whole in (0, 1)  # a line that lacks only its end counts
    trial_record.append_epoch(folder, reports[2])
    assert trial_record.read_epochs(folder)[-1] == reports[2]


def test_an_epoch_written_twice_counts_once_and_order_is_by_epoch(tmp_path: Path) -> None:
    for epoch, wrong in ((2, 8), (1, 9), (2, 7)):
        trial_record.append_epoch(tmp_path, make_report(epoch, wrong))
    assert trial_record.read_epochs(tmp_path) == [make_report(1, 9), make_report(2, 8)]


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "a"}', b"\xff\xfe\x00", b"[]", b'{"state": "done"}', b"null"])
def test_a_damaged_result_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    key = put(tmp_path, make_config())
    path = layout.trial_folder(tmp_path, key) / "result.json"
    path.write_bytes(content)
    with pytest.raises(LabError) as caught:
        done_states(tmp_path, [key])
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged")
    assert "move it away to train this trial again" in message
    assert "\n" not in message
    assert caught.value.exit_code == 3


def test_another_configuration_under_the_same_key_is_refused(tmp_path: Path) -> None:
    folder = trial_record.open_record(tmp_path, make_config(0))
    assert trial_record.open_record(tmp_path, make_config(0)) == folder
    elsewhere = make_config(0, data={"root": "/elsewhere", "cache": "/other"})
    assert trial_record.open_record(tmp_path, elsewhere) == folder, "paths decide no number"
    (folder / "config.json").write_text(make_config(0, learning_rate=0.02).model_dump_json())
    with pytest.raises(LabError, match="holds another configuration than its folder's name says") as caught:
        trial_record.open_record(tmp_path, make_config(0))
    assert caught.value.exit_code == 3
    (folder / "config.json").write_text("{")
    with pytest.raises(LabError, match=r"config\.json is damaged") as caught:
        trial_record.open_record(tmp_path, make_config(0))
    assert "\n" not in str(caught.value)


def test_attempts_are_numbered_over_processes_and_torn_lines(tmp_path: Path) -> None:
    assert [trial_record.next_attempt(tmp_path) for _ in range(2)] == [1, 2]
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"attempt": 3, "a')
    assert trial_record.next_attempt(tmp_path) == 3
    lines = [line for line in (tmp_path / "attempts.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["attempt"] for line in lines] == [1, 2, 3]


def test_every_state_is_read_back_and_failed_ones_can_be_asked_for_again(tmp_path: Path) -> None:
    keys = {
        state: put(tmp_path, make_config(seed), 20 if state is TrialState.FINISHED else None, state=state)
        for seed, state in enumerate(TrialState)
    }
    waiting = trial_key(make_config(99))
    interrupted = trial_record.open_record(tmp_path, make_config(98)).name
    requested = [*keys.values(), waiting, interrupted]
    assert done_states(tmp_path, requested) == {key: state for state, key in keys.items()}
    again = done_states(tmp_path, requested, retry_failed=True)
    assert again == {key: state for state, key in keys.items() if state is not TrialState.FAILED}
    for state, error in ((TrialState.FINISHED, 20 / 360), (TrialState.DIVERGED, None)):
        record = checked_record.read_record(layout.trial_folder(tmp_path, keys[state]))
        assert record is not None
        assert record.outcome == (state.value, error)
    assert checked_record.read_record(layout.trial_folder(tmp_path, interrupted)) is None


def test_tidy_keeps_the_weights_that_the_result_names(tmp_path: Path) -> None:
    key = put_trained(tmp_path, make_config(epochs=1))
    folder = layout.trial_folder(tmp_path, key)
    result = trial_record.read_result(folder)
    assert result is not None
    assert result.weights is not None
    (folder / "checkpoint" / "0001-000000-00000005.safetensors").write_bytes(b"older")
    (folder / "checkpoint" / ".0001-x.tmp").write_bytes(b"junk")
    trial_record.tidy(folder)
    assert [path.name for path in (folder / "checkpoint").iterdir()] == [Path(result.weights).name]
    trial_record.tidy(folder, "none")
    assert list((folder / "checkpoint").iterdir()) == []


def test_an_unfinished_trial_keeps_its_checkpoints(tmp_path: Path) -> None:
    folder = trial_record.open_record(tmp_path, make_config())
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "0001-000001-00000000.safetensors").write_bytes(b"needed")
    trial_record.tidy(folder, "none")
    assert len(list((folder / "checkpoint").iterdir())) == 1


# ---- members ------------------------------------------------------------------------------------


def test_a_membership_is_written_once(tmp_path: Path) -> None:
    configs = [make_config(seed) for seed in range(3)]
    trials = [PlannedTrial("baseline", config.seed, "arm", config, trial_key(config)) for config in configs]
    trial_record.join_members(tmp_path, "lrn", "digits", trials[:2])
    trial_record.join_members(tmp_path, "lrn", "digits", trials)
    trial_record.join_members(tmp_path, "other", "digits", trials[:1])
    assert [row["seed"] for row in trial_record.read_members(tmp_path, "lrn")] == [0, 1, 2]
    assert len(trial_record.read_members(tmp_path)) == 4


# ---- locks --------------------------------------------------------------------------------------


def test_a_trial_belongs_to_one_process_and_a_kill_frees_it(tmp_path: Path) -> None:
    keys = [trial_key(make_config(seed)) for seed in range(2)]
    holder = start(LOCKER, str(tmp_path), *keys)
    assert first_line(holder) == "[True, True]"
    second = start(LOCKER, str(tmp_path), *keys)
    assert first_line(second) == "[False, False]"
    with TrialLocks(tmp_path) as locks:
        assert all(locks.is_locked(key) for key in keys)
        assert not locks.try_lock(keys[0])
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        assert not any(locks.is_locked(key) for key in keys)
        assert locks.try_lock(keys[0])
        third = start(LOCKER, str(tmp_path), *keys)
        assert first_line(third) == "[False, True]"
        kill(third)
    kill(second)


def test_asking_takes_no_lock_and_frees_none(tmp_path: Path) -> None:
    key = trial_key(make_config())
    with TrialLocks(tmp_path) as locks:
        assert locks.try_lock(key)
        assert not locks.is_locked(key), "another process is asked about, not this one"
        other = start(LOCKER, str(tmp_path), key)
        assert first_line(other) == "[False]"
        kill(other)
        locks.unlock(key)
        other = start(LOCKER, str(tmp_path), key)
        assert first_line(other) == "[True]"
        assert locks.is_locked(key)
        kill(other)


def test_a_child_process_does_not_keep_its_killed_parents_locks(tmp_path: Path) -> None:
    key = trial_key(make_config())
    program = (
        "import subprocess, sys; from pathlib import Path; from orchestrator.records.files import TrialLocks\n"
        "locks = TrialLocks(Path(sys.argv[1])); assert locks.try_lock(sys.argv[2])\n"
        "import os; os.set_inheritable(locks._file.fileno(), True)\n"
        "child = subprocess.Popen(['sleep', '30'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True); child.wait()"
    )
    parent = start(program, str(tmp_path), key)
    child = int(first_line(parent))
    try:
        kill(parent)
        with TrialLocks(tmp_path) as locks:
            assert locks.try_lock(key)
    finally:
        os.kill(child, signal.SIGKILL)


def test_thousands_of_locks_cost_one_descriptor(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    keys = [f"{random.Random(number).getrandbits(80):020x}" for number in range(5000)]
    before = len(list(descriptors.iterdir()))
    with TrialLocks(tmp_path) as locks:
        assert all(locks.try_lock(key) for key in keys)
        assert len(list(descriptors.iterdir())) == before + 1
        other = start(LOCKER, str(tmp_path), keys[0], keys[-1], "f" * 20)
        assert first_line(other) == "[False, False, True]"
        kill(other)
    assert len(list(descriptors.iterdir())) == before
