"""Data sets as uint8 arrays: the digits inside scikit-learn, any tree of class folders, and prepared folders.

Counting and hashing come first (`summarise_data`), decoding happens once (`prepare_data`), and training maps
the decoded arrays (`load_dataset`). Nothing here loads torch or scikit-learn.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet_core.configuration.train_config import DIGITS_SIZE, DataSpec
from alexnet_core.data.cifar import is_cifar10
from alexnet_core.data.dataset import Dataset, DataSummary, Split
from alexnet_core.data.digits import DIGITS_FRACTIONS, DIGITS_NAMES, digits_digest, read_digits
from alexnet_core.data.image_tree import HELD_OUT, Tree, read_tree
from alexnet_core.data.manifest import duplicates, manifest_digest, tree_manifest
from alexnet_core.data.prepared_folder import (
    PreparedData,
    is_prepared,
    oddity_lines,
    open_prepared,
    prepared_remarks,
    read_manifest,
)
from alexnet_core.data.preparing.preparation import decode_all, prepare, tree_source
from alexnet_core.data.splits import SplitName, counts, even_subset, held_out, resplit, stratified
from alexnet_core.errors import CoreError
from alexnet_core.process.files import scratch_folder, shown

Source = Literal["digits", "imagefolder"]
AllImages = Literal["all images"]
# 没有缓存时，解码后大于这个大小的就不放进内存
MEMORY_BYTES = 2 * 1024**3
_WHOLE: dict[SplitName, str] = {"validation": "val", "test": "test"}


def summarise_data(
    source: Source,
    root: Path | None = None,
    cache: Path | None = None,
    *,
    split_seed: int = 0,
    drawing: int = 0,
    holds_out: bool = True,
) -> DataSummary:
    """Counts and hashes the data without decoding images.

    Args:
        source: `digits` or `imagefolder`.
        root: Folder with train/ and val/ or test/, or a prepared folder (imagefolder).
        cache: Folder for the hashes of unchanged files; None hashes all of them.
        split_seed: Seed of the split.
        drawing: Which drawing of validation images the remarks are of, see `DataSpec.resplit`.
        holds_out: See `DataSpec`.

    Raises:
        CoreError: A folder is missing, a class folder is empty, the classes of the splits differ, or without a part
            held out nothing would be left to judge by.
    """
    if source == "digits":
        images, labels = read_digits()
        train, validation, test = map(len, _digits_parts(labels, split_seed, holds_out=holds_out))
        digest = digits_digest(images, labels)
        return DataSummary(
            digest=digest,
            class_names=DIGITS_NAMES,
            train=train,
            validation=validation,
            test=test,
            fixed_split=not holds_out,
        )
    if root is not None and is_prepared(root):
        data = open_prepared(root)
        lines = {split: data.file_lines(split) for split in data.labels}
        digest, class_names, labels_of = data.manifest.digest, data.manifest.class_names, data.labels
        remarks = [*data.manifest.remarks, *prepared_remarks(data)]
    else:
        tree = _tree(root)
        every = tree_manifest(tree, cache)
        rows = iter(every)
        lines = {split: list(islice(rows, len(names))) for split, names in tree.names.items()}
        # 摘要只看内容与名字，不看放在哪里
        digest, class_names, labels_of = manifest_digest(every), tree.class_names, tree.labels
        remarks = list(tree.remarks)
    present = {name: len(labels) for name, labels in labels_of.items()}
    if not holds_out:
        _check_nothing_held_out(root, present)
    return DataSummary(
        digest=digest,
        class_names=class_names,
        **counts(present, labels_of["train"], split_seed, holds_out=holds_out),
        remarks=(*remarks, *duplicates(lines, labels_of, split_seed, drawing=drawing, holds_out=holds_out)),
        fixed_split=not holds_out or "val" in present,
    )


def _check_nothing_held_out(root: Path | None, splits: Iterable[str]) -> None:
    """Refuses to hold nothing out of images that come with a validation set, or without a test set."""
    if "val" in splits:
        raise CoreError(f"{root} has val/, so that nothing is held out of its train/: leave data.holds_out out")
    if "test" not in splits:
        raise CoreError(f"{root} has no test/: with data.holds_out false no image would be left to judge by")


def _tree(root: Path | None, *, evaluation: bool = False) -> Tree:
    """The tree in a folder; CIFAR-10 as it is downloaded is none."""
    if root is not None and is_cifar10(root):
        raise CoreError(
            f"{root} is CIFAR-10 as it is downloaded: "
            f"python -m alexnet_core prepare {shlex.quote(str(root))} DEST makes the data of it"
        )
    return read_tree(root, evaluation=evaluation)


def prepare_data(spec: DataSpec, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Decodes the images of `spec` once into its cache; does nothing where that is done or there is no cache.

    Args:
        spec: The data.
        progress: Called with (images decoded, images in all).

    Returns:
        Lines about images that look other than in a viewer.

    Raises:
        CoreError: An image cannot be read (named), or the files are not those of `spec.digest`.
    """
    if spec.source == "imagefolder" and spec.cache is not None:
        folder = _prepared_folder(spec, progress)
        # 已备好的文件夹由 summarise_data 说，这里只说刚解码的
        return [] if folder == _root(spec) else prepared_remarks(open_prepared(folder))
    return []


