"""The second axis: what an arm costs beside the baseline, by seed, and never judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.training.peak_memory import ON_CPU, peak_mb, start_measuring
from orchestrator.judging.answer import ArmAnswer
from orchestrator.judging.arm_costs import arm_costs, pace
from orchestrator.reporting.text_tables import arm_table, cost_table
from orchestrator.tables.tables import load_tables
from tests.made_records import make_config, put
from tests.made_reports import make_answer

PLACE = {
    "env_device_name": "cpu",
    "env_host": "here",
    "env_threads": "1",
    "env_workers": "1",
    "env_torch": "2",
    "env_session": "one",
}
SECONDS = st.lists(st.floats(0.1, 1000), min_size=3, max_size=12)


def rows(arm: str, seconds: list[float], **more: Any) -> list[dict[str, Any]]:
    return [
        {"key": f"{arm}-{seed}", "state": "finished", "seconds": value, "epochs": 4, **PLACE, **more}
        for seed, value in enumerate(seconds)
    ]


def test_the_ratio_of_seconds_is_the_t_interval_of_log_ratios() -> None:
    base, arm = [4.0, 5.0, 4.4, 4.9], [3.3, 4.1, 3.7, 3.8]
    cost = arm_costs(rows("base", base), rows("arm", arm)).seconds_per_epoch
    logs = np.log(np.array(arm) / np.array(base))
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert cost.mean == pytest.approx(sum(arm) / 16)
    assert cost.ratio == pytest.approx(stats.gmean(np.array(arm) / np.array(base)))
    assert cost.ratio_interval == pytest.approx((math.exp(low), math.exp(high)))
    assert cost.pairs == 4


@given(SECONDS, st.randoms())
def test_swapping_arm_and_baseline_turns_the_ratio_over(seconds: list[float], draw: Any) -> None:
    other = [value * draw.uniform(0.5, 2.0) for value in seconds]
    one = arm_costs(rows("a", seconds), rows("b", other)).seconds_per_epoch
    two = arm_costs(rows("b", other), rows("a", seconds)).seconds_per_epoch
    assert one.ratio is not None
    assert two.ratio is not None
    assert one.ratio == pytest.approx(1 / two.ratio)
    assert one.ratio_interval is not None
    assert two.ratio_interval is not None
    assert one.ratio_interval == pytest.approx((1 / two.ratio_interval[1], 1 / two.ratio_interval[0]))


def test_trials_of_different_places_and_unfinished_ones_are_not_compared() -> None:
    base = rows("base", [4.0, 4.0, 4.0, 4.0])
    arm = rows("arm", [2.0, 2.0, 2.0, 2.0])
    arm[0]["env_host"] = "elsewhere"
    arm[1]["state"] = "diverged"
    arm[2] = base[2]
    cost = arm_costs(base, arm).seconds_per_epoch
    assert (cost.pairs, cost.ratio, cost.ratio_interval) == (1, 0.5, None)
    gpus = {"env_device_name": "H100"}
    cost = arm_costs(rows("base", [4.0], **gpus, env_host="one"), rows("arm", [2.0], **gpus, env_host="two"))
    assert cost.seconds_per_epoch.pairs == 1


def test_seconds_of_another_session_are_not_compared_and_the_means_are_those_of_the_pairs() -> None:
    base = rows("base", [4.0, 4.0, 4.0])
    arm = rows("arm", [8.0, 9.0, 2.0])
    for row in arm[:2]:
        row["env_session"] = "two, under another load"
    cost = arm_costs(base, arm).seconds_per_epoch
    assert (cost.pairs, cost.apart, cost.ratio, cost.mean, cost.baseline_mean) == (1, 2, 0.5, 0.5, 1.0)
    for row in arm:
        row["env_session"] = "two"
    cost = arm_costs(base, arm).seconds_per_epoch
    assert (cost.pairs, cost.apart, cost.ratio, cost.baseline_mean) == (0, 3, None, None)
    assert cost.mean == pytest.approx(19 / 12)


def test_records_that_name_no_session_are_told_apart_by_the_node_of_their_ray_or_not_compared() -> None:
    old: dict[str, Any] = {"env_session": None}
    together = arm_costs(rows("base", [4.0], **old, env_node="n1"), rows("arm", [2.0], **old, env_node="n1"))
    apart = arm_costs(rows("base", [4.0], **old, env_node="n1"), rows("arm", [2.0], **old, env_node="n2"))
    unknown = arm_costs(rows("base", [4.0], **old), rows("arm", [2.0], **old))
    assert [one.seconds_per_epoch.pairs for one in (together, apart, unknown)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("trained", "pairs"),
    [
        ({}, 1),
        ({"env_epochs_before": "0", "attempts": 2}, 1),
        ({"env_epochs_before": "3", "attempts": 2}, 0),
        ({"env_epochs_before": "3", "attempts": 1}, 0),
        ({"attempts": 2}, 0),
        ({"attempts": 1, "started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:05+00:00"}, 1),
        ({"attempts": 1, "started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:01+00:00"}, 0),
    ],
    ids=[
        "says nothing",
        "died before its first epoch",
        "resumed",
        "went on from fewer epochs",
        "an old record of two attempts",
        "an old record of one attempt",
        "an old record that trained longer than since its launch",
    ],
)
def test_seconds_of_a_trial_that_earlier_attempts_began_are_not_compared(trained: dict[str, Any], pairs: int) -> None:
    whole, begun = rows("base", [4.0]), rows("arm", [4.4], **trained)
    for base, arm in ((whole, begun), ([{**begun[0], "key": "base"}], rows("arm", [4.0]))):
        cost = arm_costs(base, arm).seconds_per_epoch
        assert (cost.pairs, cost.apart) == (pairs, 1 - pairs)


def test_memory_and_its_means_come_from_the_same_pairs() -> None:
    # 工单里的例子：比值 0.935，旁边却写着 25.2 与 8.83
    base = rows("base", [4.0] * 3, memory_kind="resident")
    arm = rows("arm", [4.0] * 3, memory_kind="resident")
    for row, other, ours, theirs in zip(base, arm, (9.0, 8.0, 30.0), (8.1, 7.6, None), strict=True):
        row["peak_memory_mb"], other["peak_memory_mb"] = ours, theirs
    arm[1]["env_workers"] = "2"
    cost = arm_costs(base, arm).memory_mb
    assert (cost.pairs, cost.apart, cost.baseline_mean, cost.mean) == (1, 1, 9.0, 8.1)
    assert cost.ratio == pytest.approx(8.1 / 9.0)


def shown(arm: list[dict[str, Any]]) -> tuple[list[str], str]:
    """The cells of seconds in the table of costs, and the seconds per trial."""
    costs = arm_costs(rows("base", [4.0, 4.0, 4.0]), arm)
    told = ArmAnswer(name="arm", title="", is_baseline=False, n=3, costs=costs, seconds=4.0)
    answer = make_answer(1).model_copy(update={"arms": (told,)})
    return list(cost_table(answer).rows[0][3:5]), arm_table(answer).rows[0][-1]


def test_where_nothing_was_measured_together_the_tables_say_so() -> None:
    together, resumed = rows("arm", [4.0] * 3), rows("arm", [4.0] * 3, env_epochs_before="1")
    assert shown(together) == (["1 (1)", "1.000 (1.000 to 1.000, n 3)"], "4.0")
    assert shown(resumed) == (["1", "not measured together"], "4.0, not measured together")
    assert shown([*resumed[:1], *together[1:]]) == (["1 (1)", "1.000"], "4.0, in part not measured together")


def cost_remark(base: list[float], arm: list[float]) -> str:
    costs = arm_costs(rows("base", base), rows("arm", arm))
    return pace(ArmAnswer(name="arm", title="", is_baseline=False, n=len(arm), costs=costs))


def test_faster_and_slower_are_said_only_where_the_interval_leaves_one_out() -> None:
    assert cost_remark([4.0, 4.4, 4.2], [3.28, 3.61, 3.44]).startswith("18 % faster per epoch (18 to 18 %)")
    assert cost_remark([3.0, 3.0, 3.0], [4.5, 4.4, 4.6]).startswith("50 % slower per epoch (")
    assert cost_remark([4.0, 4.0, 4.0], [3.0, 5.0, 4.1]).startswith("seconds per epoch -")
    assert cost_remark([4.0], [3.0]) == ""


def test_the_table_knows_the_size_of_each_network_and_the_memory(tmp_path: Any) -> None:
    config = make_config()
    put(tmp_path, config, peak_memory_mb=25.5, memory_kind=ON_CPU)
    put(tmp_path, make_config(without="fc6"))
    by_key = {row["network.fc6.units"]: row for row in load_tables(tmp_path).trials.iter_rows(named=True)}
    shapes = layer_shapes(config.network)
    assert by_key[16.0]["parameters"] == sum(shape.parameters for shape in shapes)
    assert by_key[16.0]["multiply_adds"] == sum(shape.multiply_adds for shape in shapes)
    assert (by_key[16.0]["peak_memory_mb"], by_key[None]["peak_memory_mb"]) == (25.5, None)
    assert sum(shape.multiply_adds for shape in layer_shapes(network("alexnet-paper"))) == 724_406_816


def touched(megabytes: int) -> None:
    np.ones(megabytes * 1_000_000, dtype=np.uint8).sum()


def test_the_peak_on_the_cpu_is_of_the_trial_and_not_of_those_before_it() -> None:
    start = start_measuring(("cpu", "cpu"), first_in_process=False)
    if start.resident_mb is None:
        pytest.skip("the kernel does not reset a process's peak here")
    touched(200)
    first = peak_mb(start)
    start = start_measuring(("cpu", "cpu"), first_in_process=False)
    touched(50)
    second = peak_mb(start)
    assert first is not None
    assert second is not None
    assert 195 < first[0] < 230
    assert 45 < second[0] < 80
    assert second[1] == ON_CPU
    assert peak_mb(start_measuring(("cpu", "cpu"), first_in_process=True)) is None


def test_the_peak_on_gpus_is_what_torch_allocated_during_the_trial() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    torch.empty(100_000_000, dtype=torch.uint8, device="cuda:0")
    start = start_measuring(("cuda:0", "cuda:0"), first_in_process=True)
    torch.empty(10_000_000, dtype=torch.uint8, device="cuda:0")
    peak = peak_mb(start)
    assert peak is not None
    assert 10 <= peak[0] < 100
    assert peak[1] == "allocated on the GPUs"
