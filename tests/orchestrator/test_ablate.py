"""The command before Ray starts: plans, refusals, and one clear line for every wrong input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.ablate import main
from orchestrator.options import EXAMPLES
from search_spaces.trial import trial_key

HERE = str(Path(__file__).parent)
BATCH = "training.batch_size"
RATE = "training.learning_rate={kind: float, low: 1e-3, high: 0.1, log: true}"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str, code: int = 2) -> str:
    """Runs a command that must be refused with one line and leave no trial behind."""
    got, _, errors = run(capsys, *arguments, "--results", str(results))
    lines = [line for line in errors.splitlines() if line.strip()]
    assert got == code, errors
    assert "Traceback" not in errors
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not (results / "trials").exists()
    return errors


@pytest.mark.slow
def test_output_into_a_pipe_that_closes_ends_without_a_traceback(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m orchestrator.ablate --show --results {tmp_path} | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode in (0, 141), done.stdout, done.stderr) == (True, "{", "")


def tree(root: Path, splits: dict[str, list[str]], size: int = 40, count: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for split, classes in splits.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def test_the_plan_line_says_wanted_on_record_to_train_time_and_attainability(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, output, _ = run(capsys, "--study", "lrn", "--dry-run", "--results", str(tmp_path / "r"))
    assert code == 0
    assert output.startswith("24 trials wanted, 0 on record, 24 to train, time unknown")
    assert "8 seeds can reach a verdict" in output
    code, output, _ = run(capsys, "--dry-run", "--seeds", "5", "--results", str(tmp_path / "r"))
    assert "5 seeds cannot reach a verdict" in output
    assert "--seeds 7" in output
    code, output, _ = run(capsys, "--dry-run", "--sweep", "6", "--results", str(tmp_path / "r"))
    assert output.startswith("30 trials wanted, 0 on record, 30 to train")
    code, output, _ = run(capsys, "--dry-run", "--sweep", "6", "--sweep-only", "--results", str(tmp_path / "r"))
    assert output.startswith("6 points wanted, 0 on record, 6 to train, no arm, time unknown")
    assert "no_lrn" not in output
    assert "cost: 6 trials" in output
    assert not (tmp_path / "r" / "trials").exists()


@pytest.mark.slow
def test_a_terminal_shows_life_while_a_study_is_planned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--study", "lrn", "--dry-run", "--results", str(tmp_path / "results"))
    assert "planning" not in run(capsys, *arguments)[1]
    # 笔记本的内核里就有 FORCE_COLOR
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "planning" not in run(capsys, *arguments)[1]
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(arguments) == 0
    assert "planning: reading the study" in terminal.getvalue()


def test_a_study_is_named_with_or_without_its_option_and_without_one_nothing_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = run(capsys, "pooling", "--dry-run")
    assert plain[0] == 0
    assert plain == run(capsys, "--study", "pooling", "--dry-run") == run(capsys, "--dry-run", "pooling")
    assert "not allowed with" in refused(capsys, tmp_path / "results", "pooling", "--study", "lrn")
    code, output, errors = run(capsys)
    assert (code, errors) == (2, "error: name a study\n")
    for words in EXAMPLES:
        assert f"python -m orchestrator.ablate {words}\n" in output
    assert not list(tmp_path.iterdir())


def test_show_prints_a_configuration_that_validates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for which in ("", "no_lrn:3", "as_run"):
        _, output, _ = run(capsys, "--show", which, "--results", str(tmp_path))
        config = TrainConfig.model_validate_json(output)
        assert len(trial_key(config)) == 20
    assert config.network.layer("lrn2").divide_alpha_by_size  # type: ignore[union-attr]


def test_set_changes_the_base_of_all_arms(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, output, _ = run(capsys, "--set", "network.lrn1.alpha=2e-4", "--show", "as_run", "--results", str(tmp_path))
    layers = {layer["name"]: layer for layer in json.loads(output)["network"]["layers"]}
    assert layers["lrn1"]["alpha"] == 2e-4
    assert layers["lrn2"]["alpha"] == 1e-4


def test_spaces_are_combined_and_a_finite_one_has_no_more_points_than_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    over = ("--sweep-over", "dropout", "--sweep-over", "weight_decay", "--results", str(tmp_path))
    code, output, errors = run(capsys, "--sweep", "40", *over, "--dry-run")
    assert code == 0, errors
    assert output.startswith("64 trials wanted")
    sizes = ("--sweep-over", "network.lrn*.size={kind: integer, low: 1, high: 7}")
    code, output, errors = run(capsys, "--sweep", "40", *sizes, "--dry-run", "--results", str(tmp_path))
    assert output.startswith("31 trials wanted"), errors


def test_what_to_know_of_the_data_is_said_once_and_before_the_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "val" / "a" / "0.png")
    (tmp_path / "val").rename(tmp_path / "dev")
    (tmp_path / "train" / "a" / "new.jfif").write_bytes(b"")
    data = ("--dataset", "imagefolder", "--data-root", str(tmp_path), "--results", str(tmp_path / "r"))
    for study in ("lrn", "paper"):
        code, output, errors = run(capsys, "--study", study, *data, "--dry-run")
        assert code == 0, errors
        assert output.splitlines()[:3] == [
            "note: dev/ is taken as val/",
            "note: left out: 1 file with a name that does not end like an image's (train/a/new.jfif)",
            "note: 1 validation image is a training image too (val/a/0.png = train/a/0.png): the validation error is "
            "not that of new images",
        ]
        assert output.count("note: dev/") == output.count("note: left out") == output.count("image too") == 1


def test_list_names_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, "--list")
    assert code == 0
    assert "lrn: Does local response normalisation lower the error?" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--study", "lrm"], "did you mean lrn or"),
        (["--study", "../x"], "is no study's name"),
        (["--study", "nowhere.yaml"], "does not exist"),
        (["--seeds", "-3"], "must be from 1 to"),
        (["--seeds", "0"], "must be from 1 to"),
        (["--data-root", "/nowhere"], "digits come with scikit-learn"),
        (["--set", "training.batch_size=true"], "must be a number, such as 48, not True"),
        (["--set", "data.image_size=8"], "larger than data.image_size 8"),
        (["--set", "data.image_size=20"], "data.image_size is 20, but the digits have 16 pixels"),
        (["--set", "network.classes=7"], "network.classes is 10, the data's own"),
        (["--set", "data.cache=/tmp/elsewhere"], "--set: data.cache follows from --dataset and --data-root"),
        (
            ["--sweep", "3", "--sweep-over", "data.root={kind: categorical, choices: [/etc, /]}"],
            "data.root follows from --dataset",
        ),
        (["--retune", "learning_rate", "--tuning-trials", "0"], "--retune needs tuning trials"),
        (["--retune", "training.nope"], "training.nope is no number above 0"),
        (["--retune", "momentum"], "such are learning_rate, weight_decay, bias_learning_rate_factor"),
        (["--retune", "epochs"], "training.epochs is no number above 0"),
        (["--retune", "learning_rate", "--tuning-trials", "1"], "--tuning-trials 1: ask for 2 to 500 of each arm"),
        (["--retune", "learning_rate", "--tuning-trials", "501"], "--tuning-trials 501: ask for 2 to 500 of each arm"),
        (["--seeds", "two"], "must be a whole number, not 'two'"),
        (["--set", "network.lrn9.alpha=1"], "has no layer lrn9"),
        (["--set", "network.lrn1.alpa=1"], "did you mean alpha?"),
        (["--set", "training.learning_rate=.nan"], "finite number"),
        (["--set", "training.learning_rate=.inf"], "finite number"),
        (["--set", "training.learning_rate=-1"], "must be at least 0, not -1"),
        (["--set", "training.learning_rate"], "use FIELD=VALUE"),
        (["--set", "training.learning_rate=fast"], "must be a number, not 'fast'"),
        (["--set", "network.lrn1.divide_alpha_by_size=true"], "arm as_run of study lrn edits this field"),
        (["--network", "alexnet-huge"], "there is no network 'alexnet-huge'"),
        (["--dataset", "mnist"], "has no recipe for data set 'mnist'"),
        (["--dataset", HERE], f"; for a folder: --dataset imagefolder --data-root {HERE}"),
        (["--study", "paper", "--dataset", HERE], f"; for a folder: --dataset imagefolder --data-root {HERE}"),
        (["--dataset", "cifar10"], "--data-root"),
        (["--dataset", "cifar10", "--data-root", "/nowhere"], "/nowhere does not exist"),
        (["--show", "no_lrn:99"], "no such trial"),
        (["--study", "towers", "--sweep", "3"], "or say what with --sweep-over"),
        (["--sweep", "3", "--sweep-over", "towers"], "this study has no sweep"),
        (["--sweep", "3", "--sweep-over", "drop_out"], "did you mean dropout"),
        (["--sweep", "3", "--sweep-over", "training.momentum={kind: float, low: 2, high: 1}"], "must be below high"),
        (["--sweep", "3", "--sampler", "grid", "--sweep-over", RATE], "is any number from 0.001 to 0.1"),
        (["--seeds", "1001"], "those from 1000 on are for tuning"),
        (["--sweep", "3", "--sweep-over", "network.lrn9.size={kind: integer, low: 1, high: 3}"], "has no layer lrn9"),
        (["--sweep", "3", "--sweep-over", "training.momentum={kind: float, low: 0, high: 9}"], "momentum"),
        (["--sweep", "3", "--confirm", "2", "--sweep-over", "towers"], "this study has no sweep"),
        (["--confirm", "2"], "give --sweep N too"),
        (["--sampler", "random"], "--sampler is for a sweep: give --sweep N too"),
        (["--multi", "multiply_adds"], "--multi is for a sweep"),
        (["--pruner", "asha"], "--pruner is for a sweep"),
        (["--sweep-seed", "1"], "--sweep-seed is for a sweep"),
        (["--sweep-over", "lrn"], "--sweep-over is for a sweep"),
        (["--confirm-seeds", "9"], "--confirm-seeds is for a sweep"),
        (["--sweep-only"], "--sweep-only is for a sweep"),
        (["--sweep", "3", "--sweep-only", "--retune", "learning_rate"], "so that --retune has nothing to tune"),
        (["--study", "paper", "--sampler", "random"], "--sampler is for a sweep"),
        (["--sweep", "3", "--confirm-seeds", "9"], "is for --confirm K"),
        (
            ["--sweep", "3", "--sweep-over", "network.relu1.function={kind: categorical, choices: [relu, no, tanh]}"],
            "not 'no'",
        ),
        (
            ["--sweep", "3", "--sweep-over", "training.epochs={kind: float, low: 1, high: 3}"],
            "must be a whole number, not",
        ),
        (
            ["--sweep", "9", "--sampler=grid", "--sweep-over", f"{BATCH}={{kind: float, low: 1, high: 4, steps: 3}}"],
            "not 2.5",
        ),
        (["--sweep", "3", "--sampler", "nsga2"], "is for two objectives"),
        (["--sweep", "3", "--sampler", "cmaes", "--multi", "multiply_adds"], "has one objective"),
        (["--sweep", "3", "--pruner", "asha", "--multi", "multiply_adds"], "leave --multi or --pruner out"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert complaint in refused(capsys, tmp_path / "results", *arguments)


def test_a_wrong_study_file_is_refused_at_line_and_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "search_spaces" / "studies" / "lrn.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("name: lrn\n", "name: lrn\nname: lrn\n", 1))
    assert f"{path}:2:1: duplicate key 'name'" in refused(capsys, tmp_path / "r", "--study", str(path))
    path.write_text(text.replace("seeds: 8", "seeds: 1e-3", 1))
    assert "seeds" in refused(capsys, tmp_path / "r", "--study", str(path))


def test_a_network_without_the_edited_layer_is_refused_naming_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "search_spaces" / "studies" / "lrn.yaml").read_text()
    path = tmp_path / "mine.yaml"
    text = text.replace("name: lrn", "name: mine", 1).replace("remove: [lrn1, lrn2]", "remove: [lrn1, lrn7]")
    path.write_text(text)
    line = 1 + text.splitlines().index("    remove: [lrn1, lrn7]")
    errors = refused(capsys, tmp_path / "r", "--study", str(path))
    assert f"{path}:{line}:5: arm no_lrn" in errors
    assert "alexnet-mini has no layer lrn7" in errors


OWN = """name: mine
question: Does it help?
source: me
claim: {statement: it does, source: me}
baseline: one
arms:
  - {name: one, title: as it is}
  - name: two
    title: another
    set: {training.momentum: 0.0}
