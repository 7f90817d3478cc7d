"""The best configuration is that of an independent calculation, and every refusal is one line with its exit code."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_core.__main__ import main as core
from alexnet_core.configuration.train_config import StepSchedule, TrainConfig
from alexnet_core.data.loading import load_dataset
from alexnet_core.trained.loaded_model import load_model
from orchestrator.best import main
from orchestrator.records import trial_record
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.ranking import best_seeds, finished_trials, median_trial, rank
from orchestrator.tables.tables import ended_trials, load_trials, update_tables
from search_spaces.edits import seeded
from search_spaces.trial import PlannedTrial, configuration_key, trial_key
from tests.made_records import make_config, put, put_trained, read_only

REPOSITORY = Path(__file__).parents[2]


def best(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["--results", str(results), *arguments])
    output, error = capsys.readouterr()
    assert "Traceback" not in output + error
    return code, output, error


def refused(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line of a refusal."""
    code, _, error = best(capsys, results, *arguments)
    lines = error.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return code, lines[0]


@pytest.mark.slow
@given(
    wrong=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 360), st.booleans()),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[:2],
    )
)
@settings(max_examples=15, deadline=None)
def test_the_ranking_is_that_of_a_plain_calculation(
    tmp_path_factory: pytest.TempPathFactory, wrong: list[tuple[int, int, int, bool]]
) -> None:
    results = tmp_path_factory.mktemp("results")
    errors: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
    for configuration, seed, count, finished in wrong:
        digest = "01"[configuration % 2] * 64
        config = make_config(seed, learning_rate=0.01 * (1 + configuration), data={"digest": digest})
        state = TrialState.FINISHED if finished else TrialState.DIVERGED
        key = put(results, config, count, state=state)
        if finished:
            errors[digest, configuration_key(config)].append((count / 360, seed, key))
    expected = sorted(
        (digest, statistics.fmean(error for error, _, _ in rows), name, len(rows))
        for (digest, name), rows in errors.items()
    )
    trials, members = load_trials(results)
    finished_rows = finished_trials(trials, members)
    ranking = rank(finished_rows, members)
    for row, (digest, mean, name, seeds) in zip(ranking.iter_rows(named=True), expected, strict=True):
        assert (row["data_digest"], row["seeds"]) == (digest, seeds)
        assert row["objective"] == pytest.approx(mean, abs=1e-12)
        of_configuration = sorted(errors[digest, row["configuration"]])
        if len(of_configuration) > 1:
            assert row["objective_sd"] == pytest.approx(statistics.stdev(e for e, _, _ in of_configuration), abs=1e-12)
        assert (
            median_trial(finished_rows, row["configuration"]) == of_configuration[(len(of_configuration) - 1) // 2][2]
        )
        assert name in errors_of(errors, digest, mean)


def errors_of(errors: dict[tuple[str, str], list[tuple[float, int, str]]], digest: str, mean: float) -> list[str]:
    """The configurations that have this mean, for ties that differ in the last bit."""
    return [
        name
        for (other, name), rows in errors.items()
        if other == digest and abs(statistics.fmean(error for error, _, _ in rows) - mean) < 1e-9
    ]


@pytest.mark.parametrize(("on_one_split", "on_their_own"), [(4, 4), (2, 5)])
def test_a_seed_counts_once_whether_it_drew_the_split_or_not(
    tmp_path: Path, on_one_split: int, on_their_own: int
) -> None:
    kinds = {("seed",): range(on_one_split), ("seed", "split"): range(on_their_own)}
    wrong = {
        kind: {put(tmp_path, seeded(make_config(), seed, kind), 10 + 9 * seed * len(kind)): seed for seed in seeds}  # type: ignore[arg-type]
        for kind, seeds in kinds.items()
    }
    counting = ("seed",) if on_one_split >= on_their_own else ("seed", "split")
    finished = finished_trials(*load_trials(tmp_path))
    assert dict(zip(finished["key"], finished["seed"], strict=True)) == wrong[counting]
    errors = [(10 + 9 * seed * len(counting)) / 360 for seed in kinds[counting]]
    (row,) = rank(finished, load_trials(tmp_path).members).iter_rows(named=True)
    assert row["seeds"] == len(errors)
    assert row["objective"] == pytest.approx(statistics.fmean(errors))
    assert row["objective_sd"] == pytest.approx(statistics.stdev(errors))
    best_keys = best_seeds(finished, row["configuration"], 3)
    assert [wrong[counting][key] for key in best_keys] == [0, 1, 2]


def test_a_tuning_seed_does_not_flatter_the_value_that_it_chose(tmp_path: Path) -> None:
    for phase, seed, wrong, rate in (
        ("tuning", 1000, 1, 0.02),
        ("retuned", 0, 10, 0.02),
        ("retuned", 1, 12, 0.02),
        ("tuning", 1001, 5, 0.03),
    ):
        config = make_config(seed, learning_rate=rate)
        put(tmp_path, config, wrong)
        trial = PlannedTrial(f"baseline-{phase}", seed, phase, config, trial_key(config))  # type: ignore[arg-type]
        trial_record.join_members(tmp_path, "s", "digits", [trial])
    trials, members = load_trials(tmp_path)
    finished = finished_trials(trials, members)
    ranking = rank(finished, members)
    # 只有调参种子的取值靠后：它的误差挑选过它自己
    assert ranking["seeds"].to_list() == [2, 1]
    assert ranking["objective"].to_list() == pytest.approx([11 / 360, 5 / 360])


def test_a_confirmed_point_is_ranked_by_its_fresh_seeds_and_before_a_lucky_unconfirmed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def join(phase: str, arm: str, seed: int, wrong: int, rate: float) -> None:
        config = make_config(seed, learning_rate=rate)
        put(tmp_path, config, wrong)
        trial_record.join_members(tmp_path, "s", "digits", [PlannedTrial(arm, seed, phase, config, trial_key(config))])  # type: ignore[arg-type]

    join("sweep", "sweep", 1000, 2, 0.03)
    join("sweep", "sweep", 1000, 4, 0.02)
    for seed, wrong in ((2000, 10), (2001, 12), (2002, 20)):
        join("confirmation", "point-1", seed, wrong, 0.02)
        join("confirmation", "baseline", seed, wrong + 3, 0.01)
    join("arm", "baseline", 0, 1, 0.01)
    code, output, _ = best(capsys, tmp_path)
    assert code == 0
    assert "Not confirmed: a point of a sweep comes last" in output
    assert "Few seeds" in output
    rows = [line for line in output.splitlines() if "s/" in line]
    assert ["point-1" in rows[0], "baseline" in rows[1], "point" in rows[2]] == [True, True, False]
    assert f"{100 * 14 / 360:.2f}" in rows[0]
    assert f"{100 * 17 / 360:.2f}" in rows[1]
    finished = finished_trials(*load_trials(tmp_path))
    assert median_trial(finished, configuration_key(make_config(0, learning_rate=0.02))) == trial_key(
        make_config(2001, learning_rate=0.02)
    )


def test_a_better_arm_is_exported_although_something_worse_was_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def join(phase: str, arm: str, seed: int, wrong: int, rate: float) -> None:
        config = make_config(seed, learning_rate=rate)
        put(tmp_path, config, wrong)
        trial_record.join_members(tmp_path, "s", "digits", [PlannedTrial(arm, seed, phase, config, trial_key(config))])  # type: ignore[arg-type]

    for seed, wrong in ((2000, 27), (2001, 28), (2002, 29)):
        join("confirmation", "point-1", seed, wrong, 0.02)
        join("confirmation", "baseline", seed, wrong + 40, 0.01)
    for seed, wrong in ((0, 5), (1, 6), (2, 4)):
        join("arm", "better", seed, wrong, 0.04)
    join("sweep", "sweep", 1000, 1, 0.05)
    ranking = rank(finished_trials(*load_trials(tmp_path)), load_trials(tmp_path).members)
    assert ranking["objective"].to_list() == pytest.approx([5 / 360, 28 / 360, 68 / 360, 1 / 360])
    assert ranking["chosen"].to_list() == [False, False, False, True]
    code, output, _ = best(capsys, tmp_path)
    assert code == 0
    rows = [line.replace("│", " ").split() for line in output.splitlines() if "s/" in line]
    assert [row[2] for row in rows] == ["s/better", "s/point-1", "s/baseline", "s/sweep"]
    assert rows[0][3:6] == ["3", "1.39", "0.28"]
    assert rows[3][3:6] == ["1", "(few)", "no"]


def test_the_test_error_plays_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, make_config(0), 20, test_wrong=300)
    put(tmp_path, make_config(0, learning_rate=0.02), 21, test_wrong=1)
    code, output, _ = best(capsys, tmp_path)
    rows = [line for line in output.splitlines() if "83.57" in line or "0.28" in line]
    assert code == 0
    assert configuration_key(make_config(0))[:8] in rows[0]
    assert len(rows) == 2


