"""One frame for six commands: the same mistake gets the same words and the same exit code, and no process ends."""

from __future__ import annotations

import argparse
import ast
import ctypes
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from alexnet_core import __main__ as core
from alexnet_core.process import interruption
from alexnet_core.process.command_line import CommandParser
from orchestrator import ablate, best, check_core, merge, publish, report, status
from orchestrator.errors import ExitCode
from search_spaces import __main__ as schema
from tests.made_records import put
from tests.orchestrator.test_damaged_records import make_results

ROOT = Path(__file__).parents[2]
# 每条命令读 RESULTS 的写法；ablate 会自己建，merge 读的是别人的
READERS = {
    "best": (best.main, ["--results", "RESULTS"]),
    "report": (report.main, ["--results", "RESULTS"]),
    "status": (status.main, ["--results", "RESULTS"]),
    "merge": (merge.main, ["RESULTS", "--results", "OWN"]),
    "publish": (publish.main, ["--to", "tensorboard", "RUNS", "--results", "RESULTS"]),
}
ALL = {**READERS, "ablate": (ablate.main, ["--dry-run", "--results", "RESULTS"])}


def run(name: str, results: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and error lines of a command that is given this results folder."""
    main, arguments = ALL[name]
    places = {"RESULTS": str(results), "OWN": str(results.with_name("own")), "RUNS": str(results.with_name("runs"))}
    capsys.readouterr()
    code = main([places.get(argument, argument) for argument in arguments])
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("name", READERS)
def test_a_missing_results_folder_is_exit_code_4(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere"
    line = f"error: results folder {nowhere} does not exist; run an ablation first, or name it with --results"
    assert run(name, nowhere, capsys) == (4, [line])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALL)
def test_a_file_in_the_place_of_the_results_folder_is_exit_code_3(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for results in (file, file / "below"):
        line = f"error: results folder {results}: {file} is a file; choose another with --results"
        assert run(name, results, capsys) == (3, [line])


def parsers() -> dict[str, CommandParser]:
    """The parser of every command and of every verb of the core, by what is typed."""
    found: list[CommandParser] = []

    def take(self: CommandParser, *_: object) -> None:
        found.append(self)
        raise SystemExit

    mains = [module.main for module in (ablate, best, check_core, merge, publish, report, status, core, schema)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse_args", take)
        for main in mains:
            with suppress(SystemExit):
                main(["--help"])
    verbs = [parser for action in found[-2]._actions for parser in (action.choices or {}).values()]
    return {parser.prog: parser for parser in (*found, *verbs)}


@pytest.mark.parametrize("parser", parsers().values(), ids=parsers())
def test_help_says_what_for_the_defaults_and_three_examples_that_are_taken(parser: CommandParser) -> None:
    assert parser.description
    assert len(parser.description.splitlines()) == 1
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default" in action.help or action.help == "the same", action.option_strings
    assert len(parser.examples) >= 3
    text = parser.format_help()
    for words, what in parser.examples.items():
        assert f"  {parser.prog} {words}\n      {what}" in text
        parser.parse_args(shlex.split(re.split(r"[|>]", words)[0]))


UNREADABLE = """
import contextlib, io, json, logging, os, sys
from tests.orchestrator.test_command import ALL
results, folder = sys.argv[1:]
answers = {}
logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
os.chmod(folder, 0o000)
for name, (main, arguments) in ALL.items():
    places = {"RESULTS": results, "OWN": results + "-own", "RUNS": results + "-runs"}
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as output:
        code = main([places.get(argument, argument) for argument in arguments])
    answers[name] = [code, errors.getvalue() or (output.getvalue() if name == "merge" else "")]
os.chmod(folder, 0o755)
print(json.dumps(answers))
"""


def without_privileges() -> None:
    """Lets modes bind root too: drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH for what is executed next."""
    drop_from_bounding_set = 24
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def answers_without(results: Path, folder: Path) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """What every command answers while a folder may not be read: exit codes with error lines, and the warnings."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, str(results), str(folder)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=without_privileges,
            check=False,
        )
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    return {name: (code, line) for name, (code, line) in json.loads(done.stdout).items()}, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "studies", "trials"])
def test_a_results_folder_that_may_not_be_read_is_exit_code_3(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    make_results(results, "lrn")
    answers, _ = answers_without(results, results / name)
    line = f"error: results folder {results / name} cannot be read: Permission denied; choose another with --results\n"
    assert answers == dict.fromkeys(ALL, (3, line))


@pytest.mark.slow
def test_a_trial_that_may_not_be_read_is_left_out_and_named_and_so_is_a_study(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folder = make_results(results, "lrn")
    answers, warnings = answers_without(results, folder)
    trouble = f"{folder / 'result.json'} cannot be read: Permission denied"
    assert answers["best"] == answers["report"] == answers["status"] == answers["publish"] == (0, "")
    assert answers["merge"][0] == 1
    assert answers["merge"][1].startswith(f"refused {folder.name}: {trouble}\n8 trials taken (8 finished)")
    assert answers["ablate"] == (3, f"error: {trouble}\n")
    assert set(warnings) == {f"left out of the tables: {trouble}"}
    study = results / "studies" / "lrn"
    answers, warnings = answers_without(results, study)
    assert answers["status"] == (0, "")
    assert warnings == [f"study lrn is left out: {study} cannot be read: Permission denied"]
    named = {name: line for name, (code, line) in answers.items() if code == 3}
    assert named.keys() == ALL.keys() - {"status"}
    assert all(line.count("\n") == 1 and str(study) in line and "Permission denied" in line for line in named.values())


@pytest.mark.parametrize("name", ALL)
def test_a_current_folder_that_was_deleted_is_exit_code_3(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    line = "error: the current folder: it is not there any more; change to a folder that is"
    assert run(name, Path("results"), capsys) == (3, [line])
    assert core.main(["train", "--network", "alexnet-mini"]) == 2
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("main", "option", "arguments"),
    [
        (ablate.main, "--seeds", []),
        (ablate.main, "--slots", []),
        (best.main, "--top", []),
        (status.main, "--seeds", ["lrn"]),
    ],
)
def test_a_number_that_is_none_is_exit_code_2_in_the_same_words(
    main: object, option: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    assert main([*arguments, option, "many"]) == 2
    assert f"error: argument {option}: must be a whole number, not 'many'; " in capsys.readouterr().err
    assert main([*arguments, option, "0"]) == 2
    assert f"error: argument {option}: must be from 1 to 1000000, not 0; " in capsys.readouterr().err


@pytest.mark.parametrize("page", ["commands.md", "manual.zh-CN.md"])
def test_the_pages_list_the_exit_codes_there_are(page: str) -> None:
    numbers = re.findall(r"^\| (\d+) \| ", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert [int(number) for number in numbers] == [code.value for code in ExitCode]


def test_the_core_and_the_orchestrator_mean_the_same_by_a_code() -> None:
    assert ExitCode.INTERRUPTED == interruption.EXIT_INTERRUPTED
    assert ExitCode.READER_GONE == interruption.EXIT_PIPE_CLOSED
    assert ExitCode.SOME_FAILED == interruption.EXIT_OUTPUT_LOST


def test_every_exit_code_is_given_by_its_name() -> None:
    numbers = [
        f"{path.relative_to(ROOT)}:{node.value.lineno}"
        for path in (ROOT / "orchestrator").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "exit_code" and isinstance(node.value, ast.Constant)
    ]
    assert not numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "variables"),
    [
        *[(encoding, {"PYTHONIOENCODING": encoding}) for encoding in ("ascii", "koi8-r", "utf-8")],
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_any_encoding_of_the_terminal_gets_the_verdict(
    tmp_path: Path, encoding: str, variables: dict[str, str]
) -> None:
    from search_spaces.study import load_study
    from tests.made_plans import make_plan

    for trial in make_plan(load_study("lrn"), 3, epochs=2).trials:
        put(tmp_path, trial.config, 20 + trial.seed)
    command = [sys.executable, "-m", "orchestrator.ablate", "--seeds", "3", "--epochs", "2", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **variables}, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    output = done.stdout.decode(encoding)
    assert "baseline" in output
    assert ("±" if encoding == "utf-8" else "?") in output


def test_what_goes_to_the_drivers_log_is_not_said_on_the_terminal_a_second_time(tmp_path: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from orchestrator.command import framed; "
        "from orchestrator.output.channel import Output; "
        "from orchestrator.running.cluster.driver_log import open_driver_log\n"
        "def body():\n"
        "    open_driver_log(Path(sys.argv[1]))\n"
        "    logging.getLogger('orchestrator.running').info('a trial has ended')\n"
        "    logging.getLogger('orchestrator.running').warning('slow')\n"
        "    return 0\n"
        "sys.exit(framed(body, Output(as_json=False)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "WARNING: slow\n")
    assert "a trial has ended" in (tmp_path / "driver.log").read_text()
