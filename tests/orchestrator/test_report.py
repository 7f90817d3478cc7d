"""The command: reports made again from records, and a check that no edited record, margin or table gets past."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from alexnet_core.configuration.metrics import EpochReport
from orchestrator.judging.answer import Confirmation, ConfirmedPoint, ParameterImportance, SweepFacts, SweepPoint
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.planning.variants.baseline_alone import null_plan
from orchestrator.records import trial_record
from orchestrator.records.evaluations import keep_correct_images, leave_correct_images
from orchestrator.records.layout import trial_folder
from orchestrator.records.looks_file import read_looks
from orchestrator.records.trial_record import join_members
from orchestrator.report import main
from orchestrator.reporting.figures import style
from orchestrator.running.workers.slot_loop import _share
from orchestrator.tables.tables import update_tables
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_records import images_of, make_report, put
from tests.made_reports import make_answer, write

WEIGHTS = "checkpoint/0001-000030-00000000.safetensors"
WRONG = {"baseline": [6, 7, 5, 8, 6, 7, 6, 5], "no_lrn": [13, 15, 11, 17, 12, 15, 14, 11]}


def put_on_record(results: Path, name: str = "lrn", seeds: int = 8) -> Plan:
    """A study whose trials are all on record, made by hand."""
    plan = make_plan(load_study(name), seeds)
    for trial in plan.trials:
        wrong = WRONG.get(trial.arm, WRONG["baseline"])[trial.seed]
        weights = {}
        if trial is plan.trials[1]:
            path = trial_folder(results, trial.key) / WEIGHTS
            path.parent.mkdir(parents=True)
            path.write_bytes(b"weights")
            weights = {"weights": WEIGHTS, "weights_sha256": hashlib.sha256(b"weights").hexdigest()}
        key = put(results, trial.config, wrong=wrong, test_wrong=wrong, **weights)
        if weights:
            folder = trial_folder(results, key)
            result = trial_record.read_result(folder)
            assert result is not None
            leave_correct_images(folder, images_of(result))
            trial_record.write_result(folder, keep_correct_images(folder, result))
    write_plan(results / "studies" / name, plan, ["ablate.py", "--study", name, "--set", "training.epochs=a b"])
    join_members(results, name, "digits", plan.trials)
    update_tables(results)
    return plan


def report(results: Path, *arguments: str) -> int:
    return main([*arguments, "--results", str(results)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("made") / "results"
    put_on_record(results)
    assert report(results, "--study", "lrn") == 0
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    # 时间戳一并复制，否则表会以为每个记录都变了
    return Path(shutil.copytree(made, tmp_path / "results"))


@pytest.mark.slow
def test_the_report_says_where_it_comes_from(made: Path) -> None:
    folder = made / "studies" / "lrn"
    page = (folder / "report.html").read_text()
    source = json.loads((folder / "provenance.json").read_text())
    assert source["command"] == "python -m orchestrator.ablate --study lrn --set 'training.epochs=a b'"
    assert source["trials"] == len(source["records"]) == 24
    assert source["hours"] == pytest.approx(24 / 3600)
    for fact in (source["plan_sha256"], source["data"]["content (SHA-256 of the manifest)"], "No trial failed"):
        assert fact in page
    assert all(record["sha256"] in page for record in source["records"])
    assert "correlation with baseline" in page


@pytest.mark.slow
def test_gpus_that_are_reserved_are_paid_for_also_where_one_idles(tmp_path: Path) -> None:
    plan = put_on_record(tmp_path, seeds=3)
    on_gpus = {"devices": "cuda:0", "reserved_gpus": "0,1", "workers": 2}
    for trial in plan.trials:
        put(tmp_path, trial.config, state="failed", message="out of memory", seconds=3600.0, environment=on_gpus)
    assert report(tmp_path, "--study", "lrn") == 0
    source = json.loads((tmp_path / "studies" / "lrn" / "provenance.json").read_text())
    assert source["hours"] == pytest.approx(9)
    assert source["gpu_hours"] == pytest.approx(36)
    assert source["idle_gpu_hours"] == pytest.approx(18)
    page = (tmp_path / "studies" / "lrn" / "report.html").read_text()
    assert page.count("out of memory") == 9


@pytest.mark.slow
def test_slots_that_share_a_gpu_pay_their_share(tmp_path: Path) -> None:
    plan = put_on_record(tmp_path, seeds=3)
    shared = {"devices": "cuda:0", "reserved_gpus": "0", "workers": 1, "gpu_share": _share(0.25)}
    for trial in plan.trials:
        put(tmp_path, trial.config, seconds=3600.0, environment=shared)
    assert report(tmp_path, "--study", "lrn") == 0
    source = json.loads((tmp_path / "studies" / "lrn" / "provenance.json").read_text())
    assert (source["hours"], source["gpu_hours"], source["idle_gpu_hours"]) == pytest.approx((9, 2.25, 0))
    assert source["environment"]["gpu_share"] == ["0.25"]
    assert (_share(0.0), _share(1), _share(2)) == (None, None, None)
    for trial in plan.trials:
        put(tmp_path, trial.config, seconds=3600.0, environment={**shared, "gpu_share": "much", "workers": "-1"})
    assert report(tmp_path, "--study", "lrn") == 0
    source = json.loads((tmp_path / "studies" / "lrn" / "provenance.json").read_text())
    assert source["gpu_hours"] == pytest.approx(9)


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(results: Path) -> None:
    folder = results / "studies" / "lrn"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) > 20
    assert report(results, "--study", "lrn") == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def edit_record(results: Path) -> None:
    _, plan = plan_on_record(results / "studies" / "lrn")
    key = next(row.key for row in plan.trials if row.arm == "no_lrn" and row.seed == 3)
    path = trial_folder(results, key) / "result.json"
    content = json.loads(path.read_text())
    content["test"]["top1_errors"] = 0
    path.write_text(json.dumps(content))


def edit_margin_of_the_plan(results: Path) -> None:
    path = results / "studies" / "lrn" / "plan.json"
    content = json.loads(path.read_text())
    content["margin"] = content["recipe"]["margin"] = 9.0
    path.write_text(json.dumps(content))


def edit_json_margin(results: Path) -> None:
    path = results / "studies" / "lrn" / "answer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "margin": 9.0}))


def edit_trials_table(results: Path) -> None:
    path = results / "tables" / "trials.parquet"
    table = pl.read_parquet(path)
    table.with_columns(pl.col("test_top1_errors") + (pl.col("seed") == 5).cast(pl.Int64)).write_parquet(path)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edited(results: Path) -> None:
        path = results / "studies" / "lrn" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edited


def take_out_of_sums(results: Path) -> None:
    edit("report.md", "supports", "contradicts")(results)
    path = results / "studies" / "lrn" / "SHA256SUMS"
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if not line.endswith("report.md\n"))
    )


def edit_with_its_sum(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edited(results: Path) -> None:
        path = results / "studies" / "lrn" / name
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(name, old, new)(results)
        edit("SHA256SUMS", before, hashlib.sha256(path.read_bytes()).hexdigest())(results)

    return edited


def edit_a_png_with_its_sum(results: Path) -> None:
    path = results / "studies" / "lrn" / "figures" / "seeds.png"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes((path.parent / "curves.png").read_bytes())
    edit("SHA256SUMS", before, hashlib.sha256(path.read_bytes()).hexdigest())(results)


def edit_an_attempt(results: Path) -> None:
    path = second_record(results) / "attempts.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "at": "2020-01-01T00:00:00+00:00"}) + "\n")


def swap_members(results: Path) -> None:
    path = results / "studies" / "lrn" / "members.jsonl"
    swapped = {"no_lrn": "as_run", "as_run": "no_lrn"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{**row, "arm": swapped.get(row["arm"], row["arm"])} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drop_member(results: Path) -> None:
    path = results / "studies" / "lrn" / "members.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def swap_plan(results: Path) -> None:
    path = results / "studies" / "lrn" / "plan.json"
    content = json.loads(path.read_text())
    swapped = {"no_lrn": "as_run", "as_run": "no_lrn"}
    content["trials"] = [{**row, "arm": swapped.get(row["arm"], row["arm"])} for row in content["trials"]]
    path.write_text(json.dumps(content))


def edit_parquet_with_its_sum(results: Path) -> None:
    path = results / "studies" / "lrn" / "tables" / "trials.parquet"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    table = pl.read_parquet(path)
    table.with_columns(pl.col("seed") + 1).write_parquet(path)
    edit("SHA256SUMS", before, hashlib.sha256(path.read_bytes()).hexdigest())(results)


def hide_an_arm(results: Path) -> None:
    """Takes an arm's trials out of what is checked, its sum edited too."""
    path = results / "studies" / "lrn" / "provenance.json"
    before, content = hashlib.sha256(path.read_bytes()).hexdigest(), json.loads(path.read_text())
    content["records"] = [record for record in content["records"] if record["arm"] != "no_lrn"]
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
    edit("SHA256SUMS", before, hashlib.sha256(path.read_bytes()).hexdigest())(results)