def test_a_diverged_trial_is_never_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, state in enumerate((TrialState.DIVERGED, TrialState.FAILED, TrialState.STOPPED)):
        put(tmp_path, make_config(0, learning_rate=1 + number), 0, state=state)
    assert refused(capsys, tmp_path) == (4, f"error: no finished trial in {tmp_path} yet")
    put(tmp_path, make_config(0), 350)
    code, output, _ = best(capsys, tmp_path)
    assert code == 0
    assert "97.22" in output
    assert " 0.00" not in output


def test_every_data_set_has_its_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"name": "other", "digest": "1" * 64}
    put(tmp_path, make_config(0), 20)
    put(tmp_path, make_config(0, data=other), 2)
    code, output, _ = best(capsys, tmp_path)
    assert code == 0
    assert output.index("digits (") < output.index("other (11111111)")
    code, output, _ = best(capsys, tmp_path, "--dataset", "other")
    assert "digits" not in output
    code, line = refused(capsys, tmp_path, "--export")
    assert code == 2
    assert "choose one with --dataset (digits or " in line
    assert "other or 11111111)" in line
    code, line = refused(capsys, tmp_path, "--dataset", "cifar10")
    nothing = "error: no finished trial matches; data sets with finished trials: digits, other"
    assert (code, line) == (4, nothing)
    put(tmp_path, make_config(5, data={"name": "whole", "holds_out": False}, schedule=StepSchedule()), None)
    code, line = refused(capsys, tmp_path, "--dataset", "whole")
    assert line == f"{nothing}, whole; 1 trial held no image out, and cannot be ranked by a validation error"
    assert "whole" not in best(capsys, tmp_path)[1]


