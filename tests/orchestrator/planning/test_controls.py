"""Controls of equal size: solved for every study and data set that offers them, said in the plan, refused in a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import DataSummary
from alexnet_core.model.alexnet import AlexNet
from orchestrator.ablate import main
from orchestrator.planning.variants.controls import MATCHED, with_controls
from search_spaces.errors import StudyError
from search_spaces.study import Study, load_study
from search_spaces.trial import base_config, unfold
from search_spaces.yaml_file import parse_model, placed

SUMMARY = DataSummary(digest="0" * 64, class_names=tuple(map(str, range(1000))), train=5000, validation=10, test=10)
OFFERING = [(name, dataset) for name in ("depth", "towers") for dataset in load_study(name).recipes]
TEXT = """name: mine
question: Was it the layer?
source: nowhere
baseline: full
arms:
  - {name: full, title: all of it}
  - {name: thin, title: a thin fc7, set: {network.fc7.units: 32}, match: parameters, by: network.fc6.units}
recipes:
  digits: {margin: 0.5, smallest_effect: 1.0}
"""


def networks(study: Study, dataset: str) -> dict[str, TrainConfig]:
    """The first trial of every arm, the controls among them."""
    base = base_config(study, dataset, summary=SUMMARY, data_root=None, cache=None)
    trials = unfold(with_controls(study.on(dataset), base), base, (0,))
    return {trial.arm: trial.config for trial in trials if isinstance(trial.config, TrainConfig)}


def parameters(config: TrainConfig) -> int:
    """As many weights and biases as torch counts."""
    with torch.device("meta"):
        network = AlexNet(config.network, ("meta", "meta"))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "dataset"), OFFERING)
def test_every_control_that_a_study_offers_has_the_baselines_size(name: str, dataset: str) -> None:
    study = load_study(name)
    configs = networks(study, dataset)
    offering = [arm for arm in study.arms if arm.match is not None]
    assert [*configs] == [*(arm.name for arm in study.arms), *(f"{arm.name}{MATCHED}" for arm in offering)]
    target = parameters(configs["baseline"])
    for arm in offering:
        control = configs[f"{arm.name}{MATCHED}"]
        assert parameters(control) == pytest.approx(target, rel=0.01)
        # 除了解出的那个字段，什么也没变
        assert control.training == configs[arm.name].training
        assert [one.name for one in control.network.layers] == [one.name for one in configs[arm.name].network.layers]


def test_multiply_adds_are_matched_too_and_what_has_the_size_already_gets_no_control() -> None:
    text = TEXT.replace("match: parameters, by: network.fc6.units", "match: multiply_adds, by: network.fc6.units")
    configs = networks(parse_model(text, Study, "mine.yaml"), "digits")
    full, control = (
        sum(shape.multiply_adds for shape in layer_shapes(configs[arm].network)) for arm in ("full", f"thin{MATCHED}")
    )
    assert control == pytest.approx(full, rel=0.01)
    same = TEXT.replace("set: {network.fc7.units: 32}", "set: {training.momentum: 0.5}")
    assert [*networks(parse_model(same, Study, "mine.yaml"), "digits")] == ["full", "thin"]


@pytest.mark.parametrize(
    ("by", "complaint"),
    [
        ("network.fc9.units", "has no layer fc9"),
        ("network.conv1.bias", "by: network.conv1.bias is not one whole number"),
        ("training.batch_size", "by: its parameters do not depend on training.batch_size"),
        ("training.momentums", "unknown field training.momentums"),
    ],
)
def test_what_cannot_be_solved_is_said_at_its_place(by: str, complaint: str, tmp_path: Path) -> None:
    path, text = tmp_path / "mine.yaml", TEXT.replace("by: network.fc6.units", f"by: {by}")
    path.write_text(text)
    with pytest.raises(StudyError, match=re.escape(complaint)) as caught:
        networks(parse_model(text, Study, "mine.yaml"), "digits")
    assert str(placed(caught.value, path)).startswith(f"{path}:7:")


@pytest.mark.parametrize(
    ("name", "other"),
    [("thin", "thin_matched"), ("t" * 40 + "_a", "t" * 40 + "_b, match: parameters, by: network.fc6.units")],
)
def test_no_control_is_called_as_another_arm(name: str, other: str, tmp_path: Path) -> None:
    own = f"  - {{title: a thinner fc7, set: {{network.fc7.units: 16}}, name: {other}}}\n"
    path, text = (
        tmp_path / "mine.yaml",
        TEXT.replace("name: thin,", f"name: {name},").replace("recipes:", f"{own}recipes:"),
    )
    path.write_text(text)
    study = parse_model(text, Study, "mine.yaml")
    with pytest.raises(
        StudyError, match=f"arm {name}: its control of equal size is called {name[:40]}_matched, and so"
    ) as caught:
        networks(study, "digits")
    assert str(placed(caught.value, path)).startswith(f"{path}:7:")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (", by: network.fc6.units", "", "match and by go together"),
        ("match: parameters", "match: weights", "arms.1.match: must be 'parameters' or 'multiply_adds'"),
        ("by: network.fc6.units", "by: units", "arms.1.by: must be a field, such as network.lrn*.alpha"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, line: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_model(TEXT.replace(old, new), Study, "mine.yaml")
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


CORE = """
from pydantic import BaseModel, ConfigDict, Field
from orchestrator.cores.contract import Metric

class Config(BaseModel):
    model_config = ConfigDict(frozen=True)
    width: int = Field(default=64, gt=0, multiple_of=8, alias="w")
    depth: int = 4
    stride: int = Field(default=1, ge=1, le=64, alias="every")
    heads: int = 8

