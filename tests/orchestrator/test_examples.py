"""The examples in `docs/examples` and on the pages: each core keeps its word, each study is planned, two are asked."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import ablate, best, check_core, report, status
from orchestrator.cores.contract import Core
from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.training import Place, Report, StateFolder, train_core
from search_spaces.script import Script
from search_spaces.study import Study, load_study
from tests.lab import Lab

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "docs" / "examples").glob("*/*.yaml"))
# 这个例子要另装一个包
NEEDED = {"lightning_trainer": "lightning"}
REPORTS = 2
WALK = ROOT / "docs" / "your_own_model.md"
MAINS = {f"orchestrator.{module.__name__.split('.')[-1]}": module.main for module in (ablate, best, report, status)}


@dataclass(frozen=True)
class Example:
    """A folder of `docs/examples`: its study file, what that asks, and how the command calls its core."""

    path: Path
    study: Study
    shown: str

    def core(self) -> Core:
        return load_core(core_name(self.path.name if isinstance(self.study.core, Script) else self.shown, self.folder))

    @property
    def folder(self) -> Path:
        return self.path.parent


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a slot on the CPU: on busy cores two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of the test's own, in which consent is remembered."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    return tmp_path / "home"


@pytest.fixture(params=STUDIES, ids=lambda path: path.parent.name)
def example(request: pytest.FixtureRequest, home: Path) -> Example:
    path: Path = request.param
    package = NEEDED.get(path.parent.name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: uv sync --group examples")
    study = load_study(str(path))
    assert study.core is not None
    return Example(path, study, study.core.name if isinstance(study.core, Script) else study.core)


def first_reports(core: Core, seed: int, folder: Path, count: int = REPORTS) -> list[Report]:
    """The first reports of a training that is then stopped; it goes on from what it has saved in a folder."""
    states = StateFolder(folder / "states", least_seconds=0.0)
    with closing(train_core(core, core.config(), Place(seed, folder=folder / "script"), states)) as training:
        return list(islice(training, count))


def last_state(folder: Path) -> Any:
    saved = StateFolder(folder / "states").latest()
    assert saved is not None
    return saved.state


def numbers(reports: list[Report]) -> list[tuple[int, dict[str, float]]]:
    return [(report.number, report.metrics) for report in reports]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_an_example_repeats_by_seed_and_goes_on_where_it_was_stopped(example: Example, tmp_path: Path) -> None:
    core = example.core()
    straight = first_reports(core, 0, tmp_path / "straight")
    assert [report.number for report in straight] == [1, 2]
    assert all(math.isfinite(value) for report in straight for value in report.metrics.values())
    other = first_reports(core, 1, tmp_path / "other")
    assert numbers(other) != numbers(straight)
    begun = first_reports(core, 0, tmp_path / "stopped", count=1)
    assert numbers(begun) == numbers(straight)[:1]
    gone_on = first_reports(core, 0, tmp_path / "stopped")
    # 不存状态的从头来过，数字照样一样；脚本若恰在写完之后、退出之前被停，也只能如此
    begins_again = isinstance(example.study.core, Script) and gone_on[0].number == 1
    expected = straight if begins_again or not (tmp_path / "stopped" / "states").is_dir() else straight[1:]
    assert numbers(gone_on)[: len(expected)] == numbers(expected)


@pytest.mark.slow
def test_the_study_of_an_example_is_planned_with_enough_seeds(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--study", str(example.path), "--core", example.shown, "--results", str(tmp_path / "r")]
    assert ablate.main([*command, "--sweep", "3", "--dry-run"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "can reach a verdict" in output
    assert all(f"    {arm.name}: " in output for arm in example.study.arms)
    assert len(example.study.arms) >= 3
    assert not (tmp_path / "r" / "trials").exists()


@pytest.mark.usefixtures("one_thread")
def test_what_an_example_offers_beside_its_training_works(example: Example, tmp_path: Path) -> None:
    core, config = example.core(), example.core().config()
    if core.data is not None:
        assert core.data(config, None) == core.data(config, None) != ""
    if core.sizes is not None:
        sizes = core.sizes(config)
        assert sizes.keys() == {"parameters", "multiply_adds"}
        assert all(value > 0 for value in sizes.values())
    if core.export is not None and core.pictures is not None:
        first_reports(core, 0, tmp_path, count=1)
        core.export(config, last_state(tmp_path), tmp_path)
        core.pictures(config, last_state(tmp_path), tmp_path)
        assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".safetensors", ".png"}


def test_the_data_of_a_folder_are_in_the_key_of_the_examples_that_take_one(home: Path, tmp_path: Path) -> None:
    core = load_core(core_name("progression", ROOT / "docs" / "examples" / "regression"))
    assert core.data is not None
    rows = [f"{number},{number * number % 7},{2 * number}" for number in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,target", *rows]))
    digest = core.data(core.config(), tmp_path)
    with closing(train_core(core, core.config(), Place(0, data_root=tmp_path))) as training:
        assert next(training).metrics.keys() == core.metrics.keys()
    (tmp_path / "table.csv").write_text("\n".join(["a,b,target", *rows[:-1], "39,1,77"]))
    assert core.data(core.config(), tmp_path) != digest


@pytest.mark.parametrize("page", ["docs/your_own_model.md", "docs/manual.zh-CN.md"])
def test_the_smallest_core_and_its_study_are_what_they_say(
    page: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / page).read_text()
    for language, name in (("python", "my_core.py"), ("yaml", "my_question.yaml")):
        (block,) = re.findall(rf"```{language}\n(# {name}\n.*?)```", text, re.DOTALL)
        (tmp_path / name).write_text(block)
    core = load_core(core_name("my_core.py", tmp_path))
    assert numbers(first_reports(core, 0, tmp_path)) != numbers(first_reports(core, 1, tmp_path))
    study = ["--study", str(tmp_path / "my_question.yaml"), "--results", str(tmp_path / "r")]
    assert ablate.main([*study, "--core", "my_core", "--dry-run"]) == 0
    assert "8 seeds can reach a verdict" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_of_the_page_is_checked_and_planned_by_the_commands_below_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = WALK.read_text().split("## A script in any language")[1].split("It needs no Python.")[0]
    for language, name in (("python", "train.py"), ("yaml", "my_script.yaml")):
        (block,) = re.findall(rf"```{language}\n(# {name}\n.*?)```", section, re.DOTALL)
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    check, ask = commands_in(section)
    assert check[0] == "orchestrator.check_core"
    assert check_core.main(check[1:]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "another seed gives other numbers" in said
    assert MAINS[ask[0]]([*ask[1:], "--dry-run"]) == 0
    assert "16 trials wanted, 0 on record, 16 to train" in capsys.readouterr().out


def test_the_walk_shows_the_first_example_and_the_script_as_they_are() -> None:
    text = WALK.read_text()
    for path in sorted((ROOT / "docs" / "examples" / "pytorch_loop").iterdir()):
        if path.is_file():
            assert f"\n{path.read_text()}```" in text, path
    script = (ROOT / "docs" / "examples" / "awk_script" / "averaging.yaml").read_text()
    assert f"```yaml\n{script[: script.index('name: averaging')]}```" in text
    for study in STUDIES:
        assert f"| [{study.parent.name}](examples/{study.parent.name}) |" in text


def walked_commands() -> list[list[str]]:
    """The commands of the ten minutes, in order: module and arguments."""
    return commands_in(WALK.read_text().split("## Ten minutes")[1].split("\n## ")[0])


def commands_in(text: str) -> list[list[str]]:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_of_ten_minutes_ends_with_a_verdict(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("digits_cnn.py", "normalisation.yaml"):
        shutil.copy(ROOT / "docs" / "examples" / "pytorch_loop" / name, lab.home)
    variables = {"HOME": str(lab.home), "XDG_CONFIG_HOME": str(lab.home / ".config")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lab.home)
    commands = walked_commands()
    assert len(commands) >= 10
    for module, *arguments in commands:
        if module in MAINS and (lab.home / "results" / "trials").exists():
            # 只读的命令不必各起一个进程
            code = MAINS[module](arguments)
            output, errors = capsys.readouterr()
        else:
            code, output, errors = lab.run(*arguments, module=module, timeout=600, **variables)
        assert code == 0, (module, arguments, output, errors)
    results = lab.home / "results"
    answer = json.loads((results / "studies" / "normalisation" / "answer.json").read_text())
    words = {arm["name"]: arm["word"] for arm in answer["arms"]}
    assert words["no_norm"] == "supports"
    log = next(iter(sorted((results / "trials").glob("*/log.txt")))).read_text()
    assert ": started\n" in log
    assert (lab.home / "winner" / "code" / "digits_cnn.py").is_file()


@pytest.mark.slow
def test_the_script_is_asked_and_its_records_are_as_declared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = ROOT / "docs" / "examples" / "awk_script" / "averaging.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(lab.home / ".config"))
    code, output, errors = lab.ablate(
        *("--study", str(study), "--core", "perceptron", "--seeds", "2", "--set", "epochs=3"),
        *("--slots", "1", "--no-dashboard"),
    )
    assert code == 0, output + errors
    assert len(lab.finished()) == 3 * 2
    for key in lab.finished():
        result = json.loads((lab.results / "trials" / key / "result.json").read_text())
        reports = (lab.results / "trials" / key / "epochs.jsonl").read_text().splitlines()
        assert (result["state"], len(reports)) == ("finished", 3)
        assert result["metrics"].keys() == {"validation_error", "test_error"}
        assert result["environment"]["resumes"] == "from its own checkpoint"
    assert best.main(["--results", str(lab.results), "--export", str(lab.home / "winner")]) == 0
    assert (lab.home / "winner" / "checkpoint" / "perceptron").read_text().startswith("3 ")
    capsys.readouterr()
