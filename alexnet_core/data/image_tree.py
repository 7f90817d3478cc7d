"""Trees of class folders: `train/`, and `val/` or `test/` or both, each with one folder per class. Loads no torch.

`train/` alone will do, and so will a folder of classes, which is taken for it: a tenth of every class is then held out.
ImageNet as torchvision unpacks it is such a tree. Taken as one too, under the names that such a tree would have:
`valid/`, `validation/` or `dev/` for `val/`; any capitals; a flat `val/` with its list of classes beside it
(`LOC_val_solution.csv` of ILSVRC on Kaggle, `val_annotations.txt` of Tiny ImageNet); its `train/CLASS/images/`.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_core.configuration.wording import counted
from alexnet_core.data.class_names import code_points, look_of
from alexnet_core.data.image_file import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from alexnet_core.errors import CoreError
from alexnet_core.process.files import is_utf8, reason_of, shown

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
# 别的系统留下的东西，不是数据：苹果的 __MACOSX 与 ._*，群晖的 @eaDir 与 #recycle，ext4 与 Windows 的盘上自带的
LITTER_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)
LITTER_PREFIX = "._"
KAGGLE_LABELS, TINY_LABELS, DEVKIT_LABELS = (
    "LOC_val_solution.csv",
    "val_annotations.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
# train/CLASS/images/ 是最深的
SPLIT_LEVELS = 3
SHOULD_HOLD = "it should hold train/ and val/ or test/, or a folder of images for each class"
HELD_OUT = (
    "there is neither val/ nor test/: a tenth of every class, drawn by data.split_seed, is held out, and is all that "
    "there is to choose and to judge by"
)
MOST_SHOWN = 3


@dataclass
class LeftOut:
    """What lies in a tree and is not used, as relative paths.

    Attributes:
        deeper: Pictures in folders within class folders.
        endings: Files in class folders whose names do not end like those of images that are read.
        outside: Pictures in the root or in a split's folder itself.
        folders: Folders with pictures that are no split, and splits that cannot be used; with the reason.
    """

    deeper: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def join(self, other: LeftOut) -> None:
        """Adds what is left out elsewhere in the tree."""
        self.deeper += other.deeper
        self.endings += other.endings
        self.outside += other.outside
        self.folders += other.folders

    def line(self) -> str:
        """Returns all of it in one line with counts and first names; empty where there is nothing."""
        kinds = (
            (self.deeper, "in a folder within a class folder"),
            (self.endings, "with a name that does not end like an image's"),
            (self.outside, "outside the class folders"),
        )
        parts = [
            f"{counted(len(names), 'file')} {where} ({some(names, MOST_SHOWN)})" for names, where in kinds if names
        ]
        return f"left out: {'; '.join([*parts, *self.folders])}" if parts or self.folders else ""


@dataclass(frozen=True)
class Tree:
    """The images of a tree, sorted by split, class and name.

    Attributes:
        root: Where it lies.
        class_names: In the order of the labels.
        names: `split/class/file`, by split: train, val, test.
        labels: int64 (N,), by split.
        places: Path relative to the root of every image that does not lie at `split/class/file`.
        remarks: Folders of other names that are taken as a split, and what else lies there; a line each.
    """

    root: Path
    class_names: tuple[str, ...]
    names: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    places: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Returns where an image lies."""
        return self.root / self.places.get(name, name)


def read_tree(root: Path | None, *, evaluation: bool = False) -> Tree:
    """Lists the images of train/, val/ and test/.

    Args:
        root: The folder that holds them.
        evaluation: Takes a folder of val/ or test/ alone.

    Raises:
        CoreError: A folder is missing, there twice or has no images, or the classes of the splits differ.
    """
    if root is None:
        raise CoreError("this data set lies in a folder: say where with --data-root DIR (train/ and val/ or test/)")
    if not root.is_dir():
        raise CoreError(f"data folder {root} does not exist; {SHOULD_HOLD}")
    left_out = LeftOut()
    folders = _split_folders(root, left_out)
    if not folders and _holds_classes(root):
        # 没有 train/，文件夹本身就是各类
        folders, left_out.folders = {"train": "."}, []
    else:
        left_out.outside += _picture_names(root)
    if "train" not in folders and not (evaluation and folders):
        alone = " and ".join(f"{name}/" for name in folders.values())
        place = shlex.quote(str(root))
        use = f"; to evaluate on {alone} alone: python -m alexnet_core eval --model MODEL --dataset {place}"
        raise CoreError(f"data folder {root} has no train/; {SHOULD_HOLD}{use if alone else ''}")
    files: dict[str, dict[str, dict[str, str]]] = {}
    for split, folder in folders.items():
        here = LeftOut()
        by_class = _split_files(root, folder, here)
        # 没有标签的 test/ 不能评判，其余照常；整个不用的，不再数里面的图像
        if split == "test" and "val" in folders and (why := _useless(by_class, files)):
            left_out.folders.append(f"{folder}/, {why}")
            continue
        left_out.join(here)
        _check_split(root, folder, by_class)
        files[split] = by_class
    return _tree(root, folders, files, left_out)