def delete_looks(results: Path) -> None:
    (results / "studies" / "lrn" / "looks.jsonl").unlink()


def second_record(results: Path) -> Path:
    return trial_folder(results, plan_on_record(results / "studies" / "lrn")[1].trials[1].key)


def add_attempt(results: Path) -> None:
    trial_record.next_attempt(second_record(results))


def add_row(results: Path) -> None:
    path = results / "tables" / "trials.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table.head(1).with_columns(key=pl.lit("0" * 20))]).write_parquet(path)


def drop_row(results: Path) -> None:
    path = results / "tables" / "trials.parquet"
    table = pl.read_parquet(path)
    table.filter(pl.col("key") != second_record(results).name).write_parquet(path)


def cut_record(results: Path) -> None:
    path = second_record(results) / "result.json"
    path.write_text(path.read_text()[:40])


def delete_epochs(results: Path) -> None:
    (second_record(results) / "epochs.jsonl").unlink()


def swap_configs(results: Path) -> None:
    keys = [row.key for row in plan_on_record(results / "studies" / "lrn")[1].trials[:2]]
    one, other = (trial_folder(results, key) / "config.json" for key in keys)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])


def change_weights(results: Path) -> None:
    path = second_record(results) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def flip_a_bit(results: Path) -> None:
    path = second_record(results) / "correct.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 128]))


