"""What the README and the pages in docs/ show is what the commands, the rules and Ray take."""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import importlib.resources
import json
import os
import re
import runpy
import shlex
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.judging import numbers
from orchestrator.judging.answer import NOT_JUDGED, Answer, ContrastAnswer
from orchestrator.statistics.verdict import ArmEvidence, judge

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = (
    *(ROOT / name for name in ("README.md", "README.zh-CN.md", "SECURITY.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted(DOCS.glob("*.md")),
    ROOT / "tests" / "benchmarks" / "README.md",
)
PAGES = (*TEXTS, DOCS / "slurm.sh")
SHOWN = re.compile(r"python -m ((?:orchestrator|alexnet_core|search_spaces|tests)[\w.]*)([^`#|;&\n]*)")


class _Parsed(Exception):
    """A parser took its arguments; the command goes no further."""


def without_drawings(page: Path) -> str:
    return re.sub(r"```mermaid\n.*?```", "", page.read_text(), flags=re.DOTALL)


def shown_commands() -> list[tuple[str, tuple[str, ...]]]:
    """(module, arguments) of every command in the pages, continued lines joined, comments cut off."""
    commands = {
        (module, tuple(shlex.split(arguments.replace("--minutes M", "--minutes 1"))))
        for page in PAGES
        for module, arguments in SHOWN.findall(without_drawings(page).replace("\\\n", " ").replace('"$@"', ""))
    }
    return sorted(commands)


@pytest.mark.parametrize(
    ("module", "arguments"), shown_commands(), ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_its_parser_takes_every_command_that_is_shown(
    module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    # 别的测试也许导入过它，runpy 会为此警告
    monkeypatch.delitem(sys.modules, module if "." in module else f"{module}.__main__", raising=False)
    with pytest.raises(_Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=False)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as its host makes them of the headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_every_page_of_the_folder_is_in_its_index() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+\.md)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_is_short_and_its_test_command_is_that_of_ci(readme: str) -> None:
    text = (ROOT / readme).read_text()
    assert text.count("\n") <= 150
    last = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert re.search(rf"^{re.escape(last)} +# ", text, re.MULTILINE)


ARMS = {
    "lrn": "no_lrn",
    "pooling": "no_overlap",
    "dropout": "no_dropout",
    "weight_decay": "no_decay",
    "crops": "one_view",
    "towers": "half",
    "communication": "none",
    "activation": "tanh",
    "batch_norm": "no_norm",
    "label_smoothing": "smoothing",
}
CHINESE = {"supports": "支持", "contradicts": "否定", "inconclusive": "无结论", "at least": "至少"}


@pytest.mark.parametrize(("readme", "words"), [("README.md", {}), ("README.zh-CN.md", CHINESE)])
def test_every_number_and_verdict_of_the_readme_is_that_of_its_report(readme: str, words: dict[str, str]) -> None:
    reports = Path("results", "reference")
    (table,) = re.findall(r"^\| .*CIFAR-10.*\n\|[-|]+\|\n((?:\|.*\n)+)", (ROOT / readme).read_text(), re.MULTILINE)
    shown, study = [], ""
    for line in table.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        named = re.match(r"`(\w+)`", name)
        study = named[1] if named else study
        for dataset, cell, word in (("cifar10", *cells[:2]), ("digits", *cells[2:])):
            whole = reports / f"{dataset}-whole" / study
            folder = whole if (ROOT / whole).exists() else reports / dataset / study
            if not (ROOT / folder).exists():
                assert not re.search(r"\d", cell + word), line
                continue
            answer = Answer.model_validate_json((ROOT / folder / "answer.json").read_bytes())
            # 没有名字的一行接着上一行：同一个研究，各自重新调过学习率
            judged = answer if named else answer.retuned
            assert judged is not None
            arm = next(arm for arm in judged.arms if arm.name == ARMS[study])
            difference, interval = numbers.difference(arm), numbers.interval(arm)
            says_more = f"at least {interval}" != f"{difference}, ∞"
            expected = f"{difference} ({interval})" if says_more else difference
            expected = f"[{expected}]({folder}/report.md)" if named else expected
            assert cell == expected.replace("at least", words.get("at least", "at least"))
            assert word == words.get(arm.word, arm.word)
            shown.append(ROOT / folder / "answer.json")
    # depth 的五层另有一句话，阶梯和析因也有
    apart = {ROOT / reports / "digits" / name / "answer.json" for name in ("depth", *CONTRASTS)}
    assert {*shown} == {*ROOT.glob("results/reference/*/*/answer.json")} - apart


CONTRASTS = {"ingredients": ("overlap-without",), "interactions": ("norm:dropout", "norm:rate")}


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
@pytest.mark.parametrize("study", CONTRASTS)
def test_the_ladder_and_the_factorial_of_the_readme_are_those_of_their_reports(readme: str, study: str) -> None:
    folder = Path("results", "reference", "digits", study)
    answer = Answer.model_validate_json((ROOT / folder / "answer.json").read_bytes())
    (shown,) = re.findall(rf"\[([^\[\]]*)\]\({folder}/report\.md\)", (ROOT / readme).read_text())
    contrasts = {one.name: one for one in answer.contrasts}
    said = [
        f"{numbers.difference(one)} ({numbers.interval(one)})" for one in map(contrasts.get, CONTRASTS[study]) if one
    ]
    assert re.findall(r"[-+][\d.]+ \(.*?\)", shown) == said
    told = {one.name for one in answer.contrasts if one.word in ("higher", "lower")}
    # 阶梯只说有判词的那一级
    assert {*CONTRASTS[study]} <= told
    if study == "ingredients":
        assert told == {*CONTRASTS[study]}
        assert not any(arm.word in ("higher", "lower") for arm in answer.arms)
    page = (DOCS / "designs.md").read_text()
    for one in map(contrasts.get, CONTRASTS[study]):
        assert one is not None
        assert f"{abs(one.difference or 0.0):.2f} points" in page


REFERENCE = sorted(path.parent for path in ROOT.glob("results/reference/*/*/answer.json"))


@pytest.mark.parametrize("folder", REFERENCE, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_a_committed_report_is_whole_and_its_differences_are_those_of_its_seeds(folder: Path) -> None:
    """Its records are not there, so that `report --check` has nothing to compute it from."""
    lines = (line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines())
    sums = {name: digest for digest, name in lines}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert sums.keys() == files.keys() - {"SHA256SUMS"}
    assert sums == {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in sums}
    answer = Answer.model_validate_json((folder / "answer.json").read_bytes())
    # 第三列是判断所依的量，名字随度量而变
    rows = [row[:3] for row in csv.reader((folder / "tables" / "seeds.csv").read_text().splitlines())][1:]
    values = {(arm, seed): float(value) for arm, seed, value in rows if value}
    baseline = next(arm.name for arm in answer.arms if arm.is_baseline)
    for arm in (arm for arm in answer.judged if arm.scale == "points"):
        # 阶梯的一级、析因的一个效应：各 arm 的加权和，逐种子
        weights = arm.weights if isinstance(arm, ContrastAnswer) else {arm.name: 1.0, baseline: -1.0}
        seeds = [seed for name, seed, _ in rows if name == next(iter(weights))]
        sums_by_seed = [sum(weight * values[name, seed] for name, weight in weights.items()) for seed in seeds]
        assert len(sums_by_seed) == arm.n
        assert arm.difference == pytest.approx(statistics.mean(sums_by_seed), abs=1e-9)


def options_of(module: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The long options of a command, of `alexnet_core` by verb; what `--help` shows, without itself."""
    parsers: list[argparse.ArgumentParser] = []

    def keep(self: argparse.ArgumentParser, *given: Any) -> None:
        parsers.append(self)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    monkeypatch.setattr(sys, "argv", [module, "lrn"])
    monkeypatch.delitem(sys.modules, module if "." in module else f"{module}.__main__", raising=False)
    with pytest.raises(_Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    (parser,) = parsers
    verbs = {name: verb for action in parser._actions for name, verb in _verbs_of(action).items()}
    return {
        name: {option for action in made._actions for option in action.option_strings if option.startswith("--")}
        - {"--help"}
        for name, made in (verbs or {module.rpartition(".")[2]: parser}).items()
    }


def _verbs_of(action: argparse.Action) -> dict[str, argparse.ArgumentParser]:
    return dict(action.choices) if isinstance(action, argparse._SubParsersAction) else {}


@pytest.mark.parametrize(
    "module",
    [
        *(f"orchestrator.{name}" for name in ("ablate", "best", "check_core", "merge", "publish", "report", "status")),
        "alexnet_core",
    ],
)
def test_the_tables_have_every_option_there_is_and_no_other(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page, chinese = (DOCS / "commands.md").read_text(), (DOCS / "manual.zh-CN.md").read_text()
    for name, options in options_of(module, monkeypatch).items():
        if name == "ablate":
            tables = [page.split("## Options of `ablate`")[1], chinese.split("\n## 选项")[1]]
            shown = [table.split("\n## ")[0].split("\n\n")[1] for table in tables]
        else:
            shown = re.findall(rf"^\| `{name}[` ].*$", page, re.MULTILINE)
            assert len(shown) == 1
        for text in shown:
            assert set(re.findall(r"--[a-z][a-z-]*", text)) | {"--results"} == options | {"--results"}, name


def verdict_words() -> set[str]:
    """Every word that the rules can give, numbers as letters: found by asking them."""
    apart, scattered, alike = (3.0, 3.1, 2.9, 3.0), (3.0, -3.1, 2.9, -3.0), (0.0,) * 4
    below, near, some, few = tuple(-x for x in apart), tuple(x - 3.0 for x in apart), (1.0,) * 4, apart[:2]
    arms = {
        "supports": ArmEvidence("a", apart, 4, claimed_points=1.0),
        "contradicts": ArmEvidence("a", apart, 4, claimed_points=-1.0),
        "higher": ArmEvidence("a", apart, 4),
        "lower": ArmEvidence("a", below, 4),
        "equivalent": ArmEvidence("a", near, 4),
        "reproduces": ArmEvidence("a", near, 4, is_published=True),
        "does not reproduce": ArmEvidence("a", apart, 4, is_published=True),
        "inconclusive": ArmEvidence("a", scattered, 4),
        "identical": ArmEvidence("a", alike, 4),
        "the same difference": ArmEvidence("a", some, 4),
        "same trials": ArmEvidence("a", alike, 4, same_trials=True),
        "diverged": ArmEvidence("a", apart, 5, diverged=1),
        "failed": ArmEvidence("a", apart, 5, failed=1),
        "baseline diverged": ArmEvidence("a", apart, 5, baseline_diverged=1),
        "baseline failed": ArmEvidence("a", apart, 5, baseline_failed=1),
        "no ratio": ArmEvidence("a", apart, 5, without_ratio=1),
        "no verdict": ArmEvidence("a", few, 2),
    }
    words = {start: judge([arm], 0.5, 0.05)["a"].word for start, arm in arms.items()}
    assert all(word.startswith(start) for start, word in words.items()), words
    letters = {re.sub(r"\d+ of \d+", "k of n", re.sub(r"in \d+ seeds", "in n seeds", word)) for word in words.values()}
    return {re.sub(r"^no verdict: .*", "no verdict: ...", word) for word in letters}


@pytest.mark.parametrize(
    ("page", "mark"),
    [("README.md", r"\*"), ("README.zh-CN.md", "`"), ("docs/verdicts.md", "`"), ("docs/manual.zh-CN.md", "`")],
)
def test_a_page_explains_every_word_of_a_verdict(page: str, mark: str) -> None:
    (table,) = re.findall(
        r"^\| (?:word|输出中的词) \| (?:meaning|含义) \|\n(.*?)\n\n",
        (ROOT / page).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    cells = " ".join(line.split(" | ")[0] for line in table.splitlines())
    # 只有手册讲到没有单独评判的 arm
    apart = {NOT_JUDGED} if page.startswith("docs/") else set()
    assert set(re.findall(rf"{mark}([^*`]+){mark}", cells)) == verdict_words() | apart


@pytest.mark.slow
def test_every_line_of_troubleshooting_is_one_that_the_code_says() -> None:
    said = [
        "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for package in ("alexnet_core", "orchestrator", "search_spaces")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    ours = (DOCS / "troubleshooting.md").read_text().split("## Before anything is trained")[1]
    lines = re.findall(r"^\| `([^`]+)` \|", ours, re.MULTILINE)
    assert len(lines) > 30
    assert [line for line in lines if not any(line in text for text in said)] == []


def test_the_cluster_file_fits_rays_schema() -> None:
    import jsonschema

    schema = json.loads((importlib.resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((DOCS / "ray-cluster.yaml").read_text()), schema)


def test_the_kuberay_file_is_a_cluster_of_this_ray_with_workers_from_nought() -> None:
    import importlib.metadata

    content = yaml.safe_load((DOCS / "kuberay.yaml").read_text())
    assert content["kind"] == "RayCluster"
    assert content["spec"]["rayVersion"] == importlib.metadata.version("ray")
    workers = content["spec"]["workerGroupSpecs"][0]
    assert (workers["minReplicas"], content["spec"]["enableInTreeAutoscaling"]) == (0, True)


def test_the_dashboard_asks_for_metrics_that_studies_export() -> None:
    dashboard: dict[str, Any] = json.loads((DOCS / "grafana-study.json").read_text())
    source = (ROOT / "orchestrator" / "running" / "recording" / "tally.py").read_text()
    exported = {f"ray_{name}" for name in re.findall(r'Gauge\("(\w+)"', source)}
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for text in expressions for name in re.findall(r"ray_\w+", text)} == exported
    labels = {
        label for text in expressions for group in re.findall(r"by \(([\w, ]+)\)", text) for label in group.split(", ")
    }
    assert labels == {"study", "arm", "state"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
    *hostnames*) printf 'first\\nsecond\\n' ;;
    *"show job"*) echo "   JobState=$STATE Reason=None" ;;
    *orchestrator.ablate*) trap 'exit 130' TERM; for _ in $(seq "$STEPS"); do sleep 0.1; done; exit "$CODE" ;;
    srun*--head*) echo $$ > "$CALLS.step"; exec "${@:5}" ;;
    srun*) exec "${@:5}" ;;
    *"ray start"*) [ "$RAY" = 0 ] && exec sleep 60; exit "$RAY" ;;
    *"ray status"*) exit "$RAY" ;;
esac
"""


def slurm(folder: Path, **settings: object) -> subprocess.Popen[bytes]:
    """The batch script with stand-ins for Slurm and uv, which write down how they were called."""
    for name in ("scontrol", "srun", "uv"):
        path = folder / name
        path.write_text(STAND_IN)
        path.chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "CALLS": str(folder / "calls"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "nodes",
        "STEPS": "300",
        "CODE": "0",
        "STATE": "RUNNING",
        "RAY": "0",
        **{name: str(value) for name, value in settings.items()},
    }
    script = ["bash", str(DOCS / "slurm.sh"), "--study", "lrn"]
    return subprocess.Popen(script, env=environment, cwd=folder, start_new_session=True)


def ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=30)
    finally:
        # 替身 ray 还在后台睡着；procps 的 kill 会把 -1234 读成 -1，杀掉整台机器，所以不用它
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "state", "code", "expected", "requeued"),
    [
        pytest.param("script", "RUNNING", 0, 130, True, id="before the end of the allocation"),
        pytest.param("step", "RUNNING", 0, 130, True, id="preempted: Slurm tells the steps only"),
        pytest.param("script", "COMPLETING", 0, 130, False, id="cancelled"),
        pytest.param("", "RUNNING", 1, 1, False, id="failed"),
    ],
)
def test_the_slurm_script_passes_a_preemption_on_and_goes_back_into_the_queue(
    tmp_path: Path, told: str, state: str, code: int, expected: int, requeued: bool
) -> None:
    process = slurm(tmp_path, STEPS=300 if told else 20, CODE=code, STATE=state)
    calls, step = tmp_path / "calls", tmp_path / "calls.step"
    end = time.monotonic() + 30
    while not (step.exists() and "orchestrator.ablate" in calls.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    if told:
        time.sleep(0.5)
        os.kill(process.pid if told == "script" else int(step.read_text()), signal.SIGTERM)
    assert ended(process) == expected
    calls_made = calls.read_text()
    assert "--address first:20021" in calls_made
    assert "uv run ray start --head --node-ip-address=first --port=20021" in calls_made
    assert "--nodes=1 --ntasks=1 --exclude=first" in calls_made
    assert ("scontrol requeue 7" in calls_made) == requeued
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_the_slurm_script_ends_when_ray_does_not_start(tmp_path: Path) -> None:
    assert ended(slurm(tmp_path, RAY=1)) == 3
    assert "orchestrator.ablate" not in (tmp_path / "calls").read_text()