def _tree(
    root: Path, folders: Mapping[str, str], files: dict[str, dict[str, dict[str, str]]], left_out: LeftOut
) -> Tree:
    """Puts splits with the same classes in order."""
    first = next(iter(files))
    class_names = list(files[first])
    names: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    places: dict[str, str] = {}
    for split, by_class in files.items():
        same = _spelt_as(class_names, by_class)
        _check_same_classes(root, folders[first], class_names, folders[split], list(same))
        if empty := [name for name, images in by_class.items() if not images]:
            folder = root / folders[split] / empty[0]
            raise CoreError(f"class folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        names[split] = []
        for name in class_names:
            for file, place in same[name].items():
                names[split].append(f"{split}/{name}/{file}")
                if names[split][-1] != place:
                    places[names[split][-1]] = place
        counts = [len(same[name]) for name in class_names]
        labels[split] = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    taken = [_taken(split, folders[split]) for split in files if folders[split] != split]
    alone = HELD_OUT if list(files) == ["train"] else ""
    remarks = tuple(line for line in (", ".join(taken), alone, left_out.line()) if line)
    return Tree(root, tuple(class_names), names, labels, places, remarks)


def _taken(split: str, folder: str) -> str:
    return f"every folder is taken as a class of {split}/" if folder == "." else f"{folder}/ is taken as {split}/"


def _holds_classes(root: Path) -> bool:
    """Whether at least two folders hold images themselves."""
    return sum(bool(_image_names(root / name)) for name in _folders_in(root)) > 1


def _split_folders(root: Path, left_out: LeftOut) -> dict[str, str]:
    """The folder of each split that is there, in the order of `SPLITS`."""
    entries = _folders_in(root)
    folders: dict[str, list[str]] = {
        split: [name for name in entries if name.lower() in known] for split, known in SPLITS.items()
    }
    for split, several in folders.items():
        if len(several) > 1:
            named = " and ".join(f"{name}/" for name in several)
            raise CoreError(f"data folder {root} has {named}: which is {split}? Keep one of them, move the other away")
    known = {name for names in folders.values() for name in names}
    left_out.folders += [
        f"{shown(name)}/, which is none of {', '.join(SPLITS)}"
        for name in entries
        if name not in known and _has_pictures(root / name)
    ]
    return {split: names[0] for split, names in folders.items() if names}


def _has_pictures(folder: Path, levels: int = SPLIT_LEVELS) -> bool:
    """Whether pictures lie in a folder, as deep as a split has them."""
    try:
        return bool(_picture_names(folder)) or (
            levels > 1 and any(_has_pictures(folder / name, levels - 1) for name in _folders_in(folder))
        )
    except (OSError, CoreError):
        return False


def is_image(name: str) -> bool:
    """Whether a file is taken as an image by its name."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(LITTER_PREFIX)


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name, of a kind that is read or not."""
    suffix = Path(name).suffix.lower()
    return suffix in IMAGE_SUFFIXES | OTHER_IMAGE_SUFFIXES and not name.startswith(LITTER_PREFIX)


def _image_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name))


def _picture_names(folder: Path) -> list[str]:
    return sorted(shown(entry.name) for entry in os.scandir(folder) if is_picture(entry.name) and not entry.is_dir())


def _place(folder: str, name: str) -> str:
    """Where a file lies, as it is said: without the dot that stands for the root itself."""
    return f"{folder}/{name}".removeprefix("./")


def _folders_in(folder: Path) -> list[str]:
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise CoreError(f"{folder} cannot be read: {error.strerror}") from error
    return [name for name in entries if not name.startswith(".") and name not in LITTER_FOLDERS]


def _split_files(root: Path, folder: str, left_out: LeftOut) -> dict[str, dict[str, str]]:
    """The images of a split: of every class, by file name, the path relative to the root."""
    classes = _folders_in(root / folder)
    outside = [_place(folder, name) for name in _picture_names(root / folder)]
    if classes in ([], ["images"]) and (label_file := _label_file(root, folder)) is not None:
        left_out.outside += outside if classes else []
        return _labelled_files(root, f"{folder}/images" if classes else folder, label_file, left_out)
    left_out.outside += outside
    strange = [name for name in classes if not is_utf8(name)]
    if strange:
        raise CoreError(f"class folder {root / folder / shown(strange[0])} has a name that is not UTF-8; rename it")
    return {name: _images_in(root, f"{folder}/{name}", left_out) for name in classes}


def _images_in(root: Path, folder: str, left_out: LeftOut) -> dict[str, str]:
    """The images of a class folder in order; what else is in it joins `left_out`."""
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as error:
        raise CoreError(f"{root / folder} cannot be read: {error.strerror}") from error
    images = {entry.name: f"{folder}/{entry.name}" for entry in entries if is_image(entry.name)}
    # 隐藏文件（.DS_Store 之类）不值一提
    others = [entry for entry in entries if entry.name not in images and not entry.name.startswith(".")]
    inner = [entry.name for entry in others if entry.is_dir() and entry.name not in LITTER_FOLDERS]
    left_out.endings += [shown(_place(folder, entry.name)) for entry in others if not entry.is_dir()]
    if not images and inner == ["images"]:
        return _images_in(root, f"{folder}/images", left_out)
    for name in inner:
        left_out.deeper += _deeper_pictures(root, f"{folder}/{name}")
    return images


