from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from alexnet_core.__main__ import main
from alexnet_core.commands.training_config import named_config
from alexnet_core.configuration.named_networks import network, training_recipe
from alexnet_core.configuration.train_config import PlateauSchedule, StepSchedule, TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.loading import summarise_data
from alexnet_core.data.splits import held_out
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.trained.loaded_model import load_model
from alexnet_core.training.checkpoint import is_final, latest_checkpoint
from alexnet_core.training.train import train


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


@pytest.mark.slow
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


def test_a_refused_resume_leaves_the_configuration_as_it_was(
    config: TrainConfig, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out", tmp_path / "other.json"
    assert run("train", "--config", config_file, "--out", out) == 0
    before = (out / "config.json").read_bytes()
    other.write_text(config.model_copy(update={"seed": config.seed + 1}).model_dump_json())
    assert run("train", "--config", other, "--out", out, "--resume") == 2
    assert "is of another run" in capsys.readouterr().err
    assert (out / "config.json").read_bytes() == before


def test_more_epochs_go_on_where_a_longer_run_would_have_begun_so(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(epochs: int, schedule: object) -> Path:
        training = config.training.model_copy(update={"epochs": epochs, "schedule": schedule})
        path = tmp_path / f"{epochs}.json"
        path.write_text(config.model_copy(update={"training": training}).model_dump_json())
        return path

    plateau = PlateauSchedule(patience=5)
    for epochs in (2, 4):
        place = ("--out", tmp_path / "grown", "--device", "cpu", "--resume")
        assert run("train", "--config", written(epochs, plateau), *place) == 0
    grown = capsys.readouterr().out.splitlines()[-6:]
    assert run("train", "--config", written(4, plateau), "--out", tmp_path / "at once", "--device", "cpu") == 0
    at_once = capsys.readouterr().out.splitlines()

    def numbers(lines: list[str]) -> list[str]:
        return [line.rsplit("  ", 1)[0] for line in lines if line.startswith(("epoch", "test"))]

    assert numbers(grown) == numbers(at_once)
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("grown", "at once")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert run("train", "--config", written(3, plateau), *place) == 2
    assert "has 4 epochs already, more than the 3 asked for" in capsys.readouterr().err
    for epochs, code in ((2, 0), (4, 2)):
        path = written(epochs, StepSchedule(at=(0.5,)))
        assert run("train", "--config", path, "--out", tmp_path / "steps", "--device", "cpu", "--resume") == code
    assert "the schedule depends on the number of epochs" in capsys.readouterr().err
    assert TrainConfig.model_validate_json((tmp_path / "steps" / "config.json").read_bytes()).training.epochs == 2


def test_a_trained_network_is_ready_for_the_other_commands(
    config_file: Path,
    picture_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert run("train", "--config", config_file, "--device", "cpu", "--out", out) == 0
    trained = capsys.readouterr().out
    for model in (out, out / "model"):
        assert run("eval", "--model", model, "--data-root", picture_folder, "--device", "cpu") == 0
        shown = capsys.readouterr().out
        assert shown.split(": ")[1].strip() in trained
    # 文件夹恰与训练数据同名，说的仍是这个文件夹
    monkeypatch.chdir(tmp_path)
    name = TrainConfig.model_validate_json((out / "model" / "config.json").read_bytes()).data.name
    picture_folder.rename(name)
    assert run("eval", "--model", out / "model", "--dataset", name, "--device", "cpu") == 0
    assert capsys.readouterr().out.split(": ")[1].strip() in trained
    assert run("kernels", "--model", out, "--out", tmp_path / "kernels.png") == 0
    assert "Trained by" in (out / "model" / "README.md").read_text()


def test_options_that_a_configuration_overrules_are_refused(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (
        ("--epochs", "3"),
        ("--seed", "9"),
        ("--precision", "tf32"),
        ("--size", "20"),
        ("--dataset", "digits"),
    ):
        assert run("train", "--config", config_file, *option) == 2
        assert f"{option[0]} goes with --network" in capsys.readouterr().err


def test_folders_that_cannot_be_made_are_one_line(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--out", "--tensorboard"):
        assert run("train", "--config", config_file, "--device", "cpu", option, tmp_path / "file" / "x") == 2
        assert f"{option} {tmp_path}/file/x cannot be made: Not a directory" in capsys.readouterr().err


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
    stopped_at = time.monotonic()
    rest, errors = process.communicate(timeout=60)
    assert time.monotonic() - stopped_at < 5
    assert process.returncode == 130
    assert "--resume goes on" in errors
    assert 1 <= len((first + rest).splitlines()) < 60

    assert run("train", "--config", path, "--device", "cpu", "--out", out, "--resume") == 0
    *resumed, ready = capsys.readouterr().out.splitlines()
    assert ready == f"{out}/model: ready for eval, kernels, neighbours, predictions, onnx and load_model"
    assert run("train", "--config", path, "--device", "cpu") == 0
    undisturbed = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[0] for line in resumed] == [line.rsplit("  ", 1)[0] for line in undisturbed]
    latest = latest_checkpoint(out / "checkpoint")
    assert latest is not None
    assert is_final(latest)


# ---- the other commands --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_named_network_is_trained_as_its_source_did_and_logged_for_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", "--network", "alexnet-mini", "--dataset", "digits", "--epochs", "2", "--device", "cpu")
    assert run(*arguments, "--out", tmp_path / "run", "--tensorboard", tmp_path / "log") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines[:2]] == [["epoch 1/2", "lr 0.008"], ["epoch 2/2", "lr 0.008"]]
    config = TrainConfig.model_validate_json((tmp_path / "run" / "config.json").read_bytes())
    assert config.training == training_recipe("alexnet-mini").model_copy(update={"epochs": 2})
    assert (config.network.input_size, config.network.classes) == (16, 10)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())[-1] == "best.safetensors"
    written = scalars(next((tmp_path / "log").iterdir()))
    errors = [float(line.split("top-1 error ")[1].split(" %")[0]) for line in lines[:2]]
    assert [100 * value for value in written["validation/top1_error"]] == pytest.approx(errors, abs=0.01)
    assert set(written) >= {"train/loss", "test/top5_error", "learning_rate", "images_per_second"}


def test_both_recorded_trainings_of_one_network_can_be_had(
    picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--network", "alexnet-145-2012") == 2
    assert "--network needs --dataset" in capsys.readouterr().err
    options = {"dataset": str(picture_folder), "size": None, "epochs": None, "seed": None, "precision": None}
    first, second = (
        named_config(Namespace(network=name, cache=None, out=None, **options))[0]
        for name in ("alexnet-145", "alexnet-145-2012")
    )
    assert first.network == second.network == network("alexnet-145").model_copy(update={"classes": 6})
    assert (first.training.epochs, second.training.epochs) == (93, 91)


def scalars(path: Path) -> dict[str, list[float]]:
    """Reads an event file: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, values = path.read_bytes(), dict[str, list[float]]()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            values.setdefault(value.tag, []).append(value.simple_value)
        content = content[16 + length :]
    return values


def test_a_network_that_does_not_fit_its_images_is_one_line(
    picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--network", "alexnet-paper") == 2
    assert "--network needs --dataset" in capsys.readouterr().err
    assert run("train", "--network", "alexnet-paper", "--dataset", "digits") == 2
    assert run("train", "--network", "alexnet-145", "--dataset", picture_folder, "--size", "32") == 2
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: alexnet-") and "larger than its" in line for line in errors)
    assert len(errors) == 2


def test_what_is_left_out_of_the_images_is_said_once_by_every_command_that_reads_them(
    export: Path, picture_folder: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (picture_folder / "val").rename(picture_folder / "valid")
    (picture_folder / "train" / "class0" / "new.jfif").write_bytes(b"")
    picture = next((picture_folder / "train" / "class1").iterdir())
    (picture_folder / "train" / "class2" / "same.png").write_bytes(picture.read_bytes())
    Image.new("LA", (12, 12)).save(picture_folder / "valid" / "class0" / "clear.png")
    left_out = [
        "note: valid/ is taken as val/",
        "note: left out: 1 file with a name that does not end like an image's (train/class0/new.jfif)",
    ]
    twice = f"note: 1 image stands in more than one class (train/class1/{picture.name} = train/class2/same.png)"
    clear = "note: 1 image is transparent: the colours beneath show, often black (val/class0/clear.png)"

    def notes(*arguments: str | Path) -> list[str]:
        run(*arguments)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]

    # 没有这块 GPU：读完数据就停下
    there = ("--dataset", picture_folder, "--device", "cuda")
    assert notes("train", "--network", "alexnet-mini", "--size", "12", *there) == [*left_out, twice, clear]
    config = json.loads(config_file.read_bytes())
    config["data"]["digest"] = summarise_data("imagefolder", picture_folder).digest
    config_file.write_text(json.dumps(config))
    assert notes("train", "--config", config_file, "--device", "cuda") == [*left_out, clear, twice]
    there = ("--model", export, "--dataset", picture_folder, "--device", "cpu")
    assert notes("eval", *there) == [*left_out, clear]
    assert notes("neighbours", *there, "--images", "1", "--out", tmp_path / "n.png") == [*left_out, clear]
    prepared = ("prepare", picture_folder, tmp_path / "made", "--size", "12")
    assert notes(*prepared) == [*left_out, clear, twice]
    there = ("--network", "alexnet-mini", "--dataset", tmp_path / "made", "--device", "cuda")
    assert notes("train", *there) == [*left_out, clear, twice]


@pytest.mark.parametrize("views", [1, 10])
def test_predictions_have_a_row_for_every_image(
    export: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], views: int
) -> None:
    out = tmp_path / "rows.csv"
    arguments = ("eval", "--model", export, "--dataset", picture_folder, "--split", "validation", "--device", "cpu")
    passes = []

    def count(module: torch.nn.Module, *_: object) -> None:
        passes.extend([module] if isinstance(module, AlexNet) else [])

    with register_module_forward_hook(count):
        assert run(*arguments, "--views", views, "--predictions", out) == 0
    # 一批图，每个视图只走一遍网络：行和错误率出自同一次
    assert len(passes) == views
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2] == f"predictions of 30 images: {out}"
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(
        path.relative_to(picture_folder).as_posix() for path in (picture_folder / "val").rglob("*.png")
    )
    assert all(row["image"].split("/")[1] == row["class"] for row in rows)
    wrong = sum(row["class1"] != row["class"] for row in rows)
    assert f"({wrong} of 30)" in shown
    assert [row["top1_correct"] for row in rows] == [str(int(row["class1"] == row["class"])) for row in rows]
    # 最大的五个概率降序排列，前五是否含有真类也一致
    for row in rows:
        values = [float(row[f"probability{rank}"]) for rank in range(1, 6)]
        assert values == sorted(values, reverse=True)
        assert row["top5_correct"] == str(int(row["class"] in [row[f"class{rank}"] for rank in range(1, 6)]))


@pytest.mark.parametrize("is_prepared", [False, True])
def test_images_without_splits_are_all_evaluated_unless_the_network_was_trained_on_them(
    export: Path,
    seal: Callable[[Path], None],
    picture_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    is_prepared: bool,
) -> None:
    """A folder of classes, first that of the training under another name, then with one image more."""
    photos = Path(shutil.copytree(picture_folder / "train", tmp_path / "photos"))
    config = json.loads((export / "config.json").read_bytes())
    config["data"] |= {"name": "other", "digest": summarise_data("imagefolder", photos).digest}
    (export / "config.json").write_text(json.dumps(config))
    seal(export)
    labels = read_tree(photos).labels["train"]
    held = held_out(labels, config["data"]["split_seed"])[1]
    note = "note: there is neither val/ nor test/"

    def evaluated(*more: str) -> tuple[int, str, str]:
        folder = photos
        if is_prepared:
            folder = tmp_path / f"made-{len(list(photos.rglob('*.png')))}"
            assert folder.exists() or run("prepare", photos, folder, "--size", "12") == 0
            capsys.readouterr()
        code = run("eval", "--model", export, "--dataset", folder, "--device", "cpu", *more)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    code, shown, _ = evaluated()
    assert (code, note in shown) == (0, True)
    assert shown.splitlines()[-1].startswith("validation, centre crop: ")
    assert shown.rstrip().endswith(f" of {len(held)})")
    assert evaluated("--split", "validation")[1] == shown
    assert evaluated("--split", "test")[0] == 2
    first = next(photos.rglob("*.png"))
    shutil.copy(first, first.with_name("more.png"))
    code, shown, _ = evaluated()
    assert (code, note in shown) == (0, False)
    assert shown.splitlines()[-1].startswith("all images, centre crop: ")
    assert shown.rstrip().endswith(f" of {len(labels) + 1})")
    for split in ("validation", "test"):
        code, _, errors = evaluated("--split", split)
        assert code == 2
        assert f"all its images are evaluated, of which --split {split} would be none" in errors


@pytest.mark.parametrize("name", ["=1+1", "+1", "-cat", "@cat", "\t=1"])
def test_a_name_that_a_spreadsheet_would_run_is_written_as_text(name: str) -> None:
    from alexnet_core.commands.evaluate import _as_text

    assert _as_text(name) == f"'{name}"
    assert _as_text(f"val/{name}") == f"val/{name}"


@pytest.mark.slow
def test_pictures_are_drawn_from_the_command_line(
    export: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels, neighbours = tmp_path / "kernels.png", tmp_path / "neighbours.png"
    assert run("kernels", "--model", export, "--out", kernels) == 0
    arguments = ("neighbours", "--model", export, "--dataset", picture_folder, "--images", "3", "--nearest", "4")
    assert run(*arguments, "--out", neighbours, "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("comparing training images: ")
    lines = printed.out.splitlines()
    assert [line.split(":")[0].split("/")[0] for line in lines[1:4]] == ["val", "val", "val"]
    assert all(line.count("train/") == 4 for line in lines[1:4])
    bars = tmp_path / "bars.png"
    arguments = ("predictions", "--model", export, "--dataset", picture_folder, "--device", "cpu")
    assert run(*arguments, "--out", bars) == 0
    shown = capsys.readouterr().out.splitlines()
    loaded = load_model(export)
    assert len(shown) == 9
    for line in shown[-9:-1]:
        image, _, guesses = line.partition(": ")
        name, _, right = image.removesuffix(")").partition(" (")
        assert name.split("/")[1] == right
        expected = sorted(loaded.predict([picture_folder / name])[0].tolist(), reverse=True)[:5]
        assert [float(guess.split()[1]) for guess in guesses.split(", ")] == pytest.approx(expected, abs=1e-4)
    assert run(*arguments, "--out", tmp_path / "bars.nothing") == 2
    assert "bars.nothing cannot be written" in capsys.readouterr().err
    for path in (kernels, neighbours, bars):
        with Image.open(path) as picture:
            assert min(picture.size) > 20


@pytest.mark.parametrize(
    "command", ["train", "eval", "prepare", "sanity", "kernels", "neighbours", "predictions", "onnx"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert "usage: python -m alexnet_core" in capsys.readouterr().out
