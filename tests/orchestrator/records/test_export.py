"""An export gives the recorded errors again, proves that it is whole, and replaces nothing unasked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from orchestrator.errors import LabError
from orchestrator.records import layout, trial_record
from orchestrator.records.core_export import CodeSide
from orchestrator.records.export import export
from orchestrator.records.trial_record import TrialResult
from tests.made_records import make_config, put, put_trained, tiny_disk

REPOSITORY = Path(__file__).parents[3]
RANKING: dict[str, Any] = {"seeds": 1, "objective": 0.25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    results = tmp_path_factory.mktemp("trained")
    return results, put_trained(results, make_config(3, epochs=2))


@pytest.fixture
def results(trained: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "results"))


@pytest.fixture
def model(trained: tuple[Path, str], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    export(trained[0], trained[1], folder, force=False, ranking=RANKING, code=CodeSide())
    return folder


def result_of(trained: tuple[Path, str]) -> TrialResult:
    result = trial_record.read_result(layout.trial_folder(*trained))
    assert result is not None
    return result


def core_eval(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexnet_core", "eval", "--model", str(folder), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_core_alone_reproduces_the_recorded_error(trained: tuple[Path, str], model: Path, split: str) -> None:
    metrics = getattr(result_of(trained), split)
    done = core_eval(model, "--split", split)
    assert done.returncode == 0, done.stderr
    counted = [(int(wrong), int(count)) for wrong, count in re.findall(r"\((\d+) of (\d+)\)", done.stdout)]
    assert counted == [(metrics.top1_errors, metrics.count), (metrics.top5_errors, metrics.count)]


@pytest.mark.slow
def test_sha256sum_itself_agrees_until_a_byte_is_flipped(model: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=model, capture_output=True, text=True, check=False)

    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum")
    done = check()
    listed = [line.removesuffix(": OK") for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert sorted([*listed, "SHA256SUMS"]) == sorted(path.name for path in model.iterdir())
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert check().returncode == 1
    refused = core_eval(model)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1
    assert "model.safetensors" in refused.stderr


def test_the_folder_names_no_path_of_this_machine_and_holds_no_code(model: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in model.iterdir())
    assert names == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "labels.json",
        "model.safetensors",
        "preprocessing.json",
    ]
    for name in names:
        assert str(tmp_path.parent).encode() not in (model / name).read_bytes()
    config = json.loads((model / "config.json").read_text())
    assert config["data"]["root"] is None
    assert config["seed"] == 3
    assert json.loads((model / "labels.json").read_text()) == [str(digit) for digit in range(10)]
    assert load_file(model / "model.safetensors")["mean_image"].shape == (16, 16, 3)


def test_the_card_states_the_measured_errors(trained: tuple[Path, str], model: Path) -> None:
    card, result = (model / "README.md").read_text(), result_of(trained)
    for metrics in (result.validation, result.test):
        assert metrics is not None
        assert f"{100 * metrics.top1_error:.2f} % ({metrics.top1_errors} of {metrics.count})" in card
    assert trained[1] in card
    assert result.finished_at in card


def test_an_existing_folder_is_replaced_only_by_force_and_only_if_it_is_an_export(
    trained: tuple[Path, str], model: Path, tmp_path: Path
) -> None:
    (model / "README.md").write_text("mine")
    with pytest.raises(LabError, match="replace it with --force") as caught:
        export(*trained, model, force=False, ranking=RANKING, code=CodeSide())
    assert caught.value.exit_code == 2
    assert (model / "README.md").read_text() == "mine"
    export(*trained, model, force=True, ranking=RANKING, code=CodeSide())
    assert (model / "README.md").read_text() != "mine"
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("also mine")
    for folder in (thesis, file):
        with pytest.raises(LabError, match="is no export, so --force does not replace it") as caught:
            export(*trained, folder, force=True, ranking=RANKING, code=CodeSide())
        assert caught.value.exit_code == 2
    assert (thesis / "chapter.tex").read_text() == "years of work"
    assert file.read_text() == "also mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model", "thesis"]


def test_weights_that_were_pruned_or_changed_are_named(
    trained: tuple[Path, str], results: Path, tmp_path: Path
) -> None:
    key, result = trained[1], result_of(trained)
    record = layout.trial_folder(results, key)
    weights = record / str(result.weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(LabError, match="its SHA-256 differs") as caught:
        export(results, key, tmp_path / "out", force=False, ranking=RANKING, code=CodeSide())
    assert str(weights) in str(caught.value)
    assert caught.value.exit_code == 3
    trial_record.tidy(record, "none")
    with pytest.raises(LabError, match="were not kept; to train it anew, move") as caught:
        export(results, key, tmp_path / "out", force=False, ranking=RANKING, code=CodeSide())
    assert caught.value.exit_code == 4
    never_kept = put(results, make_config(9))
    with pytest.raises(LabError, match="were not kept"):
        export(results, never_kept, tmp_path / "out", force=False, ranking=RANKING, code=CodeSide())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk(tmp_path / "disk", "16k") as folder:
        yield folder


def test_a_full_disk_is_one_line_and_leaves_nothing(trained: tuple[Path, str], small_disk: Path) -> None:
    with pytest.raises(LabError, match=r"model cannot be written") as caught:
        export(*trained, small_disk / "model", force=False, ranking=RANKING, code=CodeSide())
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert list(small_disk.iterdir()) == []
