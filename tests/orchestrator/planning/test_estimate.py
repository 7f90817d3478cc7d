"""What a plan costs, from measured epochs of the same networks; and what is not known is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.ablate import main
from orchestrator.planning.estimate import EpochSeconds, Place, ends_after, estimate, likenesses_of, measured_epochs
from orchestrator.planning.summary import cost_line, format_time
from orchestrator.planning.work_left import Training
from orchestrator.records.trial_record import TrialState
from orchestrator.request import Placement
from orchestrator.running.placement import time_and_memory
from orchestrator.tables.tables import update_tables
from search_spaces.trial import trial_key
from tests.made_records import make_config, put

CPU = Place(slots=2, gpus=0, towers_apart=False)
PAIRS = Place(slots=2, gpus=2, towers_apart=True)


def whole(config: TrainConfig) -> Training:
    return Training(config, config.training.epochs)


def one_tower(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"network": config.network.model_copy(update={"towers": 1})})


def test_epochs_are_measured_per_network_and_data_on_finished_trials(tmp_path: Path) -> None:
    put(tmp_path, make_config(0), seconds=3.0)
    put(tmp_path, make_config(1), seconds=5.0)
    put(tmp_path, make_config(2, without="lrn1"), seconds=1.0)
    put(tmp_path, make_config(3), None, state=TrialState.DIVERGED, seconds=900.0)
    put(tmp_path, make_config(4, data={"digest": "1" * 64}), seconds=900.0)
    put(tmp_path, make_config(5), seconds=900.0, environment={"device_name": "NVIDIA H100"})
    update_tables(tmp_path)
    measured = measured_epochs(tmp_path, on_gpu=False)
    assert measured.of(make_config(9, epochs=50)) == (pytest.approx((3 / 2 + 5 / 2) / 2), 2)
    assert measured.of(make_config(without="lrn1")) == (pytest.approx(1 / 2), 1)
    # 没量过的网络按同名网络估计
    assert measured.of(make_config(without="pool1")) == (pytest.approx((3 / 2 + 5 / 2 + 1 / 2) / 3), 3)
    assert measured.of(make_config(data={"train_images": 100})) is None
    assert measured_epochs(tmp_path, on_gpu=True).of(make_config()) == (pytest.approx((3 / 2 + 5 / 2 + 450) / 3), 3)


def test_a_study_that_was_stopped_uses_what_it_measured_before_any_table_was_written(tmp_path: Path) -> None:
    put(tmp_path, make_config(0), seconds=3.0)
    key = trial_key(make_config(0))
    assert measured_epochs(tmp_path, on_gpu=False).of(make_config()) is None
    measured = measured_epochs(tmp_path, on_gpu=False, done={key})
    assert measured.of(make_config()) == (pytest.approx(3 / 2), 1)
    update_tables(tmp_path)
    again = measured_epochs(tmp_path, on_gpu=False, done={key})
    assert again.of(make_config()) == (pytest.approx(3 / 2), 1)


def test_the_cost_counts_epochs_hours_and_wall_time_and_says_what_was_never_measured() -> None:
    measured = EpochSeconds()
    known, unknown = make_config(epochs=10), make_config(data={"train_images": 7}, epochs=4)
    measured.add(likenesses_of(known), 30.0)
    cost = estimate([whole(known)] * 3, measured, CPU)
    assert (cost.trials, cost.epochs, cost.slot_seconds, cost.wall_seconds) == (3, 30, 900.0, 600.0)
    assert format_time(cost) == "about 10 min (from your own records)"
    assert cost_line(cost) == (
        "cost: 3 trials, 30 epochs, about 0.25 slot-hours on the CPU, 10 min on 2 slots "
        "(each network measured on at least 1 trial on record)"
    )
    assert "0.5 GPU-hours" in cost_line(estimate([whole(known)] * 3, measured, PAIRS))
    assert time_and_memory(cost, Placement()).startswith("about 10 min (from your own records), memory about ")
    short = estimate([whole(known)._replace(epochs=1)] * 3, measured, CPU)
    assert time_and_memory(short, Placement()).startswith(
        "about 60 s (from your own records) plus Ray's start, memory "
    )
    assert time_and_memory(short, Placement(address="auto")) == "about 60 s (from your own records)", "it runs already"
    assert time_and_memory(estimate([whole(unknown)], measured, CPU), Placement()).startswith("unknown (no such trial")
    cost = estimate([whole(known), whole(unknown)], measured, CPU)
    assert (cost.epochs, cost.unknown) == (14, 1)
    assert format_time(cost) == "without the 1 never measured about 5 min (from your own records)"
    assert "unknown" in cost_line(estimate([whole(unknown)], measured, CPU))
    assert cost_line(estimate([], measured, CPU)) == "cost: nothing to train"


def test_what_a_trial_has_behind_it_and_what_is_evaluated_only_is_not_priced_again() -> None:
    measured, config = EpochSeconds(), make_config(epochs=10)
    measured.add(likenesses_of(config), 30.0)
    cost = estimate([whole(config), Training(config, 4), Training(config, 0)], measured, CPU)
    assert (cost.trials, cost.epochs, cost.slot_seconds, cost.wall_seconds) == (2, 14, 420.0, 300.0)


def test_the_net_of_one_tower_leaves_a_gpu_idle_and_the_cost_says_so() -> None:
    measured = EpochSeconds()
    half = one_tower(make_config(epochs=10))
    measured.add(likenesses_of(half), 360.0)
    line = cost_line(estimate([whole(half)] * 2, measured, PAIRS))
    assert line.startswith("cost: 2 trials, 20 epochs, about 4 GPU-hours, 60 min on 2 slots")
    assert "2 trials of one tower leave one of their slot's two GPUs idle: 2 of the GPU-hours" in line
    assert "idle" not in cost_line(estimate([whole(half)], measured, CPU))


@given(st.lists(st.floats(0.1, 100), max_size=12), st.integers(1, 4))
def test_the_wall_time_lies_between_the_bounds_of_any_schedule(seconds: list[float], slots: int) -> None:
    end = ends_after((), seconds, slots)
    lower = max(max(seconds, default=0.0), sum(seconds) / slots)
    assert lower - 1e-9 <= end <= sum(seconds) / slots + max(seconds, default=0.0) + 1e-9


def test_a_dry_run_says_what_is_shared_and_what_it_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--study", "paper", "--dry-run", "--seeds", "5", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    pooling = lines[next(i for i, line in enumerate(lines) if line.startswith("pooling: ")) :]
    assert "5 seeds cannot reach a verdict" in pooling[0]
    assert "--seeds" in pooling[0]
    assert pooling[1].startswith(
        "    baseline: 5 trials, 0 on record, 5 to run; the same trials as communication baseline"
    )
    assert "towers baseline" in pooling[1]
    assert pooling[2] == "    no_overlap: 5 trials, 0 on record, 5 to run"
    assert "cost: 10 trials, 110 epochs" in pooling[3]
    assert "time unknown: no epoch of their networks is on record" in pooling[3]