EDITS: list[tuple[Callable[[Path], None], str]] = [
    (edit_record, r"record \w{20} \(no_lrn seed 3\): result.json was changed"),
    (edit_record, r"verdict on no_lrn: .*mean .* in the report, .* from the records"),
    (edit_margin_of_the_plan, r"verdict on no_lrn: word 'supports' in the report, 'equivalent' from the records"),
    (edit_margin_of_the_plan, r"margin: 0.5 in the report, 9 in plan.json"),
    (edit_json_margin, r"margin: 9 in the report, 0.5 in plan.json"),
    (edit_trials_table, r"trials.parquet, \w{20}, test_top1_errors: 8, in the record 7"),
    (edit("tables/verdicts.csv", "supports", "contradicts"), r"tables/verdicts.csv is not what the records say"),
    (edit("tables/verdicts.tex", "supports", "contradicts"), r"tables/verdicts.tex is not what the records say"),
    (edit("report.md", "supports", "contradicts"), r"report.md is not what the records say"),
    (edit("report.html", "supports the", "contradicts the"), r"report.html is not what the records say"),
    (take_out_of_sums, r"SHA256SUMS has no sum of report.md, so that an edit there cannot be told"),
    (edit_with_its_sum("report.md", "supports", "contradicts"), r"report.md is not what the records say"),
    (swap_members, r"members.jsonl, as_run seed 0: trial \w{20} is no_lrn seed 0 in plan.json"),
    (edit("members.jsonl", '"study": "lrn"', '"study": "towers"'), r"members.jsonl lacks baseline seed 0, "),
    (drop_member, r"members.jsonl lacks baseline seed 0"),
    (swap_plan, r"plan.json, as_run seed 0: trial \w{20}, its configuration is that of trial \w{20}"),
    (edit("looks.jsonl", '"seeds": 8', '"seeds": 7'), r"looks.jsonl lacks the look at 8 seeds"),
    (edit("looks.jsonl", ", 1], [", ", 2], ["), r"looks.jsonl lacks the look at 8 seeds"),
    (edit("looks.jsonl", '"seeds": 8', '"seeds": 7'), r"looks.jsonl: looked at \[7\] seeds, \[8\] in plan.json"),
    (edit("looks.jsonl", '"seeds": 8', '"seed": 8'), r"looks.jsonl has a line that is no look"),
    (edit_parquet_with_its_sum, r"tables/trials.parquet is not what the records say"),
    (hide_an_arm, r"provenance.json lacks no_lrn seed 0, no_lrn seed 1, .* and 3 more"),
    (delete_looks, r"looks.jsonl is gone, on which the answer rests"),
    (add_attempt, r"record \w{20}: attempts.jsonl has 2 attempts, its result.json 1"),
    (add_row, r"trials.parquet, 0{20}: there is no such record"),
    (drop_row, r"trials.parquet lacks \w{20}\n$"),
    (cut_record, r"(?m)^  epochs.parquet, \w{20}, 11 epochs: the table differs from the records\n  complete seeds"),
    (
        delete_epochs,
        r"(?m)epochs.jsonl is missing\n  epochs.parquet, \w{20}, 11 epochs: the table differs from the records\n  [^e]",
    ),
    (swap_configs, r"its configuration is that of trial \w{20}"),
    (change_weights, r"record \w{20}: checkpoint/\S+ is not the file that was recorded"),
    (flip_a_bit, r"record \w{20}: \S+/correct.bin is not the file that was recorded: its SHA-256 differs"),
    (edit("answer.json", '"word": "supports"', '"word": "contradicts"'), r"verdict on no_lrn: word 'contradicts' in"),
]


