"""A study file that names code runs nothing until its user has said once that it may; who only reads runs nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import ablate, best, check_core, merge, publish, report, run_study, status
from orchestrator.cores.consent import check_consent, check_kept_code
from orchestrator.cores.contract import ContractError
from orchestrator.cores.identity import accept, code_of, kept_code
from orchestrator.cores.loading import CoreName, core_name, load_core
from orchestrator.errors import LabError
from search_spaces.script import Script
from search_spaces.study import load_study
from tests.made_core_records import STUDY, WALK, changed, describe, plan_walk, put_study, study_of

# 一被导入就留下痕迹
ACTS = f"import pathlib\n(pathlib.Path(__file__).parent / 'ACTED').touch()\n{WALK}"
SCRIPT = """core:
  name: walk
  command: [{python}, acts.py, --stride, "{{stride}}", --seed, "{{seed}}"]
  parameters: {{stride: 0.5}}
  metrics: {{loss: {{unit: nats}}}}
  chosen_by: loss
  judged_by: loss
  files: [acts.py]
"""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must end with one line and exit code 2."""
    capsys.readouterr()
    code = ablate.main(arguments)
    output, errors = capsys.readouterr()
    assert (code, output, errors.count("\n")) == (2, "", 1), errors
    return errors


@pytest.mark.parametrize("further", [["--dry-run"], ["--show"], ["--seeds", "2"], ["--dry-run", "--json"]])
def test_nothing_is_imported_before_the_user_said_so(
    walk_folder: Path, capsys: pytest.CaptureFixture[str], further: list[str]
) -> None:
    (walk_folder / "walk.py").write_text(ACTS)
    code = ablate.main(["--study", "walking.yaml", "--results", "results", *further])
    output, errors = capsys.readouterr()
    said = json.loads(output)["error"] if "--json" in further else errors.removeprefix("error: ").strip()
    assert code == 2
    assert said == (
        f"this study imports walk of {walk_folder}, which is code that it names and you have not run from here yet; if "
        "you trust it, say so once: --core walk.py"
    )
    assert sorted(path.name for path in walk_folder.iterdir()) == ["walk.py", "walking.yaml"], "nothing is written"
    assert not Path(os.environ["XDG_CONFIG_HOME"]).exists()


