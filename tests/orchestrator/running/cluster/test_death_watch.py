"""The death watch: a control service of a cluster that is joined counts as dead when its port stays closed."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from orchestrator.running.cluster import death_watch
from orchestrator.running.cluster.death_watch import DeathWatch, Unanswered
from tests.lab import wait_until


@pytest.mark.slow
def test_a_port_that_stays_closed_is_a_death_and_one_that_opens_again_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(death_watch, "ASK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(death_watch, "UNANSWERED_SECONDS", 1.0)
    monkeypatch.setattr(death_watch, "LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(death_watch, "_died", threading.Event())
    monkeypatch.setattr(death_watch._closed, "wait", lambda seconds: time.sleep(seconds))
    heard: list[tuple[str, bool]] = []
    watch = DeathWatch(lambda death, asked: heard.append((death, asked)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        watch.add("gcs_server", Unanswered(host, port))
        time.sleep(1.5)
        assert heard == []
    time.sleep(0.4)
    with socket.create_server((host, port)):
        time.sleep(1.5)
        assert heard == [], "it was started again in time"
    wait_until(lambda: heard, 10, "its death")
    assert heard == [("Ray's control service (GCS) died", False)]
