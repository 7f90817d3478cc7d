"""Trials of several cores beside AlexNet's in one results folder: read, ranked, published, pruned and merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict

from orchestrator import best, merge, publish
from orchestrator.cores.identity import code_of
from orchestrator.cores.loading import core_name
from orchestrator.cores.states import write_state
from orchestrator.records import trial_record
from orchestrator.records.checked_record import read_record
from orchestrator.records.layout import trial_folder
from orchestrator.records.retention import AGAIN, EXPORT, LEFT_OVER, UNNEEDED
from orchestrator.records.trial_record import TrialState, join_members
from orchestrator.tables.tables import load_tables, update_tables
from search_spaces.core_config import CoreConfig, CoreData, CoreDescription
from search_spaces.trial import PlannedTrial, configuration_key, trial_key
from tests.made_core_records import WALK, describe, put_walk, walk_config
from tests.made_records import make_config, put


class Tree(BaseModel):
    """A configuration with some names of `Walk`, and other types behind them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: str = "many"
    seed: float = 0.5
    stride: list[int] = [1, 2]
    depth: bool | int | str = True
    nothing: None = None


ACCURACY = {"accuracy": {"unit": "%", "better": "higher", "scale": 100.0}}
TREE: dict[str, Any] = {"name": "tree", "metrics": ACCURACY, "chosen_by": "accuracy", "judged_by": "accuracy"}


def tree_config(seed: int = 0, /, **edits: Any) -> CoreConfig:
    return walk_config(seed, describe(**TREE), model=Tree, **edits)