@pytest.mark.parametrize("data", [{"digest": "1" * 64}, {"name": "small"}])
def test_two_data_sets_that_share_name_or_content_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: dict[str, str]
) -> None:
    put(tmp_path, make_config(0), 20)
    put(tmp_path, make_config(0, data=data), 2)
    code, line = refused(capsys, tmp_path, "--export")
    assert code == 2
    assert "different data" in line
    chosen = data.get("name") or data["digest"][:8]
    code, output, _ = best(capsys, tmp_path, "--dataset", chosen)
    assert code == 0
    assert "0.56" in output
    assert "5.56" not in output


def test_one_study_is_judged_by_its_own_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, wrong in enumerate((10, 20, 30, 40, 50)):
        config = make_config(seed)
        put(tmp_path, config, wrong)
        study = "first" if seed < 3 else "second"
        trial = PlannedTrial("baseline", seed, "arm", config, trial_key(config))
        trial_record.join_members(tmp_path, study, "digits", [trial])
    trials, members = load_trials(tmp_path)
    first = finished_trials(trials, members, study="first")
    assert rank(first, members).row(0, named=True)["seeds"] == 3
    assert median_trial(first, configuration_key(make_config(0))) == trial_key(make_config(1))
    assert median_trial(finished_trials(trials, members), configuration_key(make_config(0))) == trial_key(
        make_config(2)
    )
    _, output, _ = best(capsys, tmp_path, "--study", "second")
    assert "second/baseline" in output
    assert "12.50" in output
    assert refused(capsys, tmp_path, "--study", "third")[0] == 4


def test_top_limits_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        put(tmp_path, make_config(0, learning_rate=0.01 * (1 + number)), 18 + 18 * number)
    _, output, _ = best(capsys, tmp_path, "--top", "2")
    assert "10.00" in output
    assert "15.00" not in output


def test_nothing_there_is_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, tmp_path / "nowhere")
    assert code == 4
    assert "run an ablation first" in line
    assert refused(capsys, tmp_path)[0] == 4


@pytest.mark.slow
def test_the_seed_of_median_error_is_exported_not_the_luckiest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    keys = [put_trained(results, make_config(seed, epochs=1)) for seed in range(3)]
    ends = ended_trials(results, keys)
    middle = sorted((ends[key][1], seed, key) for seed, key in enumerate(keys))[1][2]
    # 副本若算作种子，中间的就是另一个
    best_seed = min((ends[key][1], key) for key in keys)[1]
    for name in (f"{best_seed}.bak", *(f"{number:020x}" for number in range(4))):
        shutil.copytree(results / "trials" / best_seed, results / "trials" / name)
    code, output, _ = best(capsys, results, "--export")
    assert code == 0
    folder = results / "exports" / f"digits-{configuration_key(make_config(0, epochs=1))[:8]}"
    assert f"exported {middle} (seed of median validation error) to {folder}" in output
    assert f"Trial `{middle}`" in (folder / "README.md").read_text()
    assert "median validation error among 3" in (folder / "README.md").read_text()
    code, line = refused(capsys, results, "--export")
    assert code == 2
    assert "--force" in line
    before = (folder / "model.safetensors").read_bytes()
    code, output, errors = best(capsys, results, "--export", "--force", "--json")
    assert code == 0
    assert json.loads(output)["exported"] == {"key": middle, "folder": str(folder)}
    assert f"exported {middle}" in errors
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "nothing temporary is left"

    # 集成：误差最低的种子，要么全有，要么全无
    together = tmp_path / "together"
    code, output, _ = best(capsys, results, "--export", str(together), "--ensemble", "2", "--json")
    assert code == 0
    ranked = [key for _, _, key in sorted((ends[key][1], seed, key) for seed, key in enumerate(keys))]
    places = [{"key": key, "folder": str(together / str(place))} for place, key in enumerate(ranked[:2], start=1)]
    assert json.loads(output)["ensemble"] == places
    assert json.loads(output)["exported"] is None
    code, output, _ = best(capsys, results, "--export", str(together), "--force", "--ensemble", "2")
    command = output.splitlines()[-1].removeprefix("average them: python -m alexnet_core ").split()
    assert core([*command, "--device", "cpu"]) == 0
    assert "2 networks averaged: top-1 error" in capsys.readouterr().out
    result = trial_record.read_result(results / "trials" / ranked[2])
    assert result is not None
    assert result.weights is not None
    (results / "trials" / ranked[2] / result.weights).unlink()
    code, line = refused(capsys, results, "--export", str(tmp_path / "three"), "--ensemble", "3")
    assert code == 4
    assert f"the weights of trial {ranked[2]} were not kept" in line
    assert not (tmp_path / "three").exists()


