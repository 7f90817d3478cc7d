"""What Tune's thread does of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.records.files import TrialLocks
from orchestrator.running.slots.messages import Submission
from orchestrator.running.tune_side import Shared, TuneSide
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_recording import make_recording


class Broker:
    """Notes what it gets."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []

    def submit(self, submission: Submission) -> None:
        self.submitted.append(submission)


def test_a_trial_is_on_its_way_before_tune_has_a_process_for_it(tmp_path: Path) -> None:
    """Ray Tune gives a trial up whose reused process dies while it is given it: nobody else would submit it."""
    plan, broker = make_plan(load_study("lrn"), 1), Broker()
    opener = make_recording(plan, tmp_path).opener
    with TrialLocks(tmp_path) as locks:
        budget: Any = None
        side = TuneSide(Shared(opener, {}, (), locks, broker, budget, print), judged=False)  # type: ignore[arg-type]
        given = side.launch(plan.trials[0], None)
    assert broker.submitted == [Submission(**given)]
    assert given["key"] == plan.trials[0].key
    assert json.loads((Path(given["folder"]) / "config.json").read_text()) == json.loads(given["config"])
