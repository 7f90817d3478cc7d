"""Data: digits without scikit-learn's import, image folders by content, and every bad file named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.image_file import decode_image
from alexnet_core.data.loading import (
    decoded_set,
    load_dataset,
    load_evaluation_set,
    prepare_data,
    summarise_data,
)
from alexnet_core.data.splits import held_out
from alexnet_core.errors import CoreError
from alexnet_core.training.loader import ImageLoader

SHARED = Path(__file__).parents[4] / "shared" / "data"


def tree(root: Path, splits: tuple[str, ...], classes: tuple[str, ...] = ("cat", "dog"), count: int = 20) -> Path:
    generator = np.random.default_rng(7)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


def spec_of(root: Path, cache: Path | None, size: int = 16, **more: object) -> DataSpec:
    summary = summarise_data("imagefolder", root, cache)
    text = str(cache) if cache else None
    return DataSpec(
        name="t", source="imagefolder", image_size=size, digest=summary.digest, root=str(root), cache=text, **more
    )


def digits(**more: object) -> DataSpec:
    return DataSpec(
        name="digits",
        source="digits",
        image_size=16,
        digest=summarise_data("digits").digest,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_digits_are_scikit_learns_digits_enlarged() -> None:
    program = (
        "import numpy as np; from sklearn.datasets import load_digits; d = load_digits();"
        "print(len(d.target), int(d.images.sum()), *np.bincount(d.target))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, total, *classes = (int(float(word)) for word in done.stdout.split())
    data = load_dataset(digits())
    splits = [data.train, data.validation, data.test]
    assert all(split is not None for split in splits)
    images = np.concatenate([split.images for split in splits if split])
    labels = np.concatenate([split.labels for split in splits if split])
    assert len(images) == count == 1797
    assert np.bincount(labels).tolist() == classes
    back = np.round(images[:, ::2, ::2, 0].astype(float) * 16 / 255)
    assert int(back.sum()) == total
    assert (images[:, 0::2] == images[:, 1::2]).all()
    assert (images[..., 0] == images[..., 2]).all()


def test_the_split_of_the_digits_is_stratified_and_fixed() -> None:
    first, again = load_dataset(digits()), load_dataset(digits())
    other = load_dataset(digits(split_seed=1))
    assert (first.train.images == again.train.images).all()
    assert not np.array_equal(first.test.images, other.test.images)  # type: ignore[union-attr]
    for split, share in ((first.train, 0.6), (first.validation, 0.2), (first.test, 0.2)):
        counts = np.bincount(split.labels) / 1797 * 10  # type: ignore[union-attr]
        assert np.allclose(counts, share, atol=0.03)


@pytest.mark.parametrize("train_images", [None, 300])
def test_drawing_training_and_validation_anew_leaves_the_test_images(train_images: int | None) -> None:
    first, other = (load_dataset(digits(resplit=drawing, train_images=train_images)) for drawing in (0, 3))
    assert first.test is not None
    assert other.test is not None
    assert (first.test.images == other.test.images).all()
    for ours, theirs in ((first.train, other.train), (first.validation, other.validation)):
        assert np.bincount(ours.labels).tolist() == np.bincount(theirs.labels).tolist()
        assert not np.array_equal(ours.images, theirs.images)
    # 没有子集时，两部分合起来还是同样的图
    if train_images is None:
        pools = [
            sorted(image.tobytes() for split in (data.train, data.validation) for image in split.images)
            for data in (first, other)
        ]
        assert pools[0] == pools[1]


def test_mean_image_is_the_mean_of_the_training_images() -> None:
    data = load_dataset(digits())
    assert np.allclose(data.mean_image, data.train.images.astype(np.float64).mean(axis=0), atol=1e-4)
    assert data.mean_image.dtype == np.float32


def test_a_subset_of_the_training_images_has_even_classes() -> None:
    data = load_dataset(digits(train_images=200))
    assert np.bincount(data.train.labels).tolist() == [20] * 10
    assert len(data.validation.labels) == len(load_dataset(digits()).validation.labels)
    with pytest.raises(CoreError, match="more than the 1078 training images"):
        load_dataset(digits(train_images=2000))


def test_same_data_elsewhere_is_the_same_and_one_pixel_is_not(tmp_path: Path) -> None:
    here = tree(tmp_path / "here", ("train", "val"))
    there = Path(shutil.copytree(here, tmp_path / "there"))
    first = summarise_data("imagefolder", here, tmp_path / "cache")
    assert summarise_data("imagefolder", there, tmp_path / "cache") == first
    path = there / "val" / "dog" / "03.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert summarise_data("imagefolder", there, tmp_path / "cache").digest != first.digest


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        (("train", "val", "test"), (40, 40, 40)),
        (("train", "val"), (40, 40, 0)),
        (("train", "test"), (36, 4, 40)),
    ],
)
def test_a_tree_has_a_validation_set_and_perhaps_a_test_set(
    tmp_path: Path, splits: tuple[str, ...], counts: tuple[int, int, int]
) -> None:
    root = tree(tmp_path / "data", splits)
    summary = summarise_data("imagefolder", root, None)
    assert (summary.train, summary.validation, summary.test) == counts
    data = load_dataset(spec_of(root, None))
    assert len(data.train.labels), len(data.validation.labels) == counts[:2]
    assert (data.test is None) == (counts[2] == 0)
    held = {image.tobytes() for chunk in data.validation.chunks() for image in chunk}
    assert not held & {image.tobytes() for chunk in data.train.chunks() for image in chunk}


def test_a_validation_set_held_out_of_the_training_images_shares_their_pages(tmp_path: Path) -> None:
    data = load_dataset(spec_of(tree(tmp_path / "data", ("train", "test")), tmp_path / "cache", train_images=20))
    assert (len(data.train), len(data.validation)) == (20, 4)
    assert isinstance(data.train.images, np.memmap)
    assert data.train.images is data.validation.images
    loader = ImageLoader(data.train, data.mean_image, "cpu")
    batch = loader.take([7, 3])
    assert np.shares_memory(batch.images.numpy(), data.train.images)
    expected = np.empty((2, 16, 16, 3), np.uint8)
    data.train.gather(np.array([7, 3]), expected)
    assert np.array_equal(batch.images[batch.rows].numpy(), expected)


def test_images_are_decoded_once_and_then_mapped(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    spec = spec_of(root, tmp_path / "cache")
    seen: list[tuple[int, int]] = []
    prepare_data(spec, lambda done, images: seen.append((done, images)))
    assert seen[-1] == (80, 80)
    shutil.rmtree(root)
    data = load_dataset(spec)
    assert isinstance(data.train.images, np.memmap)
    prepare_data(spec, lambda done, images: seen.append((-1, -1)))
    assert seen[-1] == (80, 80)


@pytest.mark.slow
def test_two_processes_may_prepare_the_same_data_at_once(tmp_path: Path) -> None:
    spec = spec_of(tree(tmp_path / "data", ("train", "val")), tmp_path / "cache")
    workers = [get_context("spawn").Process(target=prepare_data, args=(spec,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
        worker.close()
    assert len(load_dataset(spec).train.labels) == 40
    assert not list((tmp_path / "cache").glob(".*tmp"))


def test_data_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    spec = spec_of(root, None)
    (root / "train" / "cat" / "00.png").unlink()
    with pytest.raises(CoreError, match=r"are not those of data\.digest"):
        load_dataset(spec)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(ramp.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(ramp).convert("RGB" if mode in ("RGBA", "CMYK", "P") else "L").convert(mode).save(path)
    pixels = decode_image(path, 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "P"):
        assert np.abs(pixels[..., 0].astype(int) - ramp).max() <= 12


def test_preparation_is_pillows_resize_and_centre_crop_never_squashed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "wide.png"
    image = Image.fromarray(generator.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    image.save(path)
    expected = image.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    assert (decode_image(path, 32) == np.asarray(expected)).all()


def test_bad_images_are_named_with_the_reason(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(good)
    for name, content in {"empty.png": b"", "text.png": b"not a picture", "torn.png": good.read_bytes()[:60]}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CoreError, match=re.escape(f"image {path} cannot be read")):
            decode_image(path, 16)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    def message(root: Path | None) -> str:
        with pytest.raises(CoreError) as caught:
            summarise_data("imagefolder", root, None)
        return str(caught.value)

    assert "--data-root" in message(None)
    assert "does not exist" in message(tmp_path / "none")
    alone = tree(tmp_path / "a", ("val",))
    assert message(alone).endswith(
        "has no train/; it should hold train/ and val/ or test/, or a folder of images for each class; to evaluate on "
        "val/ alone: "
        f"python -m alexnet_core eval --model MODEL --dataset {alone}"
    )
    root = tree(tmp_path / "c", ("train", "val"))
    (root / "val" / "cow").mkdir()
    assert "only in val: cow" in message(root)
    root = tree(tmp_path / "d", ("train", "val"))
    shutil.rmtree(root / "val" / "cat")
    (root / "val" / "cat").mkdir()
    assert str(root / "val" / "cat") in message(root)


@pytest.mark.slow
def test_real_caltech_images_are_prepared(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("the real images beside the repository are not here")
    subprocess.run([sys.executable, str(SHARED / "unpack.py"), "caltech24", str(tmp_path / "data")], check=True)
    with pytest.raises(CoreError, match="only in train: yin_yang"):
        summarise_data("imagefolder", tmp_path / "data", None)
    shutil.rmtree(tmp_path / "data" / "train" / "yin_yang")
    spec = spec_of(tmp_path / "data", tmp_path / "cache", size=36)
    prepare_data(spec)
    data = load_dataset(spec)
    assert len(data.class_names) == 23
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(data.train.labels) + len(data.validation.labels) == len(files)
    assert 60 < data.mean_image.mean() < 200


def test_what_is_too_large_for_memory_wants_a_cache(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    # 80 张 4096 像素的图要 4 GB
    with pytest.raises(CoreError, match=r"is 4.0 GB when decoded: prepare it once"):
        load_dataset(spec_of(root, None, size=4096))


def test_of_every_class_with_two_images_one_is_held_out() -> None:
    labels = np.array([0] * 4 + [1] * 2 + [2] + [3] * 20)
    kept, held = held_out(labels, 0)
    assert np.bincount(labels[held], minlength=4).tolist() == [1, 1, 0, 2]
    assert sorted([*kept, *held]) == list(range(len(labels)))
    with pytest.raises(CoreError, match="add val/"):
        held_out(np.arange(5), 0)


def test_where_nothing_is_held_out_all_training_images_are_trained_on(tmp_path: Path) -> None:
    usual, whole = load_dataset(digits()), load_dataset(digits(holds_out=False))
    assert len(whole.train) == len(usual.train) + len(usual.validation) == 1438
    assert len(whole.validation) == 0
    assert np.array_equal(whole.test.images, usual.test.images)  # type: ignore[union-attr]
    root = tree(tmp_path / "data", ("train", "test"))
    summary = summarise_data("imagefolder", root, holds_out=False)
    assert (summary.train, summary.validation, summary.test) == (40, 0, 40)
    assert summary.digest == summarise_data("imagefolder", root).digest
    data = load_dataset(spec_of(root, tmp_path / "cache", holds_out=False))
    assert (len(data.train), len(data.validation)) == (40, 0)
    assert np.allclose(data.mean_image, data.train.images.astype(np.float64).mean(axis=0), atol=1e-4)
    with pytest.raises(CoreError, match=r"has no validation images, only train, test/; choose with --split"):
        load_evaluation_set(spec_of(root, None, holds_out=False), "validation")
    with pytest.raises(CoreError, match="held out for validation; use --split test"):
        load_evaluation_set(digits(holds_out=False), "validation")
    for splits, reason in ((("train", "val"), "has val/, so that nothing is held out"), (("train",), "has no test/")):
        other = tree(tmp_path / splits[-1], splits)
        with pytest.raises(CoreError, match=reason):
            summarise_data("imagefolder", other, holds_out=False)
        with pytest.raises(CoreError, match=reason):
            load_dataset(spec_of(other, None, holds_out=False))


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b'{"train/cat/0.png": [1, 2]}'])
def test_a_damaged_cache_of_hashes_is_made_again(tmp_path: Path, content: bytes) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), len(name) * 20).save(folder / "0.png")
    expected = summarise_data("imagefolder", tmp_path / "data", tmp_path / "cache")
    (cached,) = (tmp_path / "cache").glob("manifest-*.json")
    cached.write_bytes(content)
    assert summarise_data("imagefolder", tmp_path / "data", tmp_path / "cache") == expected


def test_a_decoded_split_is_taken_from_where_it_lies_and_nothing_is_decoded_for_it(tmp_path: Path) -> None:
    root, cache = tree(tmp_path / "images", ("train", "test")), tmp_path / "cache"
    spec = spec_of(root, cache)
    assert decoded_set(spec, "test") is None
    assert not list(cache.glob("*-16-v*"))
    prepare_data(spec)
    for place in (spec, spec.model_copy(update={"root": str(tmp_path / "gone")})):
        found = decoded_set(place, "test")
        assert found is not None
        assert (found.files[0], found.class_names, len(found.split)) == ("test/cat/00.png", ("cat", "dog"), 40)
        assert found.split.pick(np.array([39, 0]))[1].shape == (16, 16, 3)
    held = decoded_set(spec, "validation")
    whole = load_dataset(spec).validation
    assert held is not None
    assert np.array_equal(held.split.pick(np.arange(len(whole))), np.concatenate(list(whole.chunks())))
    assert decoded_set(spec.model_copy(update={"digest": "0" * 64}), "test") is None
    assert decoded_set(spec_of(tree(tmp_path / "more", ("train",)), None), "test") is None
    assert decoded_set(digits(), "test").files[0].startswith("digit ")  # type: ignore[union-attr]