def losses(*values: float) -> list[dict[str, float]]:
    """A curve of the core `walk`; what judges is a tenth above what chooses."""
    return [{"loss": value, "test_loss": value + 0.1} for value in values]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds of AlexNet, two of `walk` of which one diverged, two configurations of `tree`."""
    made = tmp_path / "results"
    for seed in (0, 1):
        put(made, make_config(seed), 20 + seed)
    put_walk(made, walk_config(0), losses(3.0, 2.0, 1.5), sizes={"parameters": 10.0, "multiply_adds": 50.4})
    put_walk(made, walk_config(1, stride__length=0.8), losses(2.5), state=TrialState.DIVERGED, message="loss is nan")
    put_walk(made, tree_config(0), [{"accuracy": 0.25}, {"accuracy": 0.75}])
    put_walk(made, tree_config(1, depth=3, seed=2), [{"accuracy": 0.5}])
    put_walk(made, tree_config(2, depth="deep"), [{"accuracy": 0.6}])
    return made


def test_every_core_reads_back_its_own_metrics_and_fields(results: Path) -> None:
    trials, _, epochs = load_tables(results)
    rows = {(row["core"], row["seed"]): row for row in trials.iter_rows(named=True)}
    assert len(rows) == 7
    walk, lost = rows["walk", 0], rows["walk", 1]
    assert (walk["metrics.loss"], walk["metrics.test_loss"], walk["objective"], walk["judged"]) == (1.5, 1.6, 1.5, 1.6)
    assert (walk["epochs"], walk["parameters"], walk["multiply_adds"], walk["core_version"]) == (3, 10, 50, 1)
    assert (lost["state"], lost["message"], lost["metrics.loss"]) == ("diverged", "loss is nan", 2.5)
    assert lost["config.stride.length"] == 0.8
    tree = rows["tree", 0]
    # 记录里是 core 自己的数；最小化的变了号
    assert (tree["metrics.accuracy"], tree["objective"], tree["judged"]) == (0.75, -0.75, 0.75)
    assert (tree["metrics.loss"], walk["metrics.accuracy"]) == (None, None)
    assert tree["config.stride"] == "[1, 2]"
    assert [rows["tree", seed]["config.depth"] for seed in range(3)] == ["true", "3.0", "deep"]
    # 同名的字段在两个 core 里是两种类型：都在，读得出
    assert {str(row["config.epochs"]) for row in rows.values()} >= {"many"}
    assert float(walk["config.epochs"]) == 3.0
    assert [float(rows["tree", seed]["config.seed"]) for seed in (0, 1)] == [0.5, 2.0]
    alexnet = rows["alexnet", 0]
    assert (alexnet["objective"], alexnet["metrics.loss"]) == (20 / 360, None)
    of_walk = epochs.filter(pl.col("key") == walk["key"])
    assert of_walk.select("epoch", "metrics.loss").rows() == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert of_walk["train_loss"].to_list() == [None] * 3
    assert epochs.filter(pl.col("key") == alexnet["key"])["metrics.loss"].to_list() == [None] * 2


def test_a_table_that_grew_core_by_core_is_the_table_made_at_once(results: Path, tmp_path: Path) -> None:
    folders = sorted((results / "trials").iterdir())
    grown = tmp_path / "grown"
    (grown / "trials").mkdir(parents=True)
    for folder in folders:
        shutil.copytree(folder, grown / "trials" / folder.name)
        update_tables(grown)
    update_tables(results)
    for name in ("trials", "epochs"):
        one = pl.read_parquet(grown / "tables" / f"{name}.parquet")
        other = pl.read_parquet(results / "tables" / f"{name}.parquet")
        assert one.columns == other.columns, name
        stamps = [column for column in one.columns if column == "record_stamp"]
        left, right = one.drop(stamps).cast(pl.String), other.drop(stamps).cast(pl.String)
        assert left.equals(right, null_equal=True), name


def shown(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = best.main([*arguments, "--results", str(results)])
    output, errors = capsys.readouterr()
    return code, output, errors


def test_best_ranks_within_a_core_its_version_and_its_data(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_walk(results, walk_config(0, describe(version=2)), losses(9.0))
    put_walk(results, walk_config(0, data=CoreData(name="default", digest="abcdefghij")), losses(0.1))
    put_walk(results, walk_config(0, stride__length=0.7), losses(1.25))
    code, output, _ = shown(capsys, results)
    assert code == 0
    titles = [line.strip() for line in output.splitlines() if " on " in line or line.startswith("digits (")]
    assert titles == [
        "tree version 1 on default",
        "walk version 1 on default",
        "walk version 2 on default",
        "walk version 1 on default (abcdefgh)",
        titles[-1],
    ]
    assert titles[-1].startswith("digits (")
    code, output, _ = shown(capsys, results, "--json")
    rows = [row for row in json.loads(output)["configurations"] if row["data_digest"] == ""]
    of_core = {name: [row for row in rows if (row["core"], row["core_version"]) == name] for name in [("tree", 1)]}
    # 越高越好的，最高的在先；数是人看的
    tree = [(row["rank"], row["chosen_by"]["mean"], row["chosen_by"]["unit"]) for row in of_core["tree", 1]]
    assert tree == [(1, 75.0, "%"), (2, 60.0, "%"), (3, 50.0, "%")]
    walk = [row for row in rows if (row["core"], row["core_version"]) == ("walk", 1)]
    assert [row["chosen_by"]["mean"] for row in walk] == [1.25, 1.5], "a diverged trial is never ranked"
    assert walk[0]["judged_by"] == {"metric": "test loss", "unit": "nats", "mean": 1.35, "sd": None}
    code, _, errors = shown(capsys, results, "--export", "--dataset", "default")
    assert (code, errors.count("\n")) == (2, 1)


def test_an_export_is_the_whole_record_and_its_code_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, state = tmp_path / "results", "checkpoint/0001-00000002.safetensors"
    (tmp_path / "walk.py").write_text("raise SystemExit('imported')\n")
    code_now = code_of(core_name("walk.py", tmp_path))
    code_now.keep(results, "walk")
    for seed in range(3):
        folder = trial_record.open_record(results, walk_config(seed))
        (folder / "checkpoint").mkdir()
        (folder / state).write_bytes(bytes([seed]))
        put_walk(results, walk_config(seed), losses(2.0, 1.0 + seed), weights=state, code=code_now.fingerprint)
    code, output, errors = shown(capsys, results, "--export", str(tmp_path / "out"))
    assert (code, errors) == (0, "")
    middle = trial_key(walk_config(1))
    assert f"exported {middle} (seed of median loss)" in output
    out = tmp_path / "out"
    assert (out / "state.safetensors").read_bytes() == b"\x01"
    assert (out / "code" / "walk.py").is_file()
    card = (out / "README.md").read_text()
    assert "Chosen by loss among the configurations on record: 2.000 nats as the mean of 3 seeds" in card
    assert "| test loss | 2.100 nats |" in card
    assert "| stride.length | 0.5 |" in card
    assert "`code/` is the code that trained it." in card
    assert "checkpoint" not in card
    (results / "code" / code_now.fingerprint / "walk.py").write_text("raise SystemExit('edited')\n")
    code, output, _ = shown(capsys, results, "--export", str(tmp_path / "edited"))
    assert code == 0
    assert "without the code that trained it" in output
    assert not (tmp_path / "edited" / "code").exists()
    assert "the code that trained it" not in (tmp_path / "edited" / "README.md").read_text()
    (trial_folder(results, middle) / state).write_bytes(b"edited")
    code, _, errors = shown(capsys, results, "--export", str(tmp_path / "again"))
    assert (code, errors.count("\n")) == (4, 1)
    assert "is not kept, or not the one on record" in errors
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("body", "mistake"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(0)", "SystemExit: 0")]
)
def test_a_cores_own_export_that_raises_or_leaves_is_one_line_and_no_export(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, mistake: str
) -> None:
    results, state = tmp_path / "results", "checkpoint/0001-00000001.safetensors"
    own = f"def export(config, state, folder):\n    {body}\n\ncore = Core(export=export, "
    (walk_folder / "walk.py").write_text(WALK.replace("core = Core(", own))
    code = code_of(core_name("walk.py", walk_folder))
    code.keep(results, "walk")
    folder = trial_record.open_record(results, walk_config(0))
    write_state(folder / state, {"state": {"place": 9.0}})
    put_walk(results, walk_config(0), losses(2.0), weights=state, code=code.fingerprint)
    exit_code, _, errors = shown(capsys, results, "--export", str(tmp_path / "out"), "--core", "walk")
    assert (exit_code, errors.count("\n")) == (4, 1)
    assert f"core walk: export raised {mistake}" in errors
    assert "(walk.py, line " in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", ["../../secret", "/etc", "..", "c0de" * 5 + "/../../../secret"])
def test_what_a_record_calls_its_code_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    """A merged record is somebody else's: its environment is free text."""
    results = tmp_path / "results"
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("mine")
    (results / "code" / ("c0de" * 5)).mkdir(parents=True)
    for seed in range(2):
        put_walk(results, walk_config(seed), losses(1.0), code=code)
    assert shown(capsys, results, "--export", str(tmp_path / "out"))[0] == 0
    assert not (tmp_path / "out" / "code").exists()
    exit_code, _, errors = shown(capsys, results, "--export", str(tmp_path / "more"), "--core", "walk")
    assert (exit_code, errors.count("\n")) == (4, 1)