def train(config, run):
    yield {"loss": 0.0}

def draws(config):
    return ("order", "noise") if config.width == 512 else ("order",)

def sizes(config):
    return {"parameters": config.depth * config.width ** 2 // config.stride}

name, version, config = "stack", 1, Config
metrics, randomness = {"loss": Metric("nats")}, ("order", "noise")
"""
OF_CORE = """core: ./stack.py
name: mine
question: Was it the depth?
source: nowhere
baseline: full
arms:
  - {name: full, title: four}
  - {name: flat, title: three, set: {depth: 3}, match: parameters, by: width}
recipes:
  default: {margin: 0.5, smallest_effect: 1.0, set: {width: 512}}
"""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        # sqrt(4/3) * 512 = 591.2：最近的 8 的倍数是 592
        (("", ""), "width 592 instead of 512: 1,051,392 parameters, +0.27% of the baseline's"),
        (("depth: 3", "depth: 5"), "width 456 instead of 512: 1,039,680 parameters, -0.85% of"),
        # 规模随字段变小
        (("3}, match: parameters, by: width", "40}, match: parameters, by: stride"), "stride 10 instead of 1"),
        (("width: 512", "width: 64"), "mine.yaml:8:68: arm flat: no width gives it the baseline's 16,384 param"),
        (("by: width", "by: heads"), "by: its parameters do not depend on heads"),
        (("by: width", "by: widht"), "by: widht is not one whole number of its configuration"),
        (("match: parameters", "match: multiply_adds"), "core stack: its sizes do not say multiply_adds of this"),
    ],
)
def test_a_core_that_says_sizes_gets_its_controls_too(
    change: tuple[str, str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stack.py").write_text(CORE)
    (tmp_path / "mine.yaml").write_text(OF_CORE.replace(*change) if change[0] else OF_CORE)
    options = ["--matched", "--dry-run", "--core", "./stack.py", "--results", str(tmp_path / "r")]
    solved = "instead of" in line
    assert main(["--study", str(tmp_path / "mine.yaml"), *options]) == (0 if solved else 2)
    output = capsys.readouterr()
    assert line in " ".join((output.out if solved else output.err).split())
    if not solved:
        assert len(output.err.strip().splitlines()) == 1
    if not change[0]:
        # 别名只是模型自己的事：字段都按自己的名字给
        assert main(["--study", str(tmp_path / "mine.yaml"), "--variance", *options[1:]]) == 0
        rows = re.findall(r"^    (\w+): \d+ trials", capsys.readouterr().out, re.MULTILINE)
        assert rows == ["seed", "order", "noise"]
        (tmp_path / "stack.py").write_text(CORE.replace("def sizes(", "def size_of("))
        assert main(["--study", str(tmp_path / "mine.yaml"), *options]) == 2
        assert "core stack says no sizes: give its Core a function sizes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_of_torchvision_is_matched_by_its_own_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import models

    deep = OF_CORE.replace("./stack.py", "torchvision").replace("depth: 3", "model: resnet101")
    recipe = "model: resnet50, options: {width_per_group: 64}"
    text = deep.replace("by: width", "by: options.width_per_group").replace("width: 512", recipe)
    (tmp_path / "mine.yaml").write_text(text.replace("default", "digits"))
    options = ["--matched", "--dry-run", "--results", str(tmp_path / "r")]
    assert main(["--study", str(tmp_path / "mine.yaml"), *options]) == 0
    output = " ".join(capsys.readouterr().out.split())
    (width,) = re.findall(r"options.width_per_group (\d+) instead of 64", output)

    def weights(network: str, width: int) -> int:
        with torch.device("meta"):
            made = models.get_model(network, width_per_group=width, num_classes=10)
        return sum(parameter.numel() for parameter in made.parameters())

    assert weights("resnet101", int(width)) == pytest.approx(weights("resnet50", 64), rel=0.01)
    assert f"{weights('resnet101', int(width)):,} parameters" in output


def test_the_plan_says_what_was_solved_and_a_study_without_a_control_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--matched", "--dry-run", "--results", str(tmp_path / "r")]
    assert main(["--study", "towers", *options]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert output.startswith("24 trials wanted")
    assert "control of equal size, half_matched: one tower" in output
    assert "fc6.units 304 instead of 256" in output
    assert main(["--study", "lrn", *options]) == 2
    assert "offers no control of equal size" in capsys.readouterr().err
    # 自己的 arm 叫什么都行，只有解出来的才是对照
    (tmp_path / "mine.yaml").write_text(
        TEXT.replace("name: full", "name: full_matched").replace("baseline: full", "baseline: full_matched")
    )
    for asked, announced in ((options[1:], 0), (options, 1)):
        assert main(["--study", str(tmp_path / "mine.yaml"), *asked]) == 0
        output = capsys.readouterr().out
        assert (output.count("control of equal size, "), "size, full_matched" in output) == (announced, False)
    # 文档里的阶梯，照抄就能问
    page = (Path(__file__).parents[3] / "docs" / "designs.md").read_text()
    (ladder,) = [block.split("```")[0] for block in page.split("```yaml\n")[1:] if "design:" in block]
    (tmp_path / "parts.yaml").write_text(ladder)
    assert main(["--study", str(tmp_path / "parts.yaml"), *options]) == 2
    assert main(["--study", str(tmp_path / "parts.yaml"), *options[1:]]) == 0
    assert capsys.readouterr().out.startswith("32 trials wanted")
