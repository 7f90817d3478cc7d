"""A core's sources are found without importing them, named by their content, and kept."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from orchestrator import Run
from orchestrator.cores.contract import ContractError
from orchestrator.cores.loading import CoreName, core_name, load_core
from orchestrator.cores.sources import keep_sources, kept_sources, sources_of

ACTS = "raise SystemExit('imported')\n"


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path = path.with_name(path.name + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(root: Path, module: str) -> list[str]:
    return [file.as_posix() for file in sources_of(CoreName(module, folder=root)).files]


def test_a_module_takes_along_what_it_imports_from_beside_it_and_nothing_else(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        my_core=f"{ACTS}import json, torch\nfrom layers import conv\ndef train(): import data.digits\n",
        layers="import norms\n",
        norms="import layers\n",
        data__digits="",
        data__other="",
        unrelated="",
    )
    assert names(root, "my_core") == ["data/digits.py", "data/other.py", "layers.py", "my_core.py", "norms.py"]


def test_a_package_is_taken_whole_and_an_installed_one_without_its_neighbours(tmp_path: Path) -> None:
    root = tree(tmp_path, mine__core="from mine import net\n", mine__net=ACTS, mine__deep__er="", other="")
    (root / "mine" / "__init__.py").write_text(ACTS)
    assert names(root, "mine.core") == ["mine/__init__.py", "mine/core.py", "mine/deep/er.py", "mine/net.py"]
    installed = sources_of(CoreName("optuna"))
    assert {file.parts[0] for file in installed.files} == {"optuna"}


def test_the_fingerprint_is_of_names_and_contents_wherever_they_lie(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", my_core="x = 1\n", helper="")
    two = tree(tmp_path / "two", my_core="x = 1\n")
    prints = [sources_of(CoreName("my_core", folder=root)).fingerprint for root in (one, two)]
    assert prints[0] == prints[1]
    (two / "my_core.py").write_text("x = 1 \n")
    assert sources_of(CoreName("my_core", folder=two)).fingerprint != prints[0]
    (two / "my_core.py").write_text("x = 1\nimport helper\n")
    (two / "helper.py").write_text("")
    with_helper = sources_of(CoreName("my_core", folder=two)).fingerprint
    (two / "helper.py").write_text("y = 2\n")
    assert sources_of(CoreName("my_core", folder=two)).fingerprint != with_helper


def test_a_packages_other_files_are_taken_and_data_and_leavings_are_not(tmp_path: Path) -> None:
    root = tree(tmp_path, mine__core="x = 1\n", mine__net="y = 2\n")
    # 没有别的文件的包，指纹还是从前的那个
    assert sources_of(CoreName("mine.core", folder=root)).fingerprint == "e08d2e00ff46b20249a7"
    for name, content in {
        "vocab.txt": b"a b",
        "assets/config.yaml": b"width: 3",
        "study.yaml": b"name: x\narms: []\nrecipes: {}",
        "weights.bin": bytes(5 * 10**6 + 1),
        ".hidden": b"1",
        ".cache/x": b"1",
        "__pycache__/core.pyc": b"1",
        "results/trials/a/config.json": b"1",
        "results/studies/a/plan.json": b"1",
    }.items():
        (root / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "mine" / name).write_bytes(content)
    sources = sources_of(CoreName("mine.core", folder=root))
    assert names(root, "mine.core") == ["mine/assets/config.yaml", "mine/core.py", "mine/net.py", "mine/vocab.txt"]
    assert sources.remarks == (
        "not taken along with the code, being data (over 5 MB, or of more than 200 files): mine/weights.bin; read them "
        "from an absolute path or --data-root",
    )
    kept = keep_sources(sources, tmp_path / "results")
    assert (kept / "mine" / "vocab.txt").read_bytes() == b"a b"
    assert kept_sources(kept).fingerprint == sources.fingerprint
    (root / "mine" / "vocab.txt").write_bytes(b"a c")
    assert sources_of(CoreName("mine.core", folder=root)).fingerprint != sources.fingerprint
    for number in range(200):
        (root / "mine" / "assets" / f"{number}.txt").write_bytes(b"1")
    assert names(root, "mine.core") == ["mine/core.py", "mine/net.py", "mine/vocab.txt"]
    (remark,) = sources_of(CoreName("mine.core", folder=root)).remarks
    assert "mine/assets/0.txt, mine/assets/1.txt, mine/assets/10.txt and 199 more" in remark


def test_a_single_module_that_asks_where_it_lies_is_told_that_its_neighbours_stay(tmp_path: Path) -> None:
    reads = "from pathlib import Path\nWORDS = Path(__file__).with_name('vocab.txt')\n"
    root = tree(tmp_path, plain="x = 1\n", reads=reads)
    (tmp_path / "vocab.txt").write_text("a b")
    assert sources_of(CoreName("plain", folder=root)).remarks == ()
    (remark,) = sources_of(CoreName("reads", folder=root)).remarks
    assert remark.startswith("reads.py asks for __file__: files beside a single module are not taken along with it; ")


def test_kept_sources_outlive_an_edit_and_an_edited_copy_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "mine", my_core="x = 1\n")
    sources = sources_of(CoreName("my_core", folder=root))
    kept = keep_sources(sources, tmp_path / "results")
    assert kept == tmp_path / "results" / "code" / sources.fingerprint
    assert keep_sources(sources, tmp_path / "results") == kept
    (root / "my_core.py").write_text("x = 2\n")
    assert (kept / "my_core.py").read_text() == "x = 1\n"
    (kept / "my_core.py").write_text("x = 3\n")
    (root / "my_core.py").write_text("x = 1\n")
    with pytest.raises(ContractError, match="was edited; move it away"):
        keep_sources(sources_of(CoreName("my_core", folder=root)), tmp_path / "results")
    assert not list((tmp_path / "results" / "code").glob(".*"))


def test_a_core_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="there is no module nowhere in"):
        sources_of(CoreName("nowhere", folder=tmp_path))
    with pytest.raises(ContractError, match="'my-core' is no core's name: give a module such as"):
        core_name("my-core")


IMPORTING = {
    "raises": ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero (raises.py, line 1)"),
    "needs": (
        "import no_such_package\n",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "leaves": (ACTS, "cannot be imported: SystemExit: imported (leaves.py, line 1)"),
    "broken": ("def train(:\n", "cannot be imported: SyntaxError: invalid syntax (broken.py, line 1)"),
    "empty": ("", "the module has no `core = Core(...)`, and is none itself, since it lacks name, version, config, "),
    "halves": (
        "name = 'x'\nversion = 1\n",
        "the module has no `core = Core(...)`, and is none itself, since it lacks ",
    ),
}


@pytest.mark.parametrize("name", IMPORTING)
def test_what_goes_wrong_with_importing_is_one_line_with_its_place(tmp_path: Path, name: str) -> None:
    text, line = IMPORTING[name]
    (tmp_path / f"{name}_{tmp_path.name}.py").write_text(text)
    module = f"{name}_{tmp_path.name}"
    with pytest.raises(ContractError) as caught:
        load_core(CoreName(module, folder=tmp_path))
    assert line.replace(f"{name}.py", f"{module}.py") in str(caught.value)
    assert str(caught.value).startswith(f"core {module}")


def test_a_file_of_a_package_that_is_named_alone_is_told_its_name(tmp_path: Path) -> None:
    package = tmp_path / "outer" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "relative_core.py").write_text("from .inner import nothing\n")
    line = (
        "attempted relative import with no known parent package (relative_core.py, line 1); it is part of a package: "
    )
    with pytest.raises(ContractError) as caught:
        load_core(core_name(str(package / "relative_core.py")))
    line = f"(relative_core.py, line 1); it is part of a package: name it outer.inner.relative_core, from {tmp_path}"
    assert str(caught.value).endswith(line)


def test_a_module_with_the_fields_at_its_top_is_a_core_and_one_may_hold_several(tmp_path: Path) -> None:
    # 不是我们导入的，也许别人正在用
    importlib.import_module("colorsys")
    (tmp_path / "flat_core.py").write_text(
        "from pydantic import BaseModel, ConfigDict\nfrom orchestrator import Core, Metric\n"
        "class config(BaseModel):\n    model_config = ConfigDict(frozen=True, extra='forbid')\n"
        "def train(config, run):\n    yield {'loss': 1.0}\n"
        "name, version, metrics, chosen_by, judged_by = 'flat', 2, {'loss': Metric()}, 'loss', 'loss'\n"
        "small = Core(name='small', version=1, config=config, train=train, metrics=metrics, chosen_by='loss',\n"
        "             judged_by='loss')\n"
    )
    flat = load_core(core_name(str(tmp_path / "flat_core.py")))
    assert (flat.name, flat.version, flat.gpus) == ("flat", 2, 1)
    assert load_core(core_name(f"{tmp_path}/flat_core.py:small")).name == "small"
    with pytest.raises(ContractError, match="flat_core has no Core called large"):
        load_core(core_name(f"{tmp_path}/flat_core.py:large"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "flat_core.py").write_text("")
    with pytest.raises(ContractError, match="core flat_core: the module has no"):
        load_core(core_name(f"{tmp_path}/other/flat_core.py"))
    (tmp_path / "other" / "colorsys.py").write_text("")
    with pytest.raises(ContractError, match=r"this process has colorsys of .* already; call yours otherwise"):
        load_core(core_name(f"{tmp_path}/other/colorsys.py"))


def test_two_folders_may_call_their_files_alike(tmp_path: Path) -> None:
    """In a notebook two versions of a project lie side by side, each with its train.py and what that imports."""
    for folder in ("one", "two", "lazy"):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "parts" / "__init__.py").write_text("")
        (tmp_path / folder / "parts" / "names.py").write_text(f"NAME = '{folder}'\n")
        (tmp_path / folder / "train_it.py").write_text(
            "from pydantic import BaseModel\nfrom orchestrator import Core, Metric\nfrom parts import names\n"
            "class Config(BaseModel, frozen=True, extra='forbid'):\n    rate: float = 1.0\n"
            "def train(config, run):\n    yield {'loss': float(names.NAME == 'two')}\n"
            "core = Core(name=names.NAME, version=1, config=Config, train=train, metrics={'loss': Metric()},\n"
            "            chosen_by='loss', judged_by='loss')\n"
        )
    (tmp_path / "lazy" / "train_it.py").rename(tmp_path / "lazy" / "another.py")
    cores = {}
    for folder, module in (("one", "train_it"), ("two", "train_it"), ("one", "train_it"), ("lazy", "another")):
        core = load_core(CoreName(module, folder=tmp_path / folder))
        assert core.name == folder
        cores[folder] = core
    # 先前拿到的还是它自己的代码
    values = [next(iter(cores[name].train(cores[name].config(), Run())))["loss"] for name in ("one", "two")]
    assert values == [0.0, 1.0]
