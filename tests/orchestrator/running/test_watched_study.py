"""A running study is watched and steered: dashboard, metrics against the records, status, requests from elsewhere."""

from __future__ import annotations

import json
import re
import stat
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from orchestrator.records import trial_record
from orchestrator.records.checked_record import read_record
from orchestrator.records.layout import trial_folder
from orchestrator.running.steering import read_runs
from orchestrator.status import main
from tests.browser import chromium
from tests.lab import PATIENCE, Lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

METRIC = re.compile(r"^ray_ablation_(\w+?)\{(.*)\} (\S+)$", re.MULTILINE)


def metrics(port: int) -> dict[tuple[str, str, str], float]:
    """(name, arm, state) to value at a node's Prometheus endpoint."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    values = {}
    for name, labels, value in METRIC.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        values[name, tags.get("arm", ""), tags.get("state", "")] = float(value)
    return values


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


def the_dashboard_wants_its_token(lab: Lab, dashboard: str) -> str:
    """Returns the token."""
    token_file = lab.home / ".ray" / "auth_token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = token_file.read_text()
    assert get(f"{dashboard}/api/v0/nodes", None)[0] == 401
    assert get(f"{dashboard}/api/v0/nodes", token)[0] == 200
    return token


def the_dashboard_names_the_study(dashboard: str, token: str) -> bool:
    """Whether the pages of actors and of jobs say whose the processes are."""
    actors = json.loads(get(f"{dashboard}/logical/actors", token)[1])["data"]["actors"].values()
    (job,) = json.loads(get(f"{dashboard}/api/jobs/", token)[1])
    assert (job["metadata"]["study"], job["metadata"]["data set"]) == ("lrn", "digits")
    return {"lrn-slot-0 controller", "lrn-slot-0 worker"} <= {actor["reprName"] for actor in actors}


def a_browser_finds_the_study(dashboard: str, token: str) -> None:
    """Logs in as a person does; where there is no browser, the same was asked for above."""
    with chromium() as browser:
        if browser is None:
            return
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{dashboard}/#/jobs")
        page.get_by_role("textbox", name="Authentication Token").fill(token)
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("orchestrator.ablate --study lrn").first.wait_for()
        page.goto(f"{dashboard}/#/actors")
        page.get_by_text("lrn-slot-0 worker").first.wait_for()


def metrics_agree_with_the_records(lab: Lab, port: int) -> bool:
    """Whether Ray has sent some, and each arm's are those of its first trials on record."""
    seen = metrics(port)
    counts = {arm: int(value) for (name, arm, state), value in seen.items() if (name, state) == ("trials", "finished")}
    if sum(counts.values()) < 2:
        return False
    arms = {row["key"]: row["arm"] for row in trial_record.read_members(lab.results, "lrn")}
    results = [json.loads((lab.results / "trials" / key / "result.json").read_text()) for key in lab.finished()]
    results.sort(key=lambda result: result["finished_at"])
    errors: dict[str, list[float]] = {arm: [] for arm in counts}
    for result in results:
        errors.setdefault(arms[result["key"]], []).append(
            result["validation"]["top1_errors"] / result["validation"]["count"]
        )
    assert all(count <= len(errors[arm]) for arm, count in counts.items())
    assert all(value > 0 for (name, _, _), value in seen.items() if name == "images_per_second")
    # Ray 隔几秒才送一次，次数和误差还不一定同时到：看到的可以比记录少，但必须是记录的开头
    return all(
        seen.get(("best_validation_error", arm, "")) == pytest.approx(min(errors[arm][:count]))
        for arm, count in counts.items()
    )