def load_dataset(spec: DataSpec) -> Dataset:
    """Loads prepared data; with a cache the images are memory-mapped, so that trials share their pages.

    Raises:
        CoreError: The data is missing, unreadable, or not that of `spec.digest`.
    """
    if spec.source == "digits":
        return _load_digits(spec)
    if spec.cache is not None or is_prepared(_root(spec)):
        return _dataset(spec, open_prepared(_prepared_folder(spec, None)))
    _check_fits_memory(spec)
    with scratch_folder("decoded") as folder:
        data = open_prepared(_decoded(spec, folder / "data", None))
        images = {name: array.copy() for name, array in data.images.items()}
        return _dataset(spec, replace(data, images=images))


def data_remarks(spec: DataSpec, dataset: Dataset) -> tuple[str, ...]:
    """Returns what the user should know of loaded data: lines as `DataSummary` has them.

    Images that are there twice are looked for where hashes are kept: in a prepared folder, or in the cache.
    """
    if spec.source == "imagefolder" and (spec.cache is not None or is_prepared(_root(spec))):
        folder = _prepared_folder(spec, None)
        summary = summarise_data(
            "imagefolder", folder, split_seed=spec.split_seed, drawing=spec.resplit, holds_out=spec.holds_out
        )
        return summary.remarks
    return dataset.remarks


def _check_fits_memory(spec: DataSpec) -> None:
    """Refuses to decode into memory what belongs on a disk."""
    images = sum(len(names) for names in _tree(_root(spec)).names.values())
    need = images * spec.image_size**2 * 3
    if need > MEMORY_BYTES:
        raise CoreError(
            f"{spec.root} is {need / 1e9:.1f} GB when decoded: prepare it once with python -m alexnet_core prepare "
            f"{shlex.quote(str(spec.root))} DEST --size {spec.image_size}, and give DEST in its place "
            "(train also takes --cache DIR)"
        )


def _root(spec: DataSpec) -> Path | None:
    return Path(spec.root) if spec.root is not None else None


def _prepared_folder(spec: DataSpec, progress: Callable[[int, int], None] | None) -> Path:
    root = _root(spec)
    if root is not None and is_prepared(root):
        manifest = read_manifest(root)
        if manifest.image_size != spec.image_size or manifest.preparation != spec.preparation:
            raise CoreError(
                f"{root} was prepared at {manifest.image_size} pixels (version {manifest.preparation}), "
                f"data.image_size is {spec.image_size} (version {spec.preparation}); "
                f"prepare it with --size {spec.image_size}, or set data.image_size to {manifest.image_size}"
            )
        _check_digest(root, manifest.digest, spec.digest)
        return root
    folder = Path(spec.cache or ".") / _cache_name(spec)
    return folder if is_prepared(folder) else _decoded(spec, folder, progress)


def _cache_name(spec: DataSpec) -> str:
    return f"{spec.digest[:32]}-{spec.image_size}-v{spec.preparation}"


def _decoded(spec: DataSpec, folder: Path, progress: Callable[[int, int], None] | None) -> Path:
    tree = _tree(_root(spec))
    # 每张图只解码一次，之后都映射
    manifest = prepare(tree_source(tree), folder, spec.image_size, preparation=spec.preparation, progress=progress)
    if manifest.digest != spec.digest:
        # 解码的是别的图像：留着就会被当成这份数据
        shutil.rmtree(folder)
    _check_digest(tree.root, manifest.digest, spec.digest)
    return folder