recipes:
  digits: {margin: 0.5, smallest_effect: 1.0}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: mine", "name: paper", ":1:1: name: paper is what all studies together are called"),
        ("name: mine", "name: lrn", ":1:1: name: lrn is the name of a study of this package"),
        ("name: mine", "name: lrn-cifar10", ":1:1: name: lrn-cifar10 is where study lrn of this package has its"),
        ("name: mine", "name: weight_decay-null", ":1:1: name: weight_decay-null is where study weight_decay of"),
        ("name: mine", "name: lrn-null-cifar10", ":1:1: name: lrn-null-cifar10 is where study lrn of this package"),
        ("name: mine", "name: paper-cifar10", ":1:1: name: paper-cifar10 is where study paper of this package"),
        ("training.momentum: 0.0", "training.momentu: 0.0", ":10:11: arm two on network alexnet-mini: unknown field"),
        ("training.momentum: 0.0", "training.momentum: 1.0", ":10:11: arm two"),
        ("training.momentum: 0.0", "data.cache: /tmp/x", ":10:11: arm two on network alexnet-mini: data.cache follows"),
        (
            "  digits: {",
            "  digits: {edits: {two: {data.root: /etc}}, ",
            ":12:26: arm two on network alexnet-mini: data.root follows",
        ),
        (
            "training.momentum: 0.0",
            "data.train_images: 2000",
            ":10:11: arm two: data.train_images 2000 is more than the",
        ),
        (
            "  digits: {",
            "  digits: {edits: {two: {data.train_images: 2000}}, ",
            ":12:26: arm two: data.train_images 2000 is more than the",
        ),
        (
            "source: me\nclaim",
            "sweep: {parameters: {data.digest: {kind: categorical, choices: [a, b]}}}\nsource: me\nclaim",
            ":3:22: point of mine/sweep: data.digest follows",
        ),
        ("    set: {", "    remove: [conv4]\n    set: {network.conv4.kernel: 5, ", "edits a layer that is removed"),
        ("name: two", "name: one", ":6:1: arms: their names must be unique"),
        ("baseline: one", "baseline: three", ":5:1: baseline: 'three' is none of the arms"),
        ("smallest_effect: 1.0", "smallest_effect: 0.1", ":12:25: recipes.digits.smallest_effect: 0.1 lies inside"),
        ("question: Does it help?", 'question: ""', ":2:11: question: "),
        ("title: another", "title:", "must be text, but nothing is given"),
        ("    set: {", "    remove: conv4\n    set: {", "must be a list, such as [a, b], not 'conv4'"),
        (
            "source: me\nclaim",
            "sweep: {parameters: {network.relu1.function: {kind: categorical, choices: [relu, banana, tanh]}}}\n"
            "source: me\nclaim",
            ":3:22: point of mine/sweep: network.relu1.function: must be 'relu' or 'tanh', not 'banana'",
        ),
        (
            "source: me\nclaim",
            "sweep: {parameters: {training.x: {kind: float, low: 1, high: 2}}}\nsource: me\nclaim",
            "training.x",
        ),
    ],
)
def test_a_mistake_in_an_own_study_is_named_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    assert run(capsys, "--study", str(path), "--dry-run", "--results", str(tmp_path / "r"))[0] == 0
    assert old in OWN
    path.write_text(OWN.replace(old, new, 1))
    errors = refused(capsys, tmp_path / "r", "--study", str(path), "--dry-run")
    assert f"{path}:" in errors
    assert message in errors


