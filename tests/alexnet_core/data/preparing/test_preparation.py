"""Preparation: the same pixels as Pillow's, exact statistics, every bad file named, nothing lost by a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_core.__main__ import main
from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data import prepared_folder
from alexnet_core.data.cifar import cifar10_source
from alexnet_core.data.image_file import DARK, TURNED, BadImage, centre_crop, decode_and_look, decode_image
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.loading import image_names, load_dataset, load_evaluation_set, summarise_data
from alexnet_core.data.prepared_folder import open_prepared, verify_prepared
from alexnet_core.data.preparing import partial_folder, preparation
from alexnet_core.data.preparing.preparation import prepare, tree_source
from alexnet_core.errors import CoreError
from tests.alexnet_core.data.pictures import spec_of
from tests.no_locks import unavailable

ROOT = Path(__file__).parents[4]


def tree(root: Path, count: int = 12, splits: tuple[str, ...] = ("train", "val")) -> Path:
    random = np.random.default_rng(3)
    for split in splits:
        for name in ("cat", "dog-a", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (int(random.integers(20, 50)), int(random.integers(20, 50)), 3)
                low = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(low).resize(shape[1::-1]).save(folder / f"{number:03d}.png")
    return root


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(source: Path, destination: Path, *more: str, size: int = 24) -> Done:
    """`python -m alexnet_core prepare` without the second that a process of its own takes to load."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            code = main(["prepare", str(source), str(destination), "--size", str(size), *more])
        except SystemExit as refused:
            code = int(refused.code or 0)
    return Done(code, output.getvalue(), errors.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_pixels_labels_and_statistics_are_those_of_pillow_and_numpy(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    data = open_prepared(tmp_path / "made")
    assert data.manifest.class_names == ("cat", "dog", "dog-a")
    expected = []
    for row, name in enumerate(data.files("train")):
        with Image.open(root / name) as opened:
            image = opened.convert("RGB")
        scale = 24 / min(image.size)
        width, height = max(24, round(image.width * scale)), max(24, round(image.height * scale))
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - 24) // 2, (height - 24) // 2
        expected.append(np.asarray(resized)[top : top + 24, left : left + 24])
        assert data.manifest.class_names[data.labels["train"][row]] == Path(name).parent.name
    stacked = np.stack(expected)
    assert np.array_equal(data.images["train"], stacked)
    np.testing.assert_array_equal(data.mean_image, stacked.astype(np.float64).mean(axis=0).astype(np.float32))
    covariance = np.cov(stacked.reshape(-1, 3).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(np.asarray(data.manifest.covariance), covariance, rtol=1e-12)
    verify_prepared(tmp_path / "made")


def test_a_prepared_folder_is_the_same_data_as_its_tree(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", splits=("train", "test"))
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    assert summarise_data("imagefolder", tmp_path / "made") == summarise_data("imagefolder", root)

    def spec(where: Path, **more: object) -> DataSpec:
        digest = summarise_data("imagefolder", root).digest
        content = {"name": "t", "source": "imagefolder", "image_size": 24, "digest": digest, "root": str(where)}
        return DataSpec.model_validate({**content, **more})

    ours, theirs = load_dataset(spec(tmp_path / "made")), load_dataset(spec(root))
    for split in ("train", "validation", "test"):
        assert np.array_equal(getattr(ours, split).images, getattr(theirs, split).images)
        assert image_names(spec(tmp_path / "made"), split) == image_names(spec(root), split)  # type: ignore[arg-type]
    assert np.array_equal(ours.mean_image, theirs.mean_image)
    with pytest.raises(CoreError, match=r"prepared at 24 pixels .* data.image_size is 32"):
        load_dataset(spec(tmp_path / "made", image_size=32))
    names = image_names(spec(root, train_images=9), "train")
    assert [name.split("/")[1] for name in names] == ["cat"] * 3 + ["dog"] * 3 + ["dog-a"] * 3


def test_what_is_prepared_is_followed_by_how_to_use_it(tmp_path: Path) -> None:
    root, made = tree(tmp_path / "data", splits=("train", "val")), tmp_path / "made"
    shutil.copy(root / "train" / "cat" / "000.png", root / "val" / "cat" / "000.png")
    lines = run(root, made).stdout.splitlines()
    assert lines[-1] == (
        f"{made}: ready; python -m orchestrator.ablate --dataset imagefolder --data-root {made}, or "
        f"python -m alexnet_core train --network NAME --dataset {made}"
    )
    assert lines[-2].startswith("note: 1 validation image is a training image too")


@pytest.mark.skipif(bool(unavailable()), reason=unavailable())
def test_a_file_system_without_locks_is_named_and_no_image_decoded(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=2)
    program = (
        "from tests.no_locks import forbid_locks; forbid_locks(); import sys; from alexnet_core.__main__ import main\n"
        f"sys.exit(main(['prepare', {str(root)!r}, {str(tmp_path / 'made')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'made'} cannot be locked: Function not implemented; prepare on")


def bad_files(root: Path) -> dict[str, str]:
    """Every kind of bad file, and a word of its reason."""
    folder = root / "train" / "cat"
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    (folder / "a_empty.jpg").write_bytes(b"")
    (folder / "b_text.jpg").write_bytes(b"not a picture at all")
    (folder / "c_torn.jpg").write_bytes(whole.getvalue()[:-1500])
    Image.fromarray(np.zeros((300, 1, 3), np.uint8)).save(folder / "d_thin.png")
    Image.new("1", (20000, 20000)).save(folder / "e_bomb.png")
    # Pillow 对它只给警告
    Image.new("1", (10000, 9000)).save(folder / "e_large.png")
    (folder / "f_folder.jpg").mkdir()
    (folder / "g_dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "h_tab\t.jpg").write_bytes(whole.getvalue())
    return {
        "a_empty": "empty",
        "b_text": "not an image",
        "c_torn": "truncated",
        "d_thin": "1x300 pixels",
        "e_bomb": "decompression bomb: 400000000 pixels, more than 89478485; make it smaller",
        "e_large": "10000x9000 pixels, more than",
        "f_folder": "directory",
        "g_dangling": "No such file",
        "h_tab": "a tab",
    }


@pytest.mark.slow
def test_every_bad_file_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    reasons = bad_files(root)
    done = run(root, tmp_path / "made")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    errors = done.stderr.splitlines()[-1]
    assert errors.startswith(f"error: {root}: {len(reasons)} images cannot be used: ")
    assert errors.endswith("or leave them out with python -m alexnet_core prepare --bad-images skip")
    for name, reason in reasons.items():
        assert name in errors
        assert reason in errors
    assert not (tmp_path / "made").exists()
    done = run(root, tmp_path / "made", "--bad-images", "skip")
    assert done.returncode == 0, done.stderr
    data = open_prepared(tmp_path / "made")
    assert data.manifest.bad_images == len(reasons)
    assert data.manifest.splits["train"].images == 36
    listed = (tmp_path / "made" / "bad_images.tsv").read_text().splitlines()
    assert len(listed) == len(reasons)
    verify_prepared(tmp_path / "made")
    for name in reasons:
        (bad,) = (root / "train" / "cat").glob(f"{name}*")
        shutil.rmtree(bad) if bad.is_dir() else bad.unlink()
    assert data.manifest.digest == summarise_data("imagefolder", root).digest


def test_a_class_without_a_usable_image_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=2)
    for path in (root / "val" / "dog").iterdir():
        path.write_bytes(b"")
    done = run(root, tmp_path / "made", "--bad-images", "skip")
    assert done.returncode == 2
    assert "val has no usable image of dog" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_preparation_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at three moments; no image that was noted is decoded again, and the folder is equal byte for byte."""
    root = tree(tmp_path / "data", count=400)
    # 部分变小，才有很多个可以被杀的时刻
    program = (
        "import sys; from pathlib import Path;"
        "from alexnet_core.data.preparing import partial_folder, preparation as p;"
        "from alexnet_core.data.image_tree import read_tree; partial_folder.PART_BYTES = 24 * 24 * 3 * 20;"
        "p.prepare(p.tree_source(read_tree(Path(sys.argv[1]))), Path(sys.argv[2]), 24,"
        " progress=lambda done, total: print(done, flush=True))"
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", program, str(root), str(undisturbed)], check=True, capture_output=True)
    noted = 0
    for target in (200, 900, 1700):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(root), str(killed)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = int(process.stdout.readline())
        # 从记下的地方继续，而不是从头
        assert noted < first <= noted + 40
        while (done := int(process.stdout.readline())) < target:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        rest = process.stdout.read().split()
        process.stdout.close()
        noted = int(rest[-1]) if rest else done
        assert not killed.exists()
    subprocess.run([sys.executable, "-c", program, str(root), str(killed)], check=True, capture_output=True)
    assert contents(killed) == contents(undisturbed)
    assert not (tmp_path / "killed.partial").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Peak memory of a process that prepares 200 and 3,000 images of 96 pixels (83 MB of pixels)."""
    program = (
        "import sys; from pathlib import Path;"
        "from alexnet_core.data.preparing import partial_folder, preparation as p;"
        "from alexnet_core.data.image_tree import read_tree; partial_folder.PART_BYTES = 2**21;"
        "p.prepare(p.tree_source(read_tree(Path(sys.argv[1]))), Path(sys.argv[2]), 96, threads=2);"
        # ru_maxrss 连着父进程的也算，那就什么也测不出
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for count in (40, 600):
        root = tree(tmp_path / f"data{count}", count=count)
        done = subprocess.run(
            [sys.executable, "-c", program, str(root), str(tmp_path / f"made{count}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 25_000, f"{peaks} kB"


def test_a_disk_that_is_too_small_is_said_before_the_start(tmp_path: Path) -> None:
    source = tree_source(read_tree(tree(tmp_path / "data", count=2)))
    # 二十万张 4096 像素的图要 10 TB
    many = replace(source, names={"train": ["train/cat/000.png"] * 200_000})
    with pytest.raises(CoreError, match=r"preparing needs 10\d\d\d\.\d\d GB at .* GB are free"):
        prepare(many, tmp_path / "made", 4096)
    assert not list(tmp_path.glob("made*"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_is_prepared_stays(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=40)

    def small_files() -> None:
        # 超过文件大小上限的写入得到 EFBIG：与写满的磁盘一样，在中途失败
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "alexnet_core", "prepare", str(root), str(tmp_path / "made"), "--size", "24"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=small_files)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert run(root, tmp_path / "made").returncode == 0
    verify_prepared(tmp_path / "made")


def test_a_changed_array_is_found(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=3)
    assert run(root, tmp_path / "made").returncode == 0
    assert run(root, tmp_path / "made").returncode == 0
    path = tmp_path / "made" / "val.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = run(root, tmp_path / "made", "--verify")
    assert done.returncode == 2
    assert "val.npy is not what was prepared" in done.stderr
    path.write_bytes(content[:-10])
    done = run(root, tmp_path / "made", "--verify")
    assert done.returncode == 2
    assert "val.npy" in done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("val-files.tsv", "000.png", "0x0.png", "files.tsv are not what was prepared"),
        ("train-files.tsv", "\t", " ", "train-files.tsv cannot be read"),
        ("manifest.json", '"covariance": [\n  [\n   ', '"covariance": [\n  [\n   1', "covariance is not that of the"),
    ],
)
def test_a_changed_list_or_covariance_is_found(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    prepare(tree_source(read_tree(tree(tmp_path / "data", count=3))), tmp_path / "made", 24)
    text = (tmp_path / "made" / file).read_text()
    assert old in text
    (tmp_path / "made" / file).write_text(text.replace(old, new, 1))
    with pytest.raises(CoreError, match=message):
        verify_prepared(tmp_path / "made")


def test_a_changed_mean_image_is_found(tmp_path: Path) -> None:
    prepare(tree_source(read_tree(tree(tmp_path / "data"))), tmp_path / "made", 24)
    verify_prepared(tmp_path / "made")
    path = tmp_path / "made" / "mean_image.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(CoreError, match=r"mean_image\.npy is not what was prepared"):
        open_prepared(tmp_path / "made")
    as_of_an_earlier_version(tmp_path / "made")
    open_prepared(tmp_path / "made")
    with pytest.raises(CoreError, match="is not the mean of the training images"):
        verify_prepared(tmp_path / "made")


def as_of_an_earlier_version(folder: Path) -> None:
    """Takes out of a manifest what earlier ones did not have."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("mean_sha256")
    manifest.pop("remarks", None)
    for split in manifest["splits"].values():
        split.pop("sample_sha256")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("file", ["train.npy", "val.npy", "train-labels.npy", "mean_image.npy"])
@pytest.mark.parametrize("damage", ["zeroed", "truncated"])
def test_damaged_arrays_are_not_trained_on(tmp_path: Path, file: str, damage: str, is_old: bool) -> None:
    """A crash leaves blocks of zeros, a copy that did not end a short file: both are found when a folder is opened."""
    root = tree(tmp_path / "data", count=3)
    digest = prepare(tree_source(read_tree(root)), tmp_path / "made", 24).digest
    if is_old:
        as_of_an_earlier_version(tmp_path / "made")
    assert summarise_data("imagefolder", tmp_path / "made").digest == digest
    path = tmp_path / "made" / file
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128) if damage == "zeroed" else content[:-100])
    with pytest.raises(CoreError, match=rf"{file} .*; remove that folder and prepare the data anew"):
        load_dataset(spec_of(tmp_path / "made", 24, digest))


@pytest.mark.parametrize("damaged", [0, 1, 500, 998, 999])
def test_a_damaged_stretch_of_a_large_array_is_found_wherever_it_lies(damaged: int) -> None:
    """Zeros over a two-hundredth of the images."""
    images = np.random.default_rng(0).integers(1, 256, (1000, 40, 40, 3), dtype=np.uint8)
    digest = prepared_folder.sample_digest(images)
    first = max(0, damaged - 5)
    images[first : first + 5] = 0
    assert prepared_folder.sample_digest(images) != digest


def test_the_middle_of_evenly_spaced_images_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_folder, "SAMPLED_IMAGES", 5)
    monkeypatch.setattr(prepared_folder, "SAMPLED_BYTES", 4)
    images = np.arange(100 * 12, dtype=np.int64).astype(np.uint8).reshape(100, 2, 2, 3)
    middle = images.reshape(100, 12)[:, 4:8]
    assert prepared_folder.sample_digest(images) == hashlib.sha256(middle[[0, 25, 50, 74, 99]].tobytes()).hexdigest()
    assert prepared_folder.sample_digest(images[:3]) == hashlib.sha256(middle[:3].tobytes()).hexdigest()
    assert prepared_folder.sample_digest(images[:1, :1, :1]) == hashlib.sha256(images[0, 0, 0].tobytes()).hexdigest()


def test_names_that_are_not_utf8_and_what_is_no_file_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    strange = os.fsdecode(os.fsencode(root / "train" / "cat") + b"/latin\xe9.png")
    shutil.copy(root / "train" / "cat" / "000.png", strange)
    os.mkfifo(root / "train" / "dog" / "pipe.png")
    done = run(root, tmp_path / "made")
    assert done.returncode == 2
    assert "2 images cannot be used" in done.stderr
    assert "latin\\udce9.png (its name is not UTF-8)" in done.stderr
    assert "pipe.png (it is no file)" in done.stderr
    assert run(root, tmp_path / "made", "--bad-images", "skip").returncode == 0
    assert run(root, tmp_path / "made", "--bad-images", "skip").returncode == 0
    (root / "train" / "dog" / "pipe.png").unlink()
    with pytest.raises(CoreError, match="has a name that is not UTF-8; rename it"):
        summarise_data("imagefolder", root)
    (root / "val" / "cat").rename(os.fsdecode(os.fsencode(root / "val") + b"/\xe9"))
    with pytest.raises(CoreError, match="has a name that is not UTF-8; rename it"):
        read_tree(root)
    done = run(root, Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_no_image_by_its_name_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / ".DS_Store").write_text("hidden")
    shutil.copytree(root / "val" / "cat", root / "val" / "dog" / "more")
    done = run(root, tmp_path / "made")
    assert done.returncode == 0, done.stderr
    deeper = "12 files in a folder within a class folder (val/dog/more/000.png, val/dog/more/001.png, "
    assert f"left out: {deeper}val/dog/more/002.png and 9 more); 1 file with a name that" in done.stdout
    assert "(train/cat/notes.txt)\n" in done.stdout


def test_a_destination_in_the_images_is_refused_and_the_current_folder_may_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "data")
    source = tree_source(read_tree(root))
    with pytest.raises(CoreError, match="lies in the images themselves"):
        prepare(source, root / "train" / "made", 24)
    assert sorted(path.name for path in (root / "train").iterdir()) == ["cat", "dog", "dog-a"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    prepare(source, Path(), 24)
    verify_prepared(tmp_path / "empty")


def test_images_of_one_name_in_cifar10_are_all_kept(tmp_path: Path) -> None:
    pixels = batches(tmp_path)
    for number in range(1, 6):
        path = tmp_path / "cifar-10-batches-py" / f"data_batch_{number}"
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({**content, b"filenames": [b"x.png"] * 10}, protocol=2))
    source = cifar10_source(tmp_path)
    read = [source.read(name, 32).pixels for name in source.names["train"]]
    assert np.array_equal(np.stack(read), pixels[:50].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def test_another_folder_is_never_overwritten(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=2)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious.txt").write_text("mine")
    done = run(root, tmp_path / "made")
    assert done.returncode == 2
    assert "was not made by the preparation" in done.stderr
    assert (tmp_path / "made" / "precious.txt").read_text() == "mine"


def batches(root: Path) -> np.ndarray:
    """CIFAR-10's files as its authors pickled them, with 10 images a batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"class{number}".encode() for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    random = np.random.default_rng(0)
    every = []
    for file in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        data = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        every.append(data)
        content = {
            b"data": data,
            b"labels": list(range(10)),
            b"filenames": [f"{file}_{row}.png".encode() for row in range(10)],
        }
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    return np.concatenate(every)


def test_cifar10_of_torchvision_becomes_a_prepared_folder(tmp_path: Path) -> None:
    pixels = batches(tmp_path / "cifar")
    done = run(tmp_path / "cifar", tmp_path / "made", size=32)
    assert done.returncode == 0, done.stderr
    data = open_prepared(tmp_path / "made")
    planes = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(data.images["train"], planes[:50])
    assert np.array_equal(data.images["test"], planes[50:])
    assert data.labels["train"].tolist() == list(range(10)) * 5
    assert data.files("test")[3] == "test/class3/test_batch_3.png"


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    batches(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(CoreError, match="is not allowed in a batch of CIFAR-10"):
        cifar10_source(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_two_processes_prepare_one_folder_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", count=60)
    command = [sys.executable, "-m", "alexnet_core", "prepare", str(root), str(tmp_path / "made"), "--size", "24"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    end = time.monotonic() + 60
    for process in both:
        output, errors = process.communicate(timeout=max(1.0, end - time.monotonic()))
        assert process.returncode == 0, output + errors
    verify_prepared(tmp_path / "made")


def same_content(first: Path, second: Path) -> bool:
    """All files but the manifest's note of where the images lie."""
    one, other = contents(first), contents(second)
    return one.keys() == other.keys() and all(one[name] == other[name] for name in one if name != "manifest.json")


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 5, 1000])
def test_a_mended_image_is_looked_at_again_and_ends_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(partial_folder, "PART_BYTES", part * 24 * 24 * 3)
    root = tree(tmp_path / "data")
    torn = [root / "train" / "cat" / "003.png", root / "train" / "dog" / "007.png", root / "val" / "cat" / "011.png"]
    whole = {path: path.read_bytes() for path in torn}
    for path in torn:
        path.write_bytes(whole[path][:50])
    for number, path in enumerate(torn):
        with pytest.raises(CoreError, match=f"{len(torn) - number} image"):
            prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
        path.write_bytes(whole[path])
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    prepare(tree_source(read_tree(root)), tmp_path / "at once", 24)
    assert same_content(tmp_path / "made", tmp_path / "at once")
    verify_prepared(tmp_path / "made")


def test_a_prepared_folder_is_not_taken_for_that_of_other_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    manifest = prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    assert prepare(tree_source(read_tree(root)), tmp_path / "made", 24) == manifest
    moved = shutil.copytree(root, tmp_path / "moved")
    assert prepare(tree_source(read_tree(moved)), tmp_path / "made", 24) == manifest
    Image.new("RGB", (30, 30)).save(moved / "val" / "dog" / "004.png")
    with pytest.raises(CoreError, match=r"made was prepared from other images .*: val/dog/004.png is not the file"):
        prepare(tree_source(read_tree(moved)), tmp_path / "made", 24)
    (root / "train" / "dog" / "004.png").unlink()
    with pytest.raises(CoreError, match=r"other images .*: train has other files now"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)


def test_a_second_run_sees_what_was_replaced_after_the_first_failed(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    torn, replaced = root / "val" / "dog" / "011.png", root / "train" / "cat" / "000.png"
    whole = torn.read_bytes()
    torn.write_bytes(b"")
    with pytest.raises(CoreError, match="1 image cannot be used"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    torn.write_bytes(whole)
    Image.new("RGB", (30, 30), "red").save(replaced)
    # 只改了时间的不必重做，却也不能当成变了
    os.utime(root / "train" / "dog" / "003.png")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    made = open_prepared(tmp_path / "made")
    assert (made.images["train"][0] == [255, 0, 0]).all()
    assert made.manifest.digest == summarise_data("imagefolder", root).digest
    prepare(tree_source(read_tree(root)), tmp_path / "at once", 24)
    assert same_content(tmp_path / "made", tmp_path / "at once")
    # 第三次什么也不做，也不拒绝
    done = run(root, tmp_path / "made")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ready; python -m" in done.stdout
    assert same_content(tmp_path / "made", tmp_path / "at once")


def test_a_finished_folder_is_compared_with_every_image_that_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "LOOKED_AT", 1)
    root = tree(tmp_path / "data")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    path = root / "train" / "dog" / "005.png"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CoreError, match=r"train/dog/005\.png is not the file that was prepared"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)


def other_pixels(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("moved", ["train/dog", "train", "."])
def test_a_folder_that_was_put_in_place_of_the_prepared_one_is_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """Files that are moved in keep their times; an older copy given as the source has older ones."""
    monkeypatch.setattr(preparation, "LOOKED_AT", 1)
    root = tree(tmp_path / "data")
    shutil.copytree(root, tmp_path / "older")
    other_pixels(tmp_path / "older" / "train" / "dog" / "005.png")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    complaint = r"train/dog/005\.png is not the file that was prepared"
    with pytest.raises(CoreError, match=complaint):
        prepare(tree_source(read_tree(tmp_path / "older")), tmp_path / "made", 24)
    (root / moved).rename(tmp_path / "away")
    (tmp_path / "older" / moved).rename(root / moved)
    with pytest.raises(CoreError, match=complaint):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)


def test_a_split_that_went_away_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    shutil.copytree(root / "val", root / "test")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    shutil.rmtree(root / "test")
    with pytest.raises(CoreError, match="test is not there any more; give a folder that is not there"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)


def test_a_folder_without_bad_images_is_not_short_once_they_are_mended(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    torn = root / "val" / "dog" / "011.png"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:40])
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24, bad_images="skip")
    assert prepare(tree_source(read_tree(root)), tmp_path / "made", 24, bad_images="skip").bad_images == 1
    (remark,) = summarise_data("imagefolder", tmp_path / "made").remarks
    assert remark.startswith("1 image was left out as unusable")
    with pytest.raises(CoreError, match=r"1 image cannot be used: val/dog/011.png"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    torn.write_bytes(whole)
    for bad_images in ("skip", "fail"):
        with pytest.raises(CoreError, match=r"prepared without val/dog/011\.png, which can be used now; move .* away"):
            prepare(tree_source(read_tree(root)), tmp_path / "made", 24, bad_images=bad_images)  # type: ignore[arg-type]
    # 不要它了：备好的正是现在这棵树
    torn.unlink()
    manifest = prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    assert manifest.digest == summarise_data("imagefolder", root).digest


def test_an_image_that_changes_while_it_is_prepared_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")

    def replace_one(done: int, total: int) -> None:
        Image.new("RGB", (30, 30)).save(root / "train" / "dog" / "004.png")

    with pytest.raises(CoreError, match=r"train/dog/004\.png changed while it was prepared; the same command again"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 24, progress=replace_one)
    manifest = prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    assert manifest.digest == summarise_data("imagefolder", root).digest


def test_images_that_look_other_than_in_a_viewer_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40), "blue").save(root / "train" / "cat" / "turned.jpg", exif=exif)
    exif[0x0112] = 1
    Image.new("RGB", (30, 40), "blue").save(root / "train" / "cat" / "upright.jpg", exif=exif)
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(root / "train" / "cat" / "logo.png")
    Image.new("RGBA", (30, 30), (9, 9, 9, 255)).save(root / "train" / "cat" / "opaque.png")
    Image.fromarray(np.full((30, 30), 4095, np.uint16)).save(root / "val" / "dog" / "twelve.png")
    frames = [Image.new("L", (30, 30), level) for level in (200, 100)]
    for name in ("film.gif", "pages.tif"):
        frames[0].save(root / "val" / "dog" / name, save_all=True, append_images=frames[1:])
    frames[0].save(root / "val" / "dog" / "one.gif")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    remarks = (
        "1 image is transparent: the colours beneath show, often black (train/cat/logo.png)",
        "1 image is turned by EXIF: taken as stored (train/cat/turned.jpg)",
        "2 images are animated, or of several pages: the first is taken (val/dog/film.gif, val/dog/pages.tif)",
        "1 image is stored in more than 8 bits and nearly black: no pixel reaches an eighth of white "
        "(val/dog/twelve.png)",
    )
    summary = summarise_data("imagefolder", tmp_path / "made")
    assert summary.remarks == remarks
    # 不备好也一样说：训练与评估都解码过
    spec = spec_of(root, 24)
    assert load_dataset(spec).remarks == remarks
    assert load_evaluation_set(spec).remarks == remarks[2:]
    made = open_prepared(tmp_path / "made")
    assert made.images["val"][made.files("val").index("val/dog/twelve.png")].max() == 16
    for name in ("film.gif", "pages.tif"):
        assert made.images["val"][made.files("val").index(f"val/dog/{name}")].min() == 200
    verify_prepared(tmp_path / "made")


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per value, which Pillow does not write: uint16 (H, W, 3)."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("brightest", [4095, 8000, 8300, 65535])
@pytest.mark.parametrize("kind", ["png", "colour.png", "pgm", "colour.ppm", "int32.tif", "colour.bmp"])
def test_16_bits_are_0_to_65535_and_named_where_that_is_nearly_black(kind: str, brightest: int) -> None:
    grey = np.full((6, 6), brightest, np.uint16)
    colour = np.dstack([grey, grey // 2, grey // 2])
    file = io.BytesIO()
    if kind == "png":
        Image.fromarray(grey).save(file, "PNG")
    elif kind == "int32.tif":
        Image.fromarray(grey.astype(np.int32)).save(file, "TIFF")
    elif kind == "colour.png":
        file.write(deep_png(colour))
    elif kind == "colour.bmp":
        # 8 位的暗图就是暗图
        Image.fromarray((colour // 257).astype(np.uint8)).save(file, "BMP")
    else:
        head, pixels = (b"P5", grey) if kind == "pgm" else (b"P6", colour)
        file.write(head + b"\n6 6\n65535\n" + pixels.astype(">u2").tobytes())
    pixels, oddity = decode_and_look(Path(f"x.{kind}"), 6, file.getvalue())
    assert abs(int(pixels.max()) - brightest / 257) < 1
    assert oddity == (DARK if brightest < 65536 / 8 and kind != "colour.bmp" else "")


@pytest.mark.parametrize("most", [255, 4095])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_a_netpbm_file_says_its_own_white(kind: str, most: int) -> None:
    count = 36 if kind == "P5" else 108
    values = np.full(count, most, ">u2" if most > 255 else np.uint8)
    pixels, oddity = decode_and_look(Path("x"), 6, f"{kind}\n6 6\n{most}\n".encode() + values.tobytes())
    assert (pixels.min(), oddity) == (255, "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_turn_noted_in_exif_is_made_in_tiff_files_alone(tmp_path: Path, suffix: str) -> None:
    """What README, `decode_image` and `preprocessing.json` say."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / f"half.{suffix}", exif=exif)
    decoded, oddity = decode_and_look(tmp_path / f"half.{suffix}", 40)
    is_turned = decoded[:10].mean() < decoded[-10:].mean()
    assert is_turned == (suffix == "tif")
    assert oddity == ("" if is_turned else TURNED)


def test_what_was_finished_but_not_named_is_taken_as_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    before = contents(tmp_path / "made")
    # 最后一步改名之前被杀
    (tmp_path / "made").rename(tmp_path / "made.partial")
    (tmp_path / "made.partial" / "state.npz").write_bytes(b"left")
    prepare(tree_source(read_tree(root)), tmp_path / "made", 24)
    assert contents(tmp_path / "made") == before
    assert not (tmp_path / "made.partial").exists()


def test_a_carriage_return_in_a_name_shifts_no_other_name(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (root / "val" / "cat" / "000.png").rename(root / "val" / "cat" / "0\r0.png")
    (root / "train" / "cat" / "0\rbad.png").write_bytes(b"no picture")
    source = tree_source(read_tree(root))
    with pytest.raises(CoreError, match="1 image cannot be used"):
        prepare(source, tmp_path / "made", 24)
    prepare(source, tmp_path / "made", 24, bad_images="skip")
    assert open_prepared(tmp_path / "made").files("val") == source.names["val"]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_what_pillow_stumbles_over_is_a_bad_image_too(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", b"\x00"), (b"IDAT", zlib.compress(bytes(9 * 8))), (b"IEND", b"")]
    no_palette = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    with pytest.raises(BadImage, match="cannot be read"):
        decode_image(Path("no_palette.png"), 8, no_palette)
    levels = np.arange(64, dtype=np.float32).reshape(8, 8)
    for name, pixels, reason in (
        ("float.tif", levels / 64, "floating-point"),
        ("wide.tif", (levels * 2000).astype(np.int32), "more than 16 bits"),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(BadImage, match=reason):
            decode_image(tmp_path / name, 8)
    Image.fromarray((4 * levels).astype(np.int32)).save(tmp_path / "eight.tif")
    assert np.array_equal(decode_image(tmp_path / "eight.tif", 8)[..., 0], (4 * levels).astype(np.uint8))


@pytest.mark.parametrize("excess", [0, 1, 4, 8])
def test_the_centre_of_a_very_long_image_stays_its_centre(excess: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 160 + excess, 3), dtype=np.uint8)
    width = round((160 + excess) * 10 / 20)
    resized = np.asarray(Image.fromarray(image).resize((width, 10), Image.Resampling.BICUBIC))
    left = (width - 10) // 2
    ours = centre_crop(Image.fromarray(image), 10)
    assert np.array_equal(ours, resized[:, left : left + 10])


def test_a_damaged_cifar_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({b"names": []}))
    with pytest.raises(CoreError, match=r"batches.meta does not name the classes"):
        cifar10_source(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}))
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 5], b"filenames": [b"a.png", b"b.png"]}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch))
    with pytest.raises(CoreError, match=r"data_batch_1 is no batch of CIFAR-10: its labels reach from 0 to 5"):
        cifar10_source(tmp_path)
