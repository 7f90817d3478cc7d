from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from alexnet_core.__main__ import main
from alexnet_core.checkpoint import is_final, latest_checkpoint
from alexnet_core.configuration import TrainConfig
from alexnet_core.datasets import Dataset, summarise_data
from alexnet_core.training import train


@pytest.fixture
def picture_folder(dataset: Dataset, tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name, split in (("train", dataset.train), ("val", dataset.validation)):
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / name / dataset.class_names[label] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


@pytest.fixture
def config(picture_folder: Path, config_of: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:
    made = config_of()
    data = made.data.model_copy(
        update={
            "digest": summarise_data("imagefolder", picture_folder, None).digest,
            "root": str(picture_folder),
            "cache": str(tmp_path / "cache"),
        }
    )
    return made.model_copy(update={"data": data})


@pytest.fixture
def config_file(config: TrainConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    return path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_the_command_prints_the_numbers_of_the_generator(
    config: TrainConfig, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--config", config_file, "--device", "cpu") == 0
    shown = capsys.readouterr().out.splitlines()
    reports = list(train(config, ("cpu", "cpu")))
    assert len(shown) == 3
    for line, report in zip(shown, reports, strict=True):
        assert line.startswith(f"epoch {report.epoch}/3 ")
        assert f"validation loss {report.validation.loss:.4f}" in line
        assert f"({report.validation.top1_errors} of 30)" in line


def test_data_may_have_moved(config_file: Path, picture_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    picture_folder.rename(moved)
    assert run("train", "--config", config_file, "--device", "cpu", "--data-root", moved) == 0


def test_an_existing_folder_is_only_resumed(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("train", "--config", config_file, "--device", "cpu", "--out", out) == 0
    first = capsys.readouterr().out
    assert run("train", "--config", config_file, "--device", "cpu", "--out", out) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert run("train", "--config", config_file, "--device", "cpu", "--out", out, "--resume") == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a training configuration"),
        ('{"seed": -1}', "not a training configuration"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_bad_configuration_is_one_line(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    assert run("train", "--config", path) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert str(path) in shown
    assert shown.count("\n") == 1


def test_wrong_use_is_two_and_a_missing_gpu_three(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as wrong:
        run("train", "--config", config_file, "--threads", "0")
    assert wrong.value.code == 2
    assert run("train", "--config", config_file, "--resume") == 2
    assert run("eval", "--model", tmp_path / "nowhere") == 2
    if not torch.cuda.is_available():
        assert run("train", "--config", config_file, "--device", "cuda") == 3
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_command_goes_on(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 60})})
    path = tmp_path / "long.json"
    path.write_text(long.model_dump_json())
    command = [sys.executable, "-m", "alexnet_core", "train", "--config", str(path), "--device", "cpu"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    rest, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < 5
    assert process.returncode == 130
    assert "--resume goes on" in errors
    assert 1 <= len((first + rest).splitlines()) < 60

    assert run("train", "--config", path, "--device", "cpu", "--out", out, "--resume") == 0
    resumed = capsys.readouterr().out.splitlines()
    assert run("train", "--config", path, "--device", "cpu") == 0
    undisturbed = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[0] for line in resumed] == [line.rsplit("  ", 1)[0] for line in undisturbed]
    latest = latest_checkpoint(out / "checkpoint")
    assert latest is not None
    assert is_final(latest)