def test_a_tracker_shows_each_core_with_its_own_fields_and_metrics(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.tables.trackers import runs

    made = {(run.parameters.get("config.epochs"), run.seed, run.state): run for run in runs(load_tables(results), None)}
    walk = next(run for run in made.values() if run.key == trial_key(walk_config(0)))
    assert [(number, scalars["metrics/loss"]) for number, scalars in walk.epochs] == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert {"metrics/loss", "metrics/test_loss", "seconds"} == set(walk.epochs[0][1])
    assert (walk.outcome["metrics.loss"], walk.outcome["seconds"]) == (1.5, 1.5)
    assert set(walk.parameters) == {"config.epochs", "config.seed", "config.stride.length", "config.stride.is_springy"}
    alexnet = next(run for run in made.values() if "training.learning_rate" in run.parameters)
    assert not any(name.startswith(("config.", "metrics")) for name in (*alexnet.parameters, *alexnet.outcome))
    assert "validation/top1_error" in alexnet.epochs[0][1]
    assert publish.main(["--to", "tensorboard", str(tmp_path / "board"), "--results", str(results)]) == 0
    assert capsys.readouterr().out.startswith("7 runs published, 0 there already")
    assert publish.main(["--to", "tensorboard", str(tmp_path / "board"), "--results", str(results)]) == 0
    assert capsys.readouterr().out.startswith("0 runs published, 7 there already")


def put_with_files(results: Path, config: CoreConfig, value: float, state: TrialState | None) -> Path:
    """A trial with a last state, an older one, and a script's own checkpoint and output."""
    folder = trial_record.open_record(results, config)
    names = ("checkpoint/0001-00000002.safetensors", "checkpoint/0001-00000001.safetensors")
    for name in (*names, "script/checkpoint/model/weights.bin", "script/output.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(100))
    if state is not None:
        weights = names[0] if state is TrialState.FINISHED else None
        put_walk(results, config, losses(2.0, value), state=state, weights=weights)
    return folder


def test_pruning_keeps_what_is_needed_of_a_script_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, lost = tmp_path / "results", describe()
    trials = {
        "judged": put_with_files(results, walk_config(0), 1.0, TrialState.FINISHED),
        "best point": put_with_files(results, walk_config(0, stride__length=0.6), 0.5, TrialState.FINISHED),
        "other point": put_with_files(results, walk_config(0, stride__length=0.7), 1.5, TrialState.FINISHED),
        "diverged": put_with_files(results, walk_config(1), 1.0, TrialState.DIVERGED),
        "failed": put_with_files(results, walk_config(2), 1.0, TrialState.FAILED),
        "interrupted": put_with_files(results, walk_config(3, lost), 1.0, None),
    }
    for name, folder in trials.items():
        config = trial_record.read_config(folder)
        phase: Any = "sweep" if "point" in name else "arm"
        trial = PlannedTrial("sweep" if "point" in name else "baseline", config.seed, phase, config, folder.name)
        join_members(results, "walking", "default", [trial])
    assert best.main(["--prune", "--json", "--results", str(results)]) == 0
    stored = {kind["kind"]: kind["files"] for kind in json.loads(capsys.readouterr().out)["stored"]}
    # 每个 trial 四个文件：末态、旧态、脚本的检查点与输出
    assert stored == {EXPORT: 2 + 2, UNNEEDED: 2, LEFT_OVER: 3 * 2 + 4, AGAIN: 2 * 4}
    assert best.main(["--prune", "--yes", "--results", str(results)]) == 0
    left = {
        name: sorted(path.name for path in folder.rglob("*.*") if path.parent != folder)
        for name, folder in trials.items()
    }
    final = ["0001-00000002.safetensors", "weights.bin"]
    everything = sorted([*final, "0001-00000001.safetensors", "output.txt"])
    assert left == {
        "judged": final,
        "best point": final,
        "other point": [],
        "diverged": [],
        "failed": everything,
        "interrupted": everything,
    }


def merged(capsys: pytest.CaptureFixture[str], there: Path, here: Path) -> tuple[int, str]:
    capsys.readouterr()
    code = merge.main([str(there), "--results", str(here)])
    output, errors = capsys.readouterr()
    assert "Traceback" not in output + errors
    return code, output + errors


def test_trials_of_cores_come_along_beside_alexnets(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    state = "checkpoint/0001-00000003.safetensors"
    folder = trial_record.open_record(results, walk_config(0))
    (folder / "checkpoint").mkdir()
    (folder / state).write_bytes(b"state")
    put_walk(results, walk_config(0), losses(3.0, 2.0, 1.5), weights=state)
    put_walk(results, walk_config(7), [], state=TrialState.FAILED)
    (results / "code" / ("c0de" * 5)).mkdir(parents=True)
    (results / "code" / ("c0de" * 5) / "walk.py").write_text("x")
    trials = [
        PlannedTrial("baseline", seed, "arm", config, trial_key(config))
        for seed, config in ((0, walk_config(0)), (7, walk_config(7)))
    ]
    join_members(results, "walking", "default", trials)
    point = {
        **trial_record.membership("walking", "default", trials[0]),
        "phase": "sweep",
        "arm": "sweep",
        "position": 0,
    }
    wrong = {**point, "parameters": {"stride.length": 0.9}, "position": 1, "arm": "sweep"}
    right = {**point, "parameters": {"stride.length": 0.5}}
    trial_record.append_members(results, "walking", [right, wrong])
    code, output = merged(capsys, results, here)
    assert (code, output.splitlines()[-1].startswith("7 trials taken (1 diverged, 6 finished)")) == (0, True), output
    assert (trial_folder(here, trial_key(walk_config(0))) / state).read_bytes() == b"state"
    assert load_tables(here).trials.height == 7
    rows = trial_record.read_members(here, "walking")
    assert [(row["phase"], row["parameters"]) for row in rows] == [("arm", None), ("sweep", {"stride.length": 0.5})]
    assert not (here / "code").exists(), "others' code does not come along"
    # 自己的记录不变；不同之处说出来
    put_walk(results, walk_config(0), losses(3.0, 2.0, 1.25))
    code, output = merged(capsys, results, here)
    assert code == 1
    assert "the records differ in metrics (loss 1.5 here, 1.25 there)" in output
    record = read_record(trial_folder(here, trial_key(walk_config(0))))
    assert record is not None
    assert record.result.metrics["loss"] == 1.5


def edited(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """What changes a JSON file of a trial's folder."""

    def act(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return act


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            edited("result.json", lambda it: it["metrics"].pop("test_loss")),
            "its result.json has the metrics loss, its core declares loss, test_loss",
        ),
        (
            edited("result.json", lambda it: it["metrics"].update(accuracy=1.0)),
            "its result.json has the metrics loss, test_loss, accuracy, its core declares loss, test_loss",
        ),
        (
            edited("result.json", lambda it: it.update(metrics={})),
            "its result.json has 3 reports, and metrics of 0",
        ),
        (
            edited("result.json", lambda it: it.update(metrics={}, epochs=0)),
            "its result.json says finished, and has no report",
        ),
        (edited("result.json", lambda it: it.update(epochs=0)), "its result.json has 0 reports, and metrics of 2"),
        (
            edited("result.json", lambda it: it["metrics"].update(loss=float("nan"))),
            "metrics.loss: must be a finite number",
        ),
        (
            edited("result.json", lambda it: it.update(weights="checkpoint/../../x.safetensors", weights_sha256="0")),
            "its weights have a strange name: 'checkpoint/../../x.safetensors'",
        ),
        (
            edited("result.json", lambda it: it.update(weights="checkpoint/0001-00000003.safetensors")),
            "its result.json names weights without their SHA-256",
        ),
        (edited("result.json", lambda it: it.update(seed=3)), "its result.json is that of another trial"),
        (
            edited(
                "result.json",
                lambda it: it.update(validation={"loss_sum": 1, "top1_errors": 1, "top5_errors": 0, "count": 9}),
            ),
            "its result.json has errors of AlexNet",
        ),
        (edited("result.json", lambda it: it.update(sizes={"parameters": -1})), "sizes.parameters: must be at least 0"),
        (edited("result.json", lambda it: it.update(sizes={"words": 1})), "sizes.words"),
        (edited("config.json", lambda it: it["fields"].update(epochs=4)), "its configuration is that of trial"),
        (edited("config.json", lambda it: it["fields"].update(epochs=float("nan"))), "not JSON compliant"),
        (edited("config.json", lambda it: it["core"].update(version=2)), "its configuration is that of trial"),
        (edited("config.json", lambda it: it["core"].update(name="../walk")), "core.name: "),
        (edited("config.json", lambda it: it["core"].update(name="alexnet")), "alexnet is the built-in network"),
        (edited("config.json", lambda it: it["core"].update(chosen_by="x")), "chosen_by: 'x' is none of the metrics"),
        (edited("config.json", lambda it: it.update(core=3)), "config.json is damaged"),
        (edited("config.json", lambda it: it.update(fields=[])), "fields: must be a mapping"),
    ],
)
def test_a_record_that_cannot_be_is_refused_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    good, bad = put_walk(there, walk_config(0), losses(1.0)), put_walk(there, walk_config(1), losses(3.0, 2.0, 1.0))
    damage(trial_folder(there, bad))
    code, output = merged(capsys, there, here)
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith(("refused", "left out"))]
    assert bad in line
    assert reason in line, line
    assert trial_record.recorded_keys(here) == [good]
    # 自己的结果文件夹里也不算数；权重的路径只有要用时才看
    assert "strange name" in reason or load_tables(there).trials["key"].to_list() == [good]


def test_a_metric_that_came_later_is_unknown_of_earlier_trials(tmp_path: Path) -> None:
    wider: CoreDescription = describe(metrics={**describe().model_dump()["metrics"], "bleu": {"better": "higher"}})
    put_walk(tmp_path, walk_config(0), losses(1.0))
    put_walk(tmp_path, walk_config(1, wider), [{"loss": 1.0, "test_loss": 1.1, "bleu": 30.0}])
    trials = load_tables(tmp_path).trials.sort("seed")
    assert trials["metrics.bleu"].to_list() == [None, 30.0]
    assert trials["configuration"].to_list() == [configuration_key(walk_config())] * 2