@pytest.mark.slow
def test_networks_with_splits_of_their_own_answer_together_on_test_images_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, together = tmp_path / "results", tmp_path / "together"
    small = make_config(epochs=1, data={"train_images": 200})
    configs = [config for seed in range(2) if isinstance(config := seeded(small, seed, ("seed", "split")), TrainConfig)]
    for config in configs:
        put_trained(results, config)
    code, document, output = best(capsys, results, "--export", str(together), "--ensemble", "2", "--json")
    assert code == 0
    places = {row["key"]: Path(row["folder"]) for row in json.loads(document)["ensemble"]}
    assert "drew validation images of their own" in output
    means = []
    for config in configs:
        exported = load_model(places[trial_key(config)])
        data = load_dataset(config.data)
        means.append(data.train.images.mean(axis=0, dtype=np.float64))
        # 均值图是它自己训练图的，不是第一个网络的
        np.testing.assert_allclose(exported.mean_image, means[-1], atol=1e-4)
        result = trial_record.read_result(results / "trials" / trial_key(config))
        assert data.test is not None
        assert result is not None
        assert exported.evaluate(data.test) == result.test
    assert np.abs(means[0] - means[1]).max() > 0.01
    models = ["--model", str(together / "1"), "--model", str(together / "2"), "--device", "cpu"]
    assert core(["eval", *models]) == 0
    assert "test, centre crop, 2 networks averaged: top-1 error" in capsys.readouterr().out
    assert core(["eval", *models, "--split", "validation"]) == 2
    assert "drew validation images of their own (vary: [split])" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ensemble", "2"], 2, "--ensemble goes with --export"),
        (["--ensemble", "2", "--export", "--core", "walk"], 2, "without --core"),
        (["--ensemble", "1", "--export"], 2, "two networks or more"),
        (["--ensemble", "4", "--export"], 4, "has 3 seeds; train more of its study with --seeds"),
        (["--ensemble", "2", "--prune"], 2, "--prune looks at the whole results folder"),
    ],
)
def test_an_ensemble_that_cannot_be_is_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        put(tmp_path, make_config(seed), 18)
    got, line = refused(capsys, tmp_path, *arguments)
    assert got == code
    assert message in line


def test_best_works_on_a_read_only_folder_and_exports_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    put_trained(results, make_config(0, epochs=1))
    with read_only(results):
        assert best(capsys, results)[0] == 0
        code, line = refused(capsys, results, "--rebuild")
        assert (code, "cannot be written" in line) == (3, True)
        code, line = refused(capsys, results, "--export")
        assert (code, line.endswith("; choose another folder")) == (3, True)
        assert best(capsys, results, "--export", str(tmp_path / "model"))[0] == 0
    assert (tmp_path / "model" / "SHA256SUMS").is_file()


def test_rebuild_mends_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, make_config(0), 18)
    update_tables(tmp_path)
    (tmp_path / "tables" / "trials.parquet").write_bytes(b"PAR1")
    code, output, _ = best(capsys, tmp_path, "--rebuild")
    assert code == 0
    assert "5.00" in output
    assert (tmp_path / "tables" / "trials.parquet").stat().st_size > 1000


@pytest.mark.slow
def test_the_command_loads_neither_ray_nor_torch_nor_matplotlib(tmp_path: Path) -> None:
    put(tmp_path, make_config(0))
    program = (
        "import sys; from orchestrator.best import main; code = main(sys.argv[1:])\n"
        "heavy = {'ray', 'torch', 'matplotlib', 'optuna', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--results", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"
