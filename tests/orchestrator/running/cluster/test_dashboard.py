"""What can be watched: dashboard, token, Train page, metrics against the records, and status from another shell."""

from __future__ import annotations

import json
import re
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator.running.steering import read_runs
from tests.lab import PATIENCE, Lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

METRIC = re.compile(r"^ray_ablation_(\w+?)\{(.*)\} (\S+)$", re.MULTILINE)


def metrics(port: int) -> dict[tuple[str, str, str], float]:
    """(name, arm, state) to value at a node's Prometheus endpoint."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    found = {}
    for name, labels, value in METRIC.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name, tags.get("arm", ""), tags.get("state", "")] = float(value)
    return found


def get(url: str, token: str | None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def metrics_port(dashboard: str, token: str) -> int:
    _, text = get(f"{dashboard}/nodes?view=summary", token)
    agents = re.findall(r'"metricsExportPort":\s*(\d+)', text)
    assert agents, text[:2000]
    return int(agents[0])


def test_a_running_study_can_be_watched(lab: Lab) -> None:
    process = lab.start("--study", "lrn", "--seeds", "2", "--epochs", "12", "--slots", "1", "--results", "../results")
    study = lab.results / "studies" / "lrn"
    wait_until(lambda: read_runs(study) or process.poll() is not None, PATIENCE, "the study runs")
    dashboard = read_runs(study)[0].dashboard
    assert dashboard is not None
    assert dashboard.startswith("http://127.0.0.1:")

    token_file = lab.home / ".ray" / "auth_token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = token_file.read_text()
    assert get(f"{dashboard}/api/v0/nodes", None)[0] == 401
    assert get(f"{dashboard}/api/v0/nodes", token)[0] == 200

    code, output, _ = lab.run("lrn", "--results", str(lab.results), module="orchestrator.status")
    assert code == 0
    assert "running: process" in output
    assert dashboard in output
    wait_until(lambda: len(lab.finished()) >= 2 or process.poll() is not None, PATIENCE, "two finished trials")
    assert process.poll() is None, process.communicate()
    status, text = get(f"{dashboard}/api/train/v2/runs/v1", token)
    assert status == 200
    assert set(re.findall(r'"(lrn-slot-\d)"', text)) == {"lrn-slot-0"}

    port = metrics_port(dashboard, token)

    def agree() -> bool:
        seen = metrics(port)
        # Ray 隔几秒才送一次：看到的可以比记录少，但必须是记录的开头
        counted = int(sum(value for (name, _, _), value in seen.items() if name == "trials"))
        if counted < 2:
            return False
        results = [json.loads((lab.results / "trials" / key / "result.json").read_text()) for key in lab.finished()]
        results.sort(key=lambda result: result["finished_at"])
        assert counted <= len(results)
        best = min(value for (name, _, _), value in seen.items() if name == "best_validation_error")
        errors = [row["validation"]["top1_errors"] / row["validation"]["count"] for row in results[:counted]]
        assert best == pytest.approx(min(errors))
        assert all(value > 0 for (name, _, _), value in seen.items() if name == "images_per_second")
        return True

    wait_until(agree, PATIENCE, "the metrics agree with the records")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    assert "Ray dashboard: http://127.0.0.1:" in output
    assert "ray get-auth-token" in output
    assert "first training step after" in output
    assert not list(study.glob("run*.json"))
    _assert_answered(lab)


def _assert_answered(lab: Lab) -> None:
    folder: Path = lab.results / "studies" / "lrn"
    for name in ("plan.json", "members.jsonl", "answer.json", "report.md", "report.html", "figures/differences.svg"):
        assert (folder / name).stat().st_size > 0, name
