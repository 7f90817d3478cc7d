"""Trees as people have them: taken as what they mean, or said in one line what is left out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from alexnet_core.commands.prepare import prepare as prepare_command
from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.image_file import centre_crop
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.loading import (
    data_remarks,
    evaluation_digest,
    load_dataset,
    load_evaluation_set,
    summarise_data,
)
from alexnet_core.data.preparing.preparation import prepare, tree_source
from alexnet_core.data.splits import held_out, resplit
from alexnet_core.errors import CoreError
from tests.alexnet_core.data.pictures import picture, spec_of, tree


def message(root: Path) -> str:
    with pytest.raises(CoreError) as caught:
        summarise_data("imagefolder", root)
    return str(caught.value)


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "Val", "VALID"])
def test_validation_images_may_go_by_other_names_and_are_the_same_data(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "data", ("train", "val", "test"))
    usual = summarise_data("imagefolder", root)
    (root / "val").rename(root / name)
    remarks = (f"{name}/ is taken as val/",)
    assert summarise_data("imagefolder", root) == usual.model_copy(update={"remarks": remarks})
    (root / "train").rename(root / "Train")
    remarks = (f"Train/ is taken as train/, {name}/ is taken as val/",)
    assert summarise_data("imagefolder", root) == usual.model_copy(update={"remarks": remarks})
    assert len(load_dataset(spec_of(root)).validation) == usual.validation == 20
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    assert summarise_data("imagefolder", tmp_path / "made") == usual.model_copy(update={"remarks": remarks})
    with pytest.raises(CoreError, match=f"lies in the images themselves \\({name}/\\)"):
        prepare(tree_source(read_tree(root)), root / name / "made", 16)


def test_train_alone_and_a_plain_folder_of_classes_are_the_same_data_split_by_the_seed(tmp_path: Path) -> None:
    alone = tree(tmp_path / "alone", ("train",))
    plain = Path(shutil.copytree(alone / "train", tmp_path / "plain"))
    summary, as_plain = summarise_data("imagefolder", alone), summarise_data("imagefolder", plain)
    labels = read_tree(plain).labels["train"]
    kept, held = held_out(labels, spec_of(alone).split_seed)
    assert (summary.train, summary.validation, summary.test) == (len(kept), len(held), 0)
    assert as_plain.model_copy(update={"remarks": summary.remarks}) == summary
    assert as_plain.remarks == ("every folder is taken as a class of train/", *summary.remarks)
    assert "a tenth of every class, drawn by data.split_seed, is held out" in summary.remarks[0]
    ours, theirs = load_dataset(spec_of(alone)), load_dataset(spec_of(plain))
    assert np.array_equal(ours.train.images, theirs.train.images)
    assert np.array_equal(ours.validation.labels, labels[held])
    assert len(load_evaluation_set(spec_of(plain)).split) == len(held)
    picture(plain / "loose.jpg")
    (plain / "a" / "new.jfif").write_bytes(b"")
    prepare(tree_source(read_tree(plain)), tmp_path / "made", 16)
    made = summarise_data("imagefolder", tmp_path / "made")
    assert made.digest == summary.digest
    assert made.remarks[-1] == (
        "left out: 1 file with a name that does not end like an image's (a/new.jfif); "
        "1 file outside the class folders (loose.jpg)"
    )


def test_two_validation_sets_are_an_error(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "dev", "valid"))
    assert "has dev/ and valid/: which is val? Keep one of them" in message(root)


def test_what_is_left_out_is_one_line_with_counts_and_first_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    for number in range(5):
        picture(root / "train" / "a" / "deep" / "er" / f"{number}.jpg")
    picture(root / "train" / "b" / "photo.jpg").rename(root / "train" / "b" / "photo.jfif")
    picture(root / "train" / "loose.jpg")
    (root / "train" / "new.avif").write_bytes(b"")
    (root / "train" / "a" / "deep" / "new.heic").write_bytes(b"")
    picture(root / "of the root.jpg")
    # 与 split 一样深：more/类/images/
    for name in ("0", "1", "2"):
        (root / "more" / name).mkdir(parents=True)
    picture(root / "more" / "3" / "images" / "0.jpg")
    (root / "notes" / "a" / "b").mkdir(parents=True)
    (root / "notes" / "a" / "b" / "read me.txt").write_text("no picture")
    (root / "list.txt").write_text("no picture")
    (root / "val" / "b" / ".DS_Store").write_text("hidden")
    line = (
        "left out: 6 files in a folder within a class folder (train/a/deep/new.heic, train/a/deep/er/0.jpg, "
        "train/a/deep/er/1.jpg and 3 more); 1 file with a name that does not end like an image's "
        "(train/b/photo.jfif); 3 files outside the class folders (of the root.jpg, train/loose.jpg, train/new.avif); "
        "more/, which is none of train, val, test"
    )
    assert summarise_data("imagefolder", root).remarks == (line,)
    # 备好以后，树没了也还说得出
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    assert summarise_data("imagefolder", tmp_path / "made").remarks == (line,)
    for data in (spec_of(root), spec_of(tmp_path / "made")):
        assert load_dataset(data).remarks == load_evaluation_set(data).remarks == (line,)


def test_what_other_systems_leave_behind_is_no_data(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    plain = summarise_data("imagefolder", root)
    for folder in (root, root / "train", root / "val" / "a"):
        for litter in ("__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN"):
            picture(folder / litter / "a" / "0.jpg")
    (root / "train" / "a" / "._0.jpg").write_bytes(b"\0\5\x16\7 resource fork")
    assert summarise_data("imagefolder", root) == plain
    assert len(load_dataset(spec_of(root)).train) == 20


def test_an_image_on_both_sides_of_a_split_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train",))
    shutil.copytree(root / "train", root / "val")
    line = (
        "20 validation images are training images too (val/a/0.jpg = train/a/0.jpg, val/a/1.jpg = train/a/1.jpg, "
        "val/a/2.jpg = train/a/2.jpg and 17 more): the validation error is not that of new images"
    )
    assert summarise_data("imagefolder", root).remarks == (line,)
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    assert summarise_data("imagefolder", tmp_path / "made").remarks == (line,)


def test_an_image_in_two_classes_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    shutil.copy(root / "train" / "a" / "3.jpg", root / "train" / "b" / "x.jpg")
    # 同一类里的两份不必说
    shutil.copy(root / "train" / "a" / "4.jpg", root / "train" / "a" / "y.jpg")
    line = "1 image stands in more than one class (train/a/3.jpg = train/b/x.jpg)"
    assert summarise_data("imagefolder", root).remarks == (line,)


def test_a_copy_across_the_border_of_the_held_out_part_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "test"))
    labels = np.repeat([0, 1], 10)
    kept, held = held_out(labels, 0)
    names = read_tree(root).names["train"]
    shutil.copy(root / names[kept[0]], root / names[held[0]])
    (remark,) = summarise_data("imagefolder", root).remarks
    assert remark.startswith(f"1 validation image is a training image too ({names[held[0]]} = {names[kept[0]]})")
    # 每次划分都有自己的边界：两份在不在同一边，各次不同
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    spec = DataSpec(
        name="made",
        source="imagefolder",
        image_size=16,
        digest=summarise_data("imagefolder", tmp_path / "made").digest,
        root=str(tmp_path / "made"),
    )
    for drawing in range(8):
        _, drawn = resplit(labels, kept, held, 0, drawing)
        apart = len({kept[0], held[0]} & set(drawn.tolist())) == 1
        said = data_remarks(again := spec.model_copy(update={"resplit": drawing}), load_dataset(again))
        assert any("validation image is a training image too" in line for line in said) == apart


@pytest.mark.parametrize("kind", ["flat", "empty", "one folder"])
def test_a_test_set_without_labels_is_left_out_and_said(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    plain = summarise_data("imagefolder", root)
    (root / "test").mkdir()
    if kind != "empty":
        picture(root / "test" / ("0.jpg" if kind == "flat" else "unknown/0.jpg"))
    summary = summarise_data("imagefolder", root)
    assert summary.model_copy(update={"remarks": ()}) == plain
    (remark,) = summary.remarks
    assert "test/, which has no class" in remark
    assert "without labels it cannot be a test set" in remark
    assert "outside the class folders" not in remark
    shutil.rmtree(root / "val")
    assert "has only train/" in message(root) or "class folder" in message(root)


def test_a_flat_validation_set_of_tiny_imagenet_is_read_with_its_list(tmp_path: Path) -> None:
    usual = tree(tmp_path / "usual", ("train", "val"))
    tiny = Path(shutil.copytree(usual, tmp_path / "tiny"))
    lines = []
    for name in ("a", "b"):
        folder = tiny / "train" / name
        (folder / "images").mkdir()
        for image in folder.glob("*.jpg"):
            image.rename(folder / "images" / image.name)
        for image in sorted((tiny / "val" / name).iterdir()):
            flat = tiny / "val" / "images" / f"val_{name}{image.name}"
            flat.parent.mkdir(exist_ok=True)
            image.rename(flat)
            (usual / "val" / name / image.name).rename(usual / "val" / name / flat.name)
            lines.append(f"{flat.name}\t{name}\t0\t0\t9\t9\n")
        (tiny / "val" / name).rmdir()
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    picture(tiny / "test" / "images" / "test_0.jpg")
    picture(tiny / "val" / "beside.jpg")
    (tiny / "val" / "images" / "strange.jfif").write_bytes(b"")
    summary = summarise_data("imagefolder", tiny)
    (remark,) = summary.remarks
    assert "1 file with a name that does not end like an image's (val/images/strange.jfif)" in remark
    assert "1 file outside the class folders (val/beside.jpg)" in remark
    assert "test/, which has no class of train, only images" in remark
    assert summary.digest == summarise_data("imagefolder", usual).digest
    ours, theirs = load_dataset(spec_of(tiny)), load_dataset(spec_of(usual))
    assert np.array_equal(ours.validation.images, theirs.validation.images)
    assert np.array_equal(ours.validation.labels, theirs.validation.labels)
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines[1:]))
    assert "val_annotations.txt gives" in message(tiny)


def test_a_flat_validation_set_of_ilsvrc_is_read_with_kaggles_list_or_says_what_to_do(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    usual = summarise_data("imagefolder", root)
    lines = ["ImageId,PredictionString\n"]
    for name in ("a", "b"):
        for image in sorted((root / "val" / name).iterdir()):
            moved = root / "val" / f"{name}{image.stem}.JPEG"
            image.rename(moved)
            lines.append(f"{moved.stem},{name} 1 2 3 4 {name} 5 6 7 8\n")
        (root / "val" / name).rmdir()
    assert "has 0 class folders; a classification needs at least two" in message(root)
    assert "its 20 images lie in none: move them into one folder per class, or put the list" in message(root)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    assert "meta.mat" in message(root)
    # Kaggle 的压缩包里，它在 ILSVRC/Data/CLS-LOC 上面三层
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(root, kaggle)
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text("".join(lines))
    assert read_tree(kaggle).labels["val"].tolist() == [0] * 10 + [1] * 10
    (tmp_path / "kaggle" / "LOC_val_solution.csv").rename(root / "LOC_val_solution.csv")
    assert summarise_data("imagefolder", root).validation == usual.validation
    assert read_tree(root).names["val"][10] == "val/b/b0.JPEG"
    assert read_tree(root).labels["val"].tolist() == [0] * 10 + [1] * 10


def test_names_of_classes_are_compared_as_they_look(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    one, two = normalize("NFC", "café"), normalize("NFD", "café")
    (root / "train" / "b").rename(root / "train" / one)
    (root / "val" / "b").rename(root / "val" / two)
    summary = summarise_data("imagefolder", root)
    assert summary.class_names == ("a", one)
    assert load_dataset(spec_of(root)).validation.labels.tolist() == [0] * 10 + [1] * 10
    (root / "val" / two).rename(root / "val" / one)
    assert summarise_data("imagefolder", root) == summary
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    for split in ("train", "val"):
        (root / split / one).rename(root / split / two)
    # 名字的字节进摘要：看起来一样也不是同一份数据，要说清楚差在哪里
    with pytest.raises(CoreError, match=r"spells class caf.+ in other code points \(U\+0063 U\+0061 U\+0066 U\+00E9\)"):
        prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    for split in ("train", "val"):
        (root / split / two).rename(root / split / one)
    # 只有一类的 test/ 是用户的错，不是没有标签
    picture(root / "test" / two / "0.jpg")
    assert "test has 1 class folder; a classification needs at least two" in message(root)
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train" / one, root / "train" / two)
    assert "two class folders that look the same" in message(root)
    assert "U+0063 U+0061 U+0066 U+00E9" in message(root)
    assert "U+0065 U+0301" in message(root)


def test_a_folder_that_is_something_else_says_what(tmp_path: Path) -> None:
    from argparse import Namespace

    root = tree(tmp_path / "data", ("train", "val"))
    prepare(tree_source(read_tree(root)), tmp_path / "made", 16)
    options = Namespace(
        source=tmp_path / "made", destination=tmp_path / "again", verify=False, download=False, size=None
    )
    with pytest.raises(CoreError, match="made is prepared already: train with it"):
        prepare_command(options)
    (tmp_path / "cifar" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "cifar" / "cifar-10-batches-py" / "batches.meta").write_bytes(b"")
    assert "is CIFAR-10 as it is downloaded: python -m alexnet_core prepare" in message(tmp_path / "cifar")


def test_other_pixels_with_the_same_size_and_time_are_other_data(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "val"))
    first = summarise_data("imagefolder", root, tmp_path / "cache")
    path = root / "train" / "a" / "0.jpg"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert summarise_data("imagefolder", root, tmp_path / "cache").digest != first.digest


def test_evaluation_decodes_no_training_image_and_takes_a_test_set_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("train", "test"))
    usual = load_dataset(spec_of(root))
    assert usual.test is not None
    # 训练图像全是坏的：解码任何一张都会失败
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"torn")
    whole = load_evaluation_set(spec_of(root))
    shutil.rmtree(root / "train")
    spec = spec_of(root, digest=evaluation_digest(root, None))
    alone = load_evaluation_set(spec, "test")
    for prepared in (whole, alone):
        assert (prepared.name, prepared.class_names) == ("test", ("a", "b"))
        assert np.array_equal(prepared.split.images, usual.test.images)
        assert np.array_equal(prepared.split.labels, usual.test.labels)
        assert prepared.files[11] == "test/b/1.jpg"
    with pytest.raises(CoreError, match="has no validation images, only test/"):
        load_evaluation_set(spec, "validation")
    picture(root / "test" / "a" / "new.jpg")
    with pytest.raises(CoreError, match=r"--dataset .* evaluates other images than those of the training"):
        load_evaluation_set(spec)
    assert len(load_evaluation_set(spec, any_data=True).split) == 21
    (root / "test" / "a" / "new.jpg").write_bytes(b"torn")
    with pytest.raises(CoreError, match=r"1 image cannot be used: .*new\.jpg \(not an image\)"):
        load_evaluation_set(spec, any_data=True)


def test_the_ends_that_a_very_long_image_loses_move_its_centre_by_less_than_a_pixel() -> None:
    """333x20, whose crop was said to be that of the whole image: noise tells that it is not, a ramp by how much."""
    size, width = 32, round(333 * 32 / 20)
    noise = np.random.default_rng(0).integers(0, 256, (20, 333, 3), dtype=np.uint8)
    ramp = np.tile(np.linspace(0, 255, 333)[None, :, None], (20, 1, 3)).round().astype(np.uint8)
    apart = []
    for pixels in (noise, ramp):
        whole = np.asarray(Image.fromarray(pixels).resize((width, size), Image.Resampling.BICUBIC))
        middle = whole[:, (width - size) // 2 :][:, :size]
        apart.append(np.abs(centre_crop(Image.fromarray(pixels), size).astype(int) - middle).max())
    assert apart[0] > 0
    assert apart[1] <= 255 / width + 1