def prometheus_finds_what_the_board_asks_for(study: Path) -> None:
    """Follows docs/watching.md: Ray's own configuration leads to where every metric and label is served."""
    log = (study / "driver.log").read_text()
    (session,) = re.findall(r"Ray's session lies in (\S+) until", log, re.MULTILINE)
    folder = Path(session) / "r" / "session_latest" / "metrics"
    assert (folder / "grafana" / "grafana.ini").is_file()
    config = yaml.safe_load((folder / "prometheus" / "prometheus.yml").read_text())
    lists = [Path(name) for job in config["scrape_configs"] for sd in job["file_sd_configs"] for name in sd["files"]]
    targets = {target for path in lists for group in json.loads(path.read_text()) for target in group["targets"]}
    assert {target.partition(":")[0] for target in targets} == {"127.0.0.1"}
    pages = []
    for target in sorted(targets):
        # 仪表盘和自动伸缩的端口是固定的：机器上还有别的 Ray 时，不一定是自己的
        with suppress(urllib.error.URLError):
            pages.append(get(f"http://{target}/metrics", None))
    labels: dict[str, set[str]] = {}
    for name, text in re.findall(r"^(\w+)\{(.*)\}", "\n".join(text for _, text in pages), re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="[^"]', text))
    board = json.loads((Path(__file__).parents[3] / "docs" / "grafana-study.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    # 别的 core 的那一格：AlexNet 的研究里没有
    asked.remove('max by (study, arm) (ray_ablation_best_metric{study=~"$study"})')
    assert len(asked) == 4
    for expression in asked:
        by, name, chosen = re.fullmatch(r"\w+ by \(([\w, ]+)\) \((\w+)\{(\w+)=~\"\$study\"\}\)", expression).groups()
        assert {*by.split(", "), chosen} <= labels[name], expression


def its_requests_were_heard(lab: Lab, output: str) -> None:
    assert "asked to stop the running trials of arm no_lrn" in output
    assert "asked to go on to 2 seeds per arm" in output
    assert "asked to go on to 3 seeds per arm" in output
    assert "stopped at the budget" not in output, "the arm was left out because that was asked"
    plan = json.loads((lab.results / "studies" / "lrn" / "plan.json").read_text())
    outcomes = {
        (row["arm"], row["seed"]): read_record(trial_folder(lab.results, row["key"])) is not None
        for row in plan["trials"]
        if row["arm"] != "no_lrn"
    }
    assert outcomes == {(arm, seed): True for arm in ("baseline", "as_run") for seed in range(3)}
    stopped = [row["key"] for row in plan["trials"] if row["arm"] == "no_lrn"]
    assert not any(read_record(trial_folder(lab.results, key)) for key in stopped)
    assert len(lab.finished()) == 6 + 2


def test_a_study_is_watched_and_followed_loses_an_arm_gains_seeds_also_while_it_sweeps_and_tells_of_its_end(
    lab: Lab,
) -> None:
    heard = lab.home / "heard.json"
    rate = "training.learning_rate={kind: float, low: 1e-4, high: 0.1, log: true}"
    process = lab.start(
        *("--study", "lrn", "--seeds", "1", "--epochs", "12", "--slots", "1", "--results", "../results"),
        *("--sweep", "2", "--sweep-over", rate, "--notify", f"cat > {heard}", "--time-budget", "10h", "--dashboard"),
    )
    study = lab.results / "studies" / "lrn"
    wait_until(lambda: read_runs(study) or process.poll() is not None, PATIENCE, "the study runs")
    follower = lab.start("lrn", "--follow", "--results", str(lab.results), module="orchestrator.status")
    for arguments in (["--stop", "no_lrn"], ["--seeds", "2"]):
        assert main(["lrn", *arguments, "--results", str(lab.results)]) == 0
    dashboard = read_runs(study)[0].dashboard
    assert dashboard is not None
    assert dashboard.startswith("http://127.0.0.1:")
    token = the_dashboard_wants_its_token(lab, dashboard)
    code, output, _ = lab.run("lrn", "--results", str(lab.results), module="orchestrator.status")
    assert code == 0
    assert "running: process" in output
    assert dashboard in output

    def sweeps() -> bool:
        assert process.poll() is None, process.communicate()
        return any(row["phase"] == "sweep" for row in trial_record.read_members(lab.results, "lrn"))

    wait_until(sweeps, PATIENCE, "a point of the sweep")
    assert main(["lrn", "--seeds", "3", "--results", str(lab.results)]) == 0
    status, text = get(f"{dashboard}/api/train/v2/runs/v1", token)
    assert status == 200
    assert set(re.findall(r'"(lrn-slot-\d)"', text)) == {"lrn-slot-0"}
    wait_until(lambda: the_dashboard_names_the_study(dashboard, token), PATIENCE, "the actors have names")
    a_browser_finds_the_study(dashboard, token)
    port = metrics_port(dashboard, token)
    wait_until(lambda: metrics_agree_with_the_records(lab, port), PATIENCE, "the metrics agree with the records")
    prometheus_finds_what_the_board_asks_for(study)

    output, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, "")
    assert "Ray dashboard: http://127.0.0.1:" in output
    assert "there Actors shows the processes of each slot" in output
    assert "the trials are in: python -m orchestrator.status lrn --results ../results" in output
    assert "ray get-auth-token" in output
    assert "first training step after" in output
    its_requests_were_heard(lab, output)
    assert not [line for line in output.splitlines() if line.startswith("(") or "WARNING" in line or " INFO " in line]
    log = (study / "driver.log").read_text()
    assert "INFO orchestrator.running.progress: asked to go on to 3 seeds per arm" in log
    assert " ray" in log, "what Ray says is in the log, not on the terminal"
    summary = json.loads(heard.read_text())
    assert (summary["outcome"], summary["trials"]) == ("done", {"finished": 6})
    assert summary["report"] == str((study / "report.html").resolve())
    assert not list(study.glob("run*")) + list(study.glob("requests*"))
    for name in ("plan.json", "members.jsonl", "answer.json", "report.md", "report.html", "figures/differences.svg"):
        assert (study / name).stat().st_size > 0, name
    seen, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    assert f"running: process {process.pid}" in seen
    assert "6 finished" in seen
