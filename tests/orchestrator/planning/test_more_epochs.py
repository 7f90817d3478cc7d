"""More epochs later: a finished trial goes on from its kept state and ends as a straight run, or trains anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from alexnet_core.configuration.schedule import can_be_extended, epoch_rates, same_rates
from alexnet_core.configuration.train_config import PlateauSchedule, StepSchedule, TrainConfig, TrainingSpec
from alexnet_core.errors import CoreError
from alexnet_core.training.checkpoint import has_velocities, is_final, latest_checkpoint, read_history, reopen
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.train import train
from orchestrator.planning.more_epochs import find_extensions, go_on
from orchestrator.planning.summary import extension_parts
from orchestrator.records import layout, trial_record
from orchestrator.tables.tables import update_tables
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import make_config, put, put_trained

PLATEAU = PlateauSchedule(patience=1, drops=2)
STEPS = StepSchedule(at=(0.5,))


def planned(config: TrainConfig) -> PlannedTrial:
    return PlannedTrial("baseline", config.seed, "arm", config, trial_key(config))


def plain(history: Any) -> list[dict[str, Any]]:
    return [report.model_dump(exclude={"seconds", "images_per_second"}) for report in history]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished trials of two epochs: one whose rates depend on the errors, one whose rates drop halfway."""
    results = tmp_path_factory.mktemp("results")
    for schedule in (PLATEAU, STEPS):
        put_trained(results, make_config(epochs=2, schedule=schedule))
    update_tables(results)
    return results


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results"))


@pytest.mark.slow
def test_a_trial_that_goes_on_ends_as_a_straight_run_bit_for_bit(results: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = make_config(epochs=4, schedule=PLATEAU)
    extensions = find_extensions(results, [planned(config)])
    assert extension_parts(extensions) == ["1 of them go on from fewer epochs"]
    folder = trial_record.open_record(results, config)
    note = go_on(folder, extensions.starts[trial_key(config)])
    assert note == f"it goes on from epoch 2 of trial {trial_key(make_config(epochs=2, schedule=PLATEAU))}"
    start = latest_checkpoint(folder / "checkpoint")
    assert start is not None
    assert not is_final(start)
    before = read_history(start)
    assert before[-1].test is None
    later = list(train(config, resume_from=start, checkpointing=Checkpointing(folder / "checkpoint")))
    assert [report.epoch for report in later] == [3, 4]
    straight = list(train(config, checkpointing=Checkpointing(tmp_path / "straight")))
    assert plain([*before, *later]) == plain(straight)
    ends = [latest_checkpoint(place) for place in (folder / "checkpoint", tmp_path / "straight")]
    extended, whole = (load_file(path) for path in ends if path is not None)
    assert extended.keys() == whole.keys()
    assert all(np.array_equal(extended[name], whole[name]) for name in whole)


def test_a_trial_with_a_state_of_its_own_keeps_it(results: Path) -> None:
    config = make_config(epochs=4, schedule=PLATEAU)
    start = find_extensions(results, [planned(config)]).starts[trial_key(config)]
    folder = trial_record.open_record(results, config)
    go_on(folder, start)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "checkpoint").iterdir()}
    assert go_on(folder, start) == ""
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "checkpoint").iterdir()} == before


def test_a_schedule_by_fractions_trains_anew_and_keeps_no_velocities(results: Path) -> None:
    config = make_config(epochs=4, schedule=STEPS)
    extensions = find_extensions(results, [planned(config)])
    assert (extensions.starts, extensions.other_rates) == ({}, {trial_key(config)})
    assert extension_parts(extensions) == ["1 anew, as their schedule drops at other epochs"]
    (path,) = (layout.trial_folder(results, trial_key(make_config(epochs=2, schedule=STEPS))) / "checkpoint").iterdir()
    assert not has_velocities(path)
    with pytest.raises(CoreError, match="has no velocities"):
        reopen(path, results / "other")


def test_weights_that_were_deleted_are_said_and_fewer_epochs_never_come_from_more(results: Path) -> None:
    config = make_config(epochs=4, schedule=PLATEAU)
    assert (
        find_extensions(results, [planned(make_config(epochs=1, schedule=PLATEAU))])
        == type(find_extensions(results, []))()
    )
    for path in results.glob("trials/*/checkpoint/*"):
        path.unlink()
    extensions = find_extensions(results, [planned(config)])
    assert extension_parts(extensions) == ["1 anew, as the state of the shorter run is not kept"]


def test_trials_that_did_not_finish_are_no_start(tmp_path: Path) -> None:
    put(tmp_path, make_config(epochs=2, schedule=PLATEAU), state=trial_record.TrialState.DIVERGED)
    update_tables(tmp_path)
    assert extension_parts(find_extensions(tmp_path, [planned(make_config(epochs=4, schedule=PLATEAU))])) == []


@given(
    schedule=st.sampled_from([PLATEAU, STEPS, StepSchedule(), StepSchedule(at=(0.9,), factor=0.5)]),
    epochs=st.integers(1, 12),
    more=st.integers(1, 12),
    errors=st.lists(st.floats(0, 1), min_size=24, max_size=24),
)
def test_rates_are_the_same_exactly_where_a_straight_run_has_them(
    schedule: PlateauSchedule | StepSchedule, epochs: int, more: int, errors: list[float]
) -> None:
    short, long = (TrainingSpec(epochs=count, schedule=schedule) for count in (epochs, epochs + more))
    used = [[epoch_rates(spec, errors[:epoch]).weights for epoch in range(epochs)] for spec in (short, long)]
    assert same_rates(short, long, errors[:epochs]) == (used[0] == used[1])
    if can_be_extended(short):
        assert used[0] == used[1]
