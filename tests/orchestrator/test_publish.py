"""What a tracker shows is what is on record; publishing again adds only what is new."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.publish import main
from orchestrator.records import trial_record
from orchestrator.records.trial_record import TrialState
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import make_config, put


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two finished seeds of a study's arm, and a diverged trial of none."""
    made = tmp_path / "results"
    for seed in range(2):
        put(made, make_config(seed), 20 + seed)
        trial = PlannedTrial("baseline", seed, "arm", make_config(seed), trial_key(make_config(seed)))
        trial_record.join_members(made, "lrn", "digits", [trial])
    put(made, make_config(2), None, state=TrialState.DIVERGED, test_wrong=None)
    return made


def publish(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([*arguments, "--results", str(results)])
    output, error = capsys.readouterr()
    return code, output + error


def expected() -> dict[str, list[float]]:
    """Validation errors of both epochs, by key; `put` lets the first epoch have one more error."""
    return {trial_key(make_config(seed)): [(21 + seed) / 360, (20 + seed) / 360] for seed in range(2)}


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboardX.proto.event_pb2 import Event

    values = dict[str, list[float]]()
    for path in sorted(folder.glob("events*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            for value in Event.FromString(content[12 : 12 + length]).summary.value:
                values.setdefault(value.tag, []).append(value.simple_value)
            content = content[16 + length :]
    return values


def test_tensorboard_shows_every_epoch_and_a_second_time_nothing_new(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "board"
    code, output = publish(capsys, results, "--to", "tensorboard", "--study", "lrn", str(folder))
    assert (code, output.startswith("2 runs published, 0 there already")) == (0, True)
    keys = [trial_key(make_config(seed)) for seed in range(2)]
    shown = {key: scalars(folder / "lrn" / "baseline" / f"seed{seed}") for seed, key in enumerate(keys)}
    assert {key: values["validation/top1_error"] for key, values in shown.items()} == {
        key: pytest.approx(errors, abs=1e-7) for key, errors in expected().items()
    }
    names = set(shown[keys[0]])
    assert {"train/loss", "validation/loss", "learning_rate", "images_per_second"} <= names
    before = {path: path.read_bytes() for path in folder.rglob("events*")}
    assert publish(capsys, results, "--to", "tensorboard", str(folder))[1].startswith(
        "1 run published, 2 there already"
    )
    assert {path: path.read_bytes() for path in before} == before
    # 扫描的点都叫 sweep，种子也相同：各有各的文件夹
    for decay in (0.1, 0.2):
        point = make_config(0, weight_decay=decay)
        put(results, point, 10)
        row = PlannedTrial("sweep", 0, "sweep", point, trial_key(point))
        trial_record.join_members(results, "lrn", "digits", [row])
    for wanted in ("2 runs published", "0 runs published"):
        assert publish(capsys, results, "--to", "tensorboard", str(folder))[1].startswith(wanted)
    assert len(list((folder / "lrn" / "sweep").iterdir())) == 2


# mlflow 自己对 sqlalchemy 的用法会报弃用，与我们无关
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_back_the_record(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: uv run --group mlflow pytest")
    folder = tmp_path / "mlflow"
    assert publish(capsys, results, "--to", "mlflow", str(folder))[1].startswith("3 runs published, 0 there already")
    assert publish(capsys, results, "--to", "mlflow", str(folder))[1].startswith("0 runs published, 3 there already")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("alexnet-ablation")
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    for key, errors in expected().items():
        history = client.get_metric_history(runs[key].info.run_id, "validation/top1_error")
        assert [(metric.step, metric.value) for metric in history] == list(enumerate(errors, start=1))
        assert runs[key].data.params["training.learning_rate"] == "0.01"
        assert runs[key].data.tags["arms"] == "lrn/baseline"
    assert runs[trial_key(make_config(2))].data.tags["state"] == "diverged"


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, which W&B's file is: blocks of 32 KiB; checksum, length, kind, data."""
    position, parts = 7, []
    while position < len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_reads_back_the_record(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: uv run --group wandb pytest")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = tmp_path / "wandb"
    code, output = publish(capsys, results, "--to", "wandb", "--study", "lrn", str(folder))
    assert (code, "2 runs published, 0 there already" in output) == (0, True)
    assert (
        "0 runs published, 2 there already"
        in publish(capsys, results, "--to", "wandb", "--study", "lrn", str(folder))[1]
    )
    for key, errors in expected().items():
        (path,) = folder.glob(f"wandb/offline-run-*-{key}/run-{key}.wandb")
        rows = []
        for content in log_records(path.read_bytes()):
            record = Record.FromString(content)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "validation/top1_error" in items:
                rows.append(float(items["validation/top1_error"]))
        assert rows == errors


def test_without_the_package_or_without_a_trial_one_line_says_so(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, output = publish(capsys, results, "--to", "mlflow", str(tmp_path / "x"))
    assert (code, "uv run --group mlflow" in output, output.count("\n")) == (3, True, 1)
    assert publish(capsys, results, "--to", "tensorboard", "--study", "none", str(tmp_path / "x"))[0] == 4
    assert publish(capsys, tmp_path / "nowhere", "--to", "tensorboard", str(tmp_path / "x"))[0] == 4


@pytest.mark.parametrize("name", ["ml?x=1", "ml%41", "ml#1"])
def test_a_folder_that_mlflow_would_read_as_another_is_refused(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, output = publish(capsys, results, "--to", "mlflow", str(tmp_path / name))
    assert code == 2
    assert output.startswith(f"error: --to mlflow: {tmp_path / name} has {name[2]} in it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