def _deeper_pictures(root: Path, folder: str) -> list[str]:
    images = []
    for where, inner, files in os.walk(root / folder):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in LITTER_FOLDERS)
        place = Path(where).relative_to(root).as_posix()
        images += [shown(f"{place}/{name}") for name in sorted(files) if is_picture(name)]
    return images


def _label_file(root: Path, folder: str) -> Path | None:
    """The list of classes of a flat validation set, where its publisher puts it."""
    # Kaggle 的压缩包里，它在 ILSVRC/Data/CLS-LOC 上面三层
    above = root.resolve().parents[2:3]
    places = [root / folder / TINY_LABELS, root / TINY_LABELS]
    places += [where / KAGGLE_LABELS for where in (root / folder, root, *above)]
    return next((path for path in places if path.is_file()), None) if folder.lower() in SPLITS["val"] else None


def _labelled_files(root: Path, folder: str, label_file: Path, left_out: LeftOut) -> dict[str, dict[str, str]]:
    """The images of a flat folder by the classes that a file gives them; other pictures join `left_out`."""
    try:
        text = label_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CoreError(f"{label_file} cannot be read: {reason_of(error)}") from error
    if label_file.name == TINY_LABELS:
        rows = [line.split("\t") for line in text.splitlines()]
        class_of = {row[0]: row[1] for row in rows if len(row) > 1}
    else:
        pairs = [row for row in csv.reader(text.splitlines()) if len(row) > 1 and row[1].split()]
        class_of = {f"{row[0]}.JPEG": row[1].split()[0] for row in pairs[1:]}
    left_out.endings += [f"{folder}/{name}" for name in _picture_names(root / folder) if not is_image(name)]
    by_class: dict[str, dict[str, str]] = {name: {} for name in sorted(set(class_of.values()))}
    for name in _image_names(root / folder):
        if name not in class_of:
            raise CoreError(f"{label_file} gives {root / folder / shown(name)} no class")
        by_class[class_of[name]][name] = f"{folder}/{name}"
    return by_class


def _useless(by_class: Mapping[str, Mapping[str, str]], files: Mapping[str, Mapping[str, object]]) -> str:
    """Why a test set cannot be used; empty where it can, or where that is the user's mistake."""
    if not any(by_class.values()):
        return "which has no class folders with images: without labels it cannot be a test set"
    if len(by_class) == 1 and not set(map(look_of, by_class)) & set(map(look_of, files.get("train", {}))):
        return f"which has no class of train, only {next(iter(by_class))}: without labels it cannot be a test set"
    return ""


def _check_split(root: Path, folder: str, by_class: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses a split that no classification can be made of."""
    by_look: dict[str, str] = {}
    for name in by_class:
        twin = by_look.setdefault(look_of(name), name)
        if twin != name:
            raise CoreError(
                f"{root / folder} has two class folders that look the same, {name}: {code_points(twin)} and "
                f"{code_points(name)}; rename or join them"
            )
    if len(by_class) < 2:
        images = len(_image_names(root / folder))
        flat = f"; its {counted(images, 'image lies', 'images lie')} in none: {_remedy(root, folder)}" if images else ""
        raise CoreError(
            f"{root / folder} has {counted(len(by_class), 'class folder')}; a classification needs at least two{flat}"
        )


def _remedy(root: Path, folder: str) -> str:
    if (root / folder / DEVKIT_LABELS).exists() or (root / DEVKIT_LABELS).exists():
        return (
            f"{DEVKIT_LABELS} numbers classes that only the kit's meta.mat names; put {KAGGLE_LABELS} beside "
            f"{folder}/, or move the images into one folder per class"
        )
    return (
        f"move them into one folder per class, or put the list of their classes beside {folder}/ "
        f"({KAGGLE_LABELS} of ILSVRC, {TINY_LABELS} of Tiny ImageNet)"
    )


def _spelt_as(class_names: Sequence[str], by_class: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Another split's classes under the names of the first: é may be one code point or two (NFC, NFD)."""
    spelt = {look_of(name): name for name in class_names}
    return {spelt.get(look_of(name), name): images for name, images in by_class.items()}


def _check_same_classes(root: Path, first: str, classes: list[str], name: str, other: list[str]) -> None:
    missing, extra = sorted(set(classes) - set(other)), sorted(set(other) - set(classes))
    if not missing and not extra:
        return
    parts = []
    if missing:
        parts.append(f"only in {first}: {some(missing, 5)}")
    if extra:
        parts.append(f"only in {name}: {some(extra, 5)}")
    raise CoreError(f"{root}: the classes of {first} and {name} differ; {'; '.join(parts)}")


def some(names: Sequence[str], most: int) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