def test_what_was_said_is_remembered_in_the_home_and_for_this_code_alone(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (walk_folder / "walk.py").write_text(ACTS)
    asked = ["--study", "walking.yaml", "--dry-run", "--results", "results"]
    wrong = refused(capsys, *asked, "--core", "wlk.py")
    assert wrong == "error: --core wlk.py: the study's core is walk.py\n"
    # 没有的文件先说没有，不问准不准；已经说准了也不记下
    (walk_folder / "walk.py").rename(walk_folder / "moved.py")
    for given in ([], ["--core", "walk.py"]):
        assert "core walk: there is no module walk in" in refused(capsys, *asked, *given)
    (walk_folder / "moved.py").rename(walk_folder / "walk.py")
    assert not (walk_folder / "ACTED").exists()
    assert "say so once" in refused(capsys, *asked)
    assert ablate.main([*asked, "--core", "walk.py"]) == 0
    assert (walk_folder / "ACTED").exists()
    assert ablate.main(asked) == 0, "once is enough"
    assert refused(capsys, *asked, "--core", "wlk.py") == wrong, "a wrong name is wrong also afterwards"
    remembered = list(tmp_path.rglob("cores.json"))
    assert remembered == [tmp_path / "config" / "alexnet-ablation" / "cores.json"]
    assert not (walk_folder / "results").exists()
    # 同样的代码放在别处，是别人放的
    shutil.copytree(walk_folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "ACTED").unlink()
    os.chdir(tmp_path / "elsewhere")
    assert f"imports walk of {tmp_path / 'elsewhere'}" in refused(capsys, *asked)
    assert not (tmp_path / "elsewhere" / "ACTED").exists()
    # 同一个文件夹里的另一个模块也要另问
    os.chdir(walk_folder)
    (walk_folder / "other.py").write_text(ACTS)
    (walk_folder / "walking.yaml").write_text(changed(("core: walk.py", "core: other.py")))
    assert "imports other of" in refused(capsys, *asked)


@pytest.mark.parametrize(
    ("study", "declared", "given"),
    [
        ("walk.py", "walk", "walk"),
        ("walk.py", "stroll", "stroll"),
        ("walk", "stroll", "./walk.py"),
        ("walk:core", "stroll", "walk.py:core"),
        ("lab.walk", "walk", "walk"),
    ],
)
def test_a_core_is_called_by_its_module_its_file_or_its_name(
    walk_folder: Path, capsys: pytest.CaptureFixture[str], study: str, declared: str, given: str
) -> None:
    file = walk_folder / ("lab/walk.py" if study.startswith("lab") else "walk.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(ACTS.replace('name="walk"', f'name="{declared}"'))
    (walk_folder / "walking.yaml").write_text(changed(("core: walk.py", f"core: {study}")))
    asked = ["--study", "walking.yaml", "--dry-run"]
    assert refused(capsys, *asked, "--core", "wlk") == f"error: --core wlk: the study's core is {study}\n"
    assert not (file.parent / "ACTED").exists(), "its name is read, not asked"
    assert ablate.main([*asked, "--core", given]) == 0


def test_a_home_that_cannot_be_written_is_asked_each_time(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text("no folder")
    asked = ["--study", "walking.yaml", "--dry-run"]
    assert ablate.main([*asked, "--core", "walk.py"]) == 0
    assert "say so once: --core walk.py" in refused(capsys, *asked)


@pytest.mark.parametrize("home", [None, "", "/", "somewhere"])
def test_without_a_home_it_is_asked_each_time_and_nothing_is_written_elsewhere(
    walk_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    asked = ["--study", "walking.yaml", "--dry-run"]
    assert "say so once: --core walk.py" in refused(capsys, *asked)
    assert ablate.main([*asked, "--core", "walk.py"]) == 0
    assert "say so once: --core walk.py" in refused(capsys, *asked)
    assert not (walk_folder / "somewhere").exists()
    assert not Path("/.config/alexnet-ablation").exists()


def test_a_script_is_another_one_with_another_command_line(
    walk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (walk_folder / "acts.py").write_text("import pathlib\npathlib.Path('ACTED').touch()\n")
    text = STUDY.partition("sweep:")[0].replace("core: walk.py\n", SCRIPT.format(python=sys.executable))
    text = text.replace("stride.length", "stride").replace("{stride.is_springy: true}", "{stride: 0.6}")
    text += "recipes:\n  default: {seeds: 8, margin: 0.05, smallest_effect: 0.1}\n"
    asked = ["--study", "walking.yaml", "--dry-run"]
    (walk_folder / "walking.yaml").write_text(text)
    first = refused(capsys, *asked)
    (walk_folder / "acts.py").rename(walk_folder / "moved.py")
    assert f"there is no acts.py in {walk_folder}" in refused(capsys, *asked)
    (walk_folder / "moved.py").rename(walk_folder / "acts.py")
    assert f"runs {sys.executable} acts.py --stride {{stride}} --seed {{seed}}, which is code" in first
    assert ablate.main([*asked, "--core", "walk"]) == 0
    assert ablate.main(asked) == 0
    (walk_folder / "walking.yaml").write_text(text.replace("--stride,", "--stride-length,"))
    assert "--stride-length {stride}" in refused(capsys, *asked)
    # 换了指标的单位，跑的还是同一条命令
    (walk_folder / "walking.yaml").write_text(text.replace("unit: nats", "unit: bits"))
    assert ablate.main(asked) == 0
    assert not (walk_folder / "ACTED").exists(), "a plan runs no script"


def test_a_core_of_the_package_needs_no_word_and_comes_from_nowhere_else(tmp_path: Path) -> None:
    for name in ("torchvision", "sklearn", "orchestrator"):
        (tmp_path / f"{name}.py").write_text(ACTS)
    for text in ("torchvision", "orchestrator.cores.classifiers.core"):
        name = core_name(text, tmp_path)
        check_consent(name, text, None, None)
        path = list(sys.path)
        assert load_core(name).name == "torchvision"
        assert sys.path == path, "what lies beside the study is no part of the package"
    assert not (tmp_path / "ACTED").exists()
    with pytest.raises(ContractError, match="the study's core is torchvision"):
        check_consent(core_name("torchvision"), "torchvision", None, "walk")


def test_a_name_is_a_module_below_its_folder_and_nothing_else(tmp_path: Path) -> None:
    for text in ("../walk", "a/../../walk", "walk.py:x y", "", ".", "walk..core", "-m", "os;walk"):
        with pytest.raises(ContractError, match="is no core's name"):
            core_name(text, tmp_path)
    assert core_name("walk.py", tmp_path) == CoreName("walk", None, tmp_path)
    assert core_name("lab.walk:small", tmp_path) == CoreName("lab.walk", "small", tmp_path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the study `walking` on record, made by hand."""
    results = tmp_path_factory.mktemp("recorded") / "results"
    plan = plan_walk(study_of(), 8)
    values = [5.0, 5.3, 4.9, 5.1, 5.2, 4.8, 5.0, 5.4]
    springy = [4.9, 5.5, 4.7, 5.2, 5.1, 5.0, 4.8, 5.6]
    put_study(results, plan, {"baseline": values, "long": [value - 0.5 for value in values], "springy": springy})
    return results


def commands(results: Path, key: str, out: Path) -> dict[str, tuple[Callable[[list[str]], int], list[str], int]]:
    """Everything that only reads, with its exit code."""
    where = ["--results", str(results)]
    return {
        "report": (report.main, ["--study", "walking", *where], 0),
        "report of a file": (report.main, ["--study", "walking.yaml", "--json", *where], 0),
        "report --check": (report.main, ["--study", "walking", "--check", *where], 0),
        "report --compare": (report.main, ["--study", "walking", "--compare", "long", "springy", *where], 0),
        "report --paper": (report.main, ["--paper", *where], 0),
        "status": (status.main, where, 0),
        "status KEY": (status.main, [key[:12], *where], 0),
        "status --json": (status.main, ["walking", "--json", *where], 0),
        "best": (best.main, where, 0),
        "best --json": (best.main, ["--json", *where], 0),
        "best --export": (best.main, ["--study", "walking", "--export", str(out / "export"), *where], 0),
        "best --prune": (best.main, ["--prune", *where], 0),
        "best --rebuild": (best.main, ["--rebuild", *where], 0),
        "merge": (merge.main, [str(results), "--results", str(out / "merged")], 0),
        "publish": (publish.main, ["--to", "tensorboard", str(out / "board"), *where], 0),
        "check_core --trial": (check_core.main, ["--trial", str(results / "trials" / key)], 4),
    }


@pytest.mark.slow
def test_reading_imports_nothing_wherever_the_results_lie(
    walk_folder: Path, tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another machine there is no core, or what goes by its name there is somebody else's."""
    (walk_folder / "walk.py").write_text(ACTS)
    results = tmp_path / "elsewhere" / "results"
    shutil.copytree(recorded, results)
    (key, *_) = sorted(path.name for path in (results / "trials").iterdir())
    said = {}
    for name, (main, arguments, code) in commands(results, key, tmp_path).items():
        capsys.readouterr()
        assert main(arguments) == code, (name, capsys.readouterr())
        output, errors = capsys.readouterr()
        said[name] = output
        assert "Traceback" not in output + errors, name
        assert not (walk_folder / "ACTED").exists(), f"{name} imports the core"
        assert "walk" not in sys.modules, name
    assert "every verdict is what the records say" in said["report --check"]
    assert "walk version 1 on default" in said["best"]
    assert [row["core"] for row in json.loads(said["best --json"])["configurations"]] == ["walk"] * 3
    (answer,) = json.loads(said["report of a file"])["answers"]
    words = [arm["word"] for arm in answer["answer"]["arms"]]
    assert words == ["baseline", "the same difference in 8 seeds", "inconclusive"]
    assert "24 trials taken (24 finished)" in said["merge"]
    assert "24 runs published" in said["publish"]
    # 全都在案，可要训练的命令还是要先问
    assert "say so once" in refused(capsys, "--study", "walking.yaml", "--results", str(results))
    assert not (walk_folder / "ACTED").exists()


@pytest.mark.slow
def test_a_call_allows_a_core_as_the_command_does_and_answers_in_its_unit(
    walk_folder: Path, tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(recorded, results)
    accept(results, describe(), ["c0de" * 5, code_of(core_name("walk.py", walk_folder)).fingerprint])
    with pytest.raises(LabError, match=r"say so once: --core walk\.py") as caught:
        run_study("walking.yaml", results=results)
    assert caught.value.exit_code == 2
    answer = run_study("walking.yaml", core="walk", results=results)
    assert (answer.unit, answer.answer.metric, answer.some_failed) == ("nats", "test loss", False)
    assert answer.table["arm"].to_list() == ["baseline", "long", "springy"]
    assert answer.table["difference"].to_list() == pytest.approx([None, -0.5, 0.0125], abs=1e-9)
    assert capsys.readouterr().out == "", "the answer is what it returns"


def test_kept_code_is_run_where_it_was_run_before_and_is_what_its_name_says(
    walk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (walk_folder / "walk.py").write_text(ACTS)
    code = code_of(core_name("walk.py", walk_folder))
    results = tmp_path / "results"
    code.keep(results, "walk")
    with pytest.raises(ContractError, match="lies in this results folder, and you have not run it from here yet"):
        check_kept_code(code.fingerprint, "walk", None)
    with pytest.raises(ContractError, match="the trial's core is walk"):
        check_kept_code(code.fingerprint, "walk", "wlk")
    check_kept_code(code.fingerprint, "walk", "walk")
    assert ablate.main(["--study", "walking.yaml", "--core", "walk.py", "--dry-run"]) == 0
    check_kept_code(code.fingerprint, "walk", None)
    kept = kept_code(results, code.fingerprint, "walk")
    assert kept is not None
    called = ("walk", "stroll", "walk.py", "mine/walk.py", "walk:core", "lab.walk", "walking.yaml", "x y")
    assert [kept.is_named(given, "stroll") for given in called] == [True] * 4 + [False] * 4
    assert kept.folder == results / "code" / code.fingerprint
    # 名字没变，里面换了：不是跑过的那一份
    assert kept.folder is not None
    (kept.folder / "walk.py").write_text(ACTS.replace("0.5", "0.6"))
    assert kept_code(results, code.fingerprint, "walk") is None
    (kept.folder / "walk.py").write_text(ACTS)
    (kept.folder / "torch.py").write_text(ACTS)
    assert kept_code(results, code.fingerprint, "walk") is None, "nothing is added to it either"
    for name in ("../../mine", "", "c0de" * 5, "/etc"):
        assert kept_code(results, name, "walk") is None


def test_a_kept_script_is_run_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "acts.py").write_text("print()\n")
    text = SCRIPT.format(python="python") + STUDY.partition("\n")[2]
    (folder / "walking.yaml").write_text(text.partition("sweep:")[0].replace("stride.length", "stride"))
    (folder / "walking.yaml").write_text(
        text.replace("stride.length", "stride").replace("{stride.is_springy: true}", "{stride: 0.6}")
    )
    script = load_study(str(folder / "walking.yaml")).core
    assert isinstance(script, Script)
    name = CoreName("walk", folder=folder)
    code, results = code_of(name, script), tmp_path / "results"
    code.keep(results, "walk")
    assert kept_code(results, code.fingerprint, "walk") is not None
    path = results / "code" / f"{code.fingerprint}.walk.json"
    path.write_text(path.read_text().replace("--stride", "--evil"))
    assert kept_code(results, code.fingerprint, "walk") is None
    # 换了命令行，就是另一份代码：同样的文件给别的数
    other = script.model_copy(update={"command": (*script.command, "--fast")})
    assert code_of(name, other).fingerprint != code.fingerprint
