"""What is on record of planned trials: read once, and what of them is left to run follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.on_record import OnRecord, read_on_record, together
from orchestrator.records.trial_record import TrialState
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_records import put

PLAN = make_plan(load_study("lrn"), 3, epochs=2)
KEYS = [trial.key for trial in PLAN.trials]
# 一个 arm 与另一个是同一批 trial，只是要十个视图
TRIALS = (*PLAN.trials, *(replace(trial, arm="ten", views=10) for trial in PLAN.trials[:3]))


def test_a_failed_trial_is_missing_only_where_it_is_tried_again(tmp_path: Path) -> None:
    put(tmp_path, PLAN.trials[0].config, test_wrong=5)
    put(tmp_path, PLAN.trials[1].config, None, state=TrialState.FAILED, test_wrong=None)
    assert read_on_record(tmp_path, PLAN.trials).missing(PLAN.trials) == PLAN.trials[2:]
    again = read_on_record(tmp_path, PLAN.trials, retry_failed=True)
    assert again.missing(PLAN.trials) == PLAN.trials[1:]
    # 本次又失败：不再跑第三遍
    assert again.refreshed({KEYS[1]: TrialState.FAILED}).missing(PLAN.trials) == PLAN.trials[2:]


@given(st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(KEYS[:3])))
def test_every_trial_is_on_record_or_run_once_in_the_order_of_the_plan(finished: set[str], evaluated: set[str]) -> None:
    on_record = OnRecord(dict.fromkeys(finished, TrialState.FINISHED), frozenset((key, 10) for key in evaluated))
    to_run = on_record.to_run(TRIALS)
    assert list(to_run) == [trial for trial in TRIALS if any(trial is one for one in to_run)]
    assert sorted(trial.key for trial in to_run) == sorted({*KEYS} - finished | {*KEYS[:3]} - evaluated)
    assert {trial.key for trial in on_record.missing(TRIALS)} == {*KEYS} - finished
    assert {trial.key for trial in on_record.to_evaluate(TRIALS)} == ({*KEYS[:3]} & finished) - evaluated


@given(st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(KEYS)))
def test_what_any_of_several_plans_knows_is_known_of_them_together(one: set[str], other: set[str]) -> None:
    parts = [OnRecord(dict.fromkeys(keys, TrialState.FINISHED), lost_weights=frozenset(keys)) for keys in (one, other)]
    assert together(parts) == OnRecord(
        dict.fromkeys([*one, *other], TrialState.FINISHED), lost_weights=frozenset(one | other)
    )
    assert together([]) == OnRecord()