def test_an_arm_that_changes_nothing_or_the_size_of_maps_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = yaml.safe_load(OWN)
    arms = [("same", "training.momentum", 0.9), ("five", "network.conv2.kernel", 5)]
    own["arms"] += [{"name": name, "title": name, "set": {field: value}} for name, field, value in arms]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(own))
    code, output, _ = run(capsys, str(path), "--dry-run", "--results", str(tmp_path / "r"))
    assert code == 0
    assert "note: same: its edits change nothing, its trials are the baseline's\n" in output
    assert "note: five: conv2's output shrinks by 2 pixels" in output
    assert output.count("note:") == 2


def test_a_mistake_of_an_option_is_not_said_to_be_in_the_study_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN + "sweep: {parameters: {training.weight_decay: {kind: float, low: 1e-5, high: 1e-3}}}\n")
    errors = refused(capsys, tmp_path / "r", "--study", str(path), "--set", "network.lrn9.alpha=1", "--dry-run")
    assert "--set: network alexnet-mini has no layer lrn9" in errors
    assert str(path) not in errors


def test_bad_data_is_refused_naming_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    classes = ["cat", "dog"]
    differing = tree(tmp_path / "differing", {"train": classes, "val": ["cat", "cow"]})
    common = ("--dataset", "imagefolder", "--data-root")
    errors = refused(capsys, tmp_path / "r", *common, str(differing))
    assert "only in train: dog; only in val: cow" in errors
    empty = tree(tmp_path / "empty", {"train": classes, "val": classes})
    for path in (empty / "train" / "dog").iterdir():
        path.unlink()
    assert f"{empty / 'train' / 'dog'} has no images" in refused(capsys, tmp_path / "r", *common, str(empty))