@pytest.mark.slow
def test_an_honest_report_passes_also_after_its_weights_are_gone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert report(results, "--study", "lrn", "--check") == 0
        assert "every verdict is what the records say" in capsys.readouterr().out
        shutil.rmtree(second_record(results) / "checkpoint", ignore_errors=True)


@pytest.mark.slow
def test_a_report_from_before_looks_had_a_file_passes_without_one(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "studies" / "lrn"
    before = hashlib.sha256((folder / "provenance.json").read_bytes()).hexdigest()
    edit("provenance.json", ' "looks_kept": true,\n', "")(results)
    edit("SHA256SUMS", before, hashlib.sha256((folder / "provenance.json").read_bytes()).hexdigest())(results)
    delete_looks(results)
    assert report(results, "--study", "lrn", "--check") == 0
    assert "every verdict is what the records say" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_from_before_one_was_said_in_the_singular_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_record(tmp_path, seeds=1)
    assert report(tmp_path, "--study", "lrn") == 0
    text = tmp_path / "studies" / "lrn" / "report.md"
    for edit_to, code in ((b"1 complete seeds of 1 planned", 0), (b"2 complete seeds of 1 planned", 1)):
        before, content = text.read_bytes(), re.sub(rb"\d complete seeds? of 1 planned", edit_to, text.read_bytes())
        assert content != before
        text.write_bytes(content)
        edit("SHA256SUMS", *(hashlib.sha256(one).hexdigest() for one in (before, content)))(tmp_path)
        assert report(tmp_path, "--study", "lrn", "--check") == code
    assert "report.md is not what the records say" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_written_anew_puts_deleted_looks_back(results: Path) -> None:
    kept = read_looks(results / "studies" / "lrn")
    delete_looks(results)
    assert report(results, "--study", "lrn") == 0
    assert read_looks(results / "studies" / "lrn") == kept
    assert report(results, "--study", "lrn", "--check") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("change", "named"), EDITS)