def _check_digest(root: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise CoreError(f"the images in {root} are not those of data.digest {expected[:12]}: they are {digest[:12]}")


@dataclass(frozen=True)
class EvaluationSet:
    """One split, ready to be evaluated.

    Attributes:
        name: Which; `all images` of other data that have no splits.
        split: Its images.
        class_names: In the order of the labels.
        files: The images by name, row by row.
        remarks: What of the data is taken as something else, left out, or looks other than in a viewer: lines.
    """

    name: SplitName | AllImages
    split: Split
    class_names: tuple[str, ...]
    files: list[str]
    remarks: tuple[str, ...] = ()


def load_evaluation_set(
    spec: DataSpec,
    name: SplitName | None = None,
    *,
    any_data: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationSet:
    """Loads one split and decodes no other; of a tree that has nothing else too (`test/` alone).

    Args:
        spec: The data.
        name: Which split; None for the test images, or the validation images where there are none.
        any_data: These are not the images of the training: without val/ and test/ all of them are loaded.
        progress: Called with (images decoded, images in all).

    Raises:
        CoreError: There is no such split, or none to choose from; its images cannot be read, or are not those of
            `spec.digest`.
    """
    root = _root(spec)
    if any_data and root is not None and is_prepared(root) and list(read_manifest(root).splits) == ["train"]:
        return _all_prepared(spec, root, name)
    if spec.source == "digits" or is_prepared(root) or (spec.cache is not None and not any_data):
        data = load_dataset(spec)
        name = name or ("test" if data.test is not None else "validation")
        split = {"train": data.train, "validation": data.validation, "test": data.test}[name]
        if split is None or not len(split):
            raise CoreError(
                "the data has no test set; use --split validation"
                if split is None
                else "none of the images of this training is held out for validation; use --split test"
            )
        return EvaluationSet(name, split, data.class_names, image_names(spec, name), data.remarks)
    tree = _tree(root, evaluation=True)
    if not any_data:
        digest = manifest_digest(tree_manifest(tree, None))
        if digest != spec.digest:
            raise CoreError(
                f"the images in {root} are not those of data.digest {spec.digest[:12]}: they are {digest[:12]}; "
                f"--dataset {root} evaluates other images than those of the training"
            )
    of_split: SplitName | AllImages
    if any_data and list(tree.labels) == ["train"]:
        _check_no_split(tree.root, name)
        # 是另一份数据，又没有划分：全部都评
        of_split, folder, chosen = "all images", "train", None
    else:
        name = name or ("test" if "test" in tree.labels else "validation")
        folder, chosen = _rows_of(spec, tree, name)
        of_split = name
    rows = np.arange(len(tree.names[folder])) if chosen is None else chosen
    files = [tree.names[folder][row] for row in rows.tolist()]
    images, oddities = decode_all([tree.path(file) for file in files], spec.image_size, progress)
    odd = [(shown(file), oddity) for file, oddity in zip(files, oddities, strict=True) if oddity]
    of_tree = _of_all(tree.remarks) if of_split == "all images" else tree.remarks
    split = Split(images, tree.labels[folder][rows])
    return EvaluationSet(of_split, split, tree.class_names, files, (*of_tree, *oddity_lines(odd)))


def decoded_set(spec: DataSpec, name: SplitName) -> EvaluationSet | None:
    """Loads one split where its images lie here decoded; decodes none, and hashes none.

    Args:
        spec: The data.
        name: Which split.

    Returns:
        The split; None where neither `spec.root` nor `spec.cache` has these images decoded, or they have no such split.
    """
    if spec.source == "imagefolder":
        cached = Path(spec.cache) / _cache_name(spec) if spec.cache is not None else None
        places = [place for place in (_root(spec), cached) if place is not None and is_prepared(place)]
        folder = next((place for place in places if read_manifest(place).digest == spec.digest), None)
        if folder is None:
            return None
        spec = spec.model_copy(update={"root": str(folder), "cache": None})
    data = load_dataset(spec)
    split = {"train": data.train, "validation": data.validation, "test": data.test}[name]
    return None if split is None else EvaluationSet(name, split, data.class_names, image_names(spec, name))


def _all_prepared(spec: DataSpec, root: Path, name: SplitName | None) -> EvaluationSet:
    """All images of other data that were prepared without val/ and test/."""
    _check_no_split(root, name)
    data = open_prepared(_prepared_folder(spec, None))
    split = Split(data.images["train"], data.labels["train"])
    remarks = (*_of_all(data.manifest.remarks), *prepared_remarks(data))
    return EvaluationSet("all images", split, data.manifest.class_names, data.files("train"), remarks)


def _check_no_split(root: Path, name: SplitName | None) -> None:
    """Refuses to choose a split of other data that have none."""
    if name is not None:
        raise CoreError(
            f"{root} has neither val/ nor test/, and is other data than the training's: all its images are evaluated, "
            f"of which --split {name} would be none; leave it out"
        )


def _of_all(remarks: Iterable[str]) -> tuple[str, ...]:
    """The remarks on data of which nothing is held out."""
    return tuple(remark for remark in remarks if remark != HELD_OUT)


def evaluation_digest(root: Path, cache: Path | None) -> str:
    """Returns the digest of a folder's content, which may be `test/` alone.

    Raises:
        CoreError: It holds no images to evaluate.
    """
    if is_prepared(root):
        return read_manifest(root).digest
    return manifest_digest(tree_manifest(_tree(root, evaluation=True), cache))


def _rows_of(spec: DataSpec, tree: Tree, name: SplitName) -> tuple[str, np.ndarray | None]:
    """From which folder a split comes, and which of its rows; a tree without train/ has what its folders are."""
    if "train" in tree.labels:
        rows = _rows(spec, tree.labels)
    else:
        rows = {split: (folder, None) for split, folder in _WHOLE.items() if folder in tree.labels}
    if name not in rows:
        raise CoreError(f"{tree.root} has no {name} images, only {', '.join(tree.labels)}/; choose with --split")
    return rows[name]


def image_names(spec: DataSpec, split: SplitName) -> list[str]:
    """Returns the images of a split by name, row by row: relative paths, or the digits' numbers in their file."""
    if spec.source == "digits":
        rows = dict(zip(("train", "validation", "test"), _digits_rows(spec, read_digits()[1]), strict=True))[split]
        return [f"digit {row}" for row in rows.tolist()]
    if spec.cache is not None or is_prepared(_root(spec)):
        data = open_prepared(_prepared_folder(spec, None))
        folder, chosen = _rows(spec, data.labels)[split]
        names = data.files(folder)
    else:
        tree = _tree(_root(spec))
        folder, chosen = _rows(spec, tree.labels)[split]
        names = tree.names[folder]
    return names if chosen is None else [names[row] for row in chosen.tolist()]


def _rows(spec: DataSpec, labels: Mapping[str, np.ndarray]) -> dict[SplitName, tuple[str, np.ndarray | None]]:
    """From which folder's array each split comes, and which of its rows; None for all."""
    rows: dict[SplitName, tuple[str, np.ndarray | None]] = {}
    train: np.ndarray | None = None
    if not spec.holds_out:
        _check_nothing_held_out(_root(spec), labels)
    elif "val" in labels:
        rows["validation"] = ("val", None)
    else:
        train, held = held_out(labels["train"], spec.split_seed)
        train, held = resplit(labels["train"], train, held, spec.split_seed, spec.resplit)
        rows["validation"] = ("train", held)
    if spec.train_images is not None:
        every = np.arange(len(labels["train"]), dtype=np.int64) if train is None else train
        train = even_subset(labels["train"], every, spec.train_images, spec.split_seed, spec.resplit)
    rows["train"] = ("train", train)
    if "test" in labels:
        rows["test"] = ("test", None)
    return rows


def _dataset(spec: DataSpec, data: PreparedData) -> Dataset:
    rows = _rows(spec, data.labels)

    def split(name: SplitName) -> Split:
        folder, chosen = rows[name]
        images, labels = data.images[folder], data.labels[folder]
        # 选出的行不复制：各 trial 仍共享同一个映射的页
        return Split(images, labels) if chosen is None else Split(images, labels[chosen], chosen)

    train = split("train")
    whole = rows["train"][1] is None
    return Dataset(
        train=train,
        validation=split("validation") if "validation" in rows else Split(train.images[:0], train.labels[:0]),
        test=split("test") if "test" in rows else None,
        class_names=data.manifest.class_names,
        known_mean=data.mean_image if whole else None,
        known_covariance=np.asarray(data.manifest.covariance) if whole else None,
        remarks=(*data.manifest.remarks, *prepared_remarks(data)),
    )


def _load_digits(spec: DataSpec) -> Dataset:
    if spec.image_size != DIGITS_SIZE:
        raise CoreError(f"digits are {DIGITS_SIZE} pixels wide: data.image_size must be {DIGITS_SIZE}")
    images, labels = read_digits()
    if digits_digest(images, labels) != spec.digest:
        raise CoreError("the digits of the installed scikit-learn are not those of data.digest")
    train, validation, test = _digits_rows(spec, labels)

    def split(rows: np.ndarray) -> Split:
        return Split(images[rows], labels[rows])

    return Dataset(split(train), split(validation), split(test), DIGITS_NAMES)


def _digits_rows(spec: DataSpec, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of train, validation and test."""
    train, validation, test = _digits_parts(labels, spec.split_seed, holds_out=spec.holds_out)
    train, validation = resplit(labels, train, validation, spec.split_seed, spec.resplit)
    if spec.train_images is not None:
        train = even_subset(labels, train, spec.train_images, spec.split_seed, spec.resplit)
    return train, validation, test


def _digits_parts(labels: np.ndarray, seed: int, *, holds_out: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of train, validation and test, before any subset."""
    train, validation, test = stratified(labels, DIGITS_FRACTIONS, seed)
    # 测试集不动：留不留验证集，都在同样的图上判断
    return (train, validation, test) if holds_out else (np.union1d(train, validation), validation[:0], test)