@pytest.mark.slow
def test_an_unreadable_image_is_named_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tree(tmp_path / "data", {"train": ["cat", "dog"], "val": ["cat", "dog"]})
    bad = root / "train" / "cat" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    errors = refused(capsys, tmp_path / "r", "--dataset", "imagefolder", "--data-root", str(root), "--no-dashboard")
    assert f"{root}: 1 image cannot be used: train/cat/3.png (image file is truncated); mend" in errors


@pytest.mark.slow
def test_more_gpus_than_there_are_is_exit_code_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from orchestrator.running.cluster.preflight import visible_gpus

    if visible_gpus() >= 2:
        pytest.skip("this machine has two GPUs")
    errors = refused(capsys, tmp_path / "r", "--gpus-per-worker", "2", code=3)
    assert f"--gpus-per-worker 2, but this machine has {visible_gpus()}" in errors


def test_results_that_cannot_be_written_are_exit_code_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    errors = refused(capsys, blocked / "results", code=3)
    assert f"{blocked} is a file" in errors
    refused(capsys, blocked / "results", "--dry-run", code=3)


@pytest.mark.slow
def test_a_public_dashboard_without_token_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    errors = refused(capsys, tmp_path / "r", "--dashboard-host", "0.0.0.0")
    assert "switches Ray's token off" in errors
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
