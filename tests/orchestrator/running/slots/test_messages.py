"""Messages are typed: what nobody knows is one line, and who carries them loads nothing for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.errors import LabError
from orchestrator.running.main_loop import MainLoop
from orchestrator.running.slots.messages import Died, End, Epoch, Evaluated, SlotEvent, Submission, TrialEvent
from orchestrator.running.slots.slot_watch import SlotWatch


def deaf_loop() -> MainLoop:
    parts: dict[str, Any] = dict.fromkeys(
        ("broker", "recorder", "slots", "silence", "steering", "presence", "signals", "say", "leave_out"), None
    )
    # 它还什么也不知道：认不出的话，不必知道什么
    return MainLoop(**{**parts, "slots": SlotWatch.__new__(SlotWatch)})


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ready", "slot": 0, "rank": 0},
        None,
        End("finished"),
        SlotEvent(0, {"type": "ready"}),  # type: ignore[arg-type]
        SlotEvent(0, None),  # type: ignore[arg-type]
    ],
)
def test_an_event_of_an_unknown_shape_is_one_clear_line(event: Any) -> None:
    with pytest.raises(LabError, match="a worker sent what this driver does not know: ") as caught:
        deaf_loop().hear(event)
    assert caught.value.exit_code == 3
    assert str(caught.value).count("\n") == 0
    assert "finished trials are on record" in str(caught.value)


def test_a_message_arrives_as_it_was_sent() -> None:
    epoch = Epoch(3, 0.1 + 0.2, 1078, 1e-300, '{"epoch":3}')
    end = End("finished", weights="checkpoint/a", evaluation=Evaluated(10, "test", "{}", 1.5, "gA==", retrained=True))
    for message in (TrialEvent("a", 1, None, epoch), TrialEvent("a", 2, 0, end), SlotEvent(1, Died("why"))):
        assert pickle.loads(pickle.dumps(message)) == message
    submission = Submission("a", "{}", "folder", 1, epochs=4, views=10, judged=True)
    assert Submission(**asdict(submission)) == submission, "as Tune hands it to its function"


def test_the_broker_and_its_messages_load_no_library() -> None:
    heavy = ("numpy", "optuna", "pydantic", "ray", "torch")
    program = (
        "import sys, orchestrator.running.slots.broker, orchestrator.running.slots.broker_clients; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
