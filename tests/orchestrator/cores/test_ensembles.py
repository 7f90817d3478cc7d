"""An ensemble's error is that of the mean of its networks' softmaxes, computed from their predictions by numpy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.loading import load_dataset
from alexnet_core.trained.loaded_model import load_model
from orchestrator import Run
from orchestrator.cores.contract import ContractError
from orchestrator.cores.ensembles.configuration import EnsembleConfig
from orchestrator.cores.ensembles.core import core
from orchestrator.cores.ensembles.exports import digest_of_exports, exports
from orchestrator.cores.loading import core_name, load_core
from orchestrator.records.core_export import CodeSide
from orchestrator.records.export import export
from search_spaces.edits import seeded
from search_spaces.study import load_study
from tests.made_records import make_config, put_trained

SEEDS = (4, 0, 3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four exports of one tiny configuration, in an order that is not their seeds'."""
    results, folder = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("exports")
    for place, seed in enumerate(SEEDS, 1):
        key = put_trained(results, make_config(seed, epochs=2))
        export(results, key, folder / str(place), force=False, ranking={"seeds": 4, "objective": 0.1}, code=CodeSide())
    return folder


def test_the_errors_are_those_of_the_mean_of_the_softmaxes(folder: Path) -> None:
    assert load_core(core_name("ensemble")) is core
    assert [load_model(one).config.seed for one in exports(folder)] == [0, 1, 3, 4]
    models = {load_model(one).config.seed: load_model(one) for one in exports(folder)}
    data = load_dataset(models[0].config.data)
    assert data.test is not None
    for seed, networks, averaged in ((0, 1, (0,)), (0, 2, (0, 1)), (1, 2, (3, 4))):
        config = EnsembleConfig(networks=networks, of=2)
        (report,) = core.train(config, Run(seed, data_root=folder))
        for split, name in ((data.validation, "validation_error"), (data.test, "test_error")):
            mean = np.mean([models[one].predict(split.images) for one in averaged], axis=0)
            assert report[name] == pytest.approx(np.mean(mean.argmax(axis=1) != split.labels), abs=1e-9)
        loss = -np.log(mean[np.arange(len(data.test)), data.test.labels]).mean()
        assert report["test_loss"] == pytest.approx(loss, rel=1e-4)


def test_too_few_or_other_exports_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"seed 1 takes 3 networks of its own, 6 with the seeds before it: .* 4"):
        next(core.train(EnsembleConfig(networks=1, of=3), Run(1, data_root=folder)))
    with pytest.raises(ContractError, match=r"no exports in .*: --data-root is the folder that best --export"):
        digest_of_exports(tmp_path)
    with pytest.raises(ValueError, match="networks 8 is more than of 7"):
        EnsembleConfig(networks=8)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert digest_of_exports(copy) == digest_of_exports(folder)
    (copy / "1" / "README.md").write_text("edited")
    assert digest_of_exports(copy) == digest_of_exports(folder)
    shutil.copytree(copy / "1", copy / "5")
    with pytest.raises(ContractError, match="are both of seed 4: keep one of them"):
        exports(copy)
    shutil.rmtree(copy / "5")
    config = copy / "1" / "config.json"
    config.write_text(config.read_text().replace('"batch_size": 64', '"batch_size": 32'))
    with pytest.raises(ContractError, match="are of different configurations: keep those of one"):
        exports(copy)
    plain = TrainConfig.model_validate_json((folder / "1" / "config.json").read_bytes())
    config.write_text(seeded(plain, plain.seed, ("seed", "split")).model_dump_json())
    with pytest.raises(ContractError, match=r"drew validation images of their own \(vary: \[split\]\)"):
        exports(copy)
    config.write_text("{")
    with pytest.raises(ContractError, match=r"is no export: its config\.json cannot be read"):
        exports(copy)


def test_the_study_averages_five_and_seven_against_one() -> None:
    study = load_study("ensemble")
    asked = {arm.name: core.config(**arm.set).networks for arm in study.arms}  # type: ignore[attr-defined]
    assert asked == {"one": 1, "five": 5, "seven": 7}
    assert study.baseline == "one"
