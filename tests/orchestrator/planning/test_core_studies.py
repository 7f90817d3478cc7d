"""Studies of a core, planned: what of their files is wrong is one line with its place, and what is right is planned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.ablate import main
from search_spaces.study import Study, load_study
from search_spaces.yaml_file import parse_model
from tests.made_core_records import STUDY, changed

SCRIPT = """
  name: walk
  command: [python, walk.py, "{length}", "{seed}"]
  parameters: {length: 0.5}
  metrics: {loss: {unit: nats}}
  chosen_by: loss
  judged_by: loss
  files: [walk.py]
"""


def planned(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Plans the study as it lies in its folder; nothing is trained."""
    options = ["--study", "walking.yaml", "--core", "walk.py", "--dry-run", "--results", str(folder / "results")]
    try:
        code = main([*options, *arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert not (folder / "results").exists(), "a dry run writes nothing"
    return code, captured.out, captured.err


def place(text: str, word: str) -> str:
    """`line:column` where a word of the file begins."""
    before = text[: text.index(word)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


LENGTH = "stride.length: 0.8"
SWEPT = "    stride.length: {kind: float, low: 0.1, high: 1.0}"
RETUNED = ("    set: {stride.length: 0.8}\n", "    set: {epochs: 4}\n")


@pytest.mark.parametrize(
    ("changes", "word", "complaint"),
    [
        ([(LENGTH, "strid.length: 0.8")], "strid.length", "arm long: unknown field strid.length; did you mean stride?"),
        ([(LENGTH, "stride.lenth: 1")], "stride.lenth", "arm long: stride.lenth: unknown field; did you mean length?"),
        ([(LENGTH, "stride.length: -1")], "stride.length: -1", "arm long: stride.length: must be above 0, not -1"),
        (
            [(LENGTH, "stride.length: true")],
            "stride.length: true",
            "arm long: stride.length: must be a number, such as 0.5, not true",
        ),
        ([(LENGTH, "stride: 3")], "stride: 3", "arm long: stride: must be a mapping of fields, not 3"),
        (
            [(LENGTH, "1st: 3")],
            "3}\n    claim",
            "arms.1.set.1st: must be a field, such as learning_rate or optimizer.learning_rate, not '1st'",
        ),
        (
            [("seeds: 8", "set: {epoch: 3}, seeds: 8")],
            "epoch: 3",
            "recipes.default.set: unknown field epoch; did you mean epochs?",
        ),
        (
            [("seeds: 8", "set: {epochs: 5, stride.length: no}, seeds: 8")],
            "stride.length: no",
            "recipes.default.set: stride.length: must be a number, not 'no'",
        ),
        (
            [("recipes:\n  default: {", "recipes:\n  default: {edits: {long: {epochs: 0}}, ")],
            "epochs: 0",
            "arm long: epochs: must be at least 1, not 0",
        ),
        (
            [("baseline: baseline", "baseline: baseline\nprimary_metric: test_los")],
            "primary_metric",
            "primary_metric: core walk has no metric test_los; did you mean test_loss?",
        ),
        (
            [("smallest_effect: 0.1}", "smallest_effect: 0.1, threshold: 3}")],
            "threshold",
            "recipes.default.threshold: goes with statistic time_to_threshold",
        ),
        (
            [("baseline: baseline", "baseline: baseline\nstatistic: time_to_threshold")],
            "{seeds: 8",
            "recipes.default.threshold: goes with statistic time_to_threshold",
        ),
        (
            [("baseline: baseline", "baseline: baseline\nstatistic: log_ratio")],
            "default: {seeds",
            "recipes.default: margin and smallest_effect are ratios above 1 with statistic log_ratio",
        ),
        (
            [("seeds: 8", "network: alexnet-mini, seeds: 8")],
            "alexnet-mini",
            "recipes.default.network: is for studies of AlexNet; the fields of another core stand under set",
        ),
        (
            [("seeds: 8", "training: {epochs: 3}, seeds: 8")],
            "training",
            "recipes.default.training: is for studies of AlexNet; the fields of another core stand under set",
        ),
        (
            [("seeds: 8", "data: {source: digits}, seeds: 8")],
            "data",
            "recipes.default.data: is for studies of AlexNet; the fields of another core stand under set",
        ),
        (
            [("title: a springy stride", "title: a springy stride, remove: [lrn1]")],
            "[lrn1]",
            "arms.2.remove: is for the layers and images of AlexNet; the fields of another core stand under set",
        ),
        (
            [("title: a springy stride", "title: a springy stride, views: 10")],
            "10",
            "arms.2.views: is for the layers and images of AlexNet; the fields of another core stand under set",
        ),
        (
            [("recipes:\n", "recipes:\n  digits: {seeds: 8, margin: 0.05, smallest_effect: 0.1}\n")],
            "recipes",
            "recipes: digits and default would share one folder; rename one of them",
        ),
        ([("core: walk.py", "core: 3")], "3", "core: must be a core's name, or a mapping that declares a script"),
        ([("core: walk.py", 'core: ""')], '""', "core: must be a core's name, or a mapping that declares a script"),
        ([("core: walk.py", 'core: "x y"')], "core", "'x y' is no core's name: give a module such as "),
        (
            [("core: walk.py", f"core: {SCRIPT.replace('loss: {unit: nats}', 'loss: {unit: nats, beter: lower}')}")],
            "beter",
            "core.metrics.loss.beter: unknown field; did you mean better?",
        ),
        (
            [("core: walk.py", f"core: {SCRIPT.replace('chosen_by: loss', 'chosen_by: los')}")],
            "los\n",
            "core.chosen_by: 'los' is none of the metrics: loss",
        ),
        (
            [("core: walk.py", f"core: {SCRIPT.replace('chosen_by: loss', '').replace('}}', '}, error: {}}')}")],
            "name: walk",
            "core.chosen_by: of several metrics name the one by which sweeps and best choose: loss, error",
        ),
        (
            [(SWEPT, SWEPT.replace("0.1", "-0.1"))],
            "stride.length: {kind",
            "point of walking/sweep: stride.length: must be above 0, not -0.1",
        ),
        (
            [(SWEPT, SWEPT.replace("length", "lenth"))],
            "stride.lenth",
            "point of walking/sweep: stride.lenth: unknown field; did you mean length?",
        ),
        (
            [(SWEPT, "    epochs: {kind: float, low: 1, high: 5}")],
            "epochs: {kind",
            "point of walking/sweep: epochs: must be a whole number, not 3.47",
        ),
        (
            [("sweep:\n", "retune: {parameter: stride.lengt, low: 0.1, high: 1}\nsweep:\n")],
            "parameter: stride",
            "study walking, retune: stride.lengt is no number above 0 that could be tuned over a decade each way; such "
            "are stride.length",
        ),
        (
            [("sweep:\n", "retune: {parameter: stride.length, low: 0.1, high: 1}\nsweep:\n")],
            "parameter: stride",
            "study walking, retune: arm long sets stride.length itself, so that it cannot be tuned",
        ),
        (
            [("sweep:\n", "retune: {parameter: epochs, low: 0.1, high: 1}\nsweep:\n")],
            "retune",
            "study walking, retune: epochs: must be a whole number, not 0.316",
        ),
    ],
)
def test_every_mistake_is_one_line_with_its_place(
    walk_folder: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[tuple[str, str]],
    word: str,
    complaint: str,
) -> None:
    text = changed(*changes)
    (walk_folder / "walking.yaml").write_text(text)
    code, output, errors = planned(capsys, walk_folder)
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1, errors
    where, _, said = errors.removeprefix("error: walking.yaml:").partition(": ")
    assert said.startswith(complaint), errors
    assert where == place(text, word)


def test_a_core_that_is_not_there_is_named_at_its_place(walk_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (walk_folder / "walking.yaml").write_text(changed(("core: walk.py", "core: wlk.py")))
    code, _, errors = planned(capsys, walk_folder, "--core", "wlk.py")
    assert code == 2
    assert errors.startswith("error: walking.yaml:1:1: core wlk: there is no module wlk in ")
    (walk_folder / "walk.py").write_text("import nothing_of_that_name\n")
    (walk_folder / "walking.yaml").write_text(STUDY)
    code, _, errors = planned(capsys, walk_folder)
    assert code == 2
    assert errors == (
        "error: walking.yaml:1:1: core walk cannot be imported: ModuleNotFoundError: No module named "
        "'nothing_of_that_name' (walk.py, line 1)\n"
    )


def test_without_its_core_a_study_is_one_of_alexnet_and_says_what_that_lacks(
    walk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (walk_folder / "walking.yaml").write_text(changed(("core: walk.py\n", "")))
    code, _, errors = planned(capsys, walk_folder)
    assert code == 2
    lines = errors.removeprefix("error: ").splitlines()
    assert all(re.match(r"walking\.yaml:\d+:\d+: ", line) for line in lines)
    fields = [line.split(": ")[1] for line in lines]
    missing = [f"recipes.default.{name}" for name in ("data", "network", "input_size", "training")]
    sets = ["arms.1.set.stride.length", "arms.2.set.stride.is_springy", "sweep.parameters.stride.length"]
    assert fields == [*sets, *missing]


def test_set_is_for_other_cores_than_alexnet() -> None:
    text = changed(("core: walk.py\n", ""), ("set: {stride.length: 0.8}", "set: {training.epochs: 3}"))
    text = text.replace("{stride.is_springy: true}", "{training.epochs: 4}").partition("sweep:")[0]
    text += "recipes:\n  digits: {seeds: 8, margin: 0.5, smallest_effect: 1, set: {epochs: 3}}\n"
    with pytest.raises(
        Exception, match=r"mine\.yaml:\d+:\d+: recipes\.digits\.set: is for studies with a core of their own"
    ):
        parse_model(text, Study, "mine.yaml")


def test_margins_are_in_the_shown_unit_and_have_no_upper_end(
    walk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ("margin: 0.05, smallest_effect: 0.1", "margin: 500, smallest_effect: 1500.5")
    (walk_folder / "walking.yaml").write_text(changed(wide))
    code, output, errors = planned(capsys, walk_folder)
    assert (code, errors) == (0, "")
    assert output.startswith("24 trials wanted, 0 on record, 24 to train")
    # AlexNet 的仍以百分点计
    lrn = load_study("lrn").model_dump(exclude_unset=True)
    with pytest.raises(ValueError, match="less than or equal to 100"):
        Study.model_validate({**lrn, "recipes": {"digits": {**lrn["recipes"]["digits"], "margin": 500.0}}})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "stride.lenth=3"], "--set: stride.lenth: unknown field; did you mean length?"),
        (["--set", "stride.length=3"], "--set stride.length: arm long of study walking edits this field itself; "),
        (["--set", "epochs=true"], "--set: epochs: must be a number, such as 3, not true"),
        (["--retune", "epochs"], "--retune: epochs is no number above 0 that could be tuned over a decade each way; "),
        (["--network", "alexnet-mini"], "--network is for AlexNet; of this study's core use its own fields"),
        (["--epochs", "3"], "--epochs is for AlexNet; of this study's core use --set epochs=N, where it has such a f"),
        (["--workers", "2"], "--workers is for AlexNet: a trial of another core is one process; several GPUs for it a"),
        (["--data-root", "/nowhere"], "data folder /nowhere does not exist\n"),
        (["--dataset", "digits"], "study walking has no recipe for data set 'digits'; it has: default"),
        (
            ["--sweep", "3", "--sweep-over", "lenth={kind: float, low: 1, high: 2}"],
            "point of walking/sweep: unknown field lenth; it has: epochs, seed, stride",
        ),
        (
            ["--sweep", "3", "--multi", "multiply_adds"],
            "--multi multiply_adds: core walk does not say it; give it the function sizes",
        ),
        (
            ["--sweep", "3", "--multi", "images_per_second"],
            "--multi images_per_second: core walk reports no images; use multiply_adds",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    walk_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    code, output, errors = planned(capsys, walk_folder, *arguments)
    assert (code, output, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith(f"error: {complaint}")


def test_data_that_the_core_says_nothing_of_are_mentioned(
    walk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = planned(capsys, walk_folder, "--data-root", str(walk_folder))
    assert code == 0
    assert output.startswith("note: core walk does not say what is in the data: with other data in --data-root its ")
    core = (walk_folder / "walk.py").read_text().replace("gpus=0,", "gpus=0, data=lambda config, root: root.name,")
    (walk_folder / "walk.py").write_text(core)
    _, output, _ = planned(capsys, walk_folder, "--data-root", str(walk_folder))
    assert "note:" not in output


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("1 / 0", r"core walk: data raised ZeroDivisionError: division by zero \(walk\.py, line \d+\)"),
        ("root / 'x'", r"core walk: data raised TypeError: unsupported operand"),
        ("None", "core walk: data returns a text that stands for the content, not None"),
        ("''", "core walk: data returns a text that stands for the content, not ''"),
    ],
)
def test_a_digest_that_cannot_be_had_is_one_line(
    walk_folder: Path, capsys: pytest.CaptureFixture[str], returned: str, complaint: str
) -> None:
    core = (walk_folder / "walk.py").read_text().replace("gpus=0,", f"gpus=0, data=lambda config, root: {returned},")
    (walk_folder / "walk.py").write_text(core)
    code, _, errors = planned(capsys, walk_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert re.match(f"error: {complaint}", errors), errors


def test_what_a_scripts_data_hold_is_in_the_key_wherever_they_lie(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = changed(("core: walk.py", f"core: {SCRIPT}  data: [table.csv, 'images/**']"), ("stride.length", "length"))
    study = (
        study.partition("  - {name: springy")[0] + "recipes:\n  default: {seeds: 8, margin: 1, smallest_effect: 2}\n"
    )

    def shown(root: Path | None, text: str = study) -> tuple[str, str, str]:
        (walk_folder / "walking.yaml").write_text(text)
        options = [] if root is None else ["--data-root", str(root)]
        code, output, errors = planned(capsys, walk_folder, "--core", "walk", "--show", "long:3", "--json", *options)
        said = json.loads(output)
        assert code == (0 if "key" in said else 2), errors
        return said.get("key", ""), said.get("error") or "", said.get("configuration", {}).get("data", {}).get("digest")

    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        (root / "images" / "cats").mkdir(parents=True)
        (root / "table.csv").write_text("a,b\n")
        (root / "images" / "cats" / "1.png").write_bytes(b"cat")
        (root / "more.csv").write_text(str(root))
    key, _, digest = shown(one)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert shown(two)[0] == key, "moved, and with another file beside them"
    assert shown(None, study.replace("data: [table.csv, 'images", f"data: [{one}/table.csv, '{one}/images"))[0]
    (two / "images" / "cats" / "1.png").write_bytes(b"dog")
    assert shown(two)[0] not in ("", key)
    (two / "images" / "cats" / "1.png").rename(two / "images" / "1.png")
    (two / "images" / "1.png").write_bytes(b"cat")
    assert shown(two)[0] not in ("", key), "a name is content, too"
    assert shown(None)[1] == "core walk: core.data: table.csv lies below --data-root, which is not given"
    (two / "table.csv").unlink()
    assert shown(two)[1] == f"core walk: core.data: there is no table.csv in {two}"
    assert shown(None, study.replace("  data: [table.csv, 'images/**']", ""))[2] == ""


def test_seed_by_seed_nothing_is_retuned_and_nothing_of_it_is_counted(
    walk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = (walk_folder / "walk.py").read_text()
    (walk_folder / "walk.py").write_text(core.replace("epochs: int = Field(default=3, ge=1)", "speed: float = 3.0"))
    retune = "retune: {parameter: speed, low: 1, high: 9, trials: 2}\nsweep:\n"
    (walk_folder / "walking.yaml").write_text(changed(("sweep:\n", retune)))
    code, output, _ = planned(capsys, walk_folder, "--seeds", "5")
    assert code == 0
    assert "re-tuning speed: 3 arms x 2 tuning trials on seeds from 1000, then 15 trials" in output
    _, output, _ = planned(capsys, walk_folder, "--seeds", "auto", "--max-seeds", "5", "--json")
    (plan,) = json.loads(output)["plans"]
    assert {row["phase"]: row["trials"] for row in plan["left"]} == {"arm": 15}
    assert plan["cost"]["trials"] == 15
    (note,) = plan["notes"]
    assert note.startswith("note: --seeds auto leaves the study's re-tuning of speed out, which needs whole arms: ")


def test_alexnet_takes_no_core(walk_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--study", "lrn", "--core", "walk.py", "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "error: --core walk.py: study lrn trains AlexNet and names no core; leave it out\n"
    )


def test_a_plan_shows_what_its_fields_become(walk_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output, _ = planned(capsys, walk_folder, "--show", "long:3", "--set", "epochs=5")
    config = json.loads(output)
    assert config["seed"] == 3
    assert config["fields"] == {"epochs": 5, "seed": 7, "stride": {"length": 0.8, "is_springy": False}}
    assert (config["core"]["name"], config["data"]) == ("walk", {"name": "default", "digest": "", "root": None})