def test_an_edited_record_margin_or_table_is_named(
    results: Path, change: Callable[[Path], None], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(results)
    assert report(results, "--study", "lrn", "--check") == 1
    assert re.search(named, capsys.readouterr().out)


@pytest.mark.slow
def test_edits_are_named_although_their_sums_were_edited_too(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in (
        edit_with_its_sum("report.html", "supports the", "contradicts the"),
        edit_with_its_sum("figures/seeds.svg", "no_lrn", "as_run"),
        edit_a_png_with_its_sum,
        edit_with_its_sum("provenance.json", "--study lrn", "--study lrn --seeds 8"),
        edit_with_its_sum("provenance.json", '"hours": 0.00666', '"hours": 0.10666'),
        edit_with_its_sum("provenance.json", '"torch": [\n   "2"', '"torch": [\n   "9"'),
        edit_an_attempt,
    ):
        change(results)
    capsys.readouterr()
    assert report(results, "--study", "lrn", "--check") == 1
    first, *named = capsys.readouterr().out.splitlines()
    assert first == "lrn: differs from its records"
    told, known = (rf"python -m .* --study lrn{more} --set .training.epochs=a b." for more in (" --seeds 8", ""))
    expected = [
        r"record \w{20} \(no_lrn seed 0\): attempts.jsonl was changed after the report",
        rf"provenance.json, command: .{told}. in the report, .{known}. from plan and records",
        r"provenance.json, hours: 0.10666\d+ in the report, 0.00666\d+ from plan and records",
        r"provenance.json: the environment differs from the records in torch",
        r"figures/seeds.png is not what the records say",
        r"figures/seeds.svg is not what the records say",
        r"report.html is not what the records say",
    ]
    assert len(named) == len(expected)
    for line, pattern in zip(named, expected, strict=True):
        assert re.fullmatch(f"  {pattern}", line), line


@pytest.mark.slow
def test_figures_of_another_matplotlib_are_said_to_be_checked_by_their_sums_alone(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 另一版画得处处不同：换一个随机盐，每张 SVG 的 id 都变了
    drawn = style._svg
    monkeypatch.setattr(style, "_svg", lambda figure: drawn(figure).replace(b"figure_1", b"figure_2"))
    assert report(results, "--study", "lrn", "--check", "--json") == 0
    (checked,) = json.loads(capsys.readouterr().out)["checked"]
    assert checked["differences"] == []
    only = "only their sums were checked"
    note = f"the SVG figures are drawn otherwise here (another matplotlib, or all were edited): {only}"
    assert checked["by_sums_alone"] == [note]
    # 正文仍是比的：只有画出来的不比
    edit_with_its_sum("report.html", "supports the", "contradicts the")(results)
    assert report(results, "--study", "lrn", "--check") == 1
    assert "report.html is not what the records say" in capsys.readouterr().out


@pytest.mark.slow
def test_a_record_that_is_gone_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = plan_on_record(results / "studies" / "lrn")[1].trials[0].key
    shutil.rmtree(trial_folder(results, key))
    assert report(results, "--paper", "--check") == 1
    output = capsys.readouterr().out
    assert f"record {key} (baseline seed 0): result.json is gone" in output
    assert f"complete seeds: 8 in the report, 0 from the records, which lack {key} (see above)" in output


def curve(reached: int) -> list[EpochReport]:
    """25 epochs whose training error, of 1,078 images, falls to the threshold in one of them."""
    return [make_report(epoch, 5 if epoch >= reached else 300) for epoch in range(1, 26)]


@pytest.mark.slow
def test_edited_epochs_of_a_time_to_a_threshold_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(load_study("activation"), 8)
    for trial in plan.trials:
        key = put(tmp_path, trial.config, 5, test_wrong=None, epochs=25)
        trial_record.rewrite_epochs(trial_folder(tmp_path, key), curve(4 + trial.seed % 2 + 4 * (trial.arm == "tanh")))
    folder = tmp_path / "studies" / "activation"
    write_plan(folder, plan, ["ablate.py"])
    join_members(tmp_path, "activation", "digits", plan.trials)
    update_tables(tmp_path)
    assert report(tmp_path, "--study", "activation") == 0
    assert report(tmp_path, "--study", "activation", "--check") == 0
    tanh = [trial for trial in plan.trials if trial.arm == "tanh"]
    for trial in tanh:
        trial_record.rewrite_epochs(trial_folder(tmp_path, trial.key), curve(1))
    capsys.readouterr()
    assert report(tmp_path, "--study", "activation", "--check") == 1
    output = capsys.readouterr().out
    assert f"record {tanh[0].key} (tanh seed 0): epochs.jsonl was changed after the report" in output
    assert "verdict on tanh: word 'supports' in the report, 'contradicts' from the records" in output
    source = json.loads((folder / "provenance.json").read_text())
    for record in source["records"]:
        del record["epochs_sha256"]
    (folder / "provenance.json").write_text(json.dumps(source))
    assert report(tmp_path, "--study", "activation", "--check") == 1
    output = capsys.readouterr().out
    assert "epochs.jsonl" not in output
    assert "verdict on tanh: word" in output


@pytest.mark.slow
def test_comparisons_chosen_afterwards_are_marked_and_leave_the_answer_alone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "studies" / "lrn"
    before = (folder / "answer.json").read_bytes(), (folder / "plan.json").read_bytes()
    assert report(results, "--study", "lrn", "--compare", "no_lrn", "as_run") == 0
    answer = json.loads((folder / "compare-no_lrn-as_run" / "answer.json").read_text())
    first, second = answer["arms"]
    assert first["is_baseline"]
    assert (first["name"], second["name"], second["word"]) == ("no_lrn", "as_run", "lower")
    assert second["difference"] == pytest.approx(-100 * (sum(WRONG["no_lrn"]) - sum(WRONG["baseline"])) / 8 / 359)
    assert second["claimed_points"] is None
    assert answer["notes"][0].startswith("Exploratory: this comparison was chosen after the data were seen")
    assert "Exploratory" in (folder / "compare-no_lrn-as_run" / "report.html").read_text()
    assert report(results, "--study", "lrn", "--baseline", "as_run") == 0
    answer = json.loads((folder / "baseline-as_run" / "answer.json").read_text())
    assert [arm["name"] for arm in answer["arms"]] == ["as_run", "baseline", "no_lrn"]
    assert ((folder / "answer.json").read_bytes(), (folder / "plan.json").read_bytes()) == before
    assert report(results, "--study", "lrn", "--check") == 0
    capsys.readouterr()
    assert report(results, "--study", "lrn", "--compare", "no_lrn", "dropout") == 2
    assert "has no arm 'dropout'; its arms: baseline, no_lrn, as_run" in capsys.readouterr().err
    assert report(results, "--study", "lrn", "--compare", "no_lrn", "no_lrn") == 2


@pytest.mark.slow
def test_all_studies_on_record_stand_on_one_page(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_on_record(results, "pooling", seeds=6)
    assert report(results, "--paper") == 0
    page = (results / "studies" / "paper" / "report.html").read_text()
    for name in ("lrn", "pooling"):
        assert all(arm.name in page for arm in load_study(name).arms if arm.name != "baseline")
    assert "colour is not asked here" in page
    assert "+1.4" in page
    text = (results / "studies" / "paper" / "report.md").read_text()
    assert "| pooling |" in text
    assert "All claims" in capsys.readouterr().out


def test_the_page_of_all_claims_has_no_noise_floor_and_outlives_a_damaged_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_record(tmp_path, seeds=6)
    noise = null_plan(make_plan(load_study("lrn"), 3))
    write_plan(tmp_path / "studies" / "lrn-null", noise, ["ablate.py", "--null"])
    damaged = tmp_path / "studies" / "pooling" / "plan.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert report(tmp_path, "--paper") == 0
    output = capsys.readouterr()
    assert output.err == f"warning: {damaged} is missing or damaged; run the study again; left out\n"
    page = (tmp_path / "studies" / "paper" / "report.md").read_text()
    assert "other\\_seeds" not in page
    assert "no\\_lrn" in page
    shutil.rmtree(tmp_path / "studies" / "lrn")
    assert report(tmp_path, "--paper") == 4
    assert "no study is on record" in capsys.readouterr().err


@pytest.mark.slow
def test_the_sweep_its_importance_front_and_confirmation_are_shown(tmp_path: Path) -> None:
    space = {"training.learning_rate": 0.01, "network.lrn*.k": 2.0}
    points = [
        SweepPoint(parameters=space, state="finished", validation_error=3.0 + n, key=f"{n:020d}", second=1e6 / (n + 1))
        for n in range(3)
    ]
    importance = ParameterImportance(parameter="network.lrn*.k", mean=0.75, sd=0.05, by_seed=(0.7, 0.8))
    facts = SweepFacts(
        sampler="nsga2",
        second_objective="multiply_adds",
        states={"finished": 3},
        epochs=33,
        importance=(importance,),
        importance_points=3,
        front=tuple(points),
    )
    point = ConfirmedPoint(
        name="point-0",
        parameters=space,
        swept_error=3.0,
        swept_lead=1.25,
        validation_error=4.1,
        lead=0.15,
        n=8,
        difference=-0.1,
        interval=(-0.4, 0.2),
        word="equivalent",
        sentence="equivalent: no effect of practical size here, on this test set",
    )
    confirmed = Confirmation(
        metric="top-1 test error", seeds=(2000, 2001), baseline_error=4.2, swept_baseline_error=4.3, points=(point,)
    )
    result = make_answer().model_copy(
        update={"sweep": tuple(points), "sweep_asked": 3, "sweep_facts": facts, "confirmation": confirmed}
    )
    write(tmp_path, result)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for fact in ("point-0", "+1.25", "+0.15"):
        assert fact in page
        assert fact in text
    for name in ("importance", "front"):
        assert f"figures/{name}.svg" in text
        assert (tmp_path / f"figures/{name}.png").is_file()
        ElementTree.fromstring((tmp_path / f"figures/{name}.svg").read_text())


def test_what_is_not_on_record_is_said(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(results, "--study", "towers") == 4
    assert "study towers on digits is not on record" in capsys.readouterr().err
    assert report(tmp_path / "nothing", "--paper") == 4
    (results / "studies" / "lrn" / "provenance.json").unlink()
    assert report(results, "--study", "lrn", "--check") == 4
    assert "has no report to check" in capsys.readouterr().err
